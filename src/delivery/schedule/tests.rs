//! Cursors and shares of memory.

use super::*;

use crate::base::MessageId;

impl Cursor {
    pub fn not_before(&self) -> Mono {
        self.not_before
    }

    /// Whether a row will be read.
    pub fn covers(&self, row: DueKey) -> bool {
        let is_known = self.next_ms.is_some_and(|at_ms| at_ms <= row.at_ms);
        self.at <= row && (is_known || self.reading.is_some())
    }
}

impl Flows {
    pub fn cursor(&self, flow: &FlowKey, partition: PartitionId) -> Option<&Cursor> {
        let state = self.flows.get(flow)?;
        state.cursors.iter().find(|(own, _)| *own == partition).map(|(_, cursor)| cursor)
    }

    pub fn next_wake_ms(&self) -> Option<u64> {
        self.wakes.first().map(|(at_ms, _)| *at_ms)
    }
}

impl Memory {
    pub fn used(&self) -> usize {
        self.used
    }
}

fn row(at_ms: u64) -> DueKey {
    DueKey { at_ms, job: (MessageId::from_u64(at_ms), 0) }
}

fn ready(cursor: &Cursor, at_ms: u64) -> bool {
    cursor.is_ready(Wall::from_ms(at_ms), Mono::ZERO)
}

#[test]
fn a_cursor_goes_back_to_what_leaves_memory_also_during_a_read() {
    let mut cursor = Cursor::default();
    assert!(ready(&cursor, 0), "nothing is known at the start");
    assert_eq!(cursor.begin(), DueKey::FIRST);
    assert!(!ready(&cursor, 0), "one read at a time");
    cursor.end(row(50), Some(90));
    assert!(!ready(&cursor, 89) && ready(&cursor, 90));
    assert!(cursor.covers(row(90)) && !cursor.covers(row(40)));
    cursor.tell(row(40));
    assert!(ready(&cursor, 40) && cursor.covers(row(40)));
    assert_eq!(cursor.begin(), row(40));
    cursor.tell(row(45));
    cursor.tell(row(30));
    cursor.end(row(60), None);
    assert_eq!((cursor.next_ms(), cursor.begin()), (Some(30), row(30)), "told meanwhile");
    cursor.end(row(61), None);
    assert!(cursor.is_empty());
    cursor.tell(row(70));
    assert_eq!(cursor.begin(), row(61), "nothing lies between");
    cursor.fail(Mono::from_ms(5));
    assert!(!cursor.is_ready(Wall::from_ms(99), Mono::from_ms(4)));
    assert!(cursor.is_ready(Wall::from_ms(99), Mono::from_ms(5)), "the same read again");
    assert_eq!(cursor.begin(), row(61));
}

#[test]
fn many_floods_leave_memory_for_others() {
    for floods in 1..=20 {
        let mut memory = Memory::new(1 << 20);
        let mut held = vec![0; floods];
        let mut grows = true;
        while std::mem::take(&mut grows) {
            for flood in &mut held {
                memory.take(100);
                match memory.allows(*flood + 100, 0) {
                    true => (*flood, grows) = (*flood + 100, true),
                    false => memory.give_back(100),
                }
            }
        }
        let free = memory.max - memory.used();
        let expected = 2 * memory.max / (floods + 2);
        assert!(free.abs_diff(expected) <= 400 * floods, "{floods}: {free} for {expected}");
    }
    let mut memory = Memory::new(1000);
    let mut flow = 0;
    while memory.allows(0, flow + 1) {
        memory.take(1);
        flow += 1;
    }
    assert!((199..=201).contains(&flow), "a fifth for a flow: {flow}");
    assert!(memory.takes_fresh(550) && !memory.takes_fresh(551), "a quarter is for the disk");
    assert!(memory.takes_read(800) && !memory.takes_read(801));
}

fn flow(destination: u64, tenant: u64) -> FlowKey {
    FlowKey { destination, tenant, class: 1 }
}

#[test]
fn a_flow_wakes_with_its_first_row_and_is_forgotten_when_empty() {
    let mut flows = Flows::default();
    let partition = PartitionId(3);
    flows.tell(partition, flow(1, 1), row(50));
    flows.tell(partition, flow(1, 2), row(70));
    flows.tell(partition, flow(2, 1), row(60));
    assert_eq!(flows.next_wake_ms(), Some(50));
    flows.awake(Wall::from_ms(60));
    let listed: Vec<_> = std::iter::from_fn(|| flows.next_listed()).collect();
    assert_eq!(listed, [flow(1, 1), flow(2, 1)]);
    let ready = |flows: &Flows, at_ms| flows.ready(&flow(1, 1), Wall::from_ms(at_ms), Mono::ZERO);
    assert_eq!((ready(&flows, 49), ready(&flows, 50)), (None, Some(partition)));
    flows.cursor_mut(&flow(1, 1), partition).expect("known").begin();
    flows.hold(flow(1, 1));
    flows.cursor_mut(&flow(1, 1), partition).expect("known").end(row(51), None);
    flows.wake(flow(1, 1));
    assert_eq!(flows.flows.len(), 3, "its job is in memory");
    flows.release(flow(1, 1));
    assert_eq!(flows.flows.len(), 2, "nothing is left of it");
    flows.list_target(1);
    flows.list_target(1);
    let listed: Vec<_> = std::iter::from_fn(|| flows.next_listed()).collect();
    assert_eq!(listed.iter().filter(|listed| **listed == flow(1, 2)).count(), 1);
    flows.pause(flow(1, 2), Mono::from_ms(9));
    assert_eq!(flows.ready(&flow(1, 2), Wall::from_ms(99), Mono::from_ms(8)), None);
    assert!(flows.ready(&flow(1, 2), Wall::from_ms(99), Mono::from_ms(9)).is_some());
}

#[test]
fn more_flows_than_fit_are_searched_for_when_others_have_emptied() {
    let mut flows = Flows::default();
    for destination in 0..FLOWS_MAX as u64 {
        flows.tell(PartitionId(0), flow(destination, 1), row(5));
    }
    assert!(!flows.is_incomplete());
    flows.tell(PartitionId(0), flow(u64::MAX, 1), row(5));
    assert!(flows.is_incomplete() && flows.flows.len() == FLOWS_MAX && !flows.begin_search());
    for destination in 0..=(FLOWS_MAX - FLOWS_SEARCH) as u64 {
        let cursor = flows.cursor_mut(&flow(destination, 1), PartitionId(0)).expect("known");
        cursor.begin();
        cursor.end(row(6), None);
        flows.wake(flow(destination, 1));
    }
    assert!(flows.begin_search() && !flows.begin_search());
}

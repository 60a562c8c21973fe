//! A message whose jobs have the highest possible numbers is split, and each recipient gets it
//! once.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::queue_rig::Rig;
use crate::queue_rig::envelope;
use crate::queue_rig::recipients;
use crate::support::PATIENCE;
use crate::support::Server;
use crate::support::Setup;
use crate::support::receiver::Receiver;
use ringpost::queue::Envelope;
use ringpost::queue::Job;
use ringpost::queue::commit::settle::JobChange;
use ringpost::queue::commit::settle::JobRecord;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::record::job::Indexes;
use ringpost::queue::record::ledger::Tally;

const RECIPIENTS: u32 = 8;

/// A spool with one message, all recipients of which are in the one job with this number.
fn fill(path: &std::path::Path, number: u16, now_ms: u64) {
    let rig = Rig::open(path);
    let mailboxes: Vec<String> = (0..RECIPIENTS).map(|n| format!("p{n}@far.test")).collect();
    let to = recipients(&mailboxes.iter().map(String::as_str).collect::<Vec<_>>());
    let stored = rig.run(async {
        let mut body = rig.committer.body(now_ms)?;
        rig.push(&mut body, b"Subject: x\r\n\r\nx\r\n").await?;
        let envelope = Envelope { received_ms: now_ms, ..envelope(to.as_recipients()) };
        body.finish(b"", &envelope, now_ms).await
    });
    let id = stored.expect("the message is stored").id.local;
    let indexes: Vec<u8> = (0..RECIPIENTS).flat_map(u32::to_be_bytes).collect();
    let job = Job { number, recipients: Indexes::Stored(&indexes), ..Job::fresh(now_ms, 0) };
    let change = JobChange::Split(vec![JobRecord::new(&job).expect("the job can be encoded")]);
    let settlement = Settlement {
        events: Default::default(),
        id,
        job: 0,
        change,
        reports: Vec::new(),
        tally: Tally::default(),
        is_order: false,
        keep_until_ms: None,
        envelope: None,
    };
    assert!(rig.run(rig.committer.settle(settlement.into())).expect("the record is written"));
    rig.close();
}

#[test]
fn parts_with_the_last_numbers_are_split_and_delivered() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let receiver = Receiver::start(&[], |_| None);
    let config = format!(
        "[delivery]\n[destination_defaults]\ntls = 'none'\nrecipients_per_message = 1\n\
         [[route]]\nrecipient_domain = ['far.test']\nnext = 'smtp:{}'\n",
        receiver.address
    );
    for number in [u16::MAX - 8, u16::MAX - 2, u16::MAX - 1, u16::MAX] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fill(&folder.path().join("spool"), number, now.as_millis() as u64);
        let before = receiver.taken().len();
        let setup = Setup { config: config.clone(), ..Setup::default() };
        let mut server = Server::start(folder.path(), &setup);
        let end = Instant::now() + PATIENCE;
        let is_empty = |server: &Server| {
            let list = server.queue(&["list"]);
            String::from_utf8_lossy(&list.stdout).ends_with("0 messages\n")
        };
        while !is_empty(&server) {
            assert!(Instant::now() < end, "{number}: {}", server.log_brief());
            std::thread::sleep(Duration::from_millis(20));
        }
        server.signal("TERM");
        assert!(server.wait(PATIENCE).success(), "{number}: {}", server.whole_log());
        let taken = receiver.taken().split_off(before);
        assert_eq!(taken.len(), RECIPIENTS as usize, "{number}");
        for n in 0..RECIPIENTS {
            let to = format!("p{n}@far.test");
            assert_eq!(taken.iter().filter(|one| one.is_for(&to)).count(), 1, "{number}: {to}");
        }
    }
}

//! Reads the event log: pages of events, merged from all partitions by time.
//!
//! Promise:  events of a message keep their order; nothing is left out between two pages, and nothing
//!           comes twice. What cannot be read is a gap in the page.
//! Bounds:   `PARTITION_ROWS_MAX` rows and `PARTITION_EVENTS_MAX` events read of a partition for a page.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::base::TenantId;
use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::call::Outcome;
use crate::control::queue::parse_id;
use crate::control::queue::queue_fault;
use crate::control::server::Control;
use crate::event;
use crate::event::record::Event;
use crate::event::record::Fact;
use crate::operations::OpFault;
use crate::operations::events::AcceptedRow;
use crate::operations::events::AttemptRow;
use crate::operations::events::EVENT_PAGE_ROWS;
use crate::operations::events::EventGap;
use crate::operations::events::EventPage;
use crate::operations::events::EventRow;
use crate::operations::events::ListEvents;
use crate::queue::Partition;
use crate::queue::Spool;
use crate::queue::store::event_log;
use crate::queue::store::event_log::Go;
use crate::queue::store::event_log::Met;
use crate::wire::mail::date;

const PARTITION_ROWS_MAX: usize = 512;
const PARTITION_EVENTS_MAX: u64 = 20_000;

/// All types that an event may have.
pub const TYPES: [&str; 7] =
    ["accepted", "deferred", "delivered", "bounced", "expired", "cancelled", "held"];

impl CarryOut for ListEvents {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        control.read(move |spool| list(&call.into_operation(), spool)).await
    }

    fn run_stopped(call: Call<Self>, spool: &Spool) -> Outcome<Self> {
        list(&call.into_operation(), spool)
    }
}

fn list(asked: &ListEvents, spool: &Spool) -> Result<EventPage, OpFault> {
    let wanted = Wanted::of(asked, spool)?;
    let partitions = spool.partitions();
    let from = match &asked.after {
        Some(text) => position_of(text, partitions.len())?,
        None => {
            let starts = partitions.iter().map(|own| start_of(own, asked.last));
            starts.collect::<Result<_, _>>()?
        }
    };
    for (own, from) in partitions.iter().zip(&from) {
        if *from > own.events_synced() {
            let what = "the log ends before `after`: it was lost or replaced by an older copy";
            return Err(OpFault::conflict("position_ahead", what)
                .hint("read again from the oldest event, or from now"));
        }
    }
    let read = partitions.iter().zip(from).map(|(own, from)| Part::read(own, from, &wanted));
    let parts: Vec<Part> = read.collect::<Result<_, _>>()?;
    Ok(merged(parts, asked.limit.unwrap_or(EVENT_PAGE_ROWS).clamp(1, EVENT_PAGE_ROWS)))
}

/// The first number that is there, or the one so many before the end.
fn start_of(own: &Partition, last: Option<u64>) -> Result<u64, OpFault> {
    let end = own.events_synced();
    let first = event_log::first_number(own).map_err(queue_fault)?.unwrap_or(end).min(end);
    Ok(last.map_or(first, |last| first.max(end.saturating_sub(last))))
}

/// One number for each partition.
fn position_of(text: &str, partitions: usize) -> Result<Vec<u64>, OpFault> {
    let numbers: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
    numbers.ok().filter(|numbers| numbers.len() == partitions).ok_or_else(|| {
        let what = format!("`after` is not a position in this log: {text}");
        OpFault::usage("bad_position", what).hint("use `next` of a page")
    })
}

/// Oldest first, as long as nothing older can come from a partition that has more.
fn merged(mut parts: Vec<Part>, limit: usize) -> EventPage {
    let mut page = EventPage { is_end: true, ..EventPage::default() };
    while page.events.len() < limit {
        let is_open = |part: &Part| part.rows.is_empty() && part.has_more;
        let oldest = |(_, part): &(usize, &Part)| part.rows.front().map(|row| row.at_ms);
        let parts_with_rows = parts.iter().enumerate().filter(|(_, part)| !part.rows.is_empty());
        let Some((place, _)) = parts_with_rows.min_by_key(oldest) else { break };
        if parts.iter().any(is_open) {
            break;
        }
        let part = &mut parts[place];
        let row = part.rows.pop_front().expect("it has a row");
        part.from = row.next;
        page.gaps.extend(part.gaps.extract_if(.., |gap| gap.to <= row.next));
        page.events.push(row.row);
    }
    for part in &mut parts {
        if part.rows.is_empty() {
            part.from = part.read_to;
            page.gaps.append(&mut part.gaps);
        }
        page.is_end &= part.rows.is_empty() && !part.has_more;
    }
    let next: Vec<String> = parts.iter().map(|part| part.from.to_string()).collect();
    page.next = next.join(".");
    page
}

/// What was read of one partition.
struct Part {
    /// Where the next page begins.
    from: u64,
    rows: VecDeque<PartRow>,
    gaps: Vec<EventGap>,
    /// Everything before was read.
    read_to: u64,
    has_more: bool,
}

struct PartRow {
    at_ms: u64,
    /// The number after the event.
    next: u64,
    row: EventRow,
}

impl Part {
    fn read(own: &Partition, from: u64, wanted: &Wanted<'_>) -> Result<Part, OpFault> {
        let mut part =
            Part { from, rows: VecDeque::new(), gaps: Vec::new(), read_to: from, has_more: false };
        let partition = own.id().0;
        let next = event_log::read(own, from, |met| {
            let entry = match met {
                Met::Entry(entry) => entry,
                Met::Gap { from, to } => {
                    part.gaps.push(EventGap { partition, from, to });
                    return Go::On;
                }
            };
            for (number, event) in (entry.first..).zip(event::read(entry.events)) {
                let Some(event) = event.filter(|_| number >= from) else { continue };
                if wanted.takes(&event) {
                    let row = row_of(own, number, &event);
                    part.rows.push_back(PartRow { at_ms: event.at_ms(), next: number + 1, row });
                }
            }
            let is_much = part.rows.len() >= PARTITION_ROWS_MAX
                || entry.next().saturating_sub(from) >= PARTITION_EVENTS_MAX;
            if is_much { Go::Stop } else { Go::On }
        });
        part.read_to = next.map_err(queue_fault)?;
        part.has_more = part.read_to < own.events_synced();
        Ok(part)
    }
}

/// Which events are wanted.
struct Wanted<'a> {
    asked: &'a ListEvents,
    types: Option<Vec<&'a str>>,
    id: Option<crate::base::MessageId>,
    tenant: Option<TenantId>,
}

impl<'a> Wanted<'a> {
    fn of(asked: &'a ListEvents, spool: &Spool) -> Result<Wanted<'a>, OpFault> {
        let types: Option<Vec<&str>> =
            asked.types.as_deref().map(|types| types.split(',').map(str::trim).collect());
        let unknown = types.iter().flatten().find(|one| !TYPES.contains(*one));
        if let Some(unknown) = unknown {
            let what = format!("no type of event: {unknown}");
            return Err(
                OpFault::usage("bad_type", what).hint(format!("types: {}", TYPES.join(", ")))
            );
        }
        let id = asked.id.as_deref().map(|id| parse_id(spool, "id", id)).transpose()?;
        let tenant = asked.tenant.as_deref().map(str::parse::<TenantId>).transpose();
        let tenant = tenant.map_err(|fault| OpFault::usage("bad_tenant", fault.to_string()))?;
        Ok(Wanted { asked, types, id, tenant })
    }

    fn takes(&self, event: &Event<'_>) -> bool {
        let (owner, at_ms, asked) = (event.owner(), event.at_ms(), self.asked);
        let (sender, recipients, tags) = parts_of(&event.fact);
        let is_recipient = |wanted: &str| {
            recipients.iter().any(|one| match wanted.strip_prefix('@') {
                Some(domain) => {
                    one.rsplit_once('@').is_some_and(|(_, own)| own.eq_ignore_ascii_case(domain))
                }
                None => one.eq_ignore_ascii_case(wanted),
            })
        };
        let is_sender =
            |wanted: &str| sender.eq_ignore_ascii_case(if wanted == "<>" { "" } else { wanted });
        self.types.as_ref().is_none_or(|types| types.contains(&event.fact.name()))
            && self.id.is_none_or(|id| id == owner.id)
            && self.tenant.is_none_or(|tenant| tenant == owner.tenant)
            && asked.from_ms.is_none_or(|from| at_ms >= from)
            && asked.to_ms.is_none_or(|to| at_ms < to)
            && asked.recipient.as_deref().is_none_or(is_recipient)
            && asked.sender.as_deref().is_none_or(is_sender)
            && asked.tag.as_deref().is_none_or(|tag| tags.contains(&tag))
    }
}

/// Sender, recipients and tags.
fn parts_of<'e>(fact: &'e Fact<'_>) -> (&'e str, &'e [&'e str], &'e [&'e str]) {
    match fact {
        Fact::Accepted(one) => (one.sender, &one.recipients, &one.tags),
        Fact::Deferred(one) | Fact::Delivered(one) | Fact::Bounced(one) | Fact::Expired(one) => {
            (one.sender, std::slice::from_ref(&one.recipient), &one.tags)
        }
        Fact::Cancelled(one) | Fact::Held(one) => (one.sender, &one.recipients, &one.tags),
    }
}

fn row_of(own: &Partition, number: u64, event: &Event<'_>) -> EventRow {
    let owner = event.owner();
    let (sender, recipients, tags) = parts_of(&event.fact);
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (metadata, indexes, accepted, attempt) = match &event.fact {
        Fact::Accepted(one) => {
            let indexes = (one.first..).take(if one.first > 0 { one.recipients.len() } else { 0 });
            let accepted = AcceptedRow {
                bytes: one.bytes,
                client: one.peer.map(|peer| peer.to_string()),
                credential: one.credential().map(|credential| credential.to_string()),
                message_id: one.message_id.map(str::to_owned),
            };
            (&one.metadata, indexes.collect(), Some(accepted), None)
        }
        Fact::Deferred(one) | Fact::Delivered(one) | Fact::Bounced(one) | Fact::Expired(one) => {
            let (class, subject, detail) = one.status;
            let attempt = AttemptRow {
                attempts: one.attempts,
                destination: one.destination.to_owned(),
                host: Some(one.host).filter(|host| !host.is_empty()).map(str::to_owned),
                address: one.address.map(|address| address.to_string()),
                source: one.source.map(str::to_owned),
                status: format!("{class}.{subject}.{detail}"),
                reply: one.reply.to_owned(),
                remote: one.is_remote,
                category: one.category.map(str::to_owned),
                age_ms: one.age_ms,
                wait_us: one.wait_us,
                connect_us: one.connect_us,
                transfer_us: one.transfer_us,
                again_in_ms: one.again_in_ms,
            };
            (&one.metadata, vec![one.index], None, Some(attempt))
        }
        Fact::Cancelled(one) | Fact::Held(one) => (&one.metadata, one.indexes.clone(), None, None),
    };
    let pairs = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    EventRow {
        event: format!("{}-{number}", own.id().0),
        time: date::rfc3339(event.at_ms()),
        kind: event.fact.name().to_owned(),
        id: own.public_id(owner.id).to_string(),
        tenant: (owner.tenant != TenantId::OPERATOR).then(|| owner.tenant.to_string()),
        stream: owner.stream.0,
        sender: sender.to_owned(),
        recipients: owned(recipients),
        indexes,
        tags: owned(tags),
        metadata: pairs.collect::<BTreeMap<_, _>>(),
        accepted,
        attempt,
    }
}

//! Removes messages that are kept after their end, once their time is over.
//!
//! Owner:    the home shard of the partition.
//! Promise:  an expired message is removed with its row within a few rounds. No shard waits for it: the
//!           rows are read beside the shard, and each removal is an order behind those of new mail.
//! Bounds:   a round every `ROUND`, `EXPIRED_MAX` messages of each partition in one round.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::wall_ms;
use crate::handoff::Reader;
use crate::inbound::reception::Reception;
use crate::observe::log::Record;
use crate::queue::CommitFault;
use crate::queue::Committer;
use crate::queue::Partition;
use crate::queue::store::query::KeptMessage;
use crate::rt::task;
use crate::rt::timer;

const ROUND: Duration = Duration::from_secs(60);
const EXPIRED_MAX: usize = 256;

pub(super) fn start(reception: &Rc<Reception>, stores: &[Arc<Partition>], reader: &Reader) {
    let (reception, stores, reader) = (Rc::clone(reception), stores.to_vec(), reader.clone());
    let (mut last, running) = (timer::now(), Rc::new(()));
    timer::on_tick(move || {
        if last.elapsed() < ROUND || Rc::strong_count(&running) > 1 || reception.is_draining() {
            return;
        }
        last = timer::now();
        let (stores, reader) = (stores.clone(), reader.clone());
        let (reception, running) = (Rc::clone(&reception), Rc::clone(&running));
        task::spawn(async move {
            for partition in stores {
                round(&reception, &partition, &reader).await;
            }
            drop(running);
        });
    });
}

async fn round(reception: &Reception, partition: &Arc<Partition>, reader: &Reader) {
    let reading = Arc::clone(partition);
    let expired = reader.run(move || reading.kept(wall_ms(), EXPIRED_MAX)).await;
    let told = match expired {
        // A panic of the reader is logged where it happens.
        None => return,
        Some(Err(fault)) => fault.to_string(),
        Some(Ok(expired)) => {
            let mut committers = reception.intake.committers().iter();
            let home = committers.find(|one| one.partition() == partition.id());
            let Some(committer) = home else { return };
            match remove(committer, &expired, || !reception.is_draining()).await {
                Ok(()) => return,
                Err(fault) => fault.to_string(),
            }
        }
    };
    let what = format!("partition {}: expired messages are not removed: {told}", partition.id());
    let remedy = "their removal is tried again; see the log for faults of the store";
    Record::Warning { what: &what, remedy }.emit();
}

/// Removes messages one after the other while `goes_on`.
pub async fn remove(
    committer: &Committer,
    expired: &[KeptMessage],
    goes_on: impl Fn() -> bool,
) -> Result<(), CommitFault> {
    for KeptMessage { id, .. } in expired.iter().filter(|_| goes_on()) {
        // The message may have been deleted meanwhile.
        let _was_there = committer.delete(*id).await?;
    }
    Ok(())
}

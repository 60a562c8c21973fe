//! Drains a shard at shutdown.
//!
//! Order:    stop accepting; end idle sessions with 421; let running transactions finish and commit;
//!           return within the limit. Sessions still open then are closed: their clients saw no 250
//!           and will send again.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::inbound::reception::Reception;
use crate::observe::log::Record;
use crate::rt::Listener;
use crate::rt::timer;
use crate::shard::delivering::Delivering;

/// How long closed sessions may take to send 421.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Interval between two checks for the end.
const CHECK_EVERY: Duration = Duration::from_millis(20);

pub async fn drain(
    reception: &Rc<Reception>,
    listeners: &[Rc<Listener>],
    delivering: &Delivering,
    limit: Duration,
) {
    let end = Instant::now() + limit;
    delivering.close();
    reception.start_draining();
    for listener in listeners {
        listener.stop();
    }
    let is_receiving = || reception.sessions() > 0 || reception.intake.submissions() > 0;
    while is_receiving() && Instant::now() < end {
        // Each time, because more sessions may have become idle.
        timer::interrupt_idle();
        delivering.leave_if_quiet();
        timer::sleep(CHECK_EVERY).await;
    }
    // Running transfers are worth the wait. Two checks, so that frames that other shards sent before
    // they left are answered.
    let mut checks = 0;
    while checks < 2 && Instant::now() < end {
        checks = if delivering.is_drained() { checks + 1 } else { 0 };
        timer::sleep(CHECK_EVERY).await;
    }
    let cut = reception.sessions();
    if cut == 0 {
        return;
    }
    let what = format!("{cut} sessions did not end in time and are closed with 421");
    Record::Warning {
        what: &what,
        remedy: "raise server.shutdown_timeout to let more sessions finish",
    }
    .emit();
    timer::interrupt_all();
    let end = Instant::now() + GOODBYE_MAX;
    while reception.sessions() > 0 && Instant::now() < end {
        timer::sleep(CHECK_EVERY).await;
    }
}

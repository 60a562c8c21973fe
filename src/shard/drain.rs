//! The orderly end of a shard (promise 8).
//!
//! Order:    stop accepting; end idle sessions with 421; let transactions under way finish; keep
//!           what they brought; return within the limit. What is then still open is cut: its
//!           client saw no 250 and sends again.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::inbound::reception::Reception;
use crate::observe::log::Record;
use crate::rt::Listener;
use crate::rt::timer;
use crate::shard::delivering::Delivering;

/// How long sessions that are cut may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often the end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
        // Again each time: a session may have become idle since.
        timer::interrupt_idle();
        delivering.hush();
        timer::sleep(LOOK_EVERY).await;
    }
    // What is being sent now may be taken by a server any moment: it is worth the wait.
    // Twice, so that what other shards had handed over before they fell silent is answered.
    let mut looks = 0;
    while looks < 2 && Instant::now() < end {
        looks = if delivering.is_drained() { looks + 1 } else { 0 };
        timer::sleep(LOOK_EVERY).await;
    }
    let cut = reception.sessions();
    if cut == 0 {
        return;
    }
    let what = format!("{cut} sessions did not end in time and are cut with 421");
    Record::Warning { what: &what, remedy: "raise server.shutdown_timeout if that matters" }.emit();
    timer::interrupt_all();
    let end = Instant::now() + LAST_WORDS;
    while reception.sessions() > 0 && Instant::now() < end {
        timer::sleep(LOOK_EVERY).await;
    }
}

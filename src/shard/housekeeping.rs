//! What a shard does at every tick: show its gauges, its heartbeat and, when asked, its histograms.

use std::rc::Rc;

use crate::inbound::reception::Reception;
use crate::rt::task;
use crate::rt::timer;

pub fn start(reception: &Rc<Reception>) {
    let reception = Rc::clone(reception);
    timer::on_tick(move || {
        let observed = reception.observed();
        let metrics = reception.metrics();
        metrics.chunks_out.set(reception.pool.chunks_out() as u64);
        metrics.connections_open.set(reception.sessions() as u64);
        metrics.tasks_live.set(task::live() as u64);
        reception.histograms.publish_if_wanted();
        observed.beat();
    });
}

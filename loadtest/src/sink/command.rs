//! `ringpost-load sink`: runs one sink until a limit or a signal stops it.

use std::fs::File;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use ringpost::boot::signals;
use ringpost::boot::signals::Signal;

use crate::flags::check_writable;
use crate::ledger::Ledger;
use crate::report::Record;
use crate::report::command_line;
use crate::sink::options::Options;
use crate::sink::service::Sink;

const LOOK: Duration = Duration::from_millis(10);
/// Addresses that are printed at the start.
const PLACES_SHOWN: usize = 8;

/// Serves until stopped and prints the result. `false`: the ledger ran out of memory.
pub fn run(options: &Options) -> Result<bool, String> {
    let blocked = signals::block().map_err(|cause| format!("signals: {cause}"))?;
    let signals = signals::listen(blocked).map_err(|cause| format!("signals: {cause}"))?;
    options.outputs.check()?;
    check_writable("--ledger", options.ledger.as_deref())?;
    let settings = options.settings()?;
    let mut record = Record::begin("sink", options.outputs.machine(), command_line());
    let sink = Sink::start(settings)?;
    let shown: Vec<String> =
        sink.addresses().iter().take(PLACES_SHOWN).map(ToString::to_string).collect();
    let more = sink.addresses().len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    eprintln!("listening on {}{more}", shown.join(" "));
    while !sink.is_done() {
        match signals.recv_timeout(LOOK) {
            Ok(Signal::Term | Signal::Int) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(Signal::Hup | Signal::Usr1) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let taken = sink.stop()?;
    // The figures are printed even if the ledger cannot be written.
    let written = options.ledger.as_ref().map_or(Ok(()), |path| {
        write_ledger(&taken.ledger, path).map_err(|cause| format!("{}: {cause}", path.display()))
    });
    taken.complete(&mut record);
    options.outputs.write(&record)?;
    written?;
    Ok(taken.ledger.unrecorded == 0)
}

fn write_ledger(ledger: &Ledger, path: &Path) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    ledger.write(&mut out)?;
    out.flush()
}

//! The cost of load generators: a source sends to its own sink, without a server.
//!
//! CPU time that a generator uses is not available to a server on the same machine. Both pairs use the
//! same flags and their default protocol: ours pipelines and uses BDAT, Postfix's waits for each reply.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::compare::hold;
use crate::compare::hold::Held;
use crate::compare::instance::free_port;
use crate::compare::kind::Kind;
use crate::compare::options::Options;
use crate::compare::peer::Peer;
use crate::compare::turn::Part;
use crate::compare::turn::Turn;
use crate::process::Cost;

/// Messages without `--messages`.
const MESSAGES: u64 = 40_000;
const LOOK: Duration = Duration::from_millis(5);
const START_MAX: Duration = Duration::from_secs(10);
const RUN_MAX: Duration = Duration::from_secs(600);

/// Measures one pair once: the CPU time of both processes from start to end.
pub fn measure(peer: &Peer, options: &Options) -> Result<Turn, String> {
    let messages = options.messages.unwrap_or(MESSAGES);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let place = address.to_string();
    let sink = match peer.kind {
        Kind::SmtpSource => {
            let program = peer.program.with_file_name("smtp-sink").into_os_string();
            let user = if rustix::process::geteuid().is_root() { "-u nobody" } else { "" };
            command(program, &format!("{user} {place} 1000"))
        }
        _ => command(peer.program.clone().into(), &format!("sink {place} 1000")),
    };
    let sink = Held::start(Held::make(&options.spool, "sink")?, &sink)?;
    wait("the sink did not start", START_MAX, || TcpStream::connect(address).is_ok())?;
    let own = if peer.kind == Kind::SmtpSource { "" } else { "source" };
    let (sessions, length) = (options.sessions, options.length);
    let flags = format!("{own} -d -s {sessions} -m {messages} -l {length} {place}");
    let source = command(peer.program.clone().into(), &flags);
    let began = Instant::now();
    let mut source = Held::start(Held::make(&options.spool, "source")?, &source)?;
    wait("the source did not end", RUN_MAX, || source.has_ended())?;
    let took = began.elapsed();
    // The marker of the end is written after the process was reaped.
    let cost = Cost::of(source.id());
    let of_sink = Cost::of(sink.id());
    let status = std::fs::read_to_string(source.folder.join(hold::ENDED)).unwrap_or_default();
    if status != "0" {
        return Err(format!("the source failed with status {status}"));
    }
    let both = Cost { cpu: cost.cpu + of_sink.cpu, written_bytes: None };
    let per_second = messages as f64 / took.as_secs_f64();
    Ok(Turn { accept: Some(Part::new(messages, per_second, both)), ..Turn::default() })
}

fn command(program: OsString, words: &str) -> Vec<OsString> {
    std::iter::once(program).chain(words.split_whitespace().map(OsString::from)).collect()
}

fn wait(fault: &str, most: Duration, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + most;
    while !is_so() {
        if Instant::now() >= end {
            return Err(format!("{fault} within {} s", most.as_secs()));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

//! A crowd of sessions that greet, say nothing, and stay.
//!
//! Bounds:   a descriptor each, here and in the server. Too few are told before the first is opened.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use crate::run::server::GoOn;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Descriptors for everything else.
const FILES_BESIDE: u64 = 1000;
/// Lines are short, and there are many readers.
const BUFFER: usize = 128;

/// Sessions that are open.
pub struct Crowd(Vec<BufReader<TcpStream>>);

impl Crowd {
    /// Opens so many, each as far as the answer to EHLO.
    pub fn open(sessions: u64, server: SocketAddr, go_on: GoOn) -> Result<Crowd, String> {
        allow_files(sessions + FILES_BESIDE)?;
        let mut crowd = Crowd(Vec::with_capacity(sessions as usize));
        for number in 0..sessions {
            go_on()?;
            let session = greet(server);
            let session = session.map_err(|why| format!("idle session {}: {why}", number + 1))?;
            crowd.0.push(session);
        }
        Ok(crowd)
    }

    /// How many still answer.
    pub fn alive(&mut self) -> u64 {
        let answers = |session: &mut BufReader<TcpStream>| {
            let said = session.get_mut().write_all(b"NOOP\r\n");
            said.map_err(|cause| cause.to_string()).and_then(|()| answer(session, b'2')).is_ok()
        };
        self.0.iter_mut().map(|session| u64::from(answers(session))).sum()
    }
}

fn greet(server: SocketAddr) -> Result<BufReader<TcpStream>, String> {
    let told = |cause: std::io::Error| cause.to_string();
    let stream = TcpStream::connect(server).map_err(told)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    let mut session = BufReader::with_capacity(BUFFER, stream);
    answer(&mut session, b'2')?;
    session.get_mut().write_all(b"EHLO idle.load.test\r\n").map_err(told)?;
    answer(&mut session, b'2')?;
    Ok(session)
}

/// One reply, of one line or several, which begins with this digit.
fn answer(session: &mut BufReader<TcpStream>, class: u8) -> Result<(), String> {
    loop {
        let mut line = String::new();
        let bytes = session.read_line(&mut line).map_err(|cause| cause.to_string())?;
        match line.as_bytes() {
            _ if bytes == 0 => return Err("the server ended it".to_owned()),
            [first, _, _, b'-', ..] if *first == class => {}
            [first, ..] if *first == class => return Ok(()),
            _ => return Err(format!("the server said `{}`", line.trim_end())),
        }
    }
}

/// Raises the soft limit; servers that are started later inherit it.
fn allow_files(wanted: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|hard| hard < wanted) {
        return Err(format!(
            "{} open files are allowed and {wanted} are needed: raise the limit by `ulimit -Hn \
             {wanted}` as root, or run a part by --scale",
            limit.maximum.unwrap_or(0)
        ));
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|cause| format!("open files: {cause}"))
}

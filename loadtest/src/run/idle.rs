//! Idle sessions: each is open and silent after EHLO.
//!
//! Bounds:   one file descriptor each, here and in the server. Too few: an error before the first session.

use std::net::SocketAddr;

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use crate::run::server::GoOn;
use crate::smtp_client::Session;

/// File descriptors for everything else.
const FILES_BESIDE: u64 = 1000;

/// Open sessions.
pub struct Crowd(Vec<Session>);

impl Crowd {
    pub fn open(sessions: u64, server: SocketAddr, go_on: GoOn) -> Result<Crowd, String> {
        allow_files(sessions + FILES_BESIDE)?;
        let mut crowd = Crowd(Vec::with_capacity(sessions as usize));
        for number in 1..=sessions {
            go_on()?;
            let session = Session::open(server);
            crowd.0.push(session.map_err(|cause| format!("idle session {number}: {cause}"))?);
        }
        Ok(crowd)
    }

    /// How many still answer.
    pub fn alive(&mut self) -> u64 {
        let answers = |session: &mut Session| u64::from(session.say("NOOP", "250").is_ok());
        self.0.iter_mut().map(answers).sum()
    }
}

/// Raises the soft limit, which servers inherit that start later.
fn allow_files(wanted: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|hard| hard < wanted) {
        return Err(format!(
            "the limit of open files is {} and {wanted} are needed; raise it with `ulimit -Hn {wanted}` \
             as root, or use --scale",
            limit.maximum.unwrap_or(0)
        ));
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|cause| format!("open files: {cause}"))
}

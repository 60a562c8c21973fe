//! Idle sessions: each is open and silent after EHLO.
//!
//! Bounds:   one file descriptor each, here and in the server. Too few: an error before the first session.

use std::net::SocketAddr;

use ringpost::boot::host::Needs;
use ringpost::boot::host::raise_limits;
use rustix::process::Resource;
use rustix::process::getrlimit;

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

/// Raises the limits, which servers inherit that start later.
fn allow_files(wanted: u64) -> Result<(), String> {
    raise_limits(&Needs { shards: 0, open_files: wanted, backlog: 0, becomes_user: false });
    match getrlimit(Resource::Nofile).current.filter(|limit| *limit < wanted) {
        None => Ok(()),
        Some(limit) => Err(format!(
            "the limit of open files is {limit} and {wanted} are needed; raise it with `ulimit -Hn \
             {wanted}` as root, or use --scale"
        )),
    }
}

//! Who answers a command: a running server through its socket, or the spool of a stopped one.
//!
//! Promise:  the same operations in both cases. Only operations that change something take the lock
//!           of a stopped server's spool.

use std::io;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use crate::base::clock::wall_ms;
use crate::cli::client::Client;
use crate::cli::client::output_fault;
use crate::config::Config;
use crate::control::call::Actor;
use crate::control::call::CarryOut;
use crate::control::call::authorize;
use crate::control::queue;
use crate::operations::FaultKind;
use crate::operations::OpFault;
use crate::operations::queue::ReadMessage;
use crate::queue::Access;
use crate::queue::Notice;
use crate::queue::Spool;
use crate::queue::SpoolOptions;
use crate::queue::fault::SpoolFault;
use crate::queue::notice::Loudness;

pub enum Source {
    Running(Client),
    Stopped(Box<Spool>),
}

/// What a command is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    Read,
    Change,
}

impl Source {
    pub fn find(config: &Config, intent: Intent) -> Result<Source, OpFault> {
        let socket = &config.control.socket;
        match UnixStream::connect(socket) {
            Ok(_) => Client::new(socket.clone()).map(Source::Running),
            Err(cause) if is_nobody(&cause) => open_stopped(&config.server.spool, intent),
            Err(cause) => {
                let what = format!("{}: {cause}", socket.display());
                Err(OpFault::new(FaultKind::Denied, "denied", what)
                    .hint("run this command as root or as the user of the server"))
            }
        }
    }

    /// A running server; there is no answer without one.
    pub fn running(config: &Config) -> Result<Source, OpFault> {
        let socket = &config.control.socket;
        match UnixStream::connect(socket) {
            Err(cause) if is_nobody(&cause) => Err(OpFault::not_running()),
            _ => Client::new(socket.clone()).map(Source::Running),
        }
    }

    pub fn call<O: CarryOut>(&self, operation: O) -> Result<O::Output, OpFault> {
        match self {
            Source::Running(client) => client.call(&operation),
            Source::Stopped(spool) => {
                O::run_stopped(authorize(Actor::Operator { user: None }, operation)?, spool)
            }
        }
    }

    /// Writes a message as it would be delivered.
    pub fn read(&self, operation: &ReadMessage, out: &mut impl Write) -> Result<(), OpFault> {
        match self {
            Source::Running(client) => client.read(operation, out),
            Source::Stopped(spool) => {
                for piece in queue::pieces(spool, &operation.id)? {
                    let piece =
                        piece.map_err(|fault| queue::queue_fault(fault).about(&operation.id))?;
                    out.write_all(&piece).map_err(|cause| output_fault(&cause))?;
                }
                Ok(())
            }
        }
    }
}

/// No socket, or one that its server left behind.
fn is_nobody(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn open_stopped(path: &Path, intent: Intent) -> Result<Source, OpFault> {
    if !path.join("ringpost.json").exists() {
        let what = format!("{}: no spool and no running server", path.display());
        return Err(
            OpFault::away("not_running", what).hint("name the server's config file with --config")
        );
    }
    let mut options = SpoolOptions::new(path, wall_ms());
    options.access = match intent {
        Intent::Read => Access::Inspect,
        Intent::Change => Access::Serve,
    };
    options.on_notice = Arc::new(|notice: Notice| {
        if notice.loudness() == Loudness::Error {
            eprintln!("ringpost: {notice}");
        }
    });
    let spool = Spool::open(options).map_err(|fault| {
        let kind = match fault {
            SpoolFault::Locked { .. } => FaultKind::Conflict,
            _ => FaultKind::Other,
        };
        OpFault::new(kind, "spool", fault.to_string()).hint(fault.remedy())
    })?;
    Ok(Source::Stopped(Box::new(spool)))
}

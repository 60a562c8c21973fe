//! The runtime's TCP stream as a transport, and the channel that sessions use.

use std::fmt;

use crate::base::Chunk;
use crate::base::ChunkPool;
use crate::net::stream::Channel;
use crate::net::stream::Transport;
use crate::net::tls_fault::TlsFault;
use crate::rt::IoFault;
use crate::rt::Stream;

/// A TCP connection, in cleartext or with TLS.
pub type Socket = Channel<Stream>;

/// Why a connection failed or ended.
#[derive(Clone, Debug, PartialEq)]
pub enum SocketFault {
    Io(IoFault),
    Tls(TlsFault),
}

impl SocketFault {
    pub fn is_timeout(&self) -> bool {
        matches!(self, SocketFault::Io(IoFault::TimedOut | IoFault::NoChunk))
    }

    /// Whether the peer ended the connection, cleanly or not.
    pub fn is_end(&self) -> bool {
        match self {
            SocketFault::Io(fault) => matches!(fault, IoFault::Closed | IoFault::Reset),
            SocketFault::Tls(fault) => matches!(fault, TlsFault::Closed | TlsFault::Truncated),
        }
    }
}

impl fmt::Display for SocketFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketFault::Io(fault) => fault.fmt(f),
            SocketFault::Tls(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for SocketFault {}

impl From<IoFault> for SocketFault {
    fn from(fault: IoFault) -> SocketFault {
        SocketFault::Io(fault)
    }
}

impl From<TlsFault> for SocketFault {
    fn from(fault: TlsFault) -> SocketFault {
        SocketFault::Tls(fault)
    }
}

impl Transport for Stream {
    type Fault = SocketFault;

    fn is_end(fault: &SocketFault) -> bool {
        fault.is_end()
    }

    async fn read(&mut self, pool: &ChunkPool, chunk: Option<Chunk>) -> Result<Chunk, SocketFault> {
        Ok(Stream::read(self, pool, chunk).await?)
    }

    async fn write(&mut self, bytes: Vec<u8>) -> (Result<(), SocketFault>, Vec<u8>) {
        let (written, bytes) = Stream::write(self, bytes).await;
        (written.map_err(SocketFault::Io), bytes)
    }
}

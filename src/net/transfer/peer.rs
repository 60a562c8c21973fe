//! What a transfer needs of a transport: deadlines, and writes of several parts.

use std::time::Duration;

use crate::net::socket::SocketFault;
use crate::net::stream::Transport;
use crate::net::tls_fault::TlsFault;
use crate::rt::Stream;
use crate::rt::timer;

/// How long to wait before a read is repeated that found no chunk for its plaintext.
const CHUNK_RETRY: Duration = Duration::from_millis(20);

/// A transport with deadlines and vectored writes.
// A shard's futures never leave their thread, so nothing asks whether they are `Send`.
#[allow(async_fn_in_trait)]
pub trait Peer: Transport {
    /// Limits all waits from now on, together.
    fn set_deadline_in(&self, limit: Duration);

    fn is_timeout(fault: &Self::Fault) -> bool;

    /// Whether a read would return at once: bytes have arrived, or the connection has ended.
    fn has_unread(&self) -> bool;

    /// Whether to repeat the read after this fault. Waits before it answers yes.
    async fn may_read_again(&self, fault: &Self::Fault) -> bool;

    /// Writes all parts in order. None is empty.
    async fn write_parts(&mut self, parts: &[&[u8]]) -> Result<(), Self::Fault> {
        self.write(parts.concat()).await.0
    }
}

impl Peer for Stream {
    fn set_deadline_in(&self, limit: Duration) {
        self.deadline().set_in(limit);
    }

    fn is_timeout(fault: &SocketFault) -> bool {
        fault.is_timeout()
    }

    fn has_unread(&self) -> bool {
        self.is_readable()
    }

    async fn may_read_again(&self, fault: &SocketFault) -> bool {
        if *fault != SocketFault::Tls(TlsFault::NoChunk) || self.deadline().expired() {
            return false;
        }
        timer::sleep(CHUNK_RETRY).await;
        true
    }

    async fn write_parts(&mut self, parts: &[&[u8]]) -> Result<(), SocketFault> {
        Ok(Stream::write_parts(self, parts).await?)
    }
}

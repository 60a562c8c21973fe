//! Who is told of the progress of a transfer.

use crate::wire::smtp::client_step::Stage;

/// Is told of each write and each reply. Delivery uses `()`, which compiles to nothing; the load
/// generator measures with it.
///
/// Pipelined commands leave in one write, so the replies to all of them count from that write.
pub trait Watch {
    /// A write of commands or of a part of a body begins.
    fn on_write(&mut self);

    /// A reply is complete. AUTH may have several, and LMTP has one for each recipient at
    /// `Stage::End`.
    fn on_reply(&mut self, stage: Stage);

    /// The TLS handshake after STARTTLS is done.
    fn on_tls(&mut self);
}

impl Watch for () {
    #[inline]
    fn on_write(&mut self) {}

    #[inline]
    fn on_reply(&mut self, _: Stage) {}

    #[inline]
    fn on_tls(&mut self) {}
}

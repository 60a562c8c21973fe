//! The hook for a signature: it sees the edited header block and every body byte, and adds fields.
//!
//! Order:    the body is hashed while it is received; the block is signed at the end, before the commit.
//!           So a signature needs no second pass, and a retried delivery computes nothing.
//! Owner:    the shard that accepts the message. A signer that uses other threads waits in `sign`.

use std::future::Future;
use std::pin::Pin;

use crate::directory::Identity;
use crate::submit::refusal::Refusal;

/// Decides what is signed.
pub trait Signer {
    /// The signature of one message, or `None` for mail that is not signed.
    fn begin(&self, identity: &Identity, block: &[u8]) -> Option<Box<dyn Signature>>;
}

/// What `Signature::sign` waits for.
pub type Signing<'s> = Pin<Box<dyn Future<Output = Result<Vec<u8>, Refusal>> + 's>>;

/// The signature of one message while the message arrives.
pub trait Signature {
    /// Takes the next bytes of the body.
    fn body(&mut self, bytes: &[u8]);

    /// The fields to put between the trace field and the block, each with its line end.
    fn sign<'s>(&'s mut self, block: &'s [u8]) -> Signing<'s>;
}

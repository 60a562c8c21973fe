//! TLS as a peer sees it: certificates on disk, the state machine in memory, the channel over a
//! stream.

mod certificates;
mod channel;
mod choice;
mod kit;
mod mta_sts;
mod openssl;
mod outgoing;
mod session;

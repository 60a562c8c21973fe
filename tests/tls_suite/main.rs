//! TLS as a peer sees it: certificates on disk, the machine in memory, the channel over a stream.

mod certificates;
mod channel;
mod choice;
mod kit;
mod session;

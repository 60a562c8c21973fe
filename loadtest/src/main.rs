//! The load harness of Ringpost: its place is kept; see `accept_durable.py` for what there is.
fn main() {}

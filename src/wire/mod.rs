//! Formats and protocols, parsed and written as pure values. No I/O, no clock, no config, no
//! metrics, no logs.

pub mod classify;
pub mod dsn;
pub mod mail;
pub mod proxy;
pub mod proxy_url;
pub mod smtp;
pub mod socks5;
pub mod tls;

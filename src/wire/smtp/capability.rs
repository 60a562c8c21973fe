//! The answer to EHLO and LHLO. Every extension announced here is implemented elsewhere in
//! `wire::smtp`.

use crate::wire::smtp::reply;
use crate::wire::smtp::server::ServerConfig;
use crate::wire::smtp::xclient;

/// RFC 9422 s3: a limit has at most six digits.
const LIMIT_MAX: u32 = 999_999;

/// Appends the answer to EHLO and LHLO.
pub fn write(config: &ServerConfig, tls: bool, out: &mut Vec<u8>) {
    push(&[config.hostname.as_bytes()], out);
    push(&[b"PIPELINING"], out);
    push_size(config.size_max, out);
    push(&[b"8BITMIME"], out);
    push(&[b"SMTPUTF8"], out);
    push(&[b"CHUNKING"], out);
    push(&[b"BINARYMIME"], out);
    push(&[b"DSN"], out);
    push(&[b"ENHANCEDSTATUSCODES"], out);
    if tls {
        // RFC 8689 s2: announced only under TLS.
        push(&[b"REQUIRETLS"], out);
    } else if config.starttls {
        push(&[b"STARTTLS"], out);
    }
    if config.xclient {
        push(&[b"XCLIENT ", xclient::ATTRIBUTES.as_bytes()], out);
    }
    let last = out.len();
    push_limits(config, out);
    reply::mark_last_line(last, out);
}

fn push(parts: &[&[u8]], out: &mut Vec<u8>) {
    reply::push_code(250, b'-', out);
    for part in parts {
        reply::push_printable(part, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn push_size(size_max: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"250-SIZE ");
    reply::push_decimal(size_max, out);
    out.extend_from_slice(b"\r\n");
}

fn push_limits(config: &ServerConfig, out: &mut Vec<u8>) {
    out.extend_from_slice(b"250-LIMITS RCPTMAX=");
    reply::push_decimal(config.recipients_max.min(LIMIT_MAX).into(), out);
    out.extend_from_slice(b" MAILMAX=");
    reply::push_decimal(config.messages_max.min(LIMIT_MAX).into(), out);
    out.extend_from_slice(b"\r\n");
}

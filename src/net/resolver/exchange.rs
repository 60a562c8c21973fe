//! One query to one server.
//!
//! Bounds:   `limit` in total; `FOREIGN_MAX` datagrams that do not match the query.

use std::time::Duration;
use std::time::Instant;

use crate::net::resolver::answer;
use crate::net::resolver::answer::Answer;
use crate::net::resolver::answer::Reading;
use crate::net::resolver::context::Context;
use crate::net::resolver::context::Server;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::query::Query;
use crate::net::resolver::query::QueryOptions;
use crate::net::resolver::query::Question;
use crate::rt;
use crate::rt::UdpSocket;
use crate::rt::timer;

/// Mismatched datagrams after which the query fails, since someone may be forging answers.
pub(super) const FOREIGN_MAX: u32 = 100;
/// Receive buffer of a datagram. Larger than any answer that we request; if full, it was cut.
pub(super) const DATAGRAM_BYTES: usize = 4096;
/// The length prefix of a message over TCP (RFC 1035 s4.2.2).
const LENGTH_BYTES: usize = 2;

/// Queries `server`, without EDNS if the server refuses it.
pub(super) async fn exchange(
    context: &Context,
    server: &Server,
    question: &Question,
    limit: Duration,
) -> Result<Answer, DnsFault> {
    let until = timer::now() + limit;
    let edns_bytes = server.takes_edns(timer::now()).then_some(context.settings.edns_bytes);
    let options = QueryOptions { edns_bytes, authentic: context.trusts_ad() };
    let mut reading = ask(context, server, question, (options, until)).await?;
    if reading == Reading::NoEdns {
        server.refused_edns(timer::now());
        let options = QueryOptions { edns_bytes: None, ..options };
        reading = ask(context, server, question, (options, until)).await?;
    }
    reading.answer()
}

/// Queries over UDP, and over TCP if the answer is truncated.
async fn ask(
    context: &Context,
    server: &Server,
    question: &Question,
    (options, until): (QueryOptions, Instant),
) -> Result<Reading, DnsFault> {
    let query = Query::new(question, options).ok_or(DnsFault::BadName)?;
    let reading = ask_udp(context, server, &query, until).await;
    // Only UDP decides whether a server is up: nearly all queries work without TCP.
    match reading {
        Ok(Reading::Truncated) => server.replied(),
        Ok(reading) => {
            server.replied();
            return Ok(reading);
        }
        Err(fault) => {
            if !fault.is_reply() {
                server.timed_out(fault, timer::now());
            }
            return Err(fault);
        }
    }
    context.count(|figures| figures.tcp += 1);
    // A new id, because the old one may have been observed.
    let query = Query::new(question, options).ok_or(DnsFault::BadName)?;
    ask_tcp(context, server, &query, until).await
}

async fn ask_udp(
    context: &Context,
    server: &Server,
    query: &Query,
    until: Instant,
) -> Result<Reading, DnsFault> {
    let mut socket = UdpSocket::connect(server.address, None)?;
    socket.deadline().set_in(left(until)?);
    context.count(|figures| figures.questions += 1);
    socket.send(&query.bytes)?;
    let mut room = vec![0; DATAGRAM_BYTES];
    for foreign in 0..FOREIGN_MAX {
        let bytes = match socket.receive(&mut room).await {
            Ok(bytes) => bytes,
            Err(fault) if foreign == 0 => return Err(fault.into()),
            Err(_) => return Err(DnsFault::Mismatched),
        };
        match answer::read(query, &room[..bytes]) {
            Reading::Foreign => context.count(|figures| figures.foreign += 1),
            Reading::Fault(DnsFault::Malformed) if bytes == room.len() => {
                return Ok(Reading::Truncated);
            }
            reading => return Ok(reading),
        }
    }
    Err(DnsFault::Mismatched)
}

async fn ask_tcp(
    context: &Context,
    server: &Server,
    query: &Query,
    until: Instant,
) -> Result<Reading, DnsFault> {
    let mut stream = rt::connect(server.address, None, left(until)?).await?;
    stream.deadline().set_in(left(until)?);
    stream.write(framed(query)?).await.0?;
    let mut received: Vec<u8> = Vec::new();
    loop {
        if let Some(message) = whole_message(&received) {
            return Ok(answer::read(query, message));
        }
        let chunk = stream.read(&context.chunks, None).await?;
        received.extend_from_slice(chunk.bytes());
        context.chunks.give(chunk);
    }
}

/// The query with its length prefix for TCP.
pub(super) fn framed(query: &Query) -> Result<Vec<u8>, DnsFault> {
    let length = u16::try_from(query.bytes.len()).map_err(|_| DnsFault::BadName)?;
    let mut framed = Vec::with_capacity(LENGTH_BYTES + query.bytes.len());
    framed.extend(length.to_be_bytes());
    framed.extend(&query.bytes);
    Ok(framed)
}

/// The message in the bytes received over TCP, once complete.
pub(super) fn whole_message(received: &[u8]) -> Option<&[u8]> {
    let [high, low, message @ ..] = received else { return None };
    message.get(..usize::from(u16::from_be_bytes([*high, *low])))
}

/// The time left until `until`.
pub(super) fn left(until: Instant) -> Result<Duration, DnsFault> {
    let left = until.saturating_duration_since(timer::now());
    if left.is_zero() { Err(DnsFault::Timeout) } else { Ok(left) }
}

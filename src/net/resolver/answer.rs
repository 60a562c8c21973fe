//! Parses the answers of name servers.
//!
//! Promise:  uses only records of the requested type, owned by the requested name or by the end of its
//!           chain of aliases. A negative answer counts only from a server that can know:
//!           authoritative or recursive.

use std::rc::Rc;

use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;

use crate::net::dane::TlsaRecord;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::name;
use crate::net::resolver::query::Datum;
use crate::net::resolver::query::Kind;
use crate::net::resolver::query::Query;

/// Aliases from the requested name to its records. The C library allows 10, BIND 17.
pub(super) const CNAMES_MAX: usize = 8;
/// The length of the header.
const HEADER_BYTES: usize = 12;

/// The usable answer of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) said: Said,
    /// In seconds, the lowest of all records in the chain.
    pub(super) ttl: Option<u32>,
    /// The server has validated the answer (AD bit).
    pub(super) authentic: bool,
    pub(super) wire_bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Records(Vec<Datum>),
    /// The name does not exist.
    NoName,
    /// The name has no records of the type.
    NoRecords,
    /// The target of the alias chain and its length; the answer has no records of the target.
    Alias(Rc<str>, usize),
}

/// The result of parsing a received message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Does not match the query. May be forged, so the real answer may follow.
    Foreign,
    /// The answer is too large for UDP.
    Truncated,
    /// The server does not support EDNS.
    NoEdns,
    Answer(Answer),
    /// An unusable answer.
    Fault(DnsFault),
}

impl Reading {
    /// The final result, if no further query follows.
    pub(super) fn answer(self) -> Result<Answer, DnsFault> {
        match self {
            Reading::Answer(answer) => Ok(answer),
            Reading::Fault(fault) => Err(fault),
            Reading::Foreign => Err(DnsFault::Mismatched),
            Reading::Truncated | Reading::NoEdns => Err(DnsFault::Malformed),
        }
    }
}

/// Parses a message received while `query` waits for its answer.
pub(super) fn read(query: &Query, bytes: &[u8]) -> Reading {
    let [id_high, id_low, flags, ..] = *bytes else {
        return Reading::Foreign;
    };
    let answers = flags & 0x80 != 0 && bytes.len() >= HEADER_BYTES;
    if u16::from_be_bytes([id_high, id_low]) != query.id || !answers {
        return Reading::Foreign;
    }
    // A truncated answer may end within a record, which the decoder rejects.
    if flags & 0x02 != 0 {
        return Reading::Truncated;
    }
    match Message::from_vec(bytes) {
        Ok(message) => read_message(query, &message, bytes.len()),
        Err(_) => Reading::Fault(DnsFault::Malformed),
    }
}

fn read_message(query: &Query, message: &Message, wire_bytes: usize) -> Reading {
    let metadata = &message.metadata;
    let code = metadata.response_code;
    let failed = !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    if metadata.op_code != OpCode::Query || metadata.message_type != MessageType::Response {
        return Reading::Foreign;
    }
    // An error reply may omit the question.
    let bare_failure = failed && message.queries.is_empty();
    if !echoes(query, message) && !bare_failure {
        return Reading::Foreign;
    }
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => match read_answer(query, message) {
            Ok((said, ttl)) => {
                let authentic = query.options.authentic && metadata.authentic_data;
                Reading::Answer(Answer { said, ttl, authentic, wire_bytes })
            }
            Err(fault) => Reading::Fault(fault),
        },
        ResponseCode::Refused => Reading::Fault(DnsFault::Refused),
        ResponseCode::FormErr
        | ResponseCode::NotImp
        | ResponseCode::BADVERS
        | ResponseCode::BADSIG
            if query.options.edns_bytes.is_some() =>
        {
            Reading::NoEdns
        }
        _ => Reading::Fault(DnsFault::ServerFailure),
    }
}

fn echoes(query: &Query, message: &Message) -> bool {
    let [echo] = message.queries.as_slice() else {
        return false;
    };
    let same_kind = echo.query_type == query.kind.record_type();
    same_kind && echo.query_class == DNSClass::IN && echo.name == query.name
}

/// The content of the answer, and its TTL in seconds.
fn read_answer(query: &Query, message: &Message) -> Result<(Said, Option<u32>), DnsFault> {
    let metadata = &message.metadata;
    let absent = metadata.response_code == ResponseCode::NXDomain;
    let chain = Chain::follow(query, &message.answers)?;
    let (data, ttl) = chain.records(query.kind, &message.answers)?;
    let ttl = ttl.min(chain.ttl);
    if !data.is_empty() {
        // RFC 6604 s3: NXDOMAIN refers to the end of the alias chain, but records were found there.
        return if absent {
            Err(DnsFault::Malformed)
        } else {
            Ok((Said::Records(data), Some(ttl)))
        };
    }
    let soa_ttl = soa_ttl(&message.authorities, &chain.end);
    if chain.hops > 0 && !absent && soa_ttl.is_none() {
        let target = name::to_text(&chain.end).filter(|target| !target.is_empty());
        let target = target.ok_or(DnsFault::Malformed)?;
        return Ok((Said::Alias(target, chain.hops), Some(ttl)));
    }
    if chain.hops == 0 && !message.answers.is_empty() {
        return Err(DnsFault::Mismatched);
    }
    let refers = |record: &Record| matches!(record.data, RData::NS(_));
    let referral = !absent && soa_ttl.is_none() && message.authorities.iter().any(refers);
    let may_know = metadata.authoritative || metadata.recursion_available && !referral;
    if !may_know {
        return Err(DnsFault::Lame);
    }
    let ttl = soa_ttl.map(|soa_ttl| soa_ttl.min(chain.ttl));
    Ok((if absent { Said::NoName } else { Said::NoRecords }, ttl))
}

/// The chain of aliases from the requested name.
struct Chain {
    end: Name,
    hops: usize,
    ttl: u32,
}

impl Chain {
    fn follow(query: &Query, answers: &[Record]) -> Result<Chain, DnsFault> {
        let mut chain = Chain { end: query.name.clone(), hops: 0, ttl: u32::MAX };
        let kind = query.kind.record_type();
        loop {
            let mut owned = answers.iter().filter(|record| is_of(record, &chain.end));
            if owned.clone().any(|record| record.record_type() == kind) {
                return Ok(chain);
            }
            let alias = owned.find_map(|record| match &record.data {
                RData::CNAME(target) => Some((target.0.clone(), record.ttl)),
                _ => None,
            });
            let Some((target, ttl)) = alias else {
                return Ok(chain);
            };
            // Also ends a loop.
            if chain.hops == CNAMES_MAX {
                return Err(DnsFault::CnameLoop);
            }
            chain = Chain { end: target, hops: chain.hops + 1, ttl: chain.ttl.min(ttl) };
            // Names in a message are absolute, but the decoder may not mark them so.
            chain.end.set_fqdn(true);
        }
    }

    /// The records at the end of the chain, and their lowest TTL.
    fn records(&self, kind: Kind, answers: &[Record]) -> Result<(Vec<Datum>, u32), DnsFault> {
        let (mut data, mut unusable, mut least) = (Vec::new(), false, u32::MAX);
        let wanted = |record: &&Record| {
            is_of(record, &self.end) && record.record_type() == kind.record_type()
        };
        for record in answers.iter().filter(wanted) {
            match datum(&record.data) {
                Some(datum) => data.push(datum),
                None => unusable = true,
            }
            least = least.min(record.ttl);
        }
        if data.is_empty() && unusable { Err(DnsFault::Malformed) } else { Ok((data, least)) }
    }
}

fn is_of(record: &Record, name: &Name) -> bool {
    record.dns_class == DNSClass::IN && record.name == *name
}

fn datum(data: &RData) -> Option<Datum> {
    Some(match data {
        RData::A(address) => Datum::V4(address.0),
        RData::AAAA(address) => Datum::V6(address.0),
        RData::MX(mx) => Datum::Exchange(mx.preference, (*name::to_text(&mx.exchange)?).into()),
        RData::PTR(name) => Datum::Name((*name::to_text(&name.0)?).into()),
        RData::TXT(text) => Datum::Text(text.txt_data.concat().into()),
        RData::TLSA(tlsa) => Datum::Tlsa(TlsaRecord {
            usage: tlsa.cert_usage.into(),
            selector: tlsa.selector.into(),
            matching: tlsa.matching.into(),
            data: tlsa.cert_data.as_slice().into(),
        }),
        _ => return None,
    })
}

/// The TTL of a negative answer for `name` (RFC 2308 s5), if the SOA's zone encloses the name.
fn soa_ttl(authorities: &[Record], name: &Name) -> Option<u32> {
    let of_zone =
        |record: &&Record| record.record_type() == RecordType::SOA && record.name.zone_of(name);
    authorities.iter().filter(of_zone).find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query as WireQuery;
    use hickory_proto::rr::rdata::MX;
    use hickory_proto::rr::rdata::SOA;

    use super::*;
    use crate::net::resolver::query::QueryOptions;
    use crate::net::resolver::query::Question;

    fn name(text: &str) -> Name {
        name::to_wire(text).expect("a name")
    }

    fn query() -> Query {
        let question = Question { name: "a.test".into(), kind: Kind::Mx };
        let options = QueryOptions { edns_bytes: Some(1232), authentic: true };
        Query::new(&question, options).expect("a name that the wire can hold")
    }

    fn reply(query: &Query) -> Message {
        let mut reply = Message::response(query.id, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_query(WireQuery::query(query.name.clone(), query.kind.record_type()));
        reply
    }

    fn mx(owner: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::MX(MX::new(10, name("mx.test"))))
    }

    fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
        let soa = SOA::new(name("ns.test"), name("root.test"), 1, 2, 3, 4, minimum);
        Record::from_rdata(name(zone), ttl, RData::SOA(soa))
    }

    fn answer(query: &Query, message: &Message) -> Answer {
        match read(query, &message.to_vec().expect("encoded")) {
            Reading::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    #[test]
    fn the_least_ttl_counts() {
        let query = query();
        let mut message = reply(&query);
        message.answers = vec![mx("a.test", 300), mx("a.test", 60), mx("b.test", 1)];
        let answer = answer(&query, &message);
        assert_eq!(answer.ttl, Some(60));
        assert!(matches!(&answer.said, Said::Records(data) if data.len() == 2));
        assert!(!answer.authentic);
    }

    #[test]
    fn an_absence_lasts_as_its_zone_says() {
        let rows = [
            ("the minimum is less", vec![soa("test", 900, 30)], Some(30)),
            ("the record's TTL is less", vec![soa("a.test", 20, 30)], Some(20)),
            ("no SOA", vec![], None),
            ("another zone's", vec![soa("b.test", 900, 30)], None),
        ];
        for (row, authorities, ttl) in rows {
            let query = query();
            let mut message = reply(&query);
            message.authorities = authorities;
            let absent = answer(&query, &message);
            assert_eq!((absent.said, absent.ttl), (Said::NoRecords, ttl), "{row}");
            message.metadata.response_code = ResponseCode::NXDomain;
            let absent = answer(&query, &message);
            assert_eq!((absent.said, absent.ttl), (Said::NoName, ttl), "{row}");
        }
    }

    /// The network may bring anything.
    #[test]
    fn no_bytes_are_too_bad_to_be_read() {
        let query = query();
        let mut message = reply(&query);
        message.answers = vec![mx("a.test", 300)];
        message.authorities = vec![soa("test", 900, 30)];
        let whole = message.to_vec().expect("encoded");
        for end in 0..whole.len() {
            let reading = read(&query, &whole[..end]);
            assert!(!matches!(reading, Reading::Answer(_)), "cut at {end}: {reading:?}");
        }
        for at in 0..whole.len() {
            for change in 1..=255 {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                let reading = read(&query, &bytes);
                assert!(at > 1 || reading == Reading::Foreign, "another id: {reading:?}");
            }
        }
    }
}

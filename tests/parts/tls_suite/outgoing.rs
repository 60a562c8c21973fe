//! The client: which certificates it accepts, and how it handles misbehaving servers.

use std::sync::Arc;

use aws_lc_rs::digest;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use rcgen::date_time_ymd;
use ringpost::base::ChunkPool;
use ringpost::net::CertificateFault;
use ringpost::net::Channel;
use ringpost::net::ClientCertificate;
use ringpost::net::PeerCheck;
use ringpost::net::ServerCertificate;
use ringpost::net::TlsClient;
use ringpost::net::TlsFacts;
use ringpost::net::TlsFault;
use ringpost::net::TlsServer;
use ringpost::net::TlsSession;
use ringpost::net::TlsaRecord;
use ringpost::net::Transport;
use ringpost::net::Verdict;
use ringpost::net::tls_fault::HANDSHAKE_BYTES_MAX;

use crate::tls_suite::channel::Fault;
use crate::tls_suite::channel::now;
use crate::tls_suite::kit::Authority;
use crate::tls_suite::kit::Folder;
use crate::tls_suite::kit::NOW_MS;
use crate::tls_suite::kit::Ours;
use crate::tls_suite::kit::certificate_of;
use crate::tls_suite::kit::feed;
use crate::tls_suite::kit::our_client;
use crate::tls_suite::kit::settings;
use crate::tls_suite::kit::talk;

const HOST: &str = "mail.ours.test";

/// Both ends after a handshake.
fn meet(
    client: &Arc<TlsClient>,
    server: &Arc<TlsServer>,
    host: &str,
    check: PeerCheck,
) -> Result<(TlsSession, TlsSession), TlsFault> {
    let mut ours = TlsSession::to_server(client, host, check)?;
    let mut theirs = TlsSession::new(server)?;
    talk(&mut ours, &mut theirs, 64 << 10)?;
    assert!(!ours.is_handshaking() && !theirs.is_handshaking());
    Ok((ours, theirs))
}

fn facts(session: &TlsSession) -> &TlsFacts {
    session.facts().expect("the handshake is done")
}

fn shown(session: &TlsSession) -> &ServerCertificate {
    facts(session).server.as_deref().expect("the server has a certificate")
}

fn server_with(folder: &Folder, pair: &(String, String)) -> Arc<TlsServer> {
    TlsServer::build(&settings(vec![folder.pair("theirs", pair)]), NOW_MS)
        .expect("the settings are valid")
}

#[test]
fn bytes_pass_both_ways_at_every_split() {
    let ours = Ours::new();
    let client = our_client(&ours.folder, &ours.authority.pem());
    let words: Vec<u8> = (0..70_000_u32).map(|n| (n % 251) as u8).collect();
    for piece in [1, 7, 1448, 64 << 10] {
        let mut near = TlsSession::to_server(&client, HOST, PeerCheck::Name).expect("a session");
        let mut far = TlsSession::new(&ours.server).expect("a session");
        assert!(near.sends_first() && !far.sends_first());
        talk(&mut near, &mut far, piece).expect("a handshake");
        let (mut there, mut back) = (Vec::new(), Vec::new());
        near.encrypt(&words, &mut there).expect("words");
        assert!(feed(&mut far, &there, (piece, 5000), &mut back).expect("heard") == words);
        far.encrypt(&words, &mut back).expect("words");
        there.clear();
        assert!(feed(&mut near, &back, (piece, 5000), &mut there).expect("heard") == words);
        assert_eq!((near.bytes_held(), far.bytes_held()), (0, 0), "nothing is held when idle");
        near.close(&mut there);
        feed(&mut far, &there, (piece, 100), &mut back).expect("a goodbye");
        assert_eq!(far.on_end(), TlsFault::Closed);
        assert_eq!(near.on_end(), TlsFault::Truncated, "the server has not sent close_notify");
    }
}

#[test]
fn facts_identify_the_server() {
    let ours = Ours::new();
    let client = our_client(&ours.folder, &ours.authority.pem());
    let (near, far) =
        meet(&client, &ours.server, "Mail.Ours.test.", PeerCheck::Name).expect("good");
    assert_eq!(facts(&near).version, "TLSv1.3");
    assert_eq!(facts(&near).cipher, facts(&far).cipher);
    assert_eq!(facts(&near).server_name.as_deref(), Some(HOST));
    assert_eq!(facts(&far).server_name.as_deref(), Some(HOST), "the name is sent");
    assert_eq!(facts(&near).client, ClientCertificate::None);
    assert_eq!(facts(&far).server, None);
    assert_eq!(&*shown(&near).subject, "CN=the subject");
    assert_eq!(&*shown(&near).issuer, "CN=Authority of ours");
    assert_eq!(shown(&near).verdict.to_string(), "verified");
}

#[test]
fn each_certificate_is_verified_by_the_check() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let client = our_client(&folder, &authority.pem());
    let ecdsa = &rcgen::PKCS_ECDSA_P256_SHA256;
    let dated = |from: i32, to: i32| {
        authority.issue_as(&[HOST], ecdsa, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    let own_key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new([HOST.to_owned()]).expect("a name");
    let own = own.self_signed(&own_key).expect("a certificate");
    let good = authority.issue(&[HOST]);
    let table = [
        ("good", good.clone(), None),
        ("a wildcard", authority.issue(&["*.ours.test"]), None),
        ("another name", authority.issue(&["mail.other.test"]), Some(CertificateFault::OtherName)),
        ("a deeper wildcard", authority.issue(&["*.test"]), Some(CertificateFault::OtherName)),
        ("no name", authority.issue(&[]), Some(CertificateFault::OtherName)),
        ("expired", dated(2019, 2020), Some(CertificateFault::Expired)),
        ("of the future", dated(2090, 2091), Some(CertificateFault::NotYetValid)),
        (
            "another authority",
            Authority::new("Unknown").issue(&[HOST]),
            Some(CertificateFault::UnknownIssuer),
        ),
        (
            "an authority that only bears the name",
            Authority::new("Known").issue(&[HOST]),
            Some(CertificateFault::BadSignature),
        ),
        (
            "self-signed",
            (own.pem(), own_key.serialize_pem()),
            Some(CertificateFault::UnknownIssuer),
        ),
    ];
    for (case, pair, expected) in table {
        let server = server_with(&folder, &pair);
        let (near, _) = meet(&client, &server, HOST, PeerCheck::Any).expect(case);
        let verdict = shown(&near).verdict;
        assert_eq!(verdict, expected.map_or(Verdict::Name, Verdict::Unproven), "{case}");
        match (meet(&client, &server, HOST, PeerCheck::Name), expected) {
            (Ok((near, _)), None) => assert_eq!(shown(&near).verdict, Verdict::Name, "{case}"),
            (Err(fault), Some(_)) => assert_eq!(fault.certificate(), expected, "{case}: {fault}"),
            (outcome, _) => panic!("{case}: {outcome:?}"),
        }
    }
    let server = server_with(&folder, &good);
    let mut near = TlsSession::to_server(&client, "mx.other.test", PeerCheck::Name).expect("one");
    let mut far = TlsSession::new(&server).expect("a session");
    talk(&mut near, &mut far, 1000).expect_err("the name does not match");
    let told = far.fault().expect("the server gets an alert");
    assert!(matches!(told, TlsFault::Alert(_)), "{told}");
}

#[derive(Clone, Copy)]
enum Of {
    Leaf,
    Root,
}

#[test]
fn tlsa_records_are_matched() {
    let authority = Authority::new("An unknown authority");
    let folder = Folder::new();
    // The client trusts none of the authorities.
    let client = our_client(&folder, &Authority::new("Another").pem());
    let root = authority.pem();
    let with_root = |(leaf, key): (String, String)| (format!("{leaf}{root}"), key);
    let expired = authority.issue_as(&[HOST], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let chain = with_root(authority.issue(&[HOST]));
    let alone = authority.issue(&[HOST]);
    let old = with_root(expired);
    let other = with_root(authority.issue(&["mx.other.test"]));
    let next = with_root(authority.issue(&["theirs.test"]));
    let bad = |fault| Err(Some(fault));
    type Expected = Result<(), Option<CertificateFault>>;
    type Row<'a> = (&'a str, &'a (String, String), (u8, u8, u8), Of, Expected);
    let table: [Row<'_>; 20] = [
        ("EE, whole", &chain, (3, 0, 0), Of::Leaf, Ok(())),
        ("EE, whole, 256", &chain, (3, 0, 1), Of::Leaf, Ok(())),
        ("EE, whole, 512", &chain, (3, 0, 2), Of::Leaf, Ok(())),
        ("EE, key", &chain, (3, 1, 0), Of::Leaf, Ok(())),
        ("EE, key, 256", &chain, (3, 1, 1), Of::Leaf, Ok(())),
        ("EE, key, 512", &chain, (3, 1, 2), Of::Leaf, Ok(())),
        ("EE, expired", &old, (3, 1, 1), Of::Leaf, Ok(())),
        ("EE, another name", &other, (3, 1, 1), Of::Leaf, Ok(())),
        ("EE, the authority's key", &chain, (3, 1, 1), Of::Root, Err(None)),
        ("TA, whole", &chain, (2, 0, 0), Of::Root, Ok(())),
        ("TA, whole, 256", &chain, (2, 0, 1), Of::Root, Ok(())),
        ("TA, key, 256", &chain, (2, 1, 1), Of::Root, Ok(())),
        ("TA, key, 512", &chain, (2, 1, 2), Of::Root, Ok(())),
        ("TA that is not sent, in the record", &alone, (2, 0, 0), Of::Root, Ok(())),
        ("TA that is not sent, its digest", &alone, (2, 0, 1), Of::Root, Err(None)),
        ("TA, expired", &old, (2, 0, 1), Of::Root, bad(CertificateFault::Expired)),
        ("TA, another name", &other, (2, 0, 1), Of::Root, bad(CertificateFault::OtherName)),
        ("TA, the next hop's name", &next, (2, 0, 1), Of::Root, Ok(())),
        ("TA, the leaf's key", &chain, (2, 1, 1), Of::Leaf, Err(None)),
        ("PKIX-EE is not for mail", &chain, (1, 1, 1), Of::Leaf, Err(None)),
    ];
    for (case, pair, fields, of, expected) in table {
        let pem = match of {
            Of::Leaf => pair.0.as_str(),
            Of::Root => root.as_str(),
        };
        let record = record(fields, pem);
        let server = server_with(&folder, pair);
        for records in [vec![record.clone()], vec![stranger(fields.0), record]] {
            let next_hop = Some(Arc::from("theirs.test"));
            let check = PeerCheck::Dane { records: records.into(), next_hop };
            match (meet(&client, &server, HOST, check), &expected) {
                (Ok((near, _)), Ok(())) => {
                    assert_eq!(shown(&near).verdict, Verdict::Dane, "{case}");
                }
                (Err(fault), Err(None)) => assert_eq!(fault, TlsFault::TlsaMismatch, "{case}"),
                (Err(fault), Err(cause)) => assert_eq!(fault.certificate(), *cause, "{case}"),
                (outcome, _) => panic!("{case}: {outcome:?}"),
            }
        }
    }
    let server = server_with(&folder, &next);
    let records = [record((2, 0, 1), &root)].into();
    let check = PeerCheck::Dane { records, next_hop: None };
    let fault = meet(&client, &server, HOST, check).expect_err("the name was not requested");
    assert_eq!(fault.certificate(), Some(CertificateFault::OtherName));
    let check = PeerCheck::Dane { records: [].into(), next_hop: None };
    let fault = meet(&client, &server, HOST, check).expect_err("no record matches");
    assert_eq!(fault, TlsFault::TlsaMismatch);
}

/// The TLSA record of a certificate; an independent parser finds its key.
fn record((usage, selector, matching): (u8, u8, u8), pem: &str) -> TlsaRecord {
    let certificate = certificate_of(pem);
    let parsed = rustls::server::ParsedCertificate::try_from(&certificate).expect("the peer reads");
    let key = parsed.subject_public_key_info();
    let bytes = if selector == 0 { certificate.as_ref() } else { key.as_ref() };
    let data = match matching {
        0 => bytes.into(),
        1 => digest::digest(&digest::SHA256, bytes).as_ref().into(),
        _ => digest::digest(&digest::SHA512, bytes).as_ref().into(),
    };
    TlsaRecord { usage, selector, matching, data }
}

/// A record of another certificate, as during a key rollover.
fn stranger(usage: u8) -> TlsaRecord {
    TlsaRecord { usage, selector: 1, matching: 0, data: vec![1; 91].into() }
}

#[test]
fn sessions_are_resumed_only_under_the_same_check() {
    let ours = Ours::new();
    let client = our_client(&ours.folder, &ours.authority.pem());
    let pem =
        std::fs::read_to_string(ours.folder.path().join("mail.crt")).expect("the file exists");
    let dane = PeerCheck::Dane { records: [record((3, 1, 1), &pem)].into(), next_hop: None };
    let table = [
        ("first", HOST, PeerCheck::Any, false),
        ("again", HOST, PeerCheck::Any, true),
        ("its name for the first time", HOST, PeerCheck::Name, false),
        ("its name again", HOST, PeerCheck::Name, true),
        ("dane", HOST, dane.clone(), false),
        ("dane again", HOST, dane, false),
        ("another host", "mx.ours.test", PeerCheck::Any, false),
        ("still", HOST, PeerCheck::Any, true),
    ];
    for (case, host, check, resumed) in table {
        let (near, far) = meet(&client, &ours.server, host, check).expect(case);
        assert_eq!((facts(&near).resumed, facts(&far).resumed), (resumed, resumed), "{case}");
        assert_eq!(&*shown(&near).subject, "CN=the subject", "{case}");
    }
}

/// A server that sends a script in pieces, and ignores its input.
struct Script {
    words: Vec<u8>,
    piece: usize,
    heard: usize,
}

impl Transport for Script {
    type Fault = Fault;

    fn is_end(fault: &Fault) -> bool {
        *fault == Fault::End
    }

    async fn read(
        &mut self,
        pool: &ChunkPool,
        _: Option<ringpost::base::Chunk>,
    ) -> Result<ringpost::base::Chunk, Fault> {
        if self.words.is_empty() {
            return Err(Fault::End);
        }
        let mut chunk = pool.try_take().ok_or(Fault::Deadline)?;
        let count = self.piece.min(self.words.len());
        chunk.fill_from(&self.words[..count]);
        self.words.drain(..count);
        Ok(chunk)
    }

    async fn write(&mut self, mut bytes: Vec<u8>) -> (Result<(), Fault>, Vec<u8>) {
        self.heard += bytes.len();
        bytes.clear();
        (Ok(()), bytes)
    }
}

#[test]
fn a_misbehaving_server_is_reported_with_a_cause() {
    let ours = Ours::new();
    let client = our_client(&ours.folder, &ours.authority.pem());
    // The flight of a real server for another hello: it fails when the keys are computed.
    let mut far = TlsSession::new(&ours.server).expect("a session");
    let mut near = TlsSession::to_server(&client, HOST, PeerCheck::Any).expect("a session");
    let (mut hello, mut flight) = (Vec::new(), Vec::new());
    near.absorb(&mut [], &mut [], &mut hello).expect("a hello");
    feed(&mut far, &hello, (64 << 10, 100), &mut flight).expect("a flight");
    let mut endless = Vec::new();
    for part in 0..40 {
        endless.extend([22, 3, 3, 0x0F, 0xA0]);
        let mut body = vec![b'a'; 4000];
        if part == 0 {
            body[..4].copy_from_slice(&[2, 0, 0xFD, 0xE8]);
        }
        endless.extend(body);
    }
    assert!(endless.len() > HANDSHAKE_BYTES_MAX);
    let table: [(&str, Vec<u8>, bool); 9] = [
        ("silence", Vec::new(), true),
        ("SMTP", b"454 4.7.0 TLS not available\r\n".to_vec(), false),
        ("garbage", (0..200).map(|n| (n * 37 % 256) as u8).collect(), false),
        ("the end inside a header", flight[..3].to_vec(), true),
        ("the end inside a record", flight[..60].to_vec(), true),
        ("a flight for another client", flight.clone(), false),
        ("an alert", b"\x15\x03\x03\x00\x02\x02\x28".to_vec(), false),
        ("data before the handshake", b"\x17\x03\x03\x00\x05hello".to_vec(), false),
        ("a hello without end", endless, false),
    ];
    for (case, words, truncated) in table {
        for piece in [1, 6, 1500, 64 << 10] {
            let pool = ChunkPool::new(1);
            let script = Script { words: words.clone(), piece, heard: 0 };
            let mut channel = Channel::plain(script);
            channel.start_tls_client(&client, HOST, PeerCheck::Any).expect("a session");
            let fault = now(channel.handshake(&pool, None)).expect_err(case);
            let Fault::Tls(fault) = fault else { panic!("{case}: {fault:?}") };
            assert_eq!(fault == TlsFault::Truncated, truncated, "{case}: {fault}");
            assert_eq!(channel.tls_fault(), Some(&fault), "{case}");
            assert!(channel.stream().heard > 100, "{case}: the hello was sent");
            assert!(channel.tls_facts().is_none(), "{case}");
            assert_eq!(pool.chunks_out(), 0, "{case}");
            let again = now(channel.handshake(&pool, None)).expect_err(case);
            assert_eq!(again, Fault::Tls(fault), "{case}: it stays broken");
        }
    }
}

#[test]
fn an_end_is_distinguished_from_a_truncation() {
    let ours = Ours::new();
    let client = our_client(&ours.folder, &ours.authority.pem());
    for (case, goodbye, expected) in
        [("goodbye", true, TlsFault::Closed), ("cut", false, TlsFault::Truncated)]
    {
        let (mut near, mut far) = meet(&client, &ours.server, HOST, PeerCheck::Any).expect(case);
        let mut said = Vec::new();
        far.encrypt(b"250 queued\r\n", &mut said).expect(case);
        if goodbye {
            far.close(&mut said);
        }
        let got = feed(&mut near, &said, (5, 100), &mut Vec::new()).expect(case);
        assert_eq!(got, b"250 queued\r\n", "{case}");
        assert_eq!(near.on_end(), expected, "{case}");
    }
}

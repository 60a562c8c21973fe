//! The state machine, driven byte by byte against a client of the same library.

use std::sync::Arc;

use ringpost::net::TlsFault;
use ringpost::net::TlsSession;
use ringpost::net::tls_fault::HANDSHAKE_BYTES_MAX;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::tls_suite::kit::Ours;
use crate::tls_suite::kit::client_config;
use crate::tls_suite::kit::connect;
use crate::tls_suite::kit::feed;
use crate::tls_suite::kit::handshake;
use crate::tls_suite::kit::hear;
use crate::tls_suite::kit::heard;
use crate::tls_suite::kit::spoken;
use crate::tls_suite::kit::tell;

/// Bytes in which a lost, repeated or misplaced piece is noticed.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ (n / 251) as u8).collect()
}

#[test]
fn bytes_arrive_completely_at_every_split() {
    let ours = Ours::new();
    let table = [
        ("1.3, as it comes", &TLS13, 64 << 10, 64 << 10),
        ("1.3, byte by byte", &TLS13, 1, 64 << 10),
        ("1.3, in sevens, little room", &TLS13, 7, 100),
        ("1.3, a packet at a time", &TLS13, 1448, 64 << 10),
        ("1.3, as it comes, room for one byte", &TLS13, 64 << 10, 1),
        ("1.3, more than a record, less room", &TLS13, 20_000, 5000),
        ("1.2, as it comes", &TLS12, 64 << 10, 64 << 10),
        ("1.2, byte by byte", &TLS12, 1, 64 << 10),
        ("1.2, little room", &TLS12, 1448, 333),
    ];
    let words = pattern(70_000);
    for (case, version, piece, room) in table {
        let mut session = TlsSession::new(&ours.server).expect("a session");
        let mut client = ours.client(&[version]);
        handshake(&mut session, &mut client, piece).expect(case);
        let mut said = Vec::new();
        for part in words.chunks(9_999) {
            tell(&mut client, part);
            said.extend(spoken(&mut client));
        }
        let mut out = Vec::new();
        let got = feed(&mut session, &said, (piece, room), &mut out).expect(case);
        assert!(got == words, "{case}: {} of {} bytes", got.len(), words.len());
        assert_eq!(session.bytes_held(), 0, "{case}: nothing is held when idle");
        let mut back = Vec::new();
        for part in words.chunks(40_000) {
            session.encrypt(part, &mut out).expect(case);
            // The client's own buffer is small, so it is emptied in each round.
            for piece in out.chunks(5000) {
                hear(&mut client, piece).expect(case);
                back.extend(heard(&mut client));
            }
            out.clear();
        }
        assert!(back == words, "{case}: the other direction");
    }
}

/// A client hello of 500 bytes in records of a few bytes: a message is complete only after many.
#[test]
fn messages_split_over_many_records_are_joined() {
    let ours = Ours::new();
    for version in [&TLS13, &TLS12] {
        for fragment in [32, 61, 200] {
            for piece in [1, 5, 40, 333, 64 << 10] {
                let case = format!("{version:?}, fragments of {fragment}, pieces of {piece}");
                let mut config = client_config(&ours.authority, &[version], None);
                config.max_fragment_size = Some(fragment);
                let mut client = connect(Arc::new(config), "mail.ours.test");
                let mut session = TlsSession::new(&ours.server).expect("a session");
                handshake(&mut session, &mut client, piece).expect(&case);
                tell(&mut client, &pattern(1000));
                let said = spoken(&mut client);
                let got = feed(&mut session, &said, (piece, 64 << 10), &mut Vec::new());
                assert_eq!(got.expect(&case), pattern(1000), "{case}");
                assert_eq!(session.bytes_held(), 0, "{case}");
            }
        }
    }
}

#[test]
fn facts_contain_the_negotiated_parameters() {
    let ours = Ours::new();
    for (version, name, prefix) in [(&TLS13, "TLSv1.3", "TLS_A"), (&TLS12, "TLSv1.2", "TLS_ECDHE_")]
    {
        let mut session = TlsSession::new(&ours.server).expect("a session");
        assert!(session.facts().is_none() && session.is_handshaking());
        handshake(&mut session, &mut ours.client(&[version]), 1000).expect(name);
        let facts = session.facts().expect("the handshake is done");
        assert_eq!(facts.version, name);
        assert!(facts.cipher.starts_with(prefix), "{}", facts.cipher);
        assert_eq!(facts.server_name.as_deref(), Some("mail.ours.test"));
        assert!(!facts.resumed);
    }
}

#[test]
fn data_in_the_last_flight_waits_for_room() {
    let ours = Ours::new();
    let mut session = TlsSession::new(&ours.server).expect("a session");
    let mut client = ours.client(&[&TLS13]);
    let mut out = Vec::new();
    let mut hello = spoken(&mut client);
    session.absorb(&mut hello, &mut [], &mut out).expect("a hello");
    tell(&mut client, b"EHLO early\r\n");
    hear(&mut client, &out).expect("the server's flight");
    let mut last = spoken(&mut client);
    out.clear();
    let first = session.absorb(&mut last, &mut [], &mut out).expect("the client's flight");
    assert!(!session.is_handshaking());
    assert!(first.consumed < last.len() && first.produced == 0, "the data is not consumed");
    assert!(!out.is_empty(), "the ticket is not delayed by the data");
    let mut room = [0; 64];
    let rest = &mut last[first.consumed..];
    let second = session.absorb(rest, &mut room, &mut out).expect("the data");
    assert_eq!(&room[..second.produced], b"EHLO early\r\n");
}

#[test]
fn only_close_notify_is_a_clean_end() {
    let ours = Ours::new();
    let words = pattern(30_000);
    let table = [
        ("said goodbye", usize::MAX, true, TlsFault::Closed),
        ("just went", usize::MAX, false, TlsFault::Truncated),
        ("went inside a record", 20_000, false, TlsFault::Truncated),
        ("went inside the goodbye", usize::MAX - 1, true, TlsFault::Truncated),
    ];
    for (case, cut, goodbye, expected) in table {
        let mut session = TlsSession::new(&ours.server).expect("a session");
        let mut client = ours.client(&[&TLS13]);
        handshake(&mut session, &mut client, 1000).expect(case);
        tell(&mut client, &words);
        if goodbye {
            client.send_close_notify();
        }
        let mut said = spoken(&mut client);
        match cut {
            usize::MAX => {}
            cut if cut == usize::MAX - 1 => said.truncate(said.len() - 1),
            cut => said.truncate(cut),
        }
        let got = feed(&mut session, &said, (4096, 4096), &mut Vec::new()).expect(case);
        assert!(words.starts_with(&got) && got.len() >= 16_384, "{case}");
        assert_eq!(session.is_peer_closed(), expected == TlsFault::Closed, "{case}");
        assert_eq!(session.on_end(), expected, "{case}");
        assert_eq!(session.fault(), Some(&expected), "{case}");
    }
}

#[test]
fn input_after_close_notify_is_ignored() {
    let ours = Ours::new();
    let mut session = TlsSession::new(&ours.server).expect("a session");
    let mut client = ours.client(&[&TLS13]);
    handshake(&mut session, &mut client, 1000).expect("a handshake");
    tell(&mut client, b"QUIT\r\n");
    client.send_close_notify();
    let mut said = spoken(&mut client);
    said.extend(b"anything at all");
    let mut out = Vec::new();
    let got = feed(&mut session, &said, (3, 100), &mut out).expect("the input is ignored");
    assert_eq!(got, b"QUIT\r\n");
    assert_eq!(session.bytes_held(), 0);
    session.encrypt(b"221 2.0.0 Bye\r\n", &mut out).expect("the other direction is still open");
    session.close(&mut out);
    hear(&mut client, &out).expect("data and close_notify");
    let state = client.process_new_packets().expect("no fault");
    assert!(state.peer_has_closed());
    assert_eq!(heard(&mut client), b"221 2.0.0 Bye\r\n");
}

#[test]
fn our_close_notify_is_a_clean_end_for_the_client() {
    let ours = Ours::new();
    for version in [&TLS13, &TLS12] {
        let mut session = TlsSession::new(&ours.server).expect("a session");
        let mut client = ours.client(&[version]);
        handshake(&mut session, &mut client, 1000).expect("a handshake");
        let mut out = Vec::new();
        // Meanwhile the session holds half a record, which must not matter.
        tell(&mut client, b"NOOP\r\n");
        let said = spoken(&mut client);
        feed(&mut session, &said[..10], (10, 100), &mut out).expect("half a record");
        assert!(session.bytes_held() > 0);
        session.encrypt(b"421 4.3.2 Down\r\n", &mut out).expect("data");
        let got = feed(&mut session, &said[10..], (100, 100), &mut out).expect("the other half");
        assert_eq!(got, b"NOOP\r\n");
        session.close(&mut out);
        session.close(&mut out);
        hear(&mut client, &out).expect("data and close_notify");
        assert!(client.process_new_packets().expect("no fault").peer_has_closed());
        assert_eq!(heard(&mut client), b"421 4.3.2 Down\r\n");
    }
}

#[test]
fn a_modified_record_breaks_the_connection_for_good() {
    let ours = Ours::new();
    let mut session = TlsSession::new(&ours.server).expect("a session");
    let mut client = ours.client(&[&TLS13]);
    handshake(&mut session, &mut client, 1000).expect("a handshake");
    tell(&mut client, b"first\r\n");
    let good = spoken(&mut client);
    tell(&mut client, b"second\r\n");
    let mut bad = spoken(&mut client);
    *bad.last_mut().expect("a record") ^= 1;
    let mut both = [good, bad].concat();
    let (mut room, mut out) = ([0; 100], Vec::new());
    let absorbed =
        session.absorb(&mut both, &mut room, &mut out).expect("the first record is valid");
    assert_eq!(&room[..absorbed.produced], b"first\r\n", "the data before it is returned");
    assert!(hear(&mut client, &out).is_err(), "the client gets the alert");
    let fault = session.absorb(&mut [], &mut room, &mut out).expect_err("it stays broken");
    assert!(matches!(fault, TlsFault::Protocol(rustls::Error::DecryptError)), "{fault}");
    assert!(session.encrypt(b"250 fine\r\n", &mut out).is_err());
    assert_eq!(session.on_end(), fault);
    assert_eq!(session.bytes_held(), 0);
}

#[test]
fn a_peer_without_tls_is_refused_at_once() {
    let ours = Ours::new();
    let mut endless = Vec::new();
    for part in 0..40 {
        // A client hello with a length of 65,000 bytes, in records of 4000.
        endless.extend([22, 3, 1, 0x0F, 0xA0]);
        let mut body = vec![b'a'; 4000];
        if part == 0 {
            body[..4].copy_from_slice(&[1, 0, 0xFD, 0xE8]);
        }
        endless.extend(body);
    }
    let table: [(&str, Vec<u8>); 7] = [
        ("SMTP", b"EHLO client.example\r\n".to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: mail\r\n\r\n".to_vec()),
        ("SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80".to_vec()),
        ("a record that is too long", b"\x16\x03\x01\xff\xff\x01".to_vec()),
        ("data before the handshake", b"\x17\x03\x03\x00\x05hello".to_vec()),
        ("an invalid hello", b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff".to_vec()),
        ("a hello without end", endless),
    ];
    for (case, bytes) in table {
        for piece in [1, 6, 1500, 64 << 10] {
            let mut session = TlsSession::new(&ours.server).expect("a session");
            let mut out = Vec::new();
            let fault = feed(&mut session, &bytes, (piece, 100), &mut out).expect_err(case);
            assert!(
                matches!(fault, TlsFault::Protocol(_) | TlsFault::HandshakeTooLong),
                "{case}: {fault}"
            );
            assert_eq!(session.bytes_held(), 0, "{case}");
            assert!(out.len() < 100, "{case}: only an alert");
        }
    }
}

#[test]
fn an_unfinished_handshake_holds_a_bounded_amount() {
    let ours = Ours::new();
    let mut session = TlsSession::new(&ours.server).expect("a session");
    let mut record = vec![22, 3, 1, 0x3F, 0x00];
    record.extend([1, 0, 0xFF, 0x00]);
    record.resize(5 + 0x3F00, 0);
    let mut out = Vec::new();
    let mut most = 0;
    let fault = loop {
        match session.absorb(&mut record.clone(), &mut [], &mut out) {
            Ok(_) => most = most.max(session.bytes_held()),
            Err(fault) => break fault,
        }
    };
    assert!(most > 0 && most <= 2 * HANDSHAKE_BYTES_MAX, "{most} bytes");
    assert!(matches!(fault, TlsFault::Protocol(_) | TlsFault::HandshakeTooLong), "{fault}");
}

#[test]
fn keys_are_renewed_on_request() {
    let ours = Ours::new();
    let mut session = TlsSession::new(&ours.server).expect("a session");
    let mut client = ours.client(&[&TLS13]);
    handshake(&mut session, &mut client, 1000).expect("a handshake");
    for round in 0..3 {
        tell(&mut client, b"before ");
        client.refresh_traffic_keys().expect("TLS 1.3 can");
        tell(&mut client, b"after");
        let said = spoken(&mut client);
        let mut out = Vec::new();
        let got = feed(&mut session, &said, (11, 100), &mut out).expect("new keys");
        assert_eq!(got, b"before after", "round {round}");
        session.encrypt(b"250 ok\r\n", &mut out).expect("data");
        hear(&mut client, &out).expect("our keys are updated as well");
        assert_eq!(heard(&mut client), b"250 ok\r\n");
    }
}

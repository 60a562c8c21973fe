//! The negotiated parameters: certificate, version, resumption, client certificates.

use std::sync::Arc;

use ringpost::net::ClientCertificate;
use ringpost::net::ClientCertificates;
use ringpost::net::TlsFault;
use ringpost::net::TlsServer;
use ringpost::net::TlsSession;
use ringpost::net::TlsVersion;
use ringpost::net::tls_server::provider;
use rustls::ClientConfig;
use rustls::SignatureScheme;
use rustls::SupportedProtocolVersion;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::tls_suite::kit::Authority;
use crate::tls_suite::kit::Folder;
use crate::tls_suite::kit::NOW_MS;
use crate::tls_suite::kit::Ours;
use crate::tls_suite::kit::certificate_of;
use crate::tls_suite::kit::client_config;
use crate::tls_suite::kit::connect;
use crate::tls_suite::kit::feed;
use crate::tls_suite::kit::handshake;
use crate::tls_suite::kit::hear;
use crate::tls_suite::kit::settings;
use crate::tls_suite::kit::spoken;

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

#[test]
fn the_certificate_is_chosen_by_name() {
    let authority = Authority::new("A");
    let folder = Folder::new();
    let names = [
        ("first", &["mail.ours.test", "MX.ours.test"][..]),
        ("wild", &["*.wild.test"]),
        ("inner", &["special.wild.test"]),
    ];
    let issued = names.map(|(name, names)| (name, authority.issue(names)));
    let pairs = issued.iter().map(|(name, pair)| folder.pair(name, pair)).collect();
    let server = TlsServer::build(&settings(pairs), NOW_MS).expect("the settings are valid");
    assert_eq!(server.certificates().len(), 3);
    assert_eq!(server.certificates()[0].names, ["mail.ours.test".into(), "mx.ours.test".into()]);
    assert!(server.certificates()[0].not_after_s > NOW_MS / 1000);
    let table = [
        ("an exact name", "mail.ours.test", "first"),
        ("another of its names", "mx.ours.test", "first"),
        ("any case", "MAIL.Ours.test", "first"),
        ("under a wildcard", "a.wild.test", "wild"),
        ("an exact name before a wildcard", "special.wild.test", "inner"),
        ("two labels under a wildcard", "a.b.wild.test", "first"),
        ("the head of a wildcard", "wild.test", "first"),
        ("nobody's name", "far.test", "first"),
        ("no name", "192.0.2.1", "first"),
    ];
    for version in BOTH {
        for (case, asked, expected) in table {
            let mut config = client_config(&authority, &[version], None);
            // The name need not match: the test checks only which certificate is served.
            let verifier = Arc::new(anything::Anything);
            config.dangerous().set_certificate_verifier(verifier);
            let mut client = connect(Arc::new(config), asked);
            let mut session = TlsSession::new(&server).expect("a session");
            handshake(&mut session, &mut client, 500).expect(case);
            let served = client.peer_certificates().expect("a certificate was served")[0].clone();
            let (_, (certificate, _)) = issued
                .iter()
                .find(|(name, _)| *name == expected)
                .expect("the certificate was issued");
            assert_eq!(served, certificate_of(certificate), "{case}");
            let told = session.facts().expect("done").server_name.as_deref().map(str::to_owned);
            let name = ServerName::try_from(asked).expect("a name");
            let expected = matches!(name, ServerName::DnsName(_)).then(|| asked.to_lowercase());
            assert_eq!(told.map(|name| name.to_lowercase()), expected, "{case}");
        }
    }
}

#[test]
fn of_two_key_types_the_client_gets_one_it_can_verify() {
    let authority = Authority::new("A");
    let folder = Folder::new();
    let ecdsa = authority.issue(&["mail.ours.test"]);
    let edwards = authority.issue_as(&["mail.ours.test"], &rcgen::PKCS_ED25519, |_| {});
    let pairs = vec![folder.pair("ecdsa", &ecdsa), folder.pair("edwards", &edwards)];
    let server = TlsServer::build(&settings(pairs), NOW_MS).expect("the settings are valid");
    let all = provider().signature_verification_algorithms;
    let only = |scheme: SignatureScheme| {
        let mapping = all.mapping.iter().filter(|(kind, _)| *kind == scheme).copied();
        let mapping: &'static [_] = Vec::leak(mapping.collect());
        WebPkiSupportedAlgorithms { all: all.all, mapping }
    };
    let table = [
        ("both", all, &ecdsa),
        ("the first", only(SignatureScheme::ECDSA_NISTP256_SHA256), &ecdsa),
        ("the second", only(SignatureScheme::ED25519), &edwards),
    ];
    for (case, algorithms, expected) in table {
        let mut provider = provider();
        provider.signature_verification_algorithms = algorithms;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate_of(&authority.pem())).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = connect(Arc::new(config), "mail.ours.test");
        let mut session = TlsSession::new(&server).expect("a session");
        handshake(&mut session, &mut client, 500).expect(case);
        let served = &client.peer_certificates().expect("a certificate was served")[0];
        assert_eq!(*served, certificate_of(&expected.0), "{case}");
    }
}

#[test]
fn sessions_are_resumed_with_and_without_tickets() {
    for tickets in [true, false] {
        let ours = Ours::with(|settings, _| settings.tickets = tickets);
        for version in BOTH {
            let case = format!("tickets {tickets}, {version:?}");
            let config = Arc::new(client_config(&ours.authority, &[version], None));
            for round in 0..3 {
                let mut client = connect(Arc::clone(&config), "mail.ours.test");
                let mut session = TlsSession::new(&ours.server).expect("a session");
                handshake(&mut session, &mut client, 700).expect(&case);
                let facts = session.facts().expect("done");
                assert_eq!(facts.resumed, round > 0, "{case}, round {round}");
                assert_eq!(facts.server_name.as_deref(), Some("mail.ours.test"), "{case}");
            }
        }
    }
}

#[test]
fn a_reload_invalidates_earlier_sessions() {
    let ours = Ours::new();
    let config = Arc::new(client_config(&ours.authority, &[&TLS13], None));
    let pair = (ours.folder.path().join("mail.crt"), ours.folder.path().join("mail.key"));
    let again = TlsServer::build(&settings(vec![pair]), NOW_MS).expect("the settings are valid");
    for (server, resumed) in [(&ours.server, false), (&ours.server, true), (&again, false)] {
        let mut session = TlsSession::new(server).expect("a session");
        let mut client = connect(Arc::clone(&config), "mail.ours.test");
        handshake(&mut session, &mut client, 700).expect("a handshake");
        assert_eq!(session.facts().expect("done").resumed, resumed);
    }
}

#[test]
fn an_old_version_is_refused_with_an_alert() {
    let ours = Ours::with(|settings, _| settings.min_version = TlsVersion::Tls13);
    let mut session = TlsSession::new(&ours.server).expect("a session");
    let mut client = ours.client(&[&TLS12]);
    let mut out = Vec::new();
    let hello = spoken(&mut client);
    let fault = feed(&mut session, &hello, (100, 100), &mut out).expect_err("1.2 is too old");
    assert!(matches!(fault, TlsFault::Protocol(rustls::Error::PeerIncompatible(_))), "{fault}");
    let told = hear(&mut client, &out).expect_err("the client gets an alert");
    assert!(told.to_string().contains("ProtocolVersion"), "{told}");
}

#[test]
fn the_alert_of_a_client_that_does_not_trust_us_is_read() {
    let ours = Ours::new();
    let stranger = Authority::new("stranger");
    let config = Arc::new(client_config(&stranger, BOTH, None));
    let mut client = connect(config, "mail.ours.test");
    let mut session = TlsSession::new(&ours.server).expect("a session");
    let fault = handshake(&mut session, &mut client, 500).expect_err("it is told");
    assert_eq!(fault, TlsFault::Alert(rustls::AlertDescription::UnknownCA));
}

/// The certificate that a client presents.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Nothing,
    Trusted,
    Foreign,
}

/// The server's verdict on it.
#[derive(Debug, PartialEq)]
enum Taken {
    Refused,
    None,
    Verified,
    Unverified,
}

#[test]
fn client_certificates_are_verified_as_configured() {
    use ClientCertificates::None;
    use ClientCertificates::Optional;
    use ClientCertificates::Required;
    let table = [
        (None, Shown::Nothing, Taken::None),
        (None, Shown::Trusted, Taken::None),
        (Optional, Shown::Nothing, Taken::None),
        (Optional, Shown::Trusted, Taken::Verified),
        (Optional, Shown::Foreign, Taken::Unverified),
        (Required, Shown::Nothing, Taken::Refused),
        (Required, Shown::Trusted, Taken::Verified),
        (Required, Shown::Foreign, Taken::Refused),
    ];
    let (clients, foreign) = (Authority::new("clients"), Authority::new("foreign"));
    for (mode, shown, expected) in table {
        let ours = Ours::with(|settings, folder| {
            settings.client_certificates = mode;
            if mode != None {
                settings.client_ca = Some(folder.write("clients.crt", &clients.pem()));
            }
        });
        for version in BOTH {
            let case = format!("{mode:?}, {shown:?}, {version:?}");
            let identity = match shown {
                Shown::Nothing => Option::None,
                Shown::Trusted => Some(clients.issue(&["client.test"])),
                Shown::Foreign => Some(foreign.issue(&["client.test"])),
            };
            let config = Arc::new(client_config(&ours.authority, &[version], identity));
            // The second round resumes the session, which must keep the facts about the client.
            for round in 0..2 {
                let mut client = connect(Arc::clone(&config), "mail.ours.test");
                let mut session = TlsSession::new(&ours.server).expect("a session");
                let done = handshake(&mut session, &mut client, 999);
                assert_eq!(taken(done, &session), expected, "{case}, round {round}");
            }
        }
    }
}

fn taken(done: Result<(), TlsFault>, session: &TlsSession) -> Taken {
    if done.is_err() {
        return Taken::Refused;
    }
    match &session.facts().expect("the handshake is done").client {
        ClientCertificate::None => Taken::None,
        ClientCertificate::Verified { subject } => {
            assert_eq!(&**subject, "CN=the subject");
            Taken::Verified
        }
        ClientCertificate::Unverified { subject, cause } => {
            assert_eq!(&**subject, "CN=the subject");
            assert!(cause.contains("UnknownIssuer"), "{cause}");
            Taken::Unverified
        }
    }
}

mod anything {
    //! A client that accepts any certificate.

    use ringpost::net::tls_server::provider;
    use rustls::DigitallySignedStruct;
    use rustls::Error;
    use rustls::SignatureScheme;
    use rustls::client::danger::HandshakeSignatureValid;
    use rustls::client::danger::ServerCertVerified;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::ServerName;
    use rustls::pki_types::UnixTime;

    #[derive(Debug)]
    pub struct Anything;

    impl ServerCertVerifier for Anything {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    }
}

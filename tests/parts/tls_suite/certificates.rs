//! Certificates and keys on disk: each fault named with its file and remedy, and the self-signed
//! certificate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::date_time_ymd;
use ringpost::net::ClientCertificates;
use ringpost::net::TlsServer;
use ringpost::net::TlsSession;
use ringpost::net::self_signed;
use ringpost::net::self_signed::REMAKE_DAYS;
use ringpost::net::self_signed::SELF_SIGNED_DAYS;
use rustls::version::TLS13;

use crate::tls_suite::kit::Authority;
use crate::tls_suite::kit::Folder;
use crate::tls_suite::kit::NOW_MS;
use crate::tls_suite::kit::client_config;
use crate::tls_suite::kit::connect;
use crate::tls_suite::kit::settings;
use crate::tls_suite::kit::spoken;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[test]
fn each_fault_names_file_cause_and_remedy() {
    let authority = Authority::new("A");
    let folder = Folder::new();
    let good = folder.pair("good", &authority.issue(&["mail.ours.test"]));
    let other = folder.pair("other", &authority.issue(&["mail.ours.test"]));
    let good_pem = fs::read_to_string(&good.0).expect("the file exists");
    let middle = good_pem.len() / 2;
    let cut = folder.write("cut.crt", &good_pem[..middle]);
    let empty = folder.write("empty.pem", "");
    let nonsense = folder
        .write("nonsense.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let locked = folder.write(
        "locked.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let bad_key =
        folder.write("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let huge = folder.write("huge.pem", &"x".repeat(2 << 20));
    let missing = folder.path().join("missing.crt");
    let dir = folder.path().to_path_buf();
    let table: [(&str, &PathBuf, &PathBuf, &PathBuf, &str, &str); 10] = [
        ("no such certificate", &missing, &good.1, &missing, "no such file", "path"),
        ("no such key", &good.0, &missing, &missing, "no such file", "path"),
        ("a folder", &dir, &good.1, &dir, "not a file", "path of a file"),
        ("broken PEM", &cut, &good.1, &cut, "not valid PEM", "export"),
        ("no certificate in it", &empty, &good.1, &empty, "no certificate", "chain"),
        ("no key in it", &good.0, &good.0, &good.0, "no private key", "PKCS#8"),
        ("an encrypted key", &good.0, &locked, &locked, "passphrase", "openssl pkey"),
        ("a nonsense certificate", &nonsense, &good.1, &nonsense, "parsed", "version 3"),
        ("a nonsense key", &good.0, &bad_key, &bad_key, "invalid", "RSA"),
        ("something else", &huge, &good.1, &huge, "larger", "path of a PEM file"),
    ];
    for (case, certificate, key, file, cause, remedy) in table {
        let pairs = vec![(certificate.clone(), key.clone())];
        let problems = TlsServer::build(&settings(pairs), NOW_MS).expect_err(case);
        assert_eq!(problems.0.len(), 1, "{case}: {problems}");
        assert_eq!(problems.0[0].file, *file, "{case}");
        let text = problems.to_string();
        assert!(text.starts_with(&file.display().to_string()), "{case}: {text}");
        assert!(text.contains(cause) && text.contains(remedy), "{case}: {text}");
    }
    let swapped = settings(vec![(good.0.clone(), other.1.clone())]);
    let problems =
        TlsServer::build(&swapped, NOW_MS).expect_err("the key belongs to another certificate");
    let text = problems.to_string();
    assert!(text.contains("good.crt") && text.contains("other.key"), "{text}");
    assert!(text.contains("belongs to another certificate"), "{text}");
}

#[test]
fn all_faults_are_reported_at_once() {
    let authority = Authority::new("A");
    let folder = Folder::new();
    let good = folder.pair("good", &authority.issue(&["mail.ours.test"]));
    let at = |name: &str| folder.path().join(name);
    let mut settings =
        settings(vec![(at("a.crt"), at("a.key")), good.clone(), (good.0, at("b.key"))]);
    settings.client_certificates = ClientCertificates::Required;
    settings.client_ca = Some(folder.write("ca.crt", "nothing"));
    let problems = TlsServer::build(&settings, NOW_MS).expect_err("four files are wrong");
    let files: Vec<_> = problems.0.iter().map(|problem| problem.file.clone()).collect();
    assert_eq!(files, [at("a.crt"), at("a.key"), at("b.key"), at("ca.crt")]);
    assert_eq!(problems.to_string().lines().count(), 4);

    settings.certificates.clear();
    settings.client_ca = None;
    let problems = TlsServer::build(&settings, NOW_MS).expect_err("two are missing").to_string();
    assert!(problems.contains("no certificate is configured"), "{problems}");
    assert!(problems.contains("set client_ca"), "{problems}");
}

#[test]
fn weak_settings_cause_a_warning_only() {
    let authority = Authority::new("A");
    let folder = Folder::new();
    let until = |year: i32, month: u8, day: u8| {
        authority.issue_as(&["mail.ours.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(year, month, day);
        })
    };
    let late = authority.issue_as(&["mail.ours.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = date_time_ymd(2028, 1, 1);
    });
    let table = [
        ("good", until(2027, 6, 1), None),
        ("expired", until(2026, 12, 22), Some("expired 10 days ago")),
        ("expires soon", until(2027, 1, 8), Some("expires in 7 days")),
        ("not yet valid", late, Some("not valid yet")),
        ("no names", authority.issue(&[]), Some("has no host names")),
    ];
    for (case, pair, expected) in table {
        let pair = folder.pair("pair", &pair);
        let server = TlsServer::build(&settings(vec![pair]), NOW_MS).expect(case);
        let warnings: Vec<_> = server.warnings().iter().map(ToString::to_string).collect();
        match expected {
            None => assert_eq!(warnings, Vec::<String>::new(), "{case}"),
            Some(text) => {
                assert!(warnings.len() == 1 && warnings[0].contains(text), "{case}: {warnings:?}");
            }
        }
    }
    let (certificate, key) = folder.pair("open", &until(2027, 6, 1));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    let mut settings = settings(vec![(certificate, key)]);
    settings.client_ca = Some(folder.write("ca.crt", &authority.pem()));
    let server = TlsServer::build(&settings, NOW_MS).expect("the settings are usable");
    let warnings: Vec<_> = server.warnings().iter().map(ToString::to_string).collect();
    assert!(
        warnings[0].contains("readable by other users") && warnings[0].contains("chmod 600"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("client_certificates is off"), "{warnings:?}");
}

#[test]
fn key_and_certificate_may_share_a_file() {
    let folder = Folder::new();
    let (certificate, key) = Authority::new("A").issue(&["mail.ours.test"]);
    let both = folder.write("both.pem", &format!("{key}{certificate}"));
    let server = TlsServer::build(&settings(vec![(both.clone(), both)]), NOW_MS);
    assert_eq!(server.expect("the settings are valid").warnings(), []);
}

#[test]
fn the_self_signed_certificate_is_kept_until_it_is_unusable() {
    let folder = Folder::new();
    let tls = folder.path().join("spool/tls");
    let make = |hostname: &str, now_ms: u64| {
        let made = self_signed(hostname, &tls, now_ms).expect("the certificate is created");
        let text = fs::read_to_string(&made.certificate).expect("the file exists");
        (made, text)
    };
    let (first, text) = make("mail.ours.test", NOW_MS);
    assert!(first.made);
    let mode = |path: &PathBuf| fs::metadata(path).expect("the file exists").permissions().mode();
    assert_eq!(mode(&first.key) & 0o777, 0o600);
    assert_eq!(mode(&tls) & 0o777, 0o700);
    let server =
        TlsServer::build(&settings(vec![(first.certificate.clone(), first.key.clone())]), NOW_MS);
    let server = server.expect("the certificate is usable");
    assert_eq!(server.warnings(), []);
    assert_eq!(server.certificates()[0].names, ["mail.ours.test".into()]);

    let life = (SELF_SIGNED_DAYS - REMAKE_DAYS) * DAY_MS;
    let (again, same) = make("Mail.Ours.test", NOW_MS + life - 2 * DAY_MS);
    assert!(!again.made && same == text, "it is valid long enough");
    let (aged, younger) = make("mail.ours.test", NOW_MS + life + 2 * DAY_MS);
    assert!(aged.made && younger != text, "it expires soon");
    assert!(make("mail.ours.test", NOW_MS).0.made, "the clock was set back before its start");
    let (renamed, other) = make("mx.ours.test", NOW_MS);
    assert!(renamed.made && other != younger, "the host name has changed");
    assert!(!make("mx.ours.test", NOW_MS).0.made);

    fs::remove_file(&renamed.key).expect("the file exists");
    assert!(make("mx.ours.test", NOW_MS).0.made, "the key is missing");
    fs::write(&renamed.certificate, &other).expect("a crash between two renames");
    assert!(make("mx.ours.test", NOW_MS).0.made, "the key belongs to another certificate");
    assert!(!make("mx.ours.test", NOW_MS).0.made);
}

#[test]
fn a_self_signed_certificate_that_cannot_be_written_is_reported() {
    let folder = Folder::new();
    let blocked = folder.write("file", "not a folder").join("tls");
    let problem =
        self_signed("mail.ours.test", &blocked, NOW_MS).expect_err("a file is in the way");
    assert_eq!(problem.file, blocked);
    assert!(problem.to_string().contains("cannot be written"), "{problem}");
    let problem = self_signed("m\u{fc}ller.test", folder.path(), NOW_MS).expect_err("not ASCII");
    assert!(problem.to_string().contains("host name"), "{problem}");
}

#[test]
fn a_snapshot_outlives_its_files() {
    let authority = Authority::new("A");
    let folder = Folder::new();
    let pair = folder.pair("pair", &authority.issue(&["mail.ours.test"]));
    let server = TlsServer::build(&settings(vec![pair]), NOW_MS).expect("the settings are valid");
    drop(folder);
    let mut session = TlsSession::new(&server).expect("a session");
    let config = client_config(&authority, &[&TLS13], None);
    let mut hello = spoken(&mut connect(config.into(), "mail.ours.test"));
    let mut out = Vec::new();
    session.absorb(&mut hello, &mut [], &mut out).expect("the files are not read again");
    assert!(!out.is_empty());
}

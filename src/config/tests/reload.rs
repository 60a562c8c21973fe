//! What a reload changes, and what waits for a restart.

use crate::config::Changes;
use crate::config::kind::Choice;
use crate::config::reloaded;
use crate::config::tests::config;
use crate::observe::log::Level;
use crate::wire::smtp::LineEnding;

#[test]
fn a_reload_takes_what_it_can() {
    let base = "[[listener]]\n[[listener]]\naddress = '[::1]:7000'\n";
    let live = |keys: &[&'static str]| Changes { live: keys.to_vec(), needs_restart: vec![] };
    let restart = |keys: &[&'static str]| Changes { live: vec![], needs_restart: keys.to_vec() };
    for (name, text, want, takes) in [
        ("nothing", base.to_owned(), Changes::default(), false),
        (
            "a limit",
            format!("{base}[limits]\nmessage_size = '1MB'\n"),
            live(&["limits.message_size"]),
            true,
        ),
        (
            "a spool",
            format!("{base}[server]\nspool = 's'\n"),
            restart(&["server.spool", "control.socket"]),
            false,
        ),
        ("a banner", format!("{base}banner = 'x'\n"), live(&["listener.banner"]), true),
        ("another listener", "[[listener]]\n".to_owned(), restart(&["listener"]), false),
        (
            "half of a listener",
            format!("{base}tls = 'none'\nbanner = 'x'\n"),
            restart(&["listener.tls", "listener.banner"]),
            false,
        ),
        (
            "a certificate",
            format!("{base}[[tls.certificate]]\ncertificate = 'a'\nkey = 'b'\n"),
            live(&["tls.certificate"]),
            true,
        ),
    ] {
        let (old, new) = (config(base), config(&text));
        let (now, noted) = reloaded(&old, &new);
        assert_eq!(noted, want, "{name}");
        assert_eq!(reloaded(&old, &new).1, want, "{name}");
        assert_eq!(noted == Changes::default(), old == new, "{name}");
        assert_eq!(now, if takes { new } else { old }, "{name}");
    }
    let both = format!("{base}[log]\nlevel = 'debug'\nformat = 'json'\n");
    let (now, noted) = reloaded(&config(base), &config(&both));
    assert_eq!((noted.live, noted.needs_restart), (vec!["log.level"], vec!["log.format"]));
    assert_eq!(now.log.level, Level::Debug);
    assert_eq!(now.log.format, config(base).log.format);
}

#[test]
fn a_reload_withholds_no_restriction() {
    const TRUSTING: &str = "xclient_from = ['10.0.0.0/8', '192.0.2.0/24']\n\
        proxy_from = ['10.0.0.0/8']\nline_ending = 'normalise'\ntrusted_from = ['10.0.0.0/8']\n";
    let base = format!("[[listener]]\naddress = ['[::1]:7000', '[::1]:7001']\n{TRUSTING}");
    // The file; TLS, whether it is required, client certificates, and the networks that are trusted
    // for XCLIENT, for PROXY and for line endings afterwards; what waits for a restart.
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [&'static str]);
    let rows: [Row<'_>; 9] = [
        (
            "a listener is added",
            "[[listener]]\naddress = ['[::1]:7000', '[::1]:7001']\n[[listener]]\naddress = '[::1]:8000'\n",
            "starttls false none [] [] []",
            &["listener"],
        ),
        (
            "one is added in front, so that the default names shift",
            "[[listener]]\naddress = '[::1]:8000'\n[[listener]]\naddress = ['[::1]:7000', '[::1]:7001']\n\
             xclient_from = ['10.1.0.0/16', '198.51.100.0/24']\n",
            "starttls false none [10.1.0.0/16] [] []",
            &["listener.name", "listener.xclient_from", "listener"],
        ),
        (
            "its address changes",
            "[[listener]]\naddress = '[::1]:7100'\ntls_required = true\n",
            "starttls true none [] [] []",
            &["listener.address"],
        ),
        (
            "it is removed, and another is put in its place",
            "[[listener]]\nname = 'other'\naddress = '[::1]:8000'\nproxy_from = ['0.0.0.0/0']\n",
            "starttls false none [] [10.0.0.0/8] []",
            &["listener"],
        ),
        (
            "it is divided",
            "[[listener]]\naddress = '[::1]:7000'\nxclient_from = ['10.0.0.0/8']\n[[listener]]\n\
             address = '[::1]:7001'\ntls_required = true\nxclient_from = ['10.0.0.0/9']\n",
            "starttls true none [10.0.0.0/9] [] []",
            &["listener.address", "listener.xclient_from", "listener.name"],
        ),
        (
            "TLS is turned off together with all trust",
            "[[listener]]\naddress = ['[::1]:7000', '[::1]:7001']\ntls = 'none'\nbanner = 'x'\n",
            "starttls false none [] [] []",
            &["listener.tls", "listener.banner"],
        ),
        (
            "STARTTLS becomes implicit TLS",
            "[[listener]]\naddress = ['[::1]:7000', '[::1]:7001']\ntls = 'implicit'\n\
             client_certificates = 'required'\nclient_ca = 'ca.pem'\n",
            "starttls true required [] [] []",
            &["listener.tls"],
        ),
        (
            "it is to speak LMTP, and trusts others",
            "[[listener]]\naddress = ['[::1]:7000', '[::1]:7001']\nprotocol = 'lmtp'\n\
             xclient_from = ['0.0.0.0/0']\n",
            "starttls false none [10.0.0.0/8, 192.0.2.0/24] [] []",
            &["listener.protocol", "listener.xclient_from"],
        ),
        (
            "nothing needs a restart, so it may be looser",
            "[[listener]]\naddress = ['[::1]:7000', '[::1]:7001']\nxclient_from = ['0.0.0.0/0']\n",
            "starttls false none [0.0.0.0/0] [] []",
            &[],
        ),
    ];
    for (name, file, want, waiting) in rows {
        let (old, new) = (config(&base), config(file));
        let (now, noted) = reloaded(&old, &new);
        let [one] = now.listeners.as_slice() else { panic!("{name}: {:?}", now.listeners) };
        let lists = [&one.xclient_from, &one.proxy_from, &one.trusted_from];
        let shown = |list: &Vec<ipnet::IpNet>| {
            format!("[{}]", list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        };
        let lists = lists.map(shown).join(" ");
        let asked = one.client_certificates;
        let got = format!("{} {} {} {lists}", one.tls.as_str(), one.tls_required, asked.as_str());
        assert_eq!(got, want, "{name}");
        assert_eq!(one.address, old.listeners[0].address, "{name}: the sockets are bound");
        assert_eq!(noted.needs_restart, waiting, "{name}");
        let normalises = one.line_ending == LineEnding::Normalise;
        assert_eq!(normalises, !one.trusted_from.is_empty(), "{name}");
        let (again, _) = reloaded(&now, &new);
        assert_eq!(again, now, "{name}: a second reload changes nothing");
    }
}

#[test]
fn a_listener_without_changes_of_its_own_takes_all_that_is_live() {
    let base = "[[listener]]\naddress = '[::1]:7000'\n[[listener]]\naddress = '[::1]:7001'\n";
    let file = "[[listener]]\naddress = '[::1]:7000'\nbanner = 'x'\nxclient_from = ['10.0.0.0/8']\n\
                [[listener]]\naddress = '[::1]:7001'\nprotocol = 'lmtp'\n";
    let (old, new) = (config(base), config(file));
    let (now, noted) = reloaded(&old, &new);
    assert_eq!(now.listeners[0], new.listeners[0]);
    assert_eq!(now.listeners[1], old.listeners[1]);
    assert_eq!(noted.live, ["listener.xclient_from", "listener.banner"]);
    assert_eq!(noted.needs_restart, ["listener.protocol"]);
}

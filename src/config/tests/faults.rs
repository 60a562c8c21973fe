//! The faults and warnings of a file, each as it is printed.

use crate::config::HostFacts;
use crate::config::embedded;
use crate::config::fault::Place;
use crate::config::load;
use crate::config::tests::config;
use crate::config::tests::good;
use crate::config::tests::host;
use crate::config::tests::lines;

/// A name, a file, and what is printed of it.
type Row = (&'static str, &'static str, &'static [&'static str]);

const NAMES_AND_TYPES: &[Row] = &[
    (
        "unknown names",
        "[limts]\n[server]\nhostnme = 'a.b'\n[limits]\nhostname = 'a.b'\nmesage_size = 1\n\
         foo = 1\n[queue.x]\n",
        &[
            "1: limts: unknown section - did you mean limits?",
            "3: server.hostnme: unknown key - did you mean hostname?",
            "5: limits.hostname: unknown key - did you mean server.hostname?",
            "6: limits.mesage_size: unknown key - did you mean message_size?",
            "7: limits.foo: unknown key - known names: message_size, recipients_per_message, \
             messages_per_session, commands_per_session, errors_per_session, connections, \
             connections_per_address, connections_per_network, network_prefix_v4, \
             network_prefix_v6, connection_rate_per_address, exempt_networks, received_count, \
             body_line_length, min_...",
            "8: queue.x: unknown key - known names: partitions, memory, min_free_space, \
             min_free_inodes, events_max_age, events_disk_share, sync",
        ],
    ),
    (
        "keys at the top",
        "hostname = 'a.b'\nlevl = 'info'\n",
        &[
            "1: hostname: unknown key - did you mean server.hostname?",
            "2: levl: unknown key - did you mean log.level?",
        ],
    ),
    (
        "shapes of sections",
        "limits = 1\nlistener = [1, {name = 'a', adress = 'x'}]\n[tls]\ncertificate = 'a.pem'\n",
        &[
            "1: limits: 1 is not a section - write [limits] with its keys below",
            "2: listener[1]: 1 is not a list of sections - write [[listener]] with its keys below",
            "2: listener[2].adress: unknown key - did you mean address?",
            "4: tls.certificate: \"a.pem\" is not a list of sections - write [[tls.certificate]] with its keys below",
        ],
    ),
    (
        "one listener without the second bracket",
        "[listener]\nname = 'a'\n",
        &[
            "1: listener: a table is not a list of sections - write [[listener]] with its keys below",
        ],
    ),
    (
        "types",
        "[server]\nhostname = 5\nuser = ''\ncores = 4\nspool = ['a']\n[queue]\nsync = 'yes'\n\
         partitions = 'many'\nmemory = true\nmin_free_inodes = '5'\n[tls]\nmin_version = 1.2\n\
         [limits]\nconnections = 2.5\nreceived_count = {a = 1}\n[log]\nlevel = 1979-05-27\n",
        &[
            "2: server.hostname: 5 is not a host name, such as \"mail.example.com\" - put it in quotes",
            "3: server.user: is empty - remove the key, or set a value",
            "4: server.cores: 4 is not \"auto\", a list of cores such as \"0-7,16\", or \"numa:0\" - \
             write core numbers in quotes; \"0-3\" means four cores",
            "5: server.spool: a list is not a path - put it in quotes",
            "7: queue.sync: \"yes\" is not true or false - write true, without quotes",
            "8: queue.partitions: \"many\" is not \"auto\" or a whole number from 1 to 64",
            "9: queue.memory: true is not a size, such as \"25MB\", \"64KiB\" or 512 (bytes)",
            "10: queue.min_free_inodes: \"5\" is not a whole number - write 5, without quotes",
            "12: tls.min_version: 1.2 is not one of \"1.2\", \"1.3\" - put it in quotes",
            "14: limits.connections: 2.5 is not a whole number",
            "15: limits.received_count: a table is not a whole number",
            "17: log.level: 1979-05-27 is not one of \"error\", \"warn\", \"info\", \"debug\" - put it \
             in quotes",
        ],
    ),
    (
        "what stands under a wrong name contradicts nothing",
        "[limts]\nconnections = 5000\n[limits]\nconnections_per_network = 30000\n\
         [[listener]]\n[[listener]]\nadress = '[::1]:1'\n",
        &[
            "1: limts: unknown section - did you mean limits?",
            "7: listener[2].adress: unknown key - did you mean address?",
        ],
    ),
    (
        "what stands on a broken line contradicts nothing",
        "[[listener]]\naddress = 127.0.0.1:25\n[[listener]]\naddress = [::]:25\n",
        &[
            "2: invalid TOML: the value needs quotes - write \"127.0.0.1:25\"",
            "4: invalid TOML: the value needs quotes - write \"[::]:25\"",
        ],
    ),
    (
        "the same key twice",
        "[queue]\nsync = true\nsync = true\n[log]\nlevel = 1\n",
        &[
            "3: invalid TOML: duplicate key",
            "5: log.level: 1 is not one of \"error\", \"warn\", \"info\", \"debug\" - put it in \
             quotes",
        ],
    ),
    (
        "choices",
        "[[listener]]\ntls = 'foo'\nprotocol = 'SMTP'\nline_ending = 'normalize'\n",
        &[
            "2: listener[1].tls: \"foo\" is not one of none, starttls, implicit - choose one of them",
            "3: listener[1].protocol: \"SMTP\" is not one of smtp, lmtp - did you mean \"smtp\"?",
            "4: listener[1].line_ending: \"normalize\" is not one of strict, normalise - did you mean \
             \"normalise\"?",
        ],
    ),
];

const VALUES: &[Row] = &[
    (
        "units",
        "[timeouts]\ncommand = 300\ngreeting = '5 minutes'\nidle = '-5m'\n[limits]\n\
         message_size = '25M'\nbody_memory = '1e9'\nmin_data_rate = -1\n",
        &[
            "2: timeouts.command: 300 is not a duration - add a unit, as \"300s\"",
            "3: timeouts.greeting: \"5 minutes\" has the unknown unit minutes - write numbers with \
             units d, h, m, s, ms or us, as \"5m\" or \"1h30m\"",
            "4: timeouts.idle: \"-5m\" is not a duration - write numbers with units d, h, m, s, ms \
             or us, as \"5m\" or \"1h30m\"",
            "6: limits.message_size: \"25M\" has the unknown unit M - write a number with KB, MB, GB, \
             KiB, MiB or GiB, as \"25MB\"",
            "7: limits.body_memory: \"1e9\" is not a size - write a number with KB, MB, GB, KiB, MiB \
             or GiB, as \"25MB\"",
            "8: limits.min_data_rate: -1 is negative",
        ],
    ),
    (
        "ranges",
        "[limits]\nmessage_size = 1023\nnetwork_prefix_v4 = 33\nconnections_per_address = 0\n\
         body_line_length = 998\nbody_memory = '64KiB'\n[timeouts]\ndata_init = '2h'\n\
         command = 0\n[queue]\npartitions = 65\n",
        &[
            "2: limits.message_size: 1023 is out of range - the minimum is 1KiB",
            "3: limits.network_prefix_v4: 33 is out of range - the maximum is 32",
            "4: limits.connections_per_address: 0 is out of range - the minimum is 1",
            "5: limits.body_line_length: 998 is out of range - the minimum is 1000",
            "6: limits.body_memory: \"64KiB\" is out of range - the minimum is 192KiB",
            "8: timeouts.data_init: \"2h\" is out of range - the maximum is 1h",
            "9: timeouts.command: 0 is out of range - the minimum is 100ms",
            "11: queue.partitions: 65 is out of range - the maximum is 64",
        ],
    ),
    (
        "each element of a list",
        "[relay]\nnetworks = [\n  '10.0.0.0/8',\n  '10.0.0.1/8',\n  'foo', 5,\n  '::1',\n]\n\
         domains = '*.example.com'\nrefuse_senders = ['a@b.test', 'münchen.test']\n",
        &[
            "4: relay.networks[2]: \"10.0.0.1/8\" has bits set after its prefix - write \
             \"10.0.0.0/8\" for the network or \"10.0.0.1\"",
            "5: relay.networks[3]: \"foo\" is not a network - write it as \"10.0.0.0/8\", \
             \"2001:db8::/32\" or \"192.0.2.1\"",
            "5: relay.networks[4]: 5 is not a network or an address, such as \"10.0.0.0/8\" or \
             \"::1\" - put it in quotes",
            "8: relay.domains: \"*.example.com\" is not a domain - for its subdomains write \
             \".example.com\"",
            "9: relay.refuse_senders[1]: \"a@b.test\" is not a domain - write only the part after the @",
            "9: relay.refuse_senders[2]: \"münchen.test\" is not a domain - write it in its ASCII \
             form, as \"xn--mnchen-3ya.example\"",
        ],
    ),
    (
        "addresses and names",
        "[[listener]]\naddress = [':25', '::1', '10.0.0.1', 'localhost:25', '::1:25']\n\
         name = 'My Listener'\nbanner = \"a\\r\\nb\"\n[server]\ncores = '3-1'\n",
        &[
            "2: listener[1].address[1]: \":25\" is not an IP address with port - for all addresses \
             write [\"0.0.0.0:25\", \"[::]:25\"]",
            "2: listener[1].address[2]: \"::1\" is not an IP address with port - add a port, as \
             \"[::1]:25\"",
            "2: listener[1].address[3]: \"10.0.0.1\" is not an IP address with port - add a port, as \
             \"10.0.0.1:25\"",
            "2: listener[1].address[4]: \"localhost:25\" is not an IP address with port - names are \
             not resolved; write \"127.0.0.1:25\"",
            "2: listener[1].address[5]: \"::1:25\" is not an IP address with port - add a port, as \
             \"[::1:25]:25\"",
            "3: listener[1].name: \"My Listener\" is not a name - use up to 32 letters a-z, digits, \
             - and _",
            "4: listener[1].banner: cannot be used in a reply - use 1 to 200 printable ASCII \
             characters on one line",
            "6: server.cores: \"3-1\" is not a range of cores - write \"auto\", \"0-7,16\" or \
             \"numa:0\"",
        ],
    ),
    (
        "what must be written",
        "[[tls.certificate]]\nkey = 'a.key'\n[[tls.certificate]]\ncertificate = 5\nkey = 'b.key'\n",
        &[
            "1: tls.certificate[1].certificate: is missing - write certificate = \
             \"/etc/ringpost/mail.example.com.pem\"",
            "4: tls.certificate[2].certificate: 5 is not a path - put it in quotes",
        ],
    ),
    (
        "syntax does not hide what stands behind it",
        "[[tls.certificate]]\ncertificate = /etc/a.pem\nkey = 'a.key'\n[log]\nlevel = info\n\
         format = 'xml'\n[timeouts]\ncommand = 5m\n",
        &[
            "2: invalid TOML: the value needs quotes - write \"/etc/a.pem\"",
            "5: invalid TOML: the value needs quotes - write \"info\"",
            "6: log.format: \"xml\" is not one of text, json - choose one of them",
            "8: invalid TOML: the value needs quotes - write \"5m\"",
        ],
    ),
];

const CONTRADICTIONS: &[Row] = &[
    (
        "within a listener",
        "[[listener]]\naddress = []\ntls = 'none'\ntls_required = true\n[[listener]]\n\
         tls = 'none'\nclient_certificates = 'optional'\naddress = '[::1]:25'\n\
         protocol = 'lmtp'\nline_ending = 'normalise'\n",
        &[
            "2: listener[1].address: is empty - write at least one address",
            "4: listener[1].tls_required: TLS is required but tls is \"none\" - set tls to \
             \"starttls\" or \"implicit\", or tls_required to false",
            "7: listener[2].client_certificates: needs TLS but tls is \"none\" - set tls to \
             \"starttls\" or \"implicit\"",
            "7: listener[2].client_certificates: needs client_ca - set client_ca to a file with CA certificates",
            "8: listener[2].address: LMTP must not use port 25 (RFC 2033) - use another port, such as 24",
            "10: listener[2].line_ending: \"normalise\" is for trusted networks only - set trusted_from to the networks that need it",
        ],
    ),
    (
        "between listeners",
        "[[listener]]\n[[listener]]\nname = 'listener-1'\n[[listener]]\n\
         address = ['127.0.0.1:9090', '127.0.0.1:7', '127.0.0.1:7']\n[monitor]\n\
         listen = '127.0.0.1:9090'\n",
        &[
            "2: listener[2].address: 127.0.0.1:2525 is used twice - it is also set in listener[1].address",
            "2: listener[2].address: [::1]:2525 is used twice - it is also set in listener[1].address",
            "3: listener[2].name: \"listener-1\" is the name of two listeners - listener[1].name has the same name; names must be unique",
            "5: listener[3].address: 127.0.0.1:7 is used twice - write it once",
            "7: monitor.listen: 127.0.0.1:9090 is used twice - it is also set in listener[3].address",
        ],
    ),
    (
        "between limits",
        "[limits]\nconnections = 50\nmessages_per_session = 20\ncommands_per_session = 10\n\
         body_memory = '512KiB'\n[server]\ncores = '0-3'\n[queue]\nmemory = '4MiB'\npartitions = 2\n",
        &[
            "2: limits.connections_per_network: 400 can never be reached: limits.connections is 50 - \
             lower it, or raise limits.connections",
            "3: limits.messages_per_session: 20 can never be reached: limits.commands_per_session is \
             10 - lower it, or raise limits.commands_per_session",
            "5: limits.body_memory: is too little for 4 cores - the minimum is 768KiB",
            "9: queue.memory: is too little for 2 partitions - the minimum is 8MiB",
        ],
    ),
    (
        "the rest",
        "[server]\nhostname = 'localhost'\ngroup = 'mail'\n[relay]\ndomains = ['a.test', '.b.test']\n\
         refuse_recipients = ['b.test', 'A.test']\n[[tls.certificate]]\ncertificate = 'a'\nkey = 'b'\n\
         [[tls.certificate]]\ncertificate = 'a'\nkey = 'c'\n",
        &[
            "2: server.hostname: \"localhost\" is not a fully qualified name - set the name of this host in DNS, as hostname = \"mail.example.com\"",
            "3: server.group: is set without a user - set server.user too",
            "6: relay.refuse_recipients: \"a.test\" is both accepted and refused - remove it from refuse_recipients or from domains",
            "11: tls.certificate[2].certificate: names the same file as tls.certificate[1] - list each certificate once",
        ],
    ),
    (
        "a refused key contradicts nothing",
        "[limits]\nconnections = '50'\nconnections_per_address = 1000\n\
         connections_per_network = 30000\n[[listener]]\ntls = 'non'\ntls_required = true\n",
        &[
            "2: limits.connections: \"50\" is not a whole number - write 50, without quotes",
            "6: listener[1].tls: \"non\" is not one of none, starttls, implicit - did you mean \
             \"none\"?",
        ],
    ),
];

#[test]
fn all_faults_of_a_file_are_reported_at_once() {
    for (name, text, want) in [NAMES_AND_TYPES, VALUES, CONTRADICTIONS].concat() {
        let faults = load(text, "f", &host()).err().unwrap_or_default();
        assert_eq!(lines(&faults), want, "{name}");
    }
}

#[test]
fn a_low_port_is_warned_of_where_it_cannot_be_bound() {
    for (ports_from, user, is_told) in
        [(1024, "", true), (26, "", true), (25, "", false), (0, "", false), (1024, "x", false)]
    {
        let facts = HostFacts { ports_from, ..host() };
        let user = if user.is_empty() { String::new() } else { format!("user = '{user}'\n") };
        let text = format!("[server]\n{user}[[listener]]\naddress = '127.0.0.1:25'\n");
        let warnings = load(&text, "f", &facts).expect("it is right").warnings;
        let told = warnings.iter().any(|fault| fault.to_string().contains("port 25"));
        assert_eq!(told, is_told, "{ports_from} {user}");
    }
}

#[test]
fn what_works_but_is_not_wanted_is_warned_of() {
    let rows: &[Row] = &[
        (
            "listeners",
            "[[listener]]\naddress = '0.0.0.0:25'\nproxy_from = '0.0.0.0/0'\n\
             xclient_from = ['10.0.0.0/8', '::/0']\ntrusted_from = '10.0.0.0/8'\nclient_ca = 'a'\n",
            &[
                "2: listener[1].address: port 25 needs a privilege to be bound - start as \
                 root with server.user set, with CAP_NET_BIND_SERVICE, or where \
                 net.ipv4.ip_unprivileged_port_start allows it",
                "3: listener[1].proxy_from: 0.0.0.0/0 trusts every client - list only the networks that need it",
                "4: listener[1].xclient_from: ::/0 trusts every client - list only the networks that need it",
                "5: listener[1].trusted_from: has no effect - set line_ending to \"normalise\", or \
                 leave it out",
                "6: listener[1].client_ca: has no effect - set client_certificates to \"optional\" \
                 or \"required\"",
            ],
        ),
        (
            "the rest",
            "[relay]\nnetworks = ['0.0.0.0/0']\n[queue]\nsync = false\n[monitor]\n\
             listen = '0.0.0.0:9090'\n[limits]\nrecipients_per_message = 99\n[timeouts]\n\
             command = '10s'\n",
            &[
                "2: relay.networks: 0.0.0.0/0 allows every client to relay (open relay) - list only the networks of your own hosts",
                "4: queue.sync: a power cut loses accepted mail - sync = false is for tests only; remove it",
                "6: monitor.listen: 0.0.0.0:9090 is reachable from other hosts without authentication - listen on 127.0.0.1 or [::1]",
                "8: limits.recipients_per_message: senders may rely on 100 recipients - see RFC \
                 5321 s4.5.3.1.8",
                "10: timeouts.command: senders may rely on 5m for a command - see RFC 5321 \
                 s4.5.3.2.7",
            ],
        ),
        (
            "root gives its ports away",
            "[server]\nuser = 'mail'\n[[listener]]\naddress = '[::]:25'\n",
            &[],
        ),
    ];
    for (name, text, want) in rows {
        assert_eq!(lines(&good(text).warnings), *want, "{name}");
    }
}

#[test]
fn a_host_without_a_good_name_still_starts() {
    for (hostname, want) in
        [("box", "box"), ("bad name", "localhost"), ("", "localhost"), ("é", "localhost")]
    {
        let facts =
            HostFacts { hostname: hostname.to_owned(), ports_from: 1024, ..HostFacts::default() };
        assert_eq!(embedded(&facts).server.hostname.as_str(), want);
        let loaded = load("", "f", &facts).expect("the defaults are good");
        assert_eq!(loaded.warnings.len(), 1, "{hostname}: {:?}", loaded.warnings);
        assert!(loaded.warnings[0].what.contains("not a fully qualified name"));
        let text = "[server]\nhostname = 'mail.example.com'\n";
        assert!(load(text, "f", &facts).is_ok_and(|loaded| loaded.warnings.is_empty()));
    }
}

#[test]
fn a_socket_path_fits_its_address() {
    let spool = "s".repeat(96);
    let fits = format!("[server]\nspool = '{}'\n", &spool[..94]);
    assert_eq!(config(&fits).control.socket.as_os_str().len(), 107);
    let text = format!("[server]\nspool = '{spool}'\n");
    let faults = load(&text, "f", &host()).expect_err("it is too long");
    assert_eq!(faults.len(), 1);
    assert_eq!((&faults[0].place, faults[0].key.as_str()), (&Place::Line(2), "control.socket"));
    assert!(load(&format!("{text}[control]\nsocket = 's'\n"), "f", &host()).is_ok());
}

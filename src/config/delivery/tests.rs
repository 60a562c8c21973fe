//! Files with routes, pools and destinations: what each means, and all that is wrong with it.

use std::time::Duration;

use crate::config::Config;
use crate::config::DomainMatch;
use crate::config::Fault;
use crate::config::HostFacts;
use crate::config::Loaded;
use crate::config::OutboundTls;
use crate::config::RouteNext;
use crate::config::delivery::value::Stripes;
use crate::config::kind::Spelled;
use crate::config::load;

fn read(text: &str) -> Result<Loaded, Vec<Fault>> {
    load(
        text,
        "f",
        &HostFacts {
            hostname: "mx.example.net".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        },
    )
}

fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}")).config
}

fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(|fault| fault.to_string()["f:".len()..].trim().to_owned()).collect()
}

#[test]
fn nothing_written_means_the_defaults() {
    let config = config("");
    assert!(config.routes.is_empty() && config.pools.is_empty());
    assert!(config.sources.is_empty() && config.destinations.is_empty());
    assert!(config.delivery.enabled);
    assert_eq!(config.delivery.ehlo_name.as_str(), "mx.example.net");
    assert_eq!(
        config.delivery.bounce_from.at(&config.server.hostname),
        "MAILER-DAEMON@mx.example.net"
    );
    assert_eq!(config.delivery.retry_schedule[0], Duration::from_secs(300));
    assert_eq!(config.delivery.max_age, Duration::from_secs(5 * 86_400));
    assert_eq!(config.delivery_timeouts.data_end, Duration::from_secs(600));
    assert_eq!(
        (config.destination_defaults.connections_max, config.destination_defaults.window_start),
        (20, 5)
    );
    assert_eq!(config.destination_defaults.tls, OutboundTls::May);
}

#[test]
fn what_is_written_is_meant() {
    let config = config(
        "[server]\nhostname = 'Mail.Ours.test'\n\
         [delivery]\nretry_schedule = ['1m', '1h']\ndelay_warning = 0\nbounce_from = 'a@B.test'\n\
         [delivery.timeouts]\nconnect = '5s'\n\
         [resolver]\nservers = ['192.0.2.53', '[2001:db8::53]:5353', '::1']\n\
         [[route]]\nrecipient_domain = ['A.test', '.b.test', '*.c.test', '*d*', '[192.0.2.1]']\n\
         next = 'smtp:Relay.test:587,192.0.2.1,[::1]:26'\npool = 'p'\ntls = 'must'\n\
         [[route]]\nnext = 'mx'\n\
         [[pool]]\nname = 'p'\nsources = ['one:3']\n\
         [[source]]\nname = 'one'\nipv4 = '192.0.2.7'\n\
         [destination_defaults]\nconnections_max = 50\n\
         [[destination]]\nname = 's'\nmx_host = '.big.test'\nwindow_start = 40\n",
    );
    assert_eq!(config.delivery.ehlo_name.as_str(), "mail.ours.test");
    assert_eq!(config.delivery.bounce_from.at(&config.server.hostname), "a@b.test");
    assert_eq!(config.delivery_timeouts.connect, Duration::from_secs(5));
    let servers: Vec<String> =
        config.resolver.servers.iter().map(|server| server.0.to_string()).collect();
    assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:5353", "[::1]:53"]);
    let route = &config.routes[0];
    assert_eq!((route.name.as_str(), config.routes[1].name.as_str()), ("route-1", "route-2"));
    let domains: Vec<String> = route.recipient_domain.iter().map(ToString::to_string).collect();
    assert_eq!(domains, ["a.test", ".b.test", ".c.test", "*d*", "[192.0.2.1]"]);
    assert_eq!(route.next.to_string(), "smtp:relay.test:587,192.0.2.1:25,[::1]:26");
    assert_eq!(config.pools[0].sources[0].weight, 3);
    let treatment = config.destinations[0].treatment(&config.destination_defaults);
    assert_eq!((treatment.connections_max, treatment.window_start), (50, 40));
}

#[test]
fn next_hops() {
    for (text, expected) in [
        ("mx", Ok("mx")),
        ("mx:Other.test", Ok("mx:other.test")),
        ("mx:other.test:2525", Ok("mx:other.test:2525")),
        ("smtp:h", Ok("smtp:h:25")),
        ("smtp:[2001:DB8:0::1]", Ok("smtp:[2001:db8::1]:25")),
        ("lmtp: localhost:24", Ok("lmtp:localhost:24")),
        ("discard", Ok("discard")),
        ("hold", Ok("hold")),
        ("reject:Not: here", Ok("reject:Not: here")),
        ("smtps:h", Ok("smtps:h:465")),
        ("smtps:h:4650, i", Ok("smtps:h:4650,i:465")),
        ("lmtp:unix:/run/a b", Ok("lmtp:unix:/run/a b")),
        ("lmtp:unix:/a,h:24", Ok("lmtp:unix:/a,h:24")),
        ("lmtp:/run/lmtp", Err("for this Unix socket write \"lmtp:unix:/run/lmtp\"")),
        ("lmtp:unix:run/lmtp", Err("begin it with /, as \"unix:/run/dovecot/lmtp\"")),
        ("lmtp:unix:/run/", Err("name the socket in this folder")),
        ("lmtp:unix:/a\tb", Err("write it without control characters")),
        ("lmtp:unix:/a,unix:/a", Err("write it once")),
        ("smtp:unix:/run/x", Err("write \"lmtp:unix:/path\", or name a host")),
        ("smtps://h:465", Err("write \"smtps:h:465\"")),
        ("smtps", Err("write it as \"smtps:mail.example.com:465\"")),
        ("lmtp:localhost", Err("add the port, as \"localhost:24\"")),
        ("mx:192.0.2.1", Err("write \"smtp:192.0.2.1\"")),
        ("smtp", Err("write it as \"smtp:mail.example.com:25\"")),
        ("smtp:", Err("write it as \"mail.example.com\"")),
        ("smtp:h:0", Err("\"0\" is not a port")),
        ("smtp:h:x", Err("\"x\" is not a port")),
        ("smtp:h,h:25", Err("write it once")),
        ("smtp:::1", Err("write an IPv6 address in brackets, as \"[::1]:25\"")),
        ("smtp:[h]:25", Err("write an IPv6 address in brackets, as \"[::1]:25\"")),
        ("smpt:h", Err("did you mean \"smtp\"?")),
        ("relay.test:25", Err("for this server write \"smtp:relay.test:25\"")),
        ("reject", Err("write it as \"reject:We do not send there\"")),
        ("reject:", Err("use 1 to 200 printable ASCII characters on one line")),
        ("hold:it", Err("write \"hold\"")),
        ("", Err("see the manual of route.next")),
    ] {
        let found = RouteNext::spell(text).map(|next| next.to_string()).map_err(|bad| bad.hint);
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
    }
}

#[test]
fn domains_cover_each_other() {
    let one = |text: &str| DomainMatch::spell(text).expect("it is good");
    for (wide, narrow, expected) in [
        ("*", "[192.0.2.1]", true),
        ("a.test", "A.test", true),
        (".test", "a.test", true),
        (".test", ".a.test", true),
        (".test", "test", false),
        (".a.test", "ba.test", false),
        ("a.test", ".a.test", false),
        ("*a*", "*a*", true),
        ("*a*", "*", false),
    ] {
        assert_eq!(one(wide).covers(&one(narrow)), expected, "{wide} {narrow}");
    }
}

/// A name, a file, and what is printed of it.
type Row = (&'static str, &'static str, &'static [&'static str]);

const FAULTS: &[Row] = &[
    (
        "values",
        "[delivery]\nretry_schedule = ['5m', '5']\nbounce_from = 'a b'\nretry_jitter = 60\n\
         connections_max = 0\n[resolver]\nservers = 'dns.test'\n[[source]]\nname = 'A'\n\
         ipv4 = '0.0.0.0'\nipv6 = '192.0.2.1'\n[[pool]]\nname = 'p'\nsources = ['x:0']\n\
         [[route]]\nrecipient_domain = ['a@b.test', '*a b*', '[x]', 'm\u{fc}.test']\n\
         tls = 'maybe'\n[[destination]]\nname = 's'\nconnections_max = 0\n",
        &[
            "2: delivery.retry_schedule[2]: \"5\" has no unit - write numbers with units d, h, m, s, \
             ms or us, as \"5m\" or \"1h30m\"",
            "3: delivery.bounce_from: \"a b\" is not a mail address - write it as \
             \"postmaster@example.com\" or \"postmaster\"",
            "4: delivery.retry_jitter: 60 is out of range - the maximum is 50",
            "5: delivery.connections_max: 0 is out of range - the minimum is 1",
            "7: resolver.servers: \"dns.test\" is not the address of a name server - write it as \
             \"192.0.2.53\", \"192.0.2.53:5353\" or \"[2001:db8::53]:5353\"",
            "9: source[1].name: \"A\" is not a name - use up to 32 letters a-z, digits, - and _",
            "10: source[1].ipv4: \"0.0.0.0\" is not a host address - remove the key to let the system choose",
            "11: source[1].ipv6: \"192.0.2.1\" is not an IPv6 address - write it without a port, as \
             \"2001:db8::25\"",
            "14: pool[1].sources[1]: \"0\" is not a weight - write a number from 1 to 1000000, as \
             \"x:3\"",
            "15: route[1].next: is missing - write next = \"smtp:relay.example.com:587\"",
            "16: route[1].recipient_domain[1]: \"a@b.test\" is not a domain - write only the part after the @",
            "16: route[1].recipient_domain[2]: \"*a b*\" is not a domain pattern - write it as \
             \"*mail.example*\"",
            "16: route[1].recipient_domain[3]: \"[x]\" is not an address literal - write it as \
             \"[192.0.2.1]\" or \"[IPv6:2001:db8::1]\"",
            "16: route[1].recipient_domain[4]: \"m\u{fc}.test\" is not a domain - write it in its \
             ASCII form, as \"xn--mnchen-3ya.example\"",
            "17: route[1].tls: \"maybe\" is not one of none, may, must, verify - choose one \
             of them",
            "20: destination[1].connections_max: 0 is out of range - the minimum is 1",
        ],
    ),
    (
        "names",
        "[delivery]\npool = 'shred'\n[[route]]\nname = 'a'\nnext = 'mx'\npool = 'other'\n\
         recipient_domain = 'a.test'\n[[route]]\nname = 'a'\nnext = 'mx'\nlistener = ['listner-1']\n\
         [[pool]]\nname = 'shared'\nsources = ['one', 'two', 'one']\n[[pool]]\nname = 'shared'\n\
         sources = []\n[[source]]\nname = 'one'\n[[source]]\nname = 'one'\nipv4 = '192.0.2.1'\n",
        &[
            "2: delivery.pool: there is no pool \"shred\" - did you mean \"shared\"?",
            "6: route[1].pool: there is no pool \"other\" - known names: shared",
            "9: route[2].name: \"a\" is the name of two routes - route[1].name has the same name; names must be unique",
            "11: route[2].listener: there is no listener \"listner-1\" - did you mean \
             \"listener-1\"?",
            "14: pool[1].sources: there is no source \"two\" - known names: one",
            "14: pool[1].sources: names \"one\" twice - list it once, with a weight",
            "16: pool[2].name: \"shared\" is the name of two pools - pool[1].name has the same name; names must be unique",
            "17: pool[2].sources: is empty - name at least one source",
            "19: source[1].name: has no address - set ipv4 or ipv6",
            "21: source[2].name: \"one\" is the name of two sources - source[1].name has the same name; names must be unique",
        ],
    ),
    (
        "limits",
        "[delivery]\nretry_schedule = '2h'\nmax_age = '1h'\ndelay_warning = 0\n[destination_defaults]\n\
         connections_max = 4\nback_off_max = '30s'\n[[destination]]\nname = 'a'\nmx_host = '.a.test'\n\
         [[destination]]\nname = 'b'\nmx_host = ['.b.test', '.a.test']\nwindow_start = 10\n\
         [[destination]]\nname = 'c'\nmx_host = '.c.test'\nconnections_max = 3\n",
        &[
            "2: delivery.retry_schedule: starts with a delay longer than delivery.max_age: nothing is retried - start with a shorter delay, or raise delivery.max_age",
            "6: destination_defaults.window_start: is above connections_max - lower it, or raise \
             destination_defaults.connections_max",
            "7: destination_defaults.back_off_first: is above back_off_max - lower it, or raise \
             destination_defaults.back_off_max",
            "13: destination[2].mx_host: \".a.test\" is named by two destinations - destination[1] applies; list it once",
            "14: destination[2].window_start: is above connections_max - lower it, or raise \
             destination[2].connections_max",
            "18: destination[3].window_start: is above connections_max - lower it, or raise \
             destination[3].connections_max",
        ],
    ),
    (
        "header fields",
        "[delivery]\ncampaign_header = 'X Campaign'\n[[route]]\nname = 'a'\n\
         next = 'mx'\nheaders = ['X-Pool gold', 'X Pool: gold', 'X-Pool:', 'X-Pool: a*b', ': x']\n\
         tenants = ['', 'a*']\n",
        &[
            "2: delivery.campaign_header: \"X Campaign\" is not a header field name - write it \
             as \"X-Campaign\", or \"\" for none",
            "6: route[1].headers[1]: \"X-Pool gold\" has no colon after the field name - \
             write it as \"X-Pool: gold\", or \"X-Pool: *\" for any value",
            "6: route[1].headers[2]: \"X Pool\" is not a header field name - write it as \
             \"X-Pool: gold\"",
            "6: route[1].headers[3]: \"X-Pool:\" has no value - write it as \"X-Pool: gold\", or \
             \"X-Pool: *\" for any value",
            "6: route[1].headers[4]: \"X-Pool: a*b\" contains a star before its end - a star is allowed only at the end, as \"gold*\"",
            "6: route[1].headers[5]: \"\" is not a header field name - write it as \
             \"X-Pool: gold\"",
            "7: route[1].tenants[1]: \"\" is not a name - use up to 32 letters a-z, digits, - and _",
            "7: route[1].tenants[2]: \"a*\" is not a name - use up to 32 letters a-z, digits, - and _",
        ],
    ),
    (
        "labels that no mail has",
        "[delivery]\ncampaign_header = ''\n[[route]]\nname = 'b'\nnext = 'mx'\ncampaigns = 'x'\n",
        &[
            "6: route[1].campaigns: route \"b\" matches no mail: delivery.campaign_header is empty - set delivery.campaign_header, or remove campaigns",
        ],
    ),
    (
        "networks of two tenants",
        "[[network]]\ncidr = ['10.0.0.0/8', '10.1.0.0/16']\ntenant = 'a'\n[[network]]\n\
         cidr = '10.1.0.0/16'\ntenant = 'b'\n[[network]]\ncidr = []\ntenant = 'c'\n",
        &[
            "5: network[2].cidr: 10.1.0.0/16 is listed twice - it is also set in network[1].cidr",
            "8: network[3].cidr: is empty - write at least one network",
        ],
    ),
    (
        "too many header fields",
        "[[route]]\nnext = 'mx'\nheaders = ['a: 1', 'b: 1', 'c: 1', 'd: 1', 'e: 1', 'f: 1', \
         'g: 1', 'A: 2', 'x-tenant: *']\n[[route]]\nnext = 'mx'\nname = 'many'\n\
         headers = ['h: 1', 'i: 1', 'j: 1', 'k: 1', 'l: 1', 'm: 1', 'n: 1', 'o: 1']\n",
        &[
            "7: route[2].headers: with route \"many\", the routes name 17 header fields - name at most 16 in all routes, including that of the campaign",
        ],
    ),
    (
        "passwords",
        "[[route]]\nnext = 'smtp:a.test'\nauth_user = 'u'\n[[route]]\nnext = 'smtp:b.test'\n\
         auth_password_file = 'f'\n[[route]]\nnext = 'mx'\nauth_user = 'u'\n\
         auth_password_file = 'f'\n[[route]]\nrecipient_domain = 'a.test'\nnext = 'smtp:c.test'\n\
         auth_user = 'u'\nauth_password_file = 'f'\ntls = 'may'\n",
        &[
            "3: route[1].auth_user: has no password - set auth_password_file too",
            "6: route[2].auth_password_file: has no user - set auth_user too",
            "9: route[3].auth_user: requires \"smtp:\" or \"smtps:\" with servers named by the route \
             - set servers, as next = \"smtp:relay.example.com:587\", or remove it",
            "14: route[4].auth_user: would send the password in clear text - set tls = \
             \"verify\" for this route",
        ],
    ),
    (
        "recipients, classes, fallbacks and tenants",
        "[[route]]\nnext = 'mx'\nrecipient = ['b.test', '@b.test']\nclass = 'urgnt'\n\
         [[route]]\nnext = 'mx'\nfallback = 'discard'\n\
         [[tenant]]\nname = 'a'\nweight = 0\n[[tenant]]\nname = 'a'\n[[tenant]]\nname = 'a'\n",
        &[
            "3: route[1].recipient[1]: \"b.test\" is not a mail address - write it as \
             \"user@example.com\"; recipient_domain takes domains",
            "3: route[1].recipient[2]: \"@b.test\" is not a mail address - write it as \
             \"user@example.com\"; recipient_domain takes domains",
            "4: route[1].class: \"urgnt\" is not one of urgent, normal, bulk - did you mean \"urgent\"?",
            "7: route[2].fallback: is not a server - name a relay, as fallback = \
             \"smtp:relay.example.com:587\"",
            "10: tenant[1].weight: 0 is out of range - the minimum is 1",
            "12: tenant[2].name: \"a\" is the name of two tenants - tenant[1].name has the same name; names must be unique",
            "14: tenant[3].name: \"a\" is the name of two tenants - tenant[1].name has the same name; names must be unique",
        ],
    ),
    (
        "ways out",
        "[[route]]\nnext = 'smtps:a.test'\ntls = 'none'\nsender_domain = 'a.test'\n[[route]]\n\
         next = 'lmtp:unix:/run/lmtp'\ntls = 'must'\nsender_domain = 'b.test'\n[[route]]\n\
         next = 'smtps:b.test'\nauth_user = 'u'\nauth_password_file = 'f'\n\
         [[source]]\nname = 'a'\nproxy = 'haproxy://192.0.2.1:1'\n\
         [[source]]\nname = 'b'\nproxy = 'socks5://192.0.2.1'\n\
         [[source]]\nname = 'c'\nproxy = 'socks5://u:sesame@proxy.test:1080'\n\
         [[source]]\nname = 'd'\nproxy = 'socks5://192.0.2.1'\nproxy_user = 'u'\n\
         [[source]]\nname = 'e'\nipv4 = '192.0.2.9'\nproxy_user = 'u'\nproxy_password_file = 'f'\n",
        &[
            "3: route[1].tls: contradicts \"smtps:\", which always uses TLS - remove it, or use \"smtp:\" and its port",
            "7: route[2].tls: is not possible: a Unix socket has no TLS - remove it",
            "14: source[1].name: has no address - set ipv4 or ipv6",
            "21: source[3].proxy: user and password must not be part of the value - set proxy_user \
             and proxy_password_file instead",
            "25: source[4].proxy_user: has no password - set proxy_password_file too",
            "29: source[5].proxy_user: requires a SOCKS 5 proxy - set proxy = \"socks5://...\"",
        ],
    ),
    (
        "what stands in a refused element contradicts nothing",
        "[[route]]\nnxt = 'mx'\n[[route]]\nnext = 'mx'\npool = 'p'\n[[pool]]\nname = 'P'\n\
         sources = 'one'\n",
        &[
            "2: route[1].nxt: unknown key - did you mean next?",
            "7: pool[1].name: \"P\" is not a name - use up to 32 letters a-z, digits, - and _",
        ],
    ),
];

#[test]
fn all_faults_of_a_file_are_reported_at_once() {
    for (name, text, want) in FAULTS {
        let faults = read(text).err().unwrap_or_default();
        assert_eq!(lines(&faults), *want, "{name}");
    }
}

#[test]
fn what_works_but_is_not_wanted_is_warned_of() {
    let rows: &[Row] = &[
        (
            "routes",
            "[[route]]\nname = 'first'\nrecipient_domain = '.test'\nnext = 'mx'\n\
             [[route]]\nname = 'below'\nrecipient_domain = ['a.test', '.b.test']\nnext = 'hold'\n\
             tls = 'must'\nsender_domain = 'x.test'\n\
             [[route]]\nname = 'all'\nrecipient_domain = '*'\nnext = 'discard'\n\
             [[route]]\nname = 'last'\nnext = 'smtp:127.0.0.1:2525'\n",
            &[
                "6: route[2].name: never matches: route \"first\" matches all of its mail first - move it before route[1], or remove it",
                "9: route[2].tls: has no effect: this route connects to no server - remove it",
                "14: route[3].next: all mail that reaches this route is discarded - set recipient_domain to the domains to discard",
                "16: route[4].name: never matches: route \"all\" matches all of its mail first - move it before route[3], or remove it",
                "17: route[4].next: 127.0.0.1:2525 is a listener of this server: mail would loop - name another server",
            ],
        ),
        (
            "fallbacks and tenants",
            "[[route]]\nrecipient = 'a@b.test'\nnext = 'hold'\nfallback = 'mx'\n\
             [[route]]\nrecipient = ['A@b.test']\nnext = 'smtp:a.test'\nfallback = 'smtp:a.test:25'\n\
             [[route]]\nrecipient = 'b@b.test'\nnext = 'mx'\nfallback = 'smtp:127.0.0.1:2525'\n\
             fallback_after = '6d'\n[[route]]\nnext = 'mx'\nfallback_after = '2h'\n\
             [[tenant]]\nname = 'x'\nmessages_per_second = 9\nmessages_per_day = 5\n",
            &[
                "4: route[1].fallback: has no effect: this route connects to no server - change it, or remove it",
                "5: route[2].name: never matches: route \"route-1\" matches all of its mail first - move it before route[1], or remove it",
                "8: route[2].fallback: has no effect: it is the next hop of the route - change it, or remove it",
                "12: route[3].fallback: has no effect: the mail bounces earlier - change it, or remove it",
                "12: route[3].fallback: 127.0.0.1:2525 is a listener of this server: mail would loop - name another server",
                "16: route[4].fallback_after: has no effect: the route has no fallback - set fallback, or remove it",
                "18: tenant[1].name: no network belongs to the tenant \"x\" - add a [[network]] with this tenant, or remove the tenant here",
                "19: tenant[1].messages_per_second: has no effect: messages_per_day is 5 - lower it, or raise messages_per_day",
            ],
        ),
        (
            "limits",
            "[delivery]\nretry_schedule = ['1h', '5m']\ndelay_warning = '6d'\n\
             connections_max = 100\n[destination_defaults]\nmessages_per_second = 100\n\
             messages_per_minute = 60\n[[destination]]\nname = 'nobody'\n[[destination]]\nname = 'big'\n\
             mx_host = '.big.test'\nconnections_max = 500\n[[destination]]\nname = 'from'\n\
             mx_host = '.from.test'\nsource_messages_per_minute = 90\nsource_messages_per_day = 80\n",
            &[
                "2: delivery.retry_schedule: a delay is shorter than the one before it - use increasing delays",
                "3: delivery.delay_warning: has no effect: the mail bounces earlier - lower it, or set 0 to disable it",
                "6: destination_defaults.messages_per_second: has no effect: messages_per_minute is 60 - lower \
                 it, or raise messages_per_minute",
                "9: destination[1].name: has no effect: it matches no destination - set recipient_domain or mx_host",
                "13: destination[2].connections_max: exceeds delivery.connections_max, the limit of all destinations together - lower it, or raise delivery.connections_max",
                "17: destination[3].source_messages_per_minute: has no effect: source_messages_per_day is 80 - lower it, or raise source_messages_per_day",
                "17: destination[3].source_messages_per_minute: has no effect: messages_per_minute is 60 - lower it, or raise messages_per_minute",
            ],
        ),
        (
            "DANE without validated answers",
            "[delivery]\ndane = true\n",
            &["2: delivery.dane: has no effect: TLSA records need DNSSEC-validated answers, \
                 and resolver.trust_ad is false - run a resolver that validates DNSSEC on this host, \
                 name it in resolver.servers and set resolver.trust_ad = true, or write dane = false"],
        ),
        ("DANE with them", "[delivery]\ndane = true\n[resolver]\ntrust_ad = true\n", &[]),
        ("no DANE", "[delivery]\ndane = false\n", &[]),
        (
            "header conditions",
            "[[route]]\nname = 'a'\nheaders = 'X-Pool: *'\nnext = 'discard'\n[[route]]\nname = 'b'\n\
             headers = ['x-pool: gold', 'X-Pool: s*']\nnext = 'mx'\n[[route]]\nname = 'c'\n\
             tenants = ['x', 'y']\nnext = 'mx'\n[[route]]\nname = 'd'\ntenants = 'y'\n\
             campaigns = 'z'\nnext = 'mx'\n[[route]]\ncampaigns = 'z'\nnext = 'mx'\n\
             [[network]]\ncidr = '10.0.0.0/8'\ntenant = 'x'\n[[network]]\ncidr = '::/0'\n\
             tenant = 'z'\n",
            &[
                "6: route[2].name: never matches: route \"a\" matches all of its mail first - move it before route[1], or remove it",
                "11: route[3].tenants: no network belongs to the tenant \"y\" - add a [[network]] with this tenant, or remove the tenant here",
                "14: route[4].name: never matches: route \"c\" matches all of its mail first - move it before route[3], or remove it",
                "15: route[4].tenants: no network belongs to the tenant \"y\" - add a [[network]] with this tenant, or remove the tenant here",
                "25: network[2].cidr: ::/0 allows every client to relay (open relay) - list only the networks of this tenant",
            ],
        ),
        (
            "conditions keep routes apart",
            "[[route]]\nsender_domain = 'a.test'\nnext = 'mx'\n[[route]]\nlistener = 'listener-1'\n\
             next = 'mx'\n[[route]]\nrecipient_domain = 'a.test'\nnext = 'mx'\n[[route]]\n\
             recipient_domain = ['a.test', 'b.test']\nnext = 'mx'\n[[route]]\nnext = 'hold'\n",
            &[],
        ),
    ];
    for (name, text, want) in rows {
        let loaded = read(text).unwrap_or_else(|faults| panic!("{name}: {faults:#?}"));
        assert_eq!(lines(&loaded.warnings), *want, "{name}");
    }
}

#[test]
fn a_destination_is_shared_by_so_many_cores_as_is_written() {
    let stripes = |written: &str| {
        let text = format!(
            "[destination_defaults]\nstripes = 2\n[[destination]]\nname = 's'\nmx_host = '.a.test'\n{written}\n"
        );
        let config = config(&text);
        config.destinations[0].treatment(&config.destination_defaults).stripes
    };
    assert_eq!(
        config("").destination_defaults.stripes,
        Stripes::Count(1),
        "strangers have one core"
    );
    for (written, meant) in [
        ("", Stripes::Count(2)),
        ("stripes = 8", Stripes::Count(8)),
        ("stripes = 'all'", Stripes::All),
        ("stripes = 'auto'", Stripes::Auto),
    ] {
        assert_eq!(stripes(written), meant, "{written}");
    }
    for (written, told) in [
        ("stripes = 0", "0 is out of range - the minimum is 1"),
        ("stripes = 'al'", "did you mean \"all\"?"),
        ("stripes = true", "true is not a whole number, \"all\" or \"auto\""),
    ] {
        let faults = read(&format!("[destination_defaults]\n{written}\n")).expect_err(written);
        assert!(lines(&faults)[0].contains(told), "{written}: {}", lines(&faults)[0]);
    }
}

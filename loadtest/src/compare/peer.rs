//! Finds each server and sets up a private instance.
//!
//! Promise:  settings come from `loadtest/peers` only, with `@names@` filled in. The configuration, queue
//!           and log of an installed server are neither read nor changed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::compare::kind::Kind;
use crate::compare::options::Options;

/// A server that was found.
#[derive(Clone, Debug)]
pub struct Peer {
    pub kind: Kind,
    pub program: PathBuf,
    /// Its version, if it can be read before the start.
    pub version: Option<String>,
    /// Replaces the settings in `loadtest/peers`.
    config: Option<PathBuf>,
}

/// The purpose of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Store mail without delivering it.
    Accept,
    Relay,
}

/// How to start an instance.
#[derive(Debug)]
pub struct Plan {
    /// The prefix of the command that mounts its folders.
    pub mounts: Vec<OsString>,
    pub command: Vec<OsString>,
    /// The folder of the queue as its processes see it.
    pub spool: PathBuf,
}

/// The values for its settings.
pub struct Places<'p> {
    pub program: &'p Path,
    /// The folder of this instance.
    pub folder: &'p Path,
    pub port: u16,
    pub sink: u16,
    pub purpose: Purpose,
    /// Recipient domains; one: all mail goes to 127.0.0.1.
    pub domains: u64,
}

impl Peer {
    /// `Err`: it was not found, and how to get it.
    pub fn find(kind: Kind, options: &Options) -> Result<Peer, String> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name("ringpost"));
        let program = match kind {
            Kind::Ringpost => options.ringpost.clone().or_else(beside).unwrap_or_default(),
            Kind::Baseline => options.baseline.clone().unwrap_or_default(),
            Kind::Postfix => PathBuf::from("/usr/sbin/postfix"),
            Kind::Generator => std::env::current_exe().unwrap_or_default(),
            Kind::SmtpSource => PathBuf::from("/usr/sbin/smtp-source"),
            Kind::Exim => options.exim.clone(),
            Kind::OpenSmtpd => options.opensmtpd.clone(),
            Kind::Haraka => options.haraka.join("node_modules/Haraka/bin/haraka"),
        };
        // The command runs in another folder.
        let Ok(program) = fs::canonicalize(&program) else {
            return Err(format!("not found ({}): {}", program.display(), kind.how_to_get()));
        };
        if kind.needs_root() && !rustix::process::geteuid().is_root() {
            return Err("it must be started as root".to_owned());
        }
        if options.domains > 1 && !kind.has_domains() {
            return Err("no configuration for --domains".to_owned());
        }
        let config = options.baseline_config.clone().filter(|_| kind == Kind::Baseline);
        Ok(Peer { kind, version: version(kind, &program), program, config })
    }

    /// Writes its configuration and creates its folders.
    pub fn set_up(&self, places: &Places) -> Result<Plan, String> {
        let told = |cause: std::io::Error| {
            format!("{}: setting up {}: {cause}", places.folder.display(), self.kind.name())
        };
        match self.kind {
            Kind::Ringpost | Kind::Baseline => self.ringpost(places),
            Kind::Postfix => self.postfix(places),
            Kind::Exim => self.exim(places),
            Kind::OpenSmtpd => self.opensmtpd(places),
            Kind::Haraka => self.haraka(places),
            Kind::Generator | Kind::SmtpSource => Err(std::io::Error::other("it is not a server")),
        }
        .map_err(told)
    }

    fn plan(&self, words: &[&str], config: &Path, spool: PathBuf) -> Plan {
        let mut command = vec![self.program.clone().into_os_string()];
        command.extend(words.iter().map(OsString::from));
        command.push(config.into());
        Plan { mounts: Vec::new(), command, spool }
    }

    fn ringpost(&self, places: &Places) -> std::io::Result<Plan> {
        let config = places.folder.join("ringpost.toml");
        let own = self.config.as_ref().map(fs::read_to_string).transpose()?;
        let shipped = include_str!("../../peers/ringpost/ringpost.toml");
        places.fill(own.as_deref().unwrap_or(shipped), &config)?;
        Ok(self.plan(&["serve", "--config"], &config, places.spool()))
    }

    fn postfix(&self, places: &Places) -> std::io::Result<Plan> {
        let (etc, data) = (places.folder.join("etc"), places.folder.join("data"));
        [&etc, &data, &places.spool()].into_iter().try_for_each(fs::create_dir)?;
        let (user, group) = account("postfix")?;
        chown(&data, Some(user), Some(group))?;
        places.fill(include_str!("../../peers/postfix/main.cf"), &etc.join("main.cf"))?;
        fs::write(places.folder.join("transport"), places.postfix_routes())?;
        let mut services = include_str!("../../peers/postfix/master.cf").to_owned();
        match places.purpose {
            Purpose::Relay => services += include_str!("../../peers/postfix/deliver.cf"),
            Purpose::Accept => postfix_deaf_queue(&places.spool(), user)?,
        }
        places.fill(&services, &etc.join("master.cf"))?;
        let mut plan = self.plan(&["-c"], &etc, places.spool());
        plan.command.push("start-fg".into());
        Ok(plan)
    }

    fn exim(&self, places: &Places) -> std::io::Result<Plan> {
        let config = places.folder.join("exim.conf");
        places.fill(include_str!("../../peers/exim/exim.conf"), &config)?;
        for folder in [places.spool(), places.folder.join("log")] {
            fs::create_dir(&folder)?;
            chown(&folder, Some(EXIM), Some(EXIM))?;
        }
        chown(places.folder, Some(EXIM), Some(EXIM))?;
        let mut plan = self.plan(&["-bdf", "-q1m", "-C"], &config, places.spool());
        plan.mounts = places.mounts(&[("Debian-exim", EXIM)], &[])?;
        Ok(plan)
    }

    fn opensmtpd(&self, places: &Places) -> std::io::Result<Plan> {
        let config = places.folder.join("smtpd.conf");
        places.fill(include_str!("../../peers/opensmtpd/smtpd.conf"), &config)?;
        let [var_spool, var_lib, run] =
            ["var-spool", "var-lib", "run"].map(|name| places.folder.join(name));
        fs::create_dir_all(var_spool.join("smtpd"))?;
        fs::set_permissions(var_spool.join("smtpd"), fs::Permissions::from_mode(0o711))?;
        fs::create_dir_all(var_lib.join("opensmtpd/empty"))?;
        fs::create_dir(&run)?;
        // These paths are compiled in; /var/run is a link to /run.
        let binds = [(var_spool, "/var/spool"), (var_lib, "/var/lib"), (run, "/run")];
        let words: &[&str] = match places.purpose {
            Purpose::Accept => &["-d", "-P", "mta", "-f"],
            Purpose::Relay => &["-d", "-f"],
        };
        let mut plan = self.plan(words, &config, PathBuf::from("/var/spool/smtpd"));
        let users = [("opensmtpd", OPENSMTPD), ("opensmtpq", OPENSMTPQ)];
        plan.mounts = places.mounts(&users, &binds)?;
        Ok(plan)
    }

    fn haraka(&self, places: &Places) -> std::io::Result<Plan> {
        let config = places.folder.join("config");
        let plugins = places.folder.join("plugins");
        [&config, &plugins, &places.spool()].into_iter().try_for_each(fs::create_dir)?;
        // Haraka has no defaults for sections of this file.
        let own = self.program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        fs::copy(own.join("config/connection.ini"), config.join("connection.ini"))?;
        for (name, text) in HARAKA {
            places.fill(text, &places.folder.join(name))?;
        }
        let mut plan = self.plan(&["-c"], places.folder, places.spool());
        plan.command.insert(0, "node".into());
        Ok(plan)
    }
}

const HARAKA: [(&str, &str); 7] = [
    ("config/smtp.ini", include_str!("../../peers/haraka/config/smtp.ini")),
    ("config/outbound.ini", include_str!("../../peers/haraka/config/outbound.ini")),
    ("config/plugins", include_str!("../../peers/haraka/config/plugins")),
    ("config/log.ini", include_str!("../../peers/haraka/config/log.ini")),
    ("config/me", include_str!("../../peers/haraka/config/me")),
    ("config/queue_dir", include_str!("../../peers/haraka/config/queue_dir")),
    ("plugins/to_the_sink.js", include_str!("../../peers/haraka/plugins/to_the_sink.js")),
];

/// With `--domains`: the addresses 127.0.1.0 to 127.0.1.63 of the sink, and the parent domain.
pub const SINK_HOSTS: u64 = 64;
pub const DOMAIN: &str = "example.net";

/// Users that exist only in the mount namespace of the server.
const EXIM: u32 = 64_990;
const OPENSMTPD: u32 = 64_991;
const OPENSMTPQ: u32 = 64_992;

/// Mounts each folder over the path that follows it, then runs the command after `--`.
const MOUNT: &str = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 9; shift 2; done; \
                     shift; exec \"$@\"";

impl Places<'_> {
    fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    fn fill(&self, text: &str, path: &Path) -> std::io::Result<()> {
        let delivers = self.purpose == Purpose::Relay;
        let connections = if self.domains > 1 { 20 } else { 100 };
        let mut text = text.to_owned();
        for (name, value) in [
            ("@folder@", self.folder.display().to_string()),
            ("@program@", self.program.display().to_string()),
            ("@spool@", self.spool().display().to_string()),
            ("@port@", self.port.to_string()),
            ("@sink@", self.sink.to_string()),
            ("@delivers@", delivers.to_string()),
            ("@held@", (!delivers).to_string()),
            ("@connections@", connections.to_string()),
            ("@ringpost_routes@", self.ringpost_routes()),
            ("@postfix_route@", self.postfix_route()),
        ] {
            text = text.replace(name, &value);
        }
        fs::write(path, text)
    }

    fn ringpost_routes(&self) -> String {
        let route = |name: &str, domains: &[String], host: &str| {
            let port = self.sink;
            format!(
                "[[route]]\nname = \"{name}\"\nrecipient_domain = {domains:?}\n\
                 next = \"smtp:{host}:{port}\"\n"
            )
        };
        if self.domains == 1 {
            return route("sink", &["*".to_owned()], "127.0.0.1");
        }
        let of_host = |host: u64| {
            let own = (host..self.domains).step_by(SINK_HOSTS as usize);
            let domains: Vec<String> = own.map(|number| format!("{number}.{DOMAIN}")).collect();
            route(&format!("sink-{host}"), &domains, &format!("127.0.1.{host}"))
        };
        (0..self.domains.min(SINK_HOSTS)).map(of_host).collect()
    }

    fn postfix_route(&self) -> String {
        match self.domains {
            1 => format!("relayhost = [127.0.0.1]:{}", self.sink),
            _ => format!("transport_maps = texthash:{}/transport", self.folder.display()),
        }
    }

    fn postfix_routes(&self) -> String {
        let line = |number: u64| {
            let host = number % SINK_HOSTS;
            format!("{number}.{DOMAIN} smtp:[127.0.1.{host}]:{}\n", self.sink)
        };
        (0..self.domains).map(line).collect()
    }

    /// The prefix of a command that runs with these users and these folders mounted.
    fn mounts(
        &self,
        users: &[(&str, u32)],
        binds: &[(PathBuf, &str)],
    ) -> std::io::Result<Vec<OsString>> {
        let mut passwd = fs::read_to_string("/etc/passwd")?;
        let mut group = fs::read_to_string("/etc/group")?;
        for (name, id) in users {
            // The first entry of a name is used.
            passwd = format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n{passwd}");
            group = format!("{name}:x:{id}:\n{group}");
        }
        let own = [("passwd", passwd, "/etc/passwd"), ("group", group, "/etc/group")];
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT, "sh"];
        let mut command: Vec<OsString> = words.iter().map(OsString::from).collect();
        for (name, text, target) in own {
            fs::write(self.folder.join(name), text)?;
            command.extend([self.folder.join(name).into(), target.into()]);
        }
        for (folder, target) in binds {
            command.extend([folder.into(), target.into()]);
        }
        command.push("--".into());
        Ok(command)
    }
}

/// A pipe without a reader in place of the queue manager, which `cleanup` notifies of each message.
/// Without it every message would log a warning, which costs more.
fn postfix_deaf_queue(spool: &Path, user: u32) -> std::io::Result<()> {
    let public = spool.join("public");
    fs::create_dir(&public)?;
    chown(&public, Some(user), Some(group("postdrop")?))?;
    fs::set_permissions(&public, fs::Permissions::from_mode(0o710))?;
    let pipe = public.join("qmgr");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)?;
    chown(&pipe, Some(user), None)?;
    // Independent of the umask.
    fs::set_permissions(&pipe, fs::Permissions::from_mode(0o622))
}

fn group(name: &str) -> std::io::Result<u32> {
    let text = fs::read_to_string("/etc/group")?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| std::io::Error::other(format!("no such group: {name}")))
}

/// The user and group ids of a local account.
fn account(name: &str) -> std::io::Result<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd")?;
    let found = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let id = |place: usize| fields.get(place)?.parse::<u32>().ok();
        (fields[0] == name).then(|| Some((id(2)?, id(3)?)))?
    });
    found.ok_or_else(|| std::io::Error::other(format!("no such user: {name}")))
}

/// The version from the program or its package.
fn version(kind: Kind, program: &Path) -> Option<String> {
    let said = |command: &mut Command| {
        let output = command.output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    let number = |text: &str| {
        let is_version =
            |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        let mut words = text.split_whitespace();
        words.find(is_version).map(str::to_owned)
    };
    match kind {
        Kind::Ringpost | Kind::Baseline | Kind::Generator => {
            number(&said(Command::new(program).arg("--version"))?)
        }
        Kind::Postfix | Kind::SmtpSource => {
            number(&said(Command::new("postconf").args(["-d", "-h", "mail_version"]))?)
        }
        Kind::OpenSmtpd => number(&said(Command::new(program).arg("-h"))?),
        Kind::Haraka => {
            let manifest = program.parent()?.parent()?.join("package.json");
            let value: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(manifest).ok()?).ok()?;
            Some(value.get("version")?.as_str()?.to_owned())
        }
        // It prints nothing if its user does not exist; the version is in its greeting.
        Kind::Exim => None,
    }
}

//! The servers that can be compared: where each is found, how each is set up.
//!
//! Promise:  settings come from `loadtest/peers` and nowhere else; only `@names@` in them are filled
//!           in. Nothing of an installed server's own config, queue or log is read or changed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::compare::options::Options;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ringpost,
    Postfix,
    Exim,
    OpenSmtpd,
    Haraka,
    KumoMta,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ringpost => "Ringpost",
            Kind::Postfix => "Postfix",
            Kind::Exim => "Exim",
            Kind::OpenSmtpd => "OpenSMTPD",
            Kind::Haraka => "Haraka",
            Kind::KumoMta => "KumoMTA",
        }
    }

    pub const fn key(self) -> &'static str {
        match self {
            Kind::Ringpost => "ringpost",
            Kind::Postfix => "postfix",
            Kind::Exim => "exim",
            Kind::OpenSmtpd => "opensmtpd",
            Kind::Haraka => "haraka",
            Kind::KumoMta => "kumomta",
        }
    }

    /// Sessions that it can be driven by.
    pub const fn sessions_max(self) -> Option<usize> {
        match self {
            // The kernel keeps five waiting for it, which is compiled in; more wait for seconds.
            Kind::OpenSmtpd => Some(5),
            _ => None,
        }
    }

    /// What its figures leave out.
    pub const fn caveat(self) -> Option<&'static str> {
        match self {
            Kind::Exim => Some(
                "its sessions do not wait for the deliveries that they start, so that CPU and bytes \
                 of these are not counted: \"at least\" is a lower bound",
            ),
            _ => None,
        }
    }

    const fn how_to_get(self) -> &'static str {
        match self {
            Kind::Ringpost => "`cargo build --release`, or --ringpost FILE",
            Kind::Postfix => "`apt install postfix`",
            Kind::Exim => "`apt install exim4-daemon-light`, or unpack it and --exim FILE",
            Kind::OpenSmtpd => "`apt install opensmtpd`, or unpack it and --opensmtpd FILE",
            Kind::Haraka => "`npm install Haraka` in a folder, and --haraka FOLDER",
            Kind::KumoMta => "see https://docs.kumomta.com/, and --kumomta FILE",
        }
    }

    /// Those that start as root, to become others.
    const fn needs_root(self) -> bool {
        !matches!(self, Kind::Ringpost | Kind::Haraka)
    }
}

/// A server that is there.
#[derive(Clone, Debug)]
pub struct Peer {
    pub kind: Kind,
    pub program: PathBuf,
    /// If it tells that before it runs.
    pub version: Option<String>,
}

/// What a server is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Mail is stored and stays.
    Accept,
    Relay,
}

/// A server that is set up.
#[derive(Debug)]
pub struct Plan {
    /// What comes before the command, to give it its view of files.
    pub mounts: Vec<OsString>,
    pub command: Vec<OsString>,
    /// Where the queue is, as its processes see it.
    pub spool: PathBuf,
}

/// What is filled into settings.
pub struct Places<'p> {
    pub program: &'p Path,
    /// Of this instance alone.
    pub folder: &'p Path,
    pub port: u16,
    pub sink: u16,
    pub purpose: Purpose,
}

impl Peer {
    /// Err: that it is not there, and how to get it.
    pub fn find(kind: Kind, options: &Options) -> Result<Peer, String> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name("ringpost"));
        let program = match kind {
            Kind::Ringpost => options.ringpost.clone().or_else(beside).unwrap_or_default(),
            Kind::Postfix => PathBuf::from("/usr/sbin/postfix"),
            Kind::Exim => options.exim.clone(),
            Kind::OpenSmtpd => options.opensmtpd.clone(),
            Kind::Haraka => options.haraka.join("node_modules/Haraka/bin/haraka"),
            Kind::KumoMta => options.kumomta.clone(),
        };
        // The command runs elsewhere.
        let Ok(program) = fs::canonicalize(&program) else {
            return Err(format!("not present ({}): {}", program.display(), kind.how_to_get()));
        };
        if kind.needs_root() && !rustix::process::geteuid().is_root() {
            return Err("it starts as root: run `compare` as root".to_owned());
        }
        Ok(Peer { kind, version: version(kind, &program), program })
    }

    /// Writes its config, and makes its folders.
    pub fn set_up(&self, places: &Places) -> Result<Plan, String> {
        let told = |cause: std::io::Error| {
            format!("{}: setting up {}: {cause}", places.folder.display(), self.kind.name())
        };
        match self.kind {
            Kind::Ringpost => self.ringpost(places),
            Kind::Postfix => self.postfix(places),
            Kind::Exim => self.exim(places),
            Kind::OpenSmtpd => self.opensmtpd(places),
            Kind::Haraka => self.haraka(places),
            Kind::KumoMta => self.kumomta(places),
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
        places.fill(include_str!("../../peers/ringpost/ringpost.toml"), &config)?;
        Ok(self.plan(&["serve", "--config"], &config, places.spool()))
    }

    fn postfix(&self, places: &Places) -> std::io::Result<Plan> {
        let (etc, data) = (places.folder.join("etc"), places.folder.join("data"));
        [&etc, &data, &places.spool()].into_iter().try_for_each(fs::create_dir)?;
        let (user, group) = account("postfix")?;
        chown(&data, Some(user), Some(group))?;
        places.fill(include_str!("../../peers/postfix/main.cf"), &etc.join("main.cf"))?;
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
        // What is compiled in; /var/run leads to /run.
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
        // Haraka reads sections of this file without defaults of its own.
        let own = self.program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        fs::copy(own.join("config/connection.ini"), config.join("connection.ini"))?;
        for (name, text) in HARAKA {
            places.fill(text, &places.folder.join(name))?;
        }
        let mut plan = self.plan(&["-c"], places.folder, places.spool());
        plan.command.insert(0, "node".into());
        Ok(plan)
    }

    fn kumomta(&self, places: &Places) -> std::io::Result<Plan> {
        let config = places.folder.join("init.lua");
        places.fill(include_str!("../../peers/kumomta/init.lua"), &config)?;
        for folder in [places.spool(), places.folder.join("log")] {
            fs::create_dir(&folder)?;
        }
        // It insists on a user to become; root's own files are its spool here.
        Ok(self.plan(&["--user", "root", "--policy"], &config, places.spool()))
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

/// Users that exist only in the view of files of a server that asks for them by name.
const EXIM: u32 = 64_990;
const OPENSMTPD: u32 = 64_991;
const OPENSMTPQ: u32 = 64_992;

/// Mounts each folder over the path behind it, then runs what comes behind `--`.
const MOUNT: &str = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 9; shift 2; done; \
                     shift; exec \"$@\"";

impl Places<'_> {
    fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    fn fill(&self, text: &str, path: &Path) -> std::io::Result<()> {
        let delivers = self.purpose == Purpose::Relay;
        let mut text = text.to_owned();
        for (name, value) in [
            ("@folder@", self.folder.display().to_string()),
            ("@program@", self.program.display().to_string()),
            ("@spool@", self.spool().display().to_string()),
            ("@port@", self.port.to_string()),
            ("@sink@", self.sink.to_string()),
            ("@delivers@", delivers.to_string()),
            ("@held@", (!delivers).to_string()),
        ] {
            text = text.replace(name, &value);
        }
        fs::write(path, text)
    }

    /// A view of files in which there are these users, and these folders lie elsewhere.
    fn mounts(
        &self,
        users: &[(&str, u32)],
        binds: &[(PathBuf, &str)],
    ) -> std::io::Result<Vec<OsString>> {
        let mut passwd = fs::read_to_string("/etc/passwd")?;
        let mut group = fs::read_to_string("/etc/group")?;
        for (name, id) in users {
            // The first of a name is the one that is found.
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

/// What `cleanup` wakes for each message where there is no queue manager: a pipe that nobody reads.
/// Without it there would be a warning in the log for each, which costs more than the wake does.
fn postfix_deaf_queue(spool: &Path, user: u32) -> std::io::Result<()> {
    let public = spool.join("public");
    fs::create_dir(&public)?;
    chown(&public, Some(user), Some(group("postdrop")?))?;
    fs::set_permissions(&public, fs::Permissions::from_mode(0o710))?;
    let pipe = public.join("qmgr");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)?;
    chown(&pipe, Some(user), None)?;
    // Past the mask of this process.
    fs::set_permissions(&pipe, fs::Permissions::from_mode(0o622))
}

fn group(name: &str) -> std::io::Result<u32> {
    let text = fs::read_to_string("/etc/group")?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| std::io::Error::other(format!("there is no group `{name}`")))
}

/// User and group of an account of this machine.
fn account(name: &str) -> std::io::Result<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd")?;
    let found = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let id = |place: usize| fields.get(place)?.parse::<u32>().ok();
        (fields[0] == name).then(|| Some((id(2)?, id(3)?)))?
    });
    found.ok_or_else(|| std::io::Error::other(format!("there is no user `{name}`")))
}

/// As it tells itself, or its package does.
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
        Kind::Ringpost | Kind::KumoMta => number(&said(Command::new(program).arg("--version"))?),
        Kind::Postfix => {
            number(&said(Command::new("postconf").args(["-d", "-h", "mail_version"]))?)
        }
        Kind::OpenSmtpd => number(&said(Command::new(program).arg("-h"))?),
        Kind::Haraka => {
            let manifest = program.parent()?.parent()?.join("package.json");
            let value: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(manifest).ok()?).ok()?;
            Some(value.get("version")?.as_str()?.to_owned())
        }
        // It tells nothing where its user is missing, as where it is only unpacked; its greeting does.
        Kind::Exim => None,
    }
}

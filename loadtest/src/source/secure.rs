//! TLS and logging in, as the relay's own connections do it.
//!
//! Owner:    one `Secure` per shard, so that no other takes the lock of its TLS sessions.
//! Promise:  a password is not told in the clear unless `--auth-in-clear` says so.
//!
//! Certificates are looked at only with `--tls-verify`: what is loaded is mostly a test server.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ringpost::base::ChunkPool;
use ringpost::net::Channel;
use ringpost::net::PeerCheck;
use ringpost::net::SocketFault;
use ringpost::net::TlsClient;
use ringpost::net::TlsClientSettings;
use ringpost::rt::Stream;
use ringpost::wire::smtp::Client;
use ringpost::wire::smtp::ClientConfig;
use ringpost::wire::smtp::TlsUse;
use ringpost::wire::smtp::client_login::Login;
use ringpost::wire::smtp::client_login::LoginWay;

/// How the connection is secured, and who logs in.
#[derive(Args, Clone, Debug, Default)]
pub struct SecureOptions {
    /// Say STARTTLS; a server that does not offer it is not sent to.
    #[arg(long, conflicts_with = "tls")]
    pub starttls: bool,
    /// Begin with TLS, as on port 465.
    #[arg(long)]
    pub tls: bool,
    /// Verify the server's certificate. It is not looked at otherwise, for most servers that are
    /// loaded have one of their own making.
    #[arg(long)]
    pub tls_verify: bool,
    /// The authorities that are trusted, as PEM, instead of the system's.
    #[arg(long, value_name = "FILE", requires = "tls_verify")]
    pub tls_roots: Option<PathBuf>,
    /// The name to ask the server for, and to verify; the host of SERVER if it is left out.
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// Make a full handshake for each connection.
    #[arg(long)]
    pub tls_no_resume: bool,
    /// Log in, by AUTH PLAIN or else LOGIN. Others on this machine can read the command line:
    /// better use --auth-file or --auth-env.
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with_all = ["auth_file", "auth_env"])]
    pub auth: Option<String>,
    /// Log in with the first line of this file, USER:PASSWORD.
    #[arg(long, value_name = "FILE", conflicts_with = "auth_env")]
    pub auth_file: Option<PathBuf>,
    /// Log in with what this environment variable holds, USER:PASSWORD.
    #[arg(long, value_name = "VARIABLE")]
    pub auth_env: Option<String>,
    /// Log in by this alone, plain or login, instead of the first of them that is offered.
    #[arg(long, value_name = "MECHANISM", value_parser = read_way)]
    pub auth_mechanism: Option<LoginWay>,
    /// Tell the password without TLS too.
    #[arg(long)]
    pub auth_in_clear: bool,
}

fn read_way(text: &str) -> Result<LoginWay, String> {
    match () {
        () if text.eq_ignore_ascii_case("plain") => Ok(LoginWay::Plain),
        () if text.eq_ignore_ascii_case("login") => Ok(LoginWay::Login),
        () => Err(format!("`{text}` is not known here: there are plain and login")),
    }
}

impl SecureOptions {
    fn is_tls(&self) -> bool {
        self.starttls || self.tls
    }

    fn is_auth(&self) -> bool {
        self.auth.is_some() || self.auth_file.is_some() || self.auth_env.is_some()
    }

    pub fn is_plain(&self) -> bool {
        !self.is_tls() && !self.is_auth()
    }

    pub fn check(&self) -> Result<(), String> {
        let of_tls = [
            (self.tls_verify, "--tls-verify"),
            (self.sni.is_some(), "--sni"),
            (self.tls_no_resume, "--tls-no-resume"),
        ];
        if let Some((_, flag)) = of_tls.iter().find(|(is_set, _)| *is_set && !self.is_tls()) {
            return Err(format!("{flag}: without TLS it means nothing; add --starttls or --tls"));
        }
        if self.is_auth() && !self.is_tls() && !self.auth_in_clear {
            return Err("the password would be told in the clear: add --starttls or --tls, or \
                        --auth-in-clear if that is wanted"
                .to_owned());
        }
        if self.auth_in_clear && !self.is_auth() {
            return Err("--auth-in-clear: nobody is to log in; add --auth-file".to_owned());
        }
        if self.auth_mechanism.is_some() && !self.is_auth() {
            return Err("--auth-mechanism: nobody is to log in; add --auth-file".to_owned());
        }
        Ok(())
    }

    /// Who logs in, read from where it is kept.
    pub fn login(&self) -> Result<Option<Login>, String> {
        let (text, from) = match (&self.auth, &self.auth_file, &self.auth_env) {
            (Some(text), _, _) => (text.clone(), "--auth".to_owned()),
            (_, Some(path), _) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|cause| format!("{}: {cause}", path.display()))?;
                let line = text.lines().next().unwrap_or_default();
                (line.to_owned(), path.display().to_string())
            }
            (_, _, Some(name)) => {
                let text = env::var(name).map_err(|cause| format!("--auth-env {name}: {cause}"))?;
                (text, name.clone())
            }
            (None, None, None) => return Ok(None),
        };
        // Not what it is: it may be a password.
        let (user, password) = text
            .split_once(':')
            .filter(|(user, password)| !user.is_empty() && !password.is_empty())
            .ok_or_else(|| format!("{from}: it is not USER:PASSWORD"))?;
        Ok(Some(Login { user: user.into(), password: password.into() }))
    }
}

/// How the connections of a shard are secured.
pub struct Secure {
    starts: bool,
    implicit: bool,
    client: Option<Arc<TlsClient>>,
    host: String,
    check: PeerCheck,
    login: Option<Login>,
    way: Option<LoginWay>,
    in_clear: bool,
}

/// TLS handshakes that went well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    pub made: u64,
    /// Of these.
    pub resumed: u64,
}

impl Secure {
    pub fn new(
        options: &SecureOptions,
        host: &str,
        login: Option<Login>,
    ) -> Result<Secure, String> {
        let settings = TlsClientSettings {
            roots: options.tls_roots.clone(),
            resumes: !options.tls_no_resume,
            ..TlsClientSettings::default()
        };
        let client = options.is_tls().then(|| TlsClient::build(&settings)).transpose();
        let client = client.map_err(|problems| problems.to_string())?;
        if options.tls_verify && client.as_ref().is_some_and(|client| !client.has_roots()) {
            return Err("--tls-verify: this system has no authorities; name a file of them with \
                        --tls-roots"
                .to_owned());
        }
        Ok(Secure {
            starts: options.starttls,
            implicit: options.tls,
            client,
            host: options.sni.clone().unwrap_or_else(|| host.to_owned()),
            check: if options.tls_verify { PeerCheck::Name } else { PeerCheck::Any },
            login,
            way: options.auth_mechanism,
            in_clear: options.auth_in_clear,
        })
    }

    /// What the SMTP client has to know.
    pub fn tls_use(&self) -> TlsUse {
        if self.starts { TlsUse::Always } else { TlsUse::Never }
    }

    pub fn client(&self, config: &Arc<ClientConfig>) -> Client {
        let client = Client::new(Arc::clone(config), self.implicit);
        let client = match self.way {
            Some(way) => client.only_by(way),
            None => client,
        };
        match &self.login {
            None => client,
            Some(login) if self.in_clear => client.with_login_in_clear(login.clone()),
            Some(login) => client.with_login(login.clone()),
        }
    }

    /// A connection that has just been made, with TLS where it begins with that.
    pub async fn open(
        &self,
        stream: Stream,
        pool: &ChunkPool,
        limit: Duration,
    ) -> Result<Channel<Stream>, SocketFault> {
        let mut channel = Channel::plain(stream);
        if self.implicit {
            channel.stream().deadline().set_in(limit);
            self.shake_hands(&mut channel, pool).await?;
        }
        Ok(channel)
    }

    /// Within the deadline that is set.
    pub async fn shake_hands(
        &self,
        channel: &mut Channel<Stream>,
        pool: &ChunkPool,
    ) -> Result<(), SocketFault> {
        let client = self.client.as_ref().expect("nobody begins TLS without --tls or --starttls");
        channel.start_tls_client(client, &self.host, self.check.clone())?;
        channel.handshake(pool, None).await
    }
}

impl Handshakes {
    pub fn count(&mut self, channel: &Channel<Stream>) {
        if let Some(facts) = channel.tls_facts() {
            self.made += 1;
            self.resumed += u64::from(facts.resumed);
        }
    }

    pub fn add(&mut self, other: Handshakes) {
        self.made += other.made;
        self.resumed += other.resumed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: SecureOptions,
    }

    fn options(words: &str) -> SecureOptions {
        Line::parse_from(std::iter::once("x").chain(words.split_whitespace())).options
    }

    #[test]
    fn no_password_goes_out_in_the_clear_unasked() {
        for (words, is_good) in [
            ("", true),
            ("--auth a:b", false),
            ("--auth a:b --auth-in-clear", true),
            ("--auth a:b --starttls", true),
            ("--auth a:b --tls --sni mx.test", true),
            ("--auth-in-clear", false),
            ("--tls-verify", false),
            ("--sni x", false),
            ("--tls-no-resume", false),
            ("--auth a:b --tls --auth-mechanism LOGIN", true),
            ("--auth-mechanism plain", false),
        ] {
            assert_eq!(options(words).check().is_ok(), is_good, "{words}");
        }
    }

    #[test]
    fn logins_come_from_where_they_are_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("login");
        fs::write(&path, "us:se:cret\nmore\n").expect("there is room");
        let expected = Login { user: "us".into(), password: "se:cret".into() };
        let by_file = SecureOptions { auth_file: Some(path), ..SecureOptions::default() };
        assert_eq!(by_file.login(), Ok(Some(expected.clone())));
        assert_eq!(options("--auth us:se:cret").login(), Ok(Some(expected)));
        assert_eq!(options("").login(), Ok(None));
        for bad in [
            "--auth us",
            "--auth :x",
            "--auth us:",
            "--auth-file /no/such",
            "--auth-env RINGPOST_LOAD_NOT_SET",
        ] {
            let told = options(bad).login().expect_err(bad);
            assert!(!told.contains("us:"), "{told}");
        }
    }
}

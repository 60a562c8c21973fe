//! TLS and AUTH, with the code of the server's own outbound connections.
//!
//! Owner:    one `Secure` per shard, so that shards do not share the lock of TLS sessions.
//! Promise:  a password is not sent in clear text without `--auth-in-clear`.
//!
//! Certificates are verified only with `--tls-verify`: test servers mostly have self-signed ones.

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

#[derive(Args, Clone, Debug, Default)]
pub struct SecureOptions {
    /// Use STARTTLS; fail if the server does not offer it.
    #[arg(long, conflicts_with = "tls")]
    pub starttls: bool,
    /// Start TLS at once, as on port 465.
    #[arg(long)]
    pub tls: bool,
    /// Verify the server's certificate. Default: accept any certificate.
    #[arg(long)]
    pub tls_verify: bool,
    /// Trusted CA certificates (PEM) instead of those of the system.
    #[arg(long, value_name = "FILE", requires = "tls_verify")]
    pub tls_roots: Option<PathBuf>,
    /// The name for SNI and verification. Default: the host of SERVER.
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// Make a full handshake for each connection.
    #[arg(long)]
    pub tls_no_resume: bool,
    /// Authenticate with AUTH PLAIN, or LOGIN if PLAIN is not offered. Other users can see the command
    /// line; --auth-file is safer.
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with = "auth_file")]
    pub auth: Option<String>,
    /// Authenticate with the first line of this file, USER:PASSWORD.
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Allow sending the password without TLS.
    #[arg(long)]
    pub auth_in_clear: bool,
}

impl SecureOptions {
    fn is_tls(&self) -> bool {
        self.starttls || self.tls
    }

    fn is_auth(&self) -> bool {
        self.auth.is_some() || self.auth_file.is_some()
    }

    pub fn check(&self) -> Result<(), String> {
        let of_tls = [
            (self.tls_verify, "--tls-verify"),
            (self.sni.is_some(), "--sni"),
            (self.tls_no_resume, "--tls-no-resume"),
        ];
        if let Some((_, flag)) = of_tls.iter().find(|(is_set, _)| *is_set && !self.is_tls()) {
            return Err(format!("{flag}: needs --starttls or --tls"));
        }
        if self.is_auth() && !self.is_tls() && !self.auth_in_clear {
            return Err("the password would be sent in clear text: add --starttls, --tls or \
                        --auth-in-clear"
                .to_owned());
        }
        if self.auth_in_clear && !self.is_auth() {
            return Err("--auth-in-clear: needs --auth or --auth-file".to_owned());
        }
        Ok(())
    }

    /// Reads the user name and the password.
    pub fn login(&self) -> Result<Option<Login>, String> {
        let (text, from) = match (&self.auth, &self.auth_file) {
            (Some(text), _) => (text.clone(), "--auth".to_owned()),
            (_, Some(path)) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|cause| format!("{}: {cause}", path.display()))?;
                let line = text.lines().next().unwrap_or_default();
                (line.to_owned(), path.display().to_string())
            }
            (None, None) => return Ok(None),
        };
        // The error must not show the text, which may be a password.
        let (user, password) = text
            .split_once(':')
            .filter(|(user, password)| !user.is_empty() && !password.is_empty())
            .ok_or_else(|| format!("{from}: expected USER:PASSWORD"))?;
        Ok(Some(Login { user: user.into(), password: password.into() }))
    }
}

/// TLS and AUTH of the connections of a shard.
pub struct Secure {
    starts: bool,
    implicit: bool,
    client: Option<Arc<TlsClient>>,
    host: String,
    check: PeerCheck,
    login: Option<Login>,
    in_clear: bool,
}

/// Successful TLS handshakes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    pub made: u64,
    /// Resumed ones among them.
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
            return Err("--tls-verify: no trusted CA certificates on this system; use --tls-roots"
                .to_owned());
        }
        Ok(Secure {
            starts: options.starttls,
            implicit: options.tls,
            client,
            host: options.sni.clone().unwrap_or_else(|| host.to_owned()),
            check: if options.tls_verify { PeerCheck::Name } else { PeerCheck::Any },
            login,
            in_clear: options.auth_in_clear,
        })
    }

    /// The TLS policy of the SMTP client.
    pub fn tls_use(&self) -> TlsUse {
        if self.starts { TlsUse::Always } else { TlsUse::Never }
    }

    pub fn client(&self, config: &Arc<ClientConfig>) -> Client {
        let client = Client::new(Arc::clone(config), self.implicit);
        match &self.login {
            None => client,
            Some(login) if self.in_clear => client.with_login_in_clear(login.clone()),
            Some(login) => client.with_login(login.clone()),
        }
    }

    /// Wraps a new connection, with TLS if it starts at once.
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

    /// Makes a TLS handshake within the current deadline.
    pub async fn shake_hands(
        &self,
        channel: &mut Channel<Stream>,
        pool: &ChunkPool,
    ) -> Result<(), SocketFault> {
        let client = self.client.as_ref().expect("TLS starts only with --tls or --starttls");
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
    fn passwords_are_not_sent_in_clear_text_by_default() {
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
        ] {
            assert_eq!(options(words).check().is_ok(), is_good, "{words}");
        }
    }

    #[test]
    fn logins_are_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("login");
        fs::write(&path, "us:se:cret\nmore\n").expect("there is room");
        let expected = Login { user: "us".into(), password: "se:cret".into() };
        let by_file = SecureOptions { auth_file: Some(path), ..SecureOptions::default() };
        assert_eq!(by_file.login(), Ok(Some(expected.clone())));
        assert_eq!(options("--auth us:se:cret").login(), Ok(Some(expected)));
        assert_eq!(options("").login(), Ok(None));
        for bad in ["--auth us", "--auth :x", "--auth us:", "--auth-file /no/such"] {
            let told = options(bad).login().expect_err(bad);
            assert!(!told.contains("us:"), "{told}");
        }
    }
}

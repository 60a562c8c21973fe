//! TLS and AUTH, with the code of the server's own outbound connections.
//!
//! Owner:    one `Secure` per shard, so that shards do not share the lock of TLS sessions.
//! Promise:  a password is only sent under TLS.
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
    #[arg(long, group = "encryption")]
    pub starttls: bool,
    /// Start TLS at once, as on port 465.
    #[arg(long, group = "encryption")]
    pub tls: bool,
    /// Verify the server's certificate. Default: accept any certificate.
    #[arg(long, requires = "encryption")]
    pub tls_verify: bool,
    /// Trusted CA certificates (PEM) instead of those of the system.
    #[arg(long, value_name = "FILE", requires = "tls_verify")]
    pub tls_roots: Option<PathBuf>,
    /// The name for SNI and verification. Default: the host of SERVER.
    #[arg(long, value_name = "NAME", requires = "encryption")]
    pub sni: Option<String>,
    /// Make a full handshake for each connection.
    #[arg(long, requires = "encryption")]
    pub tls_no_resume: bool,
    /// Authenticate with AUTH PLAIN, or LOGIN if PLAIN is not offered, under TLS. Other users can see
    /// the command line; --auth-file is safer.
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        conflicts_with = "auth_file",
        requires = "encryption"
    )]
    pub auth: Option<String>,
    /// Authenticate with the first line of this file, USER:PASSWORD.
    #[arg(long, value_name = "FILE", requires = "encryption")]
    pub auth_file: Option<PathBuf>,
}

impl SecureOptions {
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
    options: SecureOptions,
    tls: Option<Arc<TlsClient>>,
    host: String,
    login: Option<Login>,
}

/// Successful TLS handshakes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    pub made: u64,
    /// Resumed ones among them.
    pub resumed: u64,
}

impl Secure {
    /// `host`: the host of the server.
    pub fn new(options: &SecureOptions, host: &str) -> Result<Secure, String> {
        let settings = TlsClientSettings {
            roots: options.tls_roots.clone(),
            resumes: !options.tls_no_resume,
            ..TlsClientSettings::default()
        };
        let is_tls = options.starttls || options.tls;
        let tls = is_tls.then(|| TlsClient::build(&settings)).transpose();
        let tls = tls.map_err(|problems| problems.to_string())?;
        if options.tls_verify && tls.as_ref().is_some_and(|tls| !tls.has_roots()) {
            return Err("--tls-verify: no trusted CA certificates on this system; use --tls-roots"
                .to_owned());
        }
        let (host, login) = (options.sni.as_deref().unwrap_or(host), options.login()?);
        Ok(Secure { options: options.clone(), tls, host: host.to_owned(), login })
    }

    /// The TLS policy of the SMTP client.
    pub fn tls_use(&self) -> TlsUse {
        if self.options.starttls { TlsUse::Always } else { TlsUse::Never }
    }

    pub fn client(&self, config: &Arc<ClientConfig>) -> Client {
        let client = Client::new(Arc::clone(config), self.options.tls);
        match &self.login {
            None => client,
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
        if self.options.tls {
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
        let tls = self.tls.as_ref().expect("TLS starts only with --tls or --starttls");
        let check = if self.options.tls_verify { PeerCheck::Name } else { PeerCheck::Any };
        channel.start_tls_client(tls, &self.host, check)?;
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
    use crate::flags::parse_text;

    #[test]
    fn passwords_need_tls() {
        for (words, is_good) in [
            ("", true),
            ("--auth a:b", false),
            ("--auth a:b --starttls", true),
            ("--auth a:b --tls --sni mx.test", true),
            ("--tls --starttls", false),
            ("--tls-verify", false),
            ("--sni x", false),
            ("--tls-no-resume", false),
        ] {
            assert_eq!(parse_text::<SecureOptions>(words).is_ok(), is_good, "{words}");
        }
    }

    #[test]
    fn logins_are_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("login");
        fs::write(&path, "us:se:cret\nmore\n").expect("there is room");
        let expected = Login { user: "us".into(), password: "se:cret".into() };
        let options = |words: &str| parse_text::<SecureOptions>(words).expect(words);
        let by_file = SecureOptions { auth_file: Some(path), ..SecureOptions::default() };
        assert_eq!(by_file.login(), Ok(Some(expected.clone())));
        assert_eq!(options("--tls --auth us:se:cret").login(), Ok(Some(expected)));
        assert_eq!(options("").login(), Ok(None));
        for bad in ["--auth us", "--auth :x", "--auth us:", "--auth-file /no/such"] {
            let told = options(&format!("--tls {bad}")).login().expect_err(bad);
            assert!(!told.contains("us:"), "{told}");
        }
    }
}

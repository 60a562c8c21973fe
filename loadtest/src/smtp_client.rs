//! A minimal blocking SMTP client, for single messages and idle sessions.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

/// The timeout for a reply.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// Enough for most reply lines; there may be many sessions.
const BUFFER: usize = 128;

/// A session after EHLO.
pub struct Session(BufReader<TcpStream>);

impl Session {
    pub fn open(server: SocketAddr) -> std::io::Result<Session> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_MAX))?;
        let mut session = Session(BufReader::with_capacity(BUFFER, stream));
        session.expect("220")?;
        session.say("EHLO client.example.org", "250")?;
        Ok(session)
    }

    /// Sends a command or the end of a body, and checks the code of the reply.
    pub fn say(&mut self, line: &str, code: &str) -> std::io::Result<()> {
        self.write(&format!("{line}\r\n"))?;
        self.expect(code)
    }

    pub fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes())
    }

    /// Reads one reply of any number of lines.
    fn expect(&mut self, code: &str) -> std::io::Result<()> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(Error::other("the server closed the connection"));
            }
            let line = line.trim_end();
            if !line.starts_with(code) {
                return Err(Error::other(format!("expected {code}, got `{line}`")));
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

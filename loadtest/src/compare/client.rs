//! A client that sends one message after the other and knows when: for each the moment before the end
//! of its body left, and the moment its reply was there. Between the two nobody else has any work.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::SystemTime;

/// How long a reply may take.
const REPLY_MAX: Duration = Duration::from_secs(30);
const LINE: &str = "twenty-six letters and some, as in any line of a letter that people write\r\n";

/// A body that was sent and taken, in microseconds since 1970, as the tracer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub ended_us: u64,
    pub replied_us: u64,
}

/// Sends so many messages of so many bytes.
pub fn send(port: u16, count: usize, bytes: usize) -> Result<Vec<Taken>, String> {
    let told = |cause: std::io::Error| format!("sending message by message: {cause}");
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    stream.set_read_timeout(Some(REPLY_MAX)).map_err(told)?;
    let input = BufReader::new(stream.try_clone().map_err(told)?);
    let mut session = Session { input, out: stream };
    session.expect("220").map_err(told)?;
    session.say("EHLO client.example.org\r\n", "250").map_err(told)?;
    let mut body = LINE.repeat(bytes.div_ceil(LINE.len()));
    body.insert_str(0, "Subject: a test\r\nFrom: <a@example.org>\r\n\r\n");
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(session.message(&body).map_err(told)?);
    }
    // All that was to be seen has been.
    let _ = session.say("QUIT\r\n", "221");
    Ok(taken)
}

struct Session {
    input: BufReader<TcpStream>,
    out: TcpStream,
}

impl Session {
    fn message(&mut self, body: &str) -> std::io::Result<Taken> {
        self.say("MAIL FROM:<a@example.org>\r\n", "250")?;
        self.say("RCPT TO:<b@example.net>\r\n", "250")?;
        self.say("DATA\r\n", "354")?;
        self.out.write_all(body.as_bytes())?;
        let ended_us = now_us();
        self.say(".\r\n", "250")?;
        Ok(Taken { ended_us, replied_us: now_us() })
    }

    fn say(&mut self, line: &str, expected: &str) -> std::io::Result<()> {
        self.out.write_all(line.as_bytes())?;
        self.expect(expected)
    }

    fn expect(&mut self, expected: &str) -> std::io::Result<()> {
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line)?;
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            return match line.starts_with(expected) {
                true => Ok(()),
                false => Err(std::io::Error::other(format!("{expected} expected, {line:?} came"))),
            };
        }
    }
}

/// Since 1970.
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_micros() as u64)
}

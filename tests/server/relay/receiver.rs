//! A receiver that fails as its script says, and then works. It records every byte.
//!
//! Owner:    a thread for the listener and one for each connection; they end with the test.
//! Promise:  a body is recorded before it is answered, so that a message counts as arrived even if
//!           the reply is lost.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use socket2::SockRef;

/// Length of a silence, unless the client closes before.
const SILENCE: Duration = Duration::from_secs(30);
const DRIP: Duration = Duration::from_millis(2);
/// Bytes of a reply without end, unless the client closes before.
const ENDLESS_BYTES: usize = 4 << 20;

/// The point of the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Banner,
    /// EHLO and HELO.
    Ehlo,
    Mail,
    Rcpt,
    Data,
    /// After the first bytes of a body.
    Body,
    /// The reply to a whole body.
    End,
    /// After that reply.
    Idle,
}

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Say(&'static str),
    SayAndClose(&'static str),
    Silence,
    Close,
    Reset,
    /// A line without end.
    EndlessLine,
    /// A reply without a last line.
    EndlessReply,
    /// The correct reply, byte by byte.
    Drip,
    /// The correct reply, in many lines.
    Multi,
    /// The correct reply, delayed.
    Late(Duration),
}

/// Fails this many times, at commands that contain the text.
#[derive(Clone, Copy, Debug)]
pub struct Misbehaviour {
    pub at: At,
    pub how: How,
    pub times: usize,
    pub only: &'static str,
}

/// A message that arrived completely.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The local part of its sender; empty for a report.
    pub id: String,
    pub recipients: Vec<String>,
    pub body: Vec<u8>,
    pub at: Instant,
    /// The reply was sent.
    pub answered: bool,
}

#[derive(Default)]
pub struct Record {
    pub connections: usize,
    pub taken: Vec<Taken>,
    /// Ids of permanently refused messages.
    pub refused: Vec<String>,
    /// Permanently refused recipients.
    pub refused_recipients: Vec<String>,
    /// Completed failures after a reply.
    pub idle_misbehaviours: usize,
    /// While set, no whole body is answered.
    pub holds: bool,
    misbehaviours: Vec<Misbehaviour>,
}

pub struct Receiver {
    pub address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Receiver {
    pub fn start(
        address: SocketAddr,
        offers: &'static [&'static str],
        misbehaviours: &[Misbehaviour],
    ) -> Receiver {
        let listener = TcpListener::bind(address).expect("loopback has a free port");
        // A small buffer, so that a long body does not fit into the kernel.
        SockRef::from(&listener).set_recv_buffer_size(8 << 10).expect("a size");
        let address = listener.local_addr().expect("the socket is bound");
        let record = Record { misbehaviours: misbehaviours.to_vec(), ..Record::default() };
        let record = Arc::new(Mutex::new(record));
        let receiver = Receiver { address, record: Arc::clone(&record) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                thread::spawn(move || Session::run(stream, offers, record));
            }
        });
        receiver
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no session panics with the lock")
    }
}

struct Session {
    stream: TcpStream,
    offers: &'static [&'static str],
    record: Arc<Mutex<Record>>,
    input: Vec<u8>,
    id: String,
    recipients: Vec<String>,
    in_mail: bool,
    chunks: Vec<u8>,
    /// The last reply was sent.
    is_over: bool,
    /// The output was no valid reply, so the next one cannot be assigned to a command.
    is_garbled: bool,
    /// A failure after a reply ends the session.
    ended_idle: bool,
}

/// The session is over.
fn over() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl Session {
    fn run(stream: TcpStream, offers: &'static [&'static str], record: Arc<Mutex<Record>>) {
        let mut session = Session {
            stream,
            offers,
            record,
            input: Vec::new(),
            id: String::new(),
            recipients: Vec::new(),
            in_mail: false,
            chunks: Vec::new(),
            is_over: false,
            is_garbled: false,
            ended_idle: false,
        };
        session.record().connections += 1;
        // Every session ends with an error: QUIT, the script, or the client.
        let _ = session.talk();
        let (record, ended_idle) = (Arc::clone(&session.record), session.ended_idle);
        // The end of the stream informs the client, so it comes first.
        drop(session);
        record.lock().expect("no session panics with the lock").idle_misbehaviours +=
            usize::from(ended_idle);
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no session panics with the lock")
    }

    fn talk(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.set_read_timeout(Some(SILENCE))?;
        self.stream.set_write_timeout(Some(SILENCE))?;
        self.answer(At::Banner, "", "220 hostile.test ESMTP")?;
        while !self.is_over {
            let line = self.line()?;
            let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.ehlo(&line)?,
                "HELO" => {
                    self.answer(At::Ehlo, &line, "250 hostile.test")?;
                }
                "MAIL" => self.mail(&line)?,
                "RCPT" => self.rcpt(&line)?,
                "DATA" => self.data(&line)?,
                "BDAT" => self.bdat(&line)?,
                "RSET" => {
                    self.forget();
                    self.say("250 2.0.0 forgotten")?;
                }
                "QUIT" => return self.say("221 2.0.0 bye"),
                _ => self.say("500 5.5.1 what?")?,
            }
        }
        Ok(())
    }

    fn ehlo(&mut self, line: &str) -> io::Result<()> {
        let mut lines = vec!["hostile.test"];
        lines.extend(self.offers);
        let (last, first) = lines.split_last().expect("the reply has a first line");
        let mut reply: String = first.iter().map(|line| format!("250-{line}\r\n")).collect();
        reply.push_str(&format!("250 {last}"));
        self.answer(At::Ehlo, line, &reply)?;
        Ok(())
    }

    fn mail(&mut self, line: &str) -> io::Result<()> {
        self.forget();
        let sender = line.split(['<', '>']).nth(1).unwrap_or("");
        self.id = sender.split('@').next().unwrap_or("").to_owned();
        let code = self.answer(At::Mail, line, "250 2.1.0 ok")?;
        self.in_mail = code < 300;
        if code >= 500 {
            let id = self.id.clone();
            self.record().refused.push(id);
        }
        Ok(())
    }

    fn rcpt(&mut self, line: &str) -> io::Result<()> {
        if !self.in_mail {
            return self.say("503 5.5.1 MAIL first");
        }
        let recipient = line.split(['<', '>']).nth(1).unwrap_or("").to_owned();
        match self.answer(At::Rcpt, line, "250 2.1.5 ok")? {
            200..300 => self.recipients.push(recipient),
            500.. => self.record().refused_recipients.push(recipient),
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, line: &str) -> io::Result<()> {
        if self.recipients.is_empty() {
            return self.say("554 5.5.1 no valid recipients");
        }
        let code = self.answer(At::Data, line, "354 go ahead")?;
        if code >= 400 {
            self.refuse(code);
            return Ok(());
        }
        let early = self.in_body()?;
        let mut body = self.dotted_body()?;
        if early {
            return Ok(());
        }
        unstuff(&mut body);
        self.end(body)
    }

    fn bdat(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split(' ').skip(1);
        let size: usize = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
        let is_last = words.next() == Some("LAST");
        let early = match self.recipients.is_empty() {
            true => false,
            false => self.in_body()?,
        };
        while self.input.len() < size {
            self.receive()?;
        }
        self.chunks.extend(self.input.drain(..size));
        if early {
            return Ok(());
        }
        if self.recipients.is_empty() {
            return self.say("554 5.5.1 no valid recipients");
        }
        if !is_last {
            return self.say("250 2.0.0 more");
        }
        let body = std::mem::take(&mut self.chunks);
        self.end(body)
    }

    /// Fails in the middle of a body. A reply there is the reply to the whole body.
    fn in_body(&mut self) -> io::Result<bool> {
        let Some(how) = self.misbehaviour(At::Body, "") else { return Ok(false) };
        while self.input.is_empty() {
            self.receive()?;
        }
        let code = self.misbehave(how, "")?;
        self.refuse(code);
        Ok(true)
    }

    fn end(&mut self, body: Vec<u8>) -> io::Result<()> {
        while self.record().holds {
            thread::sleep(DRIP);
        }
        let how = self.misbehaviour(At::End, "");
        if let Some(How::Say(reply) | How::SayAndClose(reply)) = how
            && reply.starts_with(['4', '5'])
        {
            let code = code_of(reply);
            self.refuse(code);
            return self.misbehave(how.expect("the failure is set"), "").map(|_| ());
        }
        let taken = Taken {
            id: std::mem::take(&mut self.id),
            recipients: std::mem::take(&mut self.recipients),
            body,
            at: Instant::now(),
            answered: false,
        };
        self.in_mail = false;
        let place = {
            let mut record = self.record();
            record.taken.push(taken);
            record.taken.len() - 1
        };
        let good = "250 2.0.0 taken";
        let code = match how {
            None => self.say(good).map(|()| 250)?,
            Some(how) => self.misbehave(how, good)?,
        };
        let answered = code == 250 && !self.is_garbled;
        self.record().taken[place].answered = answered;
        match self.misbehaviour(At::Idle, "") {
            None => Ok(()),
            Some(how) => {
                let done = self.misbehave(how, "");
                match done {
                    Ok(_) => self.record().idle_misbehaviours += 1,
                    Err(_) => self.ended_idle = true,
                }
                done.map(|_| ())
            }
        }
    }

    /// Records that the transaction ended with this code.
    fn refuse(&mut self, code: u16) {
        if code >= 500 {
            let recipients = std::mem::take(&mut self.recipients);
            self.record().refused_recipients.extend(recipients);
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.recipients.clear();
        self.chunks.clear();
        self.in_mail = false;
    }

    /// Sends the correct reply, or fails as the script says. Returns the code.
    fn answer(&mut self, at: At, line: &str, good: &str) -> io::Result<u16> {
        match self.misbehaviour(at, line) {
            Some(how) => self.misbehave(how, good),
            None => self.say(good).map(|()| code_of(good)),
        }
    }

    fn misbehaviour(&mut self, at: At, line: &str) -> Option<How> {
        let mut record = self.record();
        let fits =
            |one: &&mut Misbehaviour| one.at == at && one.times > 0 && line.contains(one.only);
        let misbehaviour = record.misbehaviours.iter_mut().find(fits)?;
        misbehaviour.times -= 1;
        Some(misbehaviour.how)
    }

    fn misbehave(&mut self, how: How, good: &str) -> io::Result<u16> {
        match how {
            How::Say(reply) | How::SayAndClose(reply) => {
                let code = code_of(reply);
                self.say(reply)?;
                self.is_garbled |= code == 0;
                self.is_over |= matches!(how, How::SayAndClose(_));
                return Ok(code);
            }
            How::Silence => loop {
                self.receive()?;
            },
            How::Close => {}
            How::Reset => SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?,
            How::EndlessLine => self.pour(&[b'2'; 4096])?,
            How::EndlessReply => self.pour("250-and more\r\n".repeat(256).as_bytes())?,
            How::Drip => {
                for byte in format!("{good}\r\n").bytes() {
                    self.stream.write_all(&[byte])?;
                    thread::sleep(DRIP);
                }
                return Ok(code_of(good));
            }
            How::Multi => {
                let (code, text) = good.rsplit("\r\n").next().unwrap_or("").split_at(3);
                let lines = format!("{code}-one{text}\r\n{code}-\r\n").repeat(20);
                self.say(&format!("{lines}{good}"))?;
                return Ok(code_of(good));
            }
            How::Late(wait) => {
                thread::sleep(wait);
                return self.say(good).map(|()| code_of(good));
            }
        }
        Err(over())
    }

    fn pour(&mut self, bytes: &[u8]) -> io::Result<()> {
        for _ in 0..ENDLESS_BYTES / bytes.len() {
            self.stream.write_all(bytes)?;
        }
        Ok(())
    }

    fn say(&mut self, reply: &str) -> io::Result<()> {
        self.stream.write_all(format!("{reply}\r\n").as_bytes())
    }

    fn receive(&mut self) -> io::Result<()> {
        if self.is_over {
            return Err(over());
        }
        let mut fresh = [0; 16 << 10];
        match self.stream.read(&mut fresh)? {
            0 => Err(over()),
            count => {
                self.input.extend_from_slice(&fresh[..count]);
                Ok(())
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(line);
            }
            self.receive()?;
        }
    }

    /// The body as transferred, without its end marker.
    fn dotted_body(&mut self) -> io::Result<Vec<u8>> {
        let mut searched: usize = 0;
        loop {
            if self.input.starts_with(b".\r\n") {
                self.input.drain(..3);
                return Ok(Vec::new());
            }
            let from = searched.saturating_sub(4);
            if let Some(found) = memchr::memmem::find(&self.input[from..], b"\r\n.\r\n") {
                let body = self.input[..from + found + 2].to_vec();
                self.input.drain(..from + found + 5);
                return Ok(body);
            }
            searched = self.input.len();
            self.receive()?;
        }
    }
}

fn code_of(reply: &str) -> u16 {
    reply.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn unstuff(body: &mut Vec<u8>) {
    let mut at_start = true;
    body.retain(|byte| {
        let is_stuffing = at_start && *byte == b'.';
        at_start = *byte == b'\n';
        !is_stuffing
    });
}

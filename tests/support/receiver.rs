//! A scripted mail receiver: SMTP, or LMTP after LHLO. It stores the messages that it accepts and
//! every command. Its threads end with the test process.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// An accepted message.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The MAIL line, and the RCPT lines that were accepted.
    pub mail: String,
    pub rcpts: Vec<String>,
    pub text: Vec<u8>,
    /// The address that it came from.
    pub peer: IpAddr,
}

impl Taken {
    pub fn is_for(&self, address: &str) -> bool {
        self.rcpts.iter().any(|line| line.contains(&format!("<{address}>")))
    }
}

#[derive(Default)]
struct Book {
    taken: Vec<Taken>,
    commands: Vec<String>,
}

/// The reply to a command; `None` for the usual one. A whole body is the command `END` with the RCPT
/// lines: it is recorded before its reply.
pub type Script = dyn Fn(IpAddr, &str) -> Option<String> + Send + Sync;

#[derive(Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    book: Arc<Mutex<Book>>,
}

impl Receiver {
    /// `offers` are its EHLO keywords, such as `DSN`.
    pub fn start(
        offers: &'static [&'static str],
        script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Receiver {
        Receiver::start_by_peer(offers, move |_, line| script(line))
    }

    /// The script also knows the address that the connection comes from.
    pub fn start_by_peer(
        offers: &'static [&'static str],
        script: impl Fn(IpAddr, &str) -> Option<String> + Send + Sync + 'static,
    ) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("the socket is bound");
        let book: Arc<Mutex<Book>> = Arc::default();
        let (kept, script): (_, Arc<Script>) = (Arc::clone(&book), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (book, script) = (Arc::clone(&kept), Arc::clone(&script));
                // A client that disconnects is handled by its test.
                thread::spawn(move || serve(stream?, offers, &*script, &book));
            }
        });
        Receiver { address, book }
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.book.lock().expect("no thread panics with the lock").taken.clone()
    }

    pub fn taken_for(&self, address: &str) -> Vec<Taken> {
        self.taken().into_iter().filter(|taken| taken.is_for(address)).collect()
    }

    /// Number of commands that contain the text.
    pub fn asked(&self, text: &str) -> usize {
        let book = self.book.lock().expect("no thread panics with the lock");
        let is_body = |line: &str| line.starts_with("END ");
        let asked = |line: &&String| line.contains(text) && is_body(line) == is_body(text);
        book.commands.iter().filter(asked).count()
    }

    /// Waits for the first `count` messages to the address.
    pub fn await_for(&self, address: &str, count: usize, patience: Duration) -> Vec<Taken> {
        let end = Instant::now() + patience;
        loop {
            let found = self.taken_for(address);
            if found.len() >= count {
                return found;
            }
            // Not held during the sleep, because the threads that answer need it.
            if Instant::now() >= end {
                let commands = &self.book.lock().expect("no thread panics with the lock").commands;
                panic!("{} of {count} for {address}: {commands:#?}", found.len());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn serve(
    mut stream: TcpStream,
    offers: &[&str],
    script: &Script,
    book: &Mutex<Book>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.ip();
    let script = |line: &str| script(peer, line);
    let mut lines = BufReader::new(stream.try_clone()?);
    stream.write_all(b"220 receiver.test ready\r\n")?;
    let (mut mail, mut rcpts, mut lmtp) = (String::new(), Vec::new(), false);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        book.lock().expect("no thread panics with the lock").commands.push(line.clone());
        let verb = line.get(..4).unwrap_or("").to_uppercase();
        let own = script(&line);
        let is_good = own.as_ref().is_none_or(|reply| reply.starts_with(['2', '3']));
        match &*verb {
            "EHLO" | "LHLO" if own.is_none() => {
                lmtp = verb == "LHLO";
                let mut reply = String::from("250-receiver.test\r\n");
                for offer in offers {
                    reply.push_str(&format!("250-{offer}\r\n"));
                }
                reply.push_str("250 8BITMIME\r\n");
                stream.write_all(reply.as_bytes())?;
                continue;
            }
            "MAIL" if is_good => (mail, rcpts) = (line, Vec::new()),
            "RCPT" if is_good => rcpts.push(line),
            "DATA" if is_good && !rcpts.is_empty() => {
                stream.write_all(b"354 go on\r\n")?;
                let text = read_text(&mut lines)?;
                let count = if lmtp { rcpts.len() } else { 1 };
                let end = format!("END {}", rcpts.join(" "));
                let (mail, rcpts) = (mail.clone(), std::mem::take(&mut rcpts));
                let taken = Taken { mail, rcpts, text, peer };
                let mut noted = book.lock().expect("no thread panics with the lock");
                noted.commands.push(end.clone());
                noted.taken.push(taken);
                drop(noted);
                let reply = script(&end).unwrap_or_else(|| "250 2.0.0 taken".to_owned());
                stream.write_all(format!("{reply}\r\n").repeat(count).as_bytes())?;
                continue;
            }
            "DATA" if is_good => {
                stream.write_all(b"554 5.5.1 no recipients\r\n")?;
                continue;
            }
            "QUIT" => return stream.write_all(b"221 2.0.0 bye\r\n"),
            _ => (),
        }
        let reply = own.unwrap_or_else(|| "250 2.0.0 ok".to_owned());
        stream.write_all(format!("{reply}\r\n").as_bytes())?;
    }
}

fn read_text(lines: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(text);
        }
        text.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}

//! The SMTP client against the SMTP server over real sockets: every form of a body, several mails
//! on one connection, a refused recipient, and a server that stops answering.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use bumpalo::Bump;
use ringpost::base::chunk::ChunkPool;
use ringpost::net::Channel;
use ringpost::net::transfer::ClientTimeouts;
use ringpost::net::transfer::Transfer;
use ringpost::rt;
use ringpost::rt::ShardSpec;
use ringpost::wire::smtp::BodyMode;
use ringpost::wire::smtp::BodyOutcome;
use ringpost::wire::smtp::BodyType;
use ringpost::wire::smtp::Client;
use ringpost::wire::smtp::ClientConfig;
use ringpost::wire::smtp::DotDecoder;
use ringpost::wire::smtp::Fault;
use ringpost::wire::smtp::LineEnding;
use ringpost::wire::smtp::Mail;
use ringpost::wire::smtp::MailRecipient;
use ringpost::wire::smtp::Outcome;
use ringpost::wire::smtp::Protocol;
use ringpost::wire::smtp::Question;
use ringpost::wire::smtp::Reply;
use ringpost::wire::smtp::Server;
use ringpost::wire::smtp::ServerConfig;
use ringpost::wire::smtp::Stage;
use ringpost::wire::smtp::Step;
use ringpost::wire::smtp::TlsUse;
use ringpost::wire::smtp::Transaction;
use ringpost::wire::smtp::Verdict;

/// A server for one connection, on a thread of its own.
struct Taker {
    socket: TcpStream,
    server: Server,
    input: Vec<u8>,
    out: Vec<u8>,
    body: Vec<u8>,
    bodies: Vec<Vec<u8>>,
}

impl Taker {
    fn serve(listener: &TcpListener, protocol: Protocol) -> Vec<Vec<u8>> {
        let (socket, _) = listener.accept().expect("the client connects");
        let config = ServerConfig {
            hostname: "mx.test".into(),
            banner: String::new(),
            protocol,
            size_max: 10 << 20,
            recipients_max: 100,
            messages_max: 100,
            commands_max: 1000,
            errors_max: 100,
            line_ending: LineEnding::Strict,
            starttls: false,
            tls_required: false,
            xclient: false,
            reject_pipelining_violations: true,
        };
        let server = Server::new(Arc::new(config), false);
        let (input, out, body, bodies) = Default::default();
        let mut taker = Taker { socket, server, input, out, body, bodies };
        taker.server.greet(&mut taker.out);
        while taker.take_mail() {}
        taker.bodies
    }

    /// Runs one transaction; `true` if another may follow.
    fn take_mail(&mut self) -> bool {
        let arena = Bump::new();
        let mut tx = Transaction::new_in(&arena);
        let mut answer = None;
        loop {
            let step = answer.take().unwrap_or_else(|| {
                let (used, step) = self.server.next(&self.input, &mut tx, &mut self.out);
                self.input.drain(..used);
                step
            });
            match step {
                Step::Continue => {}
                Step::NeedInput if self.receive() => {}
                Step::NeedInput => return false,
                Step::Ask(question) => {
                    let candidate = tx.candidate.as_ref().map(|one| one.mailbox.to_string());
                    let refused = question == Question::Recipient
                        && candidate.is_some_and(|mailbox| mailbox.starts_with("no@"));
                    let verdict = match refused {
                        true => Verdict::Refuse(Reply::new(550, (5, 1, 1), "No such user")),
                        false => Verdict::Accept,
                    };
                    let more = !self.input.is_empty();
                    answer = Some(self.server.on_verdict(verdict, more, &mut tx, &mut self.out));
                }
                Step::ReceiveBody(BodyMode::Swallow { bytes }) => {
                    self.take_bytes(bytes);
                    answer = Some(self.server.on_swallowed(tx.recipients.len(), &mut self.out));
                }
                Step::ReceiveBody(mode) => {
                    self.take_body(mode);
                    let kept = BodyOutcome::Kept { id: "1" };
                    self.bodies.push(std::mem::take(&mut self.body));
                    answer = Some(self.server.on_body(kept, tx.recipients.len(), &mut self.out));
                }
                Step::Reset => return true,
                Step::Close => {
                    self.socket.write_all(&self.out).expect("the client reads the last reply");
                    return false;
                }
                Step::StartTls | Step::Xclient(_) => panic!("not offered"),
            }
        }
    }

    fn take_body(&mut self, mode: BodyMode) {
        match mode {
            BodyMode::Counted { bytes, .. } => self.body = self.take_bytes(bytes),
            _ => {
                let mut decoder = DotDecoder::new();
                loop {
                    let decoded = decoder.decode(&mut self.input).expect("the body is valid");
                    self.body.extend_from_slice(&self.input[..decoded.kept]);
                    self.input.drain(..decoded.consumed);
                    if decoded.end {
                        return;
                    }
                    assert!(self.receive(), "the body ends");
                }
            }
        }
    }

    fn take_bytes(&mut self, bytes: u64) -> Vec<u8> {
        let bytes = usize::try_from(bytes).expect("the size fits in memory");
        while self.input.len() < bytes {
            assert!(self.receive(), "the chunk arrives completely");
        }
        self.input.drain(..bytes).collect()
    }

    fn receive(&mut self) -> bool {
        self.socket.write_all(&self.out).expect("the client reads the replies");
        self.out.clear();
        let mut fresh = vec![0; 100_000];
        let count = self.socket.read(&mut fresh).expect("the client sends or closes");
        self.input.extend_from_slice(&fresh[..count]);
        count > 0
    }
}

fn config() -> ClientConfig {
    ClientConfig {
        ehlo_name: "us.test".into(),
        lmtp: false,
        pipelining: true,
        chunking: true,
        chunk_ahead_bytes_max: 10_000,
        tls: TlsUse::IfOffered,
    }
}

fn mail<'a>(recipients: &'a [MailRecipient<'a>], body: &[Vec<u8>]) -> Mail<'a> {
    Mail {
        sender: Some("s@us.test"),
        recipients,
        bytes: body.iter().map(|piece| piece.len() as u64).sum(),
        body: BodyType::EightBitMime,
        smtputf8: false,
        requiretls: false,
        ret: None,
        envid: Some("q1"),
    }
}

/// Three bodies: a short one, a long one, and a long one with a dot on each line.
fn bodies() -> [Vec<Vec<u8>>; 3] {
    let lines = |line: &[u8], count| line.repeat(count);
    [
        vec![b"Subject: a\r\n\r\n.dot\r\n.\r\n".to_vec()],
        vec![
            lines(b"a long line of text\r\n", 3000),
            b".\r\nend\r\n".to_vec(),
            lines(b"more\r\n", 100_000),
        ],
        vec![lines(b".\r\n", 30_000), lines(b"..x\r\n", 20_000)],
    ]
}

fn on_shard<F: Future<Output = ()> + 'static>(main: impl FnOnce() -> F + Send + 'static) {
    let (give, take) = mpsc::channel();
    let shard = rt::start(ShardSpec::new("client", None), move || async move {
        main().await;
        give.send(()).expect("the test waits for the end");
    });
    shard.expect("a shard starts").join().expect("the shard ends normally");
    take.recv().expect("the main future has ended");
}

#[test]
fn bodies_arrive_unchanged() {
    let slow = ClientConfig { pipelining: false, chunking: false, ..config() };
    let dots = ClientConfig { chunking: false, ..config() };
    let lmtp = ClientConfig { lmtp: true, ..config() };
    for config in [config(), dots, slow, lmtp] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let to = listener.local_addr().expect("the listener has an address");
        let protocol = if config.lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        let taker = thread::spawn(move || Taker::serve(&listener, protocol));
        on_shard(move || async move {
            let stream = rt::connect(to, None, Duration::from_secs(5)).await.expect("connected");
            let pool = Rc::new(ChunkPool::new(4));
            let client = Client::new(Arc::new(config), false);
            let times = ClientTimeouts::default();
            let mut transfer = Transfer::new(Channel::plain(stream), client, pool.clone(), times);
            let shaken = transfer.handshake(async |_, _| panic!("TLS is not offered")).await;
            assert_eq!(shaken, Ok(()));
            let one = |mailbox| MailRecipient { mailbox, notify: 1, orcpt: Some("rfc822;a@x") };
            let recipients = [one("a@x.test"), one("no@x.test"), one("b@x.test")];
            for body in bodies() {
                let refused =
                    transfer.send(&mail(&recipients[1..2], &body), &mut body.iter()).await;
                assert!(matches!(
                    &refused.outcomes[..],
                    [Outcome::Refused { stage: Stage::Rcpt, .. }]
                ));
                let sent = transfer.send(&mail(&recipients, &body), &mut body.iter()).await;
                let [Outcome::Accepted(_), Outcome::Refused { reply, .. }, Outcome::Accepted(_)] =
                    &sent.outcomes[..]
                else {
                    panic!("{sent:?}, {:?}", transfer.fault());
                };
                assert_eq!((reply.code, reply.enhanced), (550, Some((5, 1, 1))));
            }
            transfer.quit().await;
            assert_eq!(pool.chunks_out(), 0);
        });
        let taken = taker.join().expect("the server ends normally");
        let whole: Vec<Vec<u8>> = bodies().iter().map(|body| body.concat()).collect();
        assert_eq!(taken, whole);
    }
}

#[test]
fn a_silent_server_is_awaited_for_the_time_of_the_stage() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let to = listener.local_addr().expect("the listener has an address");
    on_shard(move || async move {
        let stream = rt::connect(to, None, Duration::from_secs(5)).await.expect("connected");
        let client = Client::new(Arc::new(config()), false);
        let times =
            ClientTimeouts { greeting: Duration::from_millis(200), ..ClientTimeouts::default() };
        let pool = Rc::new(ChunkPool::new(1));
        let mut transfer = Transfer::new(Channel::plain(stream), client, pool, times);
        let begun = Instant::now();
        let shaken = transfer.handshake(async |_, _| panic!("TLS is not offered")).await;
        assert_eq!(shaken, Err(Fault::TimedOut(Stage::Greeting)));
        assert!(begun.elapsed() >= times.greeting, "the limit is not cut short");
    });
}

/// Accepts the envelope, and reads the body only when told to. Returns all input.
fn serve_slowly(listener: &TcpListener, go_on: &mpsc::Receiver<()>, offer: &str) -> Vec<u8> {
    let (mut socket, _) = listener.accept().expect("the client connects");
    let mut came = Vec::new();
    socket.write_all(b"220 mx.test\r\n").expect("the peer listens");
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("the client sends");
        line.push(byte[0]);
        if byte != *b"\n" {
            continue;
        }
        let reply = match &line[..4] {
            b"EHLO" => format!("250-mx.test\r\n250-8BITMIME\r\n250 {offer}\r\n"),
            b"DATA" => "354 go on\r\n".to_owned(),
            _ => "250 2.0.0 well\r\n".to_owned(),
        };
        let is_body = line.starts_with(b"DATA") || line.starts_with(b"BDAT");
        if !line.starts_with(b"BDAT") {
            socket.write_all(reply.as_bytes()).expect("the peer listens");
        }
        if is_body {
            break;
        }
        line.clear();
    }
    go_on.recv().expect("the test continues");
    // The connection may have been reset; the bytes read before it count.
    let _ = socket.read_to_end(&mut came);
    came
}

#[test]
fn a_slowly_read_body_does_not_end_without_time_for_the_reply() {
    for offer in ["SIZE", "CHUNKING"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let to = listener.local_addr().expect("the listener has an address");
        let (go_on, told) = mpsc::channel();
        let server = thread::spawn(move || serve_slowly(&listener, &told, offer));
        // More than the kernel buffers, in one piece, so that the first write is also the last.
        let body = vec![b"a line of text that is long enough\r\n".repeat(1 << 20)];
        let bytes = body[0].len();
        on_shard(move || async move {
            let stream = rt::connect(to, None, Duration::from_secs(5)).await.expect("connected");
            let pool = Rc::new(ChunkPool::new(4));
            let client = Client::new(Arc::new(config()), false);
            // Half of the time is for the last reply.
            let (last_byte, transfer_per_kib) = (Duration::from_millis(300), Duration::ZERO);
            let transfer = 2 * last_byte;
            let times = ClientTimeouts { transfer, transfer_per_kib, ..ClientTimeouts::default() };
            let mut transfer = Transfer::new(Channel::plain(stream), client, pool, times);
            let shaken = transfer.handshake(async |_, _| panic!("TLS is not offered")).await;
            assert_eq!(shaken, Ok(()));
            let recipients = [MailRecipient { mailbox: "a@x.test", notify: 0, orcpt: None }];
            let begun = Instant::now();
            let sent = transfer.send(&mail(&recipients, &body), &mut body.iter()).await;
            let took = begun.elapsed();
            assert!(took >= last_byte && took < times.data_block / 4, "{offer}: {took:?}");
            let [Outcome::Lost { after_body: false }] = &sent.outcomes[..] else {
                panic!("{offer}: {sent:?}, {:?}", transfer.fault());
            };
            transfer.quit().await;
            go_on.send(()).expect("the server waits");
        });
        let came = server.join().expect("the server ends normally");
        assert!(came.len() < bytes, "{offer}: the whole body arrived");
    }
}

/// Takes a mail by LMTP, and replies to its recipients at this pace after the body.
fn serve_dripping(listener: &TcpListener, pace: Duration) {
    let (mut socket, _) = listener.accept().expect("the client connects");
    let mut lines = std::io::BufReader::new(socket.try_clone().expect("a second handle"));
    socket.write_all(b"220 mx.test\r\n").expect("the peer listens");
    let (mut line, mut recipients) = (String::new(), 0);
    while std::io::BufRead::read_line(&mut lines, &mut line).is_ok_and(|bytes| bytes > 0) {
        let reply: &[u8] = match line.trim_end() {
            "DATA" => b"354 go on\r\n",
            "." => {
                for _ in 0..recipients {
                    thread::sleep(pace);
                    // The client may have gone.
                    if socket.write_all(b"250 2.0.0 taken\r\n").is_err() {
                        return;
                    }
                }
                b""
            }
            text if text.starts_with("RCPT") => {
                recipients += 1;
                b"250 2.0.0 well\r\n"
            }
            text if text.starts_with("LHLO") => b"250-mx.test\r\n250 8BITMIME\r\n",
            text if text.contains(' ') => b"250 2.0.0 well\r\n",
            // The body.
            _ => b"",
        };
        if socket.write_all(reply).is_err() {
            return;
        }
        line.clear();
    }
}

#[test]
fn replies_that_drip_in_do_not_hold_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let to = listener.local_addr().expect("the listener has an address");
    let server = thread::spawn(move || serve_dripping(&listener, Duration::from_millis(100)));
    on_shard(move || async move {
        let stream = rt::connect(to, None, Duration::from_secs(5)).await.expect("connected");
        let pool = Rc::new(ChunkPool::new(4));
        let client = Client::new(Arc::new(ClientConfig { lmtp: true, ..config() }), false);
        let whole = Duration::from_millis(450);
        let times = ClientTimeouts { transfer: whole, ..ClientTimeouts::default() };
        let mut transfer = Transfer::new(Channel::plain(stream), client, pool, times);
        let shaken = transfer.handshake(async |_, _| panic!("TLS is not offered")).await;
        assert_eq!(shaken, Ok(()));
        let one = MailRecipient { mailbox: "a@x.test", notify: 0, orcpt: None };
        let (recipients, body) = ([one; 100], vec![b"body\r\n".to_vec()]);
        let begun = Instant::now();
        let sent = transfer.send(&mail(&recipients, &body), &mut body.iter()).await;
        let took = begun.elapsed();
        assert!(took >= whole && took < 10 * whole, "{took:?}");
        assert_eq!(transfer.fault(), Some(&Fault::TooSlow));
        assert!(matches!(sent.outcomes[0], Outcome::Accepted(_)), "{:?}", sent.outcomes[0]);
        assert_eq!(sent.outcomes[99], Outcome::Lost { after_body: true });
        transfer.quit().await;
    });
    server.join().expect("the server ends normally");
}

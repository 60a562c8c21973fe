//! A scripted name server over UDP and TCP. It answers by the name in the question, and records
//! each question and its origin.
#![allow(dead_code)]

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::rdata::SOA;

/// A question, as the script sees it.
#[derive(Clone)]
pub struct Asked {
    pub query: Message,
    pub by_tcp: bool,
    /// Number of earlier questions for this name.
    pub before: usize,
}

impl Asked {
    pub fn name(&self) -> String {
        self.query.queries[0].name.to_ascii().to_lowercase()
    }

    pub fn kind(&self) -> RecordType {
        self.query.queries[0].query_type
    }

    pub fn reply(&self, code: ResponseCode) -> Message {
        let mut reply = Message::response(self.query.metadata.id, self.query.metadata.op_code);
        reply.metadata.message_type = MessageType::Response;
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = code;
        reply.queries = self.query.queries.clone();
        reply
    }

    pub fn with(&self, records: Vec<Record>) -> Message {
        let mut reply = self.reply(ResponseCode::NoError);
        reply.answers = records;
        reply
    }
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).expect("a name")
}

pub fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 60, data)
}

pub fn mx(owner: &str, preference: u16, host: &str) -> Record {
    let host = if host.is_empty() { Name::root() } else { name(host) };
    record(owner, RData::MX(MX::new(preference, host)))
}

pub fn alias(owner: &str, target: &str) -> Record {
    record(owner, RData::CNAME(CNAME(name(target))))
}

pub fn soa() -> Record {
    let numbers = SOA::new(name("ns.test"), name("root.test"), 1, 3600, 600, 86_400, 30);
    record("test", RData::SOA(numbers))
}

pub fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encoded")
}

/// A recorded question.
pub struct Question {
    pub name: String,
    pub from: SocketAddr,
    pub id: u16,
    pub edns: Option<u16>,
}

pub type Script = dyn Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync;

/// A scripted name server. Its threads end with the test process.
pub struct NameServer {
    pub address: SocketAddr,
    pub log: Arc<Mutex<Vec<Question>>>,
    pub most: Arc<AtomicUsize>,
}

/// The state shared by the threads of a server.
#[derive(Clone)]
struct Part {
    script: Arc<Script>,
    log: Arc<Mutex<Vec<Question>>>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl NameServer {
    pub fn start(script: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static) -> NameServer {
        let (udp, tcp) = same_port();
        let address = udp.local_addr().expect("bound");
        let log: Arc<Mutex<Vec<Question>>> = Arc::default();
        let most: Arc<AtomicUsize> = Arc::default();
        let part = Part {
            script: Arc::new(script),
            log: Arc::clone(&log),
            now: Arc::default(),
            most: Arc::clone(&most),
        };
        let by_tcp = part.clone();
        thread::spawn(move || serve_udp(&Arc::new(udp), &part));
        thread::spawn(move || {
            for stream in tcp.incoming() {
                serve_tcp(stream.expect("accepted"), &by_tcp);
            }
        });
        NameServer { address, log, most }
    }

    pub fn asked(&self, name: &str) -> Vec<u16> {
        let log = self.log.lock().expect("no panics");
        log.iter().filter(|asked| asked.name == format!("{name}.")).map(|asked| asked.id).collect()
    }

    pub fn most_at_once(&self) -> usize {
        self.most.load(Ordering::Acquire)
    }
}

impl Part {
    /// The answer to the question, unless the script stays silent.
    fn answers(&self, question: &[u8], from: SocketAddr, by_tcp: bool) -> Vec<Vec<u8>> {
        let query = Message::from_vec(question).expect("the resolver sends valid questions");
        let mut asked = Asked { query, by_tcp, before: 0 };
        let name = asked.name();
        {
            let mut log = self.log.lock().expect("no panics");
            asked.before = log.iter().filter(|other| other.name == name).count();
            let edns = asked.query.edns.as_ref().map(|edns| edns.max_payload());
            log.push(Question { name, from, id: asked.query.metadata.id, edns });
        }
        let now = self.now.fetch_add(1, Ordering::AcqRel) + 1;
        self.most.fetch_max(now, Ordering::AcqRel);
        let said = (self.script)(&asked);
        self.now.fetch_sub(1, Ordering::AcqRel);
        said
    }
}

pub fn same_port() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both protocols");
}

fn serve_udp(udp: &Arc<UdpSocket>, part: &Part) {
    let mut room = [0; 4096];
    loop {
        // ICMP error of an earlier answer whose client had gone.
        let Ok((bytes, from)) = udp.recv_from(&mut room) else {
            continue;
        };
        let (question, udp, part) = (room[..bytes].to_vec(), Arc::clone(udp), part.clone());
        thread::spawn(move || {
            for datagram in part.answers(&question, from, false) {
                // The client may have gone.
                let _ = udp.send_to(&datagram, from);
            }
        });
    }
}

fn serve_tcp(mut stream: TcpStream, part: &Part) {
    let mut length = [0; 2];
    let from = stream.peer_addr().expect("connected");
    if stream.read_exact(&mut length).is_err() {
        return;
    }
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    if stream.read_exact(&mut question).is_err() {
        return;
    }
    for message in part.answers(&question, from, true) {
        let length = u16::try_from(message.len()).expect("short");
        // In pieces, as a network may deliver it.
        let framed = [length.to_be_bytes().as_slice(), &message].concat();
        let (head, tail) = framed.split_at(framed.len() / 2);
        let sent = stream.write_all(head).and_then(|()| stream.write_all(tail));
        sent.expect("the resolver reads to the end");
    }
}

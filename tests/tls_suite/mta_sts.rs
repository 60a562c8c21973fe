//! Fetching a policy: over a channel, from a web server that may be anybody.

use std::sync::Arc;

use ringpost::base::Chunk;
use ringpost::base::ChunkPool;
use ringpost::net::CertificateFault;
use ringpost::net::Channel;
use ringpost::net::StsMode;
use ringpost::net::TlsFault;
use ringpost::net::TlsServer;
use ringpost::net::TlsSession;
use ringpost::net::Transport;
use ringpost::net::mta_sts::HttpFault;
use ringpost::net::mta_sts::StsFetchFault;
use ringpost::net::mta_sts::StsPolicyFault;
use ringpost::net::mta_sts::fetch_policy;

use crate::channel::Fault;
use crate::channel::now;
use crate::kit::Authority;
use crate::kit::Folder;
use crate::kit::NOW_MS;
use crate::kit::feed;
use crate::kit::our_client;
use crate::kit::settings;

/// A web server that answers any request with the same words.
struct Web {
    session: TlsSession,
    answer: Vec<u8>,
    goodbye: bool,
    piece: usize,
    request: Vec<u8>,
    to_client: Vec<u8>,
}

impl Web {
    fn new(server: &Arc<TlsServer>, answer: &str, goodbye: bool, piece: usize) -> Web {
        let session = TlsSession::new(server).expect("a session");
        let answer = answer.as_bytes().to_vec();
        Web { session, answer, goodbye, piece, request: Vec::new(), to_client: Vec::new() }
    }
}

impl Transport for Web {
    type Fault = Fault;

    fn is_end(fault: &Fault) -> bool {
        *fault == Fault::End
    }

    async fn read(&mut self, pool: &ChunkPool, _: Option<Chunk>) -> Result<Chunk, Fault> {
        if self.to_client.is_empty() {
            return Err(Fault::End);
        }
        let mut chunk = pool.try_take().ok_or(Fault::Deadline)?;
        let count = self.piece.min(self.to_client.len());
        chunk.fill_from(&self.to_client[..count]);
        self.to_client.drain(..count);
        Ok(chunk)
    }

    async fn write(&mut self, mut bytes: Vec<u8>) -> (Result<(), Fault>, Vec<u8>) {
        let heard = feed(&mut self.session, &bytes, (64 << 10, 64 << 10), &mut self.to_client);
        self.request.extend(heard.unwrap_or_default());
        if self.request.ends_with(b"\r\n\r\n") && !self.answer.is_empty() {
            let answer = std::mem::take(&mut self.answer);
            self.session.encrypt(&answer, &mut self.to_client).expect("an answer");
            if self.goodbye {
                self.session.close(&mut self.to_client);
            }
        }
        bytes.clear();
        (Ok(()), bytes)
    }
}

const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: *.theirs.test\r\nmax_age: 86400\r\n";

#[test]
fn a_policy_is_fetched_or_the_cause_is_told() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let client = our_client(&folder, &authority.pem());
    let server_for = |name: &str| {
        let pair = folder.pair("web", &authority.issue(&[name]));
        TlsServer::build(&settings(vec![pair]), NOW_MS).expect("it is served")
    };
    let right = server_for("mta-sts.theirs.test");
    let wrong = server_for("www.theirs.test");
    let with_length =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{POLICY}", POLICY.len());
    let until_end = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n{POLICY}");
    let redirect = "HTTP/1.1 302 Found\r\nLocation: https://www.theirs.test/\r\n\r\n".to_owned();
    let nonsense = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned();
    let policy_fault = StsFetchFault::Policy(StsPolicyFault::BadLine);
    let cut = StsFetchFault::Channel(Fault::Tls(TlsFault::Truncated));
    let table = [
        ("a length", &right, &with_length, false, Ok(())),
        ("until the goodbye", &right, &until_end, true, Ok(())),
        ("cut before the goodbye", &right, &until_end, false, Err(cut)),
        ("a redirect", &right, &redirect, true, Err(StsFetchFault::Http(HttpFault::Status(302)))),
        ("no policy", &right, &nonsense, true, Err(policy_fault)),
    ];
    for (case, server, answer, goodbye, expected) in table {
        for piece in [1, 100, 64 << 10] {
            let pool = ChunkPool::new(1);
            let mut channel = Channel::plain(Web::new(server, answer, goodbye, piece));
            let fetched = now(fetch_policy(&mut channel, &client, &pool, "Theirs.test."));
            let request = String::from_utf8_lossy(&channel.stream().request).into_owned();
            assert!(request.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), "{case}");
            assert!(request.contains("\r\nHost: mta-sts.theirs.test\r\n"), "{case}: {request}");
            assert_eq!(pool.chunks_out(), 0, "{case}");
            match fetched {
                Ok(policy) => {
                    assert_eq!(Ok(()), expected, "{case}");
                    assert_eq!((policy.mode, policy.max_age_s), (StsMode::Enforce, 86_400));
                    assert!(policy.matches("mx.theirs.test"));
                }
                Err(fault) => assert_eq!(Err(fault), expected, "{case}"),
            }
        }
    }
    let pool = ChunkPool::new(1);
    let mut channel = Channel::plain(Web::new(&wrong, &with_length, true, 100));
    let fault = now(fetch_policy(&mut channel, &client, &pool, "theirs.test"));
    let Err(StsFetchFault::Channel(Fault::Tls(fault))) = fault else { panic!("{fault:?}") };
    assert_eq!(fault.certificate(), Some(CertificateFault::OtherName));
    assert_eq!(channel.stream().request, b"", "nothing is asked of somebody else");
}

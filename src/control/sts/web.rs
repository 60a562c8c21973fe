//! One fetch: `https://mta-sts.DOMAIN/.well-known/mta-sts.txt` (RFC 8461 s3.3).
//!
//! Promise:  a policy comes from a server with a certificate for `mta-sts.DOMAIN`, with status 200
//!           and as text/plain. No redirect is followed, and no request is sent before the
//!           server has proven its name.
//! Bounds:   `STS_FETCH_MS_MAX` for the whole fetch, `POLICY_BYTES_MAX`, `HEAD_BYTES_MAX`,
//!           `ADDRESSES_MAX`.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header;
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::base::limits::STS_FETCH_MS_MAX;
use crate::handoff::sts::StsWanted;
use crate::net::DnsFault;
use crate::net::StsPolicy;
use crate::net::TlsClient;
use crate::net::TlsFault;
use crate::net::TlsResult;
use crate::net::mta_sts::POLICY_BYTES_MAX;
use crate::net::mta_sts::StsPolicyFault;
use crate::net::mta_sts::policy_host;
use crate::rt::IoFault;

const FETCH_MAX: Duration = Duration::from_millis(STS_FETCH_MS_MAX);
/// For one address, so that a second one can be tried.
const CONNECT_MAX: Duration = Duration::from_millis(STS_FETCH_MS_MAX / 3);
/// Addresses tried per host.
const ADDRESSES_MAX: usize = 2;
/// Bytes and lines of a response header. More: the fetch fails.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// Why a policy was not fetched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FetchFault {
    #[error("{0}")]
    Dns(DnsFault),
    #[error("the web server of the policy has no usable address")]
    NoAddress,
    #[error("{0}")]
    Connect(IoFault),
    #[error("{0}")]
    Tls(TlsFault),
    #[error("{0}")]
    Http(HttpFault),
    #[error("{0}")]
    Policy(StsPolicyFault),
    #[error("the web server of the policy did not answer in time")]
    Timeout,
    /// A local failure: nothing is known of the domain.
    #[error("{0}")]
    Ours(IoFault),
    #[error("a bug ended the fetch")]
    Abandoned,
}

/// What is wrong with a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpFault {
    /// Anything but 200, redirects included.
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the response is not text/plain")]
    NotPlainText,
    #[error("the policy is too long")]
    TooLong,
    /// Not HTTP, or cut off.
    #[error("{0}")]
    Broken(Box<str>),
}

impl FetchFault {
    /// Whether the failure is local and says nothing of the domain, so that its mail waits.
    pub fn is_ours(&self) -> bool {
        match self {
            FetchFault::Dns(fault) => fault.is_ours(),
            FetchFault::Ours(_) | FetchFault::Abandoned => true,
            _ => false,
        }
    }

    /// The failure as reports name it (RFC 8460 s4.3).
    pub fn result(&self) -> TlsResult {
        match self {
            FetchFault::Tls(fault) if fault.certificate().is_some() => TlsResult::StsWebpkiInvalid,
            FetchFault::Policy(_) => TlsResult::StsPolicyInvalid,
            _ => TlsResult::StsPolicyFetchError,
        }
    }
}

/// Fetches the policy of a domain whose addresses are known.
pub async fn fetch_policy(client: &TlsClient, wanted: &StsWanted) -> Result<StsPolicy, FetchFault> {
    // Tests take away descriptors here.
    fail::fail_point!("sts::connect", |_| Err(FetchFault::Ours(IoFault::NoFiles)));
    timeout(FETCH_MAX, fetch(client, wanted)).await.unwrap_or(Err(FetchFault::Timeout))
}

async fn fetch(client: &TlsClient, wanted: &StsWanted) -> Result<StsPolicy, FetchFault> {
    let config = client.https_config().map_err(FetchFault::Tls)?;
    let host = policy_host(&wanted.domain);
    let name = ServerName::try_from(host.clone());
    let name = name.map_err(|_| FetchFault::Tls(TlsFault::BadHost))?;
    let stream = connect(wanted).await?;
    let tls = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    let tls = tls.map_err(|error| match tls_fault(&error) {
        Some(fault) => FetchFault::Tls(fault),
        None => FetchFault::Connect(error.into()),
    })?;
    let body = ask(tls, &host).await.map_err(FetchFault::Http)?;
    StsPolicy::parse(&body).map_err(FetchFault::Policy)
}

async fn connect(wanted: &StsWanted) -> Result<TcpStream, FetchFault> {
    let found = wanted.addresses.as_ref().map_err(|fault| FetchFault::Dns(*fault))?;
    let mut last = FetchFault::NoAddress;
    for address in found.iter().take(ADDRESSES_MAX) {
        let at = SocketAddr::new(*address, wanted.port);
        last = match timeout(CONNECT_MAX, TcpStream::connect(at)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => match IoFault::of_connect(error) {
                fault if is_ours(fault, *address) => return Err(FetchFault::Ours(fault)),
                fault => FetchFault::Connect(fault),
            },
            Err(_) => FetchFault::Connect(IoFault::TimedOut),
        };
    }
    Err(last)
}

/// Whether this machine lacks a resource that every connection needs. A machine without IPv6 never has
/// a port for IPv6, so that one does not count.
fn is_ours(fault: IoFault, address: IpAddr) -> bool {
    match fault {
        IoFault::NoFiles | IoFault::NoFilesSystem | IoFault::NoMemory => true,
        IoFault::NoLocalPort => address.is_ipv4(),
        _ => false,
    }
}

fn tls_fault(error: &io::Error) -> Option<TlsFault> {
    let cause = error.get_ref()?.downcast_ref::<tokio_rustls::rustls::Error>()?;
    Some(cause.clone().into())
}

/// Requests the policy over a connection of its own.
async fn ask(tls: TlsStream<TcpStream>, host: &str) -> Result<Bytes, HttpFault> {
    let request = Request::get("/.well-known/mta-sts.txt")
        .header(header::HOST, host)
        .header(header::USER_AGENT, "Ringpost")
        .header(header::ACCEPT, "text/plain")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|cause| HttpFault::Broken(cause.to_string().into()))?;
    let mut settings = http1::Builder::new();
    settings.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = settings.handshake(TokioIo::new(tls)).await.map_err(broken)?;
    let mut exchange = pin!(async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        read(response).await
    });
    tokio::select! {
        body = &mut exchange => body,
        // The exchange has the response, or the fault that ended the connection.
        _ = connection => exchange.await,
    }
}

async fn read(response: hyper::Response<Incoming>) -> Result<Bytes, HttpFault> {
    if response.status() != StatusCode::OK {
        return Err(HttpFault::Status(response.status().as_u16()));
    }
    if !is_plain_text(response.headers()) {
        return Err(HttpFault::NotPlainText);
    }
    let body = Limited::new(response.into_body(), POLICY_BYTES_MAX).collect().await;
    let body = body.map_err(|cause| match cause.is::<LengthLimitError>() {
        true => HttpFault::TooLong,
        false => HttpFault::Broken(told(&*cause).into()),
    })?;
    Ok(body.to_bytes())
}

/// RFC 8461 s3.2: so that whoever may put pages on a server cannot put a policy there.
fn is_plain_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/plain"))
}

fn broken(error: hyper::Error) -> HttpFault {
    HttpFault::Broken(told(&error).into())
}

/// The error with its causes: hyper tells what it was doing, the cause tells what went wrong.
fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

//! HTTP over the control socket of a running server.
//!
//! Promise:  results and faults are read as the types that the server wrote.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::Request;
use hyper::Response;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::control::FAULT_TRAILER;
use crate::operations::Input;
use crate::operations::Method;
use crate::operations::OpFault;
use crate::operations::Operation;
use crate::operations::queue::ReadMessage;

/// Operations have shorter deadlines on the server, so only a server that hangs takes longer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A connection for each request: the server may restart in between.
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    pub fn new(socket: PathBuf) -> Result<Client, OpFault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|cause| OpFault::other("no_runtime", cause.to_string()))?;
        Ok(Client { socket, runtime })
    }

    pub fn call<O: Operation>(&self, operation: &O) -> Result<O::Output, OpFault> {
        self.runtime.block_on(async {
            let mut response = self.send(operation).await?;
            read_json(&mut response).await
        })
    }

    /// Writes a message to `out`, piece by piece.
    pub fn read(&self, operation: &ReadMessage, out: &mut impl Write) -> Result<(), OpFault> {
        self.runtime.block_on(async {
            let mut response = self.send(operation).await?;
            while let Some(frame) = response.frame().await {
                let frame = frame.map_err(|cause| broken(&cause))?;
                match frame.into_data() {
                    Ok(piece) => out.write_all(&piece).map_err(|cause| output_fault(&cause))?,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        if let Some(fault) = trailers.get(FAULT_TRAILER) {
                            return Err(parse::<OpFault>(fault.as_bytes())?);
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// The response of a request that succeeded.
    async fn send<O: Operation>(&self, operation: &O) -> Result<Response<Incoming>, OpFault> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|cause| broken(&cause))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|cause| broken(&cause))?;
        // Its fault is also the fault of the request.
        tokio::spawn(connection);
        let response = timeout(ANSWER_MAX, sender.send_request(request(operation)?)).await;
        let response = response.map_err(|_| {
            let what = format!("the server has not answered within {} s", ANSWER_MAX.as_secs());
            OpFault::away("no_answer", what)
        })?;
        let mut response = response.map_err(|cause| broken(&cause))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(read_json::<OpFault>(&mut response).await?),
        }
    }
}

fn request<O: Operation>(operation: &O) -> Result<Request<Full<Bytes>>, OpFault> {
    let other = |cause: String| OpFault::other("bad_request", cause);
    let (mut path, mut body) = (O::ROUTE.path.to_owned(), Bytes::new());
    match O::ROUTE.input() {
        Input::Path => {
            let parameter = O::ROUTE.parameter().unwrap_or_default();
            path = path.replace(parameter, &percent_encoded(operation.path_value()));
        }
        Input::Query => {
            let query = serde_urlencoded::to_string(operation);
            path = format!("{path}?{}", query.map_err(|cause| other(cause.to_string()))?);
        }
        Input::Body => {
            let text = serde_json::to_vec(operation);
            body = text.map_err(|cause| other(cause.to_string()))?.into();
        }
    }
    let method = match O::ROUTE.method {
        Method::Get => hyper::Method::GET,
        Method::Post => hyper::Method::POST,
    };
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "ringpost")
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|cause| other(cause.to_string()))
}

/// As one segment of a path (RFC 3986 s2.3).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

async fn read_json<T: DeserializeOwned>(response: &mut Response<Incoming>) -> Result<T, OpFault> {
    let body = response.body_mut().collect().await.map_err(|cause| broken(&cause))?;
    parse(&body.to_bytes())
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, OpFault> {
    serde_json::from_slice(text).map_err(|cause| {
        OpFault::other("bad_answer", format!("the server's answer cannot be read: {cause}"))
            .hint("the server may be running another version")
    })
}

fn broken(cause: &dyn std::error::Error) -> OpFault {
    OpFault::away("no_answer", format!("control socket: {cause}")).hint("is the server running?")
}

pub fn output_fault(cause: &std::io::Error) -> OpFault {
    OpFault::other("output", format!("output: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::operations::destination::PauseDestination;
    use crate::operations::queue::ListMessages;
    use crate::operations::queue::QueueStats;

    #[test]
    fn requests_name_their_operation() {
        let of = |request: Result<Request<Full<Bytes>>, OpFault>| {
            let request = request.expect("it is one");
            format!("{} {}", request.method(), request.uri())
        };
        let destination = "[::1]:25; unix:/run/a b".to_owned();
        assert_eq!(
            of(request(&PauseDestination { destination })),
            "POST /v1/destinations/%5B%3A%3A1%5D%3A25%3B%20unix%3A%2Frun%2Fa%20b/pause"
        );
        let sender = Some("<>".to_owned());
        let list = ListMessages { limit: Some(2), sender, ..ListMessages::default() };
        assert_eq!(of(request(&list)), "GET /v1/queue/messages?limit=2&sender=%3C%3E&held=false");
        assert_eq!(of(request(&QueueStats {})), "GET /v1/queue/stats?");
    }
}

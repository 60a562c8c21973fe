//! A message as the body of an HTTP response, piece by piece.
//!
//! Promise:  each piece is read on a blocking thread when the client has taken the piece before, so a
//!           slow reader holds one piece of memory and no thread. A message that is damaged, or a read
//!           that fails, never ends like a whole one: a client that accepts trailers gets the fault in
//!           the trailer `FAULT`, and the connection of any other is broken off.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use axum::body::Body;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::header;
use axum::response::Response;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::control::queue::queue_fault;
use crate::operations::OpFault;
use crate::queue::QueueFault;

/// The trailer that holds a fault as JSON.
pub const FAULT: &str = "ringpost-fault";

/// Where pieces are read.
pub trait Source: Iterator<Item = Result<Vec<u8>, QueueFault>> + Send + 'static {}

impl<T: Iterator<Item = Result<Vec<u8>, QueueFault>> + Send + 'static> Source for T {}

/// The response with these pieces.
pub fn response(pieces: impl Source, request: &HeaderMap) -> Response {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(read(pieces, sender));
    let accepts_trailers = request.get(header::TE).is_some_and(|value| value == "trailers");
    let body = Body::new(Pieces { receiver, accepts_trailers });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("message/rfc822"));
    if accepts_trailers {
        headers.insert(header::TRAILER, HeaderValue::from_static(FAULT));
    }
    response
}

async fn read(mut pieces: impl Source, sender: mpsc::Sender<Result<Bytes, OpFault>>) {
    // A client that is gone ends the reading.
    while let Ok(place) = sender.reserve().await {
        let next = spawn_blocking(move || (pieces.next(), pieces)).await;
        let piece = match next {
            Ok((None, _)) => return,
            Ok((Some(piece), rest)) => {
                pieces = rest;
                piece.map(Bytes::from).map_err(queue_fault)
            }
            Err(_) => {
                place.send(Err(OpFault::bug()));
                return;
            }
        };
        let failed = piece.is_err();
        place.send(piece);
        if failed {
            return;
        }
    }
}

struct Pieces {
    receiver: mpsc::Receiver<Result<Bytes, OpFault>>,
    accepts_trailers: bool,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match ready!(self.receiver.poll_recv(cx)) {
            None => None,
            Some(Ok(piece)) => Some(Ok(Frame::data(piece))),
            Some(Err(fault)) => Some(self.end_with(&fault)),
        })
    }
}

impl Pieces {
    fn end_with(&self, fault: &OpFault) -> io::Result<Frame<Bytes>> {
        let text = serde_json::to_string(fault).unwrap_or_default();
        match HeaderValue::from_str(&text) {
            Ok(value) if self.accepts_trailers => {
                let mut trailers = HeaderMap::new();
                trailers.insert(FAULT, value);
                Ok(Frame::trailers(trailers))
            }
            _ => Err(io::Error::other(fault.to_string())),
        }
    }
}

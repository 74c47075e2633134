//! One connection of the admin listener: requests one after the other, answers in their order.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use monoio::io::sink::Sink;
use monoio::io::stream::Stream;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio_http::common::request::Request;
use monoio_http::common::response::{Response, ResponseBuilder};
use monoio_http::h1::codec::decoder::RequestDecoder;
use monoio_http::h1::codec::encoder::GenericEncoder;

use super::{Node, Phase, body_bytes_max};
use crate::admin::access::{Caller, Rules};
use crate::admin::answer::Answer;
use crate::admin::failure::{Code, Failure};
use crate::admin::guard::{self, Chunks, Framing, Head};
use crate::admin::routes::{self, Route};
use crate::admin::whole::Whole;
use crate::limits::ADMIN_HEAD_BYTES_MAX;

/// Until the next request begins.
const IDLE_PATIENCE: Duration = Duration::from_secs(75);
/// For a whole head, from its first byte; and for the first byte of the first one.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// For a whole body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// For the answer to be made.
const WORK_PATIENCE: Duration = Duration::from_secs(60);
/// For the answer to be taken.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// For what comes behind a request that was refused.
const LINGER_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes thrown away after a request that was refused.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one receive.
const READ_BYTES: usize = 16 * 1024;
/// Bytes of bodies that all connections together may hold.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Serves a connection until it ends.
pub(super) async fn serve(node: Rc<Node>, stream: TcpStream, place: u64) {
    let mut connection = Connection { node: node.clone(), stream, place, buffer: BytesMut::new() };
    node.open.set_phase(place, Phase::Idle, HEAD_PATIENCE);
    while connection.request().await {
        node.open.set_phase(place, Phase::Idle, IDLE_PATIENCE);
    }
    // The handle that stops the stream goes before the stream.
    node.open.leave(place);
}

struct Connection {
    node: Rc<Node>,
    stream: TcpStream,
    place: u64,
    /// What was received and not looked at.
    buffer: BytesMut,
}

impl Connection {
    /// Serves one request; whether another may follow.
    async fn request(&mut self) -> bool {
        let (head, body_max) = match self.head().await {
            Ok(Some(found)) => found,
            Ok(None) => return false,
            Err(failure) => return self.refuse("", failure).await,
        };
        let bytes = self.buffer.split_to(head.len).freeze();
        let Some(request) = decode(&bytes).await else {
            return self.refuse("", Failure::new(Code::Http(400), "the request head is malformed")).await;
        };
        let head_only = request.method().as_str() == "HEAD";
        let (label, routed) = self.route(&request);
        let route = match routed {
            Ok(route) => route,
            Err(failure) if head.body == Framing::Length(0) && head.keep_alive => {
                return self.answer(label, failure.into(), true, head_only).await;
            }
            Err(failure) => return self.refuse(label, failure).await,
        };
        let body = match self.body(&head, body_max).await {
            Ok(Some(body)) => body,
            Ok(None) => return false,
            Err(failure) => return self.refuse(label, failure).await,
        };
        self.node.open.set_phase(self.place, Phase::Working, WORK_PATIENCE);
        let answer = self.node.handle(route, &body.bytes).await;
        drop(body);
        self.answer(label, answer, head.keep_alive, head_only).await
    }

    /// Receives a whole head; `None`: the peer is done.
    async fn head(&mut self) -> Result<Option<(Head, usize)>, Failure> {
        let body_max = body_bytes_max(&self.node.settings().config);
        let mut begun = false;
        loop {
            if !begun && !self.buffer.is_empty() {
                begun = true;
                self.node.open.set_phase(self.place, Phase::Reading, HEAD_PATIENCE);
            }
            if begun && let Some(head) = guard::head(&self.buffer, body_max)? {
                return Ok(Some((head, body_max)));
            }
            if !self.receive().await {
                return match begun && self.node.open.told(self.place) {
                    true => Err(Failure::new(Code::Timeout, "the request did not come in time")),
                    false => Ok(None),
                };
            }
            debug_assert!(self.buffer.len() <= ADMIN_HEAD_BYTES_MAX + READ_BYTES, "the guard stops long heads");
        }
    }

    fn route<'a>(&self, request: &'a Request) -> (&'static str, Result<Route<'a>, Failure>) {
        let settings = self.node.settings();
        let api = &settings.config.api;
        let field = |name: &str| request.headers().get(name).map(|value| value.as_bytes());
        let caller = Caller {
            host: field("host"),
            origin: field("origin"),
            content_type: field("content-type"),
            key: field("x-api-key"),
        };
        let rules = Rules { keys: &api.keys, hosts: &api.hosts };
        let routed = routes::route(request.method().as_str(), request.uri().path(), &caller, &rules);
        let label = match &routed {
            Ok(Route::Page) => "page",
            Ok(Route::Health) => "health",
            Ok(Route::Live) => "livez",
            Ok(Route::Ready) => "readyz",
            Ok(Route::Metrics) => "metrics",
            Ok(Route::Api(verb)) => routes::VERBS.iter().find(|known| *known == verb).copied().unwrap_or("other"),
            Err(_) => "other",
        };
        (label, routed)
    }

    /// Receives the whole body; `None`: the peer is gone.
    async fn body(&mut self, head: &Head, max: usize) -> Result<Option<Held>, Failure> {
        let mut held = Held { node: self.node.clone(), bytes: Vec::new(), counted: 0 };
        if head.body == Framing::Length(0) {
            return Ok(Some(held));
        }
        self.node.open.set_phase(self.place, Phase::Reading, BODY_PATIENCE);
        if head.expects_continue && self.buffer.is_empty() {
            let (sent, _) = self.stream.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n"[..]).await;
            if sent.is_err() {
                return Ok(None);
            }
        }
        let mut chunks = Chunks::default();
        loop {
            let done = match head.body {
                Framing::Length(length) => {
                    let take = self.buffer.len().min(length - held.bytes.len());
                    held.bytes.extend_from_slice(&self.buffer[..take]);
                    self.buffer.advance(take);
                    held.bytes.len() == length
                }
                Framing::Chunked => {
                    let (taken, done) = chunks.take(&self.buffer, &mut held.bytes, max)?;
                    self.buffer.advance(taken);
                    done
                }
            };
            held.count()?;
            if done {
                return Ok(Some(held));
            }
            if !self.receive().await {
                return match self.node.open.told(self.place) {
                    true => Err(Failure::new(Code::Timeout, "the request did not come in time")),
                    false => Ok(None),
                };
            }
        }
    }

    /// Waits for bytes; `false`: none will come.
    async fn receive(&mut self) -> bool {
        let (result, bytes) = self.stream.read(Vec::with_capacity(READ_BYTES)).await;
        match result {
            Ok(len @ 1..) => {
                self.buffer.extend_from_slice(&bytes[..len.min(bytes.len())]);
                true
            }
            Ok(0) | Err(_) => false,
        }
    }

    /// Sends an answer; whether another request may follow.
    async fn answer(&mut self, label: &'static str, answer: Answer, keep_alive: bool, head_only: bool) -> bool {
        self.node.count(label, answer.status);
        self.node.open.set_phase(self.place, Phase::Writing, WRITE_PATIENCE);
        let mut builder = ResponseBuilder::new()
            .status(answer.status)
            .header("content-type", answer.content_type)
            .header("x-content-type-options", "nosniff")
            .header("cache-control", "no-store");
        for (name, value) in answer.headers {
            builder = builder.header(name, value);
        }
        if !keep_alive {
            builder = builder.header("connection", "close");
        }
        let Ok(response) = builder.body(Whole(Some(answer.body))) else { return false };
        if head_only {
            // The encoder sends the length of the body that it sends, and none is to be sent.
            let (sent, _) = self.stream.write_all(head_of(&response)).await;
            return sent.is_ok() && keep_alive;
        }
        let mut encoder = GenericEncoder::new(&mut self.stream);
        let sent = encoder.send(response).await.is_ok();
        let sent = sent && Sink::<Response<Whole>>::flush(&mut encoder).await.is_ok();
        sent && keep_alive
    }

    /// Answers what cannot be trusted, and closes so that the answer arrives: what was not read would reset the connection.
    async fn refuse(&mut self, label: &'static str, failure: Failure) -> bool {
        let label = if label.is_empty() { "refused" } else { label };
        self.answer(label, failure.into(), false, false).await;
        self.node.open.set_phase(self.place, Phase::Writing, LINGER_PATIENCE);
        let _ = self.stream.shutdown().await;
        let mut left = LINGER_BYTES_MAX;
        while left > 0 && !self.node.open.told(self.place) {
            self.buffer.clear();
            if !self.receive().await {
                break;
            }
            left = left.saturating_sub(self.buffer.len());
        }
        false
    }
}

/// A body that is counted against what all connections may hold.
struct Held {
    node: Rc<Node>,
    bytes: Vec<u8>,
    counted: usize,
}

impl Held {
    fn count(&mut self) -> Result<(), Failure> {
        let more = self.bytes.len() - self.counted;
        let all = self.node.held_bytes.get() + more;
        if all > HELD_BYTES_MAX {
            return Err(Failure::new(Code::Unavailable, "too many bytes of requests are held"));
        }
        self.counted += more;
        self.node.held_bytes.set(all);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.node.held_bytes.set(self.node.held_bytes.get() - self.counted);
    }
}

/// Lets monoio-http decode a head that the guard has passed.
async fn decode(head: &Bytes) -> Option<Request> {
    RequestDecoder::new(&head[..]).next().await?.ok()
}

/// The head of a response, with the length of the body that belongs to it.
fn head_of(response: &Response<Whole>) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    let length = response.body().0.as_ref().map_or(0, Bytes::len).to_string();
    for (name, value) in response.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend([b"content-length: ", length.as_bytes(), b"\r\n\r\n"].concat());
    head
}

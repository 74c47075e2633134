//! One keep-alive connection to a service: monoio-http encodes what is asked; what is answered is read under bounds of our own.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use monoio::io::sink::Sink;
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;
use monoio_http::common::request::{Request, RequestBuilder};
use monoio_http::h1::codec::encoder::GenericEncoder;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::Target;
use crate::admin::whole::Whole;
use crate::io::tcp::Stopper;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an answer's body that are read so that the connection can be used again.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How often a connection that is being made is looked at.
const CONNECT_STEP: Duration = Duration::from_millis(2);
/// How often it is asked whether time is up.
const WATCH_STEP: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    timeout: Duration,
    /// The runtime's epoll driver must never wait in a socket; its io_uring driver must.
    epoll: bool,
    stream: Option<TcpStream>,
}

impl Client {
    pub(super) fn new(target: Target, timeout: Duration, epoll: bool) -> Self {
        Client { target, timeout, epoll, stream: None }
    }

    /// Posts a JSON text; anything but a status of 200 to 299 in time is an error.
    pub(super) async fn post(&mut self, headers: &[(&'static str, String)], body: Bytes) -> io::Result<()> {
        if let Some(stream) = self.stream.take() {
            match self.exchange(stream, headers, body.clone()).await {
                // The service may have closed it while it was idle: that says nothing about this request.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                done => return done,
            }
        }
        let stream = self.connect().await?;
        self.exchange(stream, headers, body).await
    }

    async fn exchange(
        &mut self,
        mut stream: TcpStream,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> io::Result<()> {
        let mut builder = RequestBuilder::new()
            .method("POST")
            .uri(&self.target.path)
            .header("host", &self.target.host)
            .header("user-agent", concat!("ringgate/", env!("CARGO_PKG_VERSION")))
            .header("content-type", "application/json");
        for (name, value) in headers {
            builder = builder.header(*name, value);
        }
        let request: Request<Whole> = builder.body(Whole(Some(body))).map_err(io::Error::other)?;
        let watch = Watch::new(&stream, self.timeout)?;
        let (status, reusable) = exchange(&mut stream, request).await.map_err(|error| watch.explain(error))?;
        drop(watch);
        if reusable {
            self.stream = Some(stream);
        }
        match status {
            200..=299 => Ok(()),
            status => Err(io::Error::other(format!("HTTP {status}"))),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in &self.target.addresses {
            match self.connect_to(*address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects without an operation of the runtime that would have to be cancelled.
    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let end = Instant::now() + self.timeout;
        loop {
            sockopt::socket_error(&socket)??;
            if rustix::net::getpeername(&socket).is_ok() {
                break;
            }
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            monoio::time::sleep(CONNECT_STEP).await;
        }
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(self.epoll)?;
        TcpStream::from_std(stream)
    }
}

/// Shuts a socket down when time is up, unless it is dropped before: a read or write of the runtime is never cancelled.
struct Watch {
    done: Rc<Cell<bool>>,
    fired: Rc<Cell<bool>>,
}

impl Watch {
    fn new(stream: &TcpStream, timeout: Duration) -> io::Result<Self> {
        let stopper = Stopper::new(stream)?;
        let watch = Watch { done: Rc::default(), fired: Rc::default() };
        let (done, fired) = (watch.done.clone(), watch.fired.clone());
        let end = Instant::now() + timeout;
        monoio::spawn(async move {
            while !done.get() {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    fired.set(true);
                    return stopper.stop();
                }
                monoio::time::sleep(left.min(WATCH_STEP)).await;
            }
        });
        Ok(watch)
    }

    fn explain(&self, error: io::Error) -> io::Error {
        if self.fired.get() { io::ErrorKind::TimedOut.into() } else { error }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.set(true);
    }
}

/// Asks, and reads the answer: its status, and whether the connection can be used again.
async fn exchange(stream: &mut TcpStream, request: Request<Whole>) -> io::Result<(u16, bool)> {
    let failed = |_| io::Error::from(io::ErrorKind::ConnectionReset);
    let mut encoder = GenericEncoder::new(&mut *stream);
    encoder.send(request).await.map_err(failed)?;
    Sink::<Request<Whole>>::flush(&mut encoder).await.map_err(failed)?;
    let (status, reusable) = answer(stream).await?;
    if !reusable {
        let _ = stream.shutdown().await;
    }
    Ok((status, reusable))
}

async fn answer(stream: &mut TcpStream) -> io::Result<(u16, bool)> {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        match head(&bytes)? {
            Some(Head { status: 100..=199, len, .. }) => {
                bytes.drain(..len);
                continue;
            }
            Some(head) => {
                let missing = head.body.map(|body| (head.len + body).saturating_sub(bytes.len()));
                let reusable = match missing.filter(|missing| *missing <= BODY_BYTES_MAX) {
                    Some(missing) => discard(stream, missing).await.is_ok(),
                    None => false,
                };
                return Ok((head.status, reusable && !head.close));
            }
            None if bytes.len() >= HEAD_BYTES_MAX => {
                return Err(io::Error::other("the head of the answer is too long"));
            }
            None => {}
        }
        let (result, chunk) = stream.read(Vec::with_capacity(4096)).await;
        match result? {
            0 if bytes.is_empty() => return Err(io::ErrorKind::ConnectionReset.into()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => bytes.extend_from_slice(&chunk[..len]),
        }
    }
}

async fn discard(stream: &mut TcpStream, mut missing: usize) -> io::Result<()> {
    while missing > 0 {
        let (result, _) = stream.read(Vec::with_capacity(missing.min(16 * 1024))).await;
        match result? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => missing = missing.saturating_sub(len),
        }
    }
    Ok(())
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    len: usize,
    /// The length of its body; `None`: until the end, or in chunks.
    body: Option<usize>,
    close: bool,
}

fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::other(format!("the answer is no HTTP: {error}"))),
    };
    let field = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let status = response.code.unwrap_or(0);
    let body = match (status, field("transfer-encoding"), field("content-length")) {
        (100..=199 | 204 | 304, ..) => Some(0),
        (_, None, Some(length)) => length.parse().ok(),
        _ => None,
    };
    let close = response.version == Some(0) || field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    Ok(Some(Head { status, len, body, close }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_answers() {
        let table = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Some((200, Some(5), false))),
            ("HTTP/1.1 204 No Content\r\n\r\n", Some((204, Some(0), false))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Some((200, None, false))),
            ("HTTP/1.1 503 Busy\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", Some((503, Some(0), true))),
            ("HTTP/1.0 200 OK\r\nContent-Length: x\r\n\r\n", Some((200, None, true))),
            ("HTTP/1.1 200 OK\r\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            let found = head(text.as_bytes()).unwrap().map(|head| (head.status, head.body, head.close));
            assert_eq!(found, expected, "{text:?}");
        }
        assert!(head(b"SSH-2.0-x\r\n").is_err());
    }
}

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

use super::reply::{Reader, Reply};
use super::target::Route;
use crate::admin::whole::Whole;
use crate::io::tcp::{Stopper, is_quiet};

/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;
/// How often a connection that is being made is looked at.
const CONNECT_STEP: Duration = Duration::from_millis(2);
/// How often it is asked whether time is up.
const WATCH_STEP: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    route: Rc<Route>,
    /// The runtime's epoll driver must never wait in a socket; its io_uring driver must.
    epoll: bool,
    stream: Option<TcpStream>,
}

impl Client {
    pub(super) fn new(route: Rc<Route>, epoll: bool) -> Self {
        Client { route, epoll, stream: None }
    }

    /// Posts a JSON text and reads the answer, all of it by `deadline`. A longer body than that is not kept.
    pub(super) async fn post(
        &mut self,
        headers: &[(&'static str, String)],
        body: Bytes,
        body_bytes_max: usize,
        deadline: Instant,
    ) -> io::Result<Reply> {
        if let Some(stream) = self.stream.take().filter(is_quiet) {
            match self.exchange(stream, headers, body.clone(), body_bytes_max, deadline).await {
                // The service may have closed it while it was idle: that says nothing about this request.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                done => return done,
            }
        }
        let stream = self.connect(deadline).await?;
        self.exchange(stream, headers, body, body_bytes_max, deadline).await
    }

    async fn exchange(
        &mut self,
        mut stream: TcpStream,
        headers: &[(&'static str, String)],
        body: Bytes,
        body_bytes_max: usize,
        deadline: Instant,
    ) -> io::Result<Reply> {
        let mut builder = RequestBuilder::new()
            .method("POST")
            .uri(&self.route.target.path)
            .header("host", &self.route.target.host)
            .header("user-agent", concat!("ringgate/", env!("CARGO_PKG_VERSION")))
            .header("content-type", "application/json");
        for (name, value) in headers {
            builder = builder.header(*name, value);
        }
        let request: Request<Whole> = builder.body(Whole(Some(body))).map_err(io::Error::other)?;
        let watch = Watch::new(&stream, deadline)?;
        let reply = exchange(&mut stream, request, body_bytes_max).await.map_err(|error| watch.explain(error))?;
        drop(watch);
        if reply.reusable {
            self.stream = Some(stream);
        }
        Ok(reply)
    }

    async fn connect(&self, deadline: Instant) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let addresses = self.route.addresses();
        for (tried, address) in addresses.iter().enumerate() {
            // One that does not answer leaves the others their share of the time.
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / (addresses.len() - tried) as u32;
            match self.connect_to(*address, now + share).await {
                Ok(stream) => {
                    self.route.worked(*address);
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        self.route.failed();
        Err(last)
    }

    /// Connects without an operation of the runtime that would have to be cancelled.
    async fn connect_to(&self, address: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            sockopt::socket_error(&socket)??;
            if rustix::net::getpeername(&socket).is_ok() {
                break;
            }
            if Instant::now() >= deadline {
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
    fn new(stream: &TcpStream, end: Instant) -> io::Result<Self> {
        let stopper = Stopper::new(stream)?;
        let watch = Watch { done: Rc::default(), fired: Rc::default() };
        let (done, fired) = (watch.done.clone(), watch.fired.clone());
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

/// Asks, and reads the answer.
async fn exchange(stream: &mut TcpStream, request: Request<Whole>, body_bytes_max: usize) -> io::Result<Reply> {
    let failed = |_| io::Error::from(io::ErrorKind::ConnectionReset);
    let mut encoder = GenericEncoder::new(&mut *stream);
    encoder.send(request).await.map_err(failed)?;
    Sink::<Request<Whole>>::flush(&mut encoder).await.map_err(failed)?;
    let reply = answer(stream, body_bytes_max).await?;
    if !reply.reusable {
        let _ = stream.shutdown().await;
    }
    Ok(reply)
}

async fn answer(stream: &mut TcpStream, body_bytes_max: usize) -> io::Result<Reply> {
    let mut reader = Reader::new(body_bytes_max);
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        buffer.clear();
        let (result, read) = stream.read(buffer).await;
        buffer = read;
        match result {
            Ok(0) => return reader.end(),
            Ok(len) => {
                if let Some(reply) = reader.take(&buffer[..len])? {
                    return Ok(reply);
                }
            }
            // It was closed while it was idle; the end of the stream and its reset are the same then.
            Err(_) if reader.is_empty() => return Err(io::ErrorKind::ConnectionReset.into()),
            Err(error) => return Err(error),
        }
    }
}

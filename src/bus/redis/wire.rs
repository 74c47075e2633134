//! Bytes to and from one Redis connection: a task that writes whatever has gathered, and a task that reads replies.
//!
//! The reader is never cancelled. A connection ends when its [`Plug`] is pulled, when Redis ends it, or when what comes is no RESP3; in
//! every case the reader notices, tells the receiver once, and both tasks end. While the writer is in a write, what is sent gathers behind it
//! and goes with the next one: so a busy connection makes large writes by itself.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;
use redis::Value;

use super::connect::Plug;
use super::resp::{RespError, Scanner, value};

/// Bytes asked of the kernel at a time.
const READ_BYTES: usize = 64 * 1024;
/// Buffers that grew above this are given back when they are empty.
const KEEP_BYTES: usize = 256 * 1024;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Redis ended it, or its own side did.
    #[error("the connection was closed")]
    Closed,
    /// The system ended it.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// What came is no RESP3.
    #[error("what came over the connection makes no sense: {0}")]
    Protocol(#[from] RespError),
}

/// Takes what a reader has read.
pub(super) trait Receiver: 'static {
    /// One value, of so many bytes on the wire.
    fn receive(&self, value: Value, bytes: usize) -> Result<(), RespError>;
    /// Until more may be read.
    fn room(&self) -> impl Future<Output = ()>;
    /// Nothing comes any more. Called once.
    fn ended(&self, why: Ended);
}

/// The sending side of one connection. Dropping it ends the connection.
#[derive(Debug)]
pub(super) struct Wire {
    shared: Rc<Shared>,
    plug: Plug,
}

#[derive(Debug, Default)]
struct Shared {
    out: RefCell<Vec<u8>>,
    writer: RefCell<Option<Waker>>,
    /// No more is written.
    over: Cell<bool>,
}

impl Wire {
    /// Starts the two tasks. `held` was read already, and is not a whole reply.
    pub(super) fn start<R: Receiver>(stream: TcpStream, plug: Plug, held: Vec<u8>, receiver: Rc<R>) -> Self {
        let shared = Rc::new(Shared::default());
        let (read, write) = stream.into_split();
        monoio::spawn(write_all(write, shared.clone(), plug.clone()));
        let (reading, end) = (shared.clone(), plug.clone());
        monoio::spawn(async move {
            let why = read_all(read, held, &*receiver).await;
            reading.over.set(true);
            end.pull();
            reading.wake_writer();
            receiver.ended(why);
        });
        Wire { shared, plug }
    }

    /// Appends to what is to be written.
    pub(super) fn write<T>(&self, append: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let result = append(&mut self.shared.out.borrow_mut());
        self.shared.wake_writer();
        result
    }

    /// Bytes that the writer has not taken yet.
    pub(super) fn gathered(&self) -> usize {
        self.shared.out.borrow().len()
    }

    /// Ends the connection; the receiver is told.
    pub(super) fn close(&self) {
        self.plug.pull();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.plug.pull();
    }
}

impl Shared {
    fn wake_writer(&self) {
        let writer = self.writer.take();
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

async fn write_all(mut write: OwnedWriteHalf<TcpStream>, shared: Rc<Shared>, plug: Plug) {
    let mut spare = Vec::new();
    loop {
        poll_fn(|cx| {
            if shared.over.get() || !shared.out.borrow().is_empty() {
                return Poll::Ready(());
            }
            *shared.writer.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        if shared.over.get() {
            return;
        }
        let gathered = std::mem::replace(&mut *shared.out.borrow_mut(), spare);
        let (written, buffer) = write.write_all(gathered).await;
        if written.is_err() {
            // The reader finds out, and tells.
            return plug.pull();
        }
        spare = if buffer.capacity() > KEEP_BYTES { Vec::new() } else { buffer };
        spare.clear();
    }
}

async fn read_all(mut read: OwnedReadHalf<TcpStream>, mut held: Vec<u8>, receiver: &impl Receiver) -> Ended {
    let mut scanner = Scanner::default();
    loop {
        let used = match deliver(&mut scanner, &held, receiver) {
            Ok(used) => used,
            Err(e) => return e.into(),
        };
        held.drain(..used);
        if held.is_empty() && held.capacity() > KEEP_BYTES {
            held = Vec::new();
        }
        receiver.room().await;
        held = match read_more(&mut read, held).await {
            Ok(held) => held,
            Err(why) => return why,
        };
    }
}

/// Appends what comes next to `held`.
pub(super) async fn read_more(read: &mut impl AsyncReadRent, mut held: Vec<u8>) -> Result<Vec<u8>, Ended> {
    held.reserve(READ_BYTES);
    let len = held.len();
    let (read, slice) = read.read(held.slice_mut(len..)).await;
    match read? {
        0 => Err(Ended::Closed),
        _ => Ok(slice.into_inner()),
    }
}

/// Hands over every whole reply; returns their bytes.
fn deliver(scanner: &mut Scanner, held: &[u8], receiver: &impl Receiver) -> Result<usize, RespError> {
    let mut at = 0;
    while let Some(len) = scanner.scan(&held[at..])? {
        let reply = value(&held[at..at + len])?;
        at += len;
        match reply {
            Value::Attribute { data, .. } => receiver.receive(*data, len)?,
            reply => receiver.receive(reply, len)?,
        }
    }
    Ok(at)
}

//! One pipeline of commands to Redis: sent as they come, answered in their order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use redis::{Cmd, PushKind, Value};

use super::mailbox::Mailbox;
use super::open::Opened;
use super::resp::RespError;
use super::wire::{Ended, Receiver, Wire};

/// What comes out of a pipeline.
#[derive(Debug)]
pub enum Arrival<T> {
    /// The answer to a command; it may be an error of Redis ([`Value::ServerError`]).
    Reply {
        /// What was given with the command.
        token: T,
        /// The answer.
        value: Value,
    },
    /// Keys that were read over this connection have changed (client-side caching).
    Invalidated(Vec<Vec<u8>>),
    /// Every key has: Redis was flushed, or remembers too much.
    InvalidatedAll,
    /// The connection is over. Nothing comes after this.
    Ended {
        /// Why.
        why: Ended,
        /// The commands that have no answer: whether they were carried out is not known.
        unanswered: Vec<T>,
    },
}

/// The owner's end of a pipeline; `T` says what a reply answers. Dropping it ends the connection.
#[derive(Debug)]
pub struct Pipeline<T: 'static> {
    wire: Wire,
    inbox: Rc<Inbox<T>>,
}

#[derive(Debug)]
struct Inbox<T> {
    pending: RefCell<VecDeque<(T, u64)>>,
    arrivals: Mailbox<Arrival<T>>,
    over: Cell<bool>,
}

impl<T: 'static> Pipeline<T> {
    /// Takes a connection into use. Must be called inside the runtime, which runs its two tasks.
    pub fn start(opened: Opened) -> Self {
        let inbox =
            Rc::new(Inbox { pending: RefCell::new(VecDeque::new()), arrivals: Mailbox::new(), over: Cell::new(false) });
        let Opened { stream, plug, held } = opened;
        Pipeline { wire: Wire::start(stream, plug, held, inbox.clone()), inbox }
    }

    /// Sends a command, at `now_ms`. It goes out with whatever else is sent until the runtime has its turn. A command that is sent after
    /// the end is answered by another [`Arrival::Ended`] that hands back its token.
    pub fn send(&self, token: T, command: &Cmd, now_ms: u64) {
        self.send_packed(token, now_ms, |out| command.write_packed_command(out));
    }

    /// As [`Pipeline::send`], for one command that `pack` appends in its wire form.
    pub fn send_packed(&self, token: T, now_ms: u64, pack: impl FnOnce(&mut Vec<u8>)) {
        if self.inbox.over.get() {
            let ended = Arrival::Ended { why: Ended::Closed, unanswered: vec![token] };
            return self.inbox.arrivals.put(ended, 0);
        }
        self.inbox.pending.borrow_mut().push_back((token, now_ms));
        self.wire.write(pack);
    }

    /// Commands that have no answer.
    pub fn unanswered(&self) -> usize {
        self.inbox.pending.borrow().len()
    }

    /// How long the oldest of them has waited at `now_ms`.
    pub fn oldest_unanswered_ms(&self, now_ms: u64) -> Option<u64> {
        self.inbox.pending.borrow().front().map(|(_, sent_ms)| now_ms.saturating_sub(*sent_ms))
    }

    /// Bytes that gather because the socket takes none.
    pub fn gathered_bytes(&self) -> usize {
        self.wire.gathered()
    }

    /// What has arrived, if anything has.
    pub fn try_next(&self) -> Option<Arrival<T>> {
        self.inbox.arrivals.take()
    }

    /// What arrives next; for one waiter. To be dropped at any time: nothing is lost by it.
    pub async fn next(&self) -> Arrival<T> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Pipeline::next`].
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Arrival<T>> {
        self.inbox.arrivals.poll_take(cx)
    }

    /// Ends the connection and takes back the commands that have no answer, those included whose answers have arrived and were not taken.
    pub fn abandon(self) -> Vec<T> {
        let arrived = std::iter::from_fn(|| self.inbox.arrivals.take());
        let mut tokens: Vec<T> = arrived
            .flat_map(|arrival| match arrival {
                Arrival::Reply { token, .. } => vec![token],
                Arrival::Ended { unanswered, .. } => unanswered,
                Arrival::Invalidated(_) | Arrival::InvalidatedAll => Vec::new(),
            })
            .collect();
        tokens.extend(self.inbox.pending.take().into_iter().map(|(token, _)| token));
        tokens
    }

    /// Ends the connection: [`Arrival::Ended`] follows.
    pub fn close(&self) {
        self.wire.close();
    }
}

impl<T: 'static> Receiver for Inbox<T> {
    fn receive(&self, value: Value, bytes: usize) -> Result<(), RespError> {
        let arrival = match value {
            Value::Push { kind: PushKind::Invalidate, data } => invalidated(data)?,
            // Other pushes are about what nobody here has asked for.
            Value::Push { .. } => return Ok(()),
            value => {
                let (token, _) = self.pending.borrow_mut().pop_front().ok_or(RespError::Malformed)?;
                Arrival::Reply { token, value }
            }
        };
        self.arrivals.put(arrival, bytes);
        Ok(())
    }

    async fn room(&self) {
        self.arrivals.room().await;
    }

    fn ended(&self, why: Ended) {
        self.over.set(true);
        let unanswered = self.pending.take().into_iter().map(|(token, _)| token).collect();
        self.arrivals.put(Arrival::Ended { why, unanswered }, 0);
    }
}

fn invalidated<T>(data: Vec<Value>) -> Result<Arrival<T>, RespError> {
    match data.into_iter().next() {
        Some(Value::Nil) | None => Ok(Arrival::InvalidatedAll),
        Some(Value::Array(keys)) => {
            let keys = keys.into_iter().map(|key| match key {
                Value::BulkString(key) => Ok(key),
                _ => Err(RespError::Malformed),
            });
            keys.collect::<Result<_, _>>().map(Arrival::Invalidated)
        }
        Some(_) => Err(RespError::Malformed),
    }
}

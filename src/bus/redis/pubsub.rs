//! One subscribed connection: channels in and out, and what comes by them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use redis::{PushKind, ServerError, Value};

use super::mailbox::Mailbox;
use super::open::Opened;
use super::resp::RespError;
use super::wire::{Ended, Receiver, Wire};

/// Channels named in one command: large enough to be cheap, small enough not to hold others up.
pub const CHANNELS_PER_COMMAND: usize = 128;

/// What comes out of a subscribed connection.
#[derive(Debug)]
pub enum Arrival<T> {
    /// Something was published.
    Message {
        /// Where.
        channel: Vec<u8>,
        /// What.
        payload: Vec<u8>,
    },
    /// A channel is subscribed to, or is not any more, as asked.
    Confirmed(T),
    /// Redis refused it.
    Refused {
        /// What was given with the channel.
        token: T,
        /// What Redis said.
        error: ServerError,
    },
    /// The connection is over, and all its subscriptions. Nothing comes after this.
    Ended {
        /// Why.
        why: Ended,
        /// What was not confirmed.
        unconfirmed: Vec<T>,
    },
}

/// The owner's end; `T` says what a confirmation confirms. Dropping it ends the connection.
#[derive(Debug)]
pub struct Subscriber<T: 'static> {
    wire: Wire,
    inbox: Rc<Inbox<T>>,
}

#[derive(Debug)]
struct Inbox<T> {
    /// The channels of each command under way; a refusal is about the first command.
    asked: RefCell<VecDeque<VecDeque<(T, u64)>>>,
    arrivals: Mailbox<Arrival<T>>,
    over: Cell<bool>,
}

impl<T: 'static> Subscriber<T> {
    /// Takes a connection into use. Must be called inside the runtime, which runs its two tasks.
    pub fn start(opened: Opened) -> Self {
        let inbox =
            Rc::new(Inbox { asked: RefCell::new(VecDeque::new()), arrivals: Mailbox::new(), over: Cell::new(false) });
        let Opened { stream, plug, held } = opened;
        Subscriber { wire: Wire::start(stream, plug, held, inbox.clone()), inbox }
    }

    /// Subscribes to these channels, at `now_ms`; each is confirmed by its token.
    pub fn subscribe<C: AsRef<[u8]>>(&self, channels: impl IntoIterator<Item = (T, C)>, now_ms: u64) {
        self.ask("SUBSCRIBE", channels, now_ms);
    }

    /// Gives these channels up; each is confirmed by its token.
    pub fn unsubscribe<C: AsRef<[u8]>>(&self, channels: impl IntoIterator<Item = (T, C)>, now_ms: u64) {
        self.ask("UNSUBSCRIBE", channels, now_ms);
    }

    /// Channels that are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.inbox.asked.borrow().iter().map(VecDeque::len).sum()
    }

    /// How long the oldest of them has waited at `now_ms`.
    pub fn oldest_unconfirmed_ms(&self, now_ms: u64) -> Option<u64> {
        let asked = self.inbox.asked.borrow();
        asked.front().and_then(VecDeque::front).map(|(_, sent_ms)| now_ms.saturating_sub(*sent_ms))
    }

    /// What has arrived, if anything has.
    pub fn try_next(&self) -> Option<Arrival<T>> {
        self.inbox.arrivals.take()
    }

    /// What arrives next; for one waiter. To be dropped at any time: nothing is lost by it.
    pub async fn next(&self) -> Arrival<T> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Subscriber::next`].
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Arrival<T>> {
        self.inbox.arrivals.poll_take(cx)
    }

    /// Ends the connection: [`Arrival::Ended`] follows.
    pub fn close(&self) {
        self.wire.close();
    }

    fn ask<C: AsRef<[u8]>>(&self, verb: &str, channels: impl IntoIterator<Item = (T, C)>, now_ms: u64) {
        let mut channels = channels.into_iter();
        loop {
            let mut command = redis::cmd(verb);
            let named = channels.by_ref().take(CHANNELS_PER_COMMAND).map(|(token, channel)| {
                command.arg(channel.as_ref());
                (token, now_ms)
            });
            let asked: VecDeque<_> = named.collect();
            if asked.is_empty() {
                return;
            }
            if self.inbox.over.get() {
                let unconfirmed = asked.into_iter().map(|(token, _)| token).collect();
                self.inbox.arrivals.put(Arrival::Ended { why: Ended::Closed, unconfirmed }, 0);
                continue;
            }
            self.inbox.asked.borrow_mut().push_back(asked);
            self.wire.write(|out| command.write_packed_command(out));
        }
    }
}

impl<T: 'static> Inbox<T> {
    /// One channel of the first command is confirmed.
    fn confirm(&self) -> Result<(), RespError> {
        let mut asked = self.asked.borrow_mut();
        let command = asked.front_mut().ok_or(RespError::Malformed)?;
        let (token, _) = command.pop_front().ok_or(RespError::Malformed)?;
        if command.is_empty() {
            asked.pop_front();
        }
        self.arrivals.put(Arrival::Confirmed(token), 0);
        Ok(())
    }
}

impl<T: 'static> Receiver for Inbox<T> {
    fn receive(&self, value: Value, bytes: usize) -> Result<(), RespError> {
        match value {
            Value::Push { kind: PushKind::Message, data } => {
                let mut data = data.into_iter();
                let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (data.next(), data.next())
                else {
                    return Err(RespError::Malformed);
                };
                self.arrivals.put(Arrival::Message { channel, payload }, bytes);
                Ok(())
            }
            Value::Push { kind: PushKind::Subscribe | PushKind::Unsubscribe, .. } => self.confirm(),
            Value::Push { .. } => Ok(()),
            Value::ServerError(error) => {
                let refused = self.asked.borrow_mut().pop_front().ok_or(RespError::Malformed)?;
                for (token, _) in refused {
                    self.arrivals.put(Arrival::Refused { token, error: error.clone() }, 0);
                }
                Ok(())
            }
            // Nothing else is asked over this connection.
            _ => Err(RespError::Malformed),
        }
    }

    async fn room(&self) {
        self.arrivals.room().await;
    }

    fn ended(&self, why: Ended) {
        self.over.set(true);
        let unconfirmed = self.asked.take().into_iter().flatten().map(|(token, _)| token).collect();
        self.arrivals.put(Arrival::Ended { why, unconfirmed }, 0);
    }
}

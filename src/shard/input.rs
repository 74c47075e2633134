//! Bytes in: decoded frame by frame, each message handled before the next is looked at.

use bytes::Bytes;

use crate::error::CloseReason;
use crate::protocol::command::TracedWhat;
use crate::protocol::{ErrorCode, Request, parse};
use crate::shard::Shard;
use crate::shard::delivery::Manner;
use crate::shard::frames::Shared;
use crate::shard::limiter::{Admit, RateLimits};
use crate::shard::opening::after;
use crate::shard::row::{Paused, State};
use crate::time::Now;
use crate::ws::deflate::Inflater;
use crate::ws::frame::{Opcode, server_frame};
use crate::ws::message::{Decoder, Incoming};

/// Decoders kept for the next incomplete message.
const SPARE_DECODERS_MAX: usize = 64;

impl Shard {
    /// Bytes from a peer, in whatever state its connection is.
    pub(super) fn bytes(&mut self, slot: u32, data: &mut [u8], now: Now) {
        let now_ds = self.connections.ds(now);
        let row = self.connections.row_mut(slot);
        row.received_bytes += data.len() as u64;
        match row.state {
            State::Vacant => {}
            _ if row.discard_input => {}
            State::Connecting => self.opening_bytes(slot, data, now),
            State::Moving => self.keep_for_home(slot, data),
            State::Authenticating | State::Active | State::Echo | State::Closing => {
                // Any frame is a sign of life.
                row.last_receive_ds = now_ds;
                if std::mem::take(&mut row.pinged) && row.state != State::Closing {
                    // Until now its deadline was that of an answer.
                    let interval = self.settings.config.session.heartbeat_interval_ms;
                    self.connections.bring_forward(slot, after(now_ds, interval));
                }
                if self.waits_behind(slot) {
                    return self.bytes_behind(slot, data, now);
                }
                self.decode(slot, data, now);
            }
        }
    }

    /// What arrives while a connection waits for its hand-over goes along.
    fn keep_for_home(&mut self, slot: u32, data: &[u8]) {
        let extra = self.connections.row_mut(slot).extra();
        if let Some((_, state)) = extra.moving.as_mut() {
            state.leftover.extend_from_slice(data);
        }
        self.connections.reweigh(slot);
    }

    pub(super) fn decode(&mut self, slot: u32, data: &mut [u8], now: Now) {
        let conn = self.connections.id(slot);
        let config = self.decoder_config(slot);
        let row = self.connections.row_mut(slot);
        let mut decoder =
            row.decoder.take().or_else(|| self.spare_decoders.pop()).unwrap_or_else(|| Box::new(Decoder::default()));
        // With context takeover the connection has its own; it is put back below. Its compressor stays where it is: what is queued
        // meanwhile must see it.
        let mut own = row.contexts().map(|c| std::mem::take(&mut c.inflater));
        let mut shared = std::mem::take(&mut self.inflater);
        let mut position = 0;
        loop {
            let inflater = own.as_mut().unwrap_or(&mut shared);
            match decoder.next(&config, inflater, data, &mut position) {
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) if self.connections.row(slot).state == State::Authenticating => {
                    // An `auth` may move the connection, and what comes behind it goes along: the text must not borrow from the input.
                    let text = text.to_owned();
                    self.put_back(slot, &mut own);
                    self.text_before_session(slot, &text, &mut data[position..], now);
                    if self.connections.find(conn).is_none() || self.connections.row(slot).state == State::Moving {
                        break;
                    }
                    if self.connections.row(slot).paused.contains(Paused::BUS) {
                        self.keep_behind(slot, &data[position..]);
                        break;
                    }
                    if self.is_asking(slot) {
                        // What came behind is kept already.
                        break;
                    }
                    own = self.connections.row_mut(slot).contexts().map(|c| std::mem::take(&mut c.inflater));
                }
                Ok(Some(incoming)) => {
                    self.incoming(slot, incoming, now);
                    if self.connections.find(conn).is_none() || self.connections.row(slot).discard_input {
                        break;
                    }
                    if self.is_asking(slot) {
                        self.keep_behind(slot, &data[position..]);
                        break;
                    }
                }
                Err(failure) => {
                    self.fail(slot, &failure, now);
                    break;
                }
            }
        }
        self.inflater = shared;
        let kept = self.connections.find(conn).is_some() && !self.connections.row(slot).discard_input;
        if kept {
            self.put_back(slot, &mut own);
            if !decoder.is_idle() {
                self.connections.row_mut(slot).decoder = Some(decoder);
                return self.connections.reweigh(slot);
            }
            self.connections.reweigh(slot);
        }
        if self.spare_decoders.len() < SPARE_DECODERS_MAX {
            decoder.reset();
            self.spare_decoders.push(decoder);
        }
    }

    /// Gives a connection its own inflater back.
    fn put_back(&mut self, slot: u32, own: &mut Option<Inflater>) {
        if let (Some(contexts), Some(inflater)) = (self.connections.row_mut(slot).contexts(), own.take()) {
            contexts.inflater = inflater;
        }
    }

    /// One message or control frame.
    fn incoming(&mut self, slot: u32, incoming: Incoming<'_>, now: Now) {
        match (incoming, self.connections.row(slot).state) {
            (Incoming::Close(close), _) => self.peer_closes(slot, close.map(|(code, _)| code), now),
            // Our close frame is on its way: only the peer's answer still counts (RFC 6455, section 1.4).
            (_, State::Closing) | (Incoming::Pong(_), _) => {}
            (Incoming::Ping(payload), state) => self.ping(slot, state, payload, now),
            (Incoming::Text(text), State::Echo) => self.echo(slot, Opcode::Text, text.as_bytes(), now),
            (Incoming::Binary(bytes), State::Echo) => self.echo(slot, Opcode::Binary, bytes, now),
            (Incoming::Binary(_), _) => {
                let text = CloseReason::Unsupported.text();
                self.close(slot, CloseReason::Unsupported, text, now);
            }
            (Incoming::Text(text), _) => self.text(slot, text, now),
        }
    }

    /// A ping is answered, within the rate of messages: else it would be the one thing that anybody may ask for without bound.
    fn ping(&mut self, slot: u32, state: State, payload: &[u8], now: Now) {
        if state != State::Echo && self.admit(slot, payload.len(), now).is_err() {
            self.connections.counters.rate_limited += 1;
            if self.connections.row(slot).rate.keeps_on(&self.rates()) {
                self.close(slot, CloseReason::RateLimited, CloseReason::RateLimited.text(), now);
            }
            return;
        }
        self.connections.push_control(slot, server_frame(Opcode::Pong, payload));
    }

    fn echo(&mut self, slot: u32, opcode: Opcode, payload: &[u8], now: Now) {
        self.count_message(slot, now);
        let frame: Bytes = server_frame(opcode, payload);
        self.connections.push(slot, &mut Shared::new(frame), Manner::PLAIN, now);
    }

    fn count_message(&mut self, slot: u32, now: Now) {
        let now_ds = self.connections.ds(now);
        self.connections.counters.messages_received += 1;
        let row = self.connections.row_mut(slot);
        row.received_messages += 1;
        row.last_message_ds = now_ds;
    }

    /// A message of a running session.
    fn text(&mut self, slot: u32, text: &str, now: Now) {
        self.count_message(slot, now);
        if !self.connections.traces.is_empty() {
            self.connections.trace(slot, TracedWhat::In, text.as_bytes(), None, now);
        }
        let admitted = self.admit(slot, text.len(), now);
        match parse(text) {
            Ok(parsed) => match admitted {
                Ok(()) => self.request(slot, parsed, now),
                Err(code) => self.refuse_rate(slot, parsed.id.as_ref(), code, now),
            },
            Err(error) => match admitted {
                Ok(()) => self.error(slot, error.id.as_ref(), error.code, &error.message, now),
                Err(code) => self.refuse_rate(slot, error.id.as_ref(), code, now),
            },
        }
    }

    /// A message of a connection without identity: `auth`, or `ping`.
    fn text_before_session(&mut self, slot: u32, text: &str, rest: &mut [u8], now: Now) {
        self.count_message(slot, now);
        if let Err(code) = self.admit(slot, text.len(), now) {
            return self.refuse_rate(slot, None, code, now);
        }
        match parse(text) {
            Ok(parsed) => match parsed.request {
                Request::Auth { token } => self.auth_request(slot, &token, parsed.id, rest, now),
                Request::Ping => self.pong(slot, parsed.id.as_ref(), now),
                _ => {
                    let text = "authenticate first: {\"type\":\"auth\",\"token\":\"...\"}";
                    self.error(slot, parsed.id.as_ref(), ErrorCode::Unauthorized, text, now);
                }
            },
            Err(error) => self.error(slot, error.id.as_ref(), error.code, &error.message, now),
        }
    }

    /// Whether a message of `bytes` is within its sender's rate.
    fn admit(&mut self, slot: u32, bytes: usize, now: Now) -> Result<(), ErrorCode> {
        let rates = self.rates();
        match self.connections.row_mut(slot).rate.admit(now.mono_ms, bytes, &rates) {
            Admit::Ok => Ok(()),
            Admit::OverMessages => Err(ErrorCode::RateLimitMessages),
            Admit::OverBytes => Err(ErrorCode::RateLimitBytes),
        }
    }

    fn rates(&self) -> RateLimits {
        let limits = &self.settings.config.limits;
        RateLimits { messages: limits.messages_per_second, bytes: limits.bytes_per_second }
    }

    /// Refuses a message over the rate; a client that keeps on is closed.
    fn refuse_rate(&mut self, slot: u32, id: Option<&crate::protocol::RequestId>, code: ErrorCode, now: Now) {
        self.connections.counters.rate_limited += 1;
        if self.connections.row(slot).rate.keeps_on(&self.rates()) {
            return self.close(slot, CloseReason::RateLimited, CloseReason::RateLimited.text(), now);
        }
        let limits = &self.settings.config.limits;
        let text = match code {
            ErrorCode::RateLimitBytes => format!("over {} bytes per second", limits.bytes_per_second),
            _ => format!("over {} messages per second", limits.messages_per_second),
        };
        self.error(slot, id, code, &text, now);
    }
}

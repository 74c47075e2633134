//! A session from identity to end: authentication, the move to the user's home shard, and every way to close.

use std::rc::Rc;

use crate::auth::{AuthError, Claims};
use crate::config::AuthMode;
use crate::error::{CloseReason, RefusalReason};
use crate::ids::ConnectionId;
use crate::limits::{CLOSE_TIMEOUT_MS, LINGER_TIMEOUT_MS};
use crate::protocol::command::TracedWhat;
use crate::protocol::envelope::Topic;
use crate::protocol::reply::Place;
use crate::protocol::{ErrorCode, OkFields, RequestId, reply, valid_user};
use crate::shard::Shard;
use crate::shard::cluster::Admission;
use crate::shard::delivery::Manner;
use crate::shard::event::{Action, Handover};
use crate::shard::frames::Shared;
use crate::shard::opening::{after, contexts};
use crate::shard::outbox::Source;
use crate::shard::row::{NONE, Paused, Row, State};
use crate::time::Now;
use crate::ws::frame::close_frame;
use crate::ws::handshake::Refusal;
use crate::ws::message::Failure;

/// What an upgrade request said about who the user is.
pub(super) enum Identity {
    /// Mode none: the user as claimed, if it was.
    UserId(Option<String>),
    /// Mode jwt: a token.
    Token(String),
    /// Mode jwt: the first message will say.
    Later,
}

impl Shard {
    /// Goes on from the upgrade with what the request said.
    pub(super) fn identify(&mut self, slot: u32, identity: Identity, now: Now) {
        match identity {
            Identity::UserId(_) if self.asks_who_connects() => self.ask_who(slot, None, None, &[], now),
            Identity::UserId(Some(user)) if valid_user(&user) => {
                let claims =
                    Claims { user: user.into_boxed_str(), expires_unix_s: None, permissions: None, rooms: Vec::new() };
                self.authenticated(slot, claims, None, &mut [], now);
            }
            Identity::UserId(None) => self.close(slot, CloseReason::Unauthorized, "Missing user_id", now),
            Identity::UserId(Some(_)) => {
                let text = "user_id must be 1 to 128 bytes without control characters, and not \"events\"";
                self.close(slot, CloseReason::Unauthorized, text, now);
            }
            Identity::Token(token) => match self.verify(&token, now) {
                Ok(claims) => self.identified(slot, claims, None, &mut [], now),
                Err(error) => self.authentication_failed(slot, error, None, now),
            },
            Identity::Later => {
                let timeout = self.settings.config.auth.timeout_ms;
                let at = after(self.connections.ds(now), timeout);
                self.connections.set_deadline(slot, at);
            }
        }
    }

    fn verify(&self, token: &str, now: Now) -> Result<Claims, AuthError> {
        match &self.settings.verifier {
            Some(verifier) => verifier.verify(token, now.unix_s()),
            None => Err(AuthError::UnknownKey),
        }
    }

    /// An `auth` request: the first one, or one that refreshes a running session. `rest` is what came behind it.
    pub(super) fn auth_request(&mut self, slot: u32, token: &str, id: Option<RequestId>, rest: &mut [u8], now: Now) {
        let active = self.connections.row(slot).state == State::Active;
        if self.settings.config.auth.mode == AuthMode::None {
            let text = "auth.mode is \"none\": the user is the user_id of the request";
            return self.error(slot, id.as_ref(), ErrorCode::BadRequest, text, now);
        }
        match self.verify(token, now) {
            Ok(claims) if active => self.refresh(slot, claims, id, now),
            Ok(claims) => self.identified(slot, claims, id, rest, now),
            Err(error) if active => {
                self.error(slot, id.as_ref(), ErrorCode::Unauthorized, &error.to_string(), now);
            }
            Err(error) => self.authentication_failed(slot, error, id.as_ref(), now),
        }
    }

    fn authentication_failed(&mut self, slot: u32, error: AuthError, id: Option<&RequestId>, now: Now) {
        let text = error.to_string();
        self.say(slot, 96 + text.len(), |out| reply::auth_fail(out, &text), now);
        if let Some(id) = id {
            self.error(slot, Some(id), ErrorCode::Unauthorized, &text, now);
        }
        self.close(slot, CloseReason::Unauthorized, CloseReason::Unauthorized.text(), now);
    }

    /// A running session gets a new token.
    fn refresh(&mut self, slot: u32, claims: Claims, id: Option<RequestId>, now: Now) {
        let row = self.connections.row(slot);
        let user = self.users.get(row.user).name.clone();
        if *user != *claims.user {
            let text = "the token is another user's; this session stays as it was";
            return self.error(slot, id.as_ref(), ErrorCode::Unauthorized, text, now);
        }
        if self.asks_who_connects() {
            // Else a token could give back what the service has taken.
            return self.ask_who(slot, Some(claims), id, &[], now);
        }
        self.refreshed(slot, claims, id, now);
    }

    /// What a running session is and may do from now on.
    pub(super) fn refreshed(&mut self, slot: u32, claims: Claims, id: Option<RequestId>, now: Now) {
        let row = self.connections.row_mut(slot);
        row.expires_unix_s = claims.expires_unix_s.unwrap_or(0);
        row.permissions = claims.permissions.map(Rc::new);
        self.schedule(slot, now);
        let local = matches!(self.admission(&claims.user, &[], now), Admission::Now { local: true });
        self.welcome(slot, local, now);
        self.answer_ok(slot, id.as_ref(), &OkFields::default(), now);
        self.join_claimed(slot, &claims.rooms, now);
    }

    /// A token has said who the user is; perhaps a service has its say too.
    fn identified(&mut self, slot: u32, claims: Claims, id: Option<RequestId>, rest: &mut [u8], now: Now) {
        if self.asks_who_connects() {
            return self.ask_who(slot, Some(claims), id, rest, now);
        }
        self.authenticated(slot, claims, id, rest, now);
    }

    /// The user is known: a session here if this is the user's home, else the connection moves there.
    pub(super) fn authenticated(
        &mut self,
        slot: u32,
        claims: Claims,
        id: Option<RequestId>,
        rest: &mut [u8],
        now: Now,
    ) {
        self.connections.counters.authenticated += 1;
        let home = self.settings.homes.user(&claims.user);
        if home == self.id {
            return self.activate(slot, claims, id, now);
        }
        let now_ds = self.connections.ds(now);
        let row = self.connections.row_mut(slot);
        let contexts = row.extra.as_ref().and_then(|e| e.contexts.as_ref());
        let state = Box::new(Handover {
            peer: row.peer(),
            user_agent: row.user_agent.as_deref().map(Box::from),
            protocol_named: row.protocol_named,
            batch: row.batch,
            moved: row.moved,
            deflate: row.deflate,
            inflate_window: contexts.map(|c| c.inflater.window()).unwrap_or_default(),
            claims,
            auth_request_id: id,
            created_unix_ms: row.created_unix_ms,
            received_messages: row.received_messages,
            received_bytes: row.received_bytes,
            leftover: rest.to_vec(),
        });
        row.extra().moving = Some((home, state));
        self.connections.set_state(slot, State::Moving);
        self.connections.reweigh(slot);
        self.connections.pause(slot, Paused::MOVING);
        self.connections.set_deadline(slot, after(now_ds, CLOSE_TIMEOUT_MS));
        if self.connections.row(slot).outbox == NONE {
            self.hand_over(slot);
        }
    }

    /// Everything queued is sent: give the socket to the home shard.
    fn hand_over(&mut self, slot: u32) {
        let conn = self.connections.id(slot);
        let mut row = self.connections.remove(slot);
        if let Some((to, state)) = row.extra.as_mut().and_then(|e| e.moving.take()) {
            self.connections.counters.handed_over += 1;
            self.connections.actions.push_back(Action::HandOver { conn, to, state });
        }
        self.drain_progress();
    }

    /// A connection of a user at home here arrives from the shard that accepted it.
    pub(super) fn adopted(&mut self, conn: ConnectionId, state: Box<Handover>, now: Now) {
        let now_ds = self.connections.ds(now);
        let mut state = *state;
        let mut row = Row::open(conn.generation, State::Authenticating, state.peer, now_ds);
        row.user_agent = state.user_agent.as_deref().and_then(|text| self.intern_user_agent(text));
        row.protocol_named = state.protocol_named;
        row.batch = state.batch;
        row.moved = state.moved;
        row.deflate = state.deflate;
        row.created_unix_ms = state.created_unix_ms;
        row.received_messages = state.received_messages;
        row.received_bytes = state.received_bytes;
        let level = self.settings.config.deflate.level;
        if let Some(kept) = state.deflate.and_then(|params| contexts(&params, level, &state.inflate_window)) {
            row.extra().contexts = Some(kept);
        }
        self.connections.insert(conn, row);
        self.connections.counters.adopted += 1;
        self.activate(conn.slot, state.claims, state.auth_request_id, now);
        if !state.leftover.is_empty() && self.connections.find(conn).is_some() {
            self.bytes(conn.slot, &mut state.leftover, now);
        }
    }

    /// Begins the session.
    fn activate(&mut self, slot: u32, claims: Claims, id: Option<RequestId>, now: Now) {
        let user = self.users.add(&claims.user, slot);
        self.connections.traces.arrived(&claims.user, user);
        let now_ds = self.connections.ds(now);
        let row = self.connections.row_mut(slot);
        row.user = user;
        row.expires_unix_s = claims.expires_unix_s.unwrap_or(0);
        row.permissions = claims.permissions.map(Rc::new);
        row.last_receive_ds = now_ds;
        row.last_message_ds = now_ds;
        self.connections.set_state(slot, State::Active);
        self.schedule(slot, now);
        if row_expired(self.connections.row(slot), now) {
            return self.close(slot, CloseReason::TokenExpired, CloseReason::TokenExpired.text(), now);
        }
        if !self.connections.traces.is_empty() {
            self.connections.trace(slot, TracedWhat::Connect, &[], None, now);
        }
        self.bound_connections(user, now);
        self.tell_connect(slot, now);
        if self.users.get(user).connections.len() == 1 {
            self.user_came(&claims.user, now);
        }
        match self.admission(&claims.user, &claims.rooms, now) {
            Admission::Now { local } => self.begin(slot, id, &claims.rooms, local, now),
            Admission::Later => self.begin_later(slot, id, &claims.rooms, now),
        }
    }

    /// Tells the client that its session has begun; `local`: and that the cluster does not know of it.
    pub(super) fn begin(&mut self, slot: u32, id: Option<RequestId>, rooms: &[Box<str>], local: bool, now: Now) {
        self.welcome(slot, local, now);
        self.answer_ok(slot, id.as_ref(), &OkFields::default(), now);
        self.join_claimed(slot, rooms, now);
        self.drain_newcomer(slot, now);
        self.move_newcomer(slot, now);
    }

    /// `auth:ok`.
    fn welcome(&mut self, slot: u32, local: bool, now: Now) {
        let conn = self.connections.global_id(slot);
        let user = self.users.get(self.connections.row(slot).user).name.clone();
        let settings = self.settings.clone();
        let heartbeat_ms = settings.config.session.heartbeat_interval_ms;
        let session = conn.to_string();
        let capacity = 176 + user.len() + settings.node_id.len();
        self.say(
            slot,
            capacity,
            |out| reply::auth_ok(out, &user, conn, &settings.node_id, heartbeat_ms, &session, local),
            now,
        );
    }

    /// The oldest connections of a user with too many make room.
    fn bound_connections(&mut self, user: u32, now: Now) {
        let max = self.settings.config.session.max_per_user as usize;
        if max == 0 {
            return;
        }
        let connections = &self.users.get(user).connections;
        let oldest: Vec<u32> = connections[..connections.len().saturating_sub(max)].to_vec();
        for slot in oldest {
            self.close(slot, CloseReason::Replaced, CloseReason::Replaced.text(), now);
        }
    }

    /// The rooms that a token names.
    fn join_claimed(&mut self, slot: u32, rooms: &[Box<str>], now: Now) {
        for room in rooms {
            self.enter(slot, Topic::Room, room, None, None, now);
        }
    }

    /// Ends a session with a close frame, after what is queued has gone out.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason, text: &str, now: Now) {
        self.close_with(slot, reason, reason.code(), text, now);
    }

    /// As [`close`](Self::close), with a close code that is not the reason's own.
    pub(super) fn close_with(&mut self, slot: u32, reason: CloseReason, code: Option<u16>, text: &str, now: Now) {
        if self.connections.row(slot).state == State::Closing {
            return;
        }
        // It does not read: only the close frame may still get through.
        let at_once = matches!(reason, CloseReason::SlowConsumer | CloseReason::HeartbeatTimeout);
        self.leave_everything(slot, reason, now);
        let at = after(self.connections.ds(now), CLOSE_TIMEOUT_MS);
        self.connections.set_deadline(slot, at);
        if let Some(code) = code {
            self.connections.push_close(slot, close_frame(code, text), at_once, now);
        }
        if reason == CloseReason::SlowConsumer {
            // It holds too much: nothing of it is kept, and so its own close frame could not be told from other bytes.
            let row = self.connections.row_mut(slot);
            row.discard_input = true;
            row.fin_when_sent = true;
            row.extra = None;
            row.decoder = None;
            self.connections.reweigh(slot);
        }
        self.read_to_the_end(slot, now);
    }

    /// The peer broke the protocol, or an HTTP request was refused: say so, send FIN, and read on for a while so that the answer is
    /// not lost to a reset.
    pub(super) fn linger(&mut self, slot: u32, reason: CloseReason, now: Now) {
        self.leave_everything(slot, reason, now);
        let at = after(self.connections.ds(now), LINGER_TIMEOUT_MS);
        self.connections.set_deadline(slot, at);
        let row = self.connections.row_mut(slot);
        row.discard_input = true;
        row.fin_when_sent = true;
        row.extra = None;
        row.decoder = None;
        self.connections.reweigh(slot);
        self.read_to_the_end(slot, now);
    }

    /// Ends a connection whose peer broke RFC 6455 or a limit on messages.
    pub(super) fn fail(&mut self, slot: u32, failure: &Failure, now: Now) {
        if self.connections.row(slot).state == State::Closing {
            // It had its close frame already.
            self.connections.row_mut(slot).discard_input = true;
            return;
        }
        if let Some(code) = failure.reason.code() {
            self.connections.push_close(slot, close_frame(code, failure.detail), false, now);
        }
        self.linger(slot, failure.reason, now);
    }

    /// The peer sent a close frame: answer it (RFC 6455, section 5.5.1) and close when that is sent.
    pub(super) fn peer_closes(&mut self, slot: u32, code: Option<u16>, now: Now) {
        if self.connections.row(slot).state != State::Closing {
            self.leave_everything(slot, CloseReason::PeerClosed, now);
            let frame = match code {
                Some(code) => close_frame(code, ""),
                None => crate::ws::frame::server_frame(crate::ws::frame::Opcode::Close, &[]),
            };
            self.connections.push_close(slot, frame, false, now);
            let at = after(self.connections.ds(now), CLOSE_TIMEOUT_MS);
            self.connections.set_deadline(slot, at);
        }
        let row = self.connections.row_mut(slot);
        row.close_when_sent = true;
        row.discard_input = true;
        if row.outbox == NONE {
            self.forget(slot);
        }
    }

    /// The stream has ended without, or after, a close frame.
    pub(super) fn ended(&mut self, slot: u32, now: Now) {
        let row = self.connections.row_mut(slot);
        if row.state != State::Closing {
            self.leave_everything(slot, CloseReason::PeerGone, now);
        } else if row.outbox != NONE && !row.ended {
            // It may have ended only its half of the stream: what was to be said last is still sent, or fails and ends it again.
            row.ended = true;
            row.close_when_sent = true;
            row.discard_input = true;
            return;
        }
        self.forget(slot);
    }

    /// Ends a connection at once, whatever is still queued.
    pub(super) fn abandon(&mut self, slot: u32, reason: CloseReason, now: Now) {
        if self.connections.row(slot).state != State::Closing {
            self.leave_everything(slot, reason, now);
        }
        self.forget(slot);
    }

    pub(super) fn panicked(&mut self, slot: u32, now: Now) {
        self.connections.row_mut(slot).decoder = None;
        if self.connections.row(slot).state == State::Connecting {
            return self.refuse(slot, &Refusal::new(RefusalReason::Internal, "internal error"), now);
        }
        let failure = Failure { reason: CloseReason::Internal, detail: CloseReason::Internal.text() };
        self.fail(slot, &failure, now);
    }

    /// Takes a connection out of every index; from here on it only sends what is queued, and its reason is final.
    fn leave_everything(&mut self, slot: u32, reason: CloseReason, now: Now) {
        let row = self.connections.row_mut(slot);
        debug_assert_ne!(row.state, State::Closing, "a connection closes once");
        let user = row.user;
        row.reason = reason;
        tracing::debug!(
            reason = reason.name(),
            peer = %row.peer(),
            received_messages = row.received_messages,
            sent_messages = row.sent_messages,
            "connection closes"
        );
        self.connections.counters.closed(reason);
        if user != NONE {
            self.leave_all_topics(slot, now);
            self.tell_disconnect(slot, reason, now);
            if !self.connections.traces.is_empty() {
                self.connections.trace(slot, TracedWhat::Disconnect, &[], None, now);
            }
            let name = self.cluster.is_some().then(|| self.users.get(user).name.clone());
            if self.users.remove(user, slot) {
                self.connections.traces.left(user);
                if let Some(name) = name {
                    self.user_left(&name, now);
                }
            }
        }
        let row = self.connections.row_mut(slot);
        row.user = NONE;
        self.connections.set_state(slot, State::Closing);
    }

    /// What a closing peer still sends must be read, or its close frame would never be seen.
    fn read_to_the_end(&mut self, slot: u32, now: Now) {
        self.withdraw_question(slot);
        let all = [
            Paused::THROTTLED,
            Paused::CREDIT,
            Paused::MOVING,
            Paused::ADDRESS,
            Paused::PRESSURE,
            Paused::BUS,
            Paused::ASKING,
        ];
        for why in all {
            self.connections.resume(slot, why, now);
        }
        self.connections.mark_dirty(slot);
    }

    /// Gives the row and the socket back.
    pub(super) fn forget(&mut self, slot: u32) {
        let conn = self.connections.id(slot);
        self.connections.remove(slot);
        self.connections.actions.push_back(Action::Close { conn });
        self.drain_progress();
    }

    /// Everything queued for this connection has been sent.
    pub(super) fn flushed(&mut self, slot: u32) {
        let row = self.connections.row_mut(slot);
        match row.state {
            State::Moving => self.hand_over(slot),
            State::Closing if row.close_when_sent => self.forget(slot),
            State::Closing if row.fin_when_sent => {
                row.fin_when_sent = false;
                let conn = self.connections.id(slot);
                self.connections.actions.push_back(Action::ShutdownWrite { conn });
            }
            _ => {}
        }
    }

    /// A receiver has caught up: tell it what it missed.
    pub(super) fn tell_gaps(&mut self, slot: u32, now: Now) {
        for (source, dropped) in self.connections.take_gaps(slot) {
            let place = match source {
                Source::None => None,
                Source::Room(index) => Some(Place::Room(&self.topics.get(index).name)),
                Source::Channel(index) => Some(Place::Channel(&self.topics.get(index).name)),
            };
            let mut frame = Shared::text(256, |out| reply::gap(out, place, dropped));
            self.connections.push(slot, &mut frame, Manner::PLAIN, now);
            self.connections.counters.gaps_told += 1;
        }
    }

    /// Closes the connections whose outbox ran over while something was delivered.
    pub(super) fn close_overflowed(&mut self, now: Now) {
        while let Some(slot) = self.connections.overflowed.pop() {
            if matches!(self.connections.row(slot).state, State::Active | State::Echo | State::Authenticating) {
                self.close(slot, CloseReason::SlowConsumer, CloseReason::SlowConsumer.text(), now);
            }
        }
    }

    /// Says something of the gateway's own to one connection.
    pub(super) fn say(&mut self, slot: u32, capacity: usize, build: impl FnOnce(&mut Vec<u8>), now: Now) {
        self.connections.push(slot, &mut Shared::text(capacity, build), Manner::PLAIN, now);
    }

    /// Answers a request with an error; one without `id` as well.
    pub(super) fn error(&mut self, slot: u32, id: Option<&RequestId>, code: ErrorCode, text: &str, now: Now) {
        self.connections.counters.request_errors += 1;
        self.say(slot, 160 + text.len(), |out| reply::error(out, id, code, text), now);
    }

    /// Answers a request that gave an `id`.
    pub(super) fn answer_ok(&mut self, slot: u32, id: Option<&RequestId>, fields: &OkFields<'_>, now: Now) {
        if let Some(id) = id {
            self.say(slot, 256, |out| reply::ok(out, id, fields), now);
        }
    }
}

/// Whether the session's token has run out.
pub(super) fn row_expired(row: &Row, now: Now) -> bool {
    row.expires_unix_s != 0 && row.expires_unix_s <= now.unix_s()
}

//! What a service is asked before it happens (`[hooks]`): who a connecting client is, and what becomes of a message.
//!
//! A connection has at most one question open. While it has, nothing is received from it, and what it had sent already waits behind; so
//! what it sends is carried out in order, and nobody else waits. A question goes to the shard beside which services are asked, and its
//! verdict comes back the same way. The driver answers every question in time, with a failure if need be; should it not, the deadline
//! sweep does.

use crate::auth::Claims;
use crate::config::{ConnectFailure, MessageFailure};
use crate::error::CloseReason;
use crate::ids::{ConnectionId, ShardId};
use crate::limits::QUESTION_SLACK_MS;
use crate::protocol::command::{Destination, Publish};
use crate::protocol::envelope::{Envelope, Topic};
use crate::protocol::hook::{Connecting, Granted, Greeting, Question, Sending, Verdict};
use crate::protocol::reply::{self, OkFields};
use crate::protocol::request::{Publication, parse_changes};
use crate::protocol::{ErrorCode, RequestId};
use crate::settings::Addressee;
use crate::shard::Shard;
use crate::shard::connections::NEVER;
use crate::shard::opening::after;
use crate::shard::row::{Paused, State};
use crate::shard::telling::target;
use crate::time::Now;
use crate::ws::handshake::RequestHead;

/// The shard whose driver asks services.
pub const ASKED_AT: ShardId = ShardId(0);

const UNANSWERED: &str = "the service that decides did not answer; try again later";

/// A question that a connection waits for.
#[derive(Debug)]
pub(super) struct Asked {
    number: u32,
    /// Tenths of a second since the shard's start at which nobody will answer any more.
    overdue_ds: u32,
    about: About,
    /// The `id` that the client gave, where it gave one.
    id: Option<RequestId>,
}

#[derive(Debug)]
enum About {
    /// Who it is: as its token says, where it has one.
    Who(Option<Claims>),
    /// What it sends.
    Message(Box<Publish>),
}

impl Asked {
    pub(super) fn bytes(&self) -> usize {
        let about = match &self.about {
            About::Who(claims) => {
                claims.as_ref().map_or(0, |claims| claims.rooms.iter().map(|room| room.len() + 16).sum())
            }
            About::Message(publish) => {
                size_of::<Publish>() + publish.content.len() + publish.tags.as_ref().map_or(0, |(_, raw)| 2 * raw.len())
            }
        };
        size_of::<Self>() + about
    }
}

impl Shard {
    /// Whether a service decides who connects.
    pub(super) fn asks_who_connects(&self) -> bool {
        self.settings.config.hooks.connect_url.is_some()
    }

    /// What the service will be told of an upgrade request. The head is bounded, and so is this.
    pub(super) fn greeting(&self, head: &RequestHead<'_>) -> Option<Box<Greeting>> {
        let hooks = &self.settings.config.hooks;
        hooks.connect_url.as_ref()?;
        let headers = hooks.connect_headers.iter().filter_map(|name| {
            let values: Vec<_> = head.headers(name).map(String::from_utf8_lossy).collect();
            // Of several fields of one name, cookies have a separator of their own (RFC 9113, section 8.2.3).
            let separator = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
            let value = (!values.is_empty()).then(|| values.join(separator));
            Some((name.to_ascii_lowercase().into(), value?.into()))
        });
        Some(Box::new(Greeting { query: head.query.into(), headers: headers.collect() }))
    }

    /// Asks who a client is that connects, or what a session with a new token may do. `rest` is what came behind.
    pub(super) fn ask_who(&mut self, slot: u32, claims: Option<Claims>, id: Option<RequestId>, rest: &[u8], now: Now) {
        let row = self.connections.row_mut(slot);
        let greeting = row.extra.as_mut().and_then(|extra| extra.greeting.take());
        let row = self.connections.row(slot);
        let question = Question::connect(&Connecting {
            node: &self.settings.node_id,
            timestamp: now.unix_ms,
            refresh: row.state == State::Active,
            user: claims.as_ref().map(|claims| claims.user.as_ref()),
            address: row.peer(),
            user_agent: row.user_agent.as_deref(),
            greeting: greeting.as_deref(),
        });
        self.keep_behind(slot, rest);
        self.ask_service(slot, question, About::Who(claims), id, now);
    }

    /// Whether a service is asked about this message before it goes anywhere; then it has been.
    pub(super) fn asks_first(
        &mut self,
        slot: u32,
        to: Addressee<'_>,
        publication: &Publication<'_>,
        id: Option<&RequestId>,
        now: Now,
    ) -> bool {
        let hooks = &self.settings.config.hooks;
        if hooks.message_url.is_none() {
            return false;
        }
        let event = publication.event.as_deref();
        let asked = hooks.messages.iter().any(|asked| match to {
            Addressee::User(user) => asked.to_user(user, event),
            Addressee::Topic(topic, name) => asked.to_topic(topic, name, event),
            Addressee::All => asked.to_all(event),
        });
        if !asked {
            return false;
        }
        let user = &self.users.get(self.connections.row(slot).user).name;
        let question = Question::message(&Sending {
            node: &self.settings.node_id,
            timestamp: now.unix_ms,
            user,
            connection: self.connections.global_id(slot),
            id,
            to: target(to),
            publication,
        });
        let message = About::Message(Box::new(kept(to, publication)));
        self.ask_service(slot, question, message, id.cloned(), now);
        true
    }

    fn ask_service(&mut self, slot: u32, question: Question, about: About, id: Option<RequestId>, now: Now) {
        let number = self.next_question;
        self.next_question = number.wrapping_add(1);
        let patience_ms = self.settings.config.hooks.answer_timeout_ms + QUESTION_SLACK_MS;
        let overdue_ds = after(self.connections.ds(now), patience_ms);
        self.connections.row_mut(slot).extra().asked = Some(Box::new(Asked { number, overdue_ds, about, id }));
        match self.connections.row(slot).state {
            State::Active => self.connections.bring_forward(slot, overdue_ds),
            _ => self.connections.set_deadline(slot, overdue_ds),
        }
        self.connections.pause(slot, Paused::ASKING);
        self.connections.reweigh(slot);
        let conn = self.connections.id(slot);
        self.route(slot, ASKED_AT, Envelope::Question { conn, number, question: Box::new(question) }, now);
    }

    /// What a service says to a question of this shard's, or of another's.
    pub(super) fn verdict(&mut self, conn: ConnectionId, number: u32, verdict: Verdict, now: Now) {
        if conn.shard != self.id {
            if conn.shard.0 < self.settings.homes.shards() {
                self.relay.send(conn.shard, Envelope::Verdict { conn, number, verdict: Box::new(verdict) }, None);
            }
            return;
        }
        // It may have gone, or have been given up and ask something else by now.
        let Some(slot) = self.connections.find(conn) else { return };
        let asked = self.connections.row_mut(slot).extra.as_mut().and_then(|extra| extra.asked.as_mut());
        if asked.is_some_and(|asked| asked.number == number) {
            self.act_on_verdict(slot, verdict, now);
        }
    }

    /// Gives up a question that was to be answered long ago; whether there was one.
    pub(super) fn expire_question(&mut self, slot: u32, now: Now) -> bool {
        let now_ds = self.connections.ds(now);
        let asked = self.connections.row(slot).extra.as_ref().and_then(|extra| extra.asked.as_ref());
        let overdue = asked.is_some_and(|asked| asked.overdue_ds <= now_ds);
        if overdue {
            self.act_on_verdict(slot, Verdict::Failed, now);
            if self.connections.row(slot).state == State::Active {
                self.schedule(slot, now);
            }
        }
        overdue
    }

    /// Nobody wants to know any more.
    pub(super) fn withdraw_question(&mut self, slot: u32) {
        let row = self.connections.row_mut(slot);
        if let Some(extra) = &mut row.extra {
            extra.asked = None;
            extra.greeting = None;
            row.tidy();
            self.connections.reweigh(slot);
        }
    }

    /// Acts upon a verdict, then goes on with what came behind.
    fn act_on_verdict(&mut self, slot: u32, verdict: Verdict, now: Now) {
        let conn = self.connections.id(slot);
        let extra = self.connections.row_mut(slot).extra.as_mut();
        let Some(asked) = extra.and_then(|extra| extra.asked.take()) else { return };
        let mut behind = self.take_behind(slot);
        self.connections.resume(slot, Paused::ASKING, now);
        let Asked { about, id, .. } = *asked;
        match about {
            About::Who(claims) => self.decided_who(slot, claims, id, verdict, &mut behind, now),
            About::Message(publish) => self.decided_message(slot, &publish, id, verdict, now),
        }
        self.go_on_behind(conn, behind, now);
    }

    fn decided_who(
        &mut self,
        slot: u32,
        claims: Option<Claims>,
        id: Option<RequestId>,
        verdict: Verdict,
        behind: &mut [u8],
        now: Now,
    ) {
        let refresh = self.connections.row(slot).state == State::Active;
        let allow = self.settings.config.hooks.connect_failure == ConnectFailure::Allow;
        let claims = match verdict {
            Verdict::TurnAway { code, reason } => return self.turn_away(slot, code, &reason, id.as_ref(), now),
            Verdict::Admit(granted) => match over(*granted, claims) {
                Some(claims) => Some(claims),
                None => {
                    tracing::warn!("the service that decides who connects names no user, and neither does a token");
                    None
                }
            },
            _ => claims.filter(|_| allow),
        };
        match claims {
            Some(claims) if !refresh => {
                self.connections.set_deadline(slot, NEVER);
                self.authenticated(slot, claims, id, behind, now);
            }
            Some(claims) if *claims.user == *self.users.get(self.connections.row(slot).user).name => {
                self.refreshed(slot, claims, id, now);
            }
            Some(_) => {
                let text = "the service says that this is another user; this session stays as it was";
                self.error(slot, id.as_ref(), ErrorCode::Unauthorized, text, now);
            }
            None if refresh => self.error(slot, id.as_ref(), ErrorCode::Unavailable, UNANSWERED, now),
            None => {
                if id.is_some() {
                    self.error(slot, id.as_ref(), ErrorCode::Unavailable, UNANSWERED, now);
                }
                self.close(slot, CloseReason::TryAgainLater, UNANSWERED, now);
            }
        }
    }

    /// The service does not want this client.
    fn turn_away(&mut self, slot: u32, code: u16, reason: &str, id: Option<&RequestId>, now: Now) {
        self.say(slot, 96 + reason.len(), |out| reply::auth_fail(out, reason), now);
        if id.is_some() {
            self.error(slot, id, ErrorCode::Unauthorized, reason, now);
        }
        self.close_with(slot, CloseReason::Unauthorized, Some(code), reason, now);
    }

    fn decided_message(&mut self, slot: u32, publish: &Publish, id: Option<RequestId>, verdict: Verdict, now: Now) {
        let asked = publish.publication();
        let passes = self.settings.config.hooks.message_failure == MessageFailure::Pass;
        let changed = match &verdict {
            Verdict::Pass(Some(changes)) => parse_changes(changes, &asked).ok(),
            Verdict::Pass(None) => Some(asked),
            Verdict::Answer(content) => {
                let fields = OkFields { content: Some(content), ..OkFields::default() };
                return self.answer_ok(slot, id.as_ref(), &fields, now);
            }
            Verdict::Refuse { code, message } => return self.error(slot, id.as_ref(), *code, message, now),
            Verdict::Admit(_) | Verdict::TurnAway { .. } | Verdict::Failed => Some(asked).filter(|_| passes),
        };
        match changed {
            Some(publication) => self.send_on(slot, &publish.to, publication, id, now),
            None => self.error(slot, id.as_ref(), ErrorCode::Unavailable, UNANSWERED, now),
        }
    }

    /// Sends what may be sent now.
    fn send_on(&mut self, slot: u32, to: &Destination, publication: Publication<'_>, id: Option<RequestId>, now: Now) {
        match to {
            Destination::Users(users) => {
                for user in users {
                    self.send_message(slot, user, publication.clone(), id.clone(), now);
                }
            }
            // The server API may have taken it out of the room meanwhile.
            Destination::Topic(Topic::Room, room) if self.membership(slot, Topic::Room, room).is_none() => {
                self.error(slot, id.as_ref(), ErrorCode::NotMember, "join the room first", now);
            }
            Destination::Topic(topic, name) => self.publish(slot, *topic, name, publication, id, now),
            Destination::All => self.broadcast(slot, publication, id, now),
        }
    }

    /// Whether this connection waits for a verdict.
    #[inline]
    pub(super) fn is_asking(&self, slot: u32) -> bool {
        self.connections.row(slot).paused.contains(Paused::ASKING)
    }
}

/// What a service grants, and where it says nothing, what a token says. A session ends no later than its token does. `None`: nobody says
/// who it is.
fn over(granted: Granted, claims: Option<Claims>) -> Option<Claims> {
    let Granted { user, rooms, permissions, expires_unix_s } = granted;
    let (of_token, claimed) = match claims {
        Some(claims) => (claims.expires_unix_s, Some((claims.user, claims.rooms, claims.permissions))),
        None => (None, None),
    };
    let (claimed_user, claimed_rooms, claimed_permissions) = match claimed {
        Some((user, rooms, permissions)) => (Some(user), rooms, permissions),
        None => (None, Vec::new(), None),
    };
    Some(Claims {
        user: user.or(claimed_user)?,
        expires_unix_s: expires_unix_s.into_iter().chain(of_token).min(),
        permissions: permissions.or(claimed_permissions),
        rooms: rooms.unwrap_or(claimed_rooms),
    })
}

/// A message to be kept until it may go on.
fn kept(to: Addressee<'_>, publication: &Publication<'_>) -> Publish {
    let to = match to {
        Addressee::User(user) => Destination::Users(vec![user.into()]),
        Addressee::Topic(topic, name) => Destination::Topic(topic, name.into()),
        Addressee::All => Destination::All,
    };
    Publish {
        to,
        content: publication.content.into(),
        from: None,
        event: publication.event.as_deref().map(Into::into),
        class: publication.class,
        key: publication.key.as_deref().map(Into::into),
        tags: publication.tags.clone().zip(publication.tags_raw.map(Into::into)),
        idempotency_key: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims { user: "ann".into(), expires_unix_s: Some(100), permissions: None, rooms: vec!["r".into()] }
    }

    #[test]
    fn what_a_service_grants_goes_over_what_a_token_says() {
        assert!(over(Granted::default(), None).is_none());
        let as_claimed = over(Granted::default(), Some(claims())).unwrap();
        assert_eq!((&*as_claimed.user, as_claimed.expires_unix_s, as_claimed.rooms.len()), ("ann", Some(100), 1));
        let granted = Granted {
            user: Some("ben".into()),
            rooms: Some(Vec::new()),
            expires_unix_s: Some(50),
            ..Granted::default()
        };
        let granted_over = over(granted.clone(), Some(claims())).unwrap();
        assert_eq!((&*granted_over.user, granted_over.expires_unix_s, granted_over.rooms.len()), ("ben", Some(50), 0));
        let later = Granted { expires_unix_s: Some(500), ..granted };
        assert_eq!(over(later.clone(), Some(claims())).unwrap().expires_unix_s, Some(100), "no longer than its token");
        assert_eq!(over(later, None).unwrap().expires_unix_s, Some(500));
    }
}

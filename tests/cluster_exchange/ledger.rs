//! What was sent, where it arrived, and what was said of it.

use std::collections::{BTreeMap, BTreeSet};

use ringgate::cluster::exchange::Outcome;
use ringgate::protocol::reply::Status;

#[derive(Default)]
pub struct Ledger {
    messages: BTreeMap<u64, Message>,
    sessions: u64,
    /// The last message of an exchange that each session was offered.
    last: BTreeMap<(u64, u64), u64>,
    crashed: BTreeSet<u64>,
    /// What was seen, so that a run which proves nothing is noticed.
    pub seen: Seen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub messages: u64,
    pub remote: u64,
    pub delivered: u64,
    pub dropped: u64,
    pub offline: u64,
    pub unavailable: u64,
}

struct Message {
    exchange: u64,
    user: String,
    sent_ms: u64,
    wants_answer: bool,
    outcome: Option<Outcome>,
    /// Sessions, and whether their outboxes took it.
    offered: Vec<(u64, bool)>,
}

impl Ledger {
    pub fn session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    pub fn sent(&mut self, exchange: u64, user: &str, wants_answer: bool, sent_ms: u64) -> u64 {
        let id = self.messages.len() as u64 + 1;
        self.seen.messages += 1;
        let user = user.to_owned();
        self.messages.insert(id, Message { exchange, user, sent_ms, wants_answer, outcome: None, offered: Vec::new() });
        id
    }

    pub fn offered(&mut self, id: u64, session: u64, user: &str, accepted: bool, remote: bool) {
        let message = self.messages.get_mut(&id).expect("it was sent");
        assert_eq!(message.user, user, "message {id} is for another user");
        assert!(message.offered.iter().all(|(other, _)| *other != session), "message {id} comes twice to {session}");
        message.offered.push((session, accepted));
        self.seen.remote += u64::from(remote);
        let last = self.last.entry((session, message.exchange)).or_default();
        assert!(*last < id, "message {id} comes to session {session} of {user} after {last}");
        *last = id;
        if let Some(outcome @ Outcome::Known(Status::Offline | Status::Dropped)) = message.outcome {
            assert!(!accepted, "message {id} was {outcome:?}, and arrives");
            assert_ne!(outcome, Outcome::Known(Status::Offline), "message {id} was offline, and is offered");
        }
    }

    pub fn user_of(&self, id: u64) -> &str {
        &self.messages[&id].user
    }

    pub fn settled(&mut self, id: u64, outcome: Outcome, sure_since_ms: Option<u64>, now_ms: u64) {
        let message = self.messages.get_mut(&id).expect("it was sent");
        assert!(message.wants_answer, "nobody asked after {id}");
        assert_eq!(message.outcome, None, "message {id} is answered twice");
        message.outcome = Some(outcome);
        let accepted = message.offered.iter().any(|(_, accepted)| *accepted);
        match outcome {
            Outcome::Known(Status::Delivered) => {
                assert!(accepted, "message {id} is delivered to nobody");
                self.seen.delivered += 1;
            }
            Outcome::Known(Status::Dropped) => {
                assert!(!accepted && !message.offered.is_empty(), "message {id} dropped: {:?}", message.offered);
                self.seen.dropped += 1;
            }
            Outcome::Known(Status::Offline) => {
                assert!(message.offered.is_empty(), "message {id} offline: {:?}", message.offered);
                let sure = sure_since_ms.is_some_and(|since_ms| since_ms < message.sent_ms);
                assert!(!sure, "message {id} of {} offline at {now_ms}: {sure_since_ms:?}", message.sent_ms);
                self.seen.offline += 1;
            }
            Outcome::Known(Status::Stored) => panic!("nothing is stored"),
            Outcome::Unavailable(_) => self.seen.unavailable += 1,
        }
    }

    /// Who waited for an answer of this one waits in vain.
    pub fn crashed(&mut self, exchange: u64) {
        self.crashed.insert(exchange);
    }

    pub fn unsettled(&self) -> Vec<u64> {
        let open = self.messages.iter().filter(|(_, message)| {
            message.wants_answer && message.outcome.is_none() && !self.crashed.contains(&message.exchange)
        });
        open.map(|(id, _)| *id).collect()
    }

    pub fn outcome(&self, id: u64) -> Option<Outcome> {
        self.messages[&id].outcome
    }

    /// The sessions that were offered a message.
    pub fn offered_to(&self, id: u64) -> Vec<u64> {
        let mut sessions: Vec<u64> = self.messages[&id].offered.iter().map(|(session, _)| *session).collect();
        sessions.sort_unstable();
        sessions
    }

    pub fn is_accepted(&self, id: u64) -> bool {
        self.messages[&id].offered.iter().any(|(_, accepted)| *accepted)
    }
}

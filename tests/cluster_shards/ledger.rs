//! What was sent, where it arrived, and what was said of it.

use std::collections::{BTreeMap, BTreeSet};

/// Names a session among all that there have ever been.
pub type SessionId = u64;

/// What was seen, so that a run which proves nothing is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub messages: u64,
    pub arrivals: u64,
    pub elsewhere: u64,
    pub delivered: u64,
    pub offline: u64,
    pub unavailable: u64,
    pub in_rooms: u64,
    pub crashes: u64,
}

impl Seen {
    pub fn add(&mut self, more: Seen) {
        self.messages += more.messages;
        self.arrivals += more.arrivals;
        self.elsewhere += more.elsewhere;
        self.delivered += more.delivered;
        self.offline += more.offline;
        self.unavailable += more.unavailable;
        self.in_rooms += more.in_rooms;
        self.crashes += more.crashes;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Delivered,
    Offline,
    Unavailable,
    /// To a room.
    Sent,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    User(String),
    Room(String),
}

struct Message {
    sender: SessionId,
    to: To,
    sent_ms: u64,
    wants_answer: bool,
    answer: Option<Answer>,
    arrived_at: BTreeSet<SessionId>,
}

struct Session {
    user: String,
    node: usize,
    ended_ms: Option<u64>,
    /// Since when other nodes cannot but find it.
    sure_since_ms: Option<u64>,
}

#[derive(Default)]
pub struct Ledger {
    messages: Vec<Message>,
    sessions: Vec<Session>,
    /// The last message of a sender to the same target that each session got.
    last: BTreeMap<(SessionId, SessionId, To), u64>,
    pub seen: Seen,
}

impl Ledger {
    pub fn session(&mut self, user: &str, node: usize) -> SessionId {
        self.sessions.push(Session { user: user.to_owned(), node, ended_ms: None, sure_since_ms: None });
        self.sessions.len() as u64 - 1
    }

    /// The session has begun, and the cluster knows.
    pub fn registered(&mut self, session: SessionId, now_ms: u64) {
        self.sessions[session as usize].sure_since_ms = Some(now_ms);
    }

    /// It may not be found any more.
    pub fn unsure(&mut self, session: SessionId) {
        self.sessions[session as usize].sure_since_ms = None;
    }

    pub fn ended(&mut self, session: SessionId, now_ms: u64) {
        let session = &mut self.sessions[session as usize];
        (session.ended_ms, session.sure_since_ms) = (Some(now_ms), None);
    }

    /// A message is sent; its number is its content.
    pub fn sent(&mut self, sender: SessionId, to: To, wants_answer: bool, now_ms: u64) -> u64 {
        self.seen.messages += 1;
        self.seen.in_rooms += u64::from(matches!(to, To::Room(_)));
        let (answer, arrived_at) = (None, BTreeSet::new());
        self.messages.push(Message { sender, to, sent_ms: now_ms, wants_answer, answer, arrived_at });
        self.messages.len() as u64 - 1
    }

    pub fn arrived(&mut self, number: u64, at: SessionId) {
        let message = &mut self.messages[number as usize];
        let (sender, session) = (message.sender, &self.sessions[at as usize]);
        match &message.to {
            To::User(user) => assert_eq!(*user, session.user, "message {number} comes to somebody else"),
            To::Room(_) => assert_ne!(sender, at, "message {number} comes back to its sender"),
        }
        assert!(message.arrived_at.insert(at), "message {number} comes twice to {at}");
        let last = self.last.insert((at, sender, message.to.clone()), number);
        assert!(last.is_none_or(|last| last < number), "message {number} comes to {at} after {last:?}");
        assert_ne!(message.answer, Some(Answer::Offline), "message {number} was offline, and arrives at {at}");
        self.seen.arrivals += 1;
        self.seen.elsewhere += u64::from(self.sessions[sender as usize].node != session.node);
    }

    pub fn answered(&mut self, number: u64, answer: Answer, now_ms: u64) {
        let message = &mut self.messages[number as usize];
        assert!(message.wants_answer || answer == Answer::Unavailable, "nobody asked after {number}");
        assert_eq!(message.answer, None, "message {number} is answered twice");
        message.answer = Some(answer);
        match (&message.to, answer) {
            (To::User(_), Answer::Delivered) => self.seen.delivered += 1,
            (To::User(user), Answer::Offline) => {
                assert!(message.arrived_at.is_empty(), "message {number} is offline: {:?}", message.arrived_at);
                let sure = |session: &Session| {
                    session.user == *user && session.sure_since_ms.is_some_and(|since_ms| since_ms < message.sent_ms)
                };
                let found = self.sessions.iter().position(sure);
                assert_eq!(found, None, "message {number} to {user} of {} is offline at {now_ms}", message.sent_ms);
                self.seen.offline += 1;
            }
            (_, Answer::Unavailable) => self.seen.unavailable += 1,
            (To::Room(_), Answer::Sent) => {}
            (to, answer) => panic!("message {number} to {to:?} is answered {answer:?}"),
        }
    }

    pub fn answer(&self, number: u64) -> Option<Answer> {
        self.messages[number as usize].answer
    }

    pub fn arrived_at(&self, number: u64) -> &BTreeSet<SessionId> {
        &self.messages[number as usize].arrived_at
    }

    /// Everything that must be true of all messages once nothing is on its way any more.
    pub fn close(&self) {
        for (number, message) in self.messages.iter().enumerate() {
            let waits = message.wants_answer && self.sessions[message.sender as usize].ended_ms.is_none();
            assert!(!waits || message.answer.is_some(), "message {number} is never answered");
            if let (To::User(user), Some(Answer::Delivered)) = (&message.to, message.answer) {
                // What is in the outbox of somebody who goes, or of a node that dies, need not arrive.
                let gone = |session: &Session| session.user == *user && session.ended_ms >= Some(message.sent_ms);
                let excused = self.sessions.iter().any(gone);
                assert!(excused || !message.arrived_at.is_empty(), "message {number} was delivered to nobody");
            }
        }
    }
}

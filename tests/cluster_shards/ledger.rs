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
    /// Where it has to arrive, whatever was answered.
    owed_to: Vec<SessionId>,
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
    /// Nothing is wrong now: what is sent arrives at everybody who has been there for a while.
    pub calm: bool,
}

/// How long it takes everywhere to hear that somebody has come, when nothing is wrong.
const KNOWN_AFTER_MS: u64 = 400;

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
        let (answer, owed_to, arrived_at) = (None, self.owed_to(&to, now_ms), BTreeSet::new());
        self.messages.push(Message { sender, to, sent_ms: now_ms, wants_answer, answer, owed_to, arrived_at });
        self.messages.len() as u64 - 1
    }

    fn owed_to(&self, to: &To, now_ms: u64) -> Vec<SessionId> {
        let To::User(user) = to else { return Vec::new() };
        let known =
            |session: &Session| session.sure_since_ms.is_some_and(|since_ms| since_ms + KNOWN_AFTER_MS < now_ms);
        let there =
            self.sessions.iter().zip(0..).filter(|(session, _)| self.calm && session.user == *user && known(session));
        there.map(|(_, id)| id).collect()
    }

    /// A row of this user was taken back by the process that has written it.
    pub fn taken_back(&self, session: SessionId) {
        let Session { user, sure_since_ms, .. } = &self.sessions[session as usize];
        assert_eq!(*sure_since_ms, None, "{user} is still there ({session}), and is deleted from the registry");
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
            let stayed = |id: &&SessionId| self.sessions[**id as usize].ended_ms.is_none();
            let missed: Vec<_> =
                message.owed_to.iter().filter(stayed).filter(|id| !message.arrived_at.contains(id)).collect();
            assert!(missed.is_empty(), "message {number} of {} never arrives at {missed:?}", message.sent_ms);
            if let (To::User(user), Some(Answer::Delivered)) = (&message.to, message.answer) {
                // What is in the outbox of somebody who goes, or of a node that dies, need not arrive.
                let gone = |session: &Session| session.user == *user && session.ended_ms >= Some(message.sent_ms);
                let excused = self.sessions.iter().any(gone);
                assert!(excused || !message.arrived_at.is_empty(), "message {number} was delivered to nobody");
            }
        }
    }
}

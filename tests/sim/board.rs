//! What has been said so far, as the senders know it: the naive model that everything heard is held against.

use fastrand::Rng;
use serde_json::{Value, json};

/// A room or a channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Room(String),
    Channel(String),
}

impl Place {
    pub fn of(message: &Value) -> Option<Self> {
        match (message["roomId"].as_str(), message["channel"].as_str()) {
            (Some(room), None) => Some(Place::Room(room.to_owned())),
            (None, Some(channel)) => Some(Place::Channel(channel.to_owned())),
            (None, None) => None,
            (Some(_), Some(_)) => panic!("a message is of a room or of a channel: {message}"),
        }
    }

    pub fn field(&self) -> (&'static str, &str) {
        match self {
            Place::Room(name) => ("roomId", name),
            Place::Channel(name) => ("channel", name),
        }
    }
}

/// For whom something is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    User(String),
    Place(Place),
    All,
}

/// What is known about what became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its sender has not heard.
    Unknown,
    /// It was answered by `ok`.
    Accepted,
    /// It was answered by an error: nobody may ever hear it.
    Refused,
}

/// The sender of what comes over the server API.
pub const SERVICE: usize = usize::MAX;

/// Something that was sent.
#[derive(Debug)]
pub struct Publication {
    /// The number of an actor, or [`SERVICE`].
    pub sender: usize,
    pub from: Option<String>,
    pub target: Target,
    pub class: &'static str,
    /// What it is the latest of, for class `latest`.
    pub key: Option<String>,
    pub event: Option<&'static str>,
    pub tags: Tags,
    pub pad: usize,
    /// The turn in which its sender began to write it.
    pub at: u64,
    pub fate: Fate,
    pub status: Option<String>,
    pub message_id: Option<String>,
    /// How many connections were said to get it, or to have been given up: of a service's message.
    pub reported: Option<u32>,
}

impl Publication {
    /// Receivers and sender are told the same id.
    pub fn note_id(&mut self, id: &str) {
        assert_eq!(self.message_id.get_or_insert_with(|| id.to_owned()), id);
    }

    pub fn content(&self, number: usize) -> Value {
        json!({"k": number, "pad": "x".repeat(self.pad)})
    }

    pub fn conflation(&self) -> Option<(&Target, &str)> {
        self.key.as_deref().map(|key| (&self.target, key))
    }
}

/// All that was sent, in the order of sending.
#[derive(Debug, Default)]
pub struct Board {
    pub publications: Vec<Publication>,
    /// Of whom it was said, since everything was last at rest, that they came to a room or left it.
    pub notices: Vec<(String, Place)>,
    pub turn: u64,
}

/// The tags of a publication.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tags {
    pub n: Option<i64>,
    pub s: Option<&'static str>,
}

impl Tags {
    pub fn random(rng: &mut Rng) -> Self {
        let s = ["", "red", "green", "greenish"];
        Tags { n: rng.bool().then(|| rng.i64(0..5)), s: rng.bool().then(|| s[rng.usize(..s.len())]) }
    }

    pub fn json(&self) -> Option<Value> {
        match (self.n, self.s) {
            (None, None) => None,
            (Some(n), None) => Some(json!({"n": n})),
            (None, Some(s)) => Some(json!({"s": s})),
            (Some(n), Some(s)) => Some(json!({"n": n, "s": s})),
        }
    }
}

/// What a subscriber wants to hear.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    AtLeast(i64),
    Is(&'static str),
    IsNot(&'static str),
    OneOf(Vec<i64>),
    Has(&'static str),
    Begins(&'static str),
    Not(Box<Filter>),
    Both(Box<Filter>, Box<Filter>),
    Either(Box<Filter>, Box<Filter>),
}

impl Filter {
    pub fn random(rng: &mut Rng, depth: usize) -> Self {
        let below = |rng: &mut Rng| Box::new(Filter::random(rng, depth + 1));
        match rng.u8(..if depth < 3 { 9 } else { 6 }) {
            0 => Filter::AtLeast(rng.i64(0..5)),
            1 => Filter::Is("green"),
            2 => Filter::IsNot("red"),
            3 => Filter::OneOf((0..rng.usize(1..4)).map(|_| rng.i64(0..5)).collect()),
            4 => Filter::Has(if rng.bool() { "n" } else { "s" }),
            5 => Filter::Begins("green"),
            6 => Filter::Not(below(rng)),
            7 => Filter::Both(below(rng), below(rng)),
            _ => Filter::Either(below(rng), below(rng)),
        }
    }

    pub fn json(&self) -> Value {
        match self {
            Filter::AtLeast(n) => json!({"op": "gte", "key": "n", "val": n}),
            Filter::Is(s) => json!({"op": "eq", "key": "s", "val": s}),
            Filter::IsNot(s) => json!({"op": "neq", "key": "s", "val": s}),
            Filter::OneOf(ns) => json!({"op": "in", "key": "n", "vals": ns}),
            Filter::Has(key) => json!({"op": "exists", "key": key}),
            Filter::Begins(s) => json!({"op": "prefix", "key": "s", "val": s}),
            Filter::Not(a) => json!({"op": "not", "nodes": [a.json()]}),
            Filter::Both(a, b) => json!({"op": "and", "nodes": [a.json(), b.json()]}),
            Filter::Either(a, b) => json!({"op": "or", "nodes": [a.json(), b.json()]}),
        }
    }

    pub fn matches(&self, tags: &Tags) -> bool {
        match self {
            Filter::AtLeast(n) => tags.n.is_some_and(|tag| tag >= *n),
            Filter::Is(s) => tags.s == Some(s),
            Filter::IsNot(s) => tags.s != Some(s),
            Filter::OneOf(ns) => tags.n.is_some_and(|tag| ns.contains(&tag)),
            Filter::Has("n") => tags.n.is_some(),
            Filter::Has(_) => tags.s.is_some(),
            Filter::Begins(s) => tags.s.is_some_and(|tag| tag.starts_with(s)),
            Filter::Not(a) => !a.matches(tags),
            Filter::Both(a, b) => a.matches(tags) && b.matches(tags),
            Filter::Either(a, b) => a.matches(tags) || b.matches(tags),
        }
    }
}

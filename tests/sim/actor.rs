//! A client with a memory: what it has asked for, what it therefore must hear, and what it must not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::board::{Board, Fate, Filter, Place, Publication, Target};
use crate::client::{Client, Heard, Phase};

/// What a request must be answered with, and what follows from that.
#[derive(Clone, Debug)]
pub struct Pending {
    pub expect: Expect,
    pub about: About,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    Ok,
    Pong,
    Error(&'static str),
}

#[derive(Clone, Debug)]
pub enum About {
    Nothing,
    /// A request to enter or to leave.
    Place(Place),
    Publication(usize),
    /// The users and connections that must be named, where nobody comes or goes meanwhile.
    Presence(Place, Option<BTreeMap<String, u64>>),
}

/// What an actor knows of its being in a place.
#[derive(Debug, Default)]
pub struct Stay {
    /// As of the last request: it wants to be in.
    pub asked_in: bool,
    /// Requests to enter or leave that are not answered.
    pub unanswered: usize,
    /// The turn since which it is in for sure, with the filter it has now.
    pub since: Option<u64>,
    /// The filter it has now, and those it may have had before.
    pub filters: Vec<Option<Filter>>,
    /// The turn since which a service has it out for sure.
    pub gone_since: Option<u64>,
}

pub struct Actor {
    pub number: usize,
    pub user: String,
    pub client: Client,
    /// It seldom reads.
    pub slow: bool,
    /// The turn since which its session is known to be there.
    pub since: Option<u64>,
    /// The id of its connection.
    pub connection: Option<String>,
    pub stays: BTreeMap<Place, Stay>,
    /// By the JSON text of the id.
    pub pending: BTreeMap<String, Pending>,
    pub next_id: i64,
    pub received: BTreeSet<usize>,
    /// Messages lost that it was told of.
    pub gaps: u64,
    /// Droppable messages found missing so far.
    pub missed: u64,
    /// `None`: the defaults.
    pub permissions: Option<Vec<&'static str>>,
    /// Close codes it may get.
    pub excuses: BTreeSet<u16>,
    /// It ended the connection itself.
    pub left: bool,
    pub closed_with: Option<u16>,
    pub told_to_reconnect: bool,
    /// Errors without an id that must still come.
    pub errors_due: Vec<&'static str>,
    message_ids: BTreeSet<String>,
    last: BTreeMap<(usize, Target, &'static str, Option<String>), usize>,
}

impl Actor {
    pub fn new(number: usize, user: String, client: Client) -> Self {
        Actor {
            number,
            user,
            client,
            slow: false,
            since: None,
            connection: None,
            stays: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_id: 0,
            received: BTreeSet::new(),
            gaps: 0,
            missed: 0,
            permissions: None,
            excuses: BTreeSet::new(),
            left: false,
            closed_with: None,
            told_to_reconnect: false,
            errors_due: Vec::new(),
            message_ids: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    /// It has a session and has done nothing to end it.
    pub fn is_in_session(&self) -> bool {
        self.client.phase == Phase::Open && self.since.is_some() && !self.left
    }

    /// Rooms and channels it is in, as of its last request.
    pub fn subscriptions(&self) -> usize {
        self.stays.values().filter(|stay| stay.asked_in).count()
    }

    pub fn is_in(&self, place: &Place) -> bool {
        self.stays.get(place).is_some_and(|stay| stay.asked_in)
    }

    /// Whether this actor must hear a publication, if it was carried out.
    pub fn must_hear(&self, publication: &Publication) -> bool {
        let before = |since: Option<u64>| since.is_some_and(|since| since < publication.at);
        before(self.since)
            && match &publication.target {
                Target::All => true,
                Target::User(user) => *user == self.user,
                Target::Place(place) => self.stays.get(place).is_some_and(|stay| {
                    let own = matches!(place, Place::Room(_)) && publication.sender == self.number;
                    let filter = stay.filters.last().and_then(Option::as_ref);
                    before(stay.since) && !own && filter.is_none_or(|filter| filter.matches(&publication.tags))
                }),
            }
    }

    pub fn hear(&mut self, heard: Heard, board: &mut Board) {
        match heard {
            Heard::Response(response) => {
                let excused = self.excuses.contains(&response.status);
                assert!(response.status == 101 || excused, "actor {}: {response:?}", self.number);
            }
            Heard::Message(message) => self.hear_message(&message, board),
            Heard::Ping | Heard::Pong(_) => {}
            Heard::Data(opcode, _) => panic!("data with opcode {opcode}"),
            Heard::Close(code, reason) => {
                let excused = self.left || code.is_some_and(|code| self.excuses.contains(&code));
                assert!(excused, "actor {}: closed with {code:?} {reason:?}", self.number);
                self.closed_with = code;
            }
            Heard::End => {
                let excused = self.left || self.closed_with.is_some() || !self.excuses.is_empty();
                assert!(excused, "actor {}: the connection ended without a reason", self.number);
            }
        }
    }

    fn hear_message(&mut self, message: &Value, board: &mut Board) {
        match message["type"].as_str() {
            Some("auth:ok") => {
                assert_eq!(message["userId"], self.user.as_str());
                self.since.get_or_insert(board.turn);
                self.connection = message["connectionId"].as_str().map(str::to_owned);
            }
            Some("auth:fail") => assert!(self.excuses.contains(&4001), "actor {}: {message}", self.number),
            Some("ok" | "pong" | "error" | "presence") => self.answer(message, board),
            Some("message" | "broadcast") => self.publication(message, board),
            Some(kind @ ("user:joined" | "user:left")) => {
                let place = Place::of(message).unwrap_or_else(|| panic!("{kind} without a room"));
                self.assert_may_be_in(&place, message);
                let user = message["userId"].as_str().expect("a user");
                assert_ne!(user, self.user, "nobody is told of themselves");
                board.notices.push((user.to_owned(), place));
            }
            Some("gap") => self.gaps += message["dropped"].as_u64().expect("a number"),
            Some("reconnect") => {
                assert!(self.excuses.contains(&4201), "actor {}: {message}", self.number);
                assert!(!self.told_to_reconnect, "told twice");
                self.told_to_reconnect = true;
            }
            _ => panic!("unknown message {message}"),
        }
    }

    fn answer(&mut self, message: &Value, board: &mut Board) {
        match &message["id"] {
            Value::Null => self.answer_without_id(message),
            id => self.answer_to(&id.to_string(), message, board),
        }
    }

    fn answer_without_id(&mut self, message: &Value) {
        match message["type"].as_str() {
            Some("pong") => {}
            Some("presence") => self.assert_presence(message, None),
            _ => {
                let code = message["code"].as_str().expect("an error has a code");
                let at = self.errors_due.iter().position(|due| *due == code);
                let Some(at) = at else { panic!("actor {}: unexpected {message}", self.number) };
                self.errors_due.remove(at);
            }
        }
    }

    fn answer_to(&mut self, id: &str, message: &Value, board: &mut Board) {
        let pending = self.pending.remove(id);
        let Some(pending) = pending else { panic!("actor {}: answered again, or never asked: {message}", self.number) };
        let got = match message["type"].as_str() {
            Some("ok") => Expect::Ok,
            Some("pong") => Expect::Pong,
            _ => match &pending.expect {
                Expect::Error(code) if message["code"] == *code => pending.expect.clone(),
                _ => panic!("actor {}: {message} instead of {pending:?}", self.number),
            },
        };
        assert_eq!(got, pending.expect, "actor {}: {message} to {:?}", self.number, pending.about);
        match pending.about {
            About::Nothing => {}
            About::Place(place) => {
                if got == Expect::Ok {
                    assert_eq!(Place::of(message).as_ref(), Some(&place));
                }
                self.settle(&place, board.turn);
            }
            About::Publication(number) => {
                let publication = &mut board.publications[number];
                publication.fate = if got == Expect::Ok { Fate::Accepted } else { Fate::Refused };
                if got == Expect::Ok {
                    publication.status = message["status"].as_str().map(str::to_owned);
                    publication.note_id(message["messageId"].as_str().expect("an id"));
                }
            }
            About::Presence(place, exact) if got == Expect::Ok => {
                assert_eq!(Place::of(message).as_ref(), Some(&place));
                self.assert_presence(message, exact.as_ref());
            }
            About::Presence(..) => {}
        }
    }

    /// A request to enter or leave was answered.
    pub fn settle(&mut self, place: &Place, turn: u64) {
        let stay = self.stays.get_mut(place).expect("it asked");
        stay.unanswered -= 1;
        if stay.unanswered == 0 && stay.asked_in {
            stay.since.get_or_insert(turn);
            stay.filters.drain(..stay.filters.len() - 1);
        }
    }

    /// Everything that was asked for has been carried out.
    pub fn settle_all(&mut self, turn: u64) {
        for stay in self.stays.values_mut().filter(|stay| stay.asked_in) {
            assert_eq!(stay.unanswered, 0);
            stay.since.get_or_insert(turn);
        }
    }

    fn assert_may_be_in(&self, place: &Place, message: &Value) {
        let may = self.stays.get(place).is_some_and(|stay| stay.asked_in || stay.unanswered > 0);
        assert!(may, "actor {} is not in {place:?}: {message}", self.number);
    }

    fn assert_presence(&self, message: &Value, exact: Option<&BTreeMap<String, u64>>) {
        let users = message["users"].as_array().expect("users");
        let found: BTreeMap<String, u64> = users
            .iter()
            .map(|u| (u["userId"].as_str().unwrap().to_owned(), u["connections"].as_u64().unwrap()))
            .collect();
        assert_eq!(found.len(), users.len(), "nobody is named twice: {message}");
        assert_eq!(message["userCount"], found.len());
        assert_eq!(message["connectionCount"], found.values().sum::<u64>());
        if let Some(exact) = exact {
            assert_eq!(&found, exact, "{message}");
        }
    }

    fn publication(&mut self, message: &Value, board: &mut Board) {
        let number = message["content"]["k"].as_u64().expect("one of ours") as usize;
        let publication = &mut board.publications[number];
        let who = self.number;
        assert_ne!(publication.fate, Fate::Refused, "actor {who}: was refused: {message}");
        assert_eq!(message["content"], publication.content(number), "actor {who}");
        assert_eq!(message["from"].as_str(), publication.from.as_deref(), "actor {who}");
        assert_eq!(message["event"].as_str(), publication.event, "actor {who}");
        assert_eq!(message.get("tags").cloned(), publication.tags.json(), "actor {who}");
        assert_eq!(message["type"] == "broadcast", publication.target == Target::All, "actor {who}: {message}");
        assert!(self.received.insert(number), "actor {who}: twice: {message}");
        let id = message["id"].as_str().expect("an id").to_owned();
        publication.note_id(&id);
        assert!(self.message_ids.insert(id), "actor {who}: the same id twice: {message}");
        match &publication.target {
            Target::All => {}
            Target::User(user) => assert_eq!(user, &self.user, "{message} is another user's"),
            Target::Place(place) => {
                assert_eq!(Place::of(message).as_ref(), Some(place), "{message}");
                self.assert_may_be_in(place, message);
                let gone_since = self.stays[place].gone_since;
                let after = gone_since.is_some_and(|gone| gone < publication.at);
                assert!(!after, "actor {who} was taken out of {place:?} before: {message}");
                let own = matches!(place, Place::Room(_)) && publication.sender == who;
                assert!(!own, "actor {who} got its own message back: {message}");
                let filters = &self.stays[place].filters;
                let wanted = |f: &Option<Filter>| f.as_ref().is_none_or(|f| f.matches(&publication.tags));
                assert!(filters.iter().any(wanted), "actor {who}: filtered out: {message} by {filters:?}");
            }
        }
        let stream = (publication.sender, publication.target.clone(), publication.class, publication.key.clone());
        if let Some(before) = self.last.insert(stream, number) {
            assert!(before < number, "actor {who}: {number} after {before}");
        }
    }
}

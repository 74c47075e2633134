//! What actors do, drawn at random, and what each of it must lead to.

use std::collections::BTreeMap;

use fastrand::Rng;
use ringgate::auth::{NewToken, sign};
use ringgate::config::AuthMode;
use serde_json::{Value, json};

use crate::actor::{About, Actor, Expect, Pending};
use crate::board::{Board, Fate, Filter, Place, Publication, Tags, Target};
use crate::codec;
use crate::world::World;

pub const USERS: [&str; 6] = ["ann", "bob", "cleo", "dör", "e v", "f"];
const ROOMS: [&str; 4] = ["r0", "r1", "team-2", "räume"];
const CHANNELS: [&str; 3] = ["c0", "prices.eur", "c2"];

/// Permissions that a token may come with.
pub const PERMISSIONS: [&str; 6] =
    ["send:ann", "join:r*", "subscribe:c*", "publish:prices.*", "presence:*", "broadcast"];

pub fn place(rng: &mut Rng) -> Place {
    if rng.bool() {
        Place::Room(ROOMS[rng.usize(..ROOMS.len())].to_owned())
    } else {
        Place::Channel(CHANNELS[rng.usize(..CHANNELS.len())].to_owned())
    }
}

/// A token of the world's issuer.
pub fn token(world: &World, user: &str, ttl_s: u64, permissions: Option<&[&str]>, rooms: &[String]) -> String {
    let new = NewToken {
        user: user.to_owned(),
        ttl_s,
        permissions: permissions.map(|list| list.iter().map(|p| (*p).to_owned()).collect()),
        rooms: rooms.to_vec(),
    };
    sign(&world.settings.config.auth, &new, world.now.unix_s()).expect("a token")
}

impl Actor {
    /// Does something, anything.
    pub fn act(&mut self, world: &mut World, board: &mut Board, rng: &mut Rng) {
        match rng.u8(..100) {
            0..=18 => self.enter(world, place(rng), rng),
            19..=24 => self.leave(place(rng), rng),
            25..=49 => self.message(place(rng), world, board, rng),
            50..=66 => {
                let to = Target::User(USERS[rng.usize(..USERS.len())].to_owned());
                self.send(to, "send_message", world, board, rng);
            }
            67..=74 => self.send(Target::All, "broadcast", world, board, rng),
            75..=80 => self.presence(place(rng), None, world, rng),
            81..=84 => self.ask(json!({"type": "ping"}), Expect::Pong, About::Nothing, rng.bool(), rng),
            85..=88 => self.client.ping(b"are you there"),
            89..=92 => self.nonsense(rng),
            93..=94 => self.authenticate_again(world, rng),
            95 => self.oversized(world),
            96 => {
                self.left = true;
                self.client.close(if rng.bool() { Some(1000) } else { None });
            }
            97 => {
                self.left = true;
                self.client.vanish(world);
            }
            98 => {
                self.left = true;
                self.client.finish(world);
            }
            _ => {
                // Binary is not for this sub-protocol.
                self.excuses.insert(1003);
                self.left = true;
                self.client.say_in(codec::BINARY, b"\0\x01", 1, false);
            }
        }
    }

    /// Asks, with an id or without, and notes what must come of it.
    pub fn ask(&mut self, mut request: Value, expect: Expect, about: About, with_id: bool, rng: &mut Rng) {
        if with_id {
            self.next_id += 1;
            let id = if rng.bool() { json!(self.next_id) } else { json!(format!("id \"{}\"", self.next_id)) };
            request["id"] = id.clone();
            let before = self.pending.insert(id.to_string(), Pending { expect, about });
            assert!(before.is_none());
        } else if let Expect::Error(code) = expect {
            self.errors_due.push(code);
        }
        self.client.say(&request.to_string());
    }

    fn permitted(&self, world: &World, verb: &str, name: &str) -> bool {
        let list = match &self.permissions {
            Some(list) => list,
            None => return verb != "broadcast" || world.settings.config.auth.mode == AuthMode::None,
        };
        list.iter().any(|permission| match permission.split_once(':') {
            None => *permission == verb,
            Some((of, pattern)) => {
                of == verb && pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
            }
        })
    }

    fn enter(&mut self, world: &World, place: Place, rng: &mut Rng) {
        let (verb, kind) = match place {
            Place::Room(_) => ("join", "join"),
            Place::Channel(_) => ("subscribe", "subscribe"),
        };
        let (field, name) = place.field();
        let mut request = json!({"type": kind, field: name});
        let filter = (verb == "subscribe" && rng.bool()).then(|| Filter::random(rng, 0));
        if let Some(filter) = &filter {
            request["filter"] = filter.json();
        }
        let max = world.settings.config.session.max_subscriptions as usize;
        let expect = if !self.permitted(world, verb, name) {
            Expect::Error("forbidden")
        } else if !self.is_in(&place) && max != 0 && self.subscriptions() >= max {
            Expect::Error("too_many_rooms")
        } else {
            Expect::Ok
        };
        if expect != Expect::Ok {
            return self.ask(request, expect, About::Nothing, rng.bool(), rng);
        }
        self.enters(place.clone(), filter);
        self.stays.get_mut(&place).expect("just entered").unanswered += 1;
        self.ask(request, expect, About::Place(place), true, rng);
    }

    /// Notes that it will be in a place once what it has asked for is done.
    pub fn enters(&mut self, place: Place, filter: Option<Filter>) {
        let stay = self.stays.entry(place).or_default();
        if !stay.asked_in || stay.filters.last() != Some(&filter) {
            stay.since = None;
        }
        stay.asked_in = true;
        stay.filters.push(filter);
    }

    fn leave(&mut self, place: Place, rng: &mut Rng) {
        let kind = if matches!(place, Place::Room(_)) { "leave" } else { "unsubscribe" };
        let (field, name) = place.field();
        let request = json!({"type": kind, field: name});
        let stay = self.stays.entry(place.clone()).or_default();
        stay.asked_in = false;
        stay.since = None;
        stay.unanswered += 1;
        self.ask(request, Expect::Ok, About::Place(place), true, rng);
    }

    fn message(&mut self, place: Place, world: &World, board: &mut Board, rng: &mut Rng) {
        let kind = if matches!(place, Place::Room(_)) { "message" } else { "publish" };
        self.send(Target::Place(place), kind, world, board, rng);
    }

    fn send(&mut self, target: Target, kind: &str, world: &World, board: &mut Board, rng: &mut Rng) {
        let mut request = json!({"type": kind});
        let expect = match &target {
            Target::All if !self.permitted(world, "broadcast", "") => Expect::Error("forbidden"),
            Target::User(user) if !self.permitted(world, "send", user) => Expect::Error("forbidden"),
            Target::Place(place @ Place::Room(_)) if !self.is_in(place) => Expect::Error("not_member"),
            Target::Place(Place::Channel(name)) if !self.permitted(world, "publish", name) => {
                Expect::Error("forbidden")
            }
            _ => Expect::Ok,
        };
        match &target {
            Target::All => {}
            Target::User(user) => request["target_user"] = json!(user),
            Target::Place(place) => request[place.field().0] = json!(place.field().1),
        }
        let event = [None, None, Some("price_update"), Some("typing_indicator"), Some("note")][rng.usize(..5)];
        let class = [None, None, Some("urgent"), Some("normal"), Some("latest"), Some("droppable")][rng.usize(..6)];
        let own_key = rng.bool().then(|| format!("key-{}", rng.u8(..3)));
        let tags = if rng.bool() { Tags::random(rng) } else { Tags::default() };
        for (field, value) in [("event", event), ("class", class), ("key", own_key.as_deref())] {
            if let Some(value) = value {
                request[field] = json!(value);
            }
        }
        if let Some(tags) = tags.json() {
            request["tags"] = tags;
        }
        let class = class.unwrap_or(match event {
            Some("price_update") => "latest",
            Some("typing_indicator") => "droppable",
            _ => "normal",
        });
        let default_key = || format!("of {} about {}", self.user, event.unwrap_or_default());
        let key = (class == "latest").then(|| own_key.map_or_else(default_key, |key| format!("named {key}")));
        let with_id = rng.u8(..4) > 0;
        let publication = Publication {
            sender: self.number,
            from: Some(self.user.clone()),
            target,
            class,
            key,
            event,
            tags,
            pad: if rng.u8(..10) == 0 { rng.usize(..3_000) } else { rng.usize(..200) },
            at: board.turn,
            fate: if expect == Expect::Ok { Fate::Unknown } else { Fate::Refused },
            status: None,
            message_id: None,
            reported: None,
        };
        let number = board.publications.len();
        request["content"] = publication.content(number);
        board.publications.push(publication);
        self.ask(request, expect, About::Publication(number), with_id, rng);
    }

    /// Asks who is there; `exact` is the answer, where nobody moves.
    pub fn presence(&mut self, place: Place, exact: Option<BTreeMap<String, u64>>, world: &World, rng: &mut Rng) {
        let (field, name) = place.field();
        let expect = if self.permitted(world, "presence", name) { Expect::Ok } else { Expect::Error("forbidden") };
        let request = json!({"type": "presence", field: name});
        let with_id = exact.is_some() || rng.bool();
        self.ask(request, expect, About::Presence(place, exact), with_id, rng);
    }

    /// What is no request, or no good one.
    fn nonsense(&mut self, rng: &mut Rng) {
        match rng.u8(..4) {
            0 => {
                self.errors_due.push("bad_json");
                self.client.say("{\"type\":\"ping\"");
            }
            1 => self.ask(json!({"type": "dance"}), Expect::Error("unknown_type"), About::Nothing, rng.bool(), rng),
            2 => {
                let request = json!({"type": "join", "roomId": "a\u{7}b"});
                self.ask(request, Expect::Error("bad_request"), About::Nothing, rng.bool(), rng);
            }
            _ => {
                let request = json!({"type": "subscribe", "channel": "c0", "filter": {"op": "sometimes"}});
                self.ask(request, Expect::Error("bad_request"), About::Nothing, rng.bool(), rng);
            }
        }
    }

    fn authenticate_again(&mut self, world: &World, rng: &mut Rng) {
        if world.settings.config.auth.mode == AuthMode::None {
            let request = json!({"type": "auth", "token": "x"});
            return self.ask(request, Expect::Error("bad_request"), About::Nothing, true, rng);
        }
        let other = rng.bool();
        let user = if other { "someone else" } else { &self.user };
        let permissions = (rng.u8(..3) == 0).then(|| PERMISSIONS.to_vec());
        let token = token(world, user, 0, permissions.as_deref(), &[]);
        let expect = if other { Expect::Error("unauthorized") } else { Expect::Ok };
        if !other {
            self.permissions = permissions;
        }
        self.ask(json!({"type": "auth", "token": token}), expect, About::Nothing, true, rng);
    }

    fn oversized(&mut self, world: &World) {
        self.excuses.insert(1009);
        self.left = true;
        let size = world.settings.config.limits.message_size as usize + 1;
        self.client.say_in(codec::TEXT, &vec![b'['; size], 1, false);
    }
}

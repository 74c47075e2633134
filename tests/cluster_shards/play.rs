//! Who comes, goes, and says what to whom.

use serde_json::json;

use super::ledger::{SessionId, To};
use super::{NODES, World};

pub const USERS: u32 = 7;
pub const ROOMS: u32 = 2;
/// Connections of one user to one node.
const PER_USER_MAX: usize = 2;

/// A connection: node, shard and row.
pub type Place = (usize, usize, u32);

impl World {
    /// What people do at any moment.
    pub(super) fn churn(&mut self) {
        for _ in 0..self.rng.u32(..3) {
            let (node, user) = (self.rng.usize(..NODES), self.any_user());
            match self.rng.u32(..24) {
                0 => self.come(node, &user),
                1 => self.go(&user),
                // To another node at once, or by way of one that it leaves at once.
                2 => {
                    self.go(&user);
                    self.come(node, &user);
                    if self.rng.bool() {
                        self.go(&user);
                    }
                }
                3 => {
                    let other = self.any_user();
                    for _ in 0..self.rng.u32(2..8) {
                        self.speak(&user, To::User(other.clone()));
                    }
                }
                4..=6 => {
                    let room = room(self.rng.u32(..ROOMS));
                    self.speak(&user, To::Room(room));
                }
                _ => {
                    let other = self.any_user();
                    self.speak(&user, To::User(other));
                }
            }
        }
    }

    /// One more connection of a user, unless there are enough.
    pub fn come(&mut self, node: usize, user: &str) {
        if !self.runs(node) {
            return;
        }
        let here = self.places_of(user).into_iter().filter(|place| place.0 == node).count();
        if here < PER_USER_MAX {
            self.connect(node, user, &rooms_of(user));
        }
    }

    /// One connection of a user less.
    pub fn go(&mut self, user: &str) {
        let places = self.places_of(user);
        if let Some((node, shard, slot)) = self.rng.choice(places)
            && self.runs(node)
        {
            self.disconnect(node, shard, slot);
        }
    }

    /// A user writes from one of its connections, if it has any that runs.
    fn speak(&mut self, user: &str, to: To) {
        let mut places = self.places_of(user);
        places.retain(|place| self.has_begun(*place) && self.runs(place.0));
        if let To::Room(room) = &to
            && !rooms_of(user).contains(room)
        {
            return;
        }
        if let Some(place) = self.rng.choice(places) {
            let wants_answer = self.rng.u32(..10) > 0;
            self.send(place, to, wants_answer);
        }
    }

    /// A user writes from its first connection, if it has one that has begun.
    pub fn say_to(&mut self, user: &str, to: To) {
        if let Some(place) = self.places_of(user).into_iter().find(|place| self.has_begun(*place)) {
            self.send(place, to, true);
        }
    }

    /// All connections of a user to a node go.
    pub fn go_from(&mut self, node: usize, user: &str) {
        for (node, shard, slot) in self.places_of(user).into_iter().filter(|place| place.0 == node) {
            self.disconnect(node, shard, slot);
        }
    }

    /// Sends a message from this connection; its number.
    pub fn send(&mut self, (node, shard, slot): Place, to: To, wants_answer: bool) -> u64 {
        let session = self.nodes[node].hosts[shard].seats[&slot].session;
        let number = self.ledger.sent(session, to.clone(), wants_answer, self.net.now_ms);
        trace!(self, "{session} on node {node} sends {number} to {to:?}");
        let mut request = match to {
            To::User(user) => json!({"type": "send_message", "target_user": user, "content": number}),
            To::Room(room) => json!({"type": "message", "roomId": room, "content": number}),
        };
        if wants_answer {
            request["id"] = number.into();
        }
        self.say(node, shard, slot, &request);
        number
    }

    /// The connections of a user, whether or not they have begun.
    pub fn places_of(&self, user: &str) -> Vec<Place> {
        self.places(|seat| seat.user == user)
    }

    /// The connections whose user is in a room.
    pub fn places_in(&self, room: &String) -> Vec<Place> {
        self.places(|seat| rooms_of(&seat.user).contains(room))
    }

    fn places(&self, which: impl Fn(&super::host::Seat) -> bool) -> Vec<Place> {
        let mut places = Vec::new();
        for (node, place) in self.nodes.iter().enumerate() {
            for (shard, host) in place.hosts.iter().enumerate() {
                let chosen = host.seats.iter().filter(|(_, seat)| which(seat));
                places.extend(chosen.map(|(slot, _)| (node, shard, *slot)));
            }
        }
        places
    }

    pub fn has_begun(&self, (node, shard, slot): Place) -> bool {
        self.nodes[node].hosts[shard].seats[&slot].begun
    }

    pub fn session_at(&self, (node, shard, slot): Place) -> SessionId {
        self.nodes[node].hosts[shard].seats[&slot].session
    }

    fn any_user(&mut self) -> String {
        user(self.rng.u32(..USERS))
    }
}

pub fn user(number: u32) -> String {
    format!("u{number}")
}

pub fn room(number: u32) -> String {
    format!("r{number}")
}

/// The rooms that a user is in with every connection.
pub fn rooms_of(user: &str) -> Vec<String> {
    let number: u32 = user[1..].parse().expect("a user");
    (0..ROOMS).filter(|room| (number >> room) & 1 == 0).map(room).collect()
}

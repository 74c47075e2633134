//! What must be true when all is well again.

use std::collections::BTreeSet;
use std::rc::Rc;

use ringgate::cluster::agent::{own_channel, probe_channel};
use ringgate::config::Routing;
use ringgate::ids::ShardId;
use ringgate::protocol::command::{Command, Outcome};
use ringgate::protocol::envelope::Topic;
use ringgate::shard::Held;
use ringgate::shard::event::Event;

use super::ledger::{Answer, SessionId, To};
use super::play::{Place, USERS, rooms_of, user};
use super::{NODES, World};

impl World {
    /// All links are up, all know of all, and Redis has what is true and nothing else.
    pub fn check_registry(&mut self) {
        let mut rows = BTreeSet::new();
        let mut names = BTreeSet::new();
        for node in 0..NODES {
            let (name, epoch) = self.standing(node);
            for (shard, host) in self.nodes[node].hosts.iter().enumerate() {
                let gauges = host.shard.gauges();
                assert_eq!(gauges.bus_state, 3, "the link of node {node}.{shard} is up");
                assert_eq!(gauges.bus_nodes as usize, NODES, "node {node}.{shard} knows of all");
                assert_eq!(gauges.bus_epoch, epoch, "all shards of node {node} agree");
                let of_shard = host.seats.values().map(|seat| (seat.user.clone(), name.clone(), epoch, shard as u16));
                rows.extend(of_shard);
                self.check_channels(node, shard, &name, epoch);
            }
            names.insert(name);
        }
        assert_eq!(names.len(), NODES, "every node has a name of its own: {names:?}");
        assert_eq!(self.net.redis.rows(), rows, "the registry equals the sessions");
        assert_eq!(self.net.redis.unindexed(), [], "whoever cleans up would find all rows");
        assert_eq!(self.net.redis.graves(), 0, "the dead are forgotten");
        self.net.redis.check_events();
        let running = self.nodes.iter().map(|node| node.settings.instance).collect();
        assert_eq!(self.net.redis.left_behind(&running), BTreeSet::new(), "who lives cleans up after itself");
    }

    /// What one shard listens to is what it has to.
    fn check_channels(&self, node: usize, shard: usize, name: &str, epoch: u64) {
        let (place, id) = (&self.nodes[node], ShardId(shard as u16));
        let mut wanted: BTreeSet<Rc<str>> = BTreeSet::from(["broadcast".into()]);
        if self.routing == Routing::Broadcast {
            wanted.insert("shards".into());
        }
        wanted.insert(own_channel(name, epoch, id).into());
        wanted.insert(probe_channel(place.settings.instance, id).into());
        let here = place.hosts[shard].seats.values();
        wanted.extend(here.map(|seat| format!("user:{}", seat.user).into()));
        let users = place.hosts.iter().flat_map(|host| host.seats.values()).map(|seat| &seat.user);
        let rooms = users.flat_map(|user| rooms_of(user));
        let at_home = rooms.filter(|room| place.settings.homes.topic(Topic::Room, room) == id);
        wanted.extend(at_home.map(|room| format!("room:{room}").into()));
        let line = place.hosts[shard].wires.subscriber().expect("a connection");
        assert_eq!(self.net.connections[&line].channels, wanted, "what node {node}.{shard} listens to");
    }

    /// The name and the epoch of a node, as it says itself.
    fn standing(&mut self, node: usize) -> (String, u64) {
        self.feed(node, 0, Event::Command { ticket: 1, command: Command::Info { rooms: 0 } });
        for _ in 0..100 {
            if let Some(outcome) = self.nodes[node].hosts[0].outcomes.pop() {
                let Outcome::Info(shards) = outcome else { panic!("{outcome:?}") };
                let lease = shards[0].cluster.as_ref().and_then(|cluster| cluster.lease.clone());
                let (name, epoch, _) = lease.unwrap_or_else(|| panic!("node {node} has no lease"));
                return (name.to_string(), epoch);
            }
            self.run(10, false, false);
        }
        panic!("node {node} does not answer");
    }

    /// From every node a message to every user, and to every room: each arrives once wherever it is for, and is answered truly.
    pub fn check_messages(&mut self) {
        let speakers: Vec<Place> = (0..NODES).map(|node| self.somebody_on(node)).collect();
        self.run(1_000, false, false);
        let mut expected = Vec::new();
        for speaker @ (node, shard, slot) in speakers {
            assert!(self.has_begun(speaker), "whoever comes is welcome: {speaker:?}");
            for user in (0..USERS).map(user) {
                let sessions = self.sessions_at(&self.places_of(&user));
                let answer = if sessions.is_empty() { Answer::Offline } else { Answer::Delivered };
                expected.push((self.send(speaker, To::User(user), true), sessions, answer));
            }
            for room in rooms_of(&self.nodes[node].hosts[shard].seats[&slot].user.clone()) {
                let mut others = self.sessions_at(&self.places_in(&room));
                others.remove(&self.session_at(speaker));
                expected.push((self.send(speaker, To::Room(room), true), others, Answer::Sent));
            }
        }
        self.run(1_500, false, false);
        for (number, sessions, answer) in expected {
            assert_eq!(self.ledger.answer(number), Some(answer), "message {number} for {sessions:?}");
            assert_eq!(*self.ledger.arrived_at(number), sessions, "message {number}");
        }
    }

    fn sessions_at(&self, places: &[Place]) -> BTreeSet<SessionId> {
        places.iter().map(|place| self.session_at(*place)).collect()
    }

    /// A connection to this node.
    fn somebody_on(&mut self, node: usize) -> Place {
        for number in 0..USERS {
            if let Some(place) = self.places_of(&user(number)).into_iter().find(|place| place.0 == node) {
                return place;
            }
        }
        self.come(node, &user(node as u32));
        self.places_of(&user(node as u32)).into_iter().find(|place| place.0 == node).expect("it has come")
    }

    /// Everybody goes: nothing is left of them, here or in Redis.
    pub fn check_nothing_is_left(&mut self) {
        for number in 0..USERS {
            for (node, shard, slot) in self.places_of(&user(number)) {
                self.disconnect(node, shard, slot);
            }
        }
        self.run(2_000, false, false);
        assert_eq!(self.net.redis.rows(), BTreeSet::new());
        for (node, place) in self.nodes.iter().enumerate() {
            for host in &place.hosts {
                assert_eq!(host.shard.held(), Held::default(), "of node {node}");
                let gauges = host.shard.gauges();
                let held = (gauges.bus_rows, gauges.bus_waiting, gauges.bus_unanswered);
                assert_eq!(held, (0, 0, 0), "of node {node}");
            }
        }
        self.ledger.close();
    }
}

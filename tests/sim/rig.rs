//! A calm world for tests of exact behaviour: everything works at once, and time passes only when it is told to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fastrand::Rng;
use ringgate::config::{AuthMode, Config, Secret};
use ringgate::shard::Held;
use serde_json::{Value, json};

use crate::client::{Client, Heard, Phase};
use crate::codec::{self, Response};
use crate::ops;
use crate::setup::Faults;
use crate::world::World;

pub struct Rig {
    pub world: World,
    pub clients: Vec<Client>,
    heard: Vec<Vec<Heard>>,
    /// Clients that are not reading.
    pub deaf: Vec<bool>,
    rng: Rng,
}

impl Rig {
    /// Three shards with the defaults, but for what `edit` changes; rates are off, and mode is `none`.
    pub fn new(edit: impl FnOnce(&mut Config)) -> Self {
        Self::with_shards(3, edit)
    }

    pub fn with_shards(shards: u16, edit: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        let limits = &mut config.limits;
        (limits.messages_per_second, limits.bytes_per_second, limits.connections_per_ip) = (0, 0, 0);
        edit(&mut config);
        let world = World::new(config, shards, Faults::none(), 4711);
        Rig { world, clients: Vec::new(), heard: Vec::new(), deaf: Vec::new(), rng: Rng::with_seed(1) }
    }

    /// For `edit` of [`Rig::new`]: tokens are asked for.
    pub fn jwt(config: &mut Config) {
        config.auth.mode = AuthMode::Jwt;
        config.auth.hmac_secret = Some(Secret("a secret that is long enough for HS256 and more".into()));
    }

    /// Begins to connect; the request is written and not looked at.
    pub fn dial(&mut self, target: &str, headers: &[&str]) -> usize {
        self.dial_through(target, headers, 1 << 20)
    }

    /// The same, and only so many bytes fit between the gateway and the client.
    pub fn dial_through(&mut self, target: &str, headers: &[&str], pipe: usize) -> usize {
        let headers: Vec<String> = headers.iter().map(|h| (*h).to_owned()).collect();
        self.dial_raw(codec::upgrade_request(target, &headers), pipe)
    }

    pub fn dial_raw(&mut self, request: Vec<u8>, pipe: usize) -> usize {
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 4711);
        let socket = self.world.connect(peer, 1 << 20, pipe);
        self.clients.push(Client::new(socket, request, self.rng.fork()));
        self.heard.push(Vec::new());
        self.deaf.push(false);
        self.clients.len() - 1
    }

    /// Connects in mode `none` and takes `auth:ok`.
    pub fn join_as(&mut self, user: &str) -> usize {
        self.join_with(user, "", &[])
    }

    /// The same, with more of a query and with headers.
    pub fn join_with(&mut self, user: &str, query: &str, headers: &[&str]) -> usize {
        let client = self.dial(&format!("/ws?user_id={user}{query}"), headers);
        self.settle();
        let heard = self.said(client);
        assert!(matches!(&heard[..], [ok] if ok["type"] == "auth:ok" && ok["userId"] == user), "{heard:?}");
        client
    }

    /// A token of this world.
    pub fn token(&self, user: &str, ttl_s: u64, permissions: Option<&[&str]>, rooms: &[&str]) -> String {
        let rooms: Vec<String> = rooms.iter().map(|r| (*r).to_owned()).collect();
        ops::token(&self.world, user, ttl_s, permissions, &rooms)
    }

    pub fn say(&mut self, client: usize, request: Value) {
        self.clients[client].say(&request.to_string());
    }

    /// Says something, lets it run its course, and returns what this client heard.
    pub fn ask(&mut self, client: usize, request: Value) -> Vec<Value> {
        self.say(client, request);
        self.settle();
        self.said(client)
    }

    /// Until nothing is on its way any more.
    pub fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 100_000, "the world does not come to rest");
            let total = |heard: &[Vec<Heard>]| heard.iter().map(Vec::len).sum::<usize>();
            let before = total(&self.heard);
            self.turn();
            let unread = |at: usize| {
                let client = &self.clients[at];
                client.phase != Phase::Gone && !self.deaf[at] && self.world.sockets[client.socket].down.len() > 0
            };
            let quiet = before == total(&self.heard) && !(0..self.clients.len()).any(unread);
            if quiet && self.world.at_rest() {
                return;
            }
        }
    }

    /// Time passes, and everything takes its course meanwhile.
    pub fn wait(&mut self, ms: u64) {
        let until = self.world.now.mono_ms + ms;
        while self.world.now.mono_ms < until {
            self.world.pass(50.min(until - self.world.now.mono_ms));
            self.turn();
        }
        self.settle();
    }

    pub fn turn(&mut self) {
        for (at, client) in self.clients.iter_mut().enumerate() {
            client.write(&mut self.world, usize::MAX);
            if !self.deaf[at] {
                let heard = client.read(&mut self.world, usize::MAX);
                self.heard[at].extend(heard);
            }
        }
        self.world.turn();
    }

    /// Everything a client has heard since this was last asked.
    pub fn heard(&mut self, client: usize) -> Vec<Heard> {
        std::mem::take(&mut self.heard[client])
    }

    /// The messages among it, without what differs from run to run; anything else but pings and the upgrade is a failure.
    pub fn said(&mut self, client: usize) -> Vec<Value> {
        let heard = self.heard(client);
        let message = |heard| match heard {
            Heard::Message(message) => Some(plain(message)),
            Heard::Ping => None,
            Heard::Response(response) if response.status == 101 => None,
            other => panic!("client {client}: {other:?}"),
        };
        heard.into_iter().filter_map(message).collect()
    }

    /// The HTTP response, where it was not the upgrade.
    pub fn refusal(&mut self, client: usize) -> Response {
        match &self.heard(client)[..] {
            [Heard::Response(response), ..] if response.status != 101 => response.clone(),
            other => panic!("client {client}: {other:?}"),
        }
    }

    /// The close code and reason, after any messages.
    pub fn closed(&mut self, client: usize) -> (Option<u16>, String) {
        let heard = self.heard(client);
        let close = heard.iter().find_map(|heard| match heard {
            Heard::Close(code, reason) => Some((*code, reason.clone())),
            _ => None,
        });
        close.unwrap_or_else(|| panic!("client {client} was not closed: {heard:?}"))
    }

    /// Forgets the clients that are gone; the others keep no numbers.
    pub fn forget_gone(&mut self) {
        let gone: Vec<usize> = (0..self.clients.len()).filter(|&at| self.clients[at].phase == Phase::Gone).collect();
        for at in gone.into_iter().rev() {
            self.clients.swap_remove(at);
            self.heard.swap_remove(at);
            self.deaf.swap_remove(at);
        }
    }

    /// Everybody vanishes; then nothing may be left.
    pub fn assert_nothing_is_left(mut self) {
        for client in &mut self.clients {
            client.vanish(&mut self.world);
        }
        self.settle();
        for host in 0..self.world.hosts.len() {
            assert_eq!(self.world.held(host), Held::default(), "shard {host}");
        }
    }
}

/// Without ids and times, which are checked to be there.
fn plain(mut message: Value) -> Value {
    for (kind, field) in [
        ("message", "id"),
        ("message", "timestamp"),
        ("broadcast", "id"),
        ("broadcast", "timestamp"),
        ("pong", "ts"),
        ("auth:ok", "connectionId"),
        ("auth:ok", "session"),
    ] {
        if message["type"] == kind {
            let taken = message.as_object_mut().expect("an object").remove(field);
            assert!(taken.is_some(), "{kind} without {field}: {message}");
        }
    }
    if let Some(id) = message.as_object_mut().and_then(|m| m.remove("messageId")) {
        assert_eq!(id.as_str().map(str::len), Some(26));
        message["accepted"] = json!(true);
    }
    message
}

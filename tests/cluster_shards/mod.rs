//! Nodes of several whole shards around one modelled Redis: one thread, one virtual clock, one seed. The driver is as awkward as it may be; what
//! is real is everything that decides anything.
//!
//! | | |
//! |---|---|
//! | this one | time, turns, and the end of a node in the middle of anything |
//! | [`host`] | a shard, its connections and its mesh; what clients say and hear |
//! | [`wires`] | what the shard asks of the bus, as commands, and answers as events: as the real driver does it |
//! | [`net`], [`redis`] | the network between them, and the modelled Redis |
//! | [`faults`] | what goes wrong |
//! | [`play`] | who comes, goes and says what |
//! | [`ledger`], [`check`] | what must be true meanwhile, and when all is well again |
#![allow(dead_code, unreachable_pub, reason = "a model of one test binary")]

/// Says what happens, for who looks into a seed (`RINGGATE_SIM_TRACE=1`).
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.traces {
            eprintln!("{:>6} {}", $world.net.now_ms, format!($($text)*));
        }
    };
}

mod check;
#[path = "../sim/codec.rs"]
mod codec;
mod faults;
mod host;
pub mod ledger;
mod net;
mod play;
mod redis;
mod wires;

use std::sync::Arc;

use ringgate::cluster::nodes::About;
use ringgate::config::{AuthMode, Config, Routing};
use ringgate::ids::ShardId;
use ringgate::limits::RING_WEIGHT_NORMAL;
use ringgate::protocol::permission::Permissions;
use ringgate::settings::{Homes, Settings};
use ringgate::time::Now;

use self::host::Host;
use self::ledger::Ledger;
use self::net::Net;

pub const LEASE_TTL_MS: u64 = 2_000;
pub const ENTRY_TTL_MS: u64 = 12_000;
const TIMEOUT_MS: u64 = 500;
const NODES: usize = 3;

pub struct World {
    pub traces: bool,
    pub routing: Routing,
    pub net: Net,
    pub nodes: Vec<Node>,
    pub ledger: Ledger,
    /// Two nodes were given the same name.
    twins: bool,
    rng: fastrand::Rng,
}

pub struct Node {
    name: String,
    settings: Arc<Settings>,
    /// None: it does not run.
    pub hosts: Vec<Host>,
    /// Dead until then.
    back_at_ms: Option<u64>,
    /// Stopped until then.
    frozen_until_ms: u64,
    /// How far its clocks are from this world's: what machines do that sleep, and those who set clocks.
    boot_ahead_ms: u64,
    unix_ahead_ms: u64,
    /// The farthest that its wall clock ever was: it is not behind that when it starts. Where it is, and Redis forgets the lease of the process
    /// before, and that wrote a row after this: then nobody can write that row until it runs out.
    unix_most_ms: u64,
    /// Events that it has taken and actions that it has carried out since it started.
    pub steps: u64,
    /// It dies instead of that step, and is back so much later.
    pub dies_at: Option<(u64, u64)>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let routing = match seed % 5 {
            3 => Routing::Broadcast,
            4 => Routing::Hash,
            _ => Routing::Registry,
        };
        // In some worlds.
        let twins = rng.u32(..6) == 0;
        let traces = std::env::var_os("RINGGATE_SIM_TRACE").is_some();
        let (net, ledger) = (Net::new(1_000), Ledger::default());
        let mut world = World { traces, routing, net, nodes: Vec::new(), ledger, twins, rng };
        for index in 0..NODES {
            let name = format!("node-{}", if twins && index == 1 { 0 } else { index });
            world.nodes.push(Node {
                settings: Arc::new(settings(routing, &name, index, 0, 0)),
                name,
                hosts: Vec::new(),
                back_at_ms: Some(0),
                frozen_until_ms: 0,
                boot_ahead_ms: 10_000_000 * index as u64,
                unix_ahead_ms: 0,
                unix_most_ms: 0,
                steps: 0,
                dies_at: None,
            });
        }
        world
    }

    /// Time passes. Faster where nobody says anything.
    pub fn run(&mut self, ms: u64, faults: bool, churn: bool) {
        let end = self.net.now_ms + ms;
        while self.net.now_ms < end {
            self.net.now_ms += if churn { self.rng.u64(1..=15) } else { self.rng.u64(10..=40) };
            if faults {
                self.fault();
            }
            if churn {
                self.churn();
            }
            self.revive();
            self.net.serve(&mut self.rng);
            for node in 0..self.nodes.len() {
                self.turn(node);
            }
            self.see_who_is_sure();
        }
    }

    pub fn now(&self, node: usize) -> Now {
        let (mono_ms, node) = (self.net.now_ms, &self.nodes[node]);
        let (boot_ms, unix_ms) = (mono_ms + node.boot_ahead_ms, 1_790_000_000_000 + mono_ms + node.unix_ahead_ms);
        Now { mono_ms, boot_ms, unix_ms, sub_us: 0 }
    }

    pub fn runs(&self, node: usize) -> bool {
        !self.nodes[node].hosts.is_empty() && self.nodes[node].frozen_until_ms <= self.net.now_ms
    }

    /// One more step of a node, or its end; whether it still runs.
    fn step(&mut self, node: usize) -> bool {
        let place = &mut self.nodes[node];
        place.steps += 1;
        if let Some((step, back_in_ms)) = place.dies_at
            && place.steps >= step
        {
            self.kill(node, back_in_ms);
        }
        !self.nodes[node].hosts.is_empty()
    }

    /// One turn of every shard of a node.
    fn turn(&mut self, node: usize) {
        for shard in 0..usize::from(shards_of(node)) {
            if self.runs(node) {
                self.turn_of(node, shard);
            }
        }
    }

    /// SIGKILL: of what was sent some arrives.
    fn kill(&mut self, node: usize, back_in_ms: u64) {
        trace!(self, "node {node} dies at step {}", self.nodes[node].steps);
        let place = &mut self.nodes[node];
        (place.dies_at, place.back_at_ms) = (None, Some(self.net.now_ms + back_in_ms));
        for host in std::mem::take(&mut place.hosts) {
            host.wires.crash(&mut self.net, &mut self.rng);
            for seat in host.seats.values() {
                self.ledger.ended(seat.session, self.net.now_ms);
            }
        }
        self.ledger.seen.crashes += 1;
    }

    fn revive(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].back_at_ms.is_some_and(|at| at <= self.net.now_ms) {
                self.start(node);
            }
        }
    }

    fn start(&mut self, node: usize) {
        self.nodes[node].unix_ahead_ms = self.nodes[node].unix_most_ms;
        let now = self.now(node);
        let (instance, seed) = (self.rng.u32(..), self.rng.u64(..));
        let place = &mut self.nodes[node];
        place.settings = Arc::new(settings(self.routing, &place.name, node, instance, seed));
        let about = About {
            shards: shards_of(node),
            weight: RING_WEIGHT_NORMAL,
            advertise: Some(url(node).into()),
            announcing: true,
        };
        let hosts = (0..shards_of(node)).map(ShardId).map(|shard| {
            let settings = place.settings.clone();
            Host::new(settings, shard, about.clone(), seed ^ u64::from(shard.0), now)
        });
        place.hosts = hosts.collect();
        (place.back_at_ms, place.frozen_until_ms, place.steps) = (None, 0, 0);
        trace!(self, "node {node} starts as {instance:08x}");
    }

    /// A session is surely found while its row is there under a living lease, and was all the time.
    fn see_who_is_sure(&mut self) {
        let lost = std::mem::take(&mut self.net.redis.lost);
        let taken_back = std::mem::take(&mut self.net.redis.taken_back);
        for node in &self.nodes {
            let instance = node.settings.instance;
            for seat in node.hosts.iter().flat_map(|host| host.seats.values()) {
                if taken_back.contains(&(seat.user.as_str().into(), instance)) {
                    self.ledger.taken_back(seat.session);
                }
                let covered = self.net.redis.covers(&seat.user, instance, self.net.now_ms);
                if covered.is_none_or(|name| lost.contains(&(seat.user.as_str().into(), name))) {
                    self.ledger.unsure(seat.session);
                }
            }
        }
    }
}

/// Not all nodes are alike.
fn shards_of(node: usize) -> u16 {
    1 + (node % 2) as u16
}

fn url(node: usize) -> String {
    format!("ws://node-{node}.example/ws")
}

fn settings(routing: Routing, name: &str, node: usize, instance: u32, seed: u64) -> Settings {
    let mut config = Config::default();
    config.auth.mode = AuthMode::None;
    config.cluster.routing = routing;
    config.cluster.advertise = Some(url(node));
    (config.redis.lease_ttl_ms, config.redis.entry_ttl_ms) = (LEASE_TTL_MS, ENTRY_TTL_MS);
    (config.redis.timeout_ms, config.redis.batch_size) = (TIMEOUT_MS, 16);
    (config.limits.messages_per_second, config.limits.bytes_per_second) = (0, 0);
    (config.session.heartbeat_interval_ms, config.session.heartbeat_timeout_ms) = (0, 0);
    config.session.idle_timeout_ms = 0;
    config.drain.spread_ms = 500;
    let homes = Homes::new(shards_of(node), seed);
    let mut settings = Settings::new(config, None, name.to_owned(), instance, homes).expect("valid settings");
    let all = ["send:*", "join:*", "presence:*"];
    settings.default_permissions = Arc::new(Permissions::parse(all.into_iter()).expect("valid permissions"));
    settings
}

//! The state machine of one shard: events in, actions out, time as an argument.
//!
//! Everything that decides anything is here; nothing here knows a socket, a clock, a thread or a lock. See [`event`] for how a driver
//! turns it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use ahash::RandomState;

use crate::error::CloseReason;
use crate::ids::{ConnectionId, MessageIds, ShardId};
use crate::protocol::envelope::Envelope;
use crate::protocol::permission::Permissions;
use crate::settings::Settings;
use crate::time::Now;
use crate::ws::deflate::Inflater;
use crate::ws::message::{Decoder, DecoderConfig};

mod behind;
mod blocks;
mod cluster;
mod commands;
mod connections;
pub mod counters;
mod deadlines;
mod delivery;
mod drain;
pub mod event;
pub mod figures;
mod frames;
pub mod gauges;
pub mod histogram;
pub mod hooks;
mod input;
pub mod ip_table;
pub mod limiter;
mod opening;
mod orders;
pub mod outbox;
mod presence;
pub mod pressure;
mod relay;
mod relief;
mod remembered;
mod requests;
mod routing;
mod row;
mod search;
mod session;
mod telling;
mod topics;
mod trace;
mod users;
mod weights;

use cluster::Cluster;
use commands::Commands;
use connections::Connections;
use counters::{Counters, Distributions};
use drain::Drain;
use event::{Action, Event, Gathered};
use gauges::Gauges;
use ip_table::IpTable;
use presence::Presence;
use pressure::Pressure;
use relay::Relay;
use row::Paused;
use topics::{HomeTopics, LocalTopics};
use users::Users;

/// All that one shard decides.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    settings: Arc<Settings>,
    connections: Connections,
    users: Users,
    topics: LocalTopics,
    homes: HomeTopics,
    relay: Relay,
    presence: Presence,
    commands: Commands,
    /// This shard's part in the cluster, where there is one.
    cluster: Option<Box<Cluster>>,
    ips: IpTable,
    pressure: Pressure,
    /// Connections that are not read from for want of memory; some may have gone.
    paused_by_pressure: Vec<ConnectionId>,
    /// Connections that are opening or were, in the order in which they came.
    opening_order: VecDeque<ConnectionId>,
    drain: Drain,
    /// The number of the next question to a service.
    next_question: u32,
    message_ids: MessageIds,
    random: fastrand::Rng,
    default_permissions: Rc<Permissions>,
    /// Shared by connections without context takeover.
    inflater: Inflater,
    /// Decoders that hold nothing, for the next connection with an incomplete message.
    #[expect(clippy::vec_box, reason = "they come from rows and go back to rows, boxed")]
    spare_decoders: Vec<Box<Decoder>>,
    /// User agents, shared by the connections that have them.
    user_agents: HashMap<Rc<str>, (), RandomState>,
    hasher: RandomState,
}

/// What a shard holds, for tests and for the operator: after everyone has left, all of it is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Connections, of any state.
    pub connections: usize,
    /// Users with a session here.
    pub users: usize,
    /// Rooms with members here.
    pub rooms: usize,
    /// Channels with subscribers here.
    pub channels: usize,
    /// Rooms at home here.
    pub home_rooms: usize,
    /// Channels at home here.
    pub home_channels: usize,
    /// Envelopes that wait for the mesh.
    pub outgoing: usize,
    /// Envelopes that other shards have not finished with.
    pub outstanding: u64,
    /// Presence questions that wait for other shards.
    pub presence: usize,
    /// Commands of the server API, and searches for it, that wait for other shards or for the driver.
    pub commands: usize,
    /// Comings and goings in rooms that other nodes are asked about.
    pub comings: usize,
}

impl Held {
    /// Calls `f` with the name, the help text and the value of each, always in the same order.
    pub fn each(&self, mut f: impl FnMut(&'static str, &'static str, u64)) {
        f("connections", "Connections, of any state.", self.connections as u64);
        f("users", "Users with a session.", self.users as u64);
        f("rooms", "Rooms with members on the shard.", self.rooms as u64);
        f("channels", "Channels with subscribers on the shard.", self.channels as u64);
        f("home_rooms", "Rooms at home on the shard: over all shards, rooms.", self.home_rooms as u64);
        f("home_channels", "Channels at home on the shard: over all shards, channels.", self.home_channels as u64);
        f("outgoing", "Envelopes that wait for the mesh.", self.outgoing as u64);
        f("outstanding", "Envelopes that other shards have not finished with.", self.outstanding);
        f("presence", "Presence questions that wait for other shards.", self.presence as u64);
        f("commands", "Commands of the server API under way.", self.commands as u64);
        f("comings", "Comings and goings in rooms that other nodes are asked about.", self.comings as u64);
    }
}

impl Shard {
    /// `seed` makes what must be unpredictable to peers: hash keys and jitter.
    pub fn new(settings: Arc<Settings>, id: ShardId, seed: u64, now: Now) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut key = || random.u64(..);
        let hasher = RandomState::with_seeds(key(), key(), key(), key());
        let limits = &settings.config.limits;
        let ips = IpTable::new(limits.connections_per_ip, limits.connections_per_ip_window_ms, key());
        let cluster = Cluster::new(&settings, id, &hasher, &mut random, now);
        Shard {
            id,
            connections: Connections::new(id, settings.instance, &settings.config, now),
            users: Users::new(hasher.clone()),
            topics: LocalTopics::new(&hasher),
            homes: HomeTopics::new(&hasher),
            relay: Relay::new(id, settings.homes.shards()),
            presence: Presence::default(),
            commands: Commands::default(),
            cluster,
            ips,
            pressure: Pressure::new(settings.config.outbox.shard_budget),
            paused_by_pressure: Vec::new(),
            opening_order: VecDeque::new(),
            drain: Drain::Off,
            next_question: 0,
            message_ids: MessageIds::new(id, settings.instance),
            default_permissions: Rc::new((*settings.default_permissions).clone()),
            inflater: Inflater::new(),
            spare_decoders: Vec::new(),
            user_agents: HashMap::with_hasher(hasher.clone()),
            hasher,
            random,
            settings,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event<'_>, now: Now) {
        match event {
            Event::Accepted { conn, peer, over_capacity } => self.accepted(conn, peer, over_capacity, now),
            Event::Bytes { conn, data } => {
                if let Some(slot) = self.connections.find(conn) {
                    self.connections.counters.bytes_received += data.len() as u64;
                    self.bytes(slot, data, now);
                }
            }
            Event::Ended { conn } => {
                if let Some(slot) = self.connections.find(conn) {
                    self.ended(slot, now);
                }
            }
            Event::Writable { conn } => {
                if let Some(slot) = self.connections.find(conn) {
                    self.connections.unblock(slot);
                }
            }
            Event::Adopted { conn, state } => self.adopted(conn, state, now),
            Event::Envelope { from, envelope } => self.receive(from, envelope, now),
            Event::Panicked { conn, sending } => {
                self.connections.counters.panics += 1;
                match self.connections.find(conn) {
                    Some(slot) if sending => self.abandon(slot, CloseReason::Internal, now),
                    Some(slot) => self.panicked(slot, now),
                    None => {}
                }
            }
            Event::Tick => self.tick(now),
            Event::Drain => self.begin_drain(now),
            Event::Command { ticket, command } => self.command(ticket, command, now),
            Event::Probed { ticket, rtts_us } => self.probed(ticket, &rtts_us, now),
            Event::Verdict { conn, number, verdict } => self.verdict(conn, number, *verdict, now),
            Event::Reload(settings) => self.reload(settings),
            Event::Bus(incoming) => self.bus(incoming, now),
            Event::Leave => self.leave_cluster(now),
        }
        self.close_overflowed(now);
        self.relieve(now);
        if self.cluster.is_some() {
            self.pump_cluster(now);
        }
    }

    /// The next thing the driver must do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.connections.actions.pop_front()
    }

    /// The next connection with bytes to send; it is not returned again until [`Shard::sent`] is called for it or something new is queued.
    pub fn next_dirty(&mut self) -> Option<ConnectionId> {
        self.connections.next_dirty()
    }

    /// Whether [`Shard::next_dirty`] would return a connection.
    pub fn has_dirty(&self) -> bool {
        self.connections.has_dirty()
    }

    /// Bytes to send next on a connection. `scratch` takes small frames that are coalesced; 16 KiB are plenty.
    pub fn gather<'a>(&'a mut self, conn: ConnectionId, scratch: &'a mut [u8]) -> Gathered<'a> {
        match self.connections.find(conn) {
            Some(slot) => self.connections.gather(slot, scratch),
            None => Gathered::Empty,
        }
    }

    /// The kernel took `bytes` of the `offered` that were gathered. Fewer than offered means that [`Event::Writable`] will follow;
    /// where all was taken and more is queued, the connection is dirty again.
    pub fn sent(&mut self, conn: ConnectionId, offered: usize, bytes: usize, now: Now) {
        if let Some(slot) = self.connections.find(conn) {
            let flushed = self.connections.sent(slot, offered, bytes, now);
            if flushed.flows_again {
                self.connections.resume(slot, Paused::THROTTLED, now);
            }
            if flushed.has_gaps {
                self.tell_gaps(slot, now);
            }
            if flushed.empty && self.connections.release_outbox(slot) {
                self.flushed(slot);
            }
            // A gap that is told may be one too many; by the next event the row may be another connection's.
            self.close_overflowed(now);
        }
    }

    /// Whether an envelope waits for `to`.
    pub fn has_outgoing(&self, to: ShardId) -> bool {
        self.relay.has(to)
    }

    /// Payload bytes of the envelope that waits first for `to`.
    pub fn outgoing_bytes(&self, to: ShardId) -> Option<usize> {
        self.relay.next_bytes(to)
    }

    /// Takes the envelope that waits first for `to`; call it only when the mesh has room for it.
    pub fn take_outgoing(&mut self, to: ShardId, now: Now) -> Option<Envelope> {
        let (envelope, debt) = self.relay.take(to)?;
        if let Some(debt) = debt {
            self.settle(debt, now);
        }
        Some(envelope)
    }

    /// The number drawn at the start of this process.
    pub fn instance(&self) -> u32 {
        self.settings.instance
    }

    /// Connections this shard holds.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What this shard has counted.
    pub fn counters(&self) -> &Counters {
        &self.connections.counters
    }

    /// What this shard has measured.
    pub fn distributions(&self) -> &Distributions {
        &self.connections.distributions
    }

    /// What this shard holds now, in numbers for the operator. Cheap: nothing is looked for.
    pub fn gauges(&self) -> Gauges {
        let (budget_bytes, pressure) = (self.pressure.budget(), self.pressure.level());
        let mut gauges = Gauges { budget_bytes, pressure, ..self.connections.gauges() };
        if let Some(cluster) = &self.cluster {
            cluster.show(&mut gauges);
        }
        gauges
    }

    /// What this shard holds.
    pub fn held(&self) -> Held {
        use crate::protocol::envelope::Topic;
        Held {
            connections: self.connections.len(),
            users: self.users.len(),
            rooms: self.topics.len(Topic::Room),
            channels: self.topics.len(Topic::Channel),
            home_rooms: self.homes.len(Topic::Room),
            home_channels: self.homes.len(Topic::Channel),
            outgoing: self.relay.len(),
            outstanding: self.relay.outstanding(),
            presence: self.presence.len(),
            commands: self.commands.len(),
            comings: self.cluster.as_ref().map_or(0, |cluster| cluster.comings()),
        }
    }

    fn reload(&mut self, settings: Arc<Settings>) {
        self.connections.configure(&settings.config);
        self.pressure.set_budget(settings.config.outbox.shard_budget);
        let limits = &settings.config.limits;
        self.ips.set_limits(limits.connections_per_ip, limits.connections_per_ip_window_ms);
        self.default_permissions = Rc::new((*settings.default_permissions).clone());
        self.settings = settings;
    }

    /// What a decoder must know of this connection.
    fn decoder_config(&self, slot: u32) -> DecoderConfig {
        DecoderConfig {
            message_size_max: self.settings.config.limits.message_size as usize,
            deflate: self.connections.row(slot).deflate,
        }
    }
}

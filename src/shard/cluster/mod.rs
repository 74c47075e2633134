//! The shard's part in the cluster: what its sessions and topics want of the bus, and what the bus brings.
//!
//! | module | what it does |
//! |---|---|
//! | this one | the [agent](crate::cluster::agent) in the shard, the lease and its standing, who else is in the cluster |
//! | [`waiting`] | `auth:ok` and the `ok` of `join` and `subscribe`, until the cluster knows |
//! | [`publishing`] | messages for rooms, channels and everybody on other nodes |
//! | [`unicast`] | messages for users on other nodes |
//! | [`arriving`] | what was published to this node |
//! | [`asking`] | questions to other nodes, and their answers |
//! | [`comings`] | who comes into rooms and who goes, once for the whole cluster |
//! | [`moving`] | users who belong on another node, by the ring |
//! | [`route`] | `GET /route`: where a user belongs |
//! | [`reaping`] | cleaning up after dead nodes |
//!
//! Without a cluster there is none of this, and nobody asks for it but for one branch here and there.

use std::collections::BTreeSet;
use std::rc::Rc;

use ahash::RandomState;

use crate::cluster::agent::{Action as AgentAction, Agent, Clock, Event as AgentEvent, Identity, Standing};
use crate::cluster::exchange::Counters;
use crate::cluster::lease::Lease;
use crate::cluster::link::State as LinkState;
use crate::cluster::moving::Moving;
use crate::cluster::nodes::Nodes;
use crate::cluster::parcel::Origin;
use crate::cluster::registry::wants::Pace;
use crate::cluster::wire::{Incoming, Outgoing};
use crate::config::Routing;
use crate::ids::ShardId;
use crate::limits::{BUS_UNANSWERED_MAX, LEASE_POLL_MS};
use crate::protocol::command::{ClusterInfo, NodeInfo};
use crate::protocol::envelope::{Envelope, Topic};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::shard::event::Action;
use crate::shard::gauges::Gauges;
use crate::time::Now;

mod arriving;
mod asking;
mod comings;
mod moving;
mod publishing;
mod reaping;
pub(super) mod route;
mod unicast;
mod waiting;

pub(super) use asking::Elsewhere;
pub(super) use publishing::Fate;
pub(super) use waiting::Admission;

/// How long a channel waits for others to be subscribed to with it: its client waits too.
const CHANNEL_DELAY_MS: u64 = 1;
/// The shard that has the lease of the node.
const LEASE_SHARD: ShardId = ShardId(0);
/// The channel for everybody.
const BROADCAST: &str = "broadcast";

/// One shard's membership in the cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    agent: Agent,
    nodes: Nodes,
    origin: Origin,
    timeout_ms: u64,
    waiting: waiting::Waiting,
    publishes: publishing::Publishes,
    unicasts: unicast::Unicasts,
    asking: asking::Asking,
    reaper: reaping::Reaper,
    comings: comings::Comings,
    /// Where users belong, in routing `hash`.
    moving: Option<Moving>,
    /// When the leases were asked for last (boottime).
    polled_boot_ms: Option<u64>,
    /// On the shard that has the lease: the shards that have announced everybody, and under which epoch.
    announced: (u64, BTreeSet<ShardId>),
    leaving: Leaving,
}

/// Whether the node gives back what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Not,
    Asked,
    Told,
}

impl Cluster {
    /// The membership of a shard, where there is a cluster. The first shard has the lease.
    pub(super) fn new(
        settings: &Settings,
        shard: ShardId,
        hasher: &RandomState,
        random: &mut fastrand::Rng,
        now: Now,
    ) -> Option<Box<Self>> {
        let routing = settings.config.cluster.routing;
        if routing == Routing::Local {
            return None;
        }
        let redis = &settings.config.redis;
        let unanswered_max = BUS_UNANSWERED_MAX.max(2 * redis.batch_size as usize);
        let rows = Pace {
            batch_size: redis.batch_size as usize,
            batch_delay_ms: redis.batch_delay_ms,
            unanswered_max,
            renew_every_ms: (redis.entry_ttl_ms / 3).max(1),
        };
        let delay_ms = CHANNEL_DELAY_MS.min(redis.batch_delay_ms);
        let channels = Pace { batch_delay_ms: delay_ms, renew_every_ms: 0, ..rows };
        let identity = Identity { shard, instance: settings.instance, timeout_ms: redis.timeout_ms, rows, channels };
        let has_lease = shard == LEASE_SHARD;
        let lease = has_lease.then(|| Lease::new(&settings.node_id, redis.lease_ttl_ms, random.u64(..)));
        let mut agent = Agent::new(&identity, lease, random.u64(..), hasher.clone());
        let origin = Origin { instance: settings.instance, shard };
        agent.handle(AgentEvent::Listen(BROADCAST), clock(now));
        let unicasts = unicast::Unicasts::new(routing, origin, redis, hasher);
        for channel in unicasts.channels() {
            agent.handle(AgentEvent::Listen(channel), clock(now));
        }
        Some(Box::new(Cluster {
            agent,
            nodes: Nodes::default(),
            origin,
            timeout_ms: redis.timeout_ms,
            waiting: waiting::Waiting::new(hasher),
            publishes: publishing::Publishes::new(hasher),
            unicasts,
            asking: asking::Asking::new(hasher),
            reaper: reaping::Reaper::new(has_lease),
            comings: comings::Comings::new(hasher),
            moving: (routing == Routing::Hash).then(|| Moving::new(random.u64(..), hasher.clone())),
            polled_boot_ms: None,
            announced: Default::default(),
            leaving: Leaving::Not,
        }))
    }

    /// Whether other nodes can be reached, and this one is a member under a lease that holds.
    fn is_usable(&self, now: Now) -> bool {
        self.agent.state() == LinkState::Up && self.agent.standing().is_some_and(|s| now.boot_ms < s.until_ms)
    }

    /// Whether what the bus brings may be delivered: a lease holds, and what comes was published under it. A process that was stopped finds
    /// what is older in its sockets when it goes on.
    fn may_deliver(&self, now: Now) -> bool {
        self.agent.listens() && self.agent.standing().is_some_and(|s| now.boot_ms < s.until_ms)
    }

    /// Whether what is published for a user, or sent to where the registry has them, reaches this shard.
    fn knows(&self, user: &str) -> bool {
        self.agent.is_registered(user) && self.agent.is_listening(&user_channel(user))
    }

    /// Comings and goings that are not told yet.
    pub(super) fn comings(&self) -> usize {
        self.comings.len()
    }

    /// What was counted of messages to users on other nodes.
    pub(super) fn unicast_counters(&self) -> &Counters {
        self.unicasts.counters()
    }

    /// What the bus holds of this shard, for the operator.
    pub(super) fn show(&self, gauges: &mut Gauges) {
        let (rows, channels) = self.agent.held();
        gauges.bus_state = match self.agent.state() {
            LinkState::Down => 1,
            LinkState::Resync => 2,
            LinkState::Up => 3,
        };
        gauges.bus_rows = rows as u32;
        gauges.bus_channels = channels as u32;
        gauges.bus_waiting = self.waiting.len() as u32;
        let unicasts = self.unicasts.held();
        gauges.bus_unanswered = (self.publishes.len() + unicasts.messages) as u32;
        gauges.bus_routes = unicasts.routes as u32;
        gauges.bus_nodes = self.nodes.len() as u32;
        gauges.bus_epoch = self.agent.standing().map_or(0, |s| s.epoch);
    }
}

/// The clocks as the agent reads them.
fn clock(now: Now) -> Clock {
    Clock { mono_ms: now.mono_ms, boot_ms: now.boot_ms, unix_ms: now.unix_ms }
}

/// The channel of a room or of a channel, without the prefix.
fn topic_channel(topic: Topic, name: &str) -> String {
    let kind = match topic {
        Topic::Room => "room",
        Topic::Channel => "channel",
    };
    [kind, ":", name].concat()
}

/// The channel of a user, without the prefix.
fn user_channel(user: &str) -> String {
    ["user:", user].concat()
}

impl Shard {
    /// When this shard wants to be told that time has passed on the bus, before the next tick.
    pub fn bus_due_ms(&self, now: Now) -> Option<u64> {
        let cluster = self.cluster.as_ref()?;
        cluster.agent.due_ms(clock(now))
    }

    /// What this shard knows of the cluster, for the operator.
    pub(super) fn cluster_info(&self, now: Now) -> Option<ClusterInfo> {
        let cluster = self.cluster.as_ref()?;
        let standing = cluster.agent.standing().filter(|standing| now.boot_ms < standing.until_ms);
        let lease = standing.map(|s| (Box::from(&*s.node), s.epoch, s.until_ms - now.boot_ms));
        let node = |(name, epoch): (&Rc<str>, u64)| {
            let about = cluster.nodes.about(name);
            NodeInfo {
                name: Box::from(&**name),
                epoch,
                lease_ms: cluster.nodes.lives_ms(name, now.boot_ms),
                shards: about.map_or(0, |about| about.shards),
                weight: about.map_or(0, |about| about.weight),
                advertise: about.and_then(|about| about.advertise.as_deref()).map(Box::from),
            }
        };
        let ring = cluster.moving.as_ref().map(|moving| moving.ring().fingerprint());
        Some(ClusterInfo { lease, nodes: cluster.nodes.live(now.boot_ms).map(node).collect(), ring })
    }

    /// The living node whose process this is, among the others.
    pub(super) fn living_node(&self, instance: u32, now: Now) -> Option<Rc<str>> {
        let cluster = self.cluster.as_ref()?;
        cluster.nodes.of_instance(instance, now.boot_ms).cloned()
    }

    /// Something came from the bus.
    pub(super) fn bus(&mut self, incoming: Incoming, now: Now) {
        match incoming {
            Incoming::Agent(event) => {
                self.connections.counters.bus_connects += u64::from(matches!(event, AgentEvent::Connected(_)));
                self.tell_agent(event, now);
            }
            Incoming::Message { channel, payload } => self.message_arrived(&channel, &payload, now),
            Incoming::Published { ticket, heard } => self.published(ticket, heard, now),
            Incoming::Unanswered(tickets) => self.publishes_lost(tickets, now),
            Incoming::Found { user, rows } => self.user_found(&user, rows, now),
            Incoming::Invalidated(users) => self.routes_changed(&users),
            Incoming::InvalidatedAll => {
                // If Redis has forgotten everything, this lease as well: who looks now must not look for long.
                if let Some(cluster) = &mut self.cluster {
                    cluster.agent.renew_lease(clock(now));
                }
                self.all_routes_changed(now);
            }
            Incoming::Leases { leases, asked_ms } => {
                self.leases_read(&leases, asked_ms, now);
                if let Some(cluster) = &mut self.cluster {
                    cluster.nodes.polled(leases, asked_ms);
                }
                self.ring_read(now);
            }
            Incoming::Sampled { grave, users } => self.grave_sampled(&grave, users),
            Incoming::Removed { node, user } => self.dead_row_removed(&node, &user),
        }
    }

    /// Time passed: what waits too long, and what is done from time to time.
    pub(super) fn tick_cluster(&mut self, now: Now) {
        if self.cluster.is_none() {
            return;
        }
        self.waited_too_long(now);
        self.asked_too_long(now);
        self.comings_too_long(now);
        self.poll_leases(now);
        self.reap(now);
        self.tick_unicasts(now);
        self.move_users(now);
    }

    /// Does what the agent, and the exchange of unicasts, have decided. Called when everything of one event is done.
    pub(super) fn pump_cluster(&mut self, now: Now) {
        self.pump_unicasts(now);
        while let Some(action) = self.cluster.as_mut().and_then(|cluster| cluster.agent.next_action()) {
            match action {
                AgentAction::Standing(standing) => {
                    for shard in (0..self.settings.homes.shards()).map(ShardId).filter(|shard| *shard != self.id) {
                        self.relay.send(shard, Envelope::Standing(standing.clone()), None);
                    }
                    self.stands(now);
                }
                AgentAction::UserSettled { user, present: true } => self.user_settled(&user, now),
                AgentAction::ChannelSettled { channel, present: true } => self.channel_settled(&channel, now),
                AgentAction::UserSettled { .. } | AgentAction::ChannelSettled { .. } => {}
                AgentAction::Changed(state) => {
                    self.connections.counters.bus_outages += u64::from(state == LinkState::Down);
                    self.ask_bus(Outgoing::Agent(AgentAction::Changed(state)));
                    match (state, self.epoch()) {
                        (LinkState::Up, Some(epoch)) if self.id == LEASE_SHARD => self.announced(self.id, epoch, now),
                        (LinkState::Up, Some(epoch)) => {
                            self.relay.send(LEASE_SHARD, Envelope::Announced(epoch), None);
                        }
                        (LinkState::Up, None) => {}
                        (LinkState::Down | LinkState::Resync, _) => self.nobody_waits_any_more(now),
                    }
                    self.stands(now);
                }
                action => self.ask_bus(Outgoing::Agent(action)),
            }
            self.pump_unicasts(now);
        }
        self.tell_that_left();
    }

    /// The shard that has the lease says how it stands.
    pub(super) fn standing_changed(&mut self, standing: Option<Standing>, now: Now) {
        self.tell_agent(AgentEvent::Standing(standing), now);
        self.stands(now);
    }

    /// At the shard that has the lease: a shard has announced everybody under an epoch. When all have, the lease says so.
    pub(super) fn announced(&mut self, shard: ShardId, epoch: u64, now: Now) {
        let (shards, held) = (usize::from(self.settings.homes.shards()), self.epoch());
        let Some(cluster) = self.cluster.as_mut().filter(|_| held == Some(epoch)) else { return };
        if cluster.announced.0 != epoch {
            cluster.announced = (epoch, BTreeSet::new());
        }
        if cluster.announced.1.insert(shard) && cluster.announced.1.len() == shards {
            cluster.agent.renew_lease(clock(now));
            self.ask_bus(Outgoing::Announced);
        }
    }

    /// The epoch under which this node is in the cluster.
    fn epoch(&self) -> Option<u64> {
        self.cluster.as_ref()?.agent.standing().map(|standing| standing.epoch)
    }

    /// The node ends.
    pub(super) fn leave_cluster(&mut self, now: Now) {
        let Some(cluster) = &mut self.cluster else { return self.connections.actions.push_back(Action::Left) };
        cluster.leaving = Leaving::Asked;
        // While it still can.
        self.tell_all_comings(now);
        if let Some(cluster) = &mut self.cluster {
            cluster.agent.leave(clock(now));
        }
    }

    fn tell_that_left(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        // Without a link nothing can be given back: it runs out.
        let over = cluster.agent.has_left() || cluster.agent.state() == LinkState::Down;
        if cluster.leaving == Leaving::Asked && over {
            cluster.leaving = Leaving::Told;
            self.connections.actions.push_back(Action::Left);
        }
    }

    fn tell_agent(&mut self, event: AgentEvent<'_>, now: Now) {
        if let Some(cluster) = &mut self.cluster {
            cluster.agent.handle(event, clock(now));
            let listens = cluster.agent.listens();
            cluster.unicasts.listening(listens);
        }
    }

    fn ask_bus(&mut self, outgoing: Outgoing) {
        self.connections.actions.push_back(Action::Bus(outgoing));
    }

    /// A user's first connection on this shard.
    pub(super) fn user_came(&mut self, user: &str, now: Now) {
        if self.cluster.is_some() {
            self.tell_agent(AgentEvent::UserCame(user), now);
            self.tell_agent(AgentEvent::Listen(&user_channel(user)), now);
        }
    }

    /// A user's last connection on this shard is gone.
    pub(super) fn user_left(&mut self, user: &str, now: Now) {
        if self.cluster.is_some() {
            self.tell_agent(AgentEvent::UserLeft(user), now);
            let needed = self.cluster.as_ref().is_some_and(|cluster| cluster.comings.concern(user));
            if !needed {
                self.tell_agent(AgentEvent::Unlisten(&user_channel(user)), now);
            }
        }
    }

    /// At the home of a topic: somebody of this node is in it now.
    pub(super) fn topic_came(&mut self, topic: Topic, name: &str, now: Now) {
        if self.cluster.is_some() {
            self.tell_agent(AgentEvent::Listen(&topic_channel(topic, name)), now);
        }
    }

    /// At the home of a topic: nobody of this node is in it any more.
    pub(super) fn topic_left(&mut self, topic: Topic, name: &str, now: Now) {
        if self.cluster.is_some() {
            let channel = topic_channel(topic, name);
            self.tell_agent(AgentEvent::Unlisten(&channel), now);
            // Who still waits to be heard there waits for nothing.
            self.channel_settled(&channel, now);
        }
    }

    fn poll_leases(&mut self, now: Now) {
        let Some(cluster) = &mut self.cluster else { return };
        let due = cluster.polled_boot_ms.is_none_or(|at| now.boot_ms >= at + LEASE_POLL_MS);
        if due && cluster.agent.state() != LinkState::Down {
            cluster.polled_boot_ms = Some(now.boot_ms);
            self.ask_bus(Outgoing::PollLeases { asked_ms: now.boot_ms });
        }
    }
}

/// A name as the wires want it.
fn shared(name: &str) -> Rc<str> {
    Rc::from(name)
}

#[cfg(test)]
mod tests;

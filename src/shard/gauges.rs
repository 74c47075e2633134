//! What a shard holds at a moment, for the operator: numbers that go up and down.

use crate::shard::pressure::Level;

/// Gauges of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections whose upgrade request is being read.
    pub connecting: u32,
    /// Connections that are upgraded and have no identity yet.
    pub authenticating: u32,
    /// Connections on their way to their home shard.
    pub moving: u32,
    /// Sessions.
    pub sessions: u32,
    /// Connections to `/echo`.
    pub echoing: u32,
    /// Connections with a close frame or a refusal on its way.
    pub closing: u32,
    /// Connections that are behind: above the high mark, and not below the low one since.
    pub throttled: u32,
    /// Connections that are not read from because the shard is short of memory.
    pub paused_by_pressure: u32,
    /// Connections that wait for what a service says about them, or about what they sent.
    pub asking: u32,
    /// Outboxes in use.
    pub outboxes: u32,
    /// Bytes queued, charged to each receiver: a frame in ten outboxes counts ten times.
    pub queued_bytes: u64,
    /// Bytes that the queued frames take up: each counts once.
    pub stored_bytes: u64,
    /// Bytes of the rings of outboxes.
    pub ring_bytes: u64,
    /// Bytes of incomplete messages, request heads, filters and compression contexts.
    pub partial_bytes: u64,
    /// Bytes of capacity that is kept for reuse.
    pub idle_bytes: u64,
    /// All of it that counts against the budget: stored, rings, partial and idle.
    pub held_bytes: u64,
    /// The bound `outbox.shard_budget`; 0 is none.
    pub budget_bytes: u64,
    /// Where the shard is on the ladder.
    pub pressure: Level,
    /// Milliseconds for which the oldest queued message has been waiting: as of the last round of looking, which takes a tick for every
    /// thousand outboxes that were in use at once.
    pub oldest_queued_ms: u64,
    /// The link to the bus: 0 where there is none, 1 down, 2 being made good, 3 up.
    pub bus_state: u32,
    /// The epoch of the node's lease; 0: none is held.
    pub bus_epoch: u64,
    /// Nodes in the cluster, as last read.
    pub bus_nodes: u32,
    /// Users whose rows are kept in the registry.
    pub bus_rows: u32,
    /// Channels subscribed to.
    pub bus_channels: u32,
    /// Users and channels for which a client waits.
    pub bus_waiting: u32,
    /// Messages published or sent to users elsewhere that have no answer.
    pub bus_unanswered: u32,
    /// Users elsewhere whose rows are remembered.
    pub bus_routes: u32,
}

impl Gauges {
    /// Calls `f` with the name, the help text and the value of each, always in the same order.
    pub fn each(&self, mut f: impl FnMut(&'static str, &'static str, u64)) {
        f("connecting", "Connections whose upgrade request is being read.", self.connecting.into());
        f("authenticating", "Connections that are upgraded and have no identity yet.", self.authenticating.into());
        f("moving", "Connections on their way to their home shard.", self.moving.into());
        f("sessions", "Sessions.", self.sessions.into());
        f("echoing", "Connections to /echo.", self.echoing.into());
        f("closing", "Connections with a close frame or a refusal on its way.", self.closing.into());
        f(
            "throttled",
            "Connections that are behind: above the high mark, and not below the low one since.",
            self.throttled.into(),
        );
        f(
            "paused_by_pressure",
            "Connections that are not read from because the shard is short of memory.",
            self.paused_by_pressure.into(),
        );
        f(
            "asking",
            "Connections that wait for what a service says about them, or about what they sent.",
            self.asking.into(),
        );
        f("outboxes", "Outboxes in use.", self.outboxes.into());
        f(
            "queued_bytes",
            "Bytes queued, charged to each receiver: a frame in ten outboxes counts ten times.",
            self.queued_bytes,
        );
        f("stored_bytes", "Bytes that the queued frames take up: each counts once.", self.stored_bytes);
        f(
            "partial_bytes",
            "Bytes of incomplete messages, request heads, filters and compression contexts, and of the rings of outboxes.",
            self.partial_bytes,
        );
        f("idle_bytes", "Bytes of capacity that is kept for reuse.", self.idle_bytes);
        f("held_bytes", "All of it that counts against the budget: stored, partial and idle.", self.held_bytes);
        f("budget_bytes", "The bound outbox.shard_budget; 0 is none.", self.budget_bytes);
        f("pressure", "Where the shard is on the ladder.", self.pressure as u64);
        f(
            "oldest_queued_ms",
            "Milliseconds for which the oldest queued message has been waiting: as of the last round of looking, which takes a tick for every thousand outboxes in use.",
            self.oldest_queued_ms,
        );
        f("bus_state", "The link to the bus: 0 none, 1 down, 2 being made good, 3 up.", self.bus_state.into());
        f("bus_epoch", "The epoch of the node's lease; 0 where none is held.", self.bus_epoch);
        f("bus_nodes", "Nodes in the cluster, as last read.", self.bus_nodes.into());
        f("bus_rows", "Users whose rows are kept in the registry.", self.bus_rows.into());
        f("bus_channels", "Channels subscribed to.", self.bus_channels.into());
        f("bus_waiting", "Users and channels for which a client waits.", self.bus_waiting.into());
        f("bus_unanswered", "Messages for other nodes that have no answer.", self.bus_unanswered.into());
        f("bus_routes", "Users of other nodes whose rows are remembered.", self.bus_routes.into());
    }
}

//! What a run consists of: who is in which room, who sends what to whom and how fast. Arithmetic over the index of a
//! connection, the same in every worker.

use std::time::Duration;

use crate::content::MARK_LEN;
use crate::options::{Mode, Options, seconds};

/// How fast a flow goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// So many under way; the next one when one has arrived.
    Closed(u32),
    /// So many per second, all senders together, at fixed times.
    Rate(f64),
}

/// Rooms (or channels) and what is sent in them.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    pub(crate) count: u32,
    pub(crate) senders: u32,
    pub(crate) kind: RoomKind,
    /// `None`: joined, but nothing is sent.
    pub(crate) pace: Option<Pace>,
}

/// What a room is to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomKind {
    Rooms,
    Channels,
    /// Every other one is a channel.
    Both,
}

/// The resolved command line.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// Connections that are counted and checked.
    pub(crate) connections: u32,
    /// More connections, which are cut and come back; nobody counts on them.
    pub(crate) churners: u32,
    pub(crate) churn_per_second: f64,
    pub(crate) workers: u32,
    /// Workers do not sleep while messages are sent.
    pub(crate) spin: bool,
    pub(crate) size: usize,
    pub(crate) echo: Option<Pace>,
    pub(crate) rooms: Option<Rooms>,
    pub(crate) pairs: Option<Pace>,
    pub(crate) broadcast_every: Option<Duration>,
    /// The share of a room's members that do not read.
    pub(crate) slow_share: f64,
    pub(crate) connect_rate: f64,
    pub(crate) inflight: u32,
    pub(crate) warmup: Duration,
    pub(crate) measure: Duration,
    pub(crate) rounds: u32,
    /// Servers that the connections are spread over by turns.
    pub(crate) nodes: u32,
}

/// Connections per worker: below the 20,000 descriptors that a table may have to do with.
const WORKER_CONNECTIONS_MAX: u32 = 18_500;

impl Plan {
    pub(crate) fn new(options: &Options, descriptors: usize) -> Result<Plan, String> {
        let mode = options.mode;
        let nodes = if mode == Mode::Cluster { options.nodes } else { 1 };
        let check = options.check;
        let pick = |given: Option<u32>, small: u32, usual: u32| given.unwrap_or(if check { small } else { usual });

        let default_rooms = match mode {
            Mode::Fanout => (4, 1, 25, 1000),
            Mode::Slow => (2, 2, 20, 100),
            Mode::Mix => (8, 40, 10, 50),
            _ => (0, 0, 20, 100),
        };
        let members = pick(options.members, default_rooms.2, default_rooms.3).max(2);
        let by_rooms = match (options.rooms, options.connections) {
            (Some(rooms), _) => rooms.max(1) * members,
            (None, Some(connections)) => connections,
            (None, None) => pick(None, default_rooms.0, default_rooms.1) * members,
        };
        let connections = match mode {
            Mode::Idle => pick(options.connections, 400, 10_000),
            Mode::Echo => pick(options.connections, 50, 100),
            Mode::P2p => pick(options.connections, 200, 1000),
            Mode::Storm => pick(options.connections, 1000, 20_000),
            // So many that everybody has a partner on the same node and one on another.
            Mode::Cluster => pick(options.connections, 60, 600).max(1).next_multiple_of(2 * nodes),
            Mode::Fanout | Mode::Slow | Mode::Mix => by_rooms,
        }
        .max(1);

        let pace = |rate: f64, depth: u32| if rate > 0.0 { Pace::Rate(rate) } else { Pace::Closed(depth.max(1)) };
        let depth = options.depth.unwrap_or(1);
        let room_pace = match mode {
            Mode::Fanout => Some(pace(options.rate.unwrap_or(0.0), depth)),
            Mode::Slow => Some(pace(options.rate.unwrap_or(if check { 1000.0 } else { 400.0 }), depth)),
            Mode::Mix => Some(pace(options.rate.unwrap_or(if check { 100.0 } else { 400.0 }), depth)),
            Mode::Idle | Mode::Echo | Mode::P2p | Mode::Storm | Mode::Cluster => None,
        };
        let rooms = (!matches!(mode, Mode::Echo | Mode::P2p | Mode::Cluster)).then(|| Rooms {
            count: (connections / members).max(1),
            senders: options.senders.unwrap_or(1).clamp(1, members),
            kind: match mode {
                _ if options.channels => RoomKind::Channels,
                Mode::Mix => RoomKind::Both,
                _ => RoomKind::Rooms,
            },
            pace: room_pace,
        });
        let p2p_rate = options.p2p_rate.unwrap_or(match mode {
            Mode::Mix if check => 200.0,
            Mode::Mix => 1000.0,
            _ => 0.0,
        });
        let pairs = match mode {
            Mode::P2p => Some(pace(options.rate.unwrap_or(if check { 1000.0 } else { 5000.0 }), depth)),
            Mode::Cluster => Some(pace(options.rate.unwrap_or(if check { 500.0 } else { 2000.0 }), depth)),
            _ => (p2p_rate > 0.0).then_some(Pace::Rate(p2p_rate)),
        };
        let broadcast = options.broadcast.or((mode == Mode::Mix).then_some(1.0)).filter(|every| *every > 0.0);
        let churn_per_second = options.churn.unwrap_or(if mode == Mode::Mix { 20.0 } else { 0.0 }).max(0.0);
        let churners = if churn_per_second > 0.0 { (churn_per_second * 2.0).ceil() as u32 } else { 0 };
        let slow_share = match mode {
            Mode::Slow => options.slow_share.unwrap_or(0.1).clamp(0.0, 1.0),
            _ => 0.0,
        };

        let fits = (descriptors.saturating_sub(200) as u32).clamp(1, WORKER_CONNECTIONS_MAX);
        let workers = options.workers.unwrap_or((connections + churners).div_ceil(fits)).max(1);
        if (connections + churners).div_ceil(workers) > fits {
            return Err(format!("{workers} workers cannot hold {connections} connections, {fits} each"));
        }
        let size = options.size.unwrap_or(if mode == Mode::Slow { 4096 } else { 256 });
        let (quick, usual) = match mode {
            Mode::Idle => (1.0, 60.0),
            Mode::Slow => (3.0, 15.0),
            Mode::Storm => (0.5, 2.0),
            Mode::Echo | Mode::Fanout | Mode::P2p | Mode::Mix | Mode::Cluster => (1.0, 5.0),
        };
        Ok(Plan {
            mode,
            connections,
            churners,
            churn_per_second,
            workers,
            spin: options.spin,
            size: size.clamp(MARK_LEN, 16 << 20),
            echo: (mode == Mode::Echo).then(|| pace(options.rate.unwrap_or(0.0), options.depth.unwrap_or(1))),
            rooms,
            pairs,
            broadcast_every: broadcast.map(seconds),
            slow_share,
            connect_rate: options.connect_rate.unwrap_or(if mode == Mode::Storm { 0.0 } else { 2000.0 }),
            inflight: options.inflight.unwrap_or(if mode == Mode::Storm { 0 } else { 500 }),
            warmup: seconds(options.warmup.unwrap_or(if check || mode == Mode::Storm { 0.2 } else { 1.0 })),
            measure: seconds(options.seconds.unwrap_or(if check { quick } else { usual })),
            rounds: pick(options.rounds, if mode == Mode::Cluster { 1 } else { 2 }, 3),
            nodes,
        })
    }

    /// All connections, with those that come and go.
    pub(crate) fn total(&self) -> u32 {
        self.connections + self.churners
    }

    /// The connections of one worker.
    pub(crate) fn share(&self, worker: u32) -> std::ops::Range<u32> {
        let at = |w: u32| (u64::from(self.total()) * u64::from(w) / u64::from(self.workers)) as u32;
        at(worker)..at(worker + 1)
    }

    pub(crate) fn is_churner(&self, i: u32) -> bool {
        i >= self.connections
    }

    /// The room of a connection; neighbours are in different rooms, so that a room spans the workers.
    pub(crate) fn room(&self, i: u32) -> Option<u32> {
        let rooms = self.rooms.as_ref()?;
        (!self.is_churner(i)).then(|| i % rooms.count)
    }

    pub(crate) fn is_channel(&self, room: u32) -> bool {
        match self.rooms.as_ref().map(|rooms| rooms.kind) {
            Some(RoomKind::Channels) => true,
            Some(RoomKind::Both) => room % 2 == 1,
            Some(RoomKind::Rooms) | None => false,
        }
    }

    /// Messages under way per room, where the next one waits for one to have reached everybody.
    pub(crate) fn room_depth(&self) -> Option<u32> {
        match self.rooms.as_ref()?.pace? {
            Pace::Closed(depth) => Some(depth),
            Pace::Rate(_) => None,
        }
    }

    /// A connection's place in its room. The first ones are the senders.
    pub(crate) fn slot(&self, i: u32) -> u32 {
        self.rooms.as_ref().map_or(0, |rooms| i / rooms.count)
    }

    pub(crate) fn is_room_sender(&self, i: u32) -> bool {
        self.rooms.as_ref().is_some_and(|rooms| rooms.pace.is_some() && self.slot(i) < rooms.senders)
            && !self.is_churner(i)
    }

    pub(crate) fn is_slow(&self, i: u32) -> bool {
        // Spread evenly over the room: so many of the first n are slow, for every n.
        let slow_before = |slot: u32| (f64::from(slot) * self.slow_share).floor();
        let slot = self.slot(i);
        slow_before(slot + 1) > slow_before(slot) && !self.is_churner(i) && !self.is_room_sender(i)
    }

    /// How many counted connections a message to `room` reaches.
    pub(crate) fn room_receivers(&self, room: u32) -> u32 {
        let Some(rooms) = &self.rooms else { return 0 };
        let members = (room..self.connections).step_by(rooms.count as usize);
        let reading = members.filter(|&i| !self.is_slow(i)).count() as u32;
        // A channel's publication comes back to its own subscriber, a room's message never.
        if self.is_channel(room) { reading } else { reading.saturating_sub(1) }
    }

    /// How many counted connections a broadcast reaches; whether the sender itself is among them is left open.
    pub(crate) fn broadcast_receivers(&self) -> u32 {
        (0..self.connections).filter(|&i| !self.is_slow(i)).count() as u32 - 1
    }

    /// With whom a connection exchanges direct messages: half of all away, so that pairs span workers and shards. In a cluster it is
    /// somebody on the same node.
    pub(crate) fn partner(&self, i: u32) -> Option<u32> {
        if self.nodes > 1 {
            let place = i % (2 * self.nodes);
            return Some(if place < self.nodes { i + self.nodes } else { i - self.nodes });
        }
        let half = self.connections / 2;
        if i < half {
            Some(i + half)
        } else if i < 2 * half {
            Some(i - half)
        } else {
            None
        }
    }

    /// With whom a connection exchanges direct messages across nodes.
    pub(crate) fn partner_beyond(&self, i: u32) -> Option<u32> {
        // Neighbours are on different nodes, and their number is even.
        (self.nodes > 1).then_some(i ^ 1)
    }
}

//! ringgate: a WebSocket gateway for Linux that holds 100,000+ connections per box and routes messages between users, rooms and channels.
//!
//! This is the map for those who work on it. What it does for its users, and how to run it, is in `README.md`.
//!
//! # Bird's-eye view
//!
//! One process, one thread per core, and each thread is a *shard*: it owns a slice of the connections with everything that belongs to
//! them, and shares nothing with the others but bounded queues.
//!
//! ```text
//!            accept (SO_REUSEPORT)                     home of the user: hash(user) % shards
//!   client ───────────────────────▶ shard A ─────────▶ shard B          (SCM_RIGHTS, once, after authentication)
//!                                      │
//!   on each shard, one turn:           │
//!   readiness → receive → Shard::handle → actions → flush what became dirty → move envelopes into the mesh
//!                                      │
//!                                      └── mesh: a bounded queue per pair of shards, an eventfd doorbell per shard
//! ```
//!
//! * A connection is accepted by any shard, shakes hands and authenticates there, and is handed to its user's *home* shard. So user → shard
//!   is arithmetic; and so are room → shard and channel → shard: a topic's home knows which shards have anyone in it, and only those get
//!   its messages.
//! * A connection at rest is a row ([`shard`]): no task, no buffer, no timer. What is incomplete or queued is borrowed from pools.
//! * A message is encoded once by the shard that accepted it, copied once per destination shard, and shared by all receivers there.
//! * Nobody writes to a socket when a message is routed. It goes to the receiver's outbox; all outboxes that have something are flushed
//!   once per turn, frames coalesced, up to 256 sends in one system call.
//!
//! # Code map
//!
//! `main → node → admin → {io, mesh} → shard → {ws, protocol, auth} → {settings, config, error, ids, limits, time}`; arrows are the only
//! directions in which modules name each other, and a test holds it so.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`], [`config`], [`log`] | arguments, configuration, log lines |
//! | [`node`] | builds shards, mesh and signals; start, reload, drain, end |
//! | [`io`] | **the only user of clients' sockets, and of unsafe code**: reactor, pollers (io_uring, epoll), listener, descriptor tables |
//! | [`admin`] | the admin listener: health, metrics, server API, page, webhooks, and questions to services; tasks of the first shard's runtime beside its reactor |
//! | [`operator`] | `ringgate top` and `ringgate trace`: the server API from a terminal |
//! | [`mesh`] | between shards: queues, doorbells, and the hand-over of sockets |
//! | [`shard`] | the state machine: [events](shard::event::Event) in, [actions](shard::event::Action) out |
//! | [`ws`] | WebSocket, pure: handshake, frames, messages, compression |
//! | [`protocol`] | what clients say and hear, and the [envelopes](protocol::envelope::Envelope) between shards |
//! | [`auth`] | tokens to claims |
//! | [`cluster`] | what a node decides as a member of a cluster, pure: link, lease, registry, exchange, ring. Shards own it where there is one |
//! | [`bus`] | the wires to other nodes: Redis, on monoio; polled by the reactor in its own task |
//! | [`settings`] | what all shards share, read-only |
//! | [`limits`] | every bound that is not a configuration key |
//!
//! # Invariants
//!
//! * **Pure**: `shard`, `cluster`, `ws`, `protocol` and `auth` know no socket, clock, entropy, thread or lock. Time and randomness are arguments; so
//!   the simulators (`tests/sim`, and `tests/cluster_shards` for nodes over a modelled Redis) run whole sets of shards on one thread with a
//!   virtual clock.
//! * **No locks, no shared maps.** Shards speak through [`mesh`] only. monoio's `sync` feature stays off: a waker used from another
//!   thread panics in tests instead of hiding a lock.
//! * **Everything is bounded.** Envelopes by credit between origin and home shard, outboxes by their marks, incomplete input by
//!   `limits.message_size`, everything else by [`limits`].
//! * **Nothing is lost silently.** Every push has a verdict, every drop a counter, every close one [reason](error::CloseReason).
//! * **Handles, not references, cross boundaries.** A [`ConnectionId`](ids::ConnectionId) with a stale generation finds nothing;
//!   outside the process it is a [`GlobalConnectionId`](ids::GlobalConnectionId), which names the start of the node as well.
//! * **Order.** What one connection sends to one target arrives in that order: every leg is one first-in-first-out queue.
//! * **Descriptors are made before the barrier.** With private descriptor tables a number made later means another file on another
//!   thread. See [`io`].
//!
//! # Where this departs from what one would expect
//!
//! The listener, the mesh's doorbell and the tick are watched by the shard's own poller beside the clients' sockets, not by tasks of the
//! runtime: then one descriptor is all that the reactor waits for, accepting is bounded per turn like receiving, and nothing ever has to
//! be cancelled. The runtime (monoio) runs that one task, and beside it what is not a client: the admin listener, and the two tasks of each
//! connection to Redis, whose mailboxes the reactor polls while it waits for its own descriptor.
//!
//! # To other nodes
//!
//! The home of a user or topic on each node is also where the cluster meets it: it writes the user's row, subscribes on behalf of the node, and
//! publishes what is for others. So order needs no more than it does on one machine: one shard, one connection, one channel. A shard without a
//! cluster has none of this ([`Routing::Local`](config::Routing::Local)).
//!
//! [`Routing::Hash`](config::Routing::Hash) adds a [ring](cluster::ring) to the registry, and takes nothing from it: the ring says where clients are
//! sent, the rows where messages go. So nodes may disagree on the ring for a moment, and clients may ignore it, and every status stays true.

pub mod admin;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod error;
pub mod ids;
pub mod io;
pub mod limits;
pub mod log;
pub mod mesh;
pub mod node;
pub mod operator;
pub mod protocol;
pub mod settings;
pub mod shard;
pub mod time;
pub mod ws;

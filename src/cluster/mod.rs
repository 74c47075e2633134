//! What a node decides as a member of a cluster: pure, like the shards. Nothing here knows a socket, a clock or Redis; the wires are in
//! [`bus`](crate::bus).
//!
//! | module | what it decides |
//! |---|---|
//! | [`agent`] | one shard's part in the cluster, put together from those below: events in, actions out |
//! | [`link`] | whether the bus can be relied on: `Down → Resync → Up`, back-off, probes |
//! | [`lease`] | whether this node is a member, under which name and epoch |
//! | [`nodes`] | who else is, as polled; who cleans up after the dead |
//! | [`registry`] | the location rows of this shard's users, and those of others |
//! | [`parcel`] | what shards of different nodes say to each other, as bytes |
//! | [`ring`] | where a user belongs, for `cluster.routing = "hash"` |
//! | [`moving`] | who is told to go there |
//! | [`exchange`] | messages to users on other nodes, and from there: look-ups, answers, and what has to be sent again |
//! | [`delivery`] | what was sent to one destination and is not acknowledged; what has come from one origin |
//! | [`hash`] | the hash that all nodes share |
//!
//! # In Redis
//!
//! Every name starts with `redis.prefix`. Each script keeps to one key.
//!
//! | key or channel | what it is |
//! |---|---|
//! | `loc:USER` | hash: node → `epoch shard`; lives `redis.entry_ttl`, renewed by every node that has the user |
//! | `leases` | hash: node → `epoch expires-at instance about`; graves of replaced epochs under `node\nepoch` |
//! | `idx:NODE:EPOCH:SHARD` | set of the users with a row of that node, epoch and shard, never fewer: what others clean up by, and count |
//! | `shard:NODE:EPOCH:SHARD` | channel of one shard under one epoch |
//! | `probe:INSTANCE:SHARD` | channel of a shard's probes |
//! | `user:USER`, `room:ROOM`, `channel:CHANNEL`, `broadcast` | channels that services publish to |
//!
//! # Invariants
//!
//! * An epoch is granted once per name and only grows, through a flush as well: it starts from Unix time and from what was held before.
//! * A holder gives its lease up before Redis does, on a clock that runs while it is stopped.
//! * Rows are written under a lease that holds, by a shard that listens under that epoch already. Writing and deleting compare the epoch.
//! * One write of a name is under way at a time; what cancels out is not sent; nothing piles up while Redis is slow or away.
//! * After a loss: subscribe first, announce second, both in batches under the bound. The link is up when all of it is answered.
//!
//! # What is not here yet
//!
//! The parts are complete and tested by themselves (`tests/cluster_sim.rs` against a modelled Redis, `tests/redis_*.rs` against a real one);
//! no shard uses them: `cluster.routing` other than `local` still has no effect. To be done, in this order:
//!
//! 1. **The agent in the shard.** `shard::Shard` owns an `Option<Agent>`; `shard::event` gets `Event::Bus(agent::Event)` and
//!    `Action::Bus(agent::Action)`, and `Now` gets the boottime of [`agent::Clock`]. Sessions call `UserCame` and `UserLeft` for a user's first and
//!    last connection here; `auth:ok` waits for `UserSettled`, the `ok` of `join` and `subscribe` for `ChannelSettled`, both for
//!    `redis.timeout` at most, then with `"local":true`. A topic's home shard calls `Listen` and `Unlisten` for `room:`, `channel:` and the users'
//!    shard for `user:`. Shard 0 has the lease; `Action::Standing` goes to the others as an envelope.
//! 2. **The wires in the reactor.** [`Wires`](crate::bus::redis::wires::Wires) is polled in the reactor's own task: keep the future that awaits the
//!    poller pinned across turns, and in one `poll_fn` poll it and `Wires::poll_next`, so that nothing is cancelled. A shard opens up to two
//!    sockets, each with one duplicate descriptor (its plug): four descriptors to be counted per shard. Addresses are resolved on the
//!    control thread and handed in (`Wires::set_addresses`). `Incoming::Troubled` is already told once per outage; log it as it comes.
//! 3. **Routing `broadcast`.** [`parcel::Parcel`]s on one channel for all; the origin ignores its own instance. A conflation key must be made from
//!    a hash that all nodes share (`Publication::key` is made from a key of the process now): [`hash::stable`] in the parcel, and the
//!    process's own hash of that in the outbox. `Incoming::Message` of the service channels is the JSON of the server API. What comes while
//!    [`Agent::may_deliver`](agent::Agent::may_deliver) is false is counted and discarded.
//! 4. **Routing `registry`.** `Wires::find` on a miss, `Routes` for hits, `Lookups` for order; publish to the row's shard channel. The
//!    origin keeps what it sent in [`delivery::Outstanding`], the destination lets it pass by [`delivery::Window`] and gathers
//!    acknowledgements (number and status) to be published in batches to the origin shard's channel. A destination that answered `moved` must go on doing so for that
//!    route: see [`registry::lookups`].
//! 5. **Cleaning up.** `Wires::poll_leases` once a second on shard 0, `Nodes::polled`, and for each of `Nodes::to_reap`: `SRANDMEMBER` of its
//!    index in bounded steps, `row_delete` under the dead epoch, `SREM`, and `lease_reap` when the index is empty. The lease script leaves a
//!    grave for every epoch that is replaced, the node's own included.
//! 6. **Presence.** `Incoming::Row` names the user's rows elsewhere: the first and the last connection of the cluster are those without a
//!    living row among them; publish to `user:events`. Counts are the cardinalities of the indices under living leases.
//! 7. **Routing `hash`.** `Nodes::ring` when it changes; `GET /route`; pacing of who is told to move.

pub mod agent;
pub mod delivery;
pub mod exchange;
pub mod hash;
pub mod lease;
pub mod link;
pub mod moving;
pub mod nodes;
pub mod parcel;
pub mod registry;
pub mod ring;

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
//! | [`inquiry`] | questions between nodes, as bytes: who is there, and what is to be done with a user's connections |
//! | [`wire`] | what goes between a shard and its connections to the bus, as values |
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
//! | `loc:USER` | hash: node → `epoch shard serial`; lives `redis.entry_ttl`, renewed by every node that has the user |
//! | `writable` | written when a connection is made, for a second: whoever cannot be written to is of no use |
//! | `leases` | hash: node → `epoch expires-at instance about`; graves of replaced epochs under `node\nepoch`; the name of Redis's memory under `\n` |
//! | `idx:NODE:EPOCH:SHARD` | set of the users with a row of that node, epoch and shard, never fewer: what others clean up by, and count |
//! | `shard:NODE:EPOCH:SHARD` | channel of one shard under one epoch |
//! | `probe:INSTANCE:SHARD` | channel of a shard's probes |
//! | `user:USER`, `room:ROOM`, `channel:CHANNEL`, `broadcast` | channels that services publish to, and nodes what is for more than one |
//! | `user:events` | channel of a user's first and last row: see below |
//! | `shards` | channel of everything for users, in routing `broadcast` |
//!
//! # What services are told of users
//!
//! What is published on `user:events` is published by the scripts that write and delete rows, where a user's hash of rows becomes one and where
//! it becomes none. So for each user coming and going alternate, in the order of the registry, whichever nodes have them; which leases live does
//! not matter: rows of a dead node count until they are cleaned up. Every write therefore says whether Redis is known to have had the row
//! already ([`Write::confirmed`](registry::wants::Write::confirmed)), for Redis may forget:
//!
//! * A row that is confirmed is announced again in silence, after a flush and after a lost connection. If it was deleted by others, this node's
//!   lease was over, and under a fresh epoch nothing is confirmed: where the hash is empty, the user comes again, as they went.
//! * A row that is confirmed, and is not there when it is to be deleted while the lease lives, was forgotten: the user goes with a hash that is
//!   not there any more.
//! * When the answer to a write is lost, nothing is confirmed, and what was done is done no second time: the hash itself says what has changed.
//! * A fresh epoch under which Redis remembers nothing of the one before (it names its memory in every lease) leaves what was confirmed as it is.
//! * What was written under a lease and comes to Redis when that is over is refused: others do not clean up twice.
//!
//! Some things nobody can know. After a flush: whether a user who comes or goes is on another node too, which has not announced itself again;
//! it is told as if they were not. What became of a write whose answer was lost in that same moment: a coming is told again, a going is not.
//! That a hash has run out because no node was there to renew it: nobody tells. And a node whose name another process has just taken may tell
//! a second time of a user who leaves before it notices.
//!
//! # Invariants
//!
//! * An epoch is granted once per name and only grows, through a flush as well: it starts from Unix time and from what was held before.
//! * A holder gives its lease up before Redis does, on a clock that runs while it is stopped.
//! * Rows are written under a lease that holds, by a shard that listens under that epoch already. Writing and deleting compare the epoch.
//! * One write of a name is under way at a time; what cancels out is not sent; nothing piles up while Redis is slow or away.
//! * Whoever takes a fresh epoch says which one is over, so that what was written under that is cleaned up though Redis may have forgotten it.
//! * After a loss: subscribe first, announce second, both in batches under the bound. The link is up when all of it is answered.
//!
//! # Who uses it
//!
//! Each shard of a node in a cluster owns an [agent](agent::Agent) and an [exchange]; the first one has the [lease] and tells the others how it
//! stands. Sessions and topics tell the agent who comes and goes; `auth:ok` waits for the row, the `ok` of `join` and `subscribe` for the
//! subscription. See `shard::cluster`. The reactor polls the [wires](crate::bus) and passes [`wire`]'s values between the two.
//!
//! What a channel brings is told apart by its first byte: a [parcel], an [inquiry], or the JSON of a service.

pub mod agent;
pub mod delivery;
pub mod exchange;
pub mod hash;
pub mod inquiry;
pub mod lease;
pub mod link;
pub mod moving;
pub mod nodes;
pub mod parcel;
pub mod registry;
pub mod ring;
pub mod wire;

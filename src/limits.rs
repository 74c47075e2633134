//! Every bound that is not a config key, in one place, and how they relate.
//!
//! # What bounds what
//!
//! | what a peer can pile up | bound | over it | metric |
//! |---|---|---|---|
//! | connections of the process | `limits.connections` | 503 before the upgrade | connections by state |
//! | connections that are opening or have no identity yet | [`OPENING_CONNECTIONS_MAX`] per shard; `session.handshake_timeout`, `auth.timeout` | the oldest of them makes room: 503, or close 1013 | `connecting`, `authenticating`, refusals `opening` |
//! | new connections of an address | `limits.connections_per_ip`, remembered for [`IP_TABLE_MAX`] addresses per shard | 429 | refusals `address_rate` |
//! | a request head, a PROXY header | [`HTTP_HEAD_BYTES_MAX`], [`PROXY_HEADER_BYTES_MAX`]; one receive of what follows them | 431, 400; not read from | refusals by reason |
//! | an incomplete message | `limits.message_size` (at most [`MESSAGE_BYTES_CEILING`]) | 1009 | `partial_bytes` |
//! | requests, pings | `limits.messages_per_second`, `limits.bytes_per_second` | an error, then 4113 | `rate_limited` |
//! | what a connection is sent and does not read | `outbox.max` bytes, `outbox.grace`; in the kernel [`UNSENT_BYTES_MAX`] beyond what is in flight | classes, then 4110 | `queued_bytes`, drops by class and reason |
//! | rooms and channels of a connection | `session.max_subscriptions`; a filter: [`FILTER_NODES_MAX`], [`FILTER_DEPTH_MAX`], [`FILTER_VALUES_MAX`], [`FILTER_BYTES_MAX`] | `too_many_rooms`, `bad_request` | |
//! | rooms and channels of a shard | [`LOCAL_TOPICS_MAX`]; so the homes hold as many on average, as names are spread by a keyed hash | `unavailable` | `rooms`, `channels`, `home_rooms`, `home_channels` |
//! | connections of a user | `session.max_per_user` | the oldest is closed, 4004 | closes `replaced` |
//! | presence questions | [`PRESENCE_QUESTIONS_MAX`] open per shard, of [`PRESENCE_USERS_MAX`] names | `unavailable` | `presence` |
//! | comings and goings in rooms, until other nodes have said whether the user is there | [`ROOM_COMINGS_MAX`] per shard | they are told without asking | `comings`, `rooms_unasked` |
//! | messages to other nodes | [`EXCHANGE_MESSAGES_MAX`], [`EXCHANGE_BYTES_MAX`] per shard until they are answered; [`EXCHANGE_PER_DESTINATION_MAX`], [`EXCHANGE_WAITING_PER_USER_MAX`] | `unavailable` | `exchange_unavailable` |
//! | what is remembered of other nodes | [`ROUTES_MAX`], [`EXCHANGE_ORIGINS_MAX`], [`EXCHANGE_MOVED_PER_ORIGIN_MAX`], [`EXCHANGE_REMEMBERED_MAX`], [`EXCHANGE_STRANGERS_MAX`], [`MOVING_TOLD_MAX`] per shard | the oldest is forgotten: a look-up more | |
//! | user agents | [`USER_AGENTS_MAX`] distinct ones per shard, of [`USER_AGENT_BYTES_MAX`] | new ones are not kept | |
//! | questions to services (`[hooks]`) | one per connection, which is not read from meanwhile; `hooks.in_flight`, [`QUESTIONS_BYTES_MAX`] | as `hooks.connect_failure`, `hooks.message_failure` say | `asking`, `hook_questions` by result |
//! | envelopes between shards | credit: [`MESH_CREDIT_ENVELOPES`], [`MESH_CREDIT_BYTES`] | the sender is not read from | `credit_waits` |
//! | of them, what other nodes have sent to rooms and channels | [`BUS_ENVELOPES_MAX`], for what may be dropped [`BUS_ENVELOPES_HIGH`] | given up, and told by `gap` | `bus_shed` |
//! | **all of what a shard holds for its connections** | `outbox.shard_budget` | the ladder of [`pressure`](crate::shard::pressure) | `held_bytes`, `pressure` |
//!
//! Every one of them holds alone; the budget holds where many peers stay just below theirs.

/// Bytes of an HTTP request head on the client listener; over it: 431.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Header fields of a request head; over it: 431.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Bytes of a PROXY protocol header, its TLVs included; over it: 400.
pub const PROXY_HEADER_BYTES_MAX: usize = 2 * 1024;
/// Connections of one shard that are opening, or that have no identity yet; over it the oldest of them makes room. At 20,000 handshakes a
/// second, an honest client has most of a second.
pub const OPENING_CONNECTIONS_MAX: usize = 16_384;
/// Bytes of a user, room or channel name.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of a request's `id`, where it is a string.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Bytes of an `event` name or of a conflation `key`.
pub const EVENT_BYTES_MAX: usize = 128;
/// Tags on one publication.
pub const TAGS_MAX: usize = 32;
/// Nodes in one subscription filter.
pub const FILTER_NODES_MAX: usize = 64;
/// Nesting of one subscription filter.
pub const FILTER_DEPTH_MAX: usize = 8;
/// Values in the `vals` of one filter node.
pub const FILTER_VALUES_MAX: usize = 128;
/// Bytes of the JSON of one subscription filter.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a JWT.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Permissions in a token's `permissions` claim, and rooms in its `rooms` claim.
pub const CLAIM_ENTRIES_MAX: usize = 256;
/// Bytes of a user agent that are kept for the operator.
pub const USER_AGENT_BYTES_MAX: usize = 128;
/// Distinct user agents that one shard keeps; while there are as many, new ones are not kept.
pub const USER_AGENTS_MAX: usize = 4096;
/// Bytes of a message, the most that `limits.message_size` may be set to.
pub const MESSAGE_BYTES_CEILING: usize = 16 * 1024 * 1024;
/// Shards in one process.
pub const SHARDS_MAX: usize = 256;
/// Users listed in one presence answer; totals are always right.
pub const PRESENCE_USERS_MAX: usize = 1000;
/// Presence questions that one shard has open at others; over it: `unavailable`.
pub const PRESENCE_QUESTIONS_MAX: usize = 256;
/// Rooms and channels that connections of one shard are in; over it, entering another one is `unavailable`.
pub const LOCAL_TOPICS_MAX: usize = 512 * 1024;
/// Messages of one shard to other nodes that are not done with; over it: `unavailable`.
pub const EXCHANGE_MESSAGES_MAX: usize = 65_536;
/// Bytes of their frames.
pub const EXCHANGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages to one shard of another node that it has not acknowledged; over it: `unavailable`. One that is stopped leaves room for others.
pub const EXCHANGE_PER_DESTINATION_MAX: usize = 32_768;
/// Messages to one user that wait for a look-up; over it: `unavailable`.
pub const EXCHANGE_WAITING_PER_USER_MAX: usize = 1024;
/// How often a message is sent again because its user has moved; over it: `unavailable`.
pub const EXCHANGE_MOVES_MAX: u32 = 8;
/// Shards of other nodes that one shard remembers as having sent something.
pub const EXCHANGE_ORIGINS_MAX: usize = 8192;
/// Users that one of them is told have moved, until it knows.
pub const EXCHANGE_MOVED_PER_ORIGIN_MAX: usize = 1024;
/// Messages from other nodes that one shard remembers as delivered, in case they are sent again.
pub const EXCHANGE_REMEMBERED_MAX: usize = 16_384;
/// Nodes that are named by rows and by no lease, and that one shard remembers.
pub const EXCHANGE_STRANGERS_MAX: usize = 1024;
/// Users whom one shard remembers to have told to move; over it, nobody is told.
pub const MOVING_TOLD_MAX: usize = 65_536;
/// The weight of a node that is like the others, on the ring of routing `hash`.
pub const RING_WEIGHT_NORMAL: u32 = 100;
/// The greatest weight of a node.
pub const RING_WEIGHT_MAX: u32 = 1000;
/// Users whose rows one shard remembers.
pub const ROUTES_MAX: usize = 65_536;
/// How often the leases of all nodes are read, in milliseconds.
pub const LEASE_POLL_MS: u64 = 1_000;
/// Bytes received from one connection in one turn.
pub const RECEIVE_BYTES: usize = 16 * 1024;
/// Bytes of unread input that may move with a connection to its home shard.
pub const HANDOVER_LEFTOVER_BYTES_MAX: usize = 64 * 1024;
/// Envelopes in the queue of one pair of shards.
pub const MESH_QUEUE_ENVELOPES: usize = 4096;
/// Bytes of payload in the queue of one pair of shards.
pub const MESH_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Envelopes an origin shard may have outstanding at one home shard.
pub const MESH_CREDIT_ENVELOPES: u32 = 2048;
/// Bytes an origin shard may have outstanding at one home shard.
pub const MESH_CREDIT_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes that the kernel queues for a client beyond what is in flight, before it takes no more: the rest waits in the outbox, where it can
/// still be conflated, dropped and overtaken.
pub const UNSENT_BYTES_MAX: u64 = 128 * 1024;
/// How long a closing connection may take to answer the close frame, in milliseconds.
pub const CLOSE_TIMEOUT_MS: u64 = 5_000;
/// How long input is read and thrown away after an HTTP refusal or a failed connection, in milliseconds.
pub const LINGER_TIMEOUT_MS: u64 = 2_000;
/// The period of the deadline sweep, in milliseconds.
pub const TICK_MS: u64 = 100;
/// IP addresses (IPv4, or IPv6 /64) that the connection limiter of one shard remembers.
pub const IP_TABLE_MAX: usize = 65_536;
/// Commands of the server API that one shard may have under way.
pub const COMMANDS_MAX: usize = 8192;
/// Idempotency keys that are remembered; over it, the oldest are forgotten early.
pub const IDEMPOTENCY_KEYS_MAX: usize = 65_536;
/// How long an idempotency key is remembered, in milliseconds.
pub const IDEMPOTENCY_TTL_MS: u64 = 300_000;
/// Connections of one shard whose round trip is looked at to sort by it.
pub const RTT_CANDIDATES_MAX: usize = 1024;
/// Connections that the server API lists in one answer.
pub const API_LIST_MAX: u32 = 1000;
/// Commands in one `batch` of the server API.
pub const API_BATCH_MAX: usize = 10_000;
/// Users that one `publish` of the server API may name.
pub const API_USERS_MAX: usize = 10_000;
/// Bytes of happenings that wait to be told to services.
pub const HAPPENINGS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Location writes and subscriptions that one shard has under way. What is sent next, a message above all, waits in Redis behind those of all
/// shards: some 20 µs for each.
pub const BUS_UNANSWERED_MAX: usize = 1024;
/// Messages for rooms, channels and everybody on other nodes that one shard has published and that have no answer.
pub const BUS_PUBLISHED_MAX: usize = 16_384;
/// Bytes of these.
pub const BUS_PUBLISHED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Comings and goings of users in rooms that one shard asks other nodes about; over it they are told without asking.
pub const ROOM_COMINGS_MAX: usize = 4096;
/// Questions of other nodes about one of them that wait for it; over it they are answered at once.
pub const ROOM_COMINGS_OWED_MAX: usize = 256;
/// Envelopes from the bus that wait for another shard; over it they are given up.
pub const BUS_ENVELOPES_MAX: usize = 16_384;
/// As many when those are given up that may be dropped, and those of which only the latest counts.
pub const BUS_ENVELOPES_HIGH: usize = 8_192;
/// As few when those are told who missed any.
pub const BUS_ENVELOPES_LOW: usize = 2_048;
const _: () = assert!(BUS_ENVELOPES_LOW * 2 <= BUS_ENVELOPES_HIGH && BUS_ENVELOPES_HIGH * 2 <= BUS_ENVELOPES_MAX);
/// Bytes of questions to services that wait for an answer, of each kind; over it they count as not answered.
pub const QUESTIONS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long after its time a question that nobody has answered, not even with a failure, is given up, in milliseconds.
pub const QUESTION_SLACK_MS: u64 = 2_000;
/// Bytes of a service's answer beyond what a message may have.
pub const VERDICT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request head on the admin listener; over it: 431.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request body on the admin listener; over it: 413.
pub const ADMIN_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Connections of the admin listener; over it, the one that has been quiet longest makes room.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;

const _: () = assert!(RECEIVE_BYTES <= HANDOVER_LEFTOVER_BYTES_MAX);
const _: () = assert!(MESH_CREDIT_ENVELOPES as usize * 2 <= MESH_QUEUE_ENVELOPES);
const _: () = assert!(MESH_CREDIT_BYTES as usize <= MESH_QUEUE_BYTES);
const _: () = assert!(HTTP_HEAD_BYTES_MAX <= RECEIVE_BYTES);
const _: () = assert!(PROXY_HEADER_BYTES_MAX + HTTP_HEAD_BYTES_MAX <= RECEIVE_BYTES);
const _: () = assert!(EXCHANGE_BYTES_MAX >= 2 * MESSAGE_BYTES_CEILING);
const _: () = assert!(EXCHANGE_PER_DESTINATION_MAX <= EXCHANGE_MESSAGES_MAX);
const _: () = assert!(TOKEN_BYTES_MAX <= HTTP_HEAD_BYTES_MAX);
// The answer to the largest presence question is one message that fits an outbox below its mark many times over.
const _: () = assert!(PRESENCE_USERS_MAX * (NAME_BYTES_MAX + 32) <= 256 * 1024);

//! Every bound that is not a config key, in one place, and how they relate.

/// Bytes of an HTTP request head on the client listener; over it: 431.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Header fields of a request head; over it: 431.
pub const HTTP_HEADERS_MAX: usize = 64;
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
/// Bytes of a JWT.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Permissions in a token's `permissions` claim, and rooms in its `rooms` claim.
pub const CLAIM_ENTRIES_MAX: usize = 256;
/// Bytes of a user agent that are kept for the operator.
pub const USER_AGENT_BYTES_MAX: usize = 128;
/// Bytes of a message, the most that `limits.message_size` may be set to.
pub const MESSAGE_BYTES_CEILING: usize = 16 * 1024 * 1024;
/// Shards in one process.
pub const SHARDS_MAX: usize = 256;
/// Users listed in one presence answer; totals are always right.
pub const PRESENCE_USERS_MAX: usize = 1000;
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
pub const RTT_CANDIDATES_MAX: usize = 4096;
/// Connections that the server API lists in one answer.
pub const API_LIST_MAX: u32 = 1000;
/// Commands in one `batch` of the server API.
pub const API_BATCH_MAX: usize = 10_000;
/// Users that one `publish` of the server API may name.
pub const API_USERS_MAX: usize = 10_000;
/// Bytes of a request head on the admin listener; over it: 431.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request body on the admin listener; over it: 413.
pub const ADMIN_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Connections of the admin listener; over it, the one that has been quiet longest makes room.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;

const _: () = assert!(RECEIVE_BYTES <= HANDOVER_LEFTOVER_BYTES_MAX);
const _: () = assert!(MESH_CREDIT_ENVELOPES as usize * 2 <= MESH_QUEUE_ENVELOPES);
const _: () = assert!(MESH_CREDIT_BYTES as usize <= MESH_QUEUE_BYTES);
const _: () = assert!(HTTP_HEAD_BYTES_MAX <= RECEIVE_BYTES);
const _: () = assert!(TOKEN_BYTES_MAX <= HTTP_HEAD_BYTES_MAX);

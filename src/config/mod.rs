//! What an operator can set: one struct per section of the configuration file, with its defaults.
//!
//! Durations are milliseconds here (`_ms`), sizes bytes; in a limit or a timeout `0` means off.
//!
//! `schema.rs` is the single truth about the keys: what they are called, what is right, what can change at run time. [`load`](load())
//! puts the layers on each other, `check.rs` knows how keys relate, [`default_config`] writes them all down, [`reload`](reload())
//! answers SIGHUP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::protocol::class::Class;

mod asked;
mod check;
mod cidr;
mod codec;
mod defaults;
mod error;
mod file;
mod keys;
mod load;
mod reload;
mod render;
mod schema;
mod suggest;
#[cfg(test)]
mod tests;
mod units;
mod value;

pub use asked::AskedMessages;
pub use cidr::Cidr;
pub use error::{ConfigError, Origin, Problem};
pub use keys::verifier;
pub use load::{DEFAULT_FILE, Loaded, Sources, load};
pub use reload::{Reloaded, reload};
pub use render::default_config;
pub use units::parse_duration_ms;

/// The whole configuration, after defaults, file, environment and command line.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[listen]`
    pub listen: Listen,
    /// `[shards]`
    pub shards: Shards,
    /// `[auth]`
    pub auth: Auth,
    /// `[session]`
    pub session: Session,
    /// `[limits]`
    pub limits: Limits,
    /// `[outbox]`
    pub outbox: Outbox,
    /// `[rooms]`
    pub rooms: Rooms,
    /// `[classes]`: event name to class.
    pub classes: Classes,
    /// `[deflate]`
    pub deflate: Deflate,
    /// `[echo]`
    pub echo: Echo,
    /// `[api]`
    pub api: Api,
    /// `[hooks]`
    pub hooks: Hooks,
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[redis]`
    pub redis: Redis,
    /// `[drain]`
    pub drain: Drain,
    /// `[log]`
    pub log: Log,
}

/// `[node]`
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Empty: made at the start from the host name and a random suffix.
    pub id: String,
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where clients connect. Port 0 takes a free one.
    pub client: SocketAddr,
    /// Where operators and services connect.
    pub admin: SocketAddr,
    /// Connections that the kernel queues per shard before they are accepted.
    pub backlog: u32,
    /// Networks whose `X-Forwarded-For` or PROXY header is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Whether every client connection starts with a PROXY protocol header (from `trusted_proxies` only).
    pub proxy_protocol: bool,
    /// Origins that browsers may connect from; empty: any. `*` alone: any.
    pub allowed_origins: Vec<String>,
}

/// `[shards]`
#[derive(Clone, Debug)]
pub struct Shards {
    /// Number of shards; 0: one per core.
    pub count: u16,
    /// Whether shard `i` is pinned to core `i % cores`.
    pub pin: bool,
    /// Descriptor tables.
    pub fd_tables: FdTables,
    /// Poller and runtime driver.
    pub driver: Driver,
}

/// `shards.fd_tables`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdTables {
    /// Private where the process limit would not hold `limits.connections`, else shared.
    Auto,
    /// One table for the process.
    Shared,
    /// One table per shard: `unshare(CLONE_FILES)`.
    Private,
}

/// `shards.driver`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct Auth {
    /// How users prove who they are.
    pub mode: AuthMode,
    /// Milliseconds within which a connection must authenticate.
    pub timeout_ms: u64,
    /// The shared secret of HS256, HS384 and HS512; already read from `hmac_secret_file` where that is set. Never logged.
    pub hmac_secret: Option<Secret>,
    /// The file that `hmac_secret` was read from.
    pub hmac_secret_file: Option<PathBuf>,
    /// PEM files (public keys) of RS*, ES* and EdDSA.
    pub public_keys: Vec<PathBuf>,
    /// A JWKS file (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// Accepted `aud`; empty: not checked.
    pub audience: Vec<String>,
    /// Accepted `iss`; empty: not checked.
    pub issuer: Vec<String>,
    /// Allows mode `none` on a listener that is not loopback.
    pub allow_insecure: bool,
    /// What a user may do whose token has no `permissions`; `None`: the defaults of the mode.
    pub default_permissions: Option<Vec<String>>,
}

/// `auth.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// `?user_id=` is believed. For trying out.
    None,
    /// A JSON Web Token (RFC 7519) says who the user is.
    Jwt,
}

/// A text that never shows in `Debug` or logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// `[session]`
#[derive(Clone, Debug)]
pub struct Session {
    /// Milliseconds of silence after which the gateway sends a ping.
    pub heartbeat_interval_ms: u64,
    /// Milliseconds of silence after which it closes (4112).
    pub heartbeat_timeout_ms: u64,
    /// Milliseconds without a message of the application after which it closes (4111).
    pub idle_timeout_ms: u64,
    /// Milliseconds within which the upgrade request must be complete.
    pub handshake_timeout_ms: u64,
    /// Connections of one user; over it the oldest is closed (4004).
    pub max_per_user: u32,
    /// Rooms and channels of one connection.
    pub max_subscriptions: u32,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of this process; over it: 503.
    pub connections: u32,
    /// New connections per IP address (IPv6: per /64) and window; over it: 429.
    pub connections_per_ip: u32,
    /// The window of `connections_per_ip`, in milliseconds.
    pub connections_per_ip_window_ms: u64,
    /// Bytes of one message, all its fragments together and after inflating; over it: 1009.
    pub message_size: u32,
    /// Messages per connection and second.
    pub messages_per_second: u32,
    /// Bytes of messages per connection and second.
    pub bytes_per_second: u32,
}

/// `[outbox]`
#[derive(Clone, Debug)]
pub struct Outbox {
    /// Bytes queued for a connection above which it is throttled.
    pub high: u32,
    /// Bytes queued below which it flows again.
    pub low: u32,
    /// Bytes queued above which it is closed (4110).
    pub max: u32,
    /// Milliseconds that it may stay throttled (4110).
    pub grace_ms: u64,
    /// Bytes that one shard may hold for its connections: queued frames (each once), incomplete messages, compression contexts.
    pub shard_budget: u64,
}

/// `[rooms]`
#[derive(Clone, Debug)]
pub struct Rooms {
    /// Users in a room, in a cluster those of the node, up to which joining and leaving is announced to the others; 0: in every room.
    pub announce_max: u32,
}

/// `[classes]`: the class of messages with an `event` of that name and no `class` of their own.
#[derive(Clone, Debug)]
pub struct Classes(pub HashMap<String, Class>);

/// `[deflate]`: permessage-deflate (RFC 7692).
#[derive(Clone, Debug)]
pub struct Deflate {
    /// Whether it is negotiated at all.
    pub enabled: bool,
    /// Whether compression contexts are kept between messages (250–380 KB per connection).
    pub context_takeover: bool,
    /// Bytes of payload below which a message is sent uncompressed.
    pub min_size: u32,
    /// 1 (fast) to 9 (small).
    pub level: u32,
}

/// `[echo]`
#[derive(Clone, Debug, Default)]
pub struct Echo {
    /// Whether `GET /echo` is served.
    pub enabled: bool,
}

/// `[api]`
#[derive(Clone, Debug, Default)]
pub struct Api {
    /// Keys for `X-API-Key`. Required where the admin listener is not loopback.
    pub keys: Vec<Secret>,
    /// Names under which the admin listener is reached, beside loopback names and addresses.
    pub hosts: Vec<String>,
}

/// `[hooks]`: what happens here, told to a service; and what a service is asked before it happens.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// Where to: `http://host[:port][/path]`. `None`: nowhere.
    pub url: Option<String>,
    /// What is told.
    pub events: Vec<HookEvent>,
    /// Signs what is sent (HMAC-SHA256).
    pub secret: Option<Secret>,
    /// Events in one request.
    pub batch_size: u32,
    /// Milliseconds that an event waits for others.
    pub batch_delay_ms: u64,
    /// Milliseconds within which the service must answer.
    pub timeout_ms: u64,
    /// How often a request is repeated before its events are given up.
    pub retries: u32,
    /// Events of this node that may wait; over it they are lost, and counted.
    pub queue: u32,
    /// Where it is asked who a connecting client is: as `url`. `None`: nowhere.
    pub connect_url: Option<String>,
    /// Which fields of the upgrade request are told.
    pub connect_headers: Vec<String>,
    /// What happens where that is not answered.
    pub connect_failure: ConnectFailure,
    /// Where it is asked what becomes of a client's message: as `url`. `None`: nowhere.
    pub message_url: Option<String>,
    /// Of which messages.
    pub messages: Vec<AskedMessages>,
    /// What happens where that is not answered.
    pub message_failure: MessageFailure,
    /// Milliseconds within which a question must be answered.
    pub answer_timeout_ms: u64,
    /// Requests under way at a time to each of both URLs.
    pub connections: u32,
    /// Questions asked and not answered, of each kind; over it they count as not answered.
    pub in_flight: u32,
}

/// `hooks.connect_failure`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The client is closed (1013).
    Refuse,
    /// What its token says holds.
    Allow,
}

/// `hooks.message_failure`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFailure {
    /// The sender is answered with an error, and the message goes nowhere.
    Refuse,
    /// The message goes its way as it is.
    Pass,
}

impl Hooks {
    /// Whether this is to be told.
    pub fn tells(&self, event: HookEvent) -> bool {
        self.url.is_some() && self.events.contains(&event)
    }
}

/// One of `hooks.events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookEvent {
    /// A session begins.
    Connect,
    /// A session ends.
    Disconnect,
    /// A user's first connection enters a room or subscribes to a channel.
    Join,
    /// A user's last connection leaves a room or channel.
    Leave,
    /// A client sends a message.
    Message,
}

/// `[cluster]`
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How messages find users on other nodes.
    pub routing: Routing,
    /// The bus between nodes.
    pub bus: Bus,
    /// The URL at which other nodes and clients reach this node's client listener.
    pub advertise: Option<String>,
    /// This node's share of the users, against those of the others.
    pub weight: u32,
    /// Whether `/readyz` fails while the bus is down.
    pub ready_needs_bus: bool,
}

/// `cluster.routing`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// One machine, no bus.
    Local,
    /// Every node gets everything.
    Broadcast,
    /// A registry in Redis says where a user is.
    Registry,
    /// A hash ring says where a user belongs.
    Hash,
}

/// `cluster.bus`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Redis Pub/Sub.
    Redis,
}

/// `[redis]`
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://[user:password@]host[:port][/db]`, `rediss://`, or `unix:///path`. Never logged whole.
    pub url: Secret,
    /// What every key and channel starts with.
    pub prefix: String,
    /// Location writes per batch.
    pub batch_size: u32,
    /// Milliseconds that a location write waits for its batch.
    pub batch_delay_ms: u64,
    /// Milliseconds within which Redis must answer.
    pub timeout_ms: u64,
    /// Milliseconds that a registry entry lives without renewal.
    pub entry_ttl_ms: u64,
    /// Milliseconds that a node's lease lives without renewal.
    pub lease_ttl_ms: u64,
}

/// `[drain]`
#[derive(Clone, Debug)]
pub struct Drain {
    /// Milliseconds between "not ready" and the first `reconnect`, so that load balancers notice.
    pub grace_ms: u64,
    /// Milliseconds over which the connections are told and closed.
    pub spread_ms: u64,
    /// Milliseconds after which whatever is left is closed.
    pub deadline_ms: u64,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// `log.level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

//! Every key: its type, what it is for, whether it can change at run time. The single truth.
//!
//! Defaults are those of the structs. `default-config`, the error messages, the names in the environment and what a reload may change all
//! come from here, so that none of them can forget a key.

use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::asked::AskedMessages;
use super::codec::{
    Asked, Choice, ClassTable, Codec, Count, Duration, File, Hidden, List, Maybe, Network, Size, Socket, Switch, Text,
};
use super::value::Raw;
use super::{
    AuthMode, Bus, Cidr, Config, ConnectFailure, Driver, FdTables, HookEvent, LogFormat, LogLevel, MessageFailure,
    Routing, Secret,
};
use crate::limits::{MESSAGE_BYTES_CEILING, RING_WEIGHT_MAX, SHARDS_MAX};

/// One key.
pub(super) struct Key {
    /// Section and name.
    pub(super) path: &'static str,
    /// What it is for, one sentence per line.
    pub(super) comment: &'static str,
    /// How it would look if it were set, for keys without a default.
    pub(super) example: Option<&'static str>,
    /// Whether SIGHUP changes it.
    pub(super) live: bool,
    /// Whether its value must not be shown.
    pub(super) secret: bool,
    /// Reads a value; false: it is not right, and nothing was changed.
    pub(super) read: fn(&mut Config, &Raw) -> bool,
    /// The value as TOML; `None`: not set.
    pub(super) show: fn(&Config) -> Option<String>,
    /// Takes the value of one configuration over into another.
    pub(super) copy: fn(&Config, &mut Config),
    /// What would be right.
    pub(super) expects: fn() -> String,
}

/// The section whose names the operator chooses.
pub(super) const CLASSES_PATH: &str = "classes";

/// The key for `path`. A name below `classes` belongs to that key.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    let path = match path.split_once('.') {
        Some((CLASSES_PATH, _)) => CLASSES_PATH,
        _ if path == CLASSES_PATH => return None,
        _ => path,
    };
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `name` is a section.
pub(super) fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

/// All sections, in order.
pub(super) fn sections() -> impl Iterator<Item = &'static str> + Clone {
    let section = |key: &Key| key.path.split('.').next().unwrap_or(key.path);
    let first_of_its_section = move |i: usize| i == 0 || section(&KEYS[i - 1]) != section(&KEYS[i]);
    (0..KEYS.len()).filter(move |i| first_of_its_section(*i)).map(move |i| section(&KEYS[i]))
}

/// The value of a key for an error message.
pub(super) fn shown(key: &Key, config: &Config) -> String {
    if key.secret { "(secret)".to_owned() } else { (key.show)(config).unwrap_or_else(|| "(not set)".to_owned()) }
}

macro_rules! key {
    ($when:ident $($secret:ident)?, $path:literal, $section:ident.$field:tt, $codec:expr, $comment:literal $(, example $example:literal)?) => {
        Key {
            path: $path,
            comment: $comment,
            example: key!(@example $($example)?),
            live: key!(@live $when),
            secret: key!(@secret $($secret)?),
            read: |config, raw| $codec.read(&mut config.$section.$field, raw),
            show: |config| $codec.show(&config.$section.$field),
            copy: |from, to| to.$section.$field = Clone::clone(&from.$section.$field),
            expects: || $codec.expects(),
        }
    };
    (@live live) => { true };
    (@live start) => { false };
    (@example) => { None };
    (@example $example:literal) => { Some($example) };
    (@secret) => { false };
    (@secret secret) => { true };
}

const DAYS_30_MS: u64 = 30 * 24 * 3_600_000;
const GIB: u64 = 1 << 30;

/// A deadline or a period that 0 switches off.
const OFF_OR_MS: Duration = Duration { min_ms: 1, max_ms: DAYS_30_MS, off: true };
/// A time that cannot be off.
const SOME_MS: Duration = Duration { min_ms: 1, max_ms: DAYS_30_MS, off: false };
/// A bound that 0 switches off.
const OFF_OR_COUNT: Count<u32> = count(0, u32::MAX as u64);
const WATERMARK: Size<u32> = size(1, GIB, true);

const fn count<T>(min: u64, max: u64) -> Count<T> {
    Count { min, max, of: PhantomData }
}

const fn size<T>(min: u64, max: u64, off: bool) -> Size<T> {
    Size { min, max, off, of: PhantomData }
}

const fn text(right: fn(&str) -> bool, expects: &'static str) -> Text {
    Text { right, expects }
}

const NODE_ID: Text = text(
    |id| id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
    "up to 64 letters, digits, '.', '_' and '-'; empty: made at the start from the host name and a random suffix",
);
const ORIGIN: Text = text(
    right_origin,
    "an origin such as \"https://example.com\" or \"http://localhost:3000\", without a path, or \"*\" for any",
);
const HOST: Text = text(
    |host| !host.is_empty() && !host.contains(['/', ':', ' ']),
    "a host name without a port, such as \"gateway.internal\"",
);
const HOOKS_URL: Text = text(
    |url| has_scheme(url, &["http"]),
    "a URL such as \"http://127.0.0.1:9000/events\"; https is not spoken here: point it at a proxy on this host (nginx, envoy, stunnel) that speaks TLS to the service and checks its certificate",
);
const FIELD_NAME: Text = text(
    |name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
    "the name of a header, such as \"cookie\"",
);
const NOT_EMPTY: Text = text(|text| !text.is_empty(), "a string that is not empty");
const PERMISSION: Text =
    text(|text| !text.is_empty(), "a permission such as \"send:*\", \"join:team-7-*\" or \"broadcast\"");
const ADVERTISE: Text = text(
    |url| has_scheme(url, &["ws", "wss"]),
    "a URL such as \"ws://10.0.0.7:8080/ws\" or \"wss://node-7.example.com/ws\"",
);
const REDIS_URL: Text = text(
    |url| has_scheme(url, &["redis", "rediss", "unix", "redis+unix"]),
    "a URL such as \"redis://127.0.0.1:6379\", \"redis://user:password@host:6380/0\" or \"unix:///run/redis.sock\"",
);
const REDIS_PREFIX: Text = text(
    |prefix| {
        (1..=64).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_graphic() && !b"{}*?[]\\".contains(&b))
    },
    "1 to 64 printable ASCII characters other than { } * ? [ ] \\",
);

fn empty() -> String {
    String::new()
}

fn hidden() -> Secret {
    Secret(String::new())
}

/// RFC 6454 §6.2: what a browser sends in `Origin` ends after the port.
fn right_origin(text: &str) -> bool {
    text == "*"
        || text.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' '])
        })
}

fn has_scheme(url: &str, schemes: &[&str]) -> bool {
    url.split_once("://").is_some_and(|(scheme, rest)| {
        schemes.contains(&scheme) && !rest.is_empty() && !rest.contains(char::is_whitespace)
    })
}

/// All keys, by section, in the order of `default-config`.
#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    key!(start, "node.id", node.id, NODE_ID,
        "The name of this node in the cluster, in answers and logs. Empty: made at the start from the host name and a random suffix."),

    key!(start, "listen.client", listen.client, Socket,
        "Where clients connect. Port 0 takes a free one."),
    key!(start, "listen.admin", listen.admin, Socket,
        "Where operators and services connect: health, metrics, dashboard, server API. Needs api.keys when it is not loopback."),
    key!(start, "listen.backlog", listen.backlog, count::<u32>(1, 65_535),
        "Connections that the kernel queues per shard before they are accepted; net.core.somaxconn bounds it too."),
    key!(live, "listen.trusted_proxies", listen.trusted_proxies,
        List(Network, || Cidr { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix_len: 32 }),
        "Networks whose X-Forwarded-For or PROXY header is believed, such as [\"10.0.0.0/8\"]."),
    key!(start, "listen.proxy_protocol", listen.proxy_protocol, Switch,
        "Whether every client connection starts with a PROXY protocol header (believed from trusted_proxies only)."),
    key!(live, "listen.allowed_origins", listen.allowed_origins, List(ORIGIN, empty),
        "Origins that browsers may connect from, such as [\"https://example.com\"]. Empty, or \"*\": any."),

    key!(start, "shards.count", shards.count, count::<u16>(0, SHARDS_MAX as u64),
        "Number of shards, each a thread. 0: one per core."),
    key!(start, "shards.pin", shards.pin, Switch,
        "Whether shard i is pinned to core i."),
    key!(start, "shards.fd_tables", shards.fd_tables,
        Choice(&[("auto", FdTables::Auto), ("shared", FdTables::Shared), ("private", FdTables::Private)]),
        "Descriptor tables: \"shared\", one \"private\" one per shard, or \"auto\": private where the process limit would not hold limits.connections."),
    key!(start, "shards.driver", shards.driver,
        Choice(&[("auto", Driver::Auto), ("io_uring", Driver::IoUring), ("epoll", Driver::Epoll)]),
        "\"io_uring\", \"epoll\", or \"auto\": io_uring where the kernel allows it."),

    key!(start, "auth.mode", auth.mode, Choice(&[("none", AuthMode::None), ("jwt", AuthMode::Jwt)]),
        "How users prove who they are. \"none\" believes ?user_id= and is for trying out; \"jwt\" wants a JSON Web Token."),
    key!(live, "auth.timeout", auth.timeout_ms, OFF_OR_MS,
        "How long a connection may take to authenticate. 0: for ever."),
    key!(live secret, "auth.hmac_secret", auth.hmac_secret, Maybe(Hidden(NOT_EMPTY), hidden),
        "The shared secret of HS256, HS384 and HS512 tokens: at least 32 bytes. Better kept in hmac_secret_file.",
        example "\"(openssl rand -hex 32)\""),
    key!(live, "auth.hmac_secret_file", auth.hmac_secret_file, Maybe(File, PathBuf::new),
        "The file that the secret is read from; newlines at its end do not count.", example "\"/etc/ringgate/hmac.secret\""),
    key!(live, "auth.public_keys", auth.public_keys, List(File, PathBuf::new),
        "PEM files with the public keys of RS256/384/512, ES256/384 and EdDSA tokens."),
    key!(live, "auth.jwks_file", auth.jwks_file, Maybe(File, PathBuf::new),
        "A JWKS file (RFC 7517); a token's kid chooses among its keys.", example "\"/etc/ringgate/jwks.json\""),
    key!(live, "auth.audience", auth.audience, List(NOT_EMPTY, empty),
        "Accepted aud claims. Empty: not checked."),
    key!(live, "auth.issuer", auth.issuer, List(NOT_EMPTY, empty),
        "Accepted iss claims. Empty: not checked."),
    key!(start, "auth.allow_insecure", auth.allow_insecure, Switch,
        "Allows mode \"none\" on a listener that is not loopback: anybody who reaches it can be anybody."),
    key!(live, "auth.default_permissions", auth.default_permissions, Maybe(List(PERMISSION, empty), Vec::new),
        "What a user may do whose token has no permissions claim. Not set: as below, and in mode \"none\" also \"broadcast\".",
        example "[\"send:*\", \"join:*\", \"subscribe:*\", \"publish:*\", \"presence:*\"]"),

    key!(live, "session.heartbeat_interval", session.heartbeat_interval_ms, OFF_OR_MS,
        "After how much silence the gateway sends a ping. 0: off; who is silent for heartbeat_timeout is closed all the same."),
    key!(live, "session.heartbeat_timeout", session.heartbeat_timeout_ms, OFF_OR_MS,
        "After how much silence it closes the connection (4112). 0: off."),
    key!(live, "session.idle_timeout", session.idle_timeout_ms, OFF_OR_MS,
        "After how long without a message of the application, in either direction, it closes (4111). 0: off."),
    key!(live, "session.handshake_timeout", session.handshake_timeout_ms, OFF_OR_MS,
        "How long the upgrade request may take to arrive. 0: for ever."),
    key!(live, "session.max_per_user", session.max_per_user, OFF_OR_COUNT,
        "Connections of one user on this node; over it the oldest is closed (4004). 0: off."),
    key!(live, "session.max_subscriptions", session.max_subscriptions, OFF_OR_COUNT,
        "Rooms and channels of one connection. 0: off."),

    key!(start, "limits.connections", limits.connections, OFF_OR_COUNT,
        "Connections of this process; over it: HTTP 503. 0: off."),
    key!(live, "limits.connections_per_ip", limits.connections_per_ip, OFF_OR_COUNT,
        "New connections per IP address (IPv6: per /64) and window; over it: HTTP 429. 0: off."),
    key!(live, "limits.connections_per_ip_window", limits.connections_per_ip_window_ms, OFF_OR_MS,
        "The window of connections_per_ip, sliding."),
    key!(live, "limits.message_size", limits.message_size, size::<u32>(1, MESSAGE_BYTES_CEILING as u64, true),
        "Bytes of one message, all its fragments together and after inflating; over it: 1009. 0: the most there is, 16MiB."),
    key!(live, "limits.messages_per_second", limits.messages_per_second, OFF_OR_COUNT,
        "Messages per connection and second, sliding. 0: off."),
    key!(live, "limits.bytes_per_second", limits.bytes_per_second, size::<u32>(1, 4 * GIB - 1, true),
        "Bytes of messages per connection and second, sliding. 0: off."),

    key!(live, "outbox.high", outbox.high, WATERMARK,
        "Bytes queued for a connection above which it is throttled: reading from it stops, and classes decide what is kept. 0: off."),
    key!(live, "outbox.low", outbox.low, WATERMARK,
        "Bytes queued below which it flows again; at most half of high."),
    key!(live, "outbox.max", outbox.max, WATERMARK,
        "Bytes queued above which it is closed (4110). 0: off."),
    key!(live, "outbox.grace", outbox.grace_ms, OFF_OR_MS,
        "How long it may stay throttled before it is closed (4110). 0: for ever."),
    key!(live, "outbox.shard_budget", outbox.shard_budget, size::<u64>(1, 1024 * GIB, true),
        "Bytes that one shard may hold for its connections: queued messages (one in many outboxes counts once), incomplete messages,\ncompression contexts. Near it, capacity is released, messages are dropped early, and the heaviest are paused, then closed. 0: off."),

    key!(live, "rooms.announce_max", rooms.announce_max, OFF_OR_COUNT,
        "Users in a room, in a cluster those of the node, up to which user:joined and user:left are sent. 0: always."),

    Key {
        path: CLASSES_PATH,
        comment: "The class of messages with that event name and no class of their own: \"urgent\", \"normal\", \"latest\" or \"droppable\".\nEntries add to the ones below; \"normal\" takes one of them back.",
        example: None,
        live: true,
        secret: false,
        read: |config, raw| ClassTable.read(&mut config.classes, raw),
        show: |config| ClassTable.show(&config.classes),
        copy: |from, to| to.classes = from.classes.clone(),
        expects: || ClassTable.expects(),
    },

    key!(live, "deflate.enabled", deflate.enabled, Switch,
        "Whether permessage-deflate (RFC 7692) is negotiated."),
    key!(start, "deflate.context_takeover", deflate.context_takeover, Switch,
        "Whether compression contexts are kept between messages: smaller messages, but 250 to 380 KB per connection."),
    key!(live, "deflate.min_size", deflate.min_size, size::<u32>(0, MESSAGE_BYTES_CEILING as u64, false),
        "Bytes of payload below which a message is sent uncompressed."),
    key!(start, "deflate.level", deflate.level, count::<u32>(1, 9),
        "1 (fast) to 9 (small)."),

    key!(live, "echo.enabled", echo.enabled, Switch,
        "Whether GET /echo sends every message back, for conformance suites and benches."),

    key!(live secret, "api.keys", api.keys, List(Hidden(NOT_EMPTY), hidden),
        "Keys that X-API-Key must carry on the server API. Empty: none is asked for, on loopback only."),
    key!(live, "api.hosts", api.hosts, List(HOST, empty),
        "Names that Host may have on the server API, beside loopback names and IP addresses. Empty: any where there are api.keys, else none."),

    key!(start, "hooks.url", hooks.url, Maybe(HOOKS_URL, empty),
        "Where events are posted to, in batches of JSON. Not set: nowhere.", example "\"http://127.0.0.1:9000/events\""),
    key!(live, "hooks.events", hooks.events,
        List(Choice(&[("connect", HookEvent::Connect), ("disconnect", HookEvent::Disconnect), ("join", HookEvent::Join), ("leave", HookEvent::Leave), ("message", HookEvent::Message)]), || HookEvent::Connect),
        "What is told: \"connect\", \"disconnect\", \"join\", \"leave\" (a user's first and last connection in a room or channel), \"message\" (what clients send)."),
    key!(start secret, "hooks.secret", hooks.secret, Maybe(Hidden(NOT_EMPTY), hidden),
        "Signs whatever is posted: X-Ringgate-Signature is t=TIME,v1=HEX, the HMAC-SHA256 of \"TIME.BODY\".", example "\"(openssl rand -hex 32)\""),
    key!(start, "hooks.batch_size", hooks.batch_size, count::<u32>(1, 10_000),
        "Events in one request."),
    key!(start, "hooks.batch_delay", hooks.batch_delay_ms, Duration { min_ms: 1, max_ms: 60_000, off: false },
        "How long an event waits for others."),
    key!(start, "hooks.timeout", hooks.timeout_ms, SOME_MS,
        "How long the service may take to take events."),
    key!(start, "hooks.retries", hooks.retries, count::<u32>(0, 100),
        "How often a request is repeated, with back-off up to 30s, before its events are given up."),
    key!(start, "hooks.queue", hooks.queue, count::<u32>(1, 10_000_000),
        "Events of this node that may wait; over it they are lost, and counted."),
    key!(start, "hooks.connect_url", hooks.connect_url, Maybe(HOOKS_URL, empty),
        "Where it is asked, of every client that connects, who that is, what rooms to join and what it may do. Not set: nobody is asked.\nIn auth.mode = \"none\" the service decides alone; in \"jwt\" the token must be good first.", example "\"http://127.0.0.1:9000/connect\""),
    key!(start, "hooks.connect_headers", hooks.connect_headers, List(FIELD_NAME, empty),
        "Which headers of the client's request the service is told, beside its address, its user agent and the query of its URL."),
    key!(live, "hooks.connect_failure", hooks.connect_failure,
        Choice(&[("refuse", ConnectFailure::Refuse), ("allow", ConnectFailure::Allow)]),
        "What happens to a client where the service does not answer in time, fails, or too much is asked: \"refuse\" closes it (1013, try again\nlater); \"allow\" lets it in as its token says, and needs auth.mode = \"jwt\"."),
    key!(start, "hooks.message_url", hooks.message_url, Maybe(HOOKS_URL, empty),
        "Where it is asked, of clients' messages, whether they go their way, changed or not, are answered, or refused. Not set: nobody is asked.", example "\"http://127.0.0.1:9000/message\""),
    key!(live, "hooks.messages", hooks.messages, List(Asked, AskedMessages::broadcasts),
        "Of which messages: by their type, of a type by whom they are for, as \"message:lobby\", \"publish:orders.*\" or \"send_message:bot-*\", or by\ntheir event, as \"event:order_*\"."),
    key!(live, "hooks.message_failure", hooks.message_failure,
        Choice(&[("refuse", MessageFailure::Refuse), ("pass", MessageFailure::Pass)]),
        "What happens to a message where the service does not answer in time, fails, or too much is asked: \"refuse\" answers its sender with the\nerror \"unavailable\"; \"pass\" lets it go its way as it is."),
    key!(start, "hooks.answer_timeout", hooks.answer_timeout_ms, Duration { min_ms: 1, max_ms: 60_000, off: false },
        "How long connect_url and message_url may take to answer, the wait for a free connection included. What this client sends meanwhile waits."),
    key!(start, "hooks.connections", hooks.connections, count::<u32>(1, 1024),
        "Requests under way at a time to each of both, over connections that are kept."),
    key!(start, "hooks.in_flight", hooks.in_flight, count::<u32>(1, 1_000_000),
        "Questions asked of each of both and not answered; over it they count as not answered, and are counted."),

    key!(start, "cluster.routing", cluster.routing,
        Choice(&[("local", Routing::Local), ("broadcast", Routing::Broadcast), ("registry", Routing::Registry), ("hash", Routing::Hash)]),
        "How messages find users on other nodes. \"local\": there are none. \"broadcast\": every node gets everything. \"registry\": by who is where.\n\"hash\": as \"registry\", and every user belongs on one node, where clients are sent."),
    key!(start, "cluster.bus", cluster.bus, Choice(&[("redis", Bus::Redis)]),
        "What nodes speak through."),
    key!(start, "cluster.advertise", cluster.advertise, Maybe(ADVERTISE, empty),
        "The URL at which other nodes and clients reach this node's client listener. Needed for routing \"hash\".", example "\"ws://10.0.0.7:8080/ws\""),
    key!(start, "cluster.weight", cluster.weight, count::<u32>(0, RING_WEIGHT_MAX as u64),
        "This node's share of the users in routing \"hash\", against the weights of the others. 0: it takes nobody."),
    key!(live, "cluster.ready_needs_bus", cluster.ready_needs_bus, Switch,
        "Whether /readyz fails while the bus is down."),

    key!(start secret, "redis.url", redis.url, Hidden(REDIS_URL),
        "Where Redis is: redis://[user:password@]host[:port][/db], or unix:///path."),
    key!(start, "redis.prefix", redis.prefix, REDIS_PREFIX,
        "What every key and channel starts with."),
    key!(start, "redis.batch_size", redis.batch_size, count::<u32>(1, 10_000),
        "Location writes per batch."),
    key!(start, "redis.batch_delay", redis.batch_delay_ms, Duration { min_ms: 1, max_ms: 60_000, off: true },
        "How long a location write waits for its batch. 0: not at all."),
    key!(start, "redis.timeout", redis.timeout_ms, SOME_MS,
        "How long Redis may take to answer."),
    key!(start, "redis.entry_ttl", redis.entry_ttl_ms, SOME_MS,
        "How long a registry entry lives without renewal."),
    key!(start, "redis.lease_ttl", redis.lease_ttl_ms, SOME_MS,
        "How long a node's lease lives without renewal."),

    key!(live, "drain.grace", drain.grace_ms, OFF_OR_MS,
        "How long a draining node goes on as it is after it has become not ready, so that load balancers notice."),
    key!(live, "drain.spread", drain.spread_ms, OFF_OR_MS,
        "Over how long its clients are told to reconnect, and closed; in routing \"hash\" also those whom another node takes over."),
    key!(live, "drain.deadline", drain.deadline_ms, SOME_MS,
        "When whatever is left is closed."),

    key!(live, "log.level", log.level,
        Choice(&[("error", LogLevel::Error), ("warn", LogLevel::Warn), ("info", LogLevel::Info), ("debug", LogLevel::Debug), ("trace", LogLevel::Trace)]),
        "The least severe level that is written."),
    key!(start, "log.format", log.format, Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        "Lines for people (\"text\") or machines (\"json\"), to standard error."),
];

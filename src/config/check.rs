//! How keys relate to each other.

use super::error::Problem;
use super::load::Origins;
use super::schema;
use super::{AuthMode, Config, ConnectFailure, Routing};
use crate::limits::MESSAGE_BYTES_CEILING;
use crate::protocol::Permissions;

/// Below this a lease would end while nothing is wrong.
const LEASE_TTL_MS_MIN: u64 = 1_000;
/// Bytes of a shared secret: the output of the smallest hash it is used with (RFC 7518 §3.2).
const HMAC_SECRET_BYTES_MIN: usize = 32;

/// All that is wrong with values that are right one by one.
pub(super) fn check(config: &Config, origins: &Origins, warnings: &mut Vec<String>) -> Vec<Problem> {
    let mut check = Check { config, origins, problems: Vec::new() };
    check.listeners();
    check.auth();
    check.hooks();
    check.session();
    check.outbox();
    check.drain();
    check.cluster();
    warn(config, warnings);
    check.problems
}

struct Check<'a> {
    config: &'a Config,
    origins: &'a Origins,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn listeners(&mut self) {
        let (client, admin) = (self.config.listen.client, self.config.listen.admin);
        if client == admin && client.port() != 0 {
            let right = format!("must differ from {}", self.named("listen.client"));
            self.wrong("listen.admin", right);
        }
        if !admin.ip().to_canonical().is_loopback() && self.config.api.keys.is_empty() {
            self.wrong("listen.admin", "is not loopback, so api.keys must be set; or listen on 127.0.0.1".to_owned());
        }
        if self.config.listen.proxy_protocol && self.config.listen.trusted_proxies.is_empty() {
            self.wrong(
                "listen.proxy_protocol",
                "needs listen.trusted_proxies: the networks whose header is believed".to_owned(),
            );
        }
    }

    fn auth(&mut self) {
        let auth = &self.config.auth;
        let client = self.config.listen.client.ip().to_canonical();
        let believes_all = auth.mode == AuthMode::None && self.config.hooks.connect_url.is_none();
        if believes_all && !client.is_loopback() && !auth.allow_insecure {
            let client = self.named("listen.client");
            self.wrong(
                "auth.mode",
                format!("believes everybody, and {client} is not loopback; expected \"jwt\", or auth.allow_insecure = true to allow it"),
            );
        }
        let has_key = auth.hmac_secret.is_some() || !auth.public_keys.is_empty() || auth.jwks_file.is_some();
        if auth.mode == AuthMode::Jwt && !has_key {
            let right = "needs a key; expected one of auth.hmac_secret, auth.hmac_secret_file, auth.public_keys, auth.jwks_file";
            self.wrong("auth.mode", right.to_owned());
        }
        let secret_key = if auth.hmac_secret_file.is_some() { "auth.hmac_secret_file" } else { "auth.hmac_secret" };
        match auth.hmac_secret.as_ref().map(|secret| secret.0.as_str()) {
            Some(secret) if secret.len() < HMAC_SECRET_BYTES_MIN => {
                let right = format!(
                    "the secret has {} bytes; expected at least {HMAC_SECRET_BYTES_MIN}, such as from: openssl rand -hex 32",
                    secret.len()
                );
                self.wrong(secret_key, right);
            }
            // A public key as a shared secret would let everybody who has it sign: the classic algorithm confusion.
            Some(secret) if secret.trim_start().starts_with("-----BEGIN") => {
                self.wrong(
                    secret_key,
                    "the secret is a PEM key; expected random text, and public keys in auth.public_keys".to_owned(),
                );
            }
            _ => {}
        }
        let defaults = auth.default_permissions.as_deref().unwrap_or_default();
        if let Err(error) = Permissions::parse(defaults.iter().map(String::as_str)) {
            self.wrong("auth.default_permissions", error.to_string());
        }
    }

    fn hooks(&mut self) {
        let hooks = &self.config.hooks;
        let allows = hooks.connect_failure == ConnectFailure::Allow;
        if allows && self.config.auth.mode == AuthMode::None {
            let right = "needs auth.mode = \"jwt\": without a token there is nothing that could let a client in; expected \"refuse\"";
            self.wrong("hooks.connect_failure", right.to_owned());
        }
        if self.config.hooks.in_flight < self.config.hooks.connections {
            let right = format!("must be at least {}", self.named("hooks.connections"));
            self.wrong("hooks.in_flight", right);
        }
    }

    fn session(&mut self) {
        let session = &self.config.session;
        let (interval, timeout) = (session.heartbeat_interval_ms, session.heartbeat_timeout_ms);
        if interval != 0 && timeout != 0 && interval >= timeout {
            let right = format!("must be less than {}", self.named("session.heartbeat_timeout"));
            self.wrong("session.heartbeat_interval", right);
        }
    }

    fn outbox(&mut self) {
        let outbox = &self.config.outbox;
        let (high, low, max) = (u64::from(outbox.high), u64::from(outbox.low), u64::from(outbox.max));
        if high != 0 && low * 2 > high {
            let right = format!("must be at most half of {}", self.named("outbox.high"));
            self.wrong("outbox.low", right);
        }
        if max != 0 && high > max {
            let right = format!("must be at most {}", self.named("outbox.max"));
            self.wrong("outbox.high", right);
        }
        if outbox.shard_budget != 0 && outbox.shard_budget < high.max(max) {
            let most = if max > high { "outbox.max" } else { "outbox.high" };
            let right = format!("must be at least {}, or one connection could take it all", self.named(most));
            self.wrong("outbox.shard_budget", right);
        }
    }

    fn drain(&mut self) {
        let drain = &self.config.drain;
        if drain.grace_ms.saturating_add(drain.spread_ms) > drain.deadline_ms {
            let right =
                format!("must be at least {} and {} together", self.named("drain.grace"), self.named("drain.spread"));
            self.wrong("drain.deadline", right);
        }
    }

    fn cluster(&mut self) {
        let (routing, redis) = (self.config.cluster.routing, &self.config.redis);
        if routing == Routing::Hash && self.config.cluster.advertise.is_none() {
            let right = "must be set with cluster.routing = \"hash\": clients are sent there, such as \"ws://10.0.0.7:8080/ws\"";
            self.wrong("cluster.advertise", right.to_owned());
        }
        if routing == Routing::Local {
            return;
        }
        if redis.url.0.starts_with("rediss:") {
            let right =
                "TLS to Redis is not supported; put a tunnel such as stunnel between, or use redis:// or unix://";
            self.wrong("redis.url", right.to_owned());
        }
        if redis.lease_ttl_ms < LEASE_TTL_MS_MIN {
            self.wrong("redis.lease_ttl", "must be at least 1s: it is renewed three times in its life".to_owned());
        }
        if redis.entry_ttl_ms < redis.lease_ttl_ms {
            let right = format!("must be at least {}", self.named("redis.lease_ttl"));
            self.wrong("redis.entry_ttl", right);
        }
    }

    fn wrong(&mut self, path: &str, right: String) {
        let text = format!("{}: {right}", self.named(path));
        self.problems.push(Problem::key(path, text));
    }

    /// Key, value and origin.
    fn named(&self, path: &str) -> String {
        let value = schema::find(path).map_or_else(String::new, |key| schema::shown(key, self.config));
        format!("{path} = {value} ({})", self.origins.of(path))
    }
}

fn warn(config: &Config, warnings: &mut Vec<String>) {
    let limits = &config.limits;
    let message_size =
        if limits.message_size == 0 { MESSAGE_BYTES_CEILING as u64 } else { u64::from(limits.message_size) };
    if limits.bytes_per_second != 0 && message_size > u64::from(limits.bytes_per_second) {
        warnings.push(
            "limits.message_size is more than limits.bytes_per_second: the largest messages will be refused by rate"
                .to_owned(),
        );
    }
    let session = &config.session;
    if session.heartbeat_interval_ms == 0 && session.heartbeat_timeout_ms != 0 {
        let timeout =
            schema::find("session.heartbeat_timeout").map_or_else(String::new, |key| schema::shown(key, config));
        warnings.push(format!(
            "session.heartbeat_interval is 0, so no client is pinged, and session.heartbeat_timeout = {timeout} closes every client that says \
             nothing for so long; set that to 0 as well, unless all clients speak by themselves"
        ));
    }
    let believes_all = config.auth.mode == AuthMode::None && config.hooks.connect_url.is_none();
    if believes_all && !config.listen.client.ip().to_canonical().is_loopback() {
        warnings.push(
            "auth.mode is \"none\" on a listener that is not loopback: anybody who reaches it can be anybody"
                .to_owned(),
        );
    }
}

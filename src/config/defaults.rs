//! What holds where nothing is said.

use std::net::SocketAddr;

use super::*;
use crate::limits::RING_WEIGHT_NORMAL;
use crate::protocol::class::Class;

impl Default for Listen {
    fn default() -> Self {
        Listen {
            client: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8081)),
            backlog: 4096,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            allowed_origins: Vec::new(),
        }
    }
}

impl Default for Shards {
    fn default() -> Self {
        Shards { count: 0, pin: true, fd_tables: FdTables::Auto, driver: Driver::Auto }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            mode: AuthMode::None,
            timeout_ms: 10_000,
            hmac_secret: None,
            hmac_secret_file: None,
            public_keys: Vec::new(),
            jwks_file: None,
            audience: Vec::new(),
            issuer: Vec::new(),
            allow_insecure: false,
            default_permissions: None,
        }
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Hooks {
            url: None,
            events: vec![HookEvent::Connect, HookEvent::Disconnect],
            secret: None,
            batch_size: 100,
            batch_delay_ms: 100,
            timeout_ms: 5_000,
            retries: 8,
            queue: 100_000,
            connect_url: None,
            connect_headers: ["authorization", "cookie", "origin", "user-agent"].map(str::to_owned).into(),
            connect_failure: ConnectFailure::Refuse,
            message_url: None,
            messages: ["send_message", "message", "publish", "broadcast"].iter().flat_map(|e| e.parse()).collect(),
            message_failure: MessageFailure::Refuse,
            answer_timeout_ms: 3_000,
            connections: 64,
            in_flight: 4096,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Session {
            heartbeat_interval_ms: 30_000,
            heartbeat_timeout_ms: 60_000,
            idle_timeout_ms: 300_000,
            handshake_timeout_ms: 10_000,
            max_per_user: 16,
            max_subscriptions: 128,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 100_000,
            connections_per_ip: 100,
            connections_per_ip_window_ms: 60_000,
            message_size: 64 * 1024,
            messages_per_second: 50,
            bytes_per_second: 512 * 1024,
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox {
            high: 1024 * 1024,
            low: 256 * 1024,
            max: 4 * 1024 * 1024,
            grace_ms: 10_000,
            shard_budget: 1024 * 1024 * 1024,
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Rooms { announce_max: 256 }
    }
}

impl Default for Classes {
    fn default() -> Self {
        let defaults = [
            ("price_update", Class::Latest),
            ("cursor_position", Class::Latest),
            ("typing_indicator", Class::Droppable),
        ];
        Classes(defaults.into_iter().map(|(event, class)| (event.to_owned(), class)).collect())
    }
}

impl Default for Deflate {
    fn default() -> Self {
        Deflate { enabled: true, context_takeover: false, min_size: 256, level: 1 }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            routing: Routing::Local,
            bus: Bus::Redis,
            advertise: None,
            weight: RING_WEIGHT_NORMAL,
            ready_needs_bus: false,
        }
    }
}

impl Default for Redis {
    fn default() -> Self {
        Redis {
            url: Secret("redis://127.0.0.1:6379".to_owned()),
            prefix: "ws:".to_owned(),
            batch_size: 512,
            batch_delay_ms: 5,
            timeout_ms: 1_000,
            entry_ttl_ms: 3_600_000,
            lease_ttl_ms: 10_000,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Drain { grace_ms: 0, spread_ms: 5_000, deadline_ms: 25_000 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, format: LogFormat::Text }
    }
}

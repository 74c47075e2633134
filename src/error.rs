//! Why a connection ends, and why one does not begin: closed enums that map to code, metric label and log field, once.

/// The one reason of a close. Its [`name`](CloseReason::name) is the metric label and the log field, its [`code`](CloseReason::code)
/// the close code on the wire: 4000–4099 "do not come back by yourself", 4100–4199 "come back with back-off", 4200–4299 "come back at once".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer closed first, with a close frame (RFC 6455, section 7.1.5).
    PeerClosed,
    /// The socket ended without a close frame: end of stream or reset.
    PeerGone,
    /// 1001: drained at the deadline, or before authenticating.
    GoingAway,
    /// 1002: the peer broke RFC 6455.
    ProtocolError,
    /// 1003: a binary message where the sub-protocol takes text.
    Unsupported,
    /// 1007: text that is not UTF-8, or compressed data that does not inflate.
    InvalidData,
    /// 1009: a message over `limits.message_size`.
    TooLarge,
    /// 1011: a panic while handling this connection.
    Internal,
    /// 1013: the shard that is this user's home is full.
    TryAgainLater,
    /// 4001: no identity (mode none), no valid token, or none in time (mode jwt).
    Unauthorized,
    /// 4002: the session's token ran out.
    TokenExpired,
    /// 4003: by the server API.
    Disconnected,
    /// 4004: this user opened more than `session.max_per_user`.
    Replaced,
    /// 4110: behind for longer than the grace, or over the hard bound of its outbox.
    SlowConsumer,
    /// 4111: no message of the application for `session.idle_timeout`.
    IdleTimeout,
    /// 4112: no sign of life for `session.heartbeat_timeout`.
    HeartbeatTimeout,
    /// 4113: kept on sending over its rate.
    RateLimited,
    /// 4200: the ring moved this user to another node.
    Moved,
    /// 4201: told to reconnect by a drain.
    Draining,
    /// HTTP only: it asked where a user belongs, and was told.
    Answered,
    /// HTTP only: the request did not become a WebSocket (its status says why).
    HandshakeRefused,
    /// HTTP only: the request head did not come within `session.handshake_timeout`.
    HandshakeTimeout,
}

impl CloseReason {
    /// Every reason, in the order of their labels in the metrics.
    pub const ALL: [CloseReason; 22] = [
        CloseReason::PeerClosed,
        CloseReason::PeerGone,
        CloseReason::GoingAway,
        CloseReason::ProtocolError,
        CloseReason::Unsupported,
        CloseReason::InvalidData,
        CloseReason::TooLarge,
        CloseReason::Internal,
        CloseReason::TryAgainLater,
        CloseReason::Unauthorized,
        CloseReason::TokenExpired,
        CloseReason::Disconnected,
        CloseReason::Replaced,
        CloseReason::SlowConsumer,
        CloseReason::IdleTimeout,
        CloseReason::HeartbeatTimeout,
        CloseReason::RateLimited,
        CloseReason::Moved,
        CloseReason::Draining,
        CloseReason::Answered,
        CloseReason::HandshakeRefused,
        CloseReason::HandshakeTimeout,
    ];

    /// The close code that goes on the wire; `None` where no close frame is sent.
    pub fn code(self) -> Option<u16> {
        Some(match self {
            CloseReason::PeerClosed | CloseReason::PeerGone => return None,
            CloseReason::Answered | CloseReason::HandshakeRefused | CloseReason::HandshakeTimeout => return None,
            CloseReason::GoingAway => 1001,
            CloseReason::ProtocolError => 1002,
            CloseReason::Unsupported => 1003,
            CloseReason::InvalidData => 1007,
            CloseReason::TooLarge => 1009,
            CloseReason::Internal => 1011,
            CloseReason::TryAgainLater => 1013,
            CloseReason::Unauthorized => 4001,
            CloseReason::TokenExpired => 4002,
            CloseReason::Disconnected => 4003,
            CloseReason::Replaced => 4004,
            CloseReason::SlowConsumer => 4110,
            CloseReason::IdleTimeout => 4111,
            CloseReason::HeartbeatTimeout => 4112,
            CloseReason::RateLimited => 4113,
            CloseReason::Moved => 4200,
            CloseReason::Draining => 4201,
        })
    }

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::PeerGone => "peer_gone",
            CloseReason::GoingAway => "going_away",
            CloseReason::ProtocolError => "protocol_error",
            CloseReason::Unsupported => "unsupported",
            CloseReason::InvalidData => "invalid_data",
            CloseReason::TooLarge => "too_large",
            CloseReason::Internal => "internal",
            CloseReason::TryAgainLater => "try_again_later",
            CloseReason::Unauthorized => "unauthorized",
            CloseReason::TokenExpired => "token_expired",
            CloseReason::Disconnected => "disconnected",
            CloseReason::Replaced => "replaced",
            CloseReason::SlowConsumer => "slow_consumer",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::HeartbeatTimeout => "heartbeat_timeout",
            CloseReason::RateLimited => "rate_limit",
            CloseReason::Moved => "moved",
            CloseReason::Draining => "draining",
            CloseReason::Answered => "answered",
            CloseReason::HandshakeRefused => "handshake_refused",
            CloseReason::HandshakeTimeout => "handshake_timeout",
        }
    }

    /// The text in the close frame, where the caller has no better one.
    pub fn text(self) -> &'static str {
        match self {
            CloseReason::Unauthorized => "Unauthorized",
            CloseReason::GoingAway => "going away",
            CloseReason::ProtocolError => "protocol error",
            CloseReason::Unsupported => "this sub-protocol takes text messages",
            CloseReason::InvalidData => "invalid payload data",
            CloseReason::TooLarge => "message too big",
            CloseReason::Internal => "internal error",
            CloseReason::TryAgainLater => "try again later",
            CloseReason::TokenExpired => "token expired",
            CloseReason::Replaced => "replaced: too many connections of this user",
            CloseReason::SlowConsumer => "slow consumer",
            CloseReason::IdleTimeout => "idle timeout",
            CloseReason::HeartbeatTimeout => "heartbeat timeout",
            CloseReason::RateLimited => "rate limit",
            other => other.name(),
        }
    }
}

/// Why a request did not become a WebSocket. Its [`name`](RefusalReason::name) is the metric label and the log field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RefusalReason {
    /// 400: not an upgrade request that could be understood.
    BadRequest,
    /// 400: no PROXY protocol header where one must come, a malformed one, or one from a peer that is not believed.
    ProxyHeader,
    /// 403: `listen.allowed_origins`.
    Origin,
    /// 404: another path.
    NotFound,
    /// 405: another method than GET.
    Method,
    /// 408: not complete within `session.handshake_timeout`.
    Timeout,
    /// 500: a panic while reading the request.
    Internal,
    /// 426: HTTP without WebSocket, or another version of it.
    NotWebSocket,
    /// 429: `limits.connections_per_ip`.
    AddressRate,
    /// 431: the head is too long.
    HeadTooLarge,
    /// 503: `limits.connections`.
    Capacity,
    /// 503: the node drains.
    Draining,
    /// 503: the shard is short of memory (`outbox.shard_budget`).
    Pressure,
    /// 503: younger connections that are still opening took its place.
    Opening,
    /// 503: it asked where a user belongs, and the ring is not known yet.
    Ring,
    /// 505: another version of HTTP.
    HttpVersion,
}

impl RefusalReason {
    /// Every reason, in the order of their labels in the metrics.
    pub const ALL: [RefusalReason; 16] = [
        RefusalReason::BadRequest,
        RefusalReason::ProxyHeader,
        RefusalReason::Origin,
        RefusalReason::NotFound,
        RefusalReason::Method,
        RefusalReason::Timeout,
        RefusalReason::Internal,
        RefusalReason::NotWebSocket,
        RefusalReason::AddressRate,
        RefusalReason::HeadTooLarge,
        RefusalReason::Capacity,
        RefusalReason::Draining,
        RefusalReason::Pressure,
        RefusalReason::Opening,
        RefusalReason::Ring,
        RefusalReason::HttpVersion,
    ];

    /// The HTTP status of the response.
    pub fn status(self) -> u16 {
        match self {
            RefusalReason::BadRequest | RefusalReason::ProxyHeader => 400,
            RefusalReason::Origin => 403,
            RefusalReason::NotFound => 404,
            RefusalReason::Method => 405,
            RefusalReason::Timeout => 408,
            RefusalReason::Internal => 500,
            RefusalReason::NotWebSocket => 426,
            RefusalReason::AddressRate => 429,
            RefusalReason::HeadTooLarge => 431,
            RefusalReason::Capacity
            | RefusalReason::Draining
            | RefusalReason::Pressure
            | RefusalReason::Opening
            | RefusalReason::Ring => 503,
            RefusalReason::HttpVersion => 505,
        }
    }

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            RefusalReason::BadRequest => "bad_request",
            RefusalReason::ProxyHeader => "proxy_header",
            RefusalReason::Origin => "origin",
            RefusalReason::NotFound => "not_found",
            RefusalReason::Method => "method",
            RefusalReason::Timeout => "timeout",
            RefusalReason::Internal => "internal",
            RefusalReason::NotWebSocket => "not_websocket",
            RefusalReason::AddressRate => "address_rate",
            RefusalReason::HeadTooLarge => "head_too_large",
            RefusalReason::Capacity => "capacity",
            RefusalReason::Draining => "draining",
            RefusalReason::Pressure => "pressure",
            RefusalReason::Opening => "opening",
            RefusalReason::Ring => "ring",
            RefusalReason::HttpVersion => "http_version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_name_and_place() {
        let names: HashSet<_> = CloseReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), CloseReason::ALL.len());
        assert!(CloseReason::ALL.iter().enumerate().all(|(i, &r)| r as usize == i));
        let names: HashSet<_> = RefusalReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), RefusalReason::ALL.len());
        assert!(RefusalReason::ALL.iter().enumerate().all(|(i, &r)| r as usize == i));
    }

    #[test]
    fn close_texts_fit_a_control_frame() {
        assert!(CloseReason::ALL.iter().all(|r| r.text().len() <= 123));
    }
}

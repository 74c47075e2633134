//! What clients send: one JSON object per message, read in one pass and borrowed from.
//!
//! | `type` | fields | |
//! |---|---|---|
//! | `auth` | `token` | [`Request::Auth`] |
//! | `ping` | | [`Request::Ping`] |
//! | `send_message` | `target_user`, `content` | [`Request::SendMessage`] |
//! | `join`, `leave` | `roomId` | [`Request::Join`], [`Request::Leave`] |
//! | `message` | `roomId`, `content` | [`Request::Message`] |
//! | `subscribe` | `channel`, optional `filter` ([`super::filter`]) | [`Request::Subscribe`] |
//! | `unsubscribe` | `channel` | [`Request::Unsubscribe`] |
//! | `publish` | `channel`, `content` | [`Request::Publish`] |
//! | `broadcast` | `content` | [`Request::Broadcast`] |
//! | `presence` | `roomId` or `channel` | [`Request::Presence`] |
//!
//! Whatever has a `content` takes the options `event`, `class`, `key` and `tags`; any request takes an `id`. An optional field that is
//! `null` counts as absent; `content` may be any JSON value, `null` too. Fields that a type does not know are ignored (`since` is one,
//! until there is history), and so is what they hold. Of a field that comes twice the last one counts, as in every browser's `JSON.parse`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::class::Class;
use super::fields::Fields;
use super::filter::Filter;
#[cfg(doc)]
use super::name::RESERVED_USER;
use super::tags::Tags;
#[cfg(doc)]
use crate::limits::{EVENT_BYTES_MAX, REQUEST_ID_BYTES_MAX, TOKEN_BYTES_MAX};

/// The `id` of a request, which its answer repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestId {
    /// A string of at most [`REQUEST_ID_BYTES_MAX`] bytes.
    Text(Box<str>),
    /// An integer of 64 bits, signed.
    Int(i64),
}

/// A request that can be carried out, and how to answer it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<'a> {
    /// With one, the request is answered by `ok` or `error`; without, only by an `error`.
    pub id: Option<RequestId>,
    /// What is asked for.
    pub request: Request<'a>,
}

/// What a client asks for. Names are valid ([`super::valid_name`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// Authenticate, or refresh the session.
    Auth {
        /// A JWT, unverified; at most [`TOKEN_BYTES_MAX`] bytes.
        token: Cow<'a, str>,
    },
    /// Answer `pong`.
    Ping,
    /// Send to every connection of a user.
    SendMessage {
        /// The user; never [`RESERVED_USER`].
        target_user: Cow<'a, str>,
        /// What to send.
        publication: Publication<'a>,
    },
    /// Become a member of a room.
    Join {
        /// The room.
        room: Cow<'a, str>,
    },
    /// Stop being a member of a room.
    Leave {
        /// The room.
        room: Cow<'a, str>,
    },
    /// Send to the other members of a room.
    Message {
        /// The room.
        room: Cow<'a, str>,
        /// What to send.
        publication: Publication<'a>,
    },
    /// Receive what is published in a channel.
    Subscribe {
        /// The channel.
        channel: Cow<'a, str>,
        /// Only publications whose tags match.
        filter: Option<Box<Filter>>,
    },
    /// Receive it no more.
    Unsubscribe {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Send to the subscribers of a channel.
    Publish {
        /// The channel.
        channel: Cow<'a, str>,
        /// What to send.
        publication: Publication<'a>,
    },
    /// Send to everybody.
    Broadcast {
        /// What to send.
        publication: Publication<'a>,
    },
    /// Tell who is there.
    Presence {
        /// Where.
        target: PresenceTarget<'a>,
    },
}

/// Where `presence` looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceTarget<'a> {
    /// In this room.
    Room(Cow<'a, str>),
    /// In this channel.
    Channel(Cow<'a, str>),
}

/// What is sent, and how it may be treated on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication<'a> {
    /// One JSON value, verbatim as the sender wrote it.
    pub content: &'a str,
    /// The application's name for this kind of message: 1 to [`EVENT_BYTES_MAX`] bytes without control characters.
    pub event: Option<Cow<'a, str>>,
    /// What may be given up first; `None`: as the configuration says for the event.
    pub class: Option<Class>,
    /// The conflation key of [`Class::Latest`]: at most [`EVENT_BYTES_MAX`] bytes.
    pub key: Option<Cow<'a, str>>,
    /// For filters.
    pub tags: Option<Tags>,
    /// The same, verbatim as the sender wrote it. There exactly where `tags` are.
    pub tags_raw: Option<&'a str>,
}

/// A message that is no request: what to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// The `id`, wherever it could be read.
    pub id: Option<RequestId>,
    /// The kind of error.
    pub code: ErrorCode,
    /// Which field, what it was, and what would be right.
    pub message: Cow<'static, str>,
}

/// The `code` of an `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The text is not JSON.
    BadJson,
    /// A field is missing or wrong.
    BadRequest,
    /// There is no request of this `type`.
    UnknownType,
    /// Not authenticated, or not by this token.
    Unauthorized,
    /// The permissions do not hold this.
    Forbidden,
    /// Only members may do this.
    NotMember,
    /// Over a size limit.
    TooLarge,
    /// Over `limits.messages_per_second`.
    RateLimitMessages,
    /// Over `limits.bytes_per_second`.
    RateLimitBytes,
    /// Over `session.max_subscriptions`.
    TooManyRooms,
    /// Not possible right now.
    Unavailable,
    /// A mistake of the gateway.
    Internal,
}

impl ErrorCode {
    /// The text of `code` on the wire.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::BadJson => "bad_json",
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::UnknownType => "unknown_type",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotMember => "not_member",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::RateLimitMessages => "rate_limit_messages",
            ErrorCode::RateLimitBytes => "rate_limit_bytes",
            ErrorCode::TooManyRooms => "too_many_rooms",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Internal => "internal",
        }
    }
}

/// Reads one message of a client.
///
/// # Errors
///
/// The answer to give: [`ErrorCode::BadJson`] (always with the message `Invalid JSON` and without an id), [`ErrorCode::BadRequest`] or
/// [`ErrorCode::UnknownType`].
pub fn parse(text: &str) -> Result<Parsed<'_>, RequestError> {
    let mut fields = Fields::default();
    if let Err(fault) = fields.read(text) {
        let id = if fault.code == ErrorCode::BadJson { None } else { fields.id().unwrap_or(None) };
        return Err(fault.with_id(id));
    }
    let id = fields.id().map_err(|fault| fault.with_id(None))?;
    match fields.request() {
        Ok(request) => Ok(Parsed { id, request }),
        Err(fault) => Err(fault.with_id(id)),
    }
}

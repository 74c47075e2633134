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
use super::filter::{Filter, FilterError};
use super::name::{RESERVED_USER, has_control};
use super::scan::{Kind, Members, Raw, ScanError, VALUE_NESTING_MAX};
use super::tags::{Tags, TagsError};
use crate::limits::{EVENT_BYTES_MAX, NAME_BYTES_MAX, REQUEST_ID_BYTES_MAX, TOKEN_BYTES_MAX};

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

/// A [`RequestError`] that does not know the id.
struct Fault {
    code: ErrorCode,
    message: Cow<'static, str>,
}

impl Fault {
    fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Fault { code: ErrorCode::BadRequest, message: message.into() }
    }

    fn with_id(self, id: Option<RequestId>) -> RequestError {
        RequestError { id, code: self.code, message: self.message }
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Syntax => Fault { code: ErrorCode::BadJson, message: "Invalid JSON".into() },
            ScanError::Nesting => Fault::bad_request(format!(
                "a field is nested too deeply; expected at most {VALUE_NESTING_MAX} levels of arrays and objects"
            )),
        }
    }
}

impl From<TagsError> for Fault {
    fn from(error: TagsError) -> Self {
        Fault::bad_request(error.0)
    }
}

impl From<FilterError> for Fault {
    fn from(error: FilterError) -> Self {
        Fault::bad_request(error.0)
    }
}

const A_NAME: &str = "a string of 1 to 128 bytes without control characters";
const A_TYPE: &str =
    "auth, ping, send_message, join, leave, message, subscribe, unsubscribe, publish, broadcast or presence";

const _: () = assert!(NAME_BYTES_MAX == 128 && EVENT_BYTES_MAX == 128, "the texts of errors say so");
const _: () = assert!(REQUEST_ID_BYTES_MAX == 64 && TOKEN_BYTES_MAX == 8192, "the texts of errors say so");

/// The fields that mean something, as they were written.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<Raw<'a>>,
    id: Option<Raw<'a>>,
    room: Option<Raw<'a>>,
    channel: Option<Raw<'a>>,
    target_user: Option<Raw<'a>>,
    content: Option<Raw<'a>>,
    event: Option<Raw<'a>>,
    class: Option<Raw<'a>>,
    key: Option<Raw<'a>>,
    tags: Option<Raw<'a>>,
    filter: Option<Raw<'a>>,
    token: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    /// Fills the fields with those of `text`, up to the first error.
    fn read(&mut self, text: &'a str) -> Result<(), Fault> {
        let Some(mut members) = Members::new(text) else {
            let kind = Raw::parse(text)?.kind().name();
            return Err(Fault::bad_request(format!("the message is {kind}; expected an object with a type")));
        };
        while let Some((name, value)) = members.next()? {
            let slot = match name.string().as_deref() {
                Some("type") => &mut self.kind,
                Some("id") => &mut self.id,
                Some("roomId") => &mut self.room,
                Some("channel") => &mut self.channel,
                Some("target_user") => &mut self.target_user,
                Some("content") => &mut self.content,
                Some("event") => &mut self.event,
                Some("class") => &mut self.class,
                Some("key") => &mut self.key,
                Some("tags") => &mut self.tags,
                Some("filter") => &mut self.filter,
                Some("token") => &mut self.token,
                _ => continue,
            };
            *slot = Some(value);
        }
        Ok(())
    }

    fn id(&self) -> Result<Option<RequestId>, Fault> {
        let Some(raw) = present(self.id) else { return Ok(None) };
        let id = match raw.kind() {
            Kind::String => {
                raw.string().filter(|id| id.len() <= REQUEST_ID_BYTES_MAX).map(|id| RequestId::Text(id.into()))
            }
            Kind::Number => raw.text().parse().ok().map(RequestId::Int),
            Kind::Object | Kind::Array | Kind::Bool | Kind::Null => None,
        };
        id.map(Some).ok_or_else(|| wrong("id", self.id, "a string of at most 64 bytes or an integer of 64 bits"))
    }

    fn request(&self) -> Result<Request<'a>, Fault> {
        let kind = string("type", self.kind, A_TYPE)?;
        Ok(match &*kind {
            "message" => Request::Message { room: self.room()?, publication: self.publication()? },
            "send_message" => {
                Request::SendMessage { target_user: self.target_user()?, publication: self.publication()? }
            }
            "publish" => Request::Publish { channel: self.channel()?, publication: self.publication()? },
            "broadcast" => Request::Broadcast { publication: self.publication()? },
            "ping" => Request::Ping,
            "join" => Request::Join { room: self.room()? },
            "leave" => Request::Leave { room: self.room()? },
            "subscribe" => Request::Subscribe { channel: self.channel()?, filter: self.filter()? },
            "unsubscribe" => Request::Unsubscribe { channel: self.channel()? },
            "presence" => Request::Presence { target: self.presence_target()? },
            "auth" => Request::Auth {
                token: bounded("token", self.token, 0, TOKEN_BYTES_MAX, "a string of at most 8192 bytes")?,
            },
            unknown => {
                let shown: String = unknown.chars().take(64).collect();
                let message = format!("unknown type \"{shown}\"; expected {A_TYPE}");
                return Err(Fault { code: ErrorCode::UnknownType, message: message.into() });
            }
        })
    }

    fn room(&self) -> Result<Cow<'a, str>, Fault> {
        name("roomId", self.room)
    }

    fn channel(&self) -> Result<Cow<'a, str>, Fault> {
        name("channel", self.channel)
    }

    fn target_user(&self) -> Result<Cow<'a, str>, Fault> {
        let user = name("target_user", self.target_user)?;
        if user == RESERVED_USER {
            return Err(Fault::bad_request("target_user is \"events\", which is reserved; expected another user"));
        }
        Ok(user)
    }

    fn presence_target(&self) -> Result<PresenceTarget<'a>, Fault> {
        match (present(self.room), present(self.channel)) {
            (Some(_), Some(_)) => Err(Fault::bad_request("roomId and channel are both given; expected one of them")),
            (None, None) => {
                Err(Fault::bad_request(format!("roomId and channel are missing; expected one of them, {A_NAME}")))
            }
            (Some(_), None) => self.room().map(PresenceTarget::Room),
            (None, Some(_)) => self.channel().map(PresenceTarget::Channel),
        }
    }

    fn filter(&self) -> Result<Option<Box<Filter>>, Fault> {
        let Some(raw) = present(self.filter) else { return Ok(None) };
        Ok(Some(Box::new(Filter::parse(raw.text())?)))
    }

    fn publication(&self) -> Result<Publication<'a>, Fault> {
        let content = self.content.ok_or_else(|| wrong("content", None, "any JSON value"))?;
        let event = match present(self.event) {
            Some(raw) => Some(name("event", Some(raw))?),
            None => None,
        };
        let key = match present(self.key) {
            Some(raw) => Some(bounded("key", Some(raw), 0, EVENT_BYTES_MAX, "a string of at most 128 bytes")?),
            None => None,
        };
        let class = match present(self.class) {
            Some(raw) => Some(class(raw)?),
            None => None,
        };
        let (tags, tags_raw) = match present(self.tags) {
            Some(raw) => (Some(Tags::parse(raw.text())?), Some(raw.text())),
            None => (None, None),
        };
        Ok(Publication { content: content.text(), event, class, key, tags, tags_raw })
    }
}

/// `null` is as good as absent.
fn present(field: Option<Raw<'_>>) -> Option<Raw<'_>> {
    field.filter(|raw| raw.kind() != Kind::Null)
}

fn class(raw: Raw<'_>) -> Result<Class, Fault> {
    match raw.string().as_deref() {
        Some("urgent") => Ok(Class::Urgent),
        Some("normal") => Ok(Class::Normal),
        Some("latest") => Ok(Class::Latest),
        Some("droppable") => Ok(Class::Droppable),
        _ => Err(wrong("class", Some(raw), "urgent, normal, latest or droppable")),
    }
}

fn name<'a>(field: &str, raw: Option<Raw<'a>>) -> Result<Cow<'a, str>, Fault> {
    let name = bounded(field, raw, 1, NAME_BYTES_MAX, A_NAME)?;
    if has_control(&name) {
        return Err(Fault::bad_request(format!("{field} has a control character; expected {A_NAME}")));
    }
    Ok(name)
}

/// A string of `min` to `max` bytes, after its escapes are resolved.
fn bounded<'a>(
    field: &str,
    raw: Option<Raw<'a>>,
    min: usize,
    max: usize,
    expected: &str,
) -> Result<Cow<'a, str>, Fault> {
    let text = string(field, raw, expected)?;
    if text.len() < min || text.len() > max {
        return Err(Fault::bad_request(format!("{field} has {} bytes; expected {expected}", text.len())));
    }
    Ok(text)
}

fn string<'a>(field: &str, raw: Option<Raw<'a>>, expected: &str) -> Result<Cow<'a, str>, Fault> {
    raw.and_then(Raw::string).ok_or_else(|| wrong(field, raw, expected))
}

/// "roomId is a number; expected ...".
#[cold]
fn wrong(field: &str, found: Option<Raw<'_>>, expected: &str) -> Fault {
    let found = match found.map(|raw| (raw.kind(), raw)) {
        None => Cow::Borrowed("missing"),
        Some((Kind::String, raw)) if raw.string().is_none() => "a string with half a surrogate pair".into(),
        // Short ones are shown, so that a typing mistake explains itself.
        Some((Kind::String | Kind::Number, raw)) if raw.text().len() <= 32 => raw.text().into(),
        Some((Kind::String, raw)) => format!("a string of {} bytes", raw.string().map_or(0, |text| text.len())).into(),
        Some((kind, _)) => kind.name().into(),
    };
    Fault::bad_request(format!("{field} is {found}; expected {expected}"))
}

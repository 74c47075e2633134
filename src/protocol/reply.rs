//! What the gateway sends: each encoder appends one JSON text to a buffer, without white space, fields in the order shown.
//!
//! Strings are escaped; `content` and `tags` are JSON already and go in verbatim. `?` marks fields that are left out where they do not
//! apply. `ID` is the request's `id` as it came: a string or an integer.
//!
//! | encoder | JSON |
//! |---|---|
//! | [`message`] | `{"type":"message"\|"broadcast","id":"..","from"?:"..","content":..,"timestamp":MS,"roomId"?:"..","channel"?:"..","event"?:"..","tags"?:{..}}` |
//! | [`auth_ok`] | `{"type":"auth:ok","userId":"..","connectionId":"..","node":"..","heartbeatMs":N,"session":".."}` |
//! | [`auth_fail`] | `{"type":"auth:fail","message":".."}` |
//! | [`pong`] | `{"type":"pong","ts":MS,"id"?:ID}` |
//! | [`ok`] | `{"type":"ok","id":ID,"roomId"?:"..","channel"?:"..","messageId"?:"..","status"?:"..","local"?:true}` |
//! | [`error`] | `{"type":"error","id"?:ID,"code":"..","message":".."}` |
//! | [`presence`] | `{"type":"ok","id":ID,"roomId"\|"channel":"..","users":[{"userId":"..","connections":N},..],"userCount":N,"connectionCount":N,"truncated":BOOL}`; without an id `"type":"presence"` |
//! | [`user_joined`], [`user_left`] | `{"type":"user:joined"\|"user:left","userId":"..","roomId":".."}` |
//! | [`gap`] | `{"type":"gap","roomId"\|"channel"?:"..","dropped":N}` |
//! | [`reconnect`] | `{"type":"reconnect","afterMs":N,"url"?:"..","reason":".."}` |
//! | [`batch`] | `{"type":"batch","messages":[..]}` |

use super::request::{ErrorCode, RequestId};
use super::string::{push_quoted, quoted_len};
use crate::ids::{ConnectionId, MessageId};

/// The `type` of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To a user, a room or a channel.
    Message,
    /// To everybody.
    Broadcast,
}

/// A room or a channel by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// `roomId`
    Room(&'a str),
    /// `channel`
    Channel(&'a str),
}

/// Everything that a `message` or `broadcast` says.
#[derive(Clone, Copy, Debug)]
pub struct MessageHead<'a> {
    /// The `type`.
    pub kind: Kind,
    /// `id`
    pub id: MessageId,
    /// `from`: the user who sent it; `None` where a service did.
    pub from: Option<&'a str>,
    /// `content`: one JSON value, verbatim.
    pub content: &'a str,
    /// `timestamp`: Unix time in milliseconds.
    pub timestamp_ms: u64,
    /// `roomId`
    pub room: Option<&'a str>,
    /// `channel`
    pub channel: Option<&'a str>,
    /// `event`
    pub event: Option<&'a str>,
    /// `tags`: one JSON object, verbatim.
    pub tags_raw: Option<&'a str>,
}

/// What became of a `send_message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// In the outbox of at least one connection.
    Delivered,
    /// Kept for an offline user.
    Stored,
    /// The user has no connection.
    Offline,
    /// Every outbox refused it.
    Dropped,
}

impl Status {
    /// The text of `status` on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Status::Delivered => "delivered",
            Status::Stored => "stored",
            Status::Offline => "offline",
            Status::Dropped => "dropped",
        }
    }
}

/// What an `ok` says beside the `id`; the default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct OkFields<'a> {
    /// `roomId`, of `join` and `leave`.
    pub room: Option<&'a str>,
    /// `channel`, of `subscribe` and `unsubscribe`.
    pub channel: Option<&'a str>,
    /// `messageId`, of whatever sends: the `id` that its receivers see.
    pub message_id: Option<MessageId>,
    /// `status`, of `send_message`.
    pub status: Option<Status>,
    /// `"local":true`: done on this node, not confirmed by the cluster.
    pub local: bool,
}

/// Appends a message on its way to its receivers.
pub fn message(out: &mut Vec<u8>, m: &MessageHead<'_>) {
    literal(out, m.kind.opening());
    literal(out, r#","id":""#);
    out.extend_from_slice(&m.id.encode());
    literal(out, r#"""#);
    optional_string(out, r#","from":"#, m.from);
    literal(out, r#","content":"#);
    literal(out, m.content);
    literal(out, r#","timestamp":"#);
    unsigned(out, m.timestamp_ms);
    optional_string(out, r#","roomId":"#, m.room);
    optional_string(out, r#","channel":"#, m.channel);
    optional_string(out, r#","event":"#, m.event);
    if let Some(tags) = m.tags_raw {
        literal(out, r#","tags":"#);
        literal(out, tags);
    }
    literal(out, "}");
}

/// How many bytes [`message`] appends, exactly: a buffer of this capacity neither grows nor is left with room to spare.
pub fn message_capacity(m: &MessageHead<'_>) -> usize {
    let optional = |label: &str, value: Option<&str>| value.map_or(0, |value| label.len() + quoted_len(value));
    m.kind.opening().len()
        + r#","id":"""#.len()
        + MessageId::TEXT_LEN
        + optional(r#","from":"#, m.from)
        + r#","content":"#.len()
        + m.content.len()
        + r#","timestamp":"#.len()
        + digits(m.timestamp_ms)
        + optional(r#","roomId":"#, m.room)
        + optional(r#","channel":"#, m.channel)
        + optional(r#","event":"#, m.event)
        + m.tags_raw.map_or(0, |tags| r#","tags":"#.len() + tags.len())
        + "}".len()
}

impl Kind {
    fn opening(self) -> &'static str {
        match self {
            Kind::Message => r#"{"type":"message""#,
            Kind::Broadcast => r#"{"type":"broadcast""#,
        }
    }
}

/// Appends the answer to a good token or identity. `session` names the session for a later resumption.
pub fn auth_ok(out: &mut Vec<u8>, user: &str, connection: ConnectionId, node: &str, heartbeat_ms: u64, session: &str) {
    literal(out, r#"{"type":"auth:ok","userId":"#);
    push_quoted(out, user);
    literal(out, r#","connectionId":"#);
    push_quoted(out, &connection.to_string());
    literal(out, r#","node":"#);
    push_quoted(out, node);
    literal(out, r#","heartbeatMs":"#);
    unsigned(out, heartbeat_ms);
    literal(out, r#","session":"#);
    push_quoted(out, session);
    literal(out, "}");
}

/// Appends the answer to a bad token.
pub fn auth_fail(out: &mut Vec<u8>, message: &str) {
    literal(out, r#"{"type":"auth:fail","message":"#);
    push_quoted(out, message);
    literal(out, "}");
}

/// Appends the answer to `ping`, with the ping's id where it has one. `ts_ms` is Unix time in milliseconds.
pub fn pong(out: &mut Vec<u8>, id: Option<&RequestId>, ts_ms: u64) {
    literal(out, r#"{"type":"pong","ts":"#);
    unsigned(out, ts_ms);
    optional_id(out, id);
    literal(out, "}");
}

/// Appends the answer to a request that was carried out.
pub fn ok(out: &mut Vec<u8>, id: &RequestId, fields: &OkFields<'_>) {
    literal(out, r#"{"type":"ok""#);
    optional_id(out, Some(id));
    optional_string(out, r#","roomId":"#, fields.room);
    optional_string(out, r#","channel":"#, fields.channel);
    if let Some(message_id) = fields.message_id {
        literal(out, r#","messageId":""#);
        out.extend_from_slice(&message_id.encode());
        literal(out, r#"""#);
    }
    optional_string(out, r#","status":"#, fields.status.map(Status::name));
    if fields.local {
        literal(out, r#","local":true"#);
    }
    literal(out, "}");
}

/// Appends the answer to a request that was not carried out, or to a message that is none.
pub fn error(out: &mut Vec<u8>, id: Option<&RequestId>, code: ErrorCode, message: &str) {
    literal(out, r#"{"type":"error""#);
    optional_id(out, id);
    literal(out, r#","code":"#);
    push_quoted(out, code.name());
    literal(out, r#","message":"#);
    push_quoted(out, message);
    literal(out, "}");
}

/// Appends the answer to `presence`: `users` with their connections there, and the totals, which count also those that `truncated`
/// says are not listed.
pub fn presence(
    out: &mut Vec<u8>,
    id: Option<&RequestId>,
    place: Place<'_>,
    users: &[(&str, u32)],
    user_count: u64,
    connection_count: u64,
    truncated: bool,
) {
    literal(out, if id.is_some() { r#"{"type":"ok""# } else { r#"{"type":"presence""# });
    optional_id(out, id);
    optional_place(out, Some(place));
    literal(out, r#","users":["#);
    for (index, (user, connections)) in users.iter().enumerate() {
        literal(out, if index == 0 { r#"{"userId":"# } else { r#",{"userId":"# });
        push_quoted(out, user);
        literal(out, r#","connections":"#);
        unsigned(out, u64::from(*connections));
        literal(out, "}");
    }
    literal(out, r#"],"userCount":"#);
    unsigned(out, user_count);
    literal(out, r#","connectionCount":"#);
    unsigned(out, connection_count);
    literal(out, if truncated { r#","truncated":true}"# } else { r#","truncated":false}"# });
}

/// Appends the notice that a user's first connection entered a room.
pub fn user_joined(out: &mut Vec<u8>, user: &str, room: &str) {
    literal(out, r#"{"type":"user:joined""#);
    user_in_room(out, user, room);
}

/// Appends the notice that a user's last connection left a room.
pub fn user_left(out: &mut Vec<u8>, user: &str, room: &str) {
    literal(out, r#"{"type":"user:left""#);
    user_in_room(out, user, room);
}

fn user_in_room(out: &mut Vec<u8>, user: &str, room: &str) {
    literal(out, r#","userId":"#);
    push_quoted(out, user);
    literal(out, r#","roomId":"#);
    push_quoted(out, room);
    literal(out, "}");
}

/// Appends the notice that `dropped` messages of `place` (`None`: of users and broadcasts) were dropped while the receiver was behind.
pub fn gap(out: &mut Vec<u8>, place: Option<Place<'_>>, dropped: u32) {
    literal(out, r#"{"type":"gap""#);
    optional_place(out, place);
    literal(out, r#","dropped":"#);
    unsigned(out, u64::from(dropped));
    literal(out, "}");
}

/// Appends the request to connect again after `after_ms` milliseconds, elsewhere where a `url` is given.
pub fn reconnect(out: &mut Vec<u8>, after_ms: u64, url: Option<&str>, reason: &str) {
    literal(out, r#"{"type":"reconnect","afterMs":"#);
    unsigned(out, after_ms);
    optional_string(out, r#","url":"#, url);
    literal(out, r#","reason":"#);
    push_quoted(out, reason);
    literal(out, "}");
}

/// Appends several messages as one. Each of `payloads` is a JSON text of this module.
pub fn batch<'a>(out: &mut Vec<u8>, payloads: impl IntoIterator<Item = &'a [u8]>) {
    literal(out, r#"{"type":"batch","messages":["#);
    for (index, payload) in payloads.into_iter().enumerate() {
        if index > 0 {
            literal(out, ",");
        }
        out.extend_from_slice(payload);
    }
    literal(out, "]}");
}

#[inline]
fn literal(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends `label` and a string, or nothing.
fn optional_string(out: &mut Vec<u8>, label: &str, value: Option<&str>) {
    if let Some(value) = value {
        literal(out, label);
        push_quoted(out, value);
    }
}

fn optional_place(out: &mut Vec<u8>, place: Option<Place<'_>>) {
    match place {
        Some(Place::Room(room)) => optional_string(out, r#","roomId":"#, Some(room)),
        Some(Place::Channel(channel)) => optional_string(out, r#","channel":"#, Some(channel)),
        None => {}
    }
}

fn optional_id(out: &mut Vec<u8>, id: Option<&RequestId>) {
    match id {
        Some(RequestId::Text(text)) => optional_string(out, r#","id":"#, Some(text)),
        Some(RequestId::Int(int)) => {
            literal(out, if *int < 0 { r#","id":-"# } else { r#","id":"# });
            unsigned(out, int.unsigned_abs());
        }
        None => {}
    }
}

/// Decimal digits of `number`.
fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Appends `number` in decimal.
fn unsigned(out: &mut Vec<u8>, number: u64) {
    let mut text = [b'0'; 20];
    let mut rest = number;
    for byte in text.iter_mut().rev() {
        *byte = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(text.get(text.len() - digits(number)..).unwrap_or_default());
}

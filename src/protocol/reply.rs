//! What the gateway sends: each encoder appends one JSON text to a buffer, without white space, fields in the order shown.
//!
//! Strings are escaped; `content` and `tags` are JSON already and go in verbatim. `?` marks fields that are left out where they do not
//! apply. `ID` is the request's `id` as it came: a string or an integer.
//!
//! | encoder | JSON |
//! |---|---|
//! | [`message`] | `{"type":"message"\|"broadcast","id":"..","from"?:"..","content":..,"timestamp":MS,"roomId"?:"..","channel"?:"..","event"?:"..","tags"?:{..}}` |
//! | [`auth_ok`] | `{"type":"auth:ok","userId":"..","connectionId":"..","node":"..","heartbeatMs":N,"session":"..","local"?:true}` |
//! | [`auth_fail`] | `{"type":"auth:fail","message":".."}` |
//! | [`pong`] | `{"type":"pong","ts":MS,"id"?:ID}` |
//! | [`ok`] | `{"type":"ok","id":ID,"roomId"?:"..","channel"?:"..","messageId"?:"..","status"?:"..","local"?:true,"content"?:..}` |
//! | [`error`] | `{"type":"error","id"?:ID,"code":"..","message":".."}` |
//! | [`presence`] | `{"type":"ok","id":ID,"roomId"\|"channel":"..","users":[{"userId":"..","connections":N},..],"userCount":N,"connectionCount":N,"truncated":BOOL}`; without an id `"type":"presence"` |
//! | [`user_joined`], [`user_left`] | `{"type":"user:joined"\|"user:left","userId":"..","roomId":".."}` |
//! | [`gap`] | `{"type":"gap","roomId"\|"channel"?:"..","dropped":N}` |
//! | [`reconnect`] | `{"type":"reconnect","afterMs":N,"url"?:"..","reason":".."}` |
//! | [`batch`] | `{"type":"batch","messages":[..]}` |

use super::request::{ErrorCode, RequestId};
use super::string::{push_quoted, quoted_len};
use crate::ids::{GlobalConnectionId, MessageId};

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
    /// `content`: one JSON value, verbatim: what a service has answered.
    pub content: Option<&'a str>,
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

/// Appends the answer to a good token or identity. `session` names the session for a later resumption; `local`: the cluster does not know of
/// it (yet).
pub fn auth_ok(
    out: &mut Vec<u8>,
    user: &str,
    connection: GlobalConnectionId,
    node: &str,
    heartbeat_ms: u64,
    session: &str,
    local: bool,
) {
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
    literal(out, if local { r#","local":true}"# } else { "}" });
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
    if let Some(content) = fields.content {
        literal(out, r#","content":"#);
        literal(out, content);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::ids::{ConnectionId, ShardId};

    const ID: MessageId = MessageId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    const ID_TEXT: &str = "014D2PF2DBSQQG28T5CY4TQKFF";

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"kept".to_vec();
        write(&mut out);
        let text = String::from_utf8(out).unwrap();
        text.strip_prefix("kept").unwrap().to_owned()
    }

    fn check(write: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let text = written(write);
        assert_eq!(text, expected);
        serde_json::from_str::<Value>(&text).unwrap();
    }

    fn head() -> MessageHead<'static> {
        MessageHead {
            kind: Kind::Message,
            id: ID,
            from: None,
            content: "1",
            timestamp_ms: 0,
            room: None,
            channel: None,
            event: None,
            tags_raw: None,
        }
    }

    #[test]
    fn messages_are_written_as_documented() {
        check(
            |out| message(out, &head()),
            &format!(r#"{{"type":"message","id":"{ID_TEXT}","content":1,"timestamp":0}}"#),
        );
        let full = MessageHead {
            kind: Kind::Broadcast,
            from: Some("al\"ice"),
            content: r#"{ "a": ["\n"] }"#,
            timestamp_ms: 1_700_000_000_123,
            room: Some("r"),
            channel: Some("c"),
            event: Some("e"),
            tags_raw: Some(r#"{"k": 1}"#),
            ..head()
        };
        check(
            |out| message(out, &full),
            &format!(
                r#"{{"type":"broadcast","id":"{ID_TEXT}","from":"al\"ice","content":{{ "a": ["\n"] }},"timestamp":1700000000123,"roomId":"r","channel":"c","event":"e","tags":{{"k": 1}}}}"#
            ),
        );
    }

    #[test]
    fn answers_are_written_as_documented() {
        let (text, int) = (RequestId::Text("a\"\n".into()), RequestId::Int(i64::MIN));
        let connection = ConnectionId { shard: ShardId(1), slot: 2, generation: 3 }.of(0x5f00_aa01);
        check(
            |out| auth_ok(out, "u", connection, "n-1", 30_000, "s", false),
            r#"{"type":"auth:ok","userId":"u","connectionId":"5f00aa0100010000000200000003","node":"n-1","heartbeatMs":30000,"session":"s"}"#,
        );
        check(|out| auth_fail(out, "expired"), r#"{"type":"auth:fail","message":"expired"}"#);
        check(|out| pong(out, None, 7), r#"{"type":"pong","ts":7}"#);
        check(|out| pong(out, Some(&int), 7), r#"{"type":"pong","ts":7,"id":-9223372036854775808}"#);
        check(|out| ok(out, &text, &OkFields::default()), r#"{"type":"ok","id":"a\"\n"}"#);
        let joined = OkFields { room: Some("r"), local: true, ..OkFields::default() };
        check(|out| ok(out, &RequestId::Int(0), &joined), r#"{"type":"ok","id":0,"roomId":"r","local":true}"#);
        let answered = OkFields { content: Some(r#"{"a" : 1}"#), ..OkFields::default() };
        check(|out| ok(out, &RequestId::Int(0), &answered), r#"{"type":"ok","id":0,"content":{"a" : 1}}"#);
        let subscribed = OkFields { channel: Some("c"), ..OkFields::default() };
        check(|out| ok(out, &RequestId::Int(12), &subscribed), r#"{"type":"ok","id":12,"channel":"c"}"#);
        for (status, name) in [
            (Status::Delivered, "delivered"),
            (Status::Stored, "stored"),
            (Status::Offline, "offline"),
            (Status::Dropped, "dropped"),
        ] {
            let sent = OkFields { message_id: Some(ID), status: Some(status), ..OkFields::default() };
            check(
                |out| ok(out, &RequestId::Int(-1), &sent),
                &format!(r#"{{"type":"ok","id":-1,"messageId":"{ID_TEXT}","status":"{name}"}}"#),
            );
        }
        check(
            |out| error(out, None, ErrorCode::BadJson, "Invalid JSON"),
            r#"{"type":"error","code":"bad_json","message":"Invalid JSON"}"#,
        );
        check(
            |out| error(out, Some(&int), ErrorCode::TooManyRooms, "no"),
            r#"{"type":"error","id":-9223372036854775808,"code":"too_many_rooms","message":"no"}"#,
        );
    }

    #[test]
    fn notices_are_written_as_documented() {
        check(
            |out| presence(out, None, Place::Room("r"), &[], 0, 0, false),
            r#"{"type":"presence","roomId":"r","users":[],"userCount":0,"connectionCount":0,"truncated":false}"#,
        );
        check(
            |out| presence(out, Some(&RequestId::Int(1)), Place::Channel("c"), &[("a", 1), ("b\\", 20)], 3, 22, true),
            r#"{"type":"ok","id":1,"channel":"c","users":[{"userId":"a","connections":1},{"userId":"b\\","connections":20}],"userCount":3,"connectionCount":22,"truncated":true}"#,
        );
        check(|out| user_joined(out, "u", "r"), r#"{"type":"user:joined","userId":"u","roomId":"r"}"#);
        check(|out| user_left(out, "u", "r"), r#"{"type":"user:left","userId":"u","roomId":"r"}"#);
        check(|out| gap(out, None, 3), r#"{"type":"gap","dropped":3}"#);
        check(|out| gap(out, Some(Place::Room("r")), u32::MAX), r#"{"type":"gap","roomId":"r","dropped":4294967295}"#);
        check(|out| gap(out, Some(Place::Channel("c")), 1), r#"{"type":"gap","channel":"c","dropped":1}"#);
        check(|out| reconnect(out, 0, None, "draining"), r#"{"type":"reconnect","afterMs":0,"reason":"draining"}"#);
        check(
            |out| reconnect(out, 1500, Some("wss://b.example/ws?moved=1"), "moved"),
            r#"{"type":"reconnect","afterMs":1500,"url":"wss://b.example/ws?moved=1","reason":"moved"}"#,
        );
        let none: [&[u8]; 0] = [];
        check(|out| batch(out, none), r#"{"type":"batch","messages":[]}"#);
        check(|out| batch(out, [b"{}".as_slice(), b"1", b"[]"]), r#"{"type":"batch","messages":[{},1,[]]}"#);
    }

    #[test]
    fn integers_are_written_at_every_length() {
        for power in 0..20 {
            for number in [10u64.pow(power), 10u64.pow(power) - 1, u64::MAX] {
                let text = written(|out| unsigned(out, number));
                assert_eq!(text, number.to_string());
                assert_eq!(digits(number), text.len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_message_is_read_back_and_fills_its_capacity_exactly(
            from in prop::option::of(any::<String>()),
            room in prop::option::of("[\\x00-\\x7f]{0,40}"),
            channel in prop::option::of(any::<String>()),
            event in prop::option::of(any::<String>()),
            content in any::<String>(),
            timestamp_ms in any::<u64>(),
            id in any::<u128>(),
        ) {
            let raw = serde_json::to_string(&content).unwrap();
            let m = MessageHead {
                id: MessageId(id), from: from.as_deref(), content: &raw, timestamp_ms,
                room: room.as_deref(), channel: channel.as_deref(), event: event.as_deref(), tags_raw: None, ..head()
            };
            let mut out = Vec::with_capacity(message_capacity(&m));
            message(&mut out, &m);
            prop_assert_eq!(out.len(), message_capacity(&m));
            let mut expected = json!({"type": "message", "id": MessageId(id).to_string(), "content": content, "timestamp": timestamp_ms});
            for (field, value) in [("from", from), ("roomId", room), ("channel", channel), ("event", event)] {
                if let Some(value) = value {
                    expected[field] = json!(value);
                }
            }
            prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        }
    }
}

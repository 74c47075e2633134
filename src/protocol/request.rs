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
    /// Every code.
    pub const ALL: [ErrorCode; 12] = [
        ErrorCode::BadJson,
        ErrorCode::BadRequest,
        ErrorCode::UnknownType,
        ErrorCode::Unauthorized,
        ErrorCode::Forbidden,
        ErrorCode::NotMember,
        ErrorCode::TooLarge,
        ErrorCode::RateLimitMessages,
        ErrorCode::RateLimitBytes,
        ErrorCode::TooManyRooms,
        ErrorCode::Unavailable,
        ErrorCode::Internal,
    ];

    /// The code of that name.
    pub fn by_name(name: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|code| code.name() == name)
    }

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

/// Reads what a service publishes: the fields of a [`Publication`] among others.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_publication(text: &str) -> Result<Publication<'_>, RequestError> {
    let mut fields = Fields::default();
    let read = fields.read(text).and_then(|()| fields.publication());
    read.map_err(|fault| fault.with_id(None))
}

/// Reads what a service would change of a publication: those of its fields that `text` has too, as they are there. One that is `null`
/// stays as it was, but for `content`.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_changes<'a>(text: &'a str, before: &Publication<'a>) -> Result<Publication<'a>, RequestError> {
    let mut fields = Fields::default();
    let read = fields.read(text).and_then(|()| fields.changes(before.clone()));
    read.map_err(|fault| fault.with_id(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(content: &str) -> Publication<'_> {
        Publication { content, event: None, class: None, key: None, tags: None, tags_raw: None }
    }

    #[test]
    fn every_type_is_read() {
        let filter = || Some(Box::new(Filter::parse(r#"{"op":"exists","key":"k"}"#).unwrap()));
        let table = [
            (r#"{"type":"auth","token":"a.b.c"}"#, Request::Auth { token: "a.b.c".into() }),
            (r#"{"type":"auth","token":""}"#, Request::Auth { token: "".into() }),
            (r#"{"type":"ping"}"#, Request::Ping),
            (" {\n\"ty\\u0070e\" : \"p\\u0069ng\" }\r\n", Request::Ping),
            (
                r#"{"type":"send_message","target_user":"bob","content":{"a" : [1,"x\n"]}}"#,
                Request::SendMessage { target_user: "bob".into(), publication: publication(r#"{"a" : [1,"x\n"]}"#) },
            ),
            (r#"{"type":"join","roomId":"events"}"#, Request::Join { room: "events".into() }),
            (r#"{"roomId":"caf\u00e9","type":"leave"}"#, Request::Leave { room: "café".into() }),
            (
                r#"{"type":"message","roomId":"r","content": null }"#,
                Request::Message { room: "r".into(), publication: publication("null") },
            ),
            (r#"{"type":"subscribe","channel":"c"}"#, Request::Subscribe { channel: "c".into(), filter: None }),
            (
                r#"{"type":"subscribe","channel":"c","filter":null,"since":{"any":[1]}}"#,
                Request::Subscribe { channel: "c".into(), filter: None },
            ),
            (
                r#"{"type":"subscribe","channel":"c","filter":{"op":"exists","key":"k"}}"#,
                Request::Subscribe { channel: "c".into(), filter: filter() },
            ),
            (r#"{"type":"unsubscribe","channel":"c"}"#, Request::Unsubscribe { channel: "c".into() }),
            (
                r#"{"type":"publish","channel":"c","content":"hi"}"#,
                Request::Publish { channel: "c".into(), publication: publication("\"hi\"") },
            ),
            (r#"{"type":"broadcast","content":1.50}"#, Request::Broadcast { publication: publication("1.50") }),
            (
                r#"{"type":"presence","roomId":"r","channel":null}"#,
                Request::Presence { target: PresenceTarget::Room("r".into()) },
            ),
            (r#"{"type":"presence","channel":"c"}"#, Request::Presence { target: PresenceTarget::Channel("c".into()) }),
            // Fields that the type does not know are not looked at.
            (r#"{"type":"ping","roomId":5,"filter":7,"class":[],"tags":"x","content":{}}"#, Request::Ping),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Ok(Parsed { id: None, request: expected }), "{text}");
        }
    }

    #[test]
    fn delivery_options_are_read_wherever_there_is_content() {
        let options = r#""content":[],"event":"price_update","class":"latest","key":"k1","tags":{"a": 1}"#;
        let expected = Publication {
            content: "[]",
            event: Some("price_update".into()),
            class: Some(Class::Latest),
            key: Some("k1".into()),
            tags: Some(Tags::parse(r#"{"a":1}"#).unwrap()),
            tags_raw: Some(r#"{"a": 1}"#),
        };
        for start in [
            r#""type":"send_message","target_user":"u""#,
            r#""type":"message","roomId":"r""#,
            r#""type":"publish","channel":"c""#,
            r#""type":"broadcast""#,
        ] {
            let text = format!("{{{start},{options}}}");
            let request = parse(&text).unwrap().request;
            let (Request::SendMessage { publication, .. }
            | Request::Message { publication, .. }
            | Request::Publish { publication, .. }
            | Request::Broadcast { publication }) = request
            else {
                panic!("{text}: {request:?}");
            };
            assert_eq!(publication, expected, "{text}");
            assert!(matches!(publication.event, Some(Cow::Borrowed(_))), "copied");
        }
        for (name, class) in [
            ("urgent", Class::Urgent),
            ("normal", Class::Normal),
            ("latest", Class::Latest),
            ("droppable", Class::Droppable),
        ] {
            let text = format!(r#"{{"type":"broadcast","content":0,"class":"{name}"}}"#);
            let Request::Broadcast { publication } = parse(&text).unwrap().request else { panic!("{text}") };
            assert_eq!(publication.class, Some(class));
        }
        let nulls = r#"{"type":"broadcast","id":null,"content":0,"event":null,"class":null,"key":null,"tags":null}"#;
        assert_eq!(parse(nulls).unwrap().request, Request::Broadcast { publication: publication("0") });
    }

    #[test]
    fn changes_replace_what_they_name() {
        let before = parse_publication(r#"{"content":1,"event":"e","key":"k","tags":{"a":1}}"#).unwrap();
        let same = parse_changes(r#"{"event":null,"key":null,"tags":null,"more":[]}"#, &before).unwrap();
        assert_eq!(same, before);
        let changed =
            parse_changes(r#"{"content":null,"event":"f","class":"latest","tags":{"b":2}}"#, &before).unwrap();
        assert_eq!((changed.content, changed.event.as_deref(), changed.key.as_deref()), ("null", Some("f"), Some("k")));
        assert_eq!((changed.class, changed.tags_raw), (Some(Class::Latest), Some(r#"{"b":2}"#)));
        assert!(parse_changes(r#"{"class":"fast"}"#, &before).is_err());
    }

    #[test]
    fn codes_are_found_by_their_names() {
        assert!(ErrorCode::ALL.into_iter().all(|code| ErrorCode::by_name(code.name()) == Some(code)));
        assert_eq!(ErrorCode::by_name("Forbidden"), None);
    }

    #[test]
    fn ids_are_short_strings_and_integers_of_64_bits() {
        let text = |id: &str| Some(RequestId::Text(id.into()));
        let (longest, too_long) = (format!("\"{}\"", "é".repeat(32)), format!("\"{}\"", "x".repeat(65)));
        let good = [
            ("null", None),
            ("\"\"", text("")),
            (r#""a\"\u00e9""#, text("a\"é")),
            (&longest, text(&"é".repeat(32))),
            ("0", Some(RequestId::Int(0))),
            ("-9223372036854775808", Some(RequestId::Int(i64::MIN))),
            ("9223372036854775807", Some(RequestId::Int(i64::MAX))),
        ];
        for (id, expected) in good {
            assert_eq!(parse(&format!(r#"{{"type":"ping","id":{id}}}"#)).unwrap().id, expected, "{id}");
        }
        for bad in ["9223372036854775808", "1.0", "1e3", "true", "[]", "{}", r#""\ud800""#, &too_long] {
            let error = parse(&format!(r#"{{"type":"ping","id":{bad}}}"#)).unwrap_err();
            assert_eq!((error.id, error.code), (None, ErrorCode::BadRequest), "{bad}");
            assert!(error.message.ends_with("expected a string of at most 64 bytes or an integer of 64 bits"), "{bad}");
        }
    }

    #[test]
    fn of_a_field_that_comes_twice_the_last_counts() {
        let text = r#"{"type":"join","id":1,"roomId":5,"content":0,"type":"message","id":2,"roomId":"r","content":1}"#;
        let request = Request::Message { room: "r".into(), publication: publication("1") };
        assert_eq!(parse(text), Ok(Parsed { id: Some(RequestId::Int(2)), request }));
    }

    #[test]
    fn names_and_content_are_borrowed() {
        let text = r#"{"type":"message","roomId":"lobby","content":{"text":"hi"}}"#;
        let Request::Message { room: Cow::Borrowed(room), publication } = parse(text).unwrap().request else {
            panic!("the name was copied");
        };
        let inside = |part: &str| text.as_bytes().as_ptr_range().contains(&part.as_ptr());
        assert!(inside(room) && inside(publication.content));
    }

    #[test]
    fn bad_json_is_answered_the_same_way_always() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "nope",
            "{\"type\":\"ping\"",
            "{\"type\":\"ping\",}",
            "{\"id\":1,\"type\":\"ping\"}}",
            "{'type':'ping'}",
            "[1,",
        ] {
            let expected = RequestError { id: None, code: ErrorCode::BadJson, message: "Invalid JSON".into() };
            assert_eq!(parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_the_field_and_what_would_be_right() {
        const NAME: &str = "expected a string of 1 to 128 bytes without control characters";
        let long = "x".repeat(129);
        let table = [
            (r#""type":"join""#, format!("roomId is missing; {NAME}")),
            (r#""type":"join","roomId":7"#, format!("roomId is 7; {NAME}")),
            (r#""type":"join","roomId":null"#, format!("roomId is null; {NAME}")),
            (r#""type":"join","roomId":{}"#, format!("roomId is an object; {NAME}")),
            (r#""type":"join","roomId":"""#, format!("roomId has 0 bytes; {NAME}")),
            (&format!(r#""type":"leave","roomId":"{long}""#), format!("roomId has 129 bytes; {NAME}")),
            (r#""type":"leave","roomId":"a\n""#, format!("roomId has a control character; {NAME}")),
            (r#""type":"leave","roomId":"\ud800""#, format!("roomId is a string with half a surrogate pair; {NAME}")),
            (r#""type":"message","content":1"#, format!("roomId is missing; {NAME}")),
            (r#""type":"message","roomId":"r""#, "content is missing; expected any JSON value".into()),
            (r#""type":"subscribe""#, format!("channel is missing; {NAME}")),
            (r#""type":"unsubscribe","channel":true"#, format!("channel is a boolean; {NAME}")),
            (r#""type":"publish","channel":[],"content":1"#, format!("channel is an array; {NAME}")),
            (r#""type":"publish","channel":"c""#, "content is missing; expected any JSON value".into()),
            (r#""type":"broadcast""#, "content is missing; expected any JSON value".into()),
            (r#""type":"send_message","content":1"#, format!("target_user is missing; {NAME}")),
            (
                r#""type":"send_message","target_user":"events","content":1"#,
                "target_user is \"events\", which is reserved; expected another user".into(),
            ),
            (r#""type":"auth""#, "token is missing; expected a string of at most 8192 bytes".into()),
            (
                &format!(r#""type":"auth","token":"{}""#, "t".repeat(8193)),
                "token has 8193 bytes; expected a string of at most 8192 bytes".into(),
            ),
            (
                r#""type":"presence""#,
                format!("roomId and channel are missing; expected one of them, {}", &NAME["expected ".len()..]),
            ),
            (
                r#""type":"presence","roomId":"r","channel":"c""#,
                "roomId and channel are both given; expected one of them".into(),
            ),
            (r#""type":"broadcast","content":1,"event":"""#, format!("event has 0 bytes; {NAME}")),
            (
                r#""type":"broadcast","content":1,"class":"best""#,
                "class is \"best\"; expected urgent, normal, latest or droppable".into(),
            ),
            (r#""type":"broadcast","content":1,"key":1"#, "key is 1; expected a string of at most 128 bytes".into()),
            (r#""type":"broadcast","content":1,"tags":[]"#, "tags is an array; expected an object".into()),
            (
                r#""type":"subscribe","channel":"c","filter":{"op":"eq","key":"k"}"#,
                "filter.val is missing; expected a string, a finite number or a boolean".into(),
            ),
        ];
        for (fields, message) in table {
            // The id is told wherever it stands.
            for text in [format!(r#"{{"id":"q",{fields}}}"#), format!(r#"{{{fields},"id":"q"}}"#)] {
                let expected = RequestError {
                    id: Some(RequestId::Text("q".into())),
                    code: ErrorCode::BadRequest,
                    message: message.clone().into(),
                };
                assert_eq!(parse(&text), Err(expected), "{text}");
            }
        }
    }

    #[test]
    fn messages_that_are_no_requests_are_told_apart() {
        let table = [
            ("[]", None, ErrorCode::BadRequest, "the message is an array; expected an object with a type"),
            (" \"ping\" ", None, ErrorCode::BadRequest, "the message is a string; expected"),
            ("{}", None, ErrorCode::BadRequest, "type is missing; expected auth, ping,"),
            (r#"{"type":1,"id":3}"#, Some(3), ErrorCode::BadRequest, "type is 1; expected auth, ping,"),
            (r#"{"type":null}"#, None, ErrorCode::BadRequest, "type is null; expected auth,"),
            (r#"{"type":"fly","id":3}"#, Some(3), ErrorCode::UnknownType, "unknown type \"fly\"; expected auth, ping,"),
            (r#"{"type":"Ping"}"#, None, ErrorCode::UnknownType, "unknown type \"Ping\"; expected"),
            (r#"{"type":""}"#, None, ErrorCode::UnknownType, "unknown type \"\"; expected"),
        ];
        for (text, id, code, message) in table {
            let error = parse(text).unwrap_err();
            assert_eq!((error.id, error.code), (id.map(RequestId::Int), code), "{text}");
            assert!(error.message.starts_with(message), "{text}: {}", error.message);
        }
        let deep = format!(r#"{{"id":3,"type":"broadcast","content":{}"#, "[".repeat(1_000_000));
        let error = parse(&deep).unwrap_err();
        assert_eq!((error.id, error.code), (Some(RequestId::Int(3)), ErrorCode::BadRequest));
        assert!(error.message.starts_with("a field is nested too deeply"), "{}", error.message);
    }
}

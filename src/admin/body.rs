//! The bodies of the server API: JSON in, [`Command`]s out. Unknown fields are ignored, as in the protocol of the clients. Pure.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::{Code, Failure};
use crate::limits::{API_BATCH_MAX, API_LIST_MAX, API_USERS_MAX, EVENT_BYTES_MAX};
use crate::protocol::command::{Command, Destination, Place, Publish, Search, SortBy, Whom};
use crate::protocol::envelope::Topic;
use crate::protocol::request::parse_publication;
use crate::protocol::{RESERVED_USER, valid_name};
use crate::ws::close::is_valid_code;

/// Connections that are listed where the caller does not say.
const LIST_DEFAULT: u32 = 50;
/// The close code of `disconnect` where the caller does not say.
const DISCONNECTED: u16 = 4003;
/// Rooms per shard that `info` lists at the most.
const ROOMS_MAX: u32 = 100;

const A_NAME: &str = "expected a string of 1 to 128 bytes without control characters";

/// Reads the body of `verb`; `None`: there is no such verb.
pub(super) fn command(verb: &str, body: &str, message_size_max: usize) -> Option<Result<Command, Failure>> {
    Some(match verb {
        "publish" => publish(body, message_size_max),
        "disconnect" => disconnect(body),
        "join" => member(body, true),
        "leave" => member(body, false),
        "presence" => presence(body),
        "connections" => connections(body),
        "info" => info(body),
        "trace" => trace(body),
        _ => return None,
    })
}

/// Takes `{"commands":[{"publish":{..}},..]}` apart, without looking into the commands.
pub(super) fn batch(body: &str) -> Result<Vec<&RawValue>, Failure> {
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        commands: Vec<&'a RawValue>,
    }
    let batch: Batch<'_> = serde_json::from_str(body)?;
    if batch.commands.len() > API_BATCH_MAX {
        let text = format!("commands has {} entries; expected at most {API_BATCH_MAX}", batch.commands.len());
        return Err(Failure::new(Code::TooLarge, text));
    }
    Ok(batch.commands)
}

/// Reads one command of a batch. What is wrong with it is its own result.
pub(super) fn entry(raw: &RawValue, message_size_max: usize) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Tagged<'a> {
        Publish(#[serde(borrow)] &'a RawValue),
        Disconnect(#[serde(borrow)] &'a RawValue),
        Join(#[serde(borrow)] &'a RawValue),
        Leave(#[serde(borrow)] &'a RawValue),
        Presence(#[serde(borrow)] &'a RawValue),
    }
    match serde_json::from_str(raw.get())? {
        Tagged::Publish(body) => publish(body.get(), message_size_max),
        Tagged::Disconnect(body) => disconnect(body.get()),
        Tagged::Join(body) => member(body.get(), true),
        Tagged::Leave(body) => member(body.get(), false),
        Tagged::Presence(body) => presence(body.get()),
    }
}

fn publish(body: &str, message_size_max: usize) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    struct Body<'a> {
        to: Option<To>,
        from: Option<Cow<'a, str>>,
        idempotency_key: Option<Cow<'a, str>>,
        #[serde(borrow)]
        filter: Option<&'a RawValue>,
    }
    let more: Body<'_> = serde_json::from_str(body)?;
    let publication = parse_publication(body)?;
    let to = more.to.ok_or_else(|| Failure::bad(format!("to is missing; {}", To::EXPECTED)))?.destination()?;
    if more.filter.is_some_and(|filter| filter.get() != "null") {
        let text =
            "filter is not taken here: subscribers set filters, and match them with the tags of what is published";
        return Err(Failure::bad(text));
    }
    if publication.content.len() > message_size_max {
        let text = format!("content has {} bytes; expected at most {message_size_max}", publication.content.len());
        return Err(Failure::new(Code::TooLarge, text));
    }
    let from = more.from.map(|user| a_user("from", user.into_owned())).transpose()?;
    let idempotency_key = more.idempotency_key.map(|key| match key.len() {
        1..=EVENT_BYTES_MAX => Ok(key.into()),
        len => Err(Failure::bad(format!("idempotency_key has {len} bytes; expected 1 to {EVENT_BYTES_MAX}"))),
    });
    Ok(Command::Publish(Box::new(Publish {
        to,
        content: publication.content.into(),
        from,
        event: publication.event.map(Into::into),
        class: publication.class,
        key: publication.key.map(Into::into),
        tags: publication.tags.zip(publication.tags_raw.map(Into::into)),
        idempotency_key: idempotency_key.transpose()?,
    })))
}

#[derive(Deserialize)]
struct To {
    user: Option<String>,
    users: Option<Vec<String>>,
    room: Option<String>,
    channel: Option<String>,
    all: Option<bool>,
}

impl To {
    const EXPECTED: &str =
        "expected one of {\"user\":..}, {\"users\":[..]}, {\"room\":..}, {\"channel\":..} and {\"all\":true}";

    fn destination(self) -> Result<Destination, Failure> {
        let To { user, users, room, channel, all } = self;
        match (user, users, room, channel, all.filter(|all| *all)) {
            (Some(user), None, None, None, None) => Ok(Destination::Users(vec![a_user("to.user", user)?])),
            (None, Some(users), None, None, None) => {
                if users.is_empty() || users.len() > API_USERS_MAX {
                    let text = format!("to.users has {} entries; expected 1 to {API_USERS_MAX}", users.len());
                    return Err(Failure::bad(text));
                }
                let users: Result<Vec<_>, _> = users.into_iter().map(|user| a_user("to.users", user)).collect();
                let mut users = users?;
                users.sort_unstable();
                users.dedup();
                Ok(Destination::Users(users))
            }
            (None, None, Some(room), None, None) => Ok(Destination::Topic(Topic::Room, a_name("to.room", room)?)),
            (None, None, None, Some(name), None) => Ok(Destination::Topic(Topic::Channel, a_name("to.channel", name)?)),
            (None, None, None, None, Some(_)) => Ok(Destination::All),
            _ => Err(Failure::bad(format!("to is not one addressee; {}", To::EXPECTED))),
        }
    }
}

fn disconnect(body: &str) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    struct Body {
        user: Option<String>,
        connection: Option<String>,
        code: Option<u16>,
        reason: Option<String>,
    }
    let body: Body = serde_json::from_str(body)?;
    let whom = match (body.user, body.connection) {
        (Some(user), None) => Whom::User(a_user("user", user)?),
        (None, Some(connection)) => {
            Whom::Connection(connection.parse().map_err(|error| Failure::bad(format!("connection: {error}")))?)
        }
        _ => return Err(Failure::bad("expected either user or connection")),
    };
    let code = body.code.unwrap_or(DISCONNECTED);
    // 3000 to 3999 are for libraries, not for applications (RFC 6455, section 7.4.2).
    if !is_valid_code(code) || (3000..4000).contains(&code) {
        let text = format!("code is {code}; expected 4000 to 4999, 1000 to 1003, or 1007 to 1014");
        return Err(Failure::bad(text));
    }
    let reason = body.reason.unwrap_or_else(|| "disconnected".to_owned());
    if reason.len() > 123 {
        return Err(Failure::bad(format!("reason has {} bytes; expected at most 123", reason.len())));
    }
    Ok(Command::Disconnect { whom, code, reason: reason.into() })
}

fn member(body: &str, enter: bool) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    struct Body {
        user: String,
        room: String,
    }
    let body: Body = serde_json::from_str(body)?;
    Ok(Command::Member { user: a_user("user", body.user)?, room: a_name("room", body.room)?, enter })
}

fn presence(body: &str) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    struct Body {
        room: Option<String>,
        channel: Option<String>,
        user: Option<String>,
    }
    let body: Body = serde_json::from_str(body)?;
    Ok(Command::Presence(match (body.room, body.channel, body.user) {
        (Some(room), None, None) => Place::Topic(Topic::Room, a_name("room", room)?),
        (None, Some(channel), None) => Place::Topic(Topic::Channel, a_name("channel", channel)?),
        (None, None, Some(user)) => Place::User(a_user("user", user)?),
        _ => return Err(Failure::bad("expected one of room, channel and user")),
    }))
}

fn connections(body: &str) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    struct Body {
        user: Option<String>,
        room: Option<String>,
        channel: Option<String>,
        address: Option<IpAddr>,
        state: Option<String>,
        connection: Option<String>,
        by: Option<String>,
        limit: Option<u32>,
    }
    const STATES: [&str; 6] = ["connecting", "authenticating", "active", "idle", "echo", "closing"];
    let body: Body = serde_json::from_str(body)?;
    let by = match body.by.as_deref() {
        None | Some("outbox_bytes") => SortBy::OutboxBytes,
        Some("oldest_ms") => SortBy::OldestMs,
        Some("dropped") => SortBy::Dropped,
        Some("rtt") => SortBy::Rtt,
        Some(other) => {
            let text = format!("by is {other:?}; expected outbox_bytes, oldest_ms, dropped or rtt");
            return Err(Failure::bad(text));
        }
    };
    let limit = body.limit.unwrap_or(LIST_DEFAULT);
    if limit == 0 || limit > API_LIST_MAX {
        return Err(Failure::bad(format!("limit is {limit}; expected 1 to {API_LIST_MAX}")));
    }
    if let Some(state) = body.state.as_deref().filter(|state| !STATES.contains(state)) {
        return Err(Failure::bad(format!("state is {state:?}; expected one of {}", STATES.join(", "))));
    }
    let topic = match (body.room, body.channel) {
        (None, None) => None,
        (Some(room), None) => Some((Topic::Room, a_name("room", room)?)),
        (None, Some(channel)) => Some((Topic::Channel, a_name("channel", channel)?)),
        (Some(_), Some(_)) => return Err(Failure::bad("room and channel are both given; expected one of them")),
    };
    let connection = body.connection.map(|text| text.parse()).transpose();
    Ok(Command::Connections(Search {
        user: body.user.map(|user| a_user("user", user)).transpose()?,
        topic,
        address: body.address,
        state: body.state.map(Into::into),
        connection: connection.map_err(|error| Failure::bad(format!("connection: {error}")))?,
        by,
        limit,
    }))
}

fn trace(body: &str) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    struct Body {
        user: String,
        #[serde(default)]
        content: bool,
    }
    let body: Body = serde_json::from_str(body)?;
    Ok(Command::Trace { user: a_user("user", body.user)?, content: body.content })
}

fn info(body: &str) -> Result<Command, Failure> {
    #[derive(Default, Deserialize)]
    struct Body {
        rooms: Option<u32>,
    }
    let body: Body = if body.trim_ascii().is_empty() { Body::default() } else { serde_json::from_str(body)? };
    match body.rooms.unwrap_or(0) {
        rooms if rooms > ROOMS_MAX => Err(Failure::bad(format!("rooms is {rooms}; expected at most {ROOMS_MAX}"))),
        rooms => Ok(Command::Info { rooms }),
    }
}

fn a_name(field: &str, name: String) -> Result<Box<str>, Failure> {
    if valid_name(&name) {
        return Ok(name.into());
    }
    let wrong = match name.len() {
        1..=128 => "has a control character".to_owned(),
        len => format!("has {len} bytes"),
    };
    Err(Failure::bad(format!("{field} {wrong}; {A_NAME}")))
}

fn a_user(field: &str, name: String) -> Result<Box<str>, Failure> {
    let name = a_name(field, name)?;
    if *name == *RESERVED_USER {
        return Err(Failure::bad(format!("{field} is \"{RESERVED_USER}\", which is reserved")));
    }
    Ok(name)
}

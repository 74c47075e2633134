//! Questions that a service answers before something happens (`[hooks]`): who a connecting client is, and what becomes of a message.
//!
//! What is asked is written here, and what comes back is read here, whole and checked: a [`Verdict`] can be acted upon. Of what a service
//! says only `refuse` is taken in any form at all: whoever wrote it meant "no".

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::class::Class;
use super::happening::Target;
use super::name::{valid_name, valid_user};
use super::permission::Permissions;
use super::request::{ErrorCode, Publication, RequestId, parse_changes};
use crate::ids::GlobalConnectionId;
use crate::limits::CLAIM_ENTRIES_MAX;

/// What a service is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A client that connects, or that brings another token.
    Connect,
    /// A message of a client.
    Message,
}

impl Hook {
    /// Both.
    pub const ALL: [Hook; 2] = [Hook::Connect, Hook::Message];

    /// The text of `hook` on the wire, and the label in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Connect => "connect",
            Hook::Message => "message",
        }
    }
}

/// A question, as the JSON that is posted.
#[derive(Debug)]
pub struct Question {
    /// About what.
    pub hook: Hook,
    /// The JSON.
    pub body: Box<[u8]>,
}

/// What the upgrade request said of a client, as far as a service is told.
#[derive(Debug, Default, Serialize)]
pub struct Greeting {
    /// The query of the request, as it was written.
    pub query: Box<str>,
    /// Names in lower case, and values.
    #[serde(serialize_with = "as_map")]
    pub headers: Vec<(Box<str>, Box<str>)>,
}

impl Greeting {
    /// About how many bytes it takes up.
    pub fn bytes(&self) -> usize {
        let header = |(name, value): &(Box<str>, Box<str>)| name.len() + value.len() + 32;
        size_of::<Greeting>() + self.query.len() + self.headers.iter().map(header).sum::<usize>()
    }
}

/// Everything that is said of a client that connects.
#[derive(Debug, Serialize)]
pub struct Connecting<'a> {
    /// This node.
    pub node: &'a str,
    /// Unix time in milliseconds.
    pub timestamp: u64,
    /// It has a session already, and brings another token.
    pub refresh: bool,
    /// Who its token says it is, checked; absent in `auth.mode = "none"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// The remote address, after trusted proxies.
    pub address: SocketAddr,
    /// What the client calls itself, cut.
    pub user_agent: Option<&'a str>,
    /// Absent where it has a session already.
    #[serde(flatten)]
    pub greeting: Option<&'a Greeting>,
}

/// Everything that is said of a message.
#[derive(Debug)]
pub struct Sending<'a> {
    /// This node.
    pub node: &'a str,
    /// Unix time in milliseconds.
    pub timestamp: u64,
    /// Who sends it.
    pub user: &'a str,
    /// From which connection.
    pub connection: GlobalConnectionId,
    /// The `id` of the request; without one nobody waits for an answer.
    pub id: Option<&'a RequestId>,
    /// For whom.
    pub to: Target,
    /// What is sent.
    pub publication: &'a Publication<'a>,
}

impl Question {
    /// Asks who a client is.
    pub fn connect(connecting: &Connecting<'_>) -> Question {
        Question::new(Hook::Connect, connecting)
    }

    /// Asks what becomes of a message.
    pub fn message(sending: &Sending<'_>) -> Question {
        #[derive(Serialize)]
        struct Body<'a> {
            node: &'a str,
            timestamp: u64,
            user: &'a str,
            connection: GlobalConnectionId,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<Id<'a>>,
            to: &'a Target,
            #[serde(skip_serializing_if = "Option::is_none")]
            event: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            class: Option<Class>,
            #[serde(skip_serializing_if = "Option::is_none")]
            key: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            tags: Option<&'a RawValue>,
            content: Option<&'a RawValue>,
        }
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Id<'a> {
            Text(&'a str),
            Int(i64),
        }
        let Sending { node, timestamp, user, connection, id, to, publication } = sending;
        // They were read as one JSON value each before.
        let raw = |text| serde_json::from_str::<&RawValue>(text).ok();
        let body = Body {
            node,
            timestamp: *timestamp,
            user,
            connection: *connection,
            id: id.map(|id| match id {
                RequestId::Text(text) => Id::Text(text),
                RequestId::Int(int) => Id::Int(*int),
            }),
            to,
            event: publication.event.as_deref(),
            class: publication.class,
            key: publication.key.as_deref(),
            tags: publication.tags_raw.and_then(raw),
            content: raw(publication.content),
        };
        Question::new(Hook::Message, &body)
    }

    fn new(hook: Hook, said: &impl Serialize) -> Question {
        #[derive(Serialize)]
        struct Body<'a, T> {
            hook: &'static str,
            #[serde(flatten)]
            said: &'a T,
        }
        // Only a map whose keys are no strings cannot be written.
        let body = serde_json::to_vec(&Body { hook: hook.name(), said }).unwrap_or_default();
        Question { hook, body: body.into() }
    }
}

fn as_map<S: Serializer>(headers: &[(Box<str>, Box<str>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| (name, value)))
}

/// What a service says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The client may connect.
    Admit(Box<Granted>),
    /// The client may not connect.
    TurnAway {
        /// The close code: 4000 to 4999.
        code: u16,
        /// Fits a close frame.
        reason: Box<str>,
    },
    /// The message goes its way; `Some`: changed as this JSON object says, which [`parse_changes`] takes.
    Pass(Option<Box<str>>),
    /// The sender gets this JSON value, and the message goes nowhere.
    Answer(Box<str>),
    /// The message goes nowhere.
    Refuse {
        /// What the sender is told.
        code: ErrorCode,
        /// In words.
        message: Box<str>,
    },
    /// The service has not said anything that can be understood, in time.
    Failed,
}

/// What a client is and may do, as a service says. `None`: as its token says, or the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Granted {
    /// The user.
    pub user: Option<Box<str>>,
    /// Rooms to join at once, each once.
    pub rooms: Option<Vec<Box<str>>>,
    /// What the user may do.
    pub permissions: Option<Permissions>,
    /// Unix time in seconds at which the session ends.
    pub expires_unix_s: Option<u64>,
}

/// Why an answer cannot be understood, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum VerdictError {
    /// Not a JSON object, or a field of another type.
    #[error("the answer is not as expected: {0}")]
    Json(#[from] serde_json::Error),
    /// A field that says what cannot be.
    #[error("{0}")]
    Field(Box<str>),
}

fn wrong(text: impl Into<String>) -> VerdictError {
    VerdictError::Field(text.into().into())
}

/// Bytes of a refusal's text: what fits a close frame behind its code.
const REASON_BYTES_MAX: usize = 123;
/// The end of the year 9999, as for tokens.
const UNIX_S_MAX: u64 = 253_402_300_799;
/// The close code where the service names none, or none that it may name.
const UNAUTHORIZED: u16 = 4001;

impl Verdict {
    /// Reads what a service has answered: the body of a successful response. None at all is the empty object.
    ///
    /// # Errors
    ///
    /// What is wrong with it. Nothing is guessed: an answer that cannot be understood is none.
    pub fn read(hook: Hook, body: &str, message_bytes_max: usize) -> Result<Verdict, VerdictError> {
        let body = if body.trim_ascii().is_empty() { "{}" } else { body };
        if !body.trim_ascii_start().starts_with('{') {
            return Err(wrong("the answer is no JSON object"));
        }
        match hook {
            Hook::Connect => read_connect(body),
            Hook::Message => read_message(body, message_bytes_max),
        }
    }

    /// A refusal that says no more than that: status 401 or 403.
    pub fn refusal(hook: Hook) -> Verdict {
        match hook {
            Hook::Connect => Verdict::TurnAway { code: UNAUTHORIZED, reason: "Unauthorized".into() },
            Hook::Message => Verdict::Refuse { code: ErrorCode::Forbidden, message: "refused".into() },
        }
    }

    /// Bytes of payload, for the bounds of the mesh.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Verdict::Admit(granted) => granted.rooms.as_ref().map_or(0, |rooms| rooms.iter().map(|r| r.len()).sum()),
            Verdict::Pass(Some(text)) | Verdict::Answer(text) => text.len(),
            Verdict::TurnAway { .. } | Verdict::Refuse { .. } | Verdict::Pass(None) | Verdict::Failed => 0,
        }
    }
}

fn read_connect(body: &str) -> Result<Verdict, VerdictError> {
    #[derive(Deserialize)]
    struct Body {
        user: Option<String>,
        rooms: Option<Vec<String>>,
        permissions: Option<Vec<String>>,
        exp: Option<u64>,
    }
    if let Some(refuse) = refusal_in(body)? {
        let code = refuse.code.and_then(|code| serde_json::from_str(code.get()).ok());
        let code = code.filter(|code| (4000..5000).contains(code)).unwrap_or(UNAUTHORIZED);
        return Ok(Verdict::TurnAway { code, reason: refuse.text("Unauthorized") });
    }
    let Body { user, rooms, permissions, exp } = serde_json::from_str(body)?;
    if user.as_deref().is_some_and(|user| !valid_user(user)) {
        return Err(wrong(
            "user is not the name of one: 1 to 128 bytes without control characters, and not \"events\"",
        ));
    }
    let permissions = permissions.map(|list| Permissions::parse(list.iter().map(String::as_str))).transpose();
    Ok(Verdict::Admit(Box::new(Granted {
        user: user.map(Into::into),
        rooms: rooms.map(names).transpose()?,
        permissions: permissions.map_err(|error| wrong(error.to_string()))?,
        expires_unix_s: exp.map(|exp| exp.min(UNIX_S_MAX)),
    })))
}

fn names(rooms: Vec<String>) -> Result<Vec<Box<str>>, VerdictError> {
    if rooms.len() > CLAIM_ENTRIES_MAX {
        return Err(wrong(format!("rooms has {} entries; expected at most {CLAIM_ENTRIES_MAX}", rooms.len())));
    }
    let mut each_once: Vec<Box<str>> = Vec::with_capacity(rooms.len());
    for room in rooms {
        if !valid_name(&room) {
            return Err(wrong("rooms has a name that is none: 1 to 128 bytes without control characters"));
        }
        if !each_once.iter().any(|known| **known == *room) {
            each_once.push(room.into());
        }
    }
    Ok(each_once)
}

fn read_message(body: &str, message_bytes_max: usize) -> Result<Verdict, VerdictError> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(default, borrow, deserialize_with = "present")]
        answer: Option<&'a RawValue>,
    }
    if let Some(refuse) = refusal_in(body)? {
        let name: Option<String> = refuse.code.and_then(|code| serde_json::from_str(code.get()).ok());
        let code = name.and_then(|name| ErrorCode::by_name(&name)).unwrap_or(ErrorCode::Forbidden);
        return Ok(Verdict::Refuse { code, message: refuse.text("refused") });
    }
    let within = |text: &str, what| match text.len() {
        len if len > message_bytes_max => Err(wrong(format!("{what} has {len} bytes; expected {message_bytes_max}"))),
        _ => Ok(()),
    };
    if let Some(answer) = serde_json::from_str::<Body<'_>>(body)?.answer {
        within(answer.get(), "answer")?;
        return Ok(Verdict::Answer(answer.get().into()));
    }
    let nothing = Publication { content: "", event: None, class: None, key: None, tags: None, tags_raw: None };
    let changed = parse_changes(body, &nothing).map_err(|error| wrong(error.message))?;
    within(changed.content, "content")?;
    Ok(Verdict::Pass((changed != nothing).then(|| body.into())))
}

/// `refuse`, in whatever form.
struct Refusal<'a> {
    code: Option<&'a RawValue>,
    text: Option<String>,
}

impl Refusal<'_> {
    /// What it says, cut, or something else where it says nothing.
    fn text(self, otherwise: &str) -> Box<str> {
        let mut text = self.text.filter(|text| !text.is_empty()).unwrap_or_else(|| otherwise.to_owned());
        let mut end = text.len().min(REASON_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.into()
    }
}

/// Whether the answer is a refusal: `"refuse":true`, a text, or an object with `code` and `message`.
fn refusal_in(body: &str) -> Result<Option<Refusal<'_>>, VerdictError> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        refuse: Option<&'a RawValue>,
    }
    #[derive(Default, Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        code: Option<&'a RawValue>,
        #[serde(borrow)]
        message: Option<&'a RawValue>,
    }
    let refuse = match serde_json::from_str::<Body<'_>>(body)?.refuse {
        None => return Ok(None),
        Some(refuse) if refuse.get() == "false" => return Ok(None),
        Some(refuse) => refuse.get(),
    };
    let parts: Parts<'_> = serde_json::from_str(refuse).unwrap_or_default();
    let text = parts.message.map_or(refuse, RawValue::get);
    Ok(Some(Refusal { code: parts.code, text: serde_json::from_str(text).ok() }))
}

/// `null` is a value.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnectionId, ShardId};
    use crate::protocol::Verb;

    fn text(question: &Question) -> &str {
        std::str::from_utf8(&question.body).unwrap()
    }

    fn read(hook: Hook, body: &str) -> Option<Verdict> {
        Verdict::read(hook, body, 64).ok()
    }

    #[test]
    fn a_client_is_described() {
        let headers = vec![("cookie".into(), "a=\"b\"".into()), ("origin".into(), "https://x".into())];
        let greeting = Greeting { query: "user_id=ann&x=%20".into(), headers };
        let mut connecting = Connecting {
            node: "n",
            timestamp: 5,
            refresh: false,
            user: None,
            address: "10.0.0.9:1".parse().unwrap(),
            user_agent: Some("probe/1"),
            greeting: Some(&greeting),
        };
        assert_eq!(
            text(&Question::connect(&connecting)),
            r#"{"hook":"connect","node":"n","timestamp":5,"refresh":false,"address":"10.0.0.9:1","user_agent":"probe/1","query":"user_id=ann&x=%20","headers":{"cookie":"a=\"b\"","origin":"https://x"}}"#
        );
        connecting = Connecting { refresh: true, user: Some("ann"), greeting: None, user_agent: None, ..connecting };
        assert_eq!(
            text(&Question::connect(&connecting)),
            r#"{"hook":"connect","node":"n","timestamp":5,"refresh":true,"user":"ann","address":"10.0.0.9:1","user_agent":null}"#
        );
    }

    #[test]
    fn a_message_is_told_as_it_was_written() {
        let sent = r#"{"type":"publish","channel":"c","content":{"a" : 1.50},"event":"e","class":"urgent","key":"k","tags":{"t" : 1}}"#;
        let parsed = crate::protocol::parse(sent).unwrap();
        let crate::protocol::Request::Publish { publication, .. } = &parsed.request else { panic!() };
        let connection = ConnectionId { shard: ShardId(1), slot: 2, generation: 3 }.of(0x5f00_aa01);
        let mut sending = Sending {
            node: "n",
            timestamp: 5,
            user: "ann",
            connection,
            id: Some(&RequestId::Int(7)),
            to: Target::Channel("c".into()),
            publication,
        };
        assert_eq!(
            text(&Question::message(&sending)),
            r#"{"hook":"message","node":"n","timestamp":5,"user":"ann","connection":"5f00aa0100010000000200000003","id":7,"to":{"channel":"c"},"event":"e","class":"urgent","key":"k","tags":{"t" : 1},"content":{"a" : 1.50}}"#
        );
        let bare = Publication { content: "null", event: None, class: None, key: None, tags: None, tags_raw: None };
        sending = Sending { id: None, to: Target::All(true), publication: &bare, ..sending };
        let asked = Question::message(&sending);
        assert!(text(&asked).ends_with(r#""to":{"all":true},"content":null}"#), "{}", text(&asked));
    }

    #[test]
    fn a_client_is_admitted_with_what_is_said_of_it() {
        assert_eq!(read(Hook::Connect, " "), Some(Verdict::Admit(Box::default())));
        assert_eq!(read(Hook::Connect, r#"{"refuse":null,"user":null}"#), Some(Verdict::Admit(Box::default())));
        let full = r#"{"user":"ann","rooms":["r","r","s"],"permissions":["send:*"],"exp":99999999999999,"more":1}"#;
        let Some(Verdict::Admit(granted)) = read(Hook::Connect, full) else { panic!() };
        assert_eq!((granted.user.as_deref(), granted.expires_unix_s), (Some("ann"), Some(UNIX_S_MAX)));
        assert_eq!(granted.rooms.as_deref(), Some(&["r".into(), "s".into()][..]));
        let permissions = granted.permissions.unwrap();
        assert!(permissions.allows(Verb::Send, "x") && !permissions.allows(Verb::Join, "x"));
    }

    #[test]
    fn what_cannot_be_understood_is_no_answer() {
        let many = format!(r#"{{"rooms":[{}]}}"#, vec!["\"r\""; CLAIM_ENTRIES_MAX + 1].join(","));
        for bad in [
            "[]",
            "nope",
            "{",
            r#"{"user":""}"#,
            r#"{"user":"events"}"#,
            r#"{"user":5}"#,
            r#"{"rooms":["\n"]}"#,
            r#"{"permissions":["everything"]}"#,
            r#"{"exp":"tomorrow"}"#,
            &many,
        ] {
            assert_eq!(read(Hook::Connect, bad), None, "{bad}");
        }
        let long = format!(r#"{{"content":"{}"}}"#, "x".repeat(64));
        for bad in
            ["[]", r#"{"class":"fast"}"#, r#"{"event":7}"#, r#"{"tags":[]}"#, &long, &long.replace("content", "answer")]
        {
            assert_eq!(read(Hook::Message, bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refusal_is_one_in_any_form() {
        let turned_away = |code, reason: &str| Some(Verdict::TurnAway { code, reason: reason.into() });
        let table = [
            (r#"{"refuse":true}"#, 4001, "Unauthorized"),
            (r#"{"refuse":"banned"}"#, 4001, "banned"),
            (r#"{"refuse":{"code":4403,"message":"banned"}}"#, 4403, "banned"),
            (r#"{"refuse":{"code":1000},"user":"ann"}"#, 4001, "Unauthorized"),
            (r#"{"refuse":{"code":"x","message":5}}"#, 4001, "Unauthorized"),
            (r#"{"refuse":[],"user":7}"#, 4001, "Unauthorized"),
        ];
        for (body, code, reason) in table {
            assert_eq!(read(Hook::Connect, body), turned_away(code, reason), "{body}");
        }
        assert!(matches!(read(Hook::Connect, r#"{"refuse":false}"#), Some(Verdict::Admit(_))));
        let refused = |code, message: &str| Some(Verdict::Refuse { code, message: message.into() });
        let table = [
            (r#"{"refuse":true,"content":1}"#, ErrorCode::Forbidden, "refused"),
            (r#"{"refuse":{"code":"too_large","message":"no"}}"#, ErrorCode::TooLarge, "no"),
            (r#"{"refuse":{"code":"what"}}"#, ErrorCode::Forbidden, "refused"),
        ];
        for (body, code, message) in table {
            assert_eq!(read(Hook::Message, body), refused(code, message), "{body}");
        }
        let long = format!(r#"{{"refuse":"{}"}}"#, "é".repeat(100));
        let Some(Verdict::TurnAway { reason, .. }) = read(Hook::Connect, &long) else { panic!() };
        assert_eq!(reason.len(), 122);
    }

    #[test]
    fn a_message_passes_is_changed_or_answered() {
        assert_eq!(read(Hook::Message, ""), Some(Verdict::Pass(None)));
        assert_eq!(read(Hook::Message, r#"{"event":null,"more":1}"#), Some(Verdict::Pass(None)));
        let changes = r#"{"content":null,"class":"latest"}"#;
        assert_eq!(read(Hook::Message, changes), Some(Verdict::Pass(Some(changes.into()))));
        assert_eq!(
            read(Hook::Message, r#"{"answer":{"a" : 1},"content":2}"#),
            Some(Verdict::Answer(r#"{"a" : 1}"#.into()))
        );
        assert_eq!(read(Hook::Message, r#"{"answer":null}"#), Some(Verdict::Answer("null".into())));
    }
}

//! From the fields of a JSON object to a request, or to the sentence that says what is wrong with one.

use std::borrow::Cow;

use super::class::Class;
use super::filter::{Filter, FilterError};
use super::name::{RESERVED_USER, has_control};
use super::request::{ErrorCode, PresenceTarget, Publication, Request, RequestError, RequestId};
use super::scan::{Kind, Members, Raw, ScanError, VALUE_NESTING_MAX};
use super::tags::{Tags, TagsError};
use crate::limits::{EVENT_BYTES_MAX, NAME_BYTES_MAX, REQUEST_ID_BYTES_MAX, TOKEN_BYTES_MAX};

/// A [`RequestError`] that does not know the id.
pub(super) struct Fault {
    pub(super) code: ErrorCode,
    pub(super) message: Cow<'static, str>,
}

impl Fault {
    fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Fault { code: ErrorCode::BadRequest, message: message.into() }
    }

    pub(super) fn with_id(self, id: Option<RequestId>) -> RequestError {
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
pub(super) struct Fields<'a> {
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
    pub(super) fn read(&mut self, text: &'a str) -> Result<(), Fault> {
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

    /// The `id`, whatever else is wrong.
    pub(super) fn id(&self) -> Result<Option<RequestId>, Fault> {
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

    /// The request, checked.
    pub(super) fn request(&self) -> Result<Request<'a>, Fault> {
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

    pub(super) fn publication(&self) -> Result<Publication<'a>, Fault> {
        let content = self.content.ok_or_else(|| wrong("content", None, "any JSON value"))?.text();
        self.changes(Publication { content, event: None, class: None, key: None, tags: None, tags_raw: None })
    }

    /// A publication with what is said here instead of what it had.
    pub(super) fn changes(&self, mut publication: Publication<'a>) -> Result<Publication<'a>, Fault> {
        if let Some(raw) = self.content {
            publication.content = raw.text();
        }
        if let Some(raw) = present(self.event) {
            publication.event = Some(name("event", Some(raw))?);
        }
        if let Some(raw) = present(self.key) {
            let key = bounded("key", Some(raw), 0, EVENT_BYTES_MAX, "a string of at most 128 bytes")?;
            publication.key = Some(key);
        }
        if let Some(raw) = present(self.class) {
            publication.class = Some(class(raw)?);
        }
        if let Some(raw) = present(self.tags) {
            (publication.tags, publication.tags_raw) = (Some(Tags::parse(raw.text())?), Some(raw.text()));
        }
        Ok(publication)
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

//! What services that know only the bus publish: `{"senderInstance":?, "payload":{...}}`.
//!
//! The payload is a message as clients receive it (it has a `type`) and is passed on as it is; or it is what the server API's `publish`
//! takes, without `to`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::class::Class;
use super::name::valid_user;
use super::request::{Publication, parse_publication};
use super::string::push_quoted;
use super::tags::Tags;

/// A message of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceMessage<'a> {
    /// Who published it, as far as it says: a node ignores what bears its own name.
    pub sender: Option<Cow<'a, str>>,
    /// What.
    pub payload: Payload<'a>,
}

/// What a service has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload<'a> {
    /// A message as clients receive it.
    Ready {
        /// The whole JSON text.
        text: &'a str,
        /// As in [`Publication`].
        event: Option<Cow<'a, str>>,
        /// As in [`Publication`].
        class: Option<Class>,
        /// For filters.
        tags: Option<Tags>,
    },
    /// To be made a message of.
    Publication {
        /// In whose name.
        from: Option<Cow<'a, str>>,
        /// What.
        publication: Publication<'a>,
    },
}

/// The bytes are no message of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message of a service: expected {{\"payload\":{{..}}}}")]
pub struct NoServiceMessage;

/// Reads what a service has published.
///
/// # Errors
///
/// It is something else.
pub fn parse_service(bytes: &[u8]) -> Result<ServiceMessage<'_>, NoServiceMessage> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(rename = "senderInstance", borrow, default)]
        sender: Option<Cow<'a, str>>,
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Inner<'a> {
        #[serde(rename = "type", borrow, default)]
        kind: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        event: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        from: Option<Cow<'a, str>>,
        #[serde(default)]
        class: Option<Class>,
        #[serde(borrow, default)]
        tags: Option<&'a RawValue>,
    }
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| NoServiceMessage)?;
    let outer: Outer<'_> = serde_json::from_str(text).map_err(|_| NoServiceMessage)?;
    let text = outer.payload.get();
    let inner: Inner<'_> = serde_json::from_str(text).map_err(|_| NoServiceMessage)?;
    let payload = if inner.kind.is_some() {
        let tags = inner.tags.filter(|tags| tags.get() != "null").map(|tags| Tags::parse(tags.get()));
        let tags = tags.transpose().map_err(|_| NoServiceMessage)?;
        Payload::Ready { text, event: inner.event, class: inner.class, tags }
    } else {
        if inner.from.as_deref().is_some_and(|from| !valid_user(from)) {
            return Err(NoServiceMessage);
        }
        let publication = parse_publication(text).map_err(|_| NoServiceMessage)?;
        Payload::Publication { from: inner.from, publication }
    };
    Ok(ServiceMessage { sender: outer.sender, payload })
}

/// What services hear of a user's first and last connection in the cluster: `{"event":"online"|"offline","user_id":U,"node":N}`.
pub fn presence_event(online: bool, user: &str, node: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + user.len() + node.len());
    out.extend_from_slice(if online {
        br#"{"event":"online","user_id":"#
    } else {
        br#"{"event":"offline","user_id":"#
    });
    push_quoted(&mut out, user);
    out.extend_from_slice(br#","node":"#);
    push_quoted(&mut out, node);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let message =
            parse_service(br#"{"senderInstance":"a","payload":{"type":"message","content":1,"tags":{"k":2}}}"#);
        let message = message.unwrap();
        assert_eq!(message.sender.as_deref(), Some("a"));
        let Payload::Ready { text, tags, .. } = message.payload else { panic!("it has a type") };
        assert_eq!((text, tags.map(|t| t.len())), (r#"{"type":"message","content":1,"tags":{"k":2}}"#, Some(1)));

        let message = parse_service(br#"{"payload":{"content":{"x":[1]},"from":"bob","event":"e","class":"urgent"}}"#);
        let Payload::Publication { from, publication } = message.unwrap().payload else { panic!("it has no type") };
        assert_eq!((from.as_deref(), publication.content), (Some("bob"), r#"{"x":[1]}"#));
        assert_eq!((publication.event.as_deref(), publication.class), (Some("e"), Some(Class::Urgent)));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b""[..],
            b"hello",
            b"[]",
            b"{}",
            b"{\"payload\":1}",
            b"{\"payload\":{}}",
            b"{\"payload\":{\"event\":\"e\"}}",
            b"{\"payload\":{\"content\":1,\"from\":\"\"}}",
            b"{\"payload\":{\"content\":1,\"class\":\"fast\"}}",
            b"\xff",
        ] {
            assert_eq!(parse_service(bad), Err(NoServiceMessage), "{}", String::from_utf8_lossy(bad));
        }
    }
}

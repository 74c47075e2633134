//! Which messages of clients a service is asked about: the entries of `hooks.messages`.

use std::fmt;
use std::str::FromStr;

use crate::protocol::envelope::Topic;
use crate::protocol::valid_name;

/// An entry: `send_message`, `message`, `publish`, `broadcast` or `event`, each but `broadcast` with a pattern where only some are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedMessages {
    about: About,
    /// `text` is how the name begins, not all of it.
    prefix: bool,
    text: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    SendMessage,
    Message,
    Publish,
    Broadcast,
    Event,
}

impl About {
    const ALL: [About; 5] = [About::SendMessage, About::Message, About::Publish, About::Broadcast, About::Event];

    fn name(self) -> &'static str {
        match self {
            About::SendMessage => "send_message",
            About::Message => "message",
            About::Publish => "publish",
            About::Broadcast => "broadcast",
            About::Event => "event",
        }
    }
}

impl AskedMessages {
    /// All broadcasts.
    pub(super) fn broadcasts() -> Self {
        AskedMessages { about: About::Broadcast, prefix: true, text: "".into() }
    }

    /// Whether this is about a message to a user with this `event`.
    pub fn to_user(&self, user: &str, event: Option<&str>) -> bool {
        self.covers(About::SendMessage, user, event)
    }

    /// Whether this is about a message to a room or channel with this `event`.
    pub fn to_topic(&self, topic: Topic, name: &str, event: Option<&str>) -> bool {
        let about = match topic {
            Topic::Room => About::Message,
            Topic::Channel => About::Publish,
        };
        self.covers(about, name, event)
    }

    /// Whether this is about a message to everybody with this `event`.
    pub fn to_all(&self, event: Option<&str>) -> bool {
        self.covers(About::Broadcast, "", event)
    }

    fn covers(&self, about: About, name: &str, event: Option<&str>) -> bool {
        let matches = |name: &str| if self.prefix { name.starts_with(&*self.text) } else { *name == *self.text };
        match self.about {
            About::Event => event.is_some_and(matches),
            mine => mine == about && matches(name),
        }
    }
}

impl FromStr for AskedMessages {
    type Err = ();

    fn from_str(entry: &str) -> Result<Self, ()> {
        let (name, pattern) = match entry.split_once(':') {
            Some((name, pattern)) => (name, Some(pattern)),
            None => (entry, None),
        };
        let about = About::ALL.into_iter().find(|about| about.name() == name).ok_or(())?;
        let (prefix, text) = match pattern {
            None if about == About::Event => return Err(()),
            None => (true, ""),
            Some(_) if about == About::Broadcast => return Err(()),
            Some(pattern) => match pattern.strip_suffix('*') {
                Some(beginning) => (true, beginning),
                None => (false, pattern),
            },
        };
        let right = prefix && text.is_empty() || valid_name(text);
        if right { Ok(AskedMessages { about, prefix, text: text.into() }) } else { Err(()) }
    }
}

impl fmt::Display for AskedMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.about.name();
        match (self.prefix, &*self.text) {
            (true, "") if self.about != About::Event => f.write_str(name),
            (true, text) => write!(f, "{name}:{text}*"),
            (false, text) => write!(f, "{name}:{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> AskedMessages {
        text.parse().unwrap_or_else(|()| panic!("{text}"))
    }

    #[test]
    fn entries_cover_what_they_say() {
        let (room, channel) = (Topic::Room, Topic::Channel);
        assert!(entry("message").to_topic(room, "any", None) && !entry("message").to_topic(channel, "any", None));
        assert!(
            entry("message:team-*").to_topic(room, "team-7", None)
                && !entry("message:team-*").to_topic(room, "a", None)
        );
        assert!(
            entry("publish:c").to_topic(channel, "c", Some("e")) && !entry("publish:c").to_topic(channel, "cc", None)
        );
        assert!(entry("send_message:bot-*").to_user("bot-1", None) && !entry("send_message:bot-*").to_all(None));
        assert!(entry("broadcast").to_all(Some("x")) && !entry("broadcast").to_user("", None));
        let orders = entry("event:order_*");
        assert!(
            orders.to_all(Some("order_new")) && orders.to_user("u", Some("order_")) && !orders.to_user("order_", None)
        );
        assert!(entry("event:*").to_all(Some("e")) && !entry("event:*").to_all(None));
    }

    #[test]
    fn entries_are_written_as_they_are_read() {
        for text in ["message", "send_message:u", "publish:prices.*", "broadcast", "event:e", "event:*"] {
            assert_eq!(entry(text).to_string(), text);
        }
        assert_eq!(entry("message:*").to_string(), "message");
        for bad in ["", "join", "event", "message:", "broadcast:x", "Message", "publish:a\nb"] {
            assert_eq!(bad.parse::<AskedMessages>(), Err(()), "{bad:?}");
        }
    }
}

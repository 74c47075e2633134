//! What a user may do: the claim `permissions` of a token, or `auth.default_permissions`.
//!
//! A list of `verb:pattern`, where the pattern is an exact name or ends in `*`, and of `broadcast`, which has no pattern. Whatever no
//! entry permits is forbidden.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::valid_name;
use crate::config::AuthMode;
use crate::limits::CLAIM_ENTRIES_MAX;

/// What a permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Verb {
    /// `send_message` to this user.
    Send,
    /// `join` this room.
    Join,
    /// `subscribe` to this channel.
    Subscribe,
    /// `publish` in this channel.
    Publish,
    /// `presence` of this room or channel.
    Presence,
    /// `broadcast`; there is no name.
    Broadcast,
}

impl Verb {
    const ALL: [Verb; 6] = [Verb::Send, Verb::Join, Verb::Subscribe, Verb::Publish, Verb::Presence, Verb::Broadcast];

    /// As it is written in a permission.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Send => "send",
            Verb::Join => "join",
            Verb::Subscribe => "subscribe",
            Verb::Publish => "publish",
            Verb::Presence => "presence",
            Verb::Broadcast => "broadcast",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A checked list of permissions. Clones share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Verbs that are permitted for every name: the usual case costs one test of a bit.
    everywhere: u8,
    /// All the others.
    rules: Arc<[Rule]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    verb: Verb,
    /// `text` is how the name begins, not all of it.
    prefix: bool,
    text: Box<str>,
}

/// Why a list of permissions is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// The entry is not of the right form.
    #[error(
        "permission \"{0}\" is not one; expected send:, join:, subscribe:, publish: or presence: with a name or a beginning and *, \
         or broadcast"
    )]
    BadEntry(Box<str>),
    /// There are more than [`CLAIM_ENTRIES_MAX`].
    #[error("more than {CLAIM_ENTRIES_MAX} permissions")]
    TooMany,
}

impl Permissions {
    /// Reads `verb:pattern` entries. None at all permit nothing.
    ///
    /// # Errors
    ///
    /// An entry that is not of that form: who may do what is never guessed.
    pub fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, PermissionError> {
        let mut everywhere = 0;
        let mut rules = Vec::new();
        for (index, entry) in entries.enumerate() {
            if index == CLAIM_ENTRIES_MAX {
                return Err(PermissionError::TooMany);
            }
            let rule = parse_rule(entry)
                .ok_or_else(|| PermissionError::BadEntry(entry.chars().take(64).collect::<String>().into()))?;
            if rule.prefix && rule.text.is_empty() {
                everywhere |= rule.verb.bit();
            } else {
                rules.push(rule);
            }
        }
        Ok(Permissions { everywhere, rules: rules.into() })
    }

    /// What a user may do whose token does not say, where `auth.default_permissions` is not set: everything but `broadcast`, and in mode
    /// none that too.
    pub fn defaults(mode: AuthMode) -> Self {
        let all = Verb::ALL.into_iter().fold(0, |bits, verb| bits | verb.bit());
        let everywhere = match mode {
            AuthMode::Jwt => all & !Verb::Broadcast.bit(),
            AuthMode::None => all,
        };
        Permissions { everywhere, rules: Arc::default() }
    }

    /// Whether the user may do this to `name`, which [`Verb::Broadcast`] ignores.
    #[inline]
    pub fn allows(&self, verb: Verb, name: &str) -> bool {
        self.everywhere & verb.bit() != 0 || self.rules.iter().any(|rule| rule.verb == verb && rule.covers(name))
    }
}

impl Rule {
    fn covers(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&*self.text) } else { name == &*self.text }
    }
}

fn parse_rule(entry: &str) -> Option<Rule> {
    if entry == Verb::Broadcast.name() {
        return Some(Rule { verb: Verb::Broadcast, prefix: true, text: "".into() });
    }
    let (verb, pattern) = entry.split_once(':')?;
    let verb = Verb::ALL.into_iter().find(|known| known.name() == verb && *known != Verb::Broadcast)?;
    let (prefix, text) = match pattern.strip_suffix('*') {
        Some(beginning) => (true, beginning),
        None => (false, pattern),
    };
    ((prefix && text.is_empty()) || valid_name(text)).then(|| Rule { verb, prefix, text: text.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_and_trailing_stars_permit_what_they_say() {
        let list = ["send:*", "join:team-7-*", "subscribe:prices.*", "publish:chat.7", "join:a*b", "join:lobby"];
        let permissions = Permissions::parse(list.into_iter()).unwrap();
        let table = [
            (Verb::Send, "anyone", true),
            (Verb::Join, "team-7-", true),
            (Verb::Join, "team-7-red", true),
            (Verb::Join, "team-7", false),
            (Verb::Join, "team-70", false),
            (Verb::Join, "a*b", true),
            (Verb::Join, "axb", false),
            (Verb::Join, "lobby", true),
            (Verb::Join, "lobby2", false),
            (Verb::Subscribe, "prices.gold", true),
            (Verb::Subscribe, "team-7-red", false),
            (Verb::Publish, "chat.7", true),
            (Verb::Publish, "chat.70", false),
            (Verb::Publish, "prices.gold", false),
            (Verb::Presence, "lobby", false),
            (Verb::Broadcast, "", false),
        ];
        for (verb, name, expected) in table {
            assert_eq!(permissions.allows(verb, name), expected, "{verb:?} {name}");
        }
        let bytes = postcard::to_allocvec(&permissions).unwrap();
        assert_eq!(postcard::from_bytes::<Permissions>(&bytes).unwrap(), permissions);
    }

    #[test]
    fn defaults_depend_on_the_mode_and_nothing_permits_nothing() {
        let everything = ["send:*", "join:*", "subscribe:*", "publish:*", "presence:*"];
        let jwt = Permissions::parse(everything.into_iter()).unwrap();
        assert_eq!(Permissions::defaults(AuthMode::Jwt), jwt);
        let none = Permissions::parse(everything.into_iter().chain(["broadcast"])).unwrap();
        assert_eq!(Permissions::defaults(AuthMode::None), none);
        let nothing = Permissions::parse([].into_iter()).unwrap();
        for verb in Verb::ALL {
            assert!(!nothing.allows(verb, "x") && none.allows(verb, "x"));
            assert_eq!(jwt.allows(verb, "x"), verb != Verb::Broadcast);
        }
    }

    #[test]
    fn what_is_not_a_permission_is_refused_and_named() {
        let long = format!("send:{}", "x".repeat(129));
        for bad in
            ["", "send", "send:", "*", "fly:*", "broadcast:*", "SEND:*", " send:*", "send:a\n", "join:a\0*", &long]
        {
            let error = Permissions::parse(["join:*", bad].into_iter()).unwrap_err();
            assert!(matches!(error, PermissionError::BadEntry(_)), "{bad:?}");
        }
        let error = Permissions::parse(["fly:*"].into_iter()).unwrap_err().to_string();
        assert!(error.starts_with("permission \"fly:*\" is not one; expected send:"), "{error}");
        assert_eq!(Permissions::parse(std::iter::repeat_n("send:a", 257)), Err(PermissionError::TooMany));
        assert!(Permissions::parse(std::iter::repeat_n("send:a", 256)).is_ok());
    }
}

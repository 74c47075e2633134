//! A value as it was written, before its key gives it a type.

use toml::de::DeValue;

/// Characters of a value that an error message repeats.
const SHOWN_CHARS_MAX: usize = 120;

/// A value from a source.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    /// A TOML string.
    Text(String),
    /// A TOML integer; `None`: it does not fit.
    Integer(Option<i64>, String),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array.
    List(Vec<Raw>),
    /// An entry of a table whose keys the operator chooses.
    Entry(String, Box<Raw>),
    /// A TOML value of a type that no key has: its name.
    Other(&'static str),
    /// From the environment or `--set`: a TOML value or a bare string, whichever its key wants.
    Bare(String),
}

impl Raw {
    pub(super) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Raw::Text(text.clone().into_owned()),
            DeValue::Integer(int) => Raw::Integer(i64::from_str_radix(int.as_str(), int.radix()).ok(), int.to_string()),
            DeValue::Boolean(on) => Raw::Bool(*on),
            DeValue::Array(items) => Raw::List(items.iter().map(|item| Raw::from_toml(item.get_ref())).collect()),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Raw::Other(value.type_str()),
        }
    }

    /// A string.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Raw::Text(text) => Some(text.clone()),
            Raw::Bare(bare) => match bare.trim_start().starts_with(['"', '\'']).then(|| parse_toml(bare)).flatten() {
                Some(Raw::Text(text)) => Some(text),
                _ => Some(bare.clone()),
            },
            _ => None,
        }
    }

    /// An integer that is not negative.
    pub(super) fn integer(&self) -> Option<u64> {
        match self {
            Raw::Integer(int, _) => int.and_then(|int| u64::try_from(int).ok()),
            Raw::Bare(bare) => bare.trim().parse().ok().or_else(|| parse_toml(bare)?.integer()),
            _ => None,
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Raw::Bool(on) => Some(*on),
            Raw::Bare(bare) => bare.trim().parse().ok(),
            _ => None,
        }
    }

    /// The text of a quantity: a string, or an integer written without quotes.
    pub(super) fn quantity(&self) -> Option<String> {
        match self {
            Raw::Integer(Some(int), _) => Some(int.to_string()),
            Raw::Bare(_) => self.text(),
            Raw::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// The items of a list. Bare, it is a TOML array or separated by commas; nothing at all is the empty list.
    pub(super) fn list(&self) -> Option<Vec<Raw>> {
        match self {
            Raw::List(items) => Some(items.clone()),
            Raw::Bare(bare) if bare.trim_start().starts_with('[') => parse_toml(bare)?.list(),
            Raw::Bare(bare) => Some(
                bare.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Raw::Bare(item.to_owned()))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// Whether this is the empty string, which un-sets a key that may be unset.
    pub(super) fn is_empty_text(&self) -> bool {
        self.text().is_some_and(|text| text.is_empty())
    }

    /// How an error message shows it: as TOML, cut.
    pub(super) fn shown(&self) -> String {
        let mut shown = match self {
            Raw::Text(text) | Raw::Bare(text) => quoted(text),
            Raw::Integer(_, text) => text.clone(),
            Raw::Bool(on) => on.to_string(),
            Raw::List(items) => format!("[{}]", items.iter().map(Raw::shown).collect::<Vec<_>>().join(", ")),
            Raw::Entry(_, value) => value.shown(),
            Raw::Other(name) => format!("({name})"),
        };
        if let Some((end, _)) = shown.char_indices().nth(SHOWN_CHARS_MAX) {
            shown.truncate(end);
            shown.push('…');
        }
        shown
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn parse_toml(text: &str) -> Option<Raw> {
    DeValue::parse(text.trim()).ok().map(|value| Raw::from_toml(value.get_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_values_take_the_type_of_their_key() {
        let bare = |text: &str| Raw::Bare(text.to_owned());
        let texts = [
            ("plain", "plain"),
            ("\"quoted\"", "quoted"),
            ("'literal'", "literal"),
            ("\"open", "\"open"),
            ("123", "123"),
            ("true", "true"),
        ];
        for (written, expect) in texts {
            assert_eq!(bare(written).text().as_deref(), Some(expect));
        }
        for (written, expect) in
            [("8", Some(8)), ("0x10", Some(16)), ("1_000", Some(1000)), ("-1", None), ("\"8\"", None), ("x", None)]
        {
            assert_eq!(bare(written).integer(), expect, "{written}");
        }
        for (written, expect) in [("true", Some(true)), (" false ", Some(false)), ("1", None), ("yes", None)] {
            assert_eq!(bare(written).boolean(), expect, "{written}");
        }
        let items = |written: &str| -> Option<Vec<String>> { bare(written).list()?.iter().map(Raw::text).collect() };
        assert_eq!(items("a, b,"), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(items("[\"a,b\"]"), Some(vec!["a,b".to_owned()]));
        assert_eq!(items(""), Some(vec![]));
        assert_eq!(items("[broken"), None);
    }

    #[test]
    fn long_values_are_cut() {
        assert!(Raw::Text("ä".repeat(10_000)).shown().chars().count() <= SHOWN_CHARS_MAX + 1);
    }
}

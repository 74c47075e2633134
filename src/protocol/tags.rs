//! Tags of a publication: what filters look at.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::scan::{Elements, Kind, Members, Raw};
use crate::limits::{NAME_BYTES_MAX, TAGS_MAX};

/// A flat map of at most [`TAGS_MAX`] tags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tags {
    /// Sorted by key, each key once.
    entries: Box<[(Box<str>, TagValue)]>,
}

/// The value of a tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TagValue {
    /// A string, a number or a boolean.
    Scalar(Scalar),
    /// An array of two numbers: what `within` takes as `[lat,lon]`, in degrees.
    Point([f64; 2]),
}

/// A value that can be compared. Numbers are finite.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Scalar {
    /// A string.
    Text(Box<str>),
    /// A number without fraction and exponent that fits 64 bits.
    Int(i64),
    /// Any other number, rounded to double precision.
    Float(f64),
    /// A boolean.
    Bool(bool),
}

/// Why `tags` could not be used: a sentence that names the tag, what it is, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TagsError(pub(super) Cow<'static, str>);

impl Tags {
    /// Reads a JSON object of strings, numbers, booleans and `[lat,lon]` arrays. Of a key that comes twice, the last value counts.
    ///
    /// # Errors
    ///
    /// Not such an object, a key of 0 or more than [`NAME_BYTES_MAX`] bytes, or more than [`TAGS_MAX`] tags.
    pub fn parse(text: &str) -> Result<Self, TagsError> {
        let raw = Raw::parse(text).map_err(|_| TagsError("tags is not JSON".into()))?;
        let Some(mut members) = Members::new(raw.text()) else {
            return Err(TagsError(format!("tags is {}; expected an object", raw.kind().name()).into()));
        };
        let mut entries: Vec<(Box<str>, TagValue)> = Vec::new();
        while let Ok(Some((name, value))) = members.next() {
            let key = name.string().ok_or(TagsError("a key of tags has half a surrogate pair".into()))?;
            if key.is_empty() || key.len() > NAME_BYTES_MAX {
                let len = key.len();
                return Err(TagsError(format!("a key of tags has {len} bytes; expected 1 to {NAME_BYTES_MAX}").into()));
            }
            let value = TagValue::read(value).ok_or_else(|| {
                let kind = value.kind().name();
                let expected = "a string, a finite number, a boolean or [lat,lon]";
                TagsError(format!("tags.{key} is {kind} that cannot be used; expected {expected}").into())
            })?;
            let len = entries.len();
            match entries.iter_mut().find(|(known, _)| **known == *key) {
                Some((_, known)) => *known = value,
                None if len == TAGS_MAX => {
                    return Err(TagsError(format!("tags has more than {TAGS_MAX} entries").into()));
                }
                None => entries.push((key.into(), value)),
            }
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Tags { entries: entries.into() })
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&TagValue> {
        let at = self.entries.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    /// How many tags there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl TagValue {
    fn read(raw: Raw<'_>) -> Option<Self> {
        if raw.kind() != Kind::Array {
            return Scalar::read(raw).map(TagValue::Scalar);
        }
        let mut elements = Elements::new(raw.text())?;
        let mut coordinate = || read_f64(elements.next().ok()??);
        let point = [coordinate()?, coordinate()?];
        elements.next().ok()?.is_none().then_some(TagValue::Point(point))
    }
}

impl Scalar {
    /// `None`: not a scalar, a string with half a surrogate pair, or a number beyond double precision.
    pub(super) fn read(raw: Raw<'_>) -> Option<Self> {
        Some(match raw.kind() {
            Kind::String => Scalar::Text(raw.string()?.into()),
            Kind::Number => match raw.text().parse() {
                Ok(int) => Scalar::Int(int),
                Err(_) => Scalar::Float(read_f64(raw)?),
            },
            Kind::Bool => Scalar::Bool(raw.text() == "true"),
            Kind::Object | Kind::Array | Kind::Null => return None,
        })
    }

    /// Numbers compare by their exact value, strings by code point, `false` comes before `true`; `None` between different kinds.
    pub fn compare(&self, other: &Scalar) -> Option<Ordering> {
        Some(match (self, other) {
            (Scalar::Text(a), Scalar::Text(b)) => a.cmp(b),
            (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(b),
            (Scalar::Int(a), Scalar::Int(b)) => a.cmp(b),
            (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(b)?,
            (Scalar::Int(a), Scalar::Float(b)) => compare_int_float(*a, *b)?,
            (Scalar::Float(a), Scalar::Int(b)) => compare_int_float(*b, *a)?.reverse(),
            (Scalar::Text(_) | Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_), _) => return None,
        })
    }

    /// As [`compare`](Self::compare), with a fixed order between kinds: for sorting.
    pub(super) fn order(&self, other: &Scalar) -> Ordering {
        fn rank(scalar: &Scalar) -> u8 {
            match scalar {
                Scalar::Bool(_) => 0,
                Scalar::Int(_) | Scalar::Float(_) => 1,
                Scalar::Text(_) => 2,
            }
        }
        self.compare(other).unwrap_or_else(|| rank(self).cmp(&rank(other)))
    }
}

impl PartialEq for Scalar {
    /// `1` and `1.0` are the same number.
    fn eq(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Equal)
    }
}

/// A JSON number that a double can hold.
pub(super) fn read_f64(raw: Raw<'_>) -> Option<f64> {
    if raw.kind() != Kind::Number {
        return None;
    }
    raw.text().parse().ok().filter(|number: &f64| number.is_finite())
}

/// Exact, where converting the integer to a double would round.
fn compare_int_float(int: i64, float: f64) -> Option<Ordering> {
    const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
    if float >= TWO_POW_63 {
        return Some(Ordering::Less);
    }
    if float < -TWO_POW_63 {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    let fraction = 0.0.partial_cmp(&(float - whole))?;
    Some(int.cmp(&(whole as i64)).then(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> TagValue {
        TagValue::Scalar(Scalar::Text(value.into()))
    }

    #[test]
    fn every_kind_of_tag_is_read() {
        let tags = Tags::parse(
            r#" {"s":"a\u00e9","i":-7,"big":18446744073709551615,"f":1.5e3,"t":true,"f0":false,"at":[52.5, -13],"s":"last"} "#,
        )
        .unwrap();
        assert_eq!(tags.len(), 7);
        let table = [
            ("s", text("last")),
            ("i", TagValue::Scalar(Scalar::Int(-7))),
            ("big", TagValue::Scalar(Scalar::Float(18446744073709551615.0))),
            ("f", TagValue::Scalar(Scalar::Float(1500.0))),
            ("t", TagValue::Scalar(Scalar::Bool(true))),
            ("f0", TagValue::Scalar(Scalar::Bool(false))),
            ("at", TagValue::Point([52.5, -13.0])),
        ];
        for (key, value) in table {
            assert_eq!(tags.get(key), Some(&value), "{key}");
        }
        assert_eq!(tags.get("absent"), None);
        assert!(Tags::parse("{}").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many = format!("{{{}}}", (0..33).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(","));
        let long_key = format!("{{\"{}\":1}}", "k".repeat(129));
        let table = [
            ("[]", "tags is an array; expected an object"),
            ("{", "tags is not JSON"),
            (r#"{"":1}"#, "a key of tags has 0 bytes; expected 1 to 128"),
            (&long_key, "a key of tags has 129 bytes; expected 1 to 128"),
            (r#"{"\ud800":1}"#, "a key of tags has half a surrogate pair"),
            (r#"{"a":null}"#, "tags.a is null that cannot be used"),
            (r#"{"a":{}}"#, "tags.a is an object that"),
            (r#"{"a":[1]}"#, "tags.a is an array that"),
            (r#"{"a":[1,2,3]}"#, "tags.a is an array that"),
            (r#"{"a":[1,"2"]}"#, "tags.a is an array that"),
            (r#"{"a":1e999}"#, "tags.a is a number that"),
            (r#"{"a":"\udc00"}"#, "tags.a is a string that"),
            (&many, "tags has more than 32 entries"),
        ];
        for (input, expected) in table {
            let error = Tags::parse(input).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{input}: {error}");
        }
    }

    #[test]
    fn numbers_compare_exactly_and_kinds_do_not_mix() {
        use Ordering::*;
        use Scalar::*;
        let table = [
            (Int(1), Float(1.0), Some(Equal)),
            (Int(9007199254740993), Float(9007199254740992.0), Some(Greater)),
            (Int(i64::MAX), Float(9223372036854775808.0), Some(Less)),
            (Int(i64::MIN), Float(-9223372036854775808.0), Some(Equal)),
            (Int(i64::MIN), Float(-1e300), Some(Greater)),
            (Int(-1), Float(-1.5), Some(Greater)),
            (Int(0), Float(-0.0), Some(Equal)),
            (Text("a".into()), Text("b".into()), Some(Less)),
            (Bool(false), Bool(true), Some(Less)),
            (Text("1".into()), Int(1), None),
            (Bool(true), Int(1), None),
        ];
        for (a, b, expected) in table {
            assert_eq!(a.compare(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.compare(&a), expected.map(Ordering::reverse), "{b:?} {a:?}");
        }
    }

    #[test]
    fn tags_cross_shards_unchanged() {
        let tags = Tags::parse(r#"{"a":"x","b":1,"c":1.25,"d":true,"e":[1,2]}"#).unwrap();
        let bytes = postcard::to_allocvec(&tags).unwrap();
        assert_eq!(postcard::from_bytes::<Tags>(&bytes).unwrap(), tags);
    }
}

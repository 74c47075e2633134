//! A JSON text (RFC 8259) read in one pass, without building anything: where each member's value begins and ends, and that it is well formed.
//!
//! The stack does not grow with the input: what is open is one bit per level, and there are at most [`VALUE_NESTING_MAX`] levels.
//! Accepts and refuses exactly what `serde_json` does, but for that bound; the tests and the fuzz targets hold the two against each other.

use std::borrow::Cow;

use super::string::{plain_prefix, unescape};

/// Levels of arrays and objects that one value may have.
///
/// A message wraps its content twice more (`batch`), and common JSON parsers stop at 127 levels: what we pass on, they can read.
pub(super) const VALUE_NESTING_MAX: u32 = 100;

const _: () = assert!(VALUE_NESTING_MAX <= u128::BITS);

/// Why a text could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanError {
    /// It is not JSON.
    Syntax,
    /// A value has more than [`VALUE_NESTING_MAX`] levels.
    Nesting,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

impl Kind {
    /// For "…is an array" in an error.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Bool => "a boolean",
            Kind::Null => "null",
        }
    }
}

/// One well-formed JSON value, as the text it was written in, without the white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    text: &'a str,
    /// It is a string with at least one backslash.
    escaped: bool,
}

impl<'a> Raw<'a> {
    /// Reads a text that is one value and nothing else but white space.
    pub(super) fn parse(text: &'a str) -> Result<Self, ScanError> {
        let mut scanner = Scanner::new(text);
        scanner.skip_whitespace();
        let value = scanner.value()?;
        scanner.end()?;
        Ok(value)
    }

    /// The value as it was written.
    pub(super) fn text(self) -> &'a str {
        self.text
    }

    /// What it is.
    pub(super) fn kind(self) -> Kind {
        match self.text.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Number,
        }
    }

    /// The characters of a string, borrowed where nothing is escaped. `None`: not a string, or half a surrogate pair is escaped in it.
    pub(super) fn string(self) -> Option<Cow<'a, str>> {
        let inner = self.text.strip_prefix('"')?.strip_suffix('"')?;
        if self.escaped { unescape(inner).map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
    }
}

/// The members of an object, one after the other.
pub(super) struct Members<'a> {
    scanner: Scanner<'a>,
    state: State,
}

/// The elements of an array, one after the other.
pub(super) struct Elements<'a> {
    scanner: Scanner<'a>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Next,
    Done,
}

impl<'a> Members<'a> {
    /// Begins to read `text` as an object, with white space around it. `None`: it begins as something else.
    pub(super) fn new(text: &'a str) -> Option<Self> {
        Some(Members { scanner: Scanner::opened(text, b'{')?, state: State::First })
    }

    /// The next name, a [`Kind::String`], and its value. `None` once the text has been read to its end, and all of it is JSON.
    pub(super) fn next(&mut self) -> Result<Option<(Raw<'a>, Raw<'a>)>, ScanError> {
        if !self.scanner.another(&mut self.state, b'}')? {
            return Ok(None);
        }
        let name = self.scanner.string()?;
        self.scanner.colon()?;
        Ok(Some((name, self.scanner.value()?)))
    }
}

impl<'a> Elements<'a> {
    /// Begins to read `text` as an array, with white space around it. `None`: it begins as something else.
    pub(super) fn new(text: &'a str) -> Option<Self> {
        Some(Elements { scanner: Scanner::opened(text, b'[')?, state: State::First })
    }

    /// The next element. `None` once the text has been read to its end, and all of it is JSON.
    pub(super) fn next(&mut self) -> Result<Option<Raw<'a>>, ScanError> {
        if !self.scanner.another(&mut self.state, b']')? {
            return Ok(None);
        }
        self.scanner.value().map(Some)
    }
}

struct Scanner<'a> {
    text: &'a str,
    pos: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Scanner { text, pos: 0 }
    }

    fn opened(text: &'a str, open: u8) -> Option<Self> {
        let mut scanner = Scanner::new(text);
        scanner.skip_whitespace();
        scanner.eat(open).then_some(scanner)
    }

    /// Whether another member or element follows; moves to its first byte. After the last one the text must be at its end.
    #[inline]
    fn another(&mut self, state: &mut State, close: u8) -> Result<bool, ScanError> {
        if *state == State::Done {
            return Ok(false);
        }
        self.skip_whitespace();
        if self.eat(close) {
            *state = State::Done;
            self.end()?;
            return Ok(false);
        }
        if *state == State::Next {
            self.expect(b',')?;
            self.skip_whitespace();
        }
        *state = State::Next;
        Ok(true)
    }

    /// Reads the value that begins here.
    #[inline]
    fn value(&mut self) -> Result<Raw<'a>, ScanError> {
        let start = self.pos;
        let escaped = match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => self.skip_nested().map(|()| false)?,
            _ => self.skip_scalar().map(|()| false)?,
        };
        self.raw(start, escaped)
    }

    /// Reads the string that begins here.
    #[inline]
    fn string(&mut self) -> Result<Raw<'a>, ScanError> {
        let start = self.pos;
        let escaped = self.skip_string()?;
        self.raw(start, escaped)
    }

    fn raw(&self, start: usize, escaped: bool) -> Result<Raw<'a>, ScanError> {
        let text = self.text.get(start..self.pos).ok_or(ScanError::Syntax)?;
        Ok(Raw { text, escaped })
    }

    fn colon(&mut self) -> Result<(), ScanError> {
        self.skip_whitespace();
        self.expect(b':')?;
        self.skip_whitespace();
        Ok(())
    }

    fn end(&mut self) -> Result<(), ScanError> {
        self.skip_whitespace();
        if self.peek().is_none() { Ok(()) } else { Err(ScanError::Syntax) }
    }

    /// Skips an array or object with all that is in it.
    fn skip_nested(&mut self) -> Result<(), ScanError> {
        // The lowest bit is the innermost open level: 1 for an object.
        let mut objects = 0u128;
        let mut depth = 0;
        loop {
            // Here a value begins.
            let mut closed = match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == VALUE_NESTING_MAX {
                        return Err(ScanError::Nesting);
                    }
                    depth += 1;
                    objects = objects << 1 | u128::from(open == b'{');
                    self.pos += 1;
                    self.skip_whitespace();
                    self.eat(closing(objects))
                }
                _ => {
                    self.skip_scalar_or_string()?;
                    self.skip_whitespace();
                    if self.eat(b',') {
                        self.skip_whitespace();
                        false
                    } else {
                        self.expect(closing(objects))?;
                        true
                    }
                }
            };
            // Here a level was closed, or a member or element must follow.
            while closed {
                objects >>= 1;
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
                self.skip_whitespace();
                if self.eat(b',') {
                    self.skip_whitespace();
                    closed = false;
                } else {
                    self.expect(closing(objects))?;
                }
            }
            if objects & 1 == 1 {
                self.skip_string()?;
                self.colon()?;
            }
        }
    }

    #[inline]
    fn skip_scalar_or_string(&mut self) -> Result<(), ScanError> {
        if self.peek() == Some(b'"') { self.skip_string().map(|_| ()) } else { self.skip_scalar() }
    }

    /// Skips a string; tells whether it has a backslash.
    #[inline]
    fn skip_string(&mut self) -> Result<bool, ScanError> {
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.pos += plain_prefix(self.rest());
            if self.eat(b'"') {
                return Ok(escaped);
            }
            self.expect(b'\\')?;
            escaped = true;
            match self.peek() {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 1,
                Some(b'u') => {
                    let digits = self.rest().get(1..5).ok_or(ScanError::Syntax)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return Err(ScanError::Syntax);
                    }
                    self.pos += 5;
                }
                _ => return Err(ScanError::Syntax),
            }
        }
    }

    /// Skips a number, a boolean or null.
    fn skip_scalar(&mut self) -> Result<(), ScanError> {
        match self.peek() {
            Some(b't') => self.skip_literal(b"true"),
            Some(b'f') => self.skip_literal(b"false"),
            Some(b'n') => self.skip_literal(b"null"),
            _ => self.skip_number(),
        }
    }

    fn skip_literal(&mut self, literal: &[u8]) -> Result<(), ScanError> {
        if !self.rest().starts_with(literal) {
            return Err(ScanError::Syntax);
        }
        self.pos += literal.len();
        Ok(())
    }

    fn skip_number(&mut self) -> Result<(), ScanError> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.skip_digits()?;
        }
        if self.eat(b'.') {
            self.skip_digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _signed = self.eat(b'+') || self.eat(b'-');
            self.skip_digits()?;
        }
        Ok(())
    }

    fn skip_digits(&mut self) -> Result<(), ScanError> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.pos += digits;
        if digits == 0 { Err(ScanError::Syntax) } else { Ok(()) }
    }

    #[inline]
    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.pos += 1;
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.pos..).unwrap_or_default()
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.eat(byte) { Ok(()) } else { Err(ScanError::Syntax) }
    }
}

/// What closes the innermost level.
#[inline]
fn closing(objects: u128) -> u8 {
    if objects & 1 == 1 { b'}' } else { b']' }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads everything there is to read, by value and by member.
    fn scan(text: &str) -> Result<(), ScanError> {
        let whole = Raw::parse(text).map(|_| ());
        if let Some(mut members) = Members::new(text) {
            let by_member = std::iter::from_fn(|| members.next().transpose()).try_for_each(|member| member.map(|_| ()));
            if whole != Err(ScanError::Nesting) && by_member != Err(ScanError::Nesting) {
                assert_eq!(by_member, whole, "{text}");
            }
        }
        if let Some(mut elements) = Elements::new(text) {
            let by_element =
                std::iter::from_fn(|| elements.next().transpose()).try_for_each(|element| element.map(|_| ()));
            if whole != Err(ScanError::Nesting) && by_element != Err(ScanError::Nesting) {
                assert_eq!(by_element, whole, "{text}");
            }
        }
        whole
    }

    fn agrees_with_serde_json(text: &str) {
        let oracle = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        match scan(text) {
            Ok(()) => assert!(oracle, "accepted {text:?}"),
            Err(ScanError::Syntax) => assert!(!oracle, "refused {text:?}"),
            Err(ScanError::Nesting) => {}
        }
    }

    #[test]
    fn the_grammar_is_the_rfc() {
        let good = [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "-0.0e-0",
            "1E+2",
            "123.456e7",
            "\"\"",
            "[]",
            "{}",
            " [ ] ",
            "{ }\n",
            "[[],{}]",
            "[1,2]",
            r#"{"a":1,"b":[{"c":null}],"a":{}}"#,
            r#"["\u00e9\ud800"]"#,
            "\t\r\n 1 ",
            "\"\u{7f}\u{2028}\"",
        ];
        let bad = [
            "",
            " ",
            "nul",
            "nulll",
            "tru",
            "True",
            "01",
            "-",
            "+1",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x1",
            "NaN",
            "Infinity",
            "\"",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u123",
            "[",
            "]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "}",
            "{]",
            "[}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\" 1}",
            "{'a':1}",
            "1 2",
            "[]]",
            "{}{}",
            "\u{feff}1",
            "1\u{a0}",
            "// c\n1",
            "{\"a\":[1}",
            "[{\"a\":1]",
            "[\"a\":1]",
        ];
        for text in good {
            assert_eq!(scan(text), Ok(()), "{text:?}");
            agrees_with_serde_json(text);
        }
        for text in bad {
            assert_eq!(scan(text), Err(ScanError::Syntax), "{text:?}");
            agrees_with_serde_json(text);
        }
    }

    #[test]
    fn members_and_elements_are_the_very_text() {
        let mut members = Members::new(" { \"a\" : [1, 2] , \"b\\n\":\"x\" } ").unwrap();
        let (name, value) = members.next().unwrap().unwrap();
        assert_eq!((name.text(), value.text(), value.kind()), ("\"a\"", "[1, 2]", Kind::Array));
        let mut elements = Elements::new(value.text()).unwrap();
        assert_eq!(elements.next().unwrap().unwrap().text(), "1");
        assert_eq!(elements.next().unwrap().unwrap().text(), "2");
        assert_eq!(elements.next(), Ok(None));
        let (name, value) = members.next().unwrap().unwrap();
        assert_eq!(name.string().unwrap(), "b\n");
        assert!(matches!(value.string(), Some(Cow::Borrowed("x"))));
        assert_eq!(members.next().map(|member| member.is_some()), Ok(false));
        assert_eq!(members.next().map(|member| member.is_some()), Ok(false));
        assert!(Members::new("[]").is_none() && Elements::new("{}").is_none() && Members::new("").is_none());
    }

    #[test]
    fn deep_nesting_is_refused_without_a_deep_stack() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(scan(&nested(100)), Ok(()));
        assert_eq!(scan(&nested(101)), Err(ScanError::Nesting));
        assert_eq!(scan(&"[".repeat(1_000_000)), Err(ScanError::Nesting));
        assert_eq!(scan(&"{\"a\":".repeat(1_000_000)), Err(ScanError::Nesting));
        let objects = |levels: usize| format!("{}1{}", "{\"a\":[".repeat(levels), "]}".repeat(levels));
        assert_eq!(scan(&objects(50)), Ok(()));
        assert_eq!(scan(&objects(51)), Err(ScanError::Nesting));
        // Wide is not deep.
        assert_eq!(scan(&format!("[{}[]]", "[],".repeat(10_000))), Ok(()));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_texts_made_of_json_pieces(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\n\"", "\"", "1", "-", "0", ".", "e", "true", "null", " ", "\\", "\\ud800", "é", "\n",
                ]),
                0..14,
            ),
        ) {
            agrees_with_serde_json(&pieces.concat());
        }

        #[test]
        fn agrees_with_serde_json_on_json_with_a_byte_changed(
            value in json(), at in any::<prop::sample::Index>(), byte in 0u8..0x80,
        ) {
            agrees_with_serde_json(&value);
            prop_assert_eq!(scan(&value), Ok(()));
            let mut bytes = value.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(text) = String::from_utf8(bytes) {
                agrees_with_serde_json(&text);
            }
        }
    }

    /// Any JSON value of a few levels.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|b| b.to_string()),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:e}")),
            any::<i64>().prop_map(|i| i.to_string()),
            any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|v| format!("[{}]", v.join(" ,"))),
                prop::collection::vec((any::<String>(), inner), 0..5).prop_map(|v| {
                    let members: Vec<_> =
                        v.into_iter().map(|(k, v)| format!("{}:\t{v}", serde_json::to_string(&k).unwrap())).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }
}

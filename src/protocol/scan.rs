//! A JSON text (RFC 8259) read in one pass, without building anything: where each member's value begins and ends, and that it is well formed.
//!
//! The stack does not grow with the input: what is open is one bit per level, and there are at most [`VALUE_NESTING_MAX`] levels.
//! Accepts and refuses exactly what `serde_json` does, but for that bound; the tests and the fuzz targets hold the two against each other.

use std::borrow::Cow;

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

/// How many bytes at the front of `bytes` stand for themselves in a JSON string: no quote, no backslash, no control character.
#[inline]
pub(super) fn plain_prefix(bytes: &[u8]) -> usize {
    #[inline(always)]
    fn special(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }
    let mut at = 0;
    // Whole blocks without a branch inside: this becomes SIMD.
    let (blocks, _) = bytes.as_chunks::<32>();
    for block in blocks {
        if block.iter().fold(false, |any, &byte| any | special(byte)) {
            break;
        }
        at += 32;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let (words, _) = rest.as_chunks::<8>();
    for word in words {
        let hits = special_in_word(u64::from_le_bytes(*word));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| special(byte)).unwrap_or(rest.len())
}

/// The top bit of each special byte, right for the lowest one (a borrow can only reach bytes above it).
#[inline(always)]
fn special_in_word(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word;
    (below(word, 0x20) | below(quote, 1) | below(backslash, 1)) & TOPS
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

/// Resolves the escapes of a well-formed string. `None`: half a surrogate pair.
#[cold]
fn unescape(inner: &str) -> Option<String> {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        let decoded = match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (decoded, len) = unescape_unicode(escape)?;
                out.push(decoded);
                rest = escape.get(len..)?;
                continue;
            }
            itself => itself,
        };
        out.push(decoded);
        rest = chars.as_str();
    }
    out.push_str(rest);
    Some(out)
}

/// The character of `u1234` or `ud83d\ude00` at the front of `escape`, and how long that was.
fn unescape_unicode(escape: &str) -> Option<(char, usize)> {
    let unit = |at: usize| u32::from_str_radix(escape.get(at..at + 4)?, 16).ok();
    let first = unit(1)?;
    if !(0xd800..0xe000).contains(&first) {
        return Some((char::from_u32(first)?, 5));
    }
    if first >= 0xdc00 || escape.get(5..7)? != "\\u" {
        return None;
    }
    let second = unit(7)?.checked_sub(0xdc00).filter(|&low| low < 0x400)?;
    Some((char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)?, 11))
}

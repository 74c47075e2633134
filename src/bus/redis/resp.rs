//! Where one RESP3 reply ends: a scanner that is fed bytes as they come, and the values they make.
//!
//! The parser of the redis crate wants a whole reply and does not say how much of its input it used. So the boundary is found here first:
//! in one pass, whatever the pieces the bytes come in, remembering where it was; bounded in size, count and nesting before anything is
//! reserved. Then that parser makes the value. Replies that are one short line (`+OK`, an integer, nil), the bulk of a pipeline of
//! writes, are made here.
//!
//! See the [specification](https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md). Streamed strings and aggregates
//! (`$?`, `*?`) are not sent by any server and are refused; so is a push inside a reply.

use memchr::memmem;
use redis::Value;

/// Bytes of one reply.
pub const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;
const _: () = assert!(crate::cluster::parcel::PARCEL_BYTES_MAX < REPLY_BYTES_MAX);
/// Elements of one aggregate, and of all that are nested in one reply.
pub const ELEMENTS_MAX: u64 = 1 << 20;
/// Nesting of aggregates.
pub const DEPTH_MAX: usize = 8;
/// Bytes of a line: a type, a number or an error message.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// What is wrong with the bytes of a reply. The connection is of no use any more: nobody knows where the next reply begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    /// A byte that begins no type.
    #[error("a reply begins with a byte that is no RESP3 type")]
    Type,
    /// A length that is no number, or negative where it must not be.
    #[error("a length in a reply is not a number")]
    Length,
    /// Over [`LINE_BYTES_MAX`].
    #[error("a line of a reply is too long")]
    Line,
    /// Over [`REPLY_BYTES_MAX`] or [`ELEMENTS_MAX`].
    #[error("a reply is too large")]
    TooLarge,
    /// Over [`DEPTH_MAX`].
    #[error("a reply is nested too deeply")]
    TooDeep,
    /// A string that is not followed by an end of line, or a push inside a reply.
    #[error("a reply is malformed")]
    Malformed,
    /// The parser of values does not accept it.
    #[error("a reply cannot be parsed")]
    Value,
}

/// Finds the end of the reply at the front of a buffer that grows.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    /// Bytes of the reply that are known to belong to it.
    at: usize,
    /// Bytes after `at` in which there is no end of line.
    searched: usize,
    /// Values that each open aggregate still lacks, outermost first.
    open: [u64; DEPTH_MAX],
    depth: usize,
    elements: u64,
}

impl Scanner {
    /// The length of the reply at the front of `bytes`, if it is complete. Call it again with the same bytes and more of them as they
    /// come; after it has returned a length, with what follows that reply.
    ///
    /// # Errors
    ///
    /// The bytes are no reply, or break a bound; nothing after this makes sense.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, RespError> {
        loop {
            let Some(rest) = bytes.get(self.at..) else { return Ok(None) };
            let Some(line) = self.line(rest)? else { return self.incomplete(bytes) };
            let (kind, text) = line.split_first().ok_or(RespError::Type)?;
            let head = line.len() + 2;
            match kind {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.advance(head),
                b'$' | b'!' | b'=' => match length(text)? {
                    None if *kind == b'$' => self.advance(head),
                    None => return Err(RespError::Length),
                    Some(len) => {
                        let whole = head as u64 + len + 2;
                        if self.at as u64 + whole > REPLY_BYTES_MAX as u64 {
                            return Err(RespError::TooLarge);
                        }
                        let whole = whole as usize;
                        if rest.len() < whole {
                            return Ok(None);
                        }
                        if !rest[..whole].ends_with(b"\r\n") {
                            return Err(RespError::Malformed);
                        }
                        self.advance(whole);
                    }
                },
                b'>' if self.depth > 0 => return Err(RespError::Malformed),
                b'*' | b'~' | b'>' | b'%' | b'|' => match (length(text)?, kind) {
                    (None, b'*') => self.advance(head),
                    (None, _) => return Err(RespError::Length),
                    (Some(count), _) => {
                        // A map has two values per entry; an attribute has them too, and what it is about follows.
                        let count = count.saturating_mul(1 + u64::from(matches!(kind, b'%' | b'|')));
                        self.enter(head, count.saturating_add(u64::from(*kind == b'|')))?;
                    }
                },
                _ => return Err(RespError::Type),
            }
            if self.at > REPLY_BYTES_MAX {
                return Err(RespError::TooLarge);
            }
            if self.depth == 0 {
                let len = self.at;
                *self = Scanner::default();
                return Ok(Some(len));
            }
        }
    }

    /// The line at the front of `rest`, without its end.
    fn line<'a>(&mut self, rest: &'a [u8]) -> Result<Option<&'a [u8]>, RespError> {
        let unseen = rest.get(self.searched..).unwrap_or_default();
        // Most lines are a few bytes long.
        let near = unseen.iter().take(16).zip(unseen.iter().skip(1)).position(|(&a, &b)| (a, b) == (b'\r', b'\n'));
        match near.or_else(|| memmem::find(unseen, b"\r\n")) {
            Some(end) if self.searched + end > LINE_BYTES_MAX => Err(RespError::Line),
            Some(end) => Ok(Some(&rest[..self.searched + end])),
            None if rest.len() > LINE_BYTES_MAX + 1 => Err(RespError::Line),
            None => {
                // The last byte may be the first half of an end of line.
                self.searched = rest.len().saturating_sub(1);
                Ok(None)
            }
        }
    }

    /// An unknown type is told at its first byte: what is no Redis at all ends no line, perhaps.
    fn incomplete(&self, bytes: &[u8]) -> Result<Option<usize>, RespError> {
        match bytes.get(self.at) {
            Some(kind) if !b"+-:_,#($!=*~>%|".contains(kind) => Err(RespError::Type),
            Some(b'>') if self.depth > 0 => Err(RespError::Malformed),
            _ => Ok(None),
        }
    }

    /// A value that has no others in it ends here.
    fn advance(&mut self, len: usize) {
        self.at += len;
        self.searched = 0;
        self.close();
    }

    /// An aggregate of so many values begins here.
    fn enter(&mut self, head: usize, count: u64) -> Result<(), RespError> {
        self.at += head;
        self.searched = 0;
        self.elements = self.elements.saturating_add(count);
        if self.elements > ELEMENTS_MAX {
            return Err(RespError::TooLarge);
        }
        if count == 0 {
            self.close();
            return Ok(());
        }
        *self.open.get_mut(self.depth).ok_or(RespError::TooDeep)? = count;
        self.depth += 1;
        Ok(())
    }

    /// One value is complete, and with it perhaps what it was the last of.
    fn close(&mut self) {
        while let Some(top) = self.depth.checked_sub(1) {
            self.open[top] -= 1;
            if self.open[top] > 0 {
                return;
            }
            self.depth = top;
        }
    }
}

/// A length or a count; `None` is -1, the nil of RESP2.
fn length(text: &[u8]) -> Result<Option<u64>, RespError> {
    match text {
        b"-1" => Ok(None),
        [] | [b'0', _, ..] => Err(RespError::Length),
        _ if text.len() > 18 => Err(RespError::TooLarge),
        _ => {
            let digits = text.iter().map(|b| b.is_ascii_digit().then(|| u64::from(b - b'0')));
            let number = digits.reduce(|n, d| Some(n? * 10 + d?)).flatten();
            number.map(Some).ok_or(RespError::Length)
        }
    }
}

/// The value of a whole reply, as [`Scanner::scan`] has measured it.
///
/// # Errors
///
/// The parser does not accept it.
pub fn value(reply: &[u8]) -> Result<Value, RespError> {
    let line = reply.strip_suffix(b"\r\n").ok_or(RespError::Value)?;
    match line {
        b"+OK" => Ok(Value::Okay),
        b"_" | b"$-1" | b"*-1" => Ok(Value::Nil),
        [b':', digits @ ..] => integer(digits).map(Value::Int).ok_or(RespError::Value),
        // An error may quote what a client has sent: any bytes, where the parser takes text only.
        [b'-', text @ ..] if std::str::from_utf8(text).is_err() => {
            let text = String::from_utf8_lossy(line);
            redis::parse_redis_value(format!("{text}\r\n").as_bytes()).map_err(|_| RespError::Value)
        }
        _ => redis::parse_redis_value(reply).map_err(|_| RespError::Value),
    }
}

fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;

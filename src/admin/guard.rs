//! The guard of the admin listener: decides by the bytes alone where a request begins and ends, and refuses whatever two readers could
//! read differently. Only what it has passed reaches monoio-http's decoder. Pure.

use super::failure::Failure;
use crate::limits::{ADMIN_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::ws::handshake::head_len;

/// Bytes of a chunk-size line.
const CHUNK_LINE_BYTES_MAX: usize = 18;

/// What a request head says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its bytes.
    pub(super) len: usize,
    /// How its body is told from what follows.
    pub(super) body: Framing,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// Another request may follow on this connection.
    pub(super) keep_alive: bool,
}

/// RFC 9112, section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

/// Fields that may come once at the most: a second one might be what somebody else looks at.
const SINGLE: [&str; 7] =
    ["Host", "Content-Length", "Transfer-Encoding", "Content-Type", "Origin", "X-API-Key", "Expect"];

/// Reads the head at the front of `bytes`; `None`: it is not complete.
///
/// # Errors
///
/// What is wrong with it; the connection must be closed after the answer, as nothing behind can be trusted.
pub(super) fn head(bytes: &[u8], body_max: usize) -> Result<Option<Head>, Failure> {
    let window = &bytes[..bytes.len().min(ADMIN_HEAD_BYTES_MAX)];
    let Some(len) = head_len(window)? else {
        return match bytes.len() >= ADMIN_HEAD_BYTES_MAX {
            true => Err(Failure::http(431, format!("the request head is over {ADMIN_HEAD_BYTES_MAX} bytes"))),
            false => Ok(None),
        };
    };
    let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&bytes[..len]) {
        Ok(httparse::Status::Complete(parsed)) if parsed == len => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Failure::http(431, format!("more than {HTTP_HEADERS_MAX} header fields")));
        }
        Err(httparse::Error::Version) => return Err(Failure::http(505, "HTTP/1.1 is spoken here")),
        _ => return Err(Failure::http(400, "the request head is malformed")),
    }
    let one = |name: &str| {
        let mut values = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
        (values.next(), values.next().is_some())
    };
    if let Some(name) = SINGLE.iter().find(|name| one(name).1) {
        return Err(Failure::http(400, format!("more than one {name}")));
    }
    let modern = request.version == Some(1);
    if modern && one("Host").0.is_none() {
        return Err(Failure::http(400, "Host is missing"));
    }
    let target = request.path.unwrap_or_default();
    if !target.starts_with('/') || target.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
        return Err(Failure::http(400, "the request target is malformed; expected a path"));
    }
    let body = match (one("Transfer-Encoding").0, one("Content-Length").0) {
        (Some(_), Some(_)) => return Err(Failure::http(400, "both Transfer-Encoding and Content-Length")),
        (Some(coding), None) if modern && coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (Some(_), None) => return Err(Failure::http(400, "Transfer-Encoding is not \"chunked\"")),
        (None, Some(length)) => Framing::Length(body_length(length, body_max)?),
        (None, None) => Framing::Length(0),
    };
    let expects_continue = match one("Expect").0 {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => modern && body != Framing::Length(0),
        Some(_) => return Err(Failure::http(417, "Expect is not \"100-continue\"")),
    };
    let tokens = |header: &httparse::Header<'_>| -> Vec<Vec<u8>> {
        header.value.split(|b| *b == b',').map(|token| token.trim_ascii().to_ascii_lowercase()).collect()
    };
    let connection: Vec<_> =
        request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("Connection")).flat_map(tokens).collect();
    let keep_alive = match modern {
        true => !connection.iter().any(|token| token == b"close"),
        false => false,
    };
    Ok(Some(Head { len, body, expects_continue, keep_alive }))
}

fn body_length(value: &[u8], max: usize) -> Result<usize, Failure> {
    // `parse` would take a sign.
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<usize>().ok());
    match length {
        None => Err(Failure::http(400, "Content-Length is malformed")),
        Some(length) if length > max => Err(too_large(max)),
        Some(length) => Ok(length),
    }
}

/// 413.
fn too_large(max: usize) -> Failure {
    Failure::http(413, format!("the body is over {max} bytes"))
}

/// A chunked body that arrives: what it holds so far, without the framing. No chunk extensions, no trailers.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Bytes of the current chunk that are still to come, its CRLF included; 0: a size line is next.
    missing: usize,
    /// Seen the last chunk: only the final CRLF is missing.
    last: bool,
}

impl Chunks {
    /// Takes what it can off the front of `input` and appends the content to `body`. Gives the bytes taken, and whether the body is complete.
    ///
    /// # Errors
    ///
    /// Framing that is not exact, or a body that is too large.
    pub(super) fn take(&mut self, input: &[u8], body: &mut Vec<u8>, max: usize) -> Result<(usize, bool), Failure> {
        const MALFORMED: &str = "the chunked body is malformed";
        let mut at = 0;
        loop {
            let rest = &input[at..];
            if self.last {
                return match rest {
                    [b'\r', b'\n', ..] => Ok((at + 2, true)),
                    [] | [b'\r'] => Ok((at, false)),
                    _ => Err(Failure::http(400, MALFORMED)),
                };
            }
            if self.missing > 2 {
                let take = rest.len().min(self.missing - 2);
                if take == 0 {
                    return Ok((at, false));
                }
                body.extend_from_slice(&rest[..take]);
                self.missing -= take;
                at += take;
            } else if self.missing == 2 {
                match rest {
                    [b'\r', b'\n', ..] => {}
                    [] | [b'\r'] => return Ok((at, false)),
                    _ => return Err(Failure::http(400, MALFORMED)),
                }
                self.missing = 0;
                at += 2;
            } else {
                let window = &rest[..rest.len().min(CHUNK_LINE_BYTES_MAX)];
                let Some(end) = window.iter().position(|b| *b == b'\n') else {
                    return match rest.len() >= CHUNK_LINE_BYTES_MAX {
                        true => Err(Failure::http(400, MALFORMED)),
                        false => Ok((at, false)),
                    };
                };
                let digits = window[..end].strip_suffix(b"\r").filter(|digits| !digits.is_empty());
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
                let size = size.ok_or_else(|| Failure::http(400, MALFORMED))?;
                if size > max.saturating_sub(body.len()) {
                    return Err(too_large(max));
                }
                at += end + 1;
                self.last = size == 0;
                self.missing = size + 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &str) -> Result<Option<Head>, u16> {
        super::head(head.as_bytes(), 1000).map_err(|failure| failure.code.status())
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nX-API-Key: a\r\nx-api-key: b\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", 417),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ];
        for (head, expected) in table {
            assert_eq!(status(head), Err(expected), "{head:?}");
        }
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64));
        assert_eq!(status(&many), Err(431));
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\n{}: y\r\n\r\n", "x".repeat(70_000));
        assert_eq!(status(&long), Err(431), "this one makes the decoder behind panic");
    }

    #[test]
    fn good_heads_are_measured() {
        let head = |head: &str| status(head).unwrap().unwrap();
        let get = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
        let expected = Head { len: get.len(), body: Framing::Length(0), expects_continue: false, keep_alive: true };
        assert_eq!(head(get), expected);
        assert_eq!(head(&format!("{get}POST")), expected, "what follows is another request");
        assert!(!head("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.0\r\n\r\n").keep_alive);
        let post = head("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 07\r\nExpect: 100-Continue\r\n\r\n");
        assert_eq!((post.body, post.expects_continue), (Framing::Length(7), true));
        let chunked = head("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert_eq!(chunked.body, Framing::Chunked);
        for end in 0..get.len() {
            assert_eq!(status(&get[..end]), Ok(None));
        }
    }

    fn dechunk(input: &[u8], step: usize) -> Result<(Vec<u8>, usize), u16> {
        let (mut chunks, mut body, mut at) = (Chunks::default(), Vec::new(), 0);
        let mut seen = 0;
        loop {
            seen = (seen + step).min(input.len());
            let (taken, done) =
                chunks.take(&input[at..seen], &mut body, 20).map_err(|failure| failure.code.status())?;
            at += taken;
            if done {
                return Ok((body, at));
            }
            if seen == input.len() {
                return Err(0);
            }
        }
    }

    #[test]
    fn chunked_bodies_in_pieces_of_any_size() {
        let good = b"3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\nGET";
        for step in 1..=good.len() {
            assert_eq!(dechunk(good, step), Ok((b"abc0123456789".to_vec(), good.len() - 3)), "{step}");
        }
        let table: [(&[u8], u16); 11] = [
            (b"3\r\nabcd\r\n", 400),
            (b"3;a=b\r\nabc\r\n0\r\n\r\n", 400),
            (b"\r\nabc", 400),
            (b"-1\r\n", 400),
            (b"0x3\r\nabc\r\n", 400),
            (b"3\nabc\r\n", 400),
            (b"ffffffffffffffff\r\n", 413),
            (b"fffffffffffffffff\r\n", 400),
            (b"15\r\n", 413),
            (b"a\r\n0123456789\r\nb\r\n", 413),
            (b"0\r\nTrailer: x\r\n\r\n", 400),
        ];
        for (bad, expected) in table {
            for step in [1, bad.len()] {
                assert_eq!(dechunk(bad, step), Err(expected), "{:?}", bad.escape_ascii().to_string());
            }
        }
    }
}

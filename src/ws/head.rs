//! The head of an HTTP/1.1 request (RFC 9112): parsed by httparse, held to what it lets pass.
//!
//! Whatever two parsers might read differently is refused: bare CR or LF, obs-fold, whitespace before a colon, a body, a second Host.

use std::borrow::Cow;

use memchr::memchr2_iter;

use crate::error::RefusalReason;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

use super::refusal::Refusal;
use super::utf8;

/// What has arrived of a request head.
#[derive(Debug)]
pub enum HeadStatus<'a> {
    /// Not all of it, and nothing wrong so far.
    Incomplete,
    /// All of it.
    Complete {
        /// The head.
        head: RequestHead<'a>,
        /// Its bytes, the empty line included; what follows belongs to the WebSocket.
        len: usize,
    },
}

/// The head of a `GET` request, checked by [`parse_head`].
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// The path of the target, as sent: percent-encoded, beginning with `/`.
    pub path: &'a str,
    /// The query of the target, as sent, without its `?`; it decodes to UTF-8.
    pub query: &'a str,
    host: &'a str,
    fields: Vec<Field<'a>>,
}

type Field<'a> = (&'a str, &'a [u8]);

/// Parses a request head at the front of `bytes`, which are all that have arrived so far. Cheap enough to be called again as more
/// arrive: it is bounded, and nothing but line ends is looked at before the head is complete.
///
/// # Errors
///
/// The refusal to answer with: 400, 405 (not `GET`), 431 (too long, too many fields) or 505 (not HTTP/1.1).
pub fn parse_head(bytes: &[u8]) -> Result<HeadStatus<'_>, Refusal> {
    if bytes.first().is_some_and(|&b| !b.is_ascii_graphic() && b != b'\r' && b != b'\n') {
        return Err(Refusal::new(
            RefusalReason::BadRequest,
            "This is not HTTP: TLS ends at a proxy, and this listener speaks plain HTTP/1.1.",
        ));
    }
    let window = &bytes[..bytes.len().min(HTTP_HEAD_BYTES_MAX)];
    let Some(len) = head_len(window)? else {
        return if bytes.len() >= HTTP_HEAD_BYTES_MAX {
            Err(Refusal::new(
                RefusalReason::HeadTooLarge,
                format!("The request head is over {HTTP_HEAD_BYTES_MAX} bytes."),
            ))
        } else {
            Ok(HeadStatus::Incomplete)
        };
    };
    let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&bytes[..len]) {
        Ok(httparse::Status::Complete(parsed)) if parsed == len => {}
        Ok(_) => return Err(Refusal::new(RefusalReason::BadRequest, "The request head is malformed.")),
        Err(error) => return Err(malformed(error, &bytes[..len])),
    }
    if request.version != Some(1) {
        return Err(Refusal::new(RefusalReason::HttpVersion, "HTTP/1.1 is spoken here."));
    }
    if request.method != Some("GET") {
        let head_only = request.method == Some("HEAD");
        return Err(Refusal { head_only, ..Refusal::new(RefusalReason::Method, "A WebSocket is opened with GET.") });
    }
    let fields = request.headers.iter().map(|field| (field.name, field.value)).collect();
    let mut head = RequestHead { path: "", query: "", host: "", fields };
    head.check_body()?;
    for name in ["Origin", "Authorization"] {
        if head.headers(name).nth(1).is_some() {
            return Err(Refusal::new(RefusalReason::BadRequest, format!("More than one {name}.")));
        }
    }
    head.check_host()?;
    head.set_target(request.path.unwrap_or_default())?;
    Ok(HeadStatus::Complete { head, len })
}

impl<'a> RequestHead<'a> {
    /// The value of the first field of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers(name).next()
    }

    /// The values of all fields of that name, in any case, in order.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|&(_, value)| value)
    }

    /// The members of the comma-separated lists in all fields of that name, trimmed; empty ones are left out (RFC 9110, section 5.6.1).
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|m| !m.is_empty())
    }

    /// Host and port that the client asked for: of an absolute target, else of `Host`.
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// The first parameter of that name in the query, decoded as `application/x-www-form-urlencoded` (percent, and `+` for a space).
    pub fn query_param(&self, name: &str) -> Option<Cow<'a, str>> {
        pairs(self.query)
            .find(|(key, _)| decode(key).is_some_and(|key| key == name))
            .and_then(|(_, value)| decode(value))
    }

    /// The token of `Authorization: Bearer` (RFC 6750, section 2.1).
    pub fn authorization_bearer(&self) -> Option<&'a str> {
        let (scheme, token) = self.text("Authorization")?.split_once(' ')?;
        let token = token.trim_ascii();
        (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
    }

    /// `User-Agent`, where it is UTF-8.
    pub fn user_agent(&self) -> Option<&'a str> {
        self.text("User-Agent")
    }

    /// `Origin`, where it is UTF-8.
    pub fn origin(&self) -> Option<&'a str> {
        self.text("Origin")
    }

    /// The addresses in all `X-Forwarded-For` fields, the client's first, the nearest proxy's last; not checked.
    pub fn forwarded_for(&self) -> impl Iterator<Item = &'a str> {
        self.list("X-Forwarded-For").filter_map(|address| utf8::text(address).ok())
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        utf8::text(self.header(name)?).ok()
    }

    /// A `GET` that opens a WebSocket has no body, however it is announced.
    fn check_body(&self) -> Result<(), Refusal> {
        if self.header("Transfer-Encoding").is_some() {
            return Err(Refusal::new(RefusalReason::BadRequest, "Transfer-Encoding: an upgrade request has no body."));
        }
        let mut lengths = self.headers("Content-Length");
        match (lengths.next(), lengths.next()) {
            (None | Some(b"0"), None) => Ok(()),
            (_, Some(_)) => Err(Refusal::new(RefusalReason::BadRequest, "More than one Content-Length.")),
            _ => Err(Refusal::new(RefusalReason::BadRequest, "Content-Length: an upgrade request has no body.")),
        }
    }

    /// Exactly one `Host`, and a plausible one (RFC 9112, section 3.2).
    fn check_host(&mut self) -> Result<(), Refusal> {
        let mut hosts = self.headers("Host");
        let host = match (hosts.next(), hosts.next()) {
            (None, _) => return Err(Refusal::new(RefusalReason::BadRequest, "Host is missing.")),
            (_, Some(_)) => return Err(Refusal::new(RefusalReason::BadRequest, "More than one Host.")),
            (Some(host), None) => utf8::text(host).ok().filter(|host| is_authority(host)),
        };
        drop(hosts);
        self.host = host.ok_or_else(|| Refusal::new(RefusalReason::BadRequest, "Host is malformed."))?;
        Ok(())
    }

    /// Origin form, or absolute form, whose authority then counts instead of `Host` (RFC 9112, section 3.2.2).
    fn set_target(&mut self, target: &'a str) -> Result<(), Refusal> {
        const MALFORMED: &str = "The request target is malformed.";
        if target.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
            return Err(Refusal::new(RefusalReason::BadRequest, MALFORMED));
        }
        let local = if target.starts_with('/') {
            target
        } else {
            let (scheme, rest) =
                target.split_once("://").ok_or_else(|| Refusal::new(RefusalReason::BadRequest, MALFORMED))?;
            if !["http", "https", "ws", "wss"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
                return Err(Refusal::new(RefusalReason::BadRequest, MALFORMED));
            }
            let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if !is_authority(authority) {
                return Err(Refusal::new(RefusalReason::BadRequest, MALFORMED));
            }
            self.host = authority;
            local
        };
        let (path, query) = local.split_once('?').unwrap_or((local, ""));
        self.path = if path.is_empty() { "/" } else { path };
        self.query = query;
        if pairs(query).any(|(name, value)| decode(name).is_none() || decode(value).is_none()) {
            return Err(Refusal::new(RefusalReason::BadRequest, "The query does not decode to UTF-8."));
        }
        Ok(())
    }
}

/// Where the head ends, the empty line included; `None`: not yet. One empty line before it is forgiven (RFC 9112, section 2.2).
pub fn head_len(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut line_start = 0;
    let mut request_line = false;
    let mut cr = None;
    for at in memchr2_iter(b'\r', b'\n', bytes) {
        if bytes[at] == b'\r' {
            if cr.is_some() {
                return Err(Refusal::new(RefusalReason::BadRequest, "A CR without its LF."));
            }
            cr = Some(at);
            continue;
        }
        match cr.take() {
            None => return Err(Refusal::new(RefusalReason::BadRequest, "A line ends with LF alone.")),
            Some(cr) if cr + 1 != at => return Err(Refusal::new(RefusalReason::BadRequest, "A CR without its LF.")),
            Some(cr) if cr > line_start => request_line = true,
            Some(_) if request_line => return Ok(Some(at + 1)),
            Some(_) if line_start > 0 => {
                return Err(Refusal::new(RefusalReason::BadRequest, "Empty lines instead of a request."));
            }
            Some(_) => {}
        }
        line_start = at + 1;
    }
    match cr {
        Some(cr) if cr + 1 < bytes.len() => Err(Refusal::new(RefusalReason::BadRequest, "A CR without its LF.")),
        _ => Ok(None),
    }
}

#[cold]
fn malformed(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::new(RefusalReason::HeadTooLarge, format!("More than {HTTP_HEADERS_MAX} header fields."))
        }
        httparse::Error::Version if names_another_version(head) => {
            Refusal::new(RefusalReason::HttpVersion, "HTTP/1.1 is spoken here.")
        }
        httparse::Error::HeaderName => Refusal::new(RefusalReason::BadRequest, "A header field's name is malformed."),
        httparse::Error::HeaderValue => Refusal::new(RefusalReason::BadRequest, "A header field's value is malformed."),
        _ => Refusal::new(RefusalReason::BadRequest, "The request line is malformed."),
    }
}

/// Whether the request line ends with `HTTP/`, a digit, a point and a digit: a version other than ours.
fn names_another_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|&b| b == b'\r').next().unwrap_or_default();
    matches!(line, [.., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() && [*major, *minor] != *b"11")
}

/// `host[:port]` as RFC 3986, section 3.2 has it, without user information.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (address, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b)) {
                return false;
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    !host.is_empty() && port
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Percent-decodes; `None` where an escape is malformed or the result is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                hex(digits[0])? << 4 | hex(digits[1])?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests;

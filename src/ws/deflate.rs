//! permessage-deflate (RFC 7692): what is negotiated, and the two engines.

use serde::{Deserialize, Serialize};

use crate::config;

pub use super::deflater::Deflater;
pub use super::inflater::{Inflater, Window};

/// The smallest window that raw deflate can be made to use (zlib turns 8 into 9, which a peer with 8 could not inflate).
pub const WINDOW_BITS_MIN: u8 = 9;
/// The largest window.
pub const WINDOW_BITS_MAX: u8 = 15;

const NAME: &str = "permessage-deflate";

/// What was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeflateParams {
    /// The server resets its compressor between messages.
    pub server_no_context_takeover: bool,
    /// The client resets its compressor between messages.
    pub client_no_context_takeover: bool,
    /// Base-2 logarithm of the server's LZ77 window.
    pub server_max_window_bits: u8,
    /// Base-2 logarithm of the client's LZ77 window.
    pub client_max_window_bits: u8,
}

impl DeflateParams {
    /// The value of `Sec-WebSocket-Extensions` in the 101 response.
    pub fn response(&self) -> String {
        let mut response = NAME.to_owned();
        if self.server_no_context_takeover {
            response.push_str("; server_no_context_takeover");
        }
        if self.client_no_context_takeover {
            response.push_str("; client_no_context_takeover");
        }
        if self.server_max_window_bits < WINDOW_BITS_MAX {
            response.push_str(&format!("; server_max_window_bits={}", self.server_max_window_bits));
        }
        if self.client_max_window_bits < WINDOW_BITS_MAX {
            response.push_str(&format!("; client_max_window_bits={}", self.client_max_window_bits));
        }
        response
    }
}

/// Takes the first acceptable offer of all `Sec-WebSocket-Extensions` values, in their order (RFC 7692, sections 5.1 and 7.1).
/// Another extension, an unknown or repeated parameter, or a bad value declines that offer, not the connection.
pub fn negotiate<'a>(headers: impl Iterator<Item = &'a [u8]>, config: &config::Deflate) -> Option<DeflateParams> {
    if !config.enabled {
        return None;
    }
    headers
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| split_unquoted(value, ','))
        .find_map(|offer| accept(offer, config))
}

/// One offer: `permessage-deflate` and its parameters.
fn accept(offer: &str, config: &config::Deflate) -> Option<DeflateParams> {
    let mut parts = split_unquoted(offer, ';');
    if parts.next()? != NAME {
        return None;
    }
    let mut asked = Asked::default();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_ascii_end(), Some(unquote(value.trim_ascii_start())?)),
            None => (part, None),
        };
        // A parameter may come once; `replace` tells.
        let repeated = match (name, value) {
            ("server_no_context_takeover", None) => asked.server_no_context_takeover.replace(()).is_some(),
            ("client_no_context_takeover", None) => asked.client_no_context_takeover.replace(()).is_some(),
            ("server_max_window_bits", Some(bits)) => asked.server_bits.replace(window_bits(bits)?).is_some(),
            ("client_max_window_bits", None) => asked.client_bits.replace(WINDOW_BITS_MAX).is_some(),
            ("client_max_window_bits", Some(bits)) => asked.client_bits.replace(window_bits(bits)?).is_some(),
            _ => return None,
        };
        if repeated {
            return None;
        }
    }
    let server_max_window_bits = asked.server_bits.unwrap_or(WINDOW_BITS_MAX);
    if server_max_window_bits < WINDOW_BITS_MIN {
        return None;
    }
    Some(DeflateParams {
        server_no_context_takeover: !config.context_takeover || asked.server_no_context_takeover.is_some(),
        client_no_context_takeover: !config.context_takeover || asked.client_no_context_takeover.is_some(),
        server_max_window_bits,
        // A hint, which may be ignored; 8 is: clients on zlib cannot keep to it.
        client_max_window_bits: asked.client_bits.filter(|&bits| bits >= WINDOW_BITS_MIN).unwrap_or(WINDOW_BITS_MAX),
    })
}

#[derive(Default)]
struct Asked {
    server_no_context_takeover: Option<()>,
    client_no_context_takeover: Option<()>,
    server_bits: Option<u8>,
    client_bits: Option<u8>,
}

/// 8 to 15, decimal, without leading zeros (RFC 7692, section 7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    match value.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// A parameter's value: a token, or a quoted token without escapes (RFC 6455, section 9.1); anything else is no value of ours.
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').filter(|inner| !inner.contains('"')),
        None => Some(value),
    }
}

/// The trimmed parts between separators that are not inside a quoted string.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
    .map(|part| part.trim_matches([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(server_fresh: bool, client_fresh: bool, server_bits: u8, client_bits: u8) -> DeflateParams {
        DeflateParams {
            server_no_context_takeover: server_fresh,
            client_no_context_takeover: client_fresh,
            server_max_window_bits: server_bits,
            client_max_window_bits: client_bits,
        }
    }

    fn check(context_takeover: bool, headers: &[&str], expect: Option<DeflateParams>) {
        let config = config::Deflate { context_takeover, ..config::Deflate::default() };
        assert_eq!(negotiate(headers.iter().map(|h| h.as_bytes()), &config), expect, "{headers:?}");
    }

    #[test]
    fn first_acceptable_offer_is_taken() {
        // What is asked for on both sides, with context takeover allowed.
        let table: [(&[&str], Option<DeflateParams>); 42] = [
            (&[], None),
            (&[""], None),
            (&["x-webkit-deflate-frame"], None),
            (&["permessage-deflate"], Some(params(false, false, 15, 15))),
            (&["permessage-deflate; client_max_window_bits"], Some(params(false, false, 15, 15))),
            (
                &["permessage-deflate;client_no_context_takeover ; client_max_window_bits"],
                Some(params(false, true, 15, 15)),
            ),
            (&["permessage-deflate; server_no_context_takeover"], Some(params(true, false, 15, 15))),
            (
                &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
                Some(params(true, true, 15, 15)),
            ),
            // Autobahn 13.3 to 13.7
            (
                &["permessage-deflate; client_no_context_takeover; client_max_window_bits; server_max_window_bits=9"],
                Some(params(false, true, 9, 15)),
            ),
            (
                &["permessage-deflate; client_no_context_takeover; client_max_window_bits; server_max_window_bits=15"],
                Some(params(false, true, 15, 15)),
            ),
            (
                &["permessage-deflate; client_no_context_takeover; client_max_window_bits; \
                   server_no_context_takeover; server_max_window_bits=9"],
                Some(params(true, true, 9, 15)),
            ),
            (
                &[
                    "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_no_context_takeover; \
                   server_max_window_bits=9, permessage-deflate; client_no_context_takeover; client_max_window_bits; \
                   server_no_context_takeover, permessage-deflate; client_no_context_takeover; client_max_window_bits",
                ],
                Some(params(true, true, 9, 15)),
            ),
            (
                &["permessage-deflate; server_max_window_bits=10; client_max_window_bits=11"],
                Some(params(false, false, 10, 11)),
            ),
            (&["permessage-deflate; server_max_window_bits=\"12\""], Some(params(false, false, 12, 15))),
            (&["permessage-deflate; server_max_window_bits = 12"], Some(params(false, false, 12, 15))),
            (&["permessage-deflate; client_max_window_bits=8"], Some(params(false, false, 15, 15))),
            (&["permessage-deflate; client_max_window_bits=9"], Some(params(false, false, 15, 9))),
            (&["permessage-deflate; client_max_window_bits=15"], Some(params(false, false, 15, 15))),
            // bad values
            (&["permessage-deflate; server_max_window_bits=8"], None),
            (&["permessage-deflate; server_max_window_bits=7"], None),
            (&["permessage-deflate; server_max_window_bits=16"], None),
            (&["permessage-deflate; server_max_window_bits=09"], None),
            (&["permessage-deflate; server_max_window_bits=+9"], None),
            (&["permessage-deflate; server_max_window_bits="], None),
            (&["permessage-deflate; server_max_window_bits=\"9"], None),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; client_max_window_bits=0"], None),
            (&["permessage-deflate; client_max_window_bits=1000"], None),
            (&["permessage-deflate; server_no_context_takeover=true"], None),
            (&["permessage-deflate; client_no_context_takeover="], None),
            // unknown and repeated parameters
            (&["permessage-deflate; foo"], None),
            (&["permessage-deflate; foo=9"], None),
            (&["permessage-deflate;"], None),
            (&["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None),
            (&["permessage-deflate; client_max_window_bits; client_max_window_bits=10"], None),
            (&["permessage-deflate; server_max_window_bits=10; server_max_window_bits=10"], None),
            // a later offer is taken
            (&["permessage-deflate; foo, permessage-deflate"], Some(params(false, false, 15, 15))),
            (
                &["foo; a=\"x, permessage-deflate\", permessage-deflate; server_max_window_bits=10"],
                Some(params(false, false, 10, 15)),
            ),
            (&["foo; a=\"\\\", permessage-deflate\", bar"], None),
            (
                &["foo", "permessage-deflate; server_max_window_bits=8", "permessage-deflate"],
                Some(params(false, false, 15, 15)),
            ),
            (
                &["permessage-deflate; server_max_window_bits=11, permessage-deflate"],
                Some(params(false, false, 11, 15)),
            ),
            (&["permessage-deflate-x, permessage-defl"], None),
        ];
        for (headers, expect) in table {
            check(true, headers, expect);
            let fresh = |p| DeflateParams { server_no_context_takeover: true, client_no_context_takeover: true, ..p };
            check(false, headers, expect.map(fresh));
        }
        let off = config::Deflate { enabled: false, ..config::Deflate::default() };
        assert_eq!(negotiate([&b"permessage-deflate"[..]].into_iter(), &off), None);
        check(
            true,
            &["permessage-deflate"],
            negotiate(
                [&b"\xff"[..], b"permessage-deflate"].into_iter(),
                &config::Deflate { context_takeover: true, ..config::Deflate::default() },
            ),
        );
    }

    #[test]
    fn responses_name_what_is_not_the_default() {
        let table = [
            (params(false, false, 15, 15), "permessage-deflate"),
            (params(true, true, 15, 15), "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            (params(false, false, 9, 15), "permessage-deflate; server_max_window_bits=9"),
            (params(true, false, 15, 10), "permessage-deflate; server_no_context_takeover; client_max_window_bits=10"),
        ];
        for (params, expect) in table {
            assert_eq!(params.response(), expect);
        }
    }
}

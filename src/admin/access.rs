//! Who may use the server API: no web page by accident, nobody without a key where there are keys. Pure.

use std::net::IpAddr;

use crate::config::Secret;

use super::failure::{Code, Failure};

/// What of a request decides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caller<'a> {
    pub(super) host: Option<&'a [u8]>,
    pub(super) origin: Option<&'a [u8]>,
    pub(super) content_type: Option<&'a [u8]>,
    pub(super) key: Option<&'a [u8]>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// `api.keys`.
    pub(super) keys: &'a [Secret],
    /// `api.hosts`.
    pub(super) hosts: &'a [String],
}

impl Rules<'_> {
    /// Checks a request to the server API.
    ///
    /// A page in somebody's browser can send a POST to a loopback listener; it cannot choose `Host`, hide its `Origin`, or send JSON or a key
    /// without asking first, which nothing here ever answers.
    ///
    /// # Errors
    ///
    /// 401, 403 or 415.
    pub(super) fn check(&self, caller: &Caller<'_>) -> Result<(), Failure> {
        let host = caller.host.and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
        if !self.knows(host_name(host)) {
            let text = "this Host is not known; expected a loopback name, an IP address, or a name in api.hosts";
            return Err(Failure::new(Code::Forbidden, text));
        }
        if let Some(origin) = caller.origin {
            let origin = std::str::from_utf8(origin).unwrap_or_default();
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
                return Err(Failure::new(Code::Forbidden, "pages of another Origin may not use the server API"));
            }
        }
        self.check_key(caller.key)?;
        let media_type = caller.content_type.map(|value| value.split(|b| *b == b';').next().unwrap_or(value));
        if !media_type.is_some_and(|media| media.trim_ascii().eq_ignore_ascii_case(b"application/json")) {
            return Err(Failure::new(Code::UnsupportedMediaType, "expected Content-Type: application/json"));
        }
        Ok(())
    }

    /// With keys, the key is what protects: any name will do, unless names are given.
    fn knows(&self, name: &str) -> bool {
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let loopback = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
        loopback
            // Rebinding takes a name: an address is what was really dialled.
            || address.parse::<IpAddr>().is_ok()
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
            || (!self.keys.is_empty() && self.hosts.is_empty() && !name.is_empty())
    }

    fn check_key(&self, key: Option<&[u8]>) -> Result<(), Failure> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let Some(key) = key else {
            return Err(Failure::new(Code::Unauthorized, "X-API-Key is missing"));
        };
        // All of them, always: how long it takes says nothing about which one was nearly right.
        let good = self.keys.iter().fold(false, |good, known| good | same(known.0.as_bytes(), key));
        if good { Ok(()) } else { Err(Failure::new(Code::Unauthorized, "X-API-Key is not known")) }
    }
}

/// Compares in a time that depends on the lengths only.
fn same(known: &[u8], given: &[u8]) -> bool {
    let padded = given.iter().chain(std::iter::repeat(&0));
    let difference = known.iter().zip(padded).fold(0u8, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    (difference == 0) & (known.len() == given.len())
}

/// A `Host` without its port.
fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], hosts: &[&str], caller: [Option<&str>; 4]) -> u16 {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret((*key).to_owned())).collect();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let [host, origin, content_type, key] = caller.map(|field| field.map(str::as_bytes));
        let rules = Rules { keys: &keys, hosts: &hosts };
        match rules.check(&Caller { host, origin, content_type, key }) {
            Ok(()) => 200,
            Err(failure) => failure.code.status(),
        }
    }

    #[test]
    fn pages_strangers_and_other_media_types_are_refused() {
        let json = Some("application/json");
        let local = Some("127.0.0.1:8081");
        type Case<'a> = (&'a [&'a str], &'a [&'a str], [Option<&'a str>; 4], u16);
        let table: [Case<'_>; 25] = [
            (&[], &[], [local, None, json, None], 200),
            (&[], &[], [Some("localhost"), None, json, None], 200),
            (&[], &[], [Some("LOCALHOST:1"), None, json, None], 200),
            (&[], &[], [Some("[::1]:8081"), None, json, None], 200),
            (&[], &[], [Some("[::1]"), None, Some("Application/JSON; charset=utf-8"), None], 200),
            (&[], &[], [Some("10.1.2.3:80"), None, json, None], 200),
            (&[], &[], [Some("evil.example:8081"), None, json, None], 403),
            (&[], &[], [Some("127.0.0.1.evil.example"), None, json, None], 403),
            (&[], &[], [Some("localhost.evil.example"), None, json, None], 403),
            (&[], &[], [Some(""), None, json, None], 403),
            (&[], &[], [None, None, json, None], 403),
            (&[], &["gw.internal"], [Some("GW.internal:8081"), None, json, None], 200),
            (&[], &[], [local, Some("http://127.0.0.1:8081"), json, None], 200),
            (&[], &[], [local, Some("http://127.0.0.1:8082"), json, None], 403),
            (&[], &[], [local, Some("https://evil.example"), json, None], 403),
            (&[], &[], [local, Some("null"), json, None], 403),
            (&[], &[], [local, None, Some("text/plain"), None], 415),
            (&[], &[], [local, None, Some("application/json-patch"), None], 415),
            (&[], &[], [local, None, None, None], 415),
            (&["k1", "k2"], &[], [local, None, json, None], 401),
            (&["k1", "k2"], &[], [local, None, json, Some("k")], 401),
            (&["k1", "k2"], &[], [local, None, json, Some("k1x")], 401),
            (&["k1", "k2"], &[], [local, None, json, Some("k2")], 200),
            (&["k1"], &[], [Some("gw:8081"), None, json, Some("k1")], 200),
            (&["k1"], &["other"], [Some("gw:8081"), None, json, Some("k1")], 403),
        ];
        for (keys, hosts, caller, expected) in table {
            assert_eq!(check(keys, hosts, caller), expected, "{keys:?} {hosts:?} {caller:?}");
        }
    }
}

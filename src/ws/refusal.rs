//! An upgrade request that is turned down, and the HTTP response that says so.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;

use crate::error::RefusalReason;

/// Why a request does not become a WebSocket. The connection is closed after its [`response`](Refusal::response).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {}: {detail}", reason.status(), reason_phrase(reason.status()))]
pub struct Refusal {
    /// Why, and so the HTTP status.
    pub reason: RefusalReason,
    /// What was wrong, for people: the body.
    pub detail: Cow<'static, str>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// The answer to a HEAD request has no body (RFC 9110, section 9.3.2).
    pub head_only: bool,
}

impl Refusal {
    /// A refusal for that reason.
    #[cold]
    pub fn new(reason: RefusalReason, detail: impl Into<Cow<'static, str>>) -> Self {
        Refusal { reason, detail: detail.into(), retry_after_s: None, head_only: false }
    }

    /// The same, with `Retry-After`.
    pub fn retry_after(self, seconds: u32) -> Self {
        Refusal { retry_after_s: Some(seconds), ..self }
    }

    /// The whole response, with the header fields that belong to its status: `Allow` (405), `Upgrade` and `Sec-WebSocket-Version` (426;
    /// RFC 9110, section 15.5.22; RFC 6455, section 4.4).
    pub fn response(&self) -> Bytes {
        let mut out = String::with_capacity(256 + self.detail.len());
        let status = self.reason.status();
        let connection = if status == 426 { "close, Upgrade" } else { "close" };
        let reason = reason_phrase(status);
        // Writing to a String cannot fail.
        let _ = write!(out, "HTTP/1.1 {status} {reason}\r\nConnection: {connection}\r\n");
        match status {
            405 => out.push_str("Allow: GET\r\n"),
            426 => out.push_str("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            _ => {}
        }
        if let Some(seconds) = self.retry_after_s {
            let _ = write!(out, "Retry-After: {seconds}\r\n");
        }
        let len = self.detail.len() + 1;
        let _ = write!(out, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\r\n");
        if !self.head_only {
            let _ = writeln!(out, "{}", self.detail);
        }
        out.into()
    }
}

/// The reason phrase of a status that the gateway uses (RFC 9110, section 15; RFC 6585).
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_carry_what_belongs_to_their_status() {
        let table = [
            (
                Refusal::new(RefusalReason::Method, "only GET"),
                "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nAllow: GET\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: 9\r\n\r\nonly GET\n",
            ),
            (
                Refusal::new(RefusalReason::NotWebSocket, "speak WebSocket"),
                "HTTP/1.1 426 Upgrade Required\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\n\r\nspeak WebSocket\n",
            ),
            (
                Refusal::new(RefusalReason::Capacity, "full").retry_after(3),
                "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 3\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nfull\n",
            ),
        ];
        for (refusal, expect) in table {
            assert_eq!(refusal.response(), expect);
        }
    }
}

//! Close payloads (RFC 6455, sections 5.5.1 and 7.4), and why the gateway fails a connection.

use crate::error::CloseReason;

use super::utf8;

/// Why a connection must be failed (RFC 6455, section 7.1.7): send a close frame with the reason's code, then feed nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// [`ProtocolError`](CloseReason::ProtocolError) 1002, [`InvalidData`](CloseReason::InvalidData) 1007 or
    /// [`TooLarge`](CloseReason::TooLarge) 1009.
    pub reason: CloseReason,
    /// What exactly was wrong; fits a close frame.
    pub detail: &'static str,
}

impl Failure {
    /// 1002: the peer broke RFC 6455 or 7692.
    #[cold]
    pub const fn protocol(detail: &'static str) -> Self {
        Failure { reason: CloseReason::ProtocolError, detail }
    }

    /// 1007: text that is not UTF-8, or data that does not inflate.
    #[cold]
    pub const fn invalid(detail: &'static str) -> Self {
        Failure { reason: CloseReason::InvalidData, detail }
    }

    /// 1009: a message over its limit.
    #[cold]
    pub const fn too_large() -> Self {
        Failure { reason: CloseReason::TooLarge, detail: "message too big" }
    }
}

/// Reads the payload of a close frame: nothing, or a code and a reason.
///
/// # Errors
///
/// One byte only, a code that may not be on the wire, or a reason that is not UTF-8.
pub fn parse(payload: &[u8]) -> Result<Option<(u16, &str)>, Failure> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Failure::protocol("close payload of one byte")) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid_code(code) {
        return Err(Failure::protocol("invalid close code"));
    }
    let reason = utf8::text(reason).map_err(|utf8::Invalid| Failure::invalid("close reason is not UTF-8"))?;
    Ok(Some((code, reason)))
}

/// Whether a peer may send this close code: those that RFC 6455 and the IANA registry define for the wire, and 3000–4999.
pub fn is_valid_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected = Result<Option<(u16, &'static str)>, CloseReason>;

    #[test]
    fn payloads() {
        let protocol = Err(CloseReason::ProtocolError);
        let table: [(&[u8], Expected); 20] = [
            (b"", Ok(None)),
            (b"\x03", protocol),
            (b"\x03\xe8", Ok(Some((1000, "")))),
            (b"\x03\xe8bye", Ok(Some((1000, "bye")))),
            (b"\x03\xf3", Ok(Some((1011, "")))),
            (b"\x03\xf6", Ok(Some((1014, "")))),
            (b"\x0b\xb8", Ok(Some((3000, "")))),
            (b"\x13\x87", Ok(Some((4999, "")))),
            (b"\x00\x00", protocol),
            (b"\x03\xe7", protocol),
            (b"\x03\xec", protocol),
            (b"\x03\xed", protocol),
            (b"\x03\xee", protocol),
            (b"\x03\xf7", protocol),
            (b"\x03\xf8", protocol),
            (b"\x07\xd0", protocol),
            (b"\x0b\xb7", protocol),
            (b"\x13\x88", protocol),
            (b"\xff\xff", protocol),
            (b"\x03\xe8\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80", Err(CloseReason::InvalidData)),
        ];
        for (payload, expect) in table {
            assert_eq!(parse(payload).map_err(|f| f.reason), expect, "{payload:x?}");
        }
    }
}

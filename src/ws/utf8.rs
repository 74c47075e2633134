//! UTF-8 validation of text that arrives in pieces (RFC 6455, section 8.1): wrong bytes are found as soon as they are there.

use std::str::Utf8Error;

/// Goes on validating `bytes`, of which the first `validated` are known to be whole, right characters. Returns the new number of such
/// bytes: less than all of them where the last character is not complete yet (at most 3 bytes are looked at again next time).
///
/// # Errors
///
/// The bytes can never become UTF-8, whatever follows.
pub fn advance(bytes: &[u8], validated: usize) -> Result<usize, Invalid> {
    let fresh = bytes.get(validated..).unwrap_or_default();
    match simdutf8::compat::from_utf8(fresh) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(validated + error.valid_up_to()),
        Err(_) => Err(Invalid),
    }
}

/// The text of bytes that are complete.
///
/// # Errors
///
/// They are not UTF-8.
#[inline]
pub fn text(bytes: &[u8]) -> Result<&str, Invalid> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Invalid)
}

/// Not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl From<Utf8Error> for Invalid {
    fn from(_: Utf8Error) -> Self {
        Invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `bytes` one at a time; the index of the byte that made it fail, if any, and what is validated at the end.
    fn feed(bytes: &[u8]) -> Result<usize, usize> {
        let mut validated = 0;
        for end in 1..=bytes.len() {
            validated = advance(&bytes[..end], validated).map_err(|Invalid| end - 1)?;
        }
        Ok(validated)
    }

    #[test]
    fn fails_at_the_very_byte_that_is_wrong() {
        let table: [(&[u8], Result<usize, usize>); 14] = [
            (b"", Ok(0)),
            (b"plain", Ok(5)),
            ("κόσμε".as_bytes(), Ok(10)),
            (b"\xce", Ok(0)),
            (b"a\xf0\x9f\x98", Ok(1)),
            (b"\x80", Err(0)),
            (b"ok\xc0\x80", Err(2)),
            (b"\xe0\x80\x80", Err(1)),
            (b"\xed\xa0\x80", Err(1)),
            (b"\xf4\x90\x80\x80", Err(1)),
            (b"\xf8\x88\x80\x80\x80", Err(0)),
            (b"\xce\xba\xf4\x8f\xbf\xbf\xff", Err(6)),
            (b"\xe1\xa0\xc0", Err(2)),
            (b"\xfe", Err(0)),
        ];
        for (bytes, expect) in table {
            assert_eq!(feed(bytes), expect, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_std_however_cut(bytes in prop_oneof![any::<Vec<u8>>(), ".*".prop_map(String::into_bytes)]) {
            let expect = std::str::from_utf8(&bytes);
            match feed(&bytes) {
                Ok(validated) => match expect {
                    Ok(_) => prop_assert_eq!(validated, bytes.len()),
                    Err(e) => {
                        prop_assert!(e.error_len().is_none());
                        prop_assert_eq!(validated, e.valid_up_to());
                    }
                },
                Err(_) => prop_assert!(expect.unwrap_err().error_len().is_some()),
            }
        }
    }
}

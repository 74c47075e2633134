//! The signature of a webhook: whoever has the secret can tell that this node sent it, and when.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// `t=UNIX,v1=HEX`: the HMAC-SHA256 (RFC 2104) of `UNIX.BODY`. The time is part of it, so that an old request cannot be sent again.
pub(super) fn signature(secret: &str, unix_s: u64, body: &[u8]) -> String {
    // A key of any length is right for HMAC.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{unix_s}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={unix_s},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with: printf '5.{}' | openssl dgst -sha256 -hmac secret
    #[test]
    fn agrees_with_openssl() {
        let expected = "f18d2fcd9a24151471e3e2d71bc7ce901fb7b89b341918a08f95e9ffc497ea26";
        assert_eq!(signature("secret", 5, b"{}"), format!("t=5,v1={expected}"));
    }
}

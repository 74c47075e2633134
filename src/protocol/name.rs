//! Names of users, rooms and channels.

use crate::limits::NAME_BYTES_MAX;

/// The user that nobody can be and nothing can be sent to: its Redis channel carries the presence events.
pub const RESERVED_USER: &str = "events";

/// Whether `name` may name a user, a room or a channel: 1 to [`NAME_BYTES_MAX`] bytes without control characters (Unicode category Cc).
///
/// That a user is not called [`RESERVED_USER`] is for the caller to ask, as rooms and channels may be.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !has_control(name)
}

/// Whether `name` may name a user.
pub fn valid_user(name: &str) -> bool {
    valid_name(name) && name != RESERVED_USER
}

/// Whether `text` holds a control character: C0, DEL or C1.
pub(super) fn has_control(text: &str) -> bool {
    let (mut control, mut ascii) = (false, true);
    for byte in text.bytes() {
        control |= byte < 0x20 || byte == 0x7f;
        ascii &= byte < 0x80;
    }
    control || (!ascii && text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_1_to_128_bytes_without_control_characters() {
        let longest = "x".repeat(128);
        let longest_wide = "é".repeat(64);
        for good in ["a", " ", "events", "team-7/β", "a\"b\\c", "*", "\u{a0}", "\u{200d}", &longest, &longest_wide] {
            assert!(valid_name(good), "{good:?}");
        }
        let too_long = "x".repeat(129);
        let too_long_wide = "é".repeat(65);
        for bad in ["", "\n", "a\0", "\u{7f}", "a\u{80}", "\u{9f}b", &too_long, &too_long_wide] {
            assert!(!valid_name(bad), "{bad:?}");
        }
    }
}

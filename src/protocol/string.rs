//! JSON strings (RFC 8259, section 7): escaping, and what was escaped.

/// Appends a quoted string, escaped where RFC 8259 says it must be (section 7).
pub(super) fn push_quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_prefix(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        escape(out, *byte);
        rest = after;
    }
    out.push(b'"');
}

#[cold]
fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let hex = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// The bytes that [`push_quoted`] appends.
pub(super) fn quoted_len(text: &str) -> usize {
    let extra = |byte: u8| match byte {
        b'"' | b'\\' | 0x08 | 0x0c | b'\n' | b'\r' | b'\t' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    let bytes = text.as_bytes();
    let special = bytes.get(plain_prefix(bytes)..).unwrap_or_default();
    2 + bytes.len() + special.iter().map(|byte| extra(*byte)).sum::<usize>()
}

/// How many bytes at the front of `bytes` stand for themselves in a JSON string: no quote, no backslash, no control character.
#[inline]
pub(super) fn plain_prefix(bytes: &[u8]) -> usize {
    #[inline(always)]
    fn special(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }
    // Most strings are names: they end within the first words, before a block would pay.
    let (words, _) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words.iter().take(2) {
        let hits = special_in_word(u64::from_le_bytes(*word));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    // Whole blocks without a branch inside: this becomes SIMD.
    let (blocks, _) = bytes.get(at..).unwrap_or_default().as_chunks::<32>();
    for block in blocks {
        if block.iter().fold(false, |any, &byte| any | special(byte)) {
            break;
        }
        at += 32;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let (words, _) = rest.as_chunks::<8>();
    for word in words {
        let hits = special_in_word(u64::from_le_bytes(*word));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| special(byte)).unwrap_or(rest.len())
}

/// The top bit of each special byte, right for the lowest one (a borrow can only reach bytes above it).
#[inline(always)]
fn special_in_word(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word;
    (below(word, 0x20) | below(quote, 1) | below(backslash, 1)) & TOPS
}

/// Resolves the escapes of a well-formed string. `None`: half a surrogate pair.
#[cold]
pub(super) fn unescape(inner: &str) -> Option<String> {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        let decoded = match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (decoded, len) = unescape_unicode(escape)?;
                out.push(decoded);
                rest = escape.get(len..)?;
                continue;
            }
            itself => itself,
        };
        out.push(decoded);
        rest = chars.as_str();
    }
    out.push_str(rest);
    Some(out)
}

/// The character of `u1234` or `ud83d\ude00` at the front of `escape`, and how long that was.
fn unescape_unicode(escape: &str) -> Option<(char, usize)> {
    let unit = |at: usize| u32::from_str_radix(escape.get(at..at + 4)?, 16).ok();
    let first = unit(1)?;
    if !(0xd800..0xe000).contains(&first) {
        return Some((char::from_u32(first)?, 5));
    }
    if first >= 0xdc00 || escape.get(5..7)? != "\\u" {
        return None;
    }
    let second = unit(7)?.checked_sub(0xdc00).filter(|&low| low < 0x400)?;
    Some((char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)?, 11))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_surrogate_pairs_are_no_characters() {
        for bad in [r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud800x", r"\ud83d\n", r"a\udfff\udfffb", r"\ud83d\u0041"]
        {
            assert_eq!(unescape(bad), None, "{bad}");
        }
        assert_eq!(
            unescape(r#"\ud83d\ude00\"\\\/\b\f\n\r\t\u00e9\uFFFFz"#).unwrap(),
            "😀\"\\/\u{8}\u{c}\n\r\té\u{ffff}z"
        );
    }

    #[test]
    fn every_special_byte_is_found_at_every_place() {
        for len in 0..80 {
            let mut bytes = vec![b'x'; len];
            assert_eq!(plain_prefix(&bytes), len);
            for at in 0..len {
                for special in [0, 0x1f, b'"', b'\\', b'\n'] {
                    bytes[at] = special;
                    // Whatever stands behind it, and what only nearly is special.
                    for neighbour in [b'x', 0x20, b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff, b'"', 0] {
                        if let Some(byte) = bytes.get_mut(at + 1) {
                            *byte = neighbour;
                        }
                        assert_eq!(plain_prefix(&bytes), at);
                    }
                    if let Some(byte) = bytes.get_mut(at + 1) {
                        *byte = b'x';
                    }
                }
                bytes[at] = [0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xff][at % 8];
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back_by_us_and_by_serde_json(text in "(?s).{0,100}", controls in "[\\x00-\\x22\\x5c]{0,40}") {
            for text in [format!("{text}{controls}"), format!("{controls}{text}")] {
                let mut out = Vec::new();
                push_quoted(&mut out, &text);
                prop_assert_eq!(out.len(), quoted_len(&text));
                let quoted = std::str::from_utf8(&out).unwrap();
                prop_assert_eq!(&serde_json::from_str::<String>(quoted).unwrap(), &text);
                prop_assert_eq!(unescape(&quoted[1..quoted.len() - 1]).unwrap(), text);
            }
        }

        #[test]
        fn unescape_agrees_with_serde_json(inner in r#"([a-zé]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|\\ud[89ab]0[0-9]\\ud[c-f]0[0-9]){0,12}"#) {
            let expected = serde_json::from_str::<String>(&format!("\"{inner}\"")).ok();
            prop_assert_eq!(unescape(&inner), expected);
        }
    }
}

//! Durations and sizes as people write them.

const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// The milliseconds of `"30s"`, `"500ms"`, `"5m"`, `"1h"` or `"0"`; `None` where `text` is nothing of the kind or too large.
///
/// Only `0` needs no unit: a bare `30` would be seconds to one reader and milliseconds to the next.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return (number == 0).then_some(0);
    }
    let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// The shortest text that [`parse_duration_ms`] reads as `ms`.
pub(super) fn show_duration_ms(ms: u64) -> String {
    if ms == 0 {
        return "0".to_owned();
    }
    let unit = DURATION_UNITS.iter().find(|(_, factor)| ms.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{ms}ms"), |(name, factor)| format!("{}{name}", ms / factor))
}

/// The bytes of `"64KiB"`, `"1MiB"`, `"16KB"` or a plain number; units in any case.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor)
}

/// A text that [`parse_size`] reads as `bytes`; in binary units where they fit exactly.
pub(super) fn show_size(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().take(3).find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// A number and the unit behind it, which may be set off by a blank.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let table = [
            ("30s", Some(30_000)),
            ("500ms", Some(500)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            (" 2 s ", Some(2000)),
            ("30", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1d", None),
            ("1S", None),
            ("18446744073709551615ms", Some(u64::MAX)),
            ("18446744073709551615s", None),
            ("18446744073709551616ms", None),
        ];
        for (text, expect) in table {
            assert_eq!(parse_duration_ms(text), expect, "{text}");
        }
        for ms in [0, 1, 999, 1000, 1500, 60_000, 61_000, 3_600_000, 5_400_000] {
            assert_eq!(parse_duration_ms(&show_duration_ms(ms)), Some(ms));
        }
        assert_eq!(show_duration_ms(300_000), "5m");
        assert_eq!(show_duration_ms(90_000), "90s");
    }

    #[test]
    fn sizes() {
        let table = [
            ("65536", Some(65_536)),
            ("64KiB", Some(65_536)),
            ("64 kib", Some(65_536)),
            ("16KB", Some(16_000)),
            ("1MiB", Some(1 << 20)),
            ("2MB", Some(2_000_000)),
            ("1GiB", Some(1 << 30)),
            ("1gb", Some(1_000_000_000)),
            ("12B", Some(12)),
            ("0", Some(0)),
            ("K", None),
            ("1K", None),
            ("1.5MiB", None),
            ("-1", None),
            ("", None),
            ("18446744073709551615GiB", None),
        ];
        for (text, expect) in table {
            assert_eq!(parse_size(text), expect, "{text}");
        }
        for bytes in [0, 1, 1000, 1024, 1536, 1 << 20, 3 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
        assert_eq!(show_size(65_536), "64KiB");
        assert_eq!(show_size(500_000), "500000");
    }
}

//! How much one connection may send: a sliding window of one second over messages and bytes, in 16 bytes.
//!
//! Two aligned seconds are counted, this one and the one before, and the count of the one before is weighed by how much of it the last
//! 1000 ms still cover: at millisecond `e` of this second `previous × (999 − e) / 1000 + current`. While that is below the limit the next
//! message is admitted, unless it would lead this second's own count above it. So, for a limit `L` (of messages or of bytes alike):
//!
//! * in an aligned second (of the clock that is passed in) never more than `L` is admitted, in `n` consecutive ones never more than `n·L`;
//! * over *any* 1000 ms at most `2·L` is, and only by a burst of `L` at the end of a second and then a steady rate of `L` per second: the
//!   weighing takes the second before to have been even. Right after a burst nothing is admitted, and after it only as its weight goes;
//! * nothing is refused unless at least `L` (with the refused message) came since the beginning of the second before; an even stream of
//!   up to `L` per second is always admitted.
//!
//! What is refused does not count towards the limit. It counts as a *strike*: see [`RateWindow::keeps_on`].

/// What a connection may send per second; 0 switches a limit off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Messages. More than 65,535 counts as 65,535.
    pub messages: u32,
    /// Bytes of messages. A single message above it is never admitted.
    pub bytes: u32,
}

/// The verdict on one message.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Within the limits, and counted.
    Ok,
    /// Too many messages: `rate_limit_messages`.
    OverMessages,
    /// Too many bytes: `rate_limit_bytes`.
    OverBytes,
}

/// The sliding window of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateWindow {
    /// The second counted in `messages` and `bytes`, modulo 2^16. A connection that comes back after exactly a multiple of 18.2 hours
    /// meets its old counts for a second or two: worth the two bytes.
    second: u16,
    messages: u16,
    messages_before: u16,
    strikes: u16,
    bytes: u32,
    bytes_before: u32,
}

const _: () = assert!(size_of::<RateWindow>() <= 16);

/// Strikes that close a connection where no limit on messages says how many.
const STRIKES_DEFAULT: u32 = 50;

impl RateWindow {
    /// Judges a message of `bytes` that arrived at `now_ms` of a clock that does not step back, and counts it when it is admitted.
    pub fn admit(&mut self, now_ms: u64, bytes: usize, limits: &RateLimits) -> Admit {
        self.roll(now_ms / 1000, limits);
        let weight = 999 - now_ms % 1000;
        let messages_max = u64::from(limits.messages).min(u64::from(u16::MAX));
        if messages_max != 0 {
            let used = u64::from(self.messages_before) * weight + u64::from(self.messages) * 1000;
            if used >= messages_max * 1000 {
                return self.strike(Admit::OverMessages);
            }
        }
        if limits.bytes != 0 {
            let used = u64::from(self.bytes_before) * weight + u64::from(self.bytes) * 1000;
            let with_this = u64::from(self.bytes).saturating_add(bytes as u64);
            // By the weighing alone a stream of big messages would be refused one message below the limit.
            if used >= u64::from(limits.bytes) * 1000 || with_this > u64::from(limits.bytes) {
                return self.strike(Admit::OverBytes);
            }
        }
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        Admit::Ok
    }

    /// Whether so much was refused that the connection is to be closed (4113): as many strikes as messages are allowed per second.
    ///
    /// Each second forgives a tenth of that number. So a burst costs its excess only, a flood ends within its first second or two, and
    /// whoever stays a tenth or more above the limit is closed in the end.
    pub fn keeps_on(&self, limits: &RateLimits) -> bool {
        u32::from(self.strikes) >= strikes_max(limits)
    }

    fn strike(&mut self, verdict: Admit) -> Admit {
        self.strikes = self.strikes.saturating_add(1);
        verdict
    }

    fn roll(&mut self, second: u64, limits: &RateLimits) {
        // Truncation is meant: seconds are compared modulo 2^16.
        let elapsed = (second as u16).wrapping_sub(self.second);
        if elapsed == 0 {
            return;
        }
        self.second = second as u16;
        let before = if elapsed == 1 { (self.messages, self.bytes) } else { (0, 0) };
        (self.messages_before, self.bytes_before) = before;
        (self.messages, self.bytes) = (0, 0);
        let forgiven = u64::from(elapsed) * u64::from((strikes_max(limits) / 10).max(1));
        self.strikes = self.strikes.saturating_sub(u16::try_from(forgiven).unwrap_or(u16::MAX));
    }
}

fn strikes_max(limits: &RateLimits) -> u32 {
    match limits.messages {
        0 => STRIKES_DEFAULT,
        messages => messages.min(u32::from(u16::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: RateLimits = RateLimits { messages: 50, bytes: 512 * 1024 };

    #[test]
    fn an_even_stream_at_the_limit_is_never_refused() {
        for per_second in [1, 10, 49, 50] {
            let limits = RateLimits { messages: per_second, bytes: per_second * 100 };
            let mut window = RateWindow::default();
            for i in 0..u64::from(per_second) * 20 {
                let now_ms = 777 + i * 1000 / u64::from(per_second);
                assert_eq!(window.admit(now_ms, 99, &limits), Admit::Ok, "{per_second}/s, message {i}");
            }
        }
    }

    #[test]
    fn verdicts() {
        let big = 64 * 1024;
        // (limits, messages (ms, bytes) that are admitted, then (ms, bytes) and its verdict)
        type Case = (RateLimits, Vec<(u64, usize)>, (u64, usize), Admit);
        let cases: Vec<Case> = vec![
            (LIMITS, vec![(5_000, 10); 49], (5_999, 10), Admit::Ok),
            (LIMITS, vec![(5_000, 10); 50], (5_999, 10), Admit::OverMessages),
            (LIMITS, vec![(5_999, 10); 50], (6_000, 10), Admit::Ok),
            (LIMITS, vec![(5_999, 10); 50], (7_000, 10), Admit::Ok),
            (LIMITS, vec![(5_000, big); 8], (5_001, 1), Admit::OverBytes),
            (LIMITS, vec![(5_000, big); 7], (5_001, big), Admit::Ok),
            (LIMITS, vec![(5_000, big); 8], (6_000, big * 8), Admit::Ok),
            (LIMITS, vec![(5_000, big); 8], (6_000, big * 9), Admit::OverBytes),
            (LIMITS, [vec![(5_000, big); 8], vec![(6_500, big * 4)]].concat(), (6_501, big), Admit::Ok),
            (LIMITS, [vec![(5_000, big); 8], vec![(6_500, big * 5)]].concat(), (6_501, big), Admit::OverBytes),
            (LIMITS, vec![], (0, 512 * 1024 + 1), Admit::OverBytes),
            (LIMITS, vec![], (0, usize::MAX), Admit::OverBytes),
            (RateLimits::default(), vec![(1, usize::MAX); 70_000], (1, usize::MAX), Admit::Ok),
            (RateLimits { messages: u32::MAX, bytes: 0 }, vec![(1, 1); 65_535], (1, 1), Admit::OverMessages),
        ];
        for (i, (limits, before, (now_ms, bytes), expected)) in cases.into_iter().enumerate() {
            let mut window = RateWindow::default();
            for (now_ms, bytes) in before {
                assert_eq!(window.admit(now_ms, bytes, &limits), Admit::Ok, "case {i}");
            }
            assert_eq!(window.admit(now_ms, bytes, &limits), expected, "case {i}");
        }
    }

    #[test]
    fn who_keeps_on_is_closed_and_who_bursts_is_not() {
        // (messages per second, the second in which it is closed)
        for (per_second, closed_in) in [(50, None), (54, None), (60, Some(2..20)), (1000, Some(0..1))] {
            let mut window = RateWindow::default();
            let closed = (0..60 * per_second).find(|i| {
                let _ = window.admit(i * 1000 / per_second, 10, &LIMITS);
                window.keeps_on(&LIMITS)
            });
            let second = closed.map(|i| i / per_second);
            match closed_in {
                None => assert_eq!(second, None, "{per_second}/s"),
                Some(range) => assert!(second.is_some_and(|s| range.contains(&s)), "{per_second}/s: {second:?}"),
            }
        }
        let mut window = RateWindow::default();
        for minute in 0..10 {
            for _ in 0..90 {
                let _ = window.admit(minute * 60_000, 10, &LIMITS);
            }
            assert!(!window.keeps_on(&LIMITS), "a burst of 90 every minute");
        }
    }

    proptest! {
        /// Against an exact log of what was admitted, when and how big.
        #[test]
        fn stays_within_its_documented_error(
            arrivals in prop::collection::vec((prop_oneof![6 => 0u64..20, 1 => 0u64..2500], 1usize..400), 1..600),
            messages in 1u32..40,
            bytes in 400u32..5000,
        ) {
            let limits = RateLimits { messages, bytes };
            let (mut window, mut now_ms, mut log) = (RateWindow::default(), 3_456u64, Vec::<(u64, usize)>::new());
            for (wait, size) in arrivals {
                now_ms += wait;
                let verdict = window.admit(now_ms, size, &limits);
                let since = |from: u64| {
                    let it = log.iter().rev().take_while(move |&&(at, _)| at >= from);
                    it.fold((1, size), |(n, b), &(_, more)| (n + 1, b + more))
                };
                let (n, b) = since((now_ms / 1000).saturating_sub(1) * 1000);
                match verdict {
                    Admit::OverMessages => prop_assert!(n > messages as usize, "refused message {} of two seconds", n),
                    Admit::OverBytes => prop_assert!(b > bytes as usize, "refused byte {} of two seconds", b),
                    Admit::Ok => {
                        let (aligned_n, aligned_b) = since(now_ms / 1000 * 1000);
                        prop_assert!(aligned_n <= messages as usize && aligned_b <= bytes as usize, "aligned second");
                        let (any_n, any_b) = since((now_ms + 1).saturating_sub(1000));
                        prop_assert!(any_n <= 2 * messages as usize && any_b <= 2 * bytes as usize, "any 1000 ms");
                        log.push((now_ms, size));
                    }
                }
            }
        }
    }
}

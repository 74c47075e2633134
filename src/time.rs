//! Time as a value: the pure code is told what time it is, by its caller.

/// One reading of the clocks, taken once per turn of a shard and passed to everything that decides by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never steps back (CLOCK_MONOTONIC), from an arbitrary start.
    pub mono_ms: u64,
    /// Milliseconds on a clock that never steps back and runs on while the machine sleeps (CLOCK_BOOTTIME): for leases only.
    pub boot_ms: u64,
    /// Milliseconds since the Unix epoch (CLOCK_REALTIME): for timestamps and token expiry only; it may step.
    pub unix_ms: u64,
    /// Microseconds past `mono_ms`, 0 to 999: what deadlines do not need and latencies do.
    pub sub_us: u16,
}

impl Now {
    /// Microseconds on the clock of `mono_ms`.
    pub fn mono_us(self) -> u64 {
        self.mono_ms * 1000 + u64::from(self.sub_us)
    }

    /// Whole seconds since the Unix epoch, as JWT claims count (RFC 7519, NumericDate).
    pub fn unix_s(self) -> u64 {
        self.unix_ms / 1000
    }
}

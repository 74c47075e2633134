//! The clocks and the tick, read here and nowhere below.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::limits::TICK_MS;
use crate::time::Now;

/// One reading of the clocks.
pub fn now() -> Now {
    let monotonic = clock_gettime(ClockId::Monotonic);
    let sub_us = (monotonic.tv_nsec as u64 / 1000 % 1000) as u16;
    Now {
        mono_ms: millis(monotonic),
        boot_ms: millis(clock_gettime(ClockId::Boottime)),
        unix_ms: millis(clock_gettime(ClockId::Realtime)),
        sub_us,
    }
}

fn millis(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// The monotonic clock in microseconds, for what is measured and not decided by.
pub fn mono_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// A timer that becomes readable every [`TICK_MS`].
#[derive(Debug)]
pub struct Ticker(OwnedFd);

impl Ticker {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let period = Timespec { tv_sec: (TICK_MS / 1000) as i64, tv_nsec: (TICK_MS % 1000 * 1_000_000) as _ };
        let spec = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &spec)?;
        Ok(Ticker(fd))
    }

    /// Takes the ticks since the last call. Without this the timer does not go on: its next period begins here.
    pub fn take(&self) -> u64 {
        let mut ticks = [0; 8];
        match rustix::io::read(&self.0, &mut ticks) {
            Ok(8) => u64::from_ne_bytes(ticks),
            Ok(_) | Err(_) => 0,
        }
    }

    /// What becomes readable.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

//! One line on the terminal that says how it goes.

use std::io::{IsTerminal, Write as _, stderr};
use std::time::{Duration, Instant};

use crate::server::Usage;
use crate::stats::Tally;

const EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Progress {
    enabled: bool,
    last: Option<(Instant, u64, u64)>,
}

impl Progress {
    pub(crate) fn new(json: bool) -> Progress {
        Progress { enabled: !json && stderr().is_terminal(), last: None }
    }

    pub(crate) fn show(&mut self, what: &str, passed: Duration, tally: &Tally, server: Usage) {
        if !self.enabled || self.last.is_some_and(|(at, ..)| at.elapsed() < EVERY) {
            return;
        }
        let (rate, cpu) = match self.last {
            Some((at, delivered, cpu_ns)) => {
                let seconds = at.elapsed().as_secs_f64();
                let cores = server.cpu_ns.saturating_sub(cpu_ns) as f64 / 1e9 / seconds;
                (tally.delivered.saturating_sub(delivered) as f64 / seconds, cores * 100.0)
            }
            None => (0.0, 0.0),
        };
        self.last = Some((Instant::now(), tally.delivered, server.cpu_ns));
        let _ = write!(
            stderr(),
            "\r\x1b[K{what} {:.1} s · {} connected · {} delivered ({rate:.0}/s), {} under way · server {cpu:.0} % CPU, {:.1} MB",
            passed.as_secs_f64(),
            tally.ready,
            tally.delivered,
            tally.outstanding(),
            server.rss as f64 / 1e6,
        );
    }

    pub(crate) fn clear(&mut self) {
        if self.enabled {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

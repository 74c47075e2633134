//! A small timer: nanoseconds of CPU per call, as the median and the best of some samples.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const SAMPLES: usize = 15;
const SAMPLE_TIME: Duration = Duration::from_millis(20);

/// Runs what the command line asks for.
pub(crate) struct Bench {
    filter: Option<String>,
}

impl Bench {
    /// `cargo bench --bench micro -- [FILTER]`
    pub(crate) fn from_arguments() -> Bench {
        Bench { filter: std::env::args().skip(1).find(|argument| !argument.starts_with('-')) }
    }

    pub(crate) fn group(&self, name: &str) {
        if self.filter.as_deref().is_none_or(|filter| name.contains(filter)) {
            println!("{name}");
        }
    }

    /// Times `call`, which does `units` of what is being measured and touches `bytes` bytes in doing so.
    pub(crate) fn run<T>(&self, group: &str, name: &str, units: u64, bytes: u64, mut call: impl FnMut() -> T) {
        if self.filter.as_deref().is_some_and(|filter| !group.contains(filter)) {
            return;
        }
        let mut calls = 1u64;
        loop {
            let spent = time(calls, &mut call);
            if spent >= SAMPLE_TIME / 2 {
                calls = (calls as f64 * SAMPLE_TIME.as_secs_f64() / spent.as_secs_f64()).ceil() as u64;
                break;
            }
            calls *= 2;
        }
        let mut samples: Vec<f64> =
            (0..SAMPLES).map(|_| time(calls, &mut call).as_nanos() as f64 / (calls * units) as f64).collect();
        samples.sort_by(f64::total_cmp);
        let (best, median) = (samples[0], samples[SAMPLES / 2]);
        let rate =
            if bytes > 0 { format!("{:>8.2} GB/s", bytes as f64 / units as f64 / median) } else { String::new() };
        println!("  {name:<52} {median:>10.1} ns  (best {best:>8.1}) {rate}");
    }
}

/// CPU time of this thread: what else the machine does does not count.
fn time<T>(calls: u64, call: &mut impl FnMut() -> T) -> Duration {
    let began = cpu_time();
    for _ in 0..calls {
        black_box(call());
    }
    cpu_time().saturating_sub(began)
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

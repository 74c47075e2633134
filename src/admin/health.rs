//! Whether each shard answers: a probe goes through its real mesh and loop, again and again, one at a time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::ids::ShardId;
use crate::io::clock;
use crate::io::desk::Desk;
use crate::protocol::command::{Command, Outcome};

/// Between an answer and the next probe.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a shard may take to turn its loop before the node is not ready.
const STALLED_MS: u64 = 2_000;

/// What is known of one shard.
#[derive(Debug, Default)]
struct Pulse {
    /// A probe is under way since then.
    asked_ms: Cell<Option<u64>>,
    /// How long the last one took.
    took_ms: Cell<u64>,
}

/// What is known of all shards.
#[derive(Debug)]
pub(super) struct Pulses(Vec<Pulse>);

/// Whether the node should get traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    Starting,
    Draining,
    /// These shards have not turned their loop in time.
    Stalled(Vec<usize>),
}

impl Pulses {
    pub(super) fn new(shards: usize) -> Rc<Self> {
        Rc::new(Pulses((0..shards).map(|_| Pulse::default()).collect()))
    }

    /// Probes every shard for as long as the runtime lives.
    pub(super) fn start(self: &Rc<Self>, desk: &Rc<Desk>) {
        for shard in 0..self.0.len() {
            let (pulses, desk) = (self.clone(), desk.clone());
            monoio::spawn(async move {
                loop {
                    pulses.ask(shard, &desk).await;
                    monoio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    async fn ask(&self, shard: usize, desk: &Rc<Desk>) {
        let Some(pulse) = self.0.get(shard) else { return };
        let asked_ms = clock::now().mono_ms;
        pulse.asked_ms.set(Some(asked_ms));
        // Busy is no answer of the shard's: it stays asked.
        if let Outcome::Probed = desk.call(Command::Probe { shard: ShardId(shard as u16) }).await {
            pulse.took_ms.set(clock::now().mono_ms.saturating_sub(asked_ms));
            pulse.asked_ms.set(None);
        }
    }

    /// How long each shard took to answer last, or has not answered for now, in milliseconds.
    pub(super) fn ages_ms(&self, now_ms: u64) -> Vec<u64> {
        let age = |pulse: &Pulse| match pulse.asked_ms.get() {
            Some(asked_ms) => now_ms.saturating_sub(asked_ms).max(pulse.took_ms.get()),
            None => pulse.took_ms.get(),
        };
        self.0.iter().map(age).collect()
    }

    pub(super) fn readiness(&self, started: bool, draining: bool, now_ms: u64) -> Readiness {
        let overdue = |pulse: &Pulse| pulse.asked_ms.get().is_some_and(|at| now_ms.saturating_sub(at) > STALLED_MS);
        let stalled: Vec<usize> = (0..self.0.len()).filter(|shard| overdue(&self.0[*shard])).collect();
        match (started, draining, stalled.is_empty()) {
            (_, true, _) => Readiness::Draining,
            (false, false, _) => Readiness::Starting,
            (true, false, false) => Readiness::Stalled(stalled),
            (true, false, true) => Readiness::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_does_not_answer_makes_the_node_unready() {
        let pulses = Pulses::new(2);
        pulses.0[0].took_ms.set(5);
        pulses.0[1].asked_ms.set(Some(1_000));
        let readiness = |started, draining, now_ms| pulses.readiness(started, draining, now_ms);
        assert_eq!(readiness(true, false, 3_000), Readiness::Ready);
        assert_eq!(readiness(true, false, 3_001), Readiness::Stalled(vec![1]));
        assert_eq!(readiness(false, false, 0), Readiness::Starting);
        assert_eq!(readiness(true, true, 9_000), Readiness::Draining);
        assert_eq!(pulses.ages_ms(1_500), [5, 500]);
    }
}

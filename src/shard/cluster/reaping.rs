//! Cleaning up after nodes that died: their rows, in bounded steps, then their leases.
//!
//! With the last row of a user the registry tells services that the user is gone, in the name of the node that died; who has come back
//! elsewhere meanwhile never was.

use std::rc::Rc;

use crate::cluster::wire::{Grave, Outgoing};
use crate::ids::ShardId;
use crate::shard::Shard;
use crate::time::Now;

/// How long one step of cleaning up may take.
const STEP_MS: u64 = 5_000;

/// Which dead node is cleaned up.
#[derive(Debug)]
pub(super) struct Reaper {
    /// This shard cleans up for the node.
    reaps: bool,
    reaping: Option<Reaping>,
}

/// The cleaning up after one dead node, one shard of it at a time.
#[derive(Debug)]
struct Reaping {
    grave: Grave,
    shards: u16,
    step: Step,
    since_ms: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Ask for some users.
    Sample,
    /// They are asked for.
    Sampling,
    /// So many rows are being deleted.
    Removing(usize),
}

impl Reaper {
    pub(super) fn new(reaps: bool) -> Self {
        Reaper { reaps, reaping: None }
    }
}

impl Shard {
    /// One step of cleaning up after a dead node, where one is due.
    pub(super) fn reap(&mut self, now: Now) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.reaper.reaps) else { return };
        if !cluster.is_usable(now) {
            cluster.reaper.reaping = None;
            return;
        }
        let reaper = &mut cluster.reaper;
        reaper.reaping.take_if(|reaping| now.mono_ms >= reaping.since_ms + STEP_MS);
        if reaper.reaping.is_none()
            && let Some(standing) = cluster.agent.standing()
            && let Some((node, epoch, shards)) = cluster.nodes.to_reap(&standing.node).next()
        {
            let grave = Grave { node: node.clone(), epoch, shard: ShardId(0) };
            reaper.reaping = Some(Reaping { grave, shards, step: Step::Sample, since_ms: now.mono_ms });
        }
        if let Some(reaping) = reaper.reaping.as_mut().filter(|reaping| reaping.step == Step::Sample) {
            (reaping.step, reaping.since_ms) = (Step::Sampling, now.mono_ms);
            let grave = reaping.grave.clone();
            self.ask_bus(Outgoing::Sample { grave });
        }
    }

    /// Some users of a dead node.
    pub(super) fn grave_sampled(&mut self, grave: &Grave, users: Option<Vec<Rc<str>>>) {
        let reaping = self.cluster.as_mut().map(|cluster| &mut cluster.reaper.reaping);
        let Some(open) = reaping else { return };
        let Some(reaping) = open.as_mut().filter(|r| r.grave == *grave && r.step == Step::Sampling) else { return };
        let ask = match users {
            None => {
                *open = None;
                return;
            }
            Some(users) if !users.is_empty() => {
                reaping.step = Step::Removing(users.len());
                Outgoing::Remove { grave: grave.clone(), users }
            }
            Some(_) if reaping.grave.shard.0 + 1 < reaping.shards => {
                reaping.grave.shard.0 += 1;
                Outgoing::Sample { grave: reaping.grave.clone() }
            }
            Some(_) => {
                *open = None;
                Outgoing::Bury { node: grave.node.clone(), epoch: grave.epoch }
            }
        };
        self.ask_bus(ask);
    }

    /// A row of a dead node was deleted.
    pub(super) fn dead_row_removed(&mut self, node: &Rc<str>, user: &Rc<str>) {
        self.routes_changed(std::slice::from_ref(user));
        let Some(cluster) = &mut self.cluster else { return };
        if let Some(reaping) = cluster.reaper.reaping.as_mut().filter(|reaping| reaping.grave.node == *node)
            && let Step::Removing(left) = &mut reaping.step
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                reaping.step = Step::Sample;
            }
        }
    }
}

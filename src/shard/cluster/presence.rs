//! Who comes and goes in the whole cluster, as `user:events` tells it; and cleaning up after nodes that died.
//!
//! The answer to a row write names the user's other rows: a user's first connection in the cluster is the one that finds no living row, the
//! last one is the one that leaves none. Of a node that died, whoever cleans up says so.

use std::collections::HashSet;
use std::rc::Rc;

use ahash::RandomState;

use super::publishing::Fate;
use crate::cluster::registry::Rows;
use crate::cluster::registry::wants::Op;
use crate::cluster::wire::{Grave, Outgoing};
use crate::ids::ShardId;
use crate::protocol::service::presence_event;
use crate::shard::Shard;
use crate::time::Now;

/// The channel of these events.
const USER_EVENTS: &str = "user:events";
/// How long one step of cleaning up may take.
const STEP_MS: u64 = 5_000;

/// Who is known to have come, and which dead node is cleaned up.
#[derive(Debug)]
pub(super) struct Presence {
    /// Users of this shard whose coming the registry has answered.
    come: HashSet<Rc<str>, RandomState>,
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

impl Presence {
    pub(super) fn new(reaps: bool, hasher: &RandomState) -> Self {
        Presence { come: HashSet::with_hasher(hasher.clone()), reaps, reaping: None }
    }
}

impl Shard {
    /// A row of this shard was written or deleted.
    pub(super) fn row_written(&mut self, user: &Rc<str>, op: Op, others: &Rows, now: Now) {
        self.routes_changed(std::slice::from_ref(user));
        let here = self.users.find(user).is_some();
        let Some(cluster) = &mut self.cluster else { return };
        let online = match (op, here) {
            (Op::Put, true) if cluster.presence.come.insert(user.clone()) => true,
            (Op::Delete, false) if cluster.presence.come.remove(user) => false,
            // A renewal, or the user was faster than the registry.
            _ => return,
        };
        let alone = !others.iter().any(|row| cluster.nodes.is_live(&row.node, row.epoch, now.boot_ms));
        let node = cluster.agent.standing().map(|standing| standing.node.clone());
        if let (true, Some(node)) = (alone, node) {
            self.publish_on(USER_EVENTS, Some(presence_event(online, user, &node)), Fate::Untold, now);
        }
    }

    /// One step of cleaning up after a dead node, where one is due.
    pub(super) fn reap(&mut self, now: Now) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.presence.reaps) else { return };
        if !cluster.is_usable(now) {
            cluster.presence.reaping = None;
            return;
        }
        let presence = &mut cluster.presence;
        presence.reaping.take_if(|reaping| now.mono_ms >= reaping.since_ms + STEP_MS);
        if presence.reaping.is_none()
            && let Some(standing) = cluster.agent.standing()
            && let Some((node, epoch, shards)) = cluster.nodes.to_reap(&standing.node).next()
        {
            let grave = Grave { node: node.clone(), epoch, shard: ShardId(0) };
            presence.reaping = Some(Reaping { grave, shards, step: Step::Sample, since_ms: now.mono_ms });
        }
        if let Some(reaping) = presence.reaping.as_mut().filter(|reaping| reaping.step == Step::Sample) {
            (reaping.step, reaping.since_ms) = (Step::Sampling, now.mono_ms);
            let grave = reaping.grave.clone();
            self.ask_bus(Outgoing::Sample { grave });
        }
    }

    /// Some users of a dead node.
    pub(super) fn grave_sampled(&mut self, grave: &Grave, users: Option<Vec<Rc<str>>>) {
        let reaping = self.cluster.as_mut().map(|cluster| &mut cluster.presence.reaping);
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

    /// A row of a dead node was deleted: unless the user is elsewhere, they are gone.
    pub(super) fn dead_row_removed(&mut self, node: &Rc<str>, user: &Rc<str>, others: Option<&Rows>, now: Now) {
        self.routes_changed(std::slice::from_ref(user));
        let Some(cluster) = &mut self.cluster else { return };
        if let Some(reaping) = cluster.presence.reaping.as_mut().filter(|reaping| reaping.grave.node == *node)
            && let Step::Removing(left) = &mut reaping.step
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                reaping.step = Step::Sample;
            }
        }
        let gone =
            others.is_some_and(|rows| !rows.iter().any(|row| cluster.nodes.is_live(&row.node, row.epoch, now.boot_ms)));
        if gone {
            self.publish_on(USER_EVENTS, Some(presence_event(false, user, node)), Fate::Untold, now);
        }
    }
}

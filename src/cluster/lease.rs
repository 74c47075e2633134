//! The lease under which a node lives in the cluster: without it nothing of this node counts.
//!
//! A lease is a row in Redis that ends by itself. It carries an *epoch*: a number that grows with every grant, so that whatever was written
//! under an older one is known to be stale. One node holds one lease; its shards ask [`Lease::holds`] before they act on anything that
//! the bus brings.
//!
//! * The holder counts from the moment at which it *sent* the renewal, Redis from when it came: so the holder gives up first, always.
//! * Time is CLOCK_BOOTTIME: it runs on while the process is stopped or the machine sleeps, and never steps.
//! * A lease that was lost is acquired again under a fresh epoch, and everything is announced again under that.
//! * A start takes the name over from whoever has it (a process that was killed a second ago still holds its lease). Who finds its lease in
//!   the hands of another instance has been replaced: it takes a fresh name.

use super::hash::mix;

/// How often a lease is renewed.
pub const RENEW_EVERY_MS: u64 = 3_000;
/// How long after a failed attempt the next one follows, at least; up to twice that.
pub const RETRY_MS: u64 = 250;
/// How long an attempt may stay without an answer before the next one follows.
pub const ANSWER_WITHIN_MS: u64 = 2_000;

/// What to ask Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Names this attempt; comes back with its [`Answer`].
    pub ticket: u64,
    /// The name of the node.
    pub node: Box<str>,
    /// What for.
    pub kind: Ask,
    /// With [`Ask::Acquire`]: the lease that this process held last, by name and epoch. What was written under it is to be cleaned up even
    /// where Redis has forgotten it: until that was noticed, rows were written that no lease is left to tell of.
    pub over: Option<(Box<str>, u64)>,
}

/// What a [`Command`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A new lease, under an epoch that is at least `floor` and newer than any before.
    Acquire {
        /// The least epoch that will do.
        floor: u64,
        /// Whether a living lease of another instance is replaced; otherwise it is an answer: [`Answer::Fenced`].
        take_over: bool,
    },
    /// Another time to live for the lease of this epoch.
    Renew {
        /// Which.
        epoch: u64,
    },
    /// The end of the lease of this epoch.
    Release {
        /// Which.
        epoch: u64,
    },
}

/// What Redis said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The lease is this node's under this epoch.
    Granted {
        /// The epoch.
        epoch: u64,
        /// Names what Redis remembers: another name than with the last lease says that it has forgotten everything in between.
        memory: u64,
        /// When it ends, in milliseconds of Redis's clock.
        ends_ms: u64,
    },
    /// It goes on.
    Renewed {
        /// When it ends now, in milliseconds of Redis's clock.
        ends_ms: u64,
    },
    /// It is gone.
    Released,
    /// There is no such lease any more: it ran out, or Redis has forgotten everything.
    Missing,
    /// Another instance holds the name.
    Fenced,
    /// Redis did not do it, or the answer was lost.
    Failed,
}

/// What has become of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Held under a fresh epoch: announce everything under it.
    Acquired {
        /// The epoch.
        epoch: u64,
    },
    /// Not held any more. Discard what the bus brings until it is acquired again.
    Lost {
        /// The epoch that is over.
        epoch: u64,
        /// Why.
        why: Loss,
    },
    /// Another instance has the name that this node wanted back: it goes on as `node`, once it has acquired that.
    Renamed {
        /// The fresh name.
        node: Box<str>,
    },
}

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No renewal was answered within its time.
    Expired,
    /// Redis does not know it.
    Missing,
    /// Another instance has taken the name over; [`Lease::node`] is a fresh one already.
    Fenced,
    /// Given back.
    Released,
}

impl Loss {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Expired => "expired",
            Loss::Missing => "missing",
            Loss::Fenced => "fenced",
            Loss::Released => "released",
        }
    }
}

/// The lease of this node.
#[derive(Clone, Debug)]
pub struct Lease {
    name: Box<str>,
    node: Box<str>,
    ttl_ms: u64,
    state: State,
    /// The newest epoch this process has held.
    newest_epoch: u64,
    /// What Redis remembered when it granted that.
    memory: u64,
    /// When the last lease ends, on the clock of Redis.
    ends_ms: u64,
    /// The lease that was held last, by name and epoch.
    over: Option<(Box<str>, u64)>,
    /// Whether this process has yet to take its name.
    fresh_name: bool,
    tickets: u64,
    asked: Option<Asked>,
    not_before_ms: u64,
    random: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    Held { epoch: u64, until_ms: u64, renew_at_ms: u64 },
    Leaving { epoch: u64 },
    Left,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: u64,
    ask: Ask,
    sent_ms: u64,
}

impl Lease {
    /// The lease of the node called `name`, not acquired yet. `ttl_ms` is `redis.lease_ttl`; `seed` makes fresh names and jitter.
    pub fn new(name: &str, ttl_ms: u64, seed: u64) -> Self {
        Lease {
            name: name.into(),
            node: name.into(),
            ttl_ms,
            state: State::Vacant,
            newest_epoch: 0,
            memory: 0,
            ends_ms: 0,
            over: None,
            fresh_name: true,
            tickets: 0,
            asked: None,
            not_before_ms: 0,
            random: seed,
        }
    }

    /// The name under which this node is in the cluster.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The epoch that is held at `boot_ms`, if one is.
    pub fn holds(&self, boot_ms: u64) -> Option<u64> {
        match self.state {
            State::Held { epoch, until_ms, .. } if boot_ms < until_ms => Some(epoch),
            State::Held { .. } | State::Vacant | State::Leaving { .. } | State::Left => None,
        }
    }

    /// When the lease ends if no renewal is answered (boottime); what shards compare with.
    pub fn until_ms(&self) -> Option<u64> {
        match self.state {
            State::Held { until_ms, .. } => Some(until_ms),
            State::Vacant | State::Leaving { .. } | State::Left => None,
        }
    }

    /// The name of what Redis remembers, as of the last lease that it granted.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// When the last lease that it granted ends, in milliseconds of Redis's clock: what is written under it and comes later is void.
    pub fn ends_ms(&self) -> u64 {
        self.ends_ms
    }

    /// Whether the lease has been given back.
    pub fn has_left(&self) -> bool {
        self.state == State::Left
    }

    /// What to ask Redis now, if anything. Call it on every tick while the link carries commands. `unix_ms` is where epochs start, so
    /// that they go on growing when Redis has forgotten everything.
    pub fn poll(&mut self, boot_ms: u64, unix_ms: u64) -> Option<Command> {
        if let Some(asked) = self.asked {
            if boot_ms < asked.sent_ms + ANSWER_WITHIN_MS {
                return None;
            }
            self.asked = None;
        }
        let kind = match self.state {
            _ if boot_ms < self.not_before_ms => return None,
            State::Vacant => {
                let floor = unix_ms.max(self.newest_epoch + 1);
                Ask::Acquire { floor, take_over: self.fresh_name }
            }
            State::Held { epoch, renew_at_ms, .. } if boot_ms >= renew_at_ms => Ask::Renew { epoch },
            State::Leaving { epoch } => Ask::Release { epoch },
            State::Held { .. } | State::Left => return None,
        };
        self.tickets += 1;
        self.asked = Some(Asked { ticket: self.tickets, ask: kind, sent_ms: boot_ms });
        let over = self.over.clone().filter(|_| matches!(kind, Ask::Acquire { .. }));
        Some(Command { ticket: self.tickets, node: self.node.clone(), kind, over })
    }

    /// The lease ran out? Call it on every tick.
    pub fn tick(&mut self, boot_ms: u64) -> Option<Change> {
        match self.state {
            State::Held { epoch, until_ms, .. } if boot_ms >= until_ms => Some(self.lose(epoch, Loss::Expired)),
            State::Held { .. } | State::Vacant | State::Leaving { .. } | State::Left => None,
        }
    }

    /// An answer came. Answers to attempts that were given up are ignored: what they did is found out by the next one.
    pub fn answered(&mut self, ticket: u64, answer: Answer, boot_ms: u64) -> Option<Change> {
        // An answer that comes after the end does not bring the lease back.
        if let Some(change) = self.tick(boot_ms) {
            return Some(change);
        }
        let asked = self.asked.take_if(|a| a.ticket == ticket)?;
        match (asked.ask, answer) {
            (Ask::Acquire { .. }, Answer::Granted { epoch, memory, ends_ms }) => {
                (self.memory, self.ends_ms) = (memory, ends_ms);
                self.granted(epoch, asked.sent_ms, boot_ms)
            }
            (Ask::Acquire { .. }, Answer::Fenced) => Some(self.rename()),
            (Ask::Renew { .. }, Answer::Renewed { ends_ms }) => {
                self.ends_ms = ends_ms;
                let renew = self.renew_every_ms();
                if let State::Held { until_ms, renew_at_ms, .. } = &mut self.state {
                    *until_ms = asked.sent_ms + self.ttl_ms;
                    *renew_at_ms = asked.sent_ms + renew;
                }
                None
            }
            (Ask::Renew { epoch }, Answer::Missing) => Some(self.lose(epoch, Loss::Missing)),
            (Ask::Renew { epoch }, Answer::Fenced) => {
                let lost = self.lose(epoch, Loss::Fenced);
                self.rename();
                Some(lost)
            }
            (Ask::Release { .. }, Answer::Released | Answer::Missing | Answer::Fenced) => {
                self.state = State::Left;
                None
            }
            (Ask::Acquire { .. } | Ask::Renew { .. } | Ask::Release { .. }, _) => {
                self.not_before_ms = boot_ms + self.jitter(RETRY_MS);
                None
            }
        }
    }

    /// The connection that carried the commands is gone: no answer comes any more, and the next attempt need not wait.
    pub fn link_lost(&mut self) {
        self.asked = None;
        self.not_before_ms = 0;
    }

    /// Wants a fresh epoch although this one is held: everything that was written under it is dead at once, and is announced again. It is
    /// what replaces more deletions than can be remembered.
    pub fn renounce(&mut self) -> Option<Change> {
        match self.state {
            State::Held { epoch, .. } => Some(self.lose(epoch, Loss::Released)),
            State::Vacant | State::Leaving { .. } | State::Left => None,
        }
    }

    /// The next poll asks for a renewal, if one is held.
    pub fn renew_soon(&mut self, boot_ms: u64) {
        if let State::Held { renew_at_ms, .. } = &mut self.state {
            *renew_at_ms = boot_ms.min(*renew_at_ms);
        }
    }

    /// Gives the lease back: the node ends.
    pub fn leave(&mut self) -> Option<Change> {
        let (state, change) = match self.state {
            State::Held { epoch, .. } => (State::Leaving { epoch }, Some(Change::Lost { epoch, why: Loss::Released })),
            State::Vacant => (State::Left, None),
            same @ (State::Leaving { .. } | State::Left) => (same, None),
        };
        self.state = state;
        self.asked = None;
        self.not_before_ms = 0;
        change
    }

    fn granted(&mut self, epoch: u64, sent_ms: u64, boot_ms: u64) -> Option<Change> {
        let until_ms = sent_ms + self.ttl_ms;
        self.newest_epoch = self.newest_epoch.max(epoch);
        self.over = Some((self.node.clone(), epoch));
        self.fresh_name = false;
        if self.state != State::Vacant || boot_ms >= until_ms {
            return None;
        }
        self.state = State::Held { epoch, until_ms, renew_at_ms: sent_ms + self.renew_every_ms() };
        Some(Change::Acquired { epoch })
    }

    fn lose(&mut self, epoch: u64, why: Loss) -> Change {
        self.state = State::Vacant;
        self.asked = None;
        self.not_before_ms = 0;
        Change::Lost { epoch, why }
    }

    fn rename(&mut self) -> Change {
        self.random = mix(self.random.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.node = format!("{}-{:08x}", self.name, self.random as u32).into();
        self.fresh_name = true;
        Change::Renamed { node: self.node.clone() }
    }

    /// A third of a short lease, so that two renewals may fail.
    fn renew_every_ms(&self) -> u64 {
        RENEW_EVERY_MS.min(self.ttl_ms / 3).max(1)
    }

    fn jitter(&mut self, least_ms: u64) -> u64 {
        self.random = mix(self.random.wrapping_add(0x9e37_79b9_7f4a_7c15));
        least_ms + self.random % least_ms.max(1)
    }
}

#[cfg(test)]
mod tests;

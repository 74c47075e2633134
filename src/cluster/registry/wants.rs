//! What one shard wants to be true elsewhere, and what it knows to be: location rows in Redis, or subscriptions.
//!
//! A name is wanted or not; the other side has it or not, or that is not known. Where the two differ, one write is due. So what cancels
//! out is never sent: however often a user comes and goes while a write waits or is under way, at most one more follows. Writes go out in
//! batches, by size or delay, and only while fewer than a bound are without an answer: above it they go on being merged, here, and nothing
//! piles up, because there is one entry per name.
//!
//! After a loss nothing has to be gone through: what was known belongs to a *round*, and [`Wants::distrust`] or [`Wants::start_over`] begin
//! another. A sweep then visits every entry, as fast as the bound allows, behind what clients wait for. The same sweep, at its ease,
//! renews rows before they run out.
//!
//! A name is *confirmed* while the other side is known to have had it: it said so, and nothing was sent since that may have changed it. A
//! loss takes nothing from that, since only this shard deletes what is its own; an outcome that is not known does, and so does a fresh epoch
//! under which others may have cleaned up. With it a write says whether it only repeats something, so that nobody is told of it again.

use std::collections::HashMap;
use std::rc::Rc;

use ahash::RandomState;

mod entries;

/// How writes are paced.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Writes per batch: `redis.batch_size`.
    pub batch_size: usize,
    /// How long a write waits for its batch: `redis.batch_delay`.
    pub batch_delay_ms: u64,
    /// Commands without an answer above which nothing is sent.
    pub unanswered_max: usize,
    /// How often what the other side has is written again; 0: never.
    pub renew_every_ms: u64,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The other side is to have it.
    Put,
    /// The other side is not to have it.
    Delete,
}

/// One write; to be answered by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Comes back with the answer.
    pub id: WriteId,
    /// What it does.
    pub op: Op,
    /// To what.
    pub name: Rc<str>,
    /// The other side is known to have had it. If it has it no more, it has forgotten it.
    pub confirmed: bool,
}

/// Names a [`Write`]. An answer to one that was given up finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteId {
    slot: u32,
    serial: u64,
}

impl WriteId {
    /// Larger than that of every write before it.
    pub fn serial(self) -> u64 {
        self.serial
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The other side is as it is wanted.
    Settled {
        /// What.
        name: Rc<str>,
        /// Whether the other side has it.
        present: bool,
    },
    /// It is not yet: another write follows.
    Pending,
    /// It was an answer to something given up.
    Stale,
}

/// What is wanted and what is known, for all names of one shard.
#[derive(Debug)]
pub struct Wants {
    pace: Pace,
    by_name: HashMap<Rc<str>, u32, RandomState>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Names that clients wait for, oldest first: a list through the entries, so that what has cancelled out leaves it at once.
    first: u32,
    last: u32,
    queued: usize,
    round: u32,
    /// What was known in rounds before this one is gone from the other side.
    gone_before: u32,
    serial: u64,
    answered: u64,
    sweep: Sweep,
    refused: usize,
    hold_until_ms: u64,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry {
    name: Rc<str>,
    live: bool,
    wanted: bool,
    known: Known,
    confirmed: bool,
    /// The round in which `known` and `asked` were true.
    round: u32,
    asked: Option<(Op, u64)>,
    /// The last write was refused.
    refused: bool,
    written_ms: u64,
    queued: bool,
    since_ms: u64,
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Absent,
    Present,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Everything is to be made good: where it is.
    Hurried { cursor: u32 },
    /// Everything was sent: the serial whose answer completes it.
    Awaited { serial: u64 },
    /// At its ease: where it is, how many entries it may visit in thousandths, and when that was reckoned.
    Easy { cursor: u32, credit: u64, at_ms: u64 },
}

impl Wants {
    /// Nothing is wanted, and the other side has nothing.
    pub fn new(pace: Pace, hasher: RandomState) -> Self {
        Wants {
            pace,
            by_name: HashMap::with_hasher(hasher),
            entries: Vec::new(),
            free: Vec::new(),
            first: NONE,
            last: NONE,
            queued: 0,
            round: 0,
            gone_before: 0,
            serial: 0,
            answered: 0,
            sweep: Sweep::Easy { cursor: 0, credit: 0, at_ms: 0 },
            refused: 0,
            hold_until_ms: 0,
        }
    }

    /// This is wanted from now on. Returns whether the other side has it already: then nothing has to be waited for.
    pub fn want(&mut self, name: &str, now_ms: u64) -> bool {
        let slot = self.slot(name, Known::Absent);
        self.entries[slot as usize].wanted = true;
        self.reconsider(slot, now_ms);
        let entry = &self.entries[slot as usize];
        entry.asked.is_none() && !entry.queued
    }

    /// This is not wanted any more.
    pub fn unwant(&mut self, name: &str, now_ms: u64) {
        if let Some(&slot) = self.by_name.get(name) {
            self.entries[slot as usize].wanted = false;
            self.reconsider(slot, now_ms);
        }
    }

    /// The other side turned out to have this although nobody wants it: it has forgotten a deletion. Deletes it again.
    pub fn stray(&mut self, name: &str, now_ms: u64) {
        if !self.by_name.contains_key(name) {
            let slot = self.slot(name, Known::Unknown);
            self.reconsider(slot, now_ms);
        }
    }

    /// Nothing is known any more: the connection is gone, with the answers to what was under way.
    pub fn distrust(&mut self) {
        self.round += 1;
        self.sweep = Sweep::Hurried { cursor: 0 };
        self.hold_until_ms = 0;
        // No answer comes to anything that was asked.
        self.answered = self.serial;
    }

    /// The other side has nothing any more: a new connection has no subscriptions, and under a fresh epoch no row counts; others clean up
    /// what was written before, and tell of it.
    pub fn start_over(&mut self) {
        self.distrust();
        self.gone_before = self.round;
    }

    /// The writes that are due, appended to `batch`. `unanswered` is the number of all commands on that connection without an answer.
    pub fn batch(&mut self, now_ms: u64, unanswered: usize, batch: &mut Vec<Write>) {
        let room = self.pace.unanswered_max.saturating_sub(unanswered).min(self.pace.batch_size);
        if room == 0 || now_ms < self.hold_until_ms {
            return;
        }
        let (start, hurried) = (batch.len(), matches!(self.sweep, Sweep::Hurried { .. }));
        if hurried || self.is_due(now_ms) {
            // What clients wait for goes first, but a sweep always gets on.
            let share = if hurried { room - room / 4 } else { room };
            while batch.len() - start < share && self.first != NONE {
                let slot = self.first;
                self.unlink(slot);
                self.write(slot, batch);
            }
        }
        self.sweep(now_ms, start + room, batch);
    }

    /// Whether [`Wants::batch`] may send anything while so many commands have no answer.
    pub fn has_room(&self, unanswered: usize) -> bool {
        unanswered < self.pace.unanswered_max
    }

    /// When [`Wants::batch`] has something to send next, if nothing else happens; renewals apart, for which any regular call will do.
    pub fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let due = match self.sweep {
            Sweep::Hurried { .. } => now_ms,
            _ if self.queued >= self.pace.batch_size => now_ms,
            _ if self.first == NONE => return None,
            _ => self.entries[self.first as usize].since_ms + self.pace.batch_delay_ms,
        };
        Some(due.max(self.hold_until_ms))
    }

    /// The other side did what the write said.
    pub fn done(&mut self, id: WriteId, now_ms: u64) -> Answered {
        let Some(op) = self.take_asked(id) else { return Answered::Stale };
        let entry = &mut self.entries[id.slot as usize];
        entry.known = if op == Op::Put { Known::Present } else { Known::Absent };
        entry.confirmed = op == Op::Put;
        entry.written_ms = now_ms;
        self.refused -= usize::from(std::mem::take(&mut entry.refused));
        let (name, present) = (entry.name.clone(), entry.wanted);
        if self.reconsider(id.slot, now_ms) { Answered::Pending } else { Answered::Settled { name, present } }
    }

    /// The other side refused (out of memory, loading, the script unknown): it is tried again after `hold_ms`, and everything else too.
    pub fn refused(&mut self, id: WriteId, now_ms: u64, hold_ms: u64) -> Answered {
        if self.take_asked(id).is_none() {
            return Answered::Stale;
        }
        self.hold_until_ms = self.hold_until_ms.max(now_ms + hold_ms);
        let entry = &mut self.entries[id.slot as usize];
        entry.known = Known::Unknown;
        self.refused += usize::from(!std::mem::replace(&mut entry.refused, true));
        self.reconsider(id.slot, now_ms);
        Answered::Pending
    }

    /// Whether everything that was to be made good after a loss is sent and answered. True once; the sweep goes on at its ease.
    pub fn take_announced(&mut self, now_ms: u64) -> bool {
        let announced = match self.sweep {
            Sweep::Awaited { serial } => self.answered >= serial && self.refused == 0,
            Sweep::Hurried { .. } | Sweep::Easy { .. } => false,
        };
        if announced {
            self.sweep = Sweep::Easy { cursor: 0, credit: 0, at_ms: now_ms };
        }
        announced
    }

    /// Whether the other side is known to have this, and it is wanted.
    pub fn is_settled(&self, name: &str) -> bool {
        let entry = self.by_name.get(name).map(|&slot| &self.entries[slot as usize]);
        entry.is_some_and(|e| e.wanted && e.asked.is_none() && e.round == self.round && e.known == Known::Present)
    }

    /// Number of names that are wanted, or that the other side may have.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Number of names that wait for a batch.
    pub fn waiting(&self) -> usize {
        self.queued
    }

    /// What one entry needs: nothing, a place in the queue, or to be forgotten. Returns whether a write is due or under way.
    fn reconsider(&mut self, slot: u32, now_ms: u64) -> bool {
        self.catch_up(slot);
        let entry = &self.entries[slot as usize];
        let op = entry.due();
        match (entry.asked, op) {
            // What changes while a write is under way is looked at when its answer comes.
            (Some(_), _) => return true,
            (None, Some(_)) if entry.queued => return true,
            (None, Some(_)) => self.link(slot, now_ms),
            (None, None) => {
                if entry.queued {
                    self.unlink(slot);
                }
                if !self.entries[slot as usize].wanted {
                    self.forget(slot);
                }
            }
        }
        op.is_some()
    }

    /// Makes the write that an entry needs, if it needs one.
    fn write(&mut self, slot: u32, batch: &mut Vec<Write>) {
        self.catch_up(slot);
        let entry = &mut self.entries[slot as usize];
        match entry.due() {
            Some(op) if entry.asked.is_none() => self.ask(slot, op, batch),
            None if !entry.wanted && entry.asked.is_none() => self.forget(slot),
            _ => {}
        }
    }

    fn ask(&mut self, slot: u32, op: Op, batch: &mut Vec<Write>) {
        self.serial += 1;
        let entry = &mut self.entries[slot as usize];
        entry.asked = Some((op, self.serial));
        let (name, confirmed) = (entry.name.clone(), entry.confirmed);
        batch.push(Write { id: WriteId { slot, serial: self.serial }, op, name, confirmed });
    }

    fn sweep(&mut self, now_ms: u64, most: usize, batch: &mut Vec<Write>) {
        match self.sweep {
            Sweep::Hurried { mut cursor } => {
                while batch.len() < most && (cursor as usize) < self.entries.len() {
                    if self.entries[cursor as usize].live {
                        if self.entries[cursor as usize].queued {
                            self.unlink(cursor);
                        }
                        self.write(cursor, batch);
                    }
                    cursor += 1;
                }
                let through = cursor as usize >= self.entries.len();
                self.sweep = if through { Sweep::Awaited { serial: self.serial } } else { Sweep::Hurried { cursor } };
            }
            Sweep::Easy { cursor, credit, at_ms } if self.pace.renew_every_ms > 0 => {
                let passed = now_ms.saturating_sub(at_ms).min(self.pace.renew_every_ms);
                let earned = passed * 1000 * self.entries.len() as u64 / self.pace.renew_every_ms;
                // So small a time that it earns nothing is kept until it does.
                let at_ms = if earned > 0 { now_ms } else { at_ms };
                let (cursor, credit) = self.renew(cursor, credit + earned, now_ms, most, batch);
                self.sweep = Sweep::Easy { cursor, credit, at_ms };
            }
            Sweep::Easy { .. } | Sweep::Awaited { .. } => {}
        }
    }

    fn renew(
        &mut self,
        mut cursor: u32,
        mut credit: u64,
        now_ms: u64,
        most: usize,
        batch: &mut Vec<Write>,
    ) -> (u32, u64) {
        while credit >= 1000 && batch.len() < most && !self.entries.is_empty() {
            credit -= 1000;
            cursor = if cursor as usize >= self.entries.len() { 0 } else { cursor };
            let fresh_ms = self.pace.renew_every_ms / 2;
            let entry = &self.entries[cursor as usize];
            let settled = entry.live && entry.wanted && entry.asked.is_none() && !entry.queued;
            if settled && now_ms >= entry.written_ms + fresh_ms {
                self.ask(cursor, Op::Put, batch);
            }
            cursor += 1;
        }
        // What could not be used because a batch was full is used by the next one, up to one whole round.
        (cursor, credit.min(self.entries.len() as u64 * 1000))
    }

    /// Takes the question that this answers; a question of an earlier round is none any more.
    fn take_asked(&mut self, id: WriteId) -> Option<Op> {
        let round = self.round;
        let entry = self.entries.get_mut(id.slot as usize)?;
        let (op, _) = entry.asked.take_if(|(_, serial)| *serial == id.serial && entry.round == round)?;
        self.answered = self.answered.max(id.serial);
        Some(op)
    }

    /// Brings what an entry knows into this round.
    fn catch_up(&mut self, slot: u32) {
        let (round, gone_before) = (self.round, self.gone_before);
        let entry = &mut self.entries[slot as usize];
        if entry.round == round {
            return;
        }
        let (asked, gone) = (entry.asked.take(), entry.round < gone_before);
        let touched = asked.is_some() || entry.known != Known::Absent;
        entry.known = if touched && !gone { Known::Unknown } else { Known::Absent };
        entry.confirmed &= !gone && !matches!(asked, Some((Op::Delete, _)));
        entry.round = round;
        self.refused -= usize::from(std::mem::take(&mut entry.refused));
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms(now_ms).is_some_and(|due| due <= now_ms)
    }
}

impl Entry {
    /// The write that would bring the other side to what is wanted.
    fn due(&self) -> Option<Op> {
        match (self.wanted, self.known) {
            (true, Known::Absent | Known::Unknown) => Some(Op::Put),
            (false, Known::Present | Known::Unknown) => Some(Op::Delete),
            (true, Known::Present) | (false, Known::Absent) => None,
        }
    }
}

#[cfg(test)]
mod tests;

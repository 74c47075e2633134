//! Sending to all shards of all nodes: every node answers, and the user is nowhere when every living one has said so.
//!
//! Redis says how many have heard a message. Fewer than there are shards: somebody did not listen, and may have the user. More: there is a
//! node that no poll has seen yet, or one that is over and has not noticed; the next poll tells them apart. Whoever it does not name at all
//! may have the user.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use super::event::Cause;
use super::messages::Key;
use super::{BROADCAST_CHANNEL, Exchange};
use crate::cluster::agent::Clock;
use crate::cluster::parcel::{Answer, Answers};
use crate::protocol::reply::Status;

type Nodes = SmallVec<[(Rc<str>, u64); 4]>;

/// What was sent to all and is not answered by all.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    last: u64,
    /// By number, so oldest first.
    sent: VecDeque<Broadcast>,
}

#[derive(Debug)]
struct Broadcast {
    number: u64,
    key: Key,
    sent_ms: u64,
    sent_boot_ms: u64,
    /// Who has not answered.
    missing: Nodes,
    /// Who is known to have been there, or has answered.
    known: Nodes,
    /// How many should hear it.
    shards: u64,
    heard: Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Redis has not said.
    Open,
    /// As many as should.
    Right,
    /// More, so many: what a poll says that is sent after this is waited for.
    More(u64),
}

impl Broadcasts {
    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.sent.binary_search_by_key(&number, |broadcast| broadcast.number).ok()
    }
}

impl Exchange {
    pub(super) fn send_to_all(&mut self, key: Key, clock: Clock) {
        let (Some(message), Some(me)) = (self.messages.get_mut(key), &self.me) else { return };
        let others = self.places.live(clock.boot_ms).filter(|(node, _)| **node != me.node);
        let known: Nodes = others.map(|(node, epoch)| (node.clone(), epoch)).collect();
        message.pending += 1;
        self.counters.sent += 1;
        self.broadcasts.last += 1;
        let number = self.broadcasts.last;
        self.broadcasts.sent.push_back(Broadcast {
            number,
            key,
            sent_ms: clock.mono_ms,
            sent_boot_ms: clock.boot_ms,
            missing: known.clone(),
            known,
            shards: self.places.shards(clock.boot_ms),
            heard: Heard::Open,
        });
        let payload = me.label(self.settings.me, number, 0, &message.letter).encode(&message.letter.frame);
        self.publish(None, number, BROADCAST_CHANNEL.into(), payload);
    }

    pub(super) fn published_to_all(&mut self, number: u64, heard: Option<u64>) {
        let Some(index) = self.broadcasts.find(number) else { return };
        let broadcast = &mut self.broadcasts.sent[index];
        let doubt = match heard {
            None => return self.end_broadcast(index, Some(Cause::Refused)),
            Some(0) if self.settings.exact_counts => return self.end_broadcast(index, Some(Cause::Unheard)),
            Some(heard) if self.settings.exact_counts && heard > broadcast.shards => {
                broadcast.heard = Heard::More(heard);
                None
            }
            Some(heard) => {
                broadcast.heard = Heard::Right;
                (self.settings.exact_counts && heard < broadcast.shards).then_some(Cause::Unheard)
            }
        };
        self.doubt_broadcast(index, doubt);
        self.judge_broadcast(index);
    }

    /// The connection ended before Redis said how many have heard it.
    pub(super) fn unanswered_by_all(&mut self, number: u64) {
        let Some(index) = self.broadcasts.find(number) else { return };
        self.broadcasts.sent[index].heard = Heard::Right;
        self.doubt_broadcast(index, Some(Cause::Lost));
        self.judge_broadcast(index);
    }

    /// A node answers.
    pub(super) fn answered_by_node(&mut self, answers: &Answers<'_>) {
        for &(number, answer) in &answers.answers {
            // Others have answered that they have delivered it: this one is not asked any more.
            let Some(index) = self.broadcasts.find(number) else { continue };
            self.counters.acknowledged += 1;
            let broadcast = &mut self.broadcasts.sent[index];
            let is_it = |(node, epoch): &(Rc<str>, u64)| **node == *answers.node && *epoch == answers.epoch;
            broadcast.missing.retain(|node| !is_it(node));
            if !broadcast.known.iter().any(is_it) {
                broadcast.known.push((answers.node.into(), answers.epoch));
            }
            let Some(message) = self.messages.get_mut(broadcast.key) else { continue };
            match answer {
                Answer::Delivered => message.learn(Status::Delivered),
                Answer::Dropped => message.learn(Status::Dropped),
                Answer::Moved => {}
            }
            self.judge_broadcast(index);
        }
    }

    /// Nodes that are over will not answer; those that were not known may have been there.
    pub(super) fn polled_nodes(&mut self, asked_boot_ms: u64, clock: Clock) {
        let mut index = 0;
        while let Some(broadcast) = self.broadcasts.sent.get_mut(index) {
            let (number, before) = (broadcast.number, broadcast.missing.len());
            broadcast.missing.retain(|(node, epoch)| !self.places.has_ended(node, *epoch));
            let died = before - broadcast.missing.len();
            self.counters.died += died as u64;
            let mut doubt = (died > 0).then_some(Cause::Died);
            if let Heard::More(heard) = broadcast.heard
                && broadcast.sent_boot_ms <= asked_boot_ms
            {
                broadcast.heard = Heard::Right;
                let me = self.me.as_ref().map(|me| me.node.clone());
                let new = self.places.live(clock.boot_ms).find(|(node, epoch)| {
                    Some(*node) != me.as_ref() && !broadcast.known.iter().any(|(n, e)| n == *node && e == epoch)
                });
                let explained = heard <= self.places.shards(clock.boot_ms) + self.places.shards_over();
                doubt = doubt.or((new.is_some() || !explained).then_some(Cause::Unheard));
            }
            self.doubt_broadcast(index, doubt);
            self.judge_broadcast(index);
            // It may be done with now.
            index += usize::from(self.broadcasts.sent.get(index).is_some_and(|next| next.number == number));
        }
    }

    pub(super) fn give_up_broadcasts(&mut self, sent_by_ms: u64, cause: Cause) {
        while self.broadcasts.sent.front().is_some_and(|broadcast| broadcast.sent_ms <= sent_by_ms) {
            self.counters.timeouts += 1;
            self.end_broadcast(0, Some(cause));
        }
    }

    fn doubt_broadcast(&mut self, index: usize, cause: Option<Cause>) {
        let key = self.broadcasts.sent[index].key;
        if let (Some(message), Some(cause)) = (self.messages.get_mut(key), cause) {
            message.doubt(cause);
        }
    }

    /// Ends it if nothing more is to be learned.
    fn judge_broadcast(&mut self, index: usize) {
        let broadcast = &self.broadcasts.sent[index];
        let is_delivered = self.messages.get(broadcast.key).is_none_or(|message| message.is_delivered());
        if is_delivered || (broadcast.missing.is_empty() && broadcast.heard == Heard::Right) {
            // Nodes of which Redis has forgotten that they live may have the user.
            self.end_broadcast(index, self.doubt.map(|_| Cause::Forgotten));
        }
    }

    fn end_broadcast(&mut self, index: usize, cause: Option<Cause>) {
        self.doubt_broadcast(index, cause);
        let Some(Broadcast { key, .. }) = self.broadcasts.sent.remove(index) else { return };
        if let Some(message) = self.messages.get_mut(key) {
            message.pending = message.pending.saturating_sub(1);
        }
        self.settle_delivered(key);
        self.finish_if_done(key);
    }
}

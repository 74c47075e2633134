//! The messages of one exchange that are not done with, and what is known of each.

use std::rc::Rc;

use smallvec::SmallVec;

use super::event::{Cause, Here, Letter, Outcome};
use crate::cluster::delivery::Destination;
use crate::protocol::reply::Status;

/// Names a message; stale when it is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    slot: u32,
    /// The lower half of its order.
    order: u32,
}

/// Slots that are kept while there is no message.
const SLOTS_KEPT: usize = 1024;

impl Key {
    pub(super) fn ticket(self) -> u64 {
        u64::from(self.order) << 32 | u64::from(self.slot)
    }

    pub(super) fn of_ticket(ticket: u64) -> Self {
        Key { slot: ticket as u32, order: (ticket >> 32) as u32 }
    }
}

/// A message and what has become of it so far.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) letter: Rc<Letter>,
    /// Its place among all messages of this exchange.
    pub(super) order: u64,
    /// Until when it may be sent again.
    pub(super) deadline_ms: u64,
    /// Who waits for the outcome.
    pub(super) token: Option<u64>,
    /// The connections here were given it, or are not to be given it.
    pub(super) here_done: bool,
    /// Places that have not said what became of it.
    pub(super) pending: u32,
    /// It waits to be sent (again).
    pub(super) waits: bool,
    /// For want of what.
    pub(super) held_for: Option<Cause>,
    pub(super) moves: u32,
    /// Nodes that have it, or may have it.
    pub(super) took: SmallVec<[Rc<str>; 1]>,
    /// Destinations that did not have the user when they were last asked.
    pub(super) left: SmallVec<[Destination; 1]>,
    best: Option<Status>,
    doubt: Option<Cause>,
}

impl Message {
    pub(super) fn is_delivered(&self) -> bool {
        self.best == Some(Status::Delivered)
    }

    /// A place has said what became of it there.
    pub(super) fn learn(&mut self, status: Status) {
        if self.best.is_none_or(|best| rank(status) > rank(best)) {
            self.best = Some(status);
        }
    }

    /// What became of it somewhere is not known. The first cause counts.
    pub(super) fn doubt(&mut self, cause: Cause) {
        self.doubt.get_or_insert(cause);
    }

    /// Whether it is not known of some place what became of it there.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubt.is_some()
    }

    /// The outcome, if nothing more is learned.
    pub(super) fn outcome(&self) -> Outcome {
        match (self.best, self.doubt) {
            (Some(best @ (Status::Delivered | Status::Stored)), _) => Outcome::Known(best),
            (_, Some(cause)) => Outcome::Unavailable(cause),
            (best, None) => Outcome::Known(best.unwrap_or(Status::Offline)),
        }
    }
}

/// Which of two places has the better news.
fn rank(status: Status) -> u8 {
    match status {
        Status::Offline => 0,
        Status::Dropped => 1,
        Status::Stored => 2,
        Status::Delivered => 3,
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Messages {
    slots: Vec<Option<Message>>,
    free: Vec<u32>,
    next_order: u64,
    len: usize,
    bytes: usize,
}

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn insert(&mut self, letter: Letter, here: Here, token: Option<u64>, deadline_ms: u64) -> Key {
        self.next_order += 1;
        self.len += 1;
        self.bytes += letter.frame.len();
        let (here_done, best) = match here {
            Here::Nobody | Here::Waits | Here::Took(Status::Offline) => (false, None),
            Here::Took(status) => (true, Some(status)),
        };
        let message = Message {
            letter: Rc::new(letter),
            order: self.next_order,
            deadline_ms,
            token,
            here_done,
            pending: 0,
            waits: false,
            held_for: None,
            moves: 0,
            took: SmallVec::new(),
            left: SmallVec::new(),
            best,
            doubt: None,
        };
        let key = |slot| Key { slot, order: self.next_order as u32 };
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(message);
                key(slot)
            }
            None => {
                self.slots.push(Some(message));
                key((self.slots.len() - 1) as u32)
            }
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Message> {
        self.slots.get(key.slot as usize)?.as_ref().filter(|message| message.order as u32 == key.order)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Message> {
        self.slots.get_mut(key.slot as usize)?.as_mut().filter(|message| message.order as u32 == key.order)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Message> {
        self.get(key)?;
        let message = self.slots[key.slot as usize].take()?;
        self.free.push(key.slot);
        self.len -= 1;
        self.bytes -= message.letter.frame.len();
        if self.len == 0 && self.slots.len() > SLOTS_KEPT {
            // A burst is not paid for for ever.
            self.slots = Vec::new();
            self.free = Vec::new();
        }
        Some(message)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        self.slots.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MessageId;
    use bytes::Bytes;

    fn letter() -> Letter {
        Letter {
            user: "u".into(),
            message_id: MessageId(1),
            class: Default::default(),
            key: None,
            tags: None,
            except_user: None,
            frame: Bytes::from_static(b"frame"),
        }
    }

    #[test]
    fn the_outcome_is_the_best_news_and_doubt_spoils_all_but_delivery() {
        use Outcome::{Known, Unavailable};
        let (delivered, dropped) = (Status::Delivered, Status::Dropped);
        for (news, doubt, outcome) in [
            (vec![], None, Known(Status::Offline)),
            (vec![dropped], None, Known(dropped)),
            (vec![dropped, delivered], None, Known(delivered)),
            (vec![delivered, dropped], Some(Cause::Timeout), Known(delivered)),
            (vec![dropped], Some(Cause::Timeout), Unavailable(Cause::Timeout)),
            (vec![], Some(Cause::Died), Unavailable(Cause::Died)),
        ] {
            let mut messages = Messages::default();
            let key = messages.insert(letter(), Here::Nobody, None, 0);
            let message = messages.get_mut(key).unwrap();
            news.iter().for_each(|status| message.learn(*status));
            doubt.into_iter().for_each(|cause| message.doubt(cause));
            assert_eq!(message.outcome(), outcome, "{news:?} {doubt:?}");
        }
    }

    #[test]
    fn a_key_names_one_message_only() {
        let mut messages = Messages::default();
        let first = messages.insert(letter(), Here::Took(Status::Delivered), Some(1), 0);
        assert_eq!((messages.len(), messages.bytes()), (1, 5));
        assert_eq!(Key::of_ticket(first.ticket()), first);
        assert!(messages.get(first).unwrap().is_delivered() && messages.remove(first).is_some());
        let second = messages.insert(letter(), Here::Nobody, None, 0);
        assert_ne!(first, second);
        assert!(messages.get(first).is_none() && messages.remove(first).is_none() && messages.get(second).is_some());
    }
}

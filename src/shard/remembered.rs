//! What services have published under an idempotency key: who comes again with it gets the first answer, and nothing is sent twice.

use std::collections::{HashMap, VecDeque};

use crate::limits::{IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_TTL_MS};
use crate::protocol::command::Published;
use crate::time::Now;

/// The keys of the last minutes; when there are too many, the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    by_key: HashMap<Box<str>, (u32, Option<Published>)>,
    /// In the order of expiry, each with the number of the command that it was made for.
    order: VecDeque<(u64, u32, Box<str>)>,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The command with this number is sending it.
    UnderWay(u32),
    /// It was sent.
    Done(Published),
}

impl Remembered {
    pub(super) fn find(&mut self, key: &str, now: Now) -> Option<Known> {
        self.forget_expired(now);
        self.by_key.get(key).map(|(number, published)| match published {
            Some(published) => Known::Done(*published),
            None => Known::UnderWay(*number),
        })
    }

    /// The command `number` sends under this key.
    pub(super) fn begin(&mut self, key: Box<str>, number: u32, now: Now) {
        self.forget_expired(now);
        while self.order.len() >= IDEMPOTENCY_KEYS_MAX {
            self.forget_first();
        }
        self.by_key.insert(key.clone(), (number, None));
        self.order.push_back((now.mono_ms + IDEMPOTENCY_TTL_MS, number, key));
    }

    /// It was sent.
    pub(super) fn done(&mut self, key: &str, number: u32, published: Published, now: Now) {
        self.forget_expired(now);
        if let Some(entry) = self.by_key.get_mut(key).filter(|(known, _)| *known == number) {
            entry.1 = Some(published);
        }
    }

    fn forget_expired(&mut self, now: Now) {
        while self.order.front().is_some_and(|(expires_ms, ..)| *expires_ms <= now.mono_ms) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, number, key)) = self.order.pop_front()
            && self.by_key.get(&key).is_some_and(|(known, _)| *known == number)
        {
            self.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MessageId;
    use crate::protocol::command::Tally;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, boot_ms: mono_ms, unix_ms: 0, sub_us: 0 }
    }

    fn published(id: u128) -> Published {
        Published { id: MessageId(id), tally: Tally::default() }
    }

    #[test]
    fn a_key_is_under_way_then_done_then_forgotten() {
        let mut remembered = Remembered::default();
        assert_eq!(remembered.find("k", at(0)), None);
        remembered.begin("k".into(), 7, at(0));
        assert_eq!(remembered.find("k", at(1)), Some(Known::UnderWay(7)));
        remembered.done("k", 7, published(1), at(2));
        assert_eq!(remembered.find("k", at(IDEMPOTENCY_TTL_MS - 1)), Some(Known::Done(published(1))));
        assert_eq!(remembered.find("k", at(IDEMPOTENCY_TTL_MS)), None);
        assert!(remembered.by_key.is_empty() && remembered.order.is_empty());
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let mut remembered = Remembered::default();
        for i in 0..IDEMPOTENCY_KEYS_MAX as u32 + 10 {
            remembered.begin(format!("k{i}").into(), i, at(0));
        }
        assert_eq!((remembered.by_key.len(), remembered.order.len()), (IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_KEYS_MAX));
        assert_eq!(remembered.find("k9", at(1)), None);
        assert_eq!(remembered.find("k10", at(1)), Some(Known::UnderWay(10)));
        remembered.done("k9", 9, published(1), at(1));
        assert_eq!(remembered.find("k9", at(1)), None, "what was forgotten stays so");
    }
}

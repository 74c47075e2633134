//! The entries: where they are kept, and the queue through them.

use std::rc::Rc;

use super::{Entry, Known, NONE, Wants};

impl Wants {
    pub(super) fn slot(&mut self, name: &str, known: Known) -> u32 {
        if let Some(&slot) = self.by_name.get(name) {
            return slot;
        }
        let name: Rc<str> = name.into();
        let entry = Entry {
            name: name.clone(),
            live: true,
            wanted: false,
            known,
            confirmed: false,
            round: self.round,
            asked: None,
            refused: false,
            written_ms: 0,
            queued: false,
            since_ms: 0,
            before: NONE,
            after: NONE,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.by_name.insert(name, slot);
        slot
    }

    pub(super) fn forget(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        debug_assert!(entry.live && !entry.queued && entry.asked.is_none());
        self.by_name.remove(&entry.name);
        entry.name = Rc::from("");
        entry.live = false;
        self.refused -= usize::from(std::mem::take(&mut entry.refused));
        self.free.push(slot);
    }

    pub(super) fn link(&mut self, slot: u32, now_ms: u64) {
        let last = std::mem::replace(&mut self.last, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.queued, entry.since_ms, entry.before, entry.after) = (true, now_ms, last, NONE);
        match last {
            NONE => self.first = slot,
            last => self.entries[last as usize].after = slot,
        }
        self.queued += 1;
    }

    pub(super) fn unlink(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        debug_assert!(entry.queued);
        entry.queued = false;
        let (before, after) = (entry.before, entry.after);
        match before {
            NONE => self.first = after,
            before => self.entries[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.entries[after as usize].before = before,
        }
        self.queued -= 1;
    }
}

//! The outbox against a naive one: a plain list in the order of sending, searched from end to end.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::shard::event::Gathered;

const CLASSES: [Class; 4] = [Class::Urgent, Class::Normal, Class::Latest, Class::Droppable];

#[derive(Clone, Debug)]
enum Step {
    Push { class: Class, key: Option<u64>, room: u32, size: usize },
    Control { opcode: u8, size: usize },
    Gather { scratch: usize },
    Advance { percent: usize },
    Transform { count: usize },
    Shed,
    TakeGaps,
    Close { last: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![8 => 2usize..200, 2 => 200usize..3000, 1 => 4000usize..9000];
    let key = prop_oneof![1 => Just(None), 9 => (0u64..4).prop_map(Some)];
    let push = (0usize..4, key, 0u32..3, size).prop_map(|(class, key, room, size)| Step::Push {
        class: CLASSES[class],
        key,
        room,
        size,
    });
    prop_oneof![
        60 => push,
        6 => (prop_oneof![Just(9u8), Just(10u8)], 2usize..127).prop_map(|(opcode, size)| Step::Control { opcode, size }),
        12 => (0usize..20_000).prop_map(|scratch| Step::Gather { scratch }),
        12 => (0usize..=100).prop_map(|percent| Step::Advance { percent }),
        4 => (1usize..4).prop_map(|count| Step::Transform { count }),
        2 => Just(Step::Shed),
        2 => Just(Step::TakeGaps),
        1 => any::<bool>().prop_map(|last| Step::Close { last }),
    ]
}

#[derive(Clone, Debug)]
struct Queued {
    frame: Bytes,
    lane: Lane,
    class: Class,
    key: Option<u64>,
    source: Source,
    queued_ms: u32,
}

/// What the module's documentation says, and nothing of how it is done.
#[derive(Default)]
struct Model {
    /// In the order of sending, but for what is fixed: that comes first, in its own order.
    list: Vec<Queued>,
    /// The first so many keep their place.
    offered: usize,
    head_sent: usize,
    throttled: bool,
    closing: Closing,
    gaps: HashMap<Source, u32>,
    dropped: u32,
    conflated: u32,
    popped_ms: Option<u32>,
}

impl Model {
    fn fixed(&self) -> usize {
        self.offered.max(usize::from(self.head_sent > 0))
    }

    fn bytes(&self) -> usize {
        self.list.iter().map(|q| q.frame.len()).sum::<usize>() - self.head_sent
    }

    fn insert(&mut self, new: Queued) {
        let fixed = self.fixed();
        let at = self.list[fixed..].iter().position(|q| q.lane > new.lane).map_or(self.list.len(), |at| fixed + at);
        self.list.insert(at, new);
    }

    /// The newest of that key, and whether it may be replaced.
    fn newest(&self, key: u64) -> Option<(usize, bool)> {
        let at =
            self.list.iter().rposition(|q| q.class == Class::Latest && q.lane == Lane::Queue && q.key == Some(key))?;
        Some((at, at >= self.fixed()))
    }

    fn push(&mut self, item: Queued, limits: &OutboxLimits) -> Push {
        if self.closing != Closing::No {
            return Push::Dropped;
        }
        let bytes = self.bytes();
        let below_high = if limits.high == 0 { bytes == 0 } else { bytes <= limits.high || !self.throttled };
        let over = |bytes: usize| limits.max != 0 && !below_high && bytes > limits.max;
        if self.throttled {
            if item.class == Class::Droppable {
                self.drop_counted(item.source);
                return Push::Dropped;
            }
            if let (Class::Latest, Some(key)) = (item.class, item.key)
                && let Some((at, true)) = self.newest(key)
            {
                if over(bytes - self.list[at].frame.len() + item.frame.len()) {
                    return Push::Overflowed;
                }
                self.list[at] = Queued { queued_ms: self.list[at].queued_ms, ..item };
                self.conflated += 1;
                return Push::Replaced;
            }
        }
        if over(bytes + item.frame.len()) {
            return Push::Overflowed;
        }
        self.insert(item);
        if !self.throttled && limits.high != 0 && self.bytes() > limits.high {
            self.throttled = true;
            self.conflate();
        }
        if self.throttled { Push::Throttled } else { Push::Queued }
    }

    fn drop_counted(&mut self, source: Source) {
        self.dropped += 1;
        *self.gaps.entry(source).or_default() += 1;
    }

    fn conflate(&mut self) {
        let fixed = self.fixed();
        let mut at = fixed;
        while at < self.list.len() {
            let same = |q: &Queued, of: &Queued| {
                q.class == Class::Latest && q.lane == Lane::Queue && q.key.is_some() && q.key == of.key
            };
            let this = self.list[at].clone();
            if this.class == Class::Latest
                && let Some(older) = (fixed..at).find(|&older| same(&self.list[older], &this))
            {
                let queued_ms = self.list[older].queued_ms;
                self.list[older] = Queued { queued_ms, ..this };
                self.list.remove(at);
                self.conflated += 1;
            } else {
                at += 1;
            }
        }
    }

    fn shed(&mut self) -> usize {
        let before = self.bytes();
        self.conflate();
        let fixed = self.fixed().max(1);
        let mut at = fixed;
        while at < self.list.len() {
            if self.list[at].class == Class::Droppable {
                // The first message of the queue behind a head from another lane is not the next one.
                let source = self.list.remove(at).source;
                self.drop_counted(source);
            } else {
                at += 1;
            }
        }
        before - self.bytes()
    }

    fn control(&mut self, item: Queued, opcode: u8) {
        if self.closing != Closing::No {
            return;
        }
        let fixed = self.fixed();
        let same = |q: &Queued| q.lane == Lane::Control && q.frame[0] & 15 == opcode;
        let newest = self.list[fixed..].iter().rposition(same);
        let full =
            self.list[fixed..].iter().filter(|q| same(q)).count() >= if opcode == 10 { super::PONGS_MAX } else { 1 };
        match newest.filter(|_| full) {
            Some(at) => self.list[fixed + at].frame = item.frame,
            None => self.insert(item),
        }
    }

    fn discard_messages(&mut self) {
        let fixed = self.fixed();
        let mut at = 0;
        self.list.retain(|q| {
            at += 1;
            at <= fixed || q.lane < Lane::Urgent
        });
    }

    fn advance(&mut self, sent: usize, limits: &OutboxLimits) -> Advance {
        self.head_sent += sent;
        let mut frames = 0;
        while !self.list.is_empty() && self.head_sent >= self.list[0].frame.len() {
            self.head_sent -= self.list.remove(0).frame.len();
            frames += 1;
        }
        self.withdraw();
        if self.closing == Closing::Now {
            self.discard_messages();
        }
        let flows = self.throttled && (self.bytes() == 0 || self.bytes() < limits.low);
        self.throttled &= !flows;
        Advance { now_flowing: flows, empty: self.list.is_empty(), frames }
    }

    fn withdraw(&mut self) {
        self.offered = 0;
        let fixed = self.fixed();
        self.list[fixed..].sort_by_key(|q| q.lane);
    }

    fn pop_next(&mut self) -> Option<Queued> {
        if self.offered > 0 {
            return None;
        }
        let at = self.fixed() + self.list[self.fixed()..].iter().position(|q| q.lane >= Lane::Urgent)?;
        if self.list[at].frame[0] & 8 != 0 {
            return None;
        }
        let popped = self.list.remove(at);
        self.popped_ms.get_or_insert(popped.queued_ms);
        Some(popped)
    }
}

/// A frame with a running number in it, so that no two are alike.
fn frame(opcode: u8, size: usize, number: u32) -> Bytes {
    let mut bytes = vec![opcode | 0x80; 1];
    bytes.extend(number.to_be_bytes());
    bytes.resize(size.max(5), number as u8);
    bytes.into()
}

fn check(steps: &[Step], limits: &OutboxLimits) -> Result<(), TestCaseError> {
    let mut outbox = Outbox::default();
    let mut model = Model::default();
    let mut scratch = vec![0; 20_000];
    let mut offered: Vec<u8> = Vec::new();
    for (now, step) in steps.iter().enumerate() {
        let (number, now_ms) = (now as u32, now as u64);
        match *step {
            Step::Push { class, key, room, size } => {
                let source = if room == 0 { Source::None } else { Source::Room(room) };
                let frame = frame(1, size, number);
                let item = Item { class, key, source, queued_ms: number, ..Item::normal(frame.clone(), 0) };
                let queued = Queued { frame, lane: Lane::of(class), class, key, source, queued_ms: number };
                prop_assert_eq!(outbox.push(item, limits), model.push(queued, limits));
            }
            Step::Control { opcode, size } => {
                let frame = frame(opcode, size, number);
                outbox.push_control(frame.clone());
                model.control(control(frame), opcode);
            }
            Step::Gather { scratch: size } => {
                model.withdraw();
                let (bytes, copied) = match outbox.gather(&mut scratch[..size]) {
                    Gathered::Empty => (Vec::new(), false),
                    Gathered::Copied(len) => (scratch[..len].to_vec(), true),
                    Gathered::Direct(bytes) => (bytes.to_vec(), false),
                };
                let (expected, frames) = gathered(&model, size);
                prop_assert_eq!(&bytes, &expected);
                prop_assert_eq!(copied, frames > 1);
                // What was looked at and did not need copying is fixed as well, harmlessly: only the head.
                model.offered = frames;
                offered = bytes;
            }
            Step::Advance { percent } => {
                let sent = offered.len() * percent / 100;
                let advance = outbox.advance(sent);
                prop_assert_eq!(advance, model.advance(sent, limits));
                offered.clear();
            }
            Step::Transform { count } => {
                for _ in 0..count {
                    let (popped, expected) = (outbox.pop_next(), model.pop_next());
                    prop_assert_eq!(popped.as_ref().map(|p| p.frame.bytes()), expected.as_ref().map(|p| &p.frame));
                    let Some(item) = popped else { continue };
                    let mut wire = item.frame.to_vec();
                    wire.truncate(5 + wire.len() / 2);
                    let frame = Bytes::from(wire);
                    outbox.commit(frame.clone());
                    let queued_ms = model.popped_ms.take().unwrap();
                    model.insert(Queued {
                        frame,
                        lane: Lane::Wire,
                        class: Class::Normal,
                        queued_ms,
                        ..expected.unwrap()
                    });
                }
            }
            Step::Shed => prop_assert_eq!(outbox.shed(), model.shed()),
            Step::TakeGaps => {
                prop_assert_eq!(outbox.has_gaps(), !model.gaps.is_empty());
                let told: HashMap<_, _> = outbox.take_gaps().collect();
                prop_assert_eq!(told, std::mem::take(&mut model.gaps));
            }
            Step::Close { last } if last => {
                outbox.push_last(frame(8, 4, number), now_ms);
                if model.closing == Closing::No {
                    model.closing = Closing::Last;
                    let close = control(frame(8, 4, number));
                    model.insert(Queued { lane: Lane::Queue, queued_ms: number, ..close });
                }
            }
            Step::Close { .. } => {
                outbox.push_control(frame(8, 4, number));
                if model.closing == Closing::No {
                    model.closing = Closing::Now;
                    model.discard_messages();
                    model.insert(control(frame(8, 4, number)));
                }
            }
        }
        prop_assert_eq!(outbox.bytes(), model.bytes());
        prop_assert_eq!(outbox.len(), model.list.len());
        prop_assert_eq!(outbox.is_empty(), model.list.is_empty());
        prop_assert_eq!(outbox.is_throttled(), model.throttled);
        let indexed = outbox.side.as_ref().map_or(0, |side| side.latest.len());
        let keyed = model.list.iter().filter(|q| q.lane == Lane::Queue && q.class == Class::Latest && q.key.is_some());
        prop_assert!(indexed <= keyed.count(), "keys of messages that are gone are kept");
        prop_assert_eq!(outbox.conflated(), model.conflated);
        prop_assert_eq!(outbox.dropped(Class::Droppable), model.dropped);
        let oldest = model.list.iter().filter(|q| q.lane != Lane::Control).map(|q| q.queued_ms).min();
        prop_assert_eq!(outbox.oldest_age_ms(now_ms), oldest.map(|oldest| number - oldest));
        let mut by_class = [0; 4];
        model.list.iter().filter(|q| q.frame[0] & 0x8 == 0).for_each(|q| by_class[q.class as usize] += 1);
        prop_assert_eq!(outbox.queued(), by_class);
        prop_assert!(outbox.held_bytes() >= outbox.bytes() + outbox.len().saturating_sub(1) * size_of::<Item>());
        let committed: usize = model.list.iter().filter(|q| q.lane == Lane::Wire).map(|q| q.frame.len()).sum();
        let head_sent = if model.list.first().is_some_and(|q| q.lane == Lane::Wire) { model.head_sent } else { 0 };
        prop_assert_eq!(outbox.committed_bytes(), committed - head_sent);
    }
    drain(outbox, model)
}

fn control(frame: Bytes) -> Queued {
    let (class, source) = (Class::Urgent, Source::None);
    Queued { frame, lane: Lane::Control, class, key: None, source, queued_ms: 0 }
}

/// What is to be gathered from the model, and how many frames that are.
fn gathered(model: &Model, scratch: usize) -> (Vec<u8>, usize) {
    let Some(first) = model.list.first() else { return (Vec::new(), 0) };
    let mut bytes = first.frame[model.head_sent..].to_vec();
    let committed = model.list.iter().any(|q| q.lane == Lane::Wire);
    let mut frames = 1;
    if bytes.len() > COALESCE_BYTES_MAX || bytes.len() > scratch {
        return (bytes, frames);
    }
    for next in &model.list[1..] {
        let raw = next.lane >= Lane::Urgent && committed;
        if raw || next.frame.len() > COALESCE_BYTES_MAX || bytes.len() + next.frame.len() > scratch {
            break;
        }
        bytes.extend_from_slice(&next.frame);
        frames += 1;
    }
    (bytes, frames)
}

/// All that is left comes out, in order and whole.
fn drain(mut outbox: Outbox, mut model: Model) -> Result<(), TestCaseError> {
    outbox.advance(0);
    model.advance(0, &OutboxLimits::default());
    let expected: Vec<u8> = model.list.iter().flat_map(|q| q.frame.to_vec()).skip(model.head_sent).collect();
    let (mut got, mut scratch) = (Vec::new(), vec![0; 300]);
    while !outbox.is_empty() {
        let bytes = match outbox.gather(&mut scratch) {
            Gathered::Empty => break,
            Gathered::Copied(len) => scratch[..len].to_vec(),
            Gathered::Direct(bytes) => bytes.to_vec(),
        };
        outbox.advance(bytes.len());
        got.extend(bytes);
    }
    prop_assert!(got == expected, "what was left came out differently");
    prop_assert_eq!(outbox.bytes(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_naive_one(
        steps in prop::collection::vec(step(), 1..150),
        high in prop_oneof![Just(0usize), 200usize..8_000],
        low_percent in 0usize..=100,
        max_over in prop_oneof![Just(None), (0usize..10_000).prop_map(Some)],
    ) {
        let limits = OutboxLimits { high, low: high * low_percent / 100, max: max_over.map_or(0, |over| high + over) };
        check(&steps, &limits)?;
    }
}

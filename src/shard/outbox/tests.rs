//! The rules one by one; all of them together are held against the naive outbox in `model`.

use super::*;
use crate::shard::event::Gathered;

const LIMITS: OutboxLimits = OutboxLimits { high: 100, low: 30, max: 200 };

/// A text frame of `size` bytes that is called `name`.
fn frame(name: &str, size: usize) -> Bytes {
    let mut bytes = format!("\u{1}{name}").into_bytes();
    bytes.resize(size, b'.');
    bytes.into()
}

fn control(opcode: u8, name: &str) -> Bytes {
    [&[0x80 | opcode], name.as_bytes()].concat().into()
}

fn item(class: Class, name: &str, size: usize) -> Item {
    let key = (class == Class::Latest).then(|| u64::from(name.as_bytes()[0]));
    Item { class, key, ..Item::normal(frame(name, size), 0) }
}

/// The names of what is queued, in the order in which it is sent.
fn sent_names(outbox: &mut Outbox) -> Vec<String> {
    let mut names = Vec::new();
    outbox.advance(0);
    while let Gathered::Direct(bytes) = outbox.gather(&mut []) {
        let name = bytes[1..].iter().take_while(|&&b| b != b'.').map(|&b| char::from(b)).collect();
        let len = bytes.len();
        names.push(name);
        outbox.advance(len);
    }
    names
}

fn push(outbox: &mut Outbox, class: Class, name: &str, size: usize) -> Push {
    outbox.push(item(class, name, size), &LIMITS)
}

#[test]
fn below_high_everything_is_queued_in_order_and_urgent_overtakes() {
    use Class::{Droppable, Latest, Normal, Urgent};
    let mut outbox = Outbox::default();
    for (class, name) in
        [(Droppable, "d"), (Latest, "a1"), (Latest, "a2"), (Urgent, "u1"), (Normal, "n"), (Urgent, "u2")]
    {
        assert_eq!(push(&mut outbox, class, name, 10), Push::Queued, "{name}");
    }
    outbox.push_control(control(9, "ping"));
    assert_eq!((outbox.bytes(), outbox.len()), (65, 7));
    assert_eq!(sent_names(&mut outbox), ["ping", "u1", "u2", "d", "a1", "a2", "n"]);
}

#[test]
fn throttled_from_crossing_high_until_below_low() {
    let mut outbox = Outbox::default();
    assert_eq!(push(&mut outbox, Class::Normal, "n", 100), Push::Queued, "at high is not over it");
    assert_eq!(push(&mut outbox, Class::Droppable, "d", 2), Push::Throttled, "what crosses is queued itself");
    for (sent, now_flowing) in [(0, false), (71, false), (1, false), (1, true), (1, false)] {
        assert_eq!(push(&mut outbox, Class::Droppable, "x", 2), Push::Dropped);
        let advance = outbox.advance(sent);
        assert_eq!((advance.now_flowing, advance.empty), (now_flowing, false), "{} left", outbox.bytes());
        if now_flowing {
            assert_eq!(outbox.bytes(), 29);
            break;
        }
    }
    assert_eq!(push(&mut outbox, Class::Droppable, "y", 2), Push::Queued);
    assert_eq!(outbox.dropped(Class::Droppable), 4);
    assert_eq!(outbox.take_gaps().collect::<Vec<_>>(), [(Source::None, 4)]);
    assert!(!outbox.has_gaps());
}

#[test]
fn while_throttled_each_class_fares_as_it_should() {
    let mut outbox = Outbox::default();
    for (class, name) in [(Class::Latest, "a1"), (Class::Latest, "b1"), (Class::Droppable, "d1"), (Class::Latest, "a2")]
    {
        assert_eq!(push(&mut outbox, class, name, 10), Push::Queued);
    }
    assert_eq!(push(&mut outbox, Class::Normal, "n1", 70), Push::Throttled);
    assert_eq!((outbox.bytes(), outbox.conflated()), (100, 1), "the crossing conflates");
    for (class, name, verdict) in [
        (Class::Latest, "b2", Push::Replaced),
        (Class::Latest, "c1", Push::Throttled),
        (Class::Droppable, "d2", Push::Dropped),
        (Class::Latest, "c2", Push::Replaced),
        (Class::Normal, "n2", Push::Throttled),
        (Class::Urgent, "u1", Push::Throttled),
        (Class::Latest, "a3", Push::Replaced),
    ] {
        assert_eq!(push(&mut outbox, class, name, 10), verdict, "{name}");
    }
    assert_eq!(outbox.conflated(), 4);
    assert_eq!(sent_names(&mut outbox), ["u1", "a3", "b2", "d1", "n1", "c2", "n2"]);
}

#[test]
fn hard_bound() {
    // (limits, bytes queued by one push, bytes of the next, its verdict)
    let limits = |high, max| OutboxLimits { high, low: 0, max };
    for (limits, queued, next, verdict) in [
        (LIMITS, 0, 5000, Push::Throttled),
        (LIMITS, 100, 5000, Push::Throttled),
        (LIMITS, 101, 99, Push::Throttled),
        (LIMITS, 101, 100, Push::Overflowed),
        (LIMITS, 5000, 2, Push::Overflowed),
        (limits(0, 0), 5000, 5000, Push::Queued),
        (limits(100, 0), 5000, 5000, Push::Throttled),
        (limits(0, 200), 0, 5000, Push::Queued),
        (limits(0, 200), 100, 100, Push::Queued),
        (limits(0, 200), 100, 101, Push::Overflowed),
    ] {
        let mut outbox = Outbox::default();
        if queued > 0 {
            let _ = outbox.push(item(Class::Normal, "n", queued), &limits);
        }
        assert_eq!(outbox.push(item(Class::Urgent, "u", next), &limits), verdict, "{limits:?} {queued} {next}");
        let expected = if verdict == Push::Overflowed { queued } else { queued + next };
        assert_eq!(outbox.bytes(), expected, "an overflow changes nothing");
    }
}

#[test]
fn what_is_partly_sent_or_gathered_is_not_touched() {
    let mut outbox = Outbox::default();
    assert_eq!(push(&mut outbox, Class::Latest, "a1", 60), Push::Queued);
    assert_eq!(push(&mut outbox, Class::Normal, "n1", 60), Push::Throttled);
    outbox.advance(1);
    assert_eq!(push(&mut outbox, Class::Latest, "a2", 10), Push::Throttled, "a1 is partly sent");
    assert_eq!(push(&mut outbox, Class::Latest, "a3", 10), Push::Replaced);
    assert_eq!(push(&mut outbox, Class::Urgent, "u1", 10), Push::Throttled);
    let mut scratch = [0; 1000];
    assert!(matches!(outbox.gather(&mut scratch), Gathered::Copied(139)));
    assert_eq!(push(&mut outbox, Class::Latest, "a4", 10), Push::Throttled, "a3 was gathered");
    assert_eq!(push(&mut outbox, Class::Urgent, "u2", 10), Push::Throttled);
    outbox.push_control(control(10, "pong"));
    outbox.advance(59 + 10 + 1);
    assert_eq!(&scratch[59..62], b"\x01u1");
    outbox.push_control(control(10, "pong2"));
    let mut expected = frame("n1", 60)[1..].to_vec();
    assert!(matches!(outbox.gather(&mut []), Gathered::Direct(rest) if rest == expected));
    outbox.advance(expected.len());
    expected.clear();
    assert_eq!(sent_names(&mut outbox), ["pong", "pong2", "u2", "a3", "a4"]);
}

#[test]
fn gathers_small_frames_together_and_big_ones_in_place() {
    const BIG: usize = COALESCE_BYTES_MAX + 1;
    // (sizes queued, scratch, bytes gathered, copied)
    for (sizes, scratch, gathered, copied) in [
        (vec![], 100, None, false),
        (vec![10], 100, Some(10), false),
        (vec![BIG * 10], 100, Some(BIG * 10), false),
        (vec![10, 20, 30], 100, Some(60), true),
        (vec![10, 20, 30], 59, Some(30), true),
        (vec![10, 20, 30], 29, Some(10), false),
        (vec![10, 20, 30], 0, Some(10), false),
        (vec![10, BIG, 30], 50_000, Some(10), false),
        (vec![10, 20, BIG, 30], 50_000, Some(30), true),
        (vec![BIG, 30], 50_000, Some(BIG), false),
        (vec![BIG - 1, BIG - 1], 50_000, Some(2 * BIG - 2), true),
    ] {
        let mut outbox = Outbox::default();
        for &size in &sizes {
            let _ = outbox.push(item(Class::Normal, "n", size), &OutboxLimits::default());
        }
        let mut scratch = vec![0; scratch];
        let got = match outbox.gather(&mut scratch) {
            Gathered::Empty => (None, false),
            Gathered::Copied(len) => (Some(len), true),
            Gathered::Direct(bytes) => (Some(bytes.len()), false),
        };
        assert_eq!(got, (gathered, copied), "{sizes:?}");
    }
}

#[test]
fn control_frames_are_bounded_and_never_dropped() {
    let mut outbox = Outbox::default();
    assert_eq!(push(&mut outbox, Class::Normal, "n", 5000), Push::Throttled);
    outbox.advance(1);
    for i in 0..1000 {
        outbox.push_control(control(9, &format!("ping{i}")));
        outbox.push_control(control(10, &format!("pong{i}")));
    }
    assert_eq!(outbox.len(), 1 + 1 + PONGS_MAX);
    outbox.advance(4999);
    let mut expected: Vec<String> = (0..PONGS_MAX - 1).map(|i| format!("pong{i}")).collect();
    expected.insert(0, "ping999".to_owned());
    expected.push("pong999".to_owned());
    assert_eq!(sent_names(&mut outbox), expected);
}

#[test]
fn nothing_follows_a_close_frame() {
    for last in [true, false] {
        let mut outbox = Outbox::default();
        for name in ["n1", "n2", "n3"] {
            assert_eq!(push(&mut outbox, Class::Normal, name, 10), Push::Queued);
        }
        outbox.push_control(control(9, "ping"));
        let mut scratch = [0; 100];
        assert!(matches!(outbox.gather(&mut scratch), Gathered::Copied(35)));
        match last {
            true => outbox.push_last(control(8, "close"), 0),
            false => outbox.push_control(control(8, "close")),
        }
        outbox.push_control(control(10, "pong"));
        outbox.push_last(control(8, "again"), 0);
        assert_eq!(push(&mut outbox, Class::Urgent, "u", 10), Push::Dropped);
        assert!(!outbox.has_gaps());
        outbox.advance(5 + 10);
        let expected: &[&str] = if last { &["n2", "n3", "close"] } else { &["close"] };
        assert_eq!(sent_names(&mut outbox), expected);
    }
}

#[test]
fn committed_frames_go_first_and_a_last_close_is_not_transformed() {
    let mut outbox = Outbox::default();
    for (class, name) in [(Class::Normal, "n1"), (Class::Normal, "n2"), (Class::Urgent, "u1")] {
        assert_eq!(push(&mut outbox, class, name, 10), Push::Queued);
    }
    outbox.push_last(control(8, "close"), 0);
    assert_eq!(outbox.pop_next().map(|item| item.frame.bytes().clone()), Some(frame("u1", 10)));
    outbox.commit(frame("U1", 5));
    assert_eq!((outbox.committed_bytes(), outbox.bytes(), outbox.len()), (5, 31, 4));
    assert!(
        matches!(outbox.gather(&mut [0; 100]), Gathered::Direct(bytes) if bytes.len() == 5),
        "the rest is to be transformed"
    );
    assert!(outbox.pop_next().is_none(), "not while it is being sent");
    outbox.advance(2);
    while let Some(item) = outbox.pop_next() {
        outbox.commit(item.frame);
    }
    outbox.advance(3);
    assert_eq!(sent_names(&mut outbox), ["n1", "n2", "close"]);
}

#[test]
fn shedding_conflates_and_drops_early_and_is_counted() {
    let mut outbox = Outbox::default();
    let limits = OutboxLimits::default();
    for (class, name) in
        [(Class::Droppable, "d1"), (Class::Latest, "a1"), (Class::Droppable, "d2"), (Class::Latest, "a2")]
    {
        let source = Source::Channel(7);
        assert_eq!(outbox.push(Item { source, ..item(class, name, 10) }, &limits), Push::Queued);
    }
    assert_eq!(outbox.shed(), 20);
    assert!(!outbox.is_throttled());
    assert_eq!(outbox.take_gaps().collect::<Vec<_>>(), [(Source::Channel(7), 1)]);
    assert_eq!(sent_names(&mut outbox), ["d1", "a2"]);
}

#[test]
fn ages() {
    let mut outbox = Outbox::default();
    let at = |class, name, now_ms| Item { queued_ms: now_ms, ..item(class, name, 60) };
    assert_eq!(outbox.oldest_age_ms(5), None);
    let early = u32::MAX - 10;
    assert_eq!(outbox.push(at(Class::Latest, "a1", early), &LIMITS), Push::Queued);
    assert_eq!(outbox.push(at(Class::Urgent, "u1", early + 4), &LIMITS), Push::Throttled);
    assert_eq!(outbox.push(at(Class::Latest, "a2", 9), &LIMITS), Push::Replaced);
    let now_ms = (1u64 << 32) + 9;
    assert_eq!(outbox.oldest_age_ms(now_ms), Some(20), "over the wrap, and of the place");
    assert_eq!(outbox.throttled_for_ms(now_ms), Some(16));
    outbox.advance(120);
    assert_eq!((outbox.oldest_age_ms(now_ms), outbox.throttled_for_ms(now_ms)), (None, None));
}

#[test]
fn one_frame_at_a_time_needs_no_room_but_its_own() {
    let mut pool = Outboxes::new();
    let shared = frame("n", 300);
    for _ in 0..3 {
        let handles: Vec<u32> = (0..100).map(|_| pool.lease()).collect();
        for &handle in &handles {
            let outbox = pool.get_mut(handle);
            assert_eq!(outbox.push(Item::normal(shared.clone(), 1), &LIMITS), Push::Throttled);
            assert!(
                matches!(outbox.gather(&mut [0; 1000]), Gathered::Direct(bytes) if bytes.as_ptr() == shared.as_ptr())
            );
            let advance = outbox.advance(300);
            assert!(advance.now_flowing && advance.empty);
            outbox.push_control(control(9, "ping"));
            assert_eq!(outbox.queue.capacity(), 0);
            pool.release(handle);
        }
    }
}

use super::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const PACE: Pace = Pace { batch_size: 4, batch_delay_ms: 5, unanswered_max: 8, renew_every_ms: 1_000 };

fn wants(pace: Pace) -> Wants {
    Wants::new(pace, RandomState::with_seeds(1, 2, 3, 4))
}

fn batch(wants: &mut Wants, now_ms: u64, unanswered: usize) -> Vec<Write> {
    let mut batch = Vec::new();
    wants.batch(now_ms, unanswered, &mut batch);
    batch
}

fn brief(writes: &[Write]) -> Vec<(Op, &str)> {
    writes.iter().map(|w| (w.op, &*w.name)).collect()
}

#[test]
fn what_cancels_out_is_never_sent() {
    let mut wants = wants(PACE);
    assert!(!wants.want("a", 0));
    wants.unwant("a", 1);
    assert_eq!((batch(&mut wants, 100, 0), wants.len(), wants.waiting()), (vec![], 0, 0));

    wants.want("a", 100);
    let put = batch(&mut wants, 105, 0);
    assert_eq!(brief(&put), [(Op::Put, "a")]);
    assert_eq!(wants.done(put[0].id, 106), Answered::Settled { name: "a".into(), present: true });
    assert!(wants.want("a", 107), "it is there already");
    wants.unwant("a", 108);
    wants.want("a", 109);
    assert_eq!(batch(&mut wants, 200, 0), []);
}

#[test]
fn however_often_it_changes_under_way_one_write_follows() {
    let mut wants = wants(PACE);
    wants.want("a", 0);
    let put = batch(&mut wants, 5, 0);
    for now in 6..11 {
        wants.unwant("a", now);
        wants.want("a", now);
    }
    wants.unwant("a", 11);
    assert_eq!(batch(&mut wants, 100, 1), [], "not before its answer");
    assert_eq!(wants.done(put[0].id, 100), Answered::Pending);
    let delete = batch(&mut wants, 105, 0);
    assert_eq!(brief(&delete), [(Op::Delete, "a")]);
    assert_eq!(wants.done(put[0].id, 106), Answered::Stale);
    assert_eq!(wants.done(delete[0].id, 106), Answered::Settled { name: "a".into(), present: false });
    assert!(wants.is_empty());
}

#[test]
fn a_batch_goes_by_size_or_by_delay_and_never_over_the_bound() {
    let mut wants = wants(PACE);
    for name in ["a", "b", "c"] {
        wants.want(name, 0);
    }
    assert_eq!((batch(&mut wants, 4, 0), wants.due_ms(4)), (vec![], Some(5)));
    wants.want("d", 4);
    assert_eq!(batch(&mut wants, 4, 0).len(), 4, "by size");
    wants.want("e", 10);
    assert_eq!(batch(&mut wants, 14, 4), []);
    assert_eq!(batch(&mut wants, 15, 8), [], "the bound");
    assert_eq!(batch(&mut wants, 15, 7).len(), 1, "by delay");
    assert_eq!((wants.due_ms(15), wants.waiting()), (None, 0));
}

#[test]
fn above_the_bound_churn_is_merged_and_does_not_pile_up() {
    let mut wants = wants(PACE);
    for i in 0..10_000 {
        let name = format!("u{i}");
        wants.want(&name, i);
        wants.unwant(&name, i);
        assert_eq!(batch(&mut wants, i, PACE.unanswered_max), []);
    }
    assert_eq!((wants.len(), wants.waiting(), wants.entries.len()), (0, 0, 1));
}

fn settle_all(wants: &mut Wants, now_ms: u64) -> Vec<Write> {
    let mut all = Vec::new();
    loop {
        let writes = batch(wants, now_ms, 0);
        if writes.is_empty() {
            return all;
        }
        for write in writes {
            wants.done(write.id, now_ms);
            all.push(write);
        }
    }
}

fn settle(wants: &mut Wants, now_ms: u64) -> Vec<(Op, String)> {
    settle_all(wants, now_ms).into_iter().map(|write| (write.op, write.name.to_string())).collect()
}

#[test]
fn after_a_loss_everything_is_made_good_in_bounded_batches_and_told_once() {
    let mut wants = wants(PACE);
    for i in 0..10 {
        wants.want(&format!("u{i}"), 0);
    }
    settle(&mut wants, 10);
    wants.unwant("u3", 20);
    let delete = batch(&mut wants, 30, 0);
    wants.distrust();
    wants.unwant("u4", 40);
    wants.want("new", 40);
    assert_eq!(wants.done(delete[0].id, 41), Answered::Stale);
    assert!(!wants.take_announced(41));
    let first = batch(&mut wants, 41, 0);
    assert_eq!(first.len(), PACE.batch_size);
    assert_eq!(brief(&first)[..2], [(Op::Delete, "u4"), (Op::Put, "new")], "clients first, at once");
    first.iter().for_each(|w| drop(wants.done(w.id, 42)));
    let mut rest = settle(&mut wants, 43);
    rest.extend(first.iter().map(|w| (w.op, w.name.to_string())));
    let deleted: BTreeSet<_> = rest.iter().filter(|(op, _)| *op == Op::Delete).map(|(_, n)| n.as_str()).collect();
    assert_eq!((rest.len(), deleted), (11, BTreeSet::from(["u3", "u4"])));
    assert!(wants.take_announced(44) && !wants.take_announced(45));
    assert_eq!(wants.len(), 9);
}

#[test]
fn under_a_fresh_epoch_nothing_old_needs_deleting() {
    let mut wants = wants(PACE);
    for name in ["a", "b"] {
        wants.want(name, 0);
    }
    settle(&mut wants, 10);
    wants.unwant("a", 20);
    wants.start_over();
    assert_eq!(settle(&mut wants, 21), [(Op::Put, "b".to_owned())]);
    assert!(wants.take_announced(22) && wants.len() == 1);
}

#[test]
fn nothing_to_announce_is_announced_even_if_old_questions_stay_unanswered() {
    let mut wants = wants(PACE);
    wants.want("a", 0);
    batch(&mut wants, 10, 0);
    wants.unwant("a", 11);
    wants.start_over();
    assert_eq!(batch(&mut wants, 12, 0), []);
    assert!(wants.take_announced(12) && wants.is_empty());
}

#[test]
fn refusals_hold_everything_for_a_while_and_are_not_announced() {
    let mut wants = wants(PACE);
    wants.want("a", 0);
    settle(&mut wants, 10);
    wants.distrust();
    let put = batch(&mut wants, 20, 0);
    assert_eq!(wants.refused(put[0].id, 20, 100), Answered::Pending);
    wants.want("b", 21);
    assert_eq!((batch(&mut wants, 119, 0), wants.take_announced(119)), (vec![], false));
    assert_eq!(wants.due_ms(119), Some(120));
    assert_eq!(settle(&mut wants, 120).len(), 2);
    assert!(wants.take_announced(120));
}

#[test]
fn a_forgotten_deletion_is_made_again_but_never_of_what_is_wanted() {
    let mut wants = wants(PACE);
    wants.want("mine", 0);
    settle(&mut wants, 10);
    wants.stray("mine", 20);
    wants.stray("ghost", 20);
    assert_eq!(settle(&mut wants, 30), [(Op::Delete, "ghost".to_owned())]);
    assert_eq!(wants.len(), 1);
}

#[test]
fn rows_are_renewed_evenly_over_the_interval() {
    let mut wants = wants(Pace { batch_size: 100, unanswered_max: 100, ..PACE });
    for i in 0..50 {
        wants.want(&format!("u{i}"), 0);
    }
    settle(&mut wants, 5);
    let (mut renewed, mut most) = (BTreeMap::<Rc<str>, u32>::new(), 0);
    for now in (10..4_010).step_by(20) {
        let writes = batch(&mut wants, now, 0);
        most = most.max(writes.len());
        for write in writes {
            assert_eq!(write.op, Op::Put);
            *renewed.entry(write.name.clone()).or_default() += 1;
            wants.done(write.id, now);
        }
    }
    assert_eq!(renewed.len(), 50);
    assert!(renewed.values().all(|n| (2..=4).contains(n)), "{renewed:?}");
    assert!(most <= 3, "{most} at once");
}

fn confirmed(writes: &[Write]) -> Vec<(Op, &str, bool)> {
    writes.iter().map(|w| (w.op, &*w.name, w.confirmed)).collect()
}

#[test]
fn a_write_says_whether_the_other_side_is_known_to_have_had_it() {
    let mut wants = wants(PACE);
    wants.want("a", 0);
    wants.want("b", 0);
    let puts = batch(&mut wants, 5, 0);
    assert_eq!(confirmed(&puts), [(Op::Put, "a", false), (Op::Put, "b", false)]);
    wants.done(puts[0].id, 6);
    // The answer for b is lost.
    wants.distrust();
    let again = batch(&mut wants, 10, 0);
    assert_eq!(confirmed(&again), [(Op::Put, "a", true), (Op::Put, "b", false)]);
    again.iter().for_each(|write| drop(wants.done(write.id, 11)));
    wants.unwant("a", 12);
    let delete = batch(&mut wants, 20, 0);
    assert_eq!(confirmed(&delete), [(Op::Delete, "a", true)]);
    // The answer is lost; meanwhile it is wanted again.
    wants.distrust();
    wants.want("a", 21);
    let last = batch(&mut wants, 30, 0);
    assert_eq!(confirmed(&last), [(Op::Put, "a", false), (Op::Put, "b", true)]);
    last.iter().for_each(|write| drop(wants.done(write.id, 31)));
    wants.start_over();
    let fresh = batch(&mut wants, 40, 0);
    assert_eq!(confirmed(&fresh), [(Op::Put, "a", false), (Op::Put, "b", false)], "others may have deleted it");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Want(u8),
    Unwant(u8),
    Send(u64),
    /// The other side does the next few writes and its answers come.
    Answer(u8),
    Refuse,
    /// The connection is cut: the other side had done so many of what was sent.
    Cut(u8),
    /// The other side forgets everything, and this is noticed.
    Flush,
    /// What was written is void: others have deleted it already, or not yet.
    Void(bool),
    /// A deletion is forgotten, and this is noticed by a message that comes for nobody.
    Ghost(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..12).prop_map(Step::Want),
        6 => (0u8..12).prop_map(Step::Unwant),
        8 => (0u64..20).prop_map(Step::Send),
        8 => (0u8..6).prop_map(Step::Answer),
        1 => Just(Step::Refuse),
        1 => (0u8..6).prop_map(Step::Cut),
        1 => Just(Step::Flush),
        1 => any::<bool>().prop_map(Step::Void),
        1 => (0u8..12).prop_map(Step::Ghost),
    ]
}

/// A naive other side, and whoever listens to it.
#[derive(Default)]
struct Other {
    has: BTreeSet<Rc<str>>,
    /// What was told of each name: that it came, or went.
    told: BTreeMap<Rc<str>, Vec<bool>>,
    /// Names that were forgotten and not announced again yet.
    forgotten: BTreeSet<Rc<str>>,
    /// Names whose last write was forgotten before anybody knew whether it had been carried out; or that were lost or became void while
    /// forgotten.
    obscure: BTreeSet<Rc<str>>,
}

impl Other {
    fn take(&mut self, write: &Write) {
        self.forgotten.remove(&write.name);
        let (changes, tells) = match write.op {
            Op::Put => (self.has.insert(write.name.clone()), !write.confirmed),
            Op::Delete => (self.has.remove(&write.name) || write.confirmed, true),
        };
        if changes && tells {
            self.told.entry(write.name.clone()).or_default().push(write.op == Op::Put);
        }
    }

    /// Others delete what has become void.
    fn clean_up(&mut self) {
        for name in std::mem::take(&mut self.has) {
            self.told.entry(name).or_default().push(false);
        }
    }
}

proptest! {
    // The same cases every time: with other seeds, and tens of thousands of them, when something here is changed.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(8), ..ProptestConfig::with_cases(512) })]

    /// Whatever was lost, refused or forgotten on the way, in the end the other side has what is wanted and nothing else; and whoever listens
    /// was told of each name that it came and went, by turns.
    #[test]
    fn the_other_side_ends_up_with_what_is_wanted(steps in proptest::collection::vec(step(), 0..200)) {
        let mut wants = wants(Pace { renew_every_ms: 50, ..PACE });
        let mut wanted: BTreeSet<Rc<str>> = BTreeSet::new();
        let mut other = Other::default();
        let mut sent: VecDeque<Write> = VecDeque::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Want(n) => {
                    let name = Rc::from(format!("u{n}"));
                    let there = wants.want(&name, now);
                    prop_assert!(!there || other.has.contains(&name), "it says so only if it is");
                    wanted.insert(name);
                }
                Step::Unwant(n) => {
                    let name = format!("u{n}");
                    wants.unwant(&name, now);
                    wanted.remove(&*name);
                }
                Step::Send(wait) => {
                    now += wait;
                    let writes = batch(&mut wants, now, sent.len());
                    prop_assert!(writes.len() <= PACE.batch_size);
                    sent.extend(writes);
                    prop_assert!(sent.len() <= PACE.unanswered_max);
                    let names: BTreeSet<_> = sent.iter().map(|w| w.name.clone()).collect();
                    prop_assert_eq!(names.len(), sent.len(), "one write of a name at a time");
                }
                Step::Answer(n) => {
                    for write in sent.drain(..usize::from(n).min(sent.len())) {
                        other.take(&write);
                        if let Answered::Settled { name, present } = wants.done(write.id, now) {
                            prop_assert_eq!(present, wanted.contains(&*name));
                        }
                    }
                }
                Step::Refuse => {
                    if let Some(write) = sent.pop_front() {
                        wants.refused(write.id, now, 10);
                    }
                }
                Step::Cut(n) => {
                    let done = usize::from(n).min(sent.len());
                    sent.drain(..done).for_each(|write| other.take(&write));
                    let lost = sent.drain(..).map(|write| write.name);
                    other.obscure.extend(lost.filter(|name| other.forgotten.contains(name)));
                    wants.distrust();
                }
                Step::Flush => {
                    // Whether what is under way, or was when the connection was cut, had been carried out before, nobody knows any more.
                    let unsure = wants.entries.iter().filter(|e| e.live && (!e.confirmed || e.asked.is_some())).map(|e| e.name.clone());
                    other.obscure.extend(unsure.chain(sent.iter().map(|write| write.name.clone())));
                    other.forgotten.append(&mut other.has);
                    sent.clear();
                    wants.distrust();
                }
                Step::Void(early) => {
                    sent.clear();
                    other.obscure.append(&mut other.forgotten);
                    if early {
                        other.clean_up();
                    }
                    wants.start_over();
                    if !early {
                        // What is wanted is written anew before the others come to it.
                        for write in settle_all(&mut wants, now) {
                            other.take(&write);
                        }
                        let void: Vec<_> = other.has.iter().filter(|name| !wanted.contains(*name)).cloned().collect();
                        for name in void {
                            other.has.remove(&name);
                            other.told.entry(name).or_default().push(false);
                        }
                    }
                }
                Step::Ghost(n) => {
                    let name: Rc<str> = Rc::from(format!("u{n}"));
                    if !wants.by_name.contains_key(&*name) && other.has.insert(name.clone()) {
                        other.told.entry(name.clone()).or_default().push(true);
                        wants.stray(&name, now);
                    }
                }
            }
        }
        for _ in 0..60 {
            now += 20;
            sent.extend(batch(&mut wants, now, sent.len()));
            for write in sent.drain(..) {
                other.take(&write);
                wants.done(write.id, now);
            }
            wants.take_announced(now);
        }
        prop_assert_eq!(&other.has, &wanted);
        prop_assert_eq!((wants.len(), wants.waiting(), wants.refused), (wanted.len(), 0, 0));
        let at_ease = matches!(wants.sweep, Sweep::Easy { .. });
        prop_assert!(at_ease);
        for (name, told) in other.told.iter().filter(|(name, _)| !other.obscure.contains(*name)) {
            let by_turns = told.iter().enumerate().all(|(number, came)| *came == number.is_multiple_of(2));
            prop_assert!(by_turns && told.last() == Some(&wanted.contains(name)), "{name} was told {told:?}");
        }
    }
}

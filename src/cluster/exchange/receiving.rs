//! What has come from the shards of other nodes: each number once and in order, and the answers that gather for them.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

use super::event::{Bounds, Discarded};
use crate::cluster::agent::own_channel;
use crate::cluster::delivery::Window;
use crate::cluster::parcel::{ANSWERS_MAX, Answer, Answers, Label, Origin, Target};

/// What one shard has received.
#[derive(Debug)]
pub(super) struct Inbox {
    bounds: Bounds,
    hasher: RandomState,
    peers: HashMap<Origin, Peer, RandomState>,
    recent: Recent,
    /// Origins for which answers have gathered.
    owed: Vec<Origin>,
    /// Answers to an address that its origin has left since.
    sealed: Vec<Parcel>,
    holes: u64,
}

/// A shard of another node, as the one that sends here.
#[derive(Debug)]
struct Peer {
    node: Rc<str>,
    epoch: u64,
    window: Window,
    moved: Moved,
    answers: Vec<(u64, Answer)>,
    /// It is among those for whom answers have gathered.
    owed: bool,
    heard_ms: u64,
}

/// Answers of one shard to another, to be published.
#[derive(Debug, PartialEq)]
pub(super) struct Parcel {
    pub(super) to: Origin,
    pub(super) node: Rc<str>,
    pub(super) epoch: u64,
    pub(super) answers: Vec<(u64, Answer)>,
}

/// What to do with a number that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It is new.
    New,
    /// It is to be answered so, and nothing else.
    Answer(Answer),
}

impl Inbox {
    pub(super) fn new(bounds: Bounds, hasher: RandomState) -> Self {
        Inbox {
            bounds,
            peers: HashMap::with_hasher(hasher.clone()),
            recent: Recent::new(bounds.remembered_max, hasher.clone()),
            hasher,
            owed: Vec::new(),
            sealed: Vec::new(),
            holes: 0,
        }
    }

    /// Lets a number pass once, and in order: what comes after one that was sent later would be delivered after it.
    pub(super) fn admit(&mut self, label: &Label<'_>, now_ms: u64) -> Result<(), Discarded> {
        if label.number == 0 {
            return Err(Discarded::Twice);
        }
        if !self.peers.contains_key(&label.origin) {
            self.make_room();
        }
        let bound = self.bounds.moved_per_origin_max;
        let peer = self.peers.entry(label.origin).or_insert_with(|| Peer {
            node: label.origin_node.into(),
            epoch: label.origin_epoch,
            window: Window::beginning(label.number),
            moved: Moved::new(label.number - 1, bound, self.hasher.clone()),
            answers: Vec::new(),
            owed: false,
            heard_ms: now_ms,
        });
        peer.heard_ms = now_ms;
        if *peer.node != *label.origin_node || peer.epoch != label.origin_epoch {
            self.sealed.extend(peer.parcel(label.origin));
            (peer.node, peer.epoch) = (label.origin_node.into(), label.origin_epoch);
        }
        let (newest, holes) = (peer.window.newest(), peer.window.holes());
        let fresh = peer.window.admit(label.number);
        if fresh && label.number - 1 > newest {
            peer.moved.forget_until(label.number - 1);
        }
        self.holes = self.holes.saturating_add(peer.window.holes() - holes);
        match fresh {
            true if label.number > newest => Ok(()),
            true => Err(Discarded::Late),
            false => Err(Discarded::Twice),
        }
    }

    /// Whether a message that was admitted is answered without being delivered: its route is stale, or it was delivered under an earlier
    /// number.
    pub(super) fn came(&self, label: &Label<'_>) -> Came {
        let user = self.hash_user(label);
        if self.peers.get(&label.origin).is_some_and(|peer| peer.moved.is_stale(user, label.route_began)) {
            return Came::Answer(Answer::Moved);
        }
        self.recent.get(self.hash_message(label)).map_or(Came::New, Came::Answer)
    }

    /// Keeps an answer until [`Inbox::take_parcels`].
    pub(super) fn answer(&mut self, label: &Label<'_>, answer: Answer) {
        let user = self.hash_user(label);
        if answer != Answer::Moved {
            self.recent.insert(self.hash_message(label), answer);
        }
        let Some(peer) = self.peers.get_mut(&label.origin) else { return };
        if answer == Answer::Moved {
            peer.moved.insert(user, label.number);
        } else {
            peer.moved.remove(user);
        }
        if !std::mem::replace(&mut peer.owed, true) {
            self.owed.push(label.origin);
        }
        peer.answers.push((label.number, answer));
        if peer.answers.len() >= ANSWERS_MAX {
            self.sealed.extend(peer.parcel(label.origin));
        }
    }

    /// Everything that has gathered.
    pub(super) fn take_parcels(&mut self) -> Vec<Parcel> {
        let mut parcels = std::mem::take(&mut self.sealed);
        for origin in self.owed.drain(..) {
            let Some(peer) = self.peers.get_mut(&origin) else { continue };
            peer.owed = false;
            parcels.extend(peer.parcel(origin));
        }
        parcels
    }

    /// Answers that have gathered.
    pub(super) fn owed(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|parcel| parcel.answers.len()).sum();
        sealed + self.owed.iter().filter_map(|origin| self.peers.get(origin)).map(|p| p.answers.len()).sum::<usize>()
    }

    /// Another epoch begins here: nobody has sent anything to it yet. What was delivered is still remembered.
    pub(super) fn start_over(&mut self) {
        self.peers.clear();
        self.owed.clear();
        self.sealed.clear();
    }

    /// Forgets the shards of nodes that are no more.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Rc<str>, u64) -> bool) {
        self.peers.retain(|_, peer| keep(&peer.node, peer.epoch));
    }

    /// Numbers that never came.
    pub(super) fn holes(&self) -> u64 {
        self.holes
    }

    pub(super) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Forgets whom it has not heard for longest. Should they send again, their numbers begin where they are.
    fn make_room(&mut self) {
        if self.peers.len() < self.bounds.origins_max {
            return;
        }
        if let Some((&origin, _)) = self.peers.iter().min_by_key(|(_, peer)| peer.heard_ms) {
            let parcel = self.peers.remove(&origin).and_then(|mut peer| peer.parcel(origin));
            self.sealed.extend(parcel);
        }
    }

    fn hash_user(&self, label: &Label<'_>) -> u64 {
        match label.to {
            Target::User(user) => self.hasher.hash_one(user),
            Target::Room(_) | Target::Channel(_) | Target::All => 0,
        }
    }

    fn hash_message(&self, label: &Label<'_>) -> u64 {
        self.hasher.hash_one((label.message_id, self.hash_user(label)))
    }
}

impl Peer {
    fn parcel(&mut self, to: Origin) -> Option<Parcel> {
        let answers = std::mem::take(&mut self.answers);
        (!answers.is_empty()).then(|| Parcel { to, node: self.node.clone(), epoch: self.epoch, answers })
    }
}

impl Parcel {
    pub(super) fn channel(&self) -> String {
        own_channel(&self.node, self.epoch, self.to.shard)
    }

    pub(super) fn encode(&self, me: Origin, node: &str, epoch: u64) -> Vec<u8> {
        Answers { origin: me, node, epoch, answers: self.answers.clone() }.encode()
    }
}

/// The users of which one origin was told that they are not here, by hash: two that share one cost a look-up. What was sent to them by the
/// same route after that must come by another, behind what came back.
///
/// Numbers that did not come may have been for anybody, and are sent again if nobody has heard them. So they count as said to everybody; and
/// so does what is forgotten here. It costs look-ups, and keeps the order.
#[derive(Debug)]
struct Moved {
    newest: HashMap<u64, u64, RandomState>,
    /// In the order in which it was said; what was said again later, or is void, is skipped.
    said: VecDeque<(u64, u64)>,
    /// Said to everybody, up to this number.
    to_all: u64,
    max: usize,
}

impl Moved {
    fn new(to_all: u64, max: usize, hasher: RandomState) -> Self {
        Moved { newest: HashMap::with_hasher(hasher), said: VecDeque::new(), to_all, max }
    }

    fn is_stale(&self, user: u64, began: u64) -> bool {
        began <= self.to_all || self.newest.get(&user).is_some_and(|said| began <= *said)
    }

    fn insert(&mut self, user: u64, number: u64) {
        self.newest.insert(user, number);
        self.said.push_back((user, number));
        while self.newest.len() > self.max || self.said.len() > 2 * self.max {
            let Some((user, number)) = self.said.pop_front() else { return };
            if self.newest.get(&user) == Some(&number) {
                self.newest.remove(&user);
                self.forget_until(number);
            }
        }
    }

    fn forget_until(&mut self, number: u64) {
        self.to_all = self.to_all.max(number);
    }

    /// A message has come by a newer route.
    fn remove(&mut self, user: u64) {
        self.newest.remove(&user);
    }
}

/// What was delivered lately, by hash: the newest half at least.
#[derive(Debug)]
struct Recent {
    new: HashMap<u64, Answer, RandomState>,
    old: HashMap<u64, Answer, RandomState>,
    max: usize,
}

impl Recent {
    fn new(max: usize, hasher: RandomState) -> Self {
        Recent { new: HashMap::with_hasher(hasher.clone()), old: HashMap::with_hasher(hasher), max }
    }

    fn get(&self, message: u64) -> Option<Answer> {
        self.new.get(&message).or_else(|| self.old.get(&message)).copied()
    }

    fn insert(&mut self, message: u64, answer: Answer) {
        if self.new.len() >= self.max / 2 {
            std::mem::swap(&mut self.new, &mut self.old);
            self.new.clear();
        }
        self.new.insert(message, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MessageId, ShardId};

    fn inbox(bounds: Bounds) -> Inbox {
        Inbox::new(bounds, RandomState::with_seeds(1, 2, 3, 4))
    }

    fn label(number: u64, route_began: u64, user: &str) -> Label<'_> {
        Label {
            origin: Origin { instance: 9, shard: ShardId(1) },
            origin_node: "b",
            origin_epoch: 5,
            number,
            route_began,
            to: Target::User(user),
            message_id: MessageId(u128::from(number)),
            class: Default::default(),
            key: None,
            tags: None,
            except_user: None,
        }
    }

    #[test]
    fn numbers_pass_once_and_in_order_and_begin_where_they_begin() {
        let mut inbox = inbox(Bounds::default());
        for (number, came) in [
            (50, Ok(())),
            (50, Err(Discarded::Twice)),
            (51, Ok(())),
            (54, Ok(())),
            (53, Err(Discarded::Late)),
            (53, Err(Discarded::Twice)),
            (49, Err(Discarded::Twice)),
            (0, Err(Discarded::Twice)),
            (u64::MAX, Ok(())),
        ] {
            assert_eq!(inbox.admit(&label(number, 1, "u"), 0), came, "{number}");
        }
        let other = Label { origin: Origin { instance: 9, shard: ShardId(2) }, ..label(50, 1, "u") };
        assert_eq!(inbox.admit(&other, 0), Ok(()), "another origin counts by itself");
    }

    #[test]
    fn who_was_said_to_have_moved_has_moved_until_the_route_is_another() {
        let mut inbox = inbox(Bounds { moved_per_origin_max: 2, ..Bounds::default() });
        let came = |inbox: &mut Inbox, number, began, user: &'static str, here: Option<Answer>| {
            inbox.admit(&label(number, began, user), 0).unwrap();
            let came = inbox.came(&label(number, began, user));
            let answer = match came {
                Came::New => here.unwrap_or(Answer::Moved),
                Came::Answer(answer) => answer,
            };
            inbox.answer(&label(number, began, user), answer);
            came
        };
        assert_eq!(came(&mut inbox, 1, 1, "u", None), Came::New);
        // The user is back, and the next was sent by the same route: it must not overtake the first.
        assert_eq!(came(&mut inbox, 2, 1, "u", Some(Answer::Delivered)), Came::Answer(Answer::Moved));
        assert_eq!(came(&mut inbox, 3, 3, "v", Some(Answer::Delivered)), Came::New, "another user");
        assert_eq!(came(&mut inbox, 4, 4, "u", Some(Answer::Delivered)), Came::New, "looked up since");
        assert_eq!(came(&mut inbox, 5, 4, "u", Some(Answer::Delivered)), Came::New);
        // More than can be remembered: then every route counts as stale that is as old.
        for (number, user) in [(6, "w"), (7, "x"), (8, "y")] {
            assert_eq!(came(&mut inbox, number, number, user, None), Came::New);
        }
        assert_eq!(came(&mut inbox, 9, 3, "v", Some(Answer::Delivered)), Came::Answer(Answer::Moved));
        assert_eq!(came(&mut inbox, 10, 10, "v", Some(Answer::Delivered)), Came::New);
    }

    #[test]
    fn what_follows_a_number_that_did_not_come_may_have_to_come_again_behind_it() {
        let mut inbox = inbox(Bounds::default());
        for (number, began, came) in [
            (5, 5, Came::New),
            (6, 5, Came::New),
            (8, 5, Came::Answer(Answer::Moved)),
            (9, 7, Came::Answer(Answer::Moved)),
            (10, 10, Came::New),
            (11, 8, Came::New),
        ] {
            inbox.admit(&label(number, began, "u"), 0).unwrap();
            assert_eq!(inbox.came(&label(number, began, "u")), came, "{number}");
        }
    }

    #[test]
    fn what_was_delivered_under_another_number_is_answered_and_not_delivered_again() {
        let mut inbox = inbox(Bounds { remembered_max: 8, ..Bounds::default() });
        let again = Label { message_id: MessageId(1), ..label(2, 2, "u") };
        inbox.admit(&label(1, 1, "u"), 0).unwrap();
        inbox.answer(&label(1, 1, "u"), Answer::Dropped);
        assert_eq!(inbox.came(&again), Came::Answer(Answer::Dropped));
        assert_eq!(inbox.came(&Label { to: Target::User("v"), ..again.clone() }), Came::New, "it is for several users");
        inbox.start_over();
        assert_eq!(inbox.came(&again), Came::Answer(Answer::Dropped), "under another epoch too");
        for number in 2..20 {
            inbox.answer(&label(number, number, "u"), Answer::Delivered);
            assert!(inbox.recent.new.len() + inbox.recent.old.len() <= 8);
        }
    }

    #[test]
    fn answers_go_in_full_parcels_to_where_their_origin_was() {
        let mut inbox = inbox(Bounds { origins_max: 2, ..Bounds::default() });
        let count = ANSWERS_MAX as u64 + 2;
        for number in 1..=count {
            inbox.admit(&label(number, 1, "u"), 0).unwrap();
            inbox.answer(&label(number, 1, "u"), Answer::Delivered);
        }
        let moved = Label { origin_epoch: 6, ..label(count + 1, 1, "u") };
        inbox.admit(&moved, 0).unwrap();
        inbox.answer(&moved, Answer::Dropped);
        assert_eq!(inbox.owed() as u64, count + 1);
        let parcels: Vec<_> = inbox.take_parcels().iter().map(|p| (p.channel(), p.answers.len())).collect();
        let expected = [("shard:b:5:1", ANSWERS_MAX), ("shard:b:5:1", 2), ("shard:b:6:1", 1)];
        assert_eq!(parcels, expected.map(|(channel, len)| (channel.to_owned(), len)));
        assert_eq!((inbox.take_parcels(), inbox.owed()), (vec![], 0));
        // Those who are forgotten for others are answered first.
        for (instance, now_ms) in [(1, 1), (2, 2), (3, 3)] {
            let label = Label { origin: Origin { instance, shard: ShardId(0) }, ..label(1, 1, "u") };
            inbox.admit(&label, now_ms).unwrap();
            inbox.answer(&label, Answer::Delivered);
            assert!(inbox.peers() <= 2);
        }
        assert_eq!(inbox.take_parcels().len(), 3);
    }
}

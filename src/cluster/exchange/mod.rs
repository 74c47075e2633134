//! Messages to users on other nodes, and from there: one exchange per shard, for the users whose home on this node is this shard.
//!
//! What is sent to a user comes here, whether or not the user has connections on this node; what other nodes send to the user comes here
//! before it goes to those connections. Calls in, [effects](Effect) out; nothing here knows Redis, a socket or a clock.
//!
//! # What holds
//!
//! * A token is settled once, and truly. *Delivered*: it is in an outbox. *Offline*: somebody who was asked after the message came has said
//!   that the user is nowhere, and every place that was tried has said so too. What is not known is *unavailable*.
//! * A message is delivered at most once by every node, and to the connections of one user in the order in which this shard took the messages.
//! * What is sent again had not arrived, as far as its destination could still say; it keeps its id, by which a destination that has it
//!   already knows it.
//! * Everything is [bounded](Bounds), and what is given up is [counted](Counters).
//!
//! # How a driver uses it
//!
//! * To send: [`Exchange::defers`], then deliver to the user's connections here unless it does, then [`Exchange::send`].
//! * What arrives on the shard's own channel or on [`BROADCAST_CHANNEL`]: [`Exchange::message`] and, if it says so, deliver and
//!   [`Exchange::delivered`]; or [`Exchange::answers`]. In [`Mode::Broadcast`] all shards listen, and those that are not the user's home say
//!   [`Exchange::overheard`].
//! * What the bus and the agent say goes in as it comes, in its order: [`Exchange::found`], [`Exchange::published`],
//!   [`Exchange::unanswered`], [`Exchange::invalidated`], [`Exchange::standing`], [`Exchange::listening`], [`Exchange::link_up`],
//!   [`Exchange::nodes`].
//! * [`Exchange::tick`] every [`TICK_MS`](crate::limits::TICK_MS), and [`Exchange::end_turn`] after each turn in which anything was called.
//! * After any of these [`Exchange::next_effect`] until there is none.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

pub use counters::Counters;
pub use event::{Bounds, Cause, Discarded, Effect, Here, Letter, Mode, Outcome, Outgoing, Settings, Verdict};

use self::messages::{Key, Messages};
use self::places::Places;
use self::receiving::Inbox;
use super::agent::{Clock, Standing, own_channel};
use super::delivery::{self, Destination, Outstanding};
use super::parcel::Answers;
use super::registry::Rows;
use super::registry::lookups::{self, Lookups};
use super::registry::routes::Routes;
use crate::protocol::reply::Status;

mod arriving;
mod broadcast;
mod counters;
mod event;
mod messages;
mod places;
mod receiving;
mod registry;
mod settling;

/// The channel of all shards in [`Mode::Broadcast`], without `redis.prefix`.
pub const BROADCAST_CHANNEL: &str = "shards";
/// How long after the bus was lost answers may still come to what was sent before.
const LOST_GRACE_MS: u64 = 1_000;

/// A lease, as a poll has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled<'a> {
    /// The name of the node.
    pub node: &'a str,
    /// Its epoch.
    pub epoch: u64,
    /// Until when it lives if it is not renewed (boottime, reckoned from when the poll was sent). `None`: it is over.
    pub until_ms: Option<u64>,
    /// The shards of the node.
    pub shards: u16,
}

/// What is under way: for the metrics, and for tests that nothing leaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Messages that are not done with.
    pub messages: usize,
    /// Bytes of their frames.
    pub bytes: usize,
    /// Of them, those that wait for a look-up.
    pub waiting: usize,
    /// Messages, times the destinations of each, that are not acknowledged.
    pub unanswered: usize,
    /// Users to whom something is on its way or waits.
    pub flows: usize,
    /// Publishes that Redis has not answered.
    pub publishing: usize,
    /// Users whose rows are remembered.
    pub routes: usize,
    /// Shards of other nodes that have sent something.
    pub origins: usize,
    /// Answers to them that have gathered.
    pub answers: usize,
}

/// Messages between this shard and users on other nodes.
#[derive(Debug)]
pub struct Exchange {
    settings: Settings,
    me: Option<Me>,
    up: bool,
    /// What was sent no later than this is given up, a grace after it.
    lost_ms: Option<u64>,
    doubt: Option<Doubt>,
    /// Other nodes have users that the registry does not know yet.
    announcing: bool,
    messages: Messages,
    /// Those that wait, by their order, which is that of their deadlines.
    waits: BTreeMap<u64, Key>,
    lookups: Lookups<Key>,
    routes: Routes,
    places: Places,
    outstanding: Outstanding<Part>,
    publishing: VecDeque<Publishing>,
    next_ticket: u64,
    broadcasts: broadcast::Broadcasts,
    inbox: Inbox,
    effects: VecDeque<Effect>,
    counters: Counters,
}

/// This node under its lease.
#[derive(Clone, Debug)]
struct Me {
    node: Rc<str>,
    epoch: u64,
    until_ms: u64,
    /// Since when (boottime).
    since_ms: u64,
    channel: Rc<str>,
    /// What comes now was published under this lease.
    listens: bool,
}

/// Redis may have forgotten who is where.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Since when, and when it was last confirmed (boottime).
    since_ms: u64,
    latest_ms: u64,
    /// Until when (monotonic), once the link is up.
    until_ms: Option<u64>,
}

/// A message at one of its destinations.
#[derive(Debug)]
struct Part {
    key: Key,
    node: Rc<str>,
}

/// A publish that Redis has not answered.
#[derive(Debug)]
struct Publishing {
    ticket: u64,
    number: u64,
    /// `None`: everybody.
    to: Option<Destination>,
}

impl Exchange {
    /// Nothing is under way, the link is down, and this node has no lease.
    pub fn new(settings: Settings, hasher: RandomState) -> Self {
        let Bounds { messages_max, bytes_max, .. } = settings.bounds;
        let unanswered = delivery::Bounds {
            messages_max: settings.bounds.unanswered_max,
            // A frame is held once, however many destinations it goes to.
            bytes_max: usize::MAX,
            messages_per_destination_max: settings.bounds.unanswered_per_destination_max,
        };
        let waiting =
            lookups::Bounds { waiting_max: messages_max, waiting_per_user_max: settings.bounds.waiting_per_user_max };
        debug_assert!(bytes_max > 0 && messages_max > 0);
        Exchange {
            settings,
            me: None,
            up: false,
            lost_ms: None,
            doubt: None,
            announcing: false,
            messages: Messages::default(),
            waits: BTreeMap::new(),
            lookups: Lookups::new(waiting, hasher.clone()),
            routes: Routes::new(settings.bounds.routes_max, hasher.clone()),
            places: Places::new(hasher.clone()),
            outstanding: Outstanding::new(unanswered, hasher.clone()),
            publishing: VecDeque::new(),
            next_ticket: 1,
            broadcasts: broadcast::Broadcasts::default(),
            inbox: Inbox::new(settings.bounds, hasher),
            effects: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Whether the connections of this user here must not be given a message now, because earlier ones may still have to be given to them:
    /// then it is sent as [`Here::Waits`], and comes back as [`Effect::Here`] in its turn. Only so when a user has just come from another
    /// node to which messages are still under way; never while the link is down.
    pub fn defers(&self, user: &str) -> bool {
        self.up && self.lookups.is_homeless(user)
    }

    /// Sends a message to wherever its user is.
    pub fn send(&mut self, outgoing: Outgoing, clock: Clock) {
        let Outgoing { letter, here, token } = outgoing;
        self.counters.messages += 1;
        let open = self.is_open(clock);
        let bytes = self.messages.bytes() + letter.frame.len();
        let full = self.messages.len() >= self.settings.bounds.messages_max || bytes > self.settings.bounds.bytes_max;
        if !open && self.lookups.waiting() > 0 {
            // The lease has run out, and nobody has said so yet. They go first.
            self.give_up_waiting();
        }
        if full || (!open && here != Here::Waits) {
            return self.refuse(here, token, if open { Cause::Full } else { Cause::Link });
        }
        let deadline_ms = clock.mono_ms + self.settings.answer_within_ms;
        let key = self.messages.insert(letter, here, token, deadline_ms);
        self.settle_delivered(key);
        match self.settings.mode {
            _ if !open => self.give_up(key, Cause::Link),
            Mode::Registry => self.send_by_registry(key, here == Here::Waits, clock),
            Mode::Broadcast => self.send_to_all(key, clock),
        }
    }

    /// The answer to [`Effect::Here`]: what the user's connections here made of it; `None`: there are none.
    pub fn here(&mut self, ticket: u64, status: Option<Status>) {
        let key = Key::of_ticket(ticket);
        let Some(message) = self.messages.get_mut(key) else { return };
        message.pending = message.pending.saturating_sub(1);
        if let Some(status) = status.filter(|status| *status != Status::Offline) {
            message.here_done = true;
            message.learn(status);
            // So whatever of this user's was still to be delivered here has been, in its turn, or waits.
            self.lookups.came_home(&message.letter.user);
            self.settle_delivered(key);
        }
        self.finish_if_done(key);
    }

    /// The answer to [`Effect::Find`]: the user's rows, or `None` where there was no answer.
    pub fn found(&mut self, user: &str, rows: Option<Rows>, clock: Clock) {
        self.found_by_registry(user, rows, clock);
    }

    /// The rows of this user have changed. To be called as well when a write of this shard to the rows of a user is answered: Redis
    /// forgets then that this connection has read them, and with `NOLOOP` does not say so.
    pub fn invalidated(&mut self, user: &str) {
        self.routes.invalidate(user);
        if let Some(user) = self.lookups.wake(user) {
            self.ask(user);
        }
    }

    /// What was read is worth nothing any more: the connection is gone over which it was read, or everything was flushed.
    pub fn invalidated_all(&mut self, clock: Clock) {
        self.routes.clear();
        self.doubt_registry(clock);
    }

    /// A publish was answered: so many connections have heard it; `None`: Redis refused it.
    pub fn published(&mut self, ticket: u64, heard: Option<u64>, clock: Clock) {
        let Some(Publishing { number, to, .. }) = self.take_publishing(ticket) else { return };
        match to {
            Some(to) => self.published_to(&to, number, heard, clock),
            None => self.published_to_all(number, heard),
        }
    }

    /// The connection ended with these publishes on their way: their answers may still come from their destinations.
    pub fn unanswered(&mut self, tickets: &[u64]) {
        for ticket in tickets {
            if let Some(Publishing { number, to: None, .. }) = self.take_publishing(*ticket) {
                self.unanswered_by_all(number);
            }
        }
    }

    /// Answers have come, on the shard's own channel.
    pub fn answers(&mut self, answers: &Answers<'_>, clock: Clock) {
        match self.settings.mode {
            Mode::Registry => self.answered(answers, clock),
            Mode::Broadcast => self.answered_by_node(answers),
        }
    }

    /// All leases of a poll that was sent at `asked_boot_ms`: the living, and those that are over and not cleaned up.
    pub fn nodes<'a>(&mut self, leases: impl IntoIterator<Item = Polled<'a>>, asked_boot_ms: u64, clock: Clock) {
        self.places.polled(leases, asked_boot_ms);
        let places = &self.places;
        self.inbox.retain(|node, epoch| !places.has_ended(node, epoch));
        self.judge_doubt(asked_boot_ms, clock);
        match self.settings.mode {
            Mode::Registry => self.bury_destinations(clock),
            Mode::Broadcast => self.polled_nodes(asked_boot_ms, clock),
        }
    }

    /// Whether other nodes are known, or may be, whose users are not all in the registry (yet): while there are any, nobody is believed to be
    /// nowhere.
    pub fn announcing(&mut self, announcing: bool) {
        self.announcing = announcing;
    }

    /// How the lease of this node stands.
    pub fn standing(&mut self, standing: Option<&Standing>, clock: Clock) {
        if let (Some(me), Some(standing)) = (&mut self.me, standing)
            && (*me.node == *standing.node && me.epoch == standing.epoch)
        {
            me.until_ms = standing.until_ms;
            return;
        }
        if self.me.is_some() {
            // What was received was received under this lease; answers to what was sent would come to a channel that is given up.
            self.flush_answers();
            self.inbox.start_over();
            self.lose_everything();
        }
        let shard = self.settings.me.shard;
        self.me = standing.map(|Standing { node, epoch, until_ms, .. }| Me {
            node: Rc::from(&**node),
            epoch: *epoch,
            until_ms: *until_ms,
            since_ms: clock.boot_ms,
            channel: own_channel(node, *epoch, shard).into(),
            listens: false,
        });
    }

    /// Whether the subscription to the shard's own channel under the present epoch is confirmed. What comes over the same connection before
    /// that was published before the lease was acquired, perhaps long before, if the node was stopped; on a channel whose name does not bear
    /// the epoch, as [`BROADCAST_CHANNEL`], nothing else tells it apart.
    pub fn listening(&mut self, listens: bool) {
        if let Some(me) = &mut self.me {
            me.listens = listens;
        }
    }

    /// Whether the bus can be relied on: [`State::Up`](crate::cluster::link::State::Up).
    pub fn link_up(&mut self, up: bool, clock: Clock) {
        if up == self.up {
            return;
        }
        self.up = up;
        if up {
            self.places.forget_deaf();
            if let Some(doubt) = &mut self.doubt {
                doubt.until_ms = Some(clock.mono_ms + self.settings.doubt_ms);
            }
        } else {
            self.lost_ms = Some(clock.mono_ms);
            self.give_up_waiting();
        }
    }

    /// Time passed.
    pub fn tick(&mut self, clock: Clock) {
        let now_ms = clock.mono_ms;
        self.places.tick(now_ms);
        let lost_ms = self.lost_ms.take_if(|lost_ms| now_ms >= *lost_ms + LOST_GRACE_MS);
        let overdue_ms = now_ms.checked_sub(self.settings.answer_within_ms);
        for (sent_by_ms, cause) in [(lost_ms, Cause::Lost), (overdue_ms, Cause::Timeout)] {
            let Some(sent_by_ms) = sent_by_ms else { continue };
            self.give_up_sent(sent_by_ms, cause);
            self.give_up_broadcasts(sent_by_ms, cause);
        }
        while let Some((_, &key)) = self.waits.first_key_value() {
            match self.messages.get(key) {
                Some(message) if message.deadline_ms > now_ms => break,
                _ => self.give_up_one_that_waits(key, Cause::Timeout),
            }
        }
        if self.doubt.is_some_and(|doubt| doubt.until_ms.is_some_and(|until_ms| now_ms >= until_ms)) {
            self.doubt = None;
        }
        while let Some(user) = self.lookups.wake_next(now_ms) {
            self.ask(user);
        }
    }

    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is under way.
    pub fn held(&self) -> Held {
        Held {
            messages: self.messages.len(),
            bytes: self.messages.bytes(),
            waiting: self.lookups.waiting(),
            unanswered: self.outstanding.held().0 + self.broadcasts.len(),
            flows: self.lookups.len(),
            publishing: self.publishing.len(),
            routes: self.routes.len(),
            origins: self.inbox.peers(),
            answers: self.inbox.owed(),
        }
    }

    /// Whether something can be sent now.
    fn is_open(&self, clock: Clock) -> bool {
        self.up && self.me.as_ref().is_some_and(|me| clock.boot_ms < me.until_ms)
    }

    fn ask(&mut self, user: Rc<str>) {
        self.counters.looked_up += 1;
        self.effects.push_back(Effect::Find { user });
    }

    fn publish(&mut self, to: Option<Destination>, number: u64, channel: Rc<str>, payload: Vec<u8>) {
        let ticket = self.next_ticket();
        self.publishing.push_back(Publishing { ticket, number, to });
        self.effects.push_back(Effect::Publish { ticket, channel, payload });
    }

    fn next_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket - 1
    }

    fn take_publishing(&mut self, ticket: u64) -> Option<Publishing> {
        let index = self.publishing.binary_search_by_key(&ticket, |publishing| publishing.ticket).ok()?;
        self.publishing.remove(index)
    }
}

#[cfg(test)]
mod tests;

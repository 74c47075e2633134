//! Sending by the rows of the registry: look-ups, destinations, their answers, and what has to be sent again.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use super::event::{Cause, Letter};
use super::messages::{Key, Message};
use super::places::{Life, Places};
use super::{Exchange, Me, Part};
use crate::cluster::agent::{Clock, own_channel};
use crate::cluster::delivery::Destination;
use crate::cluster::parcel::{Answer, Answers, Label, Origin, Target};
use crate::cluster::registry::lookups::Verdict;
use crate::cluster::registry::{Row, Rows};
use crate::limits::EXCHANGE_ORIGINS_MAX;
use crate::protocol::reply::Status;

/// How long a flow is held at first before its user is looked up again; twice as long every time after that, up to 16 times. A change of
/// the user's rows ends it.
const HOLD_MS: u64 = 100;

/// Where a message can go.
#[derive(Debug, Default)]
struct Survey {
    open: SmallVec<[Destination; 2]>,
    /// They did not have the user when they were last asked.
    left: SmallVec<[Destination; 1]>,
    /// There is one that cannot be sent to now.
    blocked: bool,
}

/// What a look-up has led to.
enum Placed {
    /// It is sent, or answered.
    Done,
    /// It must be looked up again, for want of this.
    Hold(Cause),
    /// It was not asked for: the look-up was under way when the message came.
    Ask,
}

/// Why a message comes back from a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    /// The user is not there.
    Moved,
    /// Nobody has heard it.
    Unheard,
    /// The destination is dead, and has not said whether it has it.
    Died,
}

impl Exchange {
    pub(super) fn send_by_registry(&mut self, key: Key, waits: bool, clock: Clock) {
        let (Some(message), Some(me)) = (self.messages.get(key), &self.me) else { return };
        let (user, order, homeless) = (message.letter.user.clone(), message.order, !message.here_done);
        let survey = match self.routes.get(&user) {
            Some(rows) if !waits => Some(Survey::of(rows, me, message, &mut self.places, clock)),
            Some(_) | None => None,
        };
        // That the user is nowhere is believed only where nobody waits to hear it.
        let nowhere_will_do = message.is_delivered() || message.token.is_none();
        let survey = survey.filter(|survey| !survey.open.is_empty() || (nowhere_will_do && survey.is_nowhere()));
        match self.lookups.send(&user, order, key, survey.is_some(), homeless) {
            Verdict::Send => {
                self.counters.cache_hits += 1;
                self.dispatch(key, survey.unwrap_or_default(), clock);
            }
            Verdict::Ask => {
                self.wait(key, None);
                self.ask(user);
            }
            Verdict::Wait => self.wait(key, None),
            Verdict::Full => {
                // Not tried here either: it would overtake those that wait.
                if let Some(message) = self.messages.get_mut(key) {
                    message.doubt(Cause::Full);
                }
                self.finish_if_done(key);
            }
        }
    }

    pub(super) fn found_by_registry(&mut self, user: &str, rows: Option<Rows>, clock: Clock) {
        let Some(waited) = self.lookups.found(user) else { return };
        let user = waited.user;
        for (order, key) in &waited.messages {
            self.waits.remove(order);
            if let Some(message) = self.messages.get_mut(*key) {
                message.waits = false;
            }
        }
        let Some(rows) = rows else {
            return waited.messages.into_iter().for_each(|(_, key)| self.give_up(key, Cause::Refused));
        };
        if !rows.is_empty() || !self.is_in_doubt() {
            self.routes.insert(&user, rows.clone());
        }
        let mut messages = waited.messages.into_iter();
        while let Some((order, key)) = messages.next() {
            let asked_for = order <= waited.asked;
            let placed = self.place(key, &rows, asked_for, waited.holds > 0, clock);
            let cause = match placed {
                Placed::Done => continue,
                Placed::Hold(cause) => Some(cause),
                Placed::Ask => None,
            };
            // Whatever is behind it goes out behind it.
            let rest: VecDeque<(u64, Key)> = std::iter::once((order, key)).chain(messages).collect();
            rest.iter().for_each(|(_, key)| self.wait(*key, cause));
            if cause.is_some() {
                let until_ms = clock.mono_ms + (HOLD_MS << waited.holds.min(4));
                return self.lookups.hold(&user, rest, waited.holds, true, until_ms);
            }
            return self.ask_again(&user, rest);
        }
    }

    /// A publish to a destination was answered.
    pub(super) fn published_to(&mut self, to: &Destination, number: u64, heard: Option<u64>, clock: Clock) {
        match heard {
            Some(0) if self.settings.exact_counts => {
                self.counters.unheard += 1;
                self.places.unheard(to, clock.mono_ms);
                if let Some(part) = self.outstanding.acknowledged(to, number) {
                    self.come_back(part, to, Back::Unheard, clock);
                }
            }
            Some(_) => self.places.heard(to),
            None => {
                if let Some(part) = self.outstanding.acknowledged(to, number) {
                    self.part_lost(part, Cause::Refused);
                }
            }
        }
    }

    /// A destination answers.
    pub(super) fn answered(&mut self, answers: &Answers<'_>, clock: Clock) {
        let from = Destination { node: answers.node.into(), epoch: answers.epoch, shard: answers.origin.shard };
        for &(number, answer) in &answers.answers {
            let Some(part) = self.outstanding.acknowledged(&from, number) else {
                self.counters.answers_stale += 1;
                continue;
            };
            self.counters.acknowledged += 1;
            match answer {
                Answer::Delivered => self.part_taken(part, Status::Delivered),
                Answer::Dropped => self.part_taken(part, Status::Dropped),
                Answer::Moved => {
                    self.counters.moved += 1;
                    self.come_back(part, &from, Back::Moved, clock);
                }
            }
        }
    }

    /// What was sent no later than this and is not answered will not be waited for.
    pub(super) fn give_up_sent(&mut self, sent_by_ms: u64, cause: Cause) {
        for part in self.outstanding.take_overdue(sent_by_ms) {
            self.counters.timeouts += 1;
            self.part_lost(part, cause);
        }
    }

    /// What dead destinations have not answered is sent again.
    pub(super) fn bury_destinations(&mut self, clock: Clock) {
        let dead: Vec<Destination> =
            self.outstanding.destinations().filter(|to| self.places.has_ended(&to.node, to.epoch)).cloned().collect();
        for destination in dead {
            for part in self.outstanding.lost(&destination) {
                self.counters.died += 1;
                self.come_back(part, &destination, Back::Died, clock);
            }
        }
        if self.outstanding.destinations().count() > EXCHANGE_ORIGINS_MAX {
            let places = &self.places;
            self.outstanding.forget_idle(|to| places.is_live(&to.node, to.epoch, clock.boot_ms));
        }
    }

    /// Sends a message to where a look-up has found its user.
    fn place(&mut self, key: Key, rows: &[Row], asked_for: bool, was_held: bool, clock: Clock) -> Placed {
        let Some(message) = self.messages.get(key) else { return Placed::Done };
        if message.deadline_ms <= clock.mono_ms {
            let cause = message.held_for.unwrap_or(Cause::Timeout);
            self.give_up(key, cause);
            return Placed::Done;
        }
        self.try_here(key);
        let (Some(message), Some(me)) = (self.messages.get_mut(key), &self.me) else { return Placed::Done };
        let mut survey = Survey::of(rows, me, message, &mut self.places, clock);
        if survey.open.is_empty() && !message.is_delivered() {
            if survey.blocked {
                return Placed::Hold(Cause::Unheard);
            }
            if !survey.left.is_empty() {
                // The row is about to go, or the user has come back; the first would be seen if it had.
                if !was_held {
                    return Placed::Hold(Cause::Moved);
                }
                message.left.clear();
                survey.open.extend(survey.left.drain(..));
            } else if self.is_in_doubt() {
                return Placed::Hold(Cause::Forgotten);
            } else if !asked_for {
                return Placed::Ask;
            }
        }
        self.dispatch(key, survey, clock);
        Placed::Done
    }

    /// Sends a message to these destinations; and if there are none, that was it.
    fn dispatch(&mut self, key: Key, survey: Survey, clock: Clock) {
        let (Some(message), Some(me)) = (self.messages.get_mut(key), &self.me) else { return };
        let me = me.clone();
        if survey.blocked {
            message.doubt(Cause::Unheard);
        }
        for to in survey.open {
            let Some(message) = self.messages.get_mut(key) else { return };
            let Ok(number) = self.outstanding.send(&to, Part { key, node: to.node.clone() }, 0, clock.mono_ms) else {
                message.doubt(Cause::Full);
                continue;
            };
            message.pending += 1;
            self.places.tried(&to, clock.mono_ms);
            self.counters.sent += 1;
            self.counters.forwarded += u64::from(message.moves > 0);
            let began = self.lookups.sent(&message.letter.user, &to, number, !message.here_done);
            let payload = me.label(self.settings.me, number, began, &message.letter).encode(&message.letter.frame);
            let channel = own_channel(&to.node, to.epoch, to.shard).into();
            self.publish(Some(to), number, channel, payload);
        }
        self.finish_if_done(key);
    }

    /// A destination has taken a message.
    fn part_taken(&mut self, part: Part, status: Status) {
        let Some(message) = self.messages.get_mut(part.key) else { return };
        message.learn(status);
        self.settle_delivered(part.key);
        self.part_done(part);
    }

    /// It will not be known whether a destination has taken a message, or it was never asked to.
    fn part_lost(&mut self, part: Part, cause: Cause) {
        let Some(message) = self.messages.get_mut(part.key) else { return };
        message.doubt(cause);
        self.part_done(part);
    }

    fn part_done(&mut self, part: Part) {
        let Some(message) = self.messages.get_mut(part.key) else { return };
        message.pending = message.pending.saturating_sub(1);
        message.took.push(part.node);
        let user = message.letter.user.clone();
        if self.lookups.answered(&user) {
            self.ask(user);
        }
        self.finish_if_done(part.key);
    }

    /// A destination does not have the user: the message is sent again to wherever the user is now.
    fn come_back(&mut self, part: Part, from: &Destination, why: Back, clock: Clock) {
        let open = self.is_open(clock);
        let Some(message) = self.messages.get_mut(part.key) else { return };
        message.pending = message.pending.saturating_sub(1);
        let again = match why {
            Back::Moved => {
                message.moves += 1;
                if !message.left.contains(from) {
                    message.left.push(from.clone());
                }
                message.moves <= self.settings.bounds.moves_max
            }
            // Where it is delivered elsewhere, later messages are not held up for this.
            Back::Unheard => !message.is_delivered(),
            Back::Died => {
                message.doubt(Cause::Died);
                !message.is_delivered()
            }
        };
        let again = again && open && clock.mono_ms < message.deadline_ms;
        if !again {
            message.doubt(match why {
                _ if !open => Cause::Link,
                Back::Moved => Cause::Moved,
                Back::Unheard => Cause::Unheard,
                Back::Died => Cause::Died,
            });
        }
        let (user, order, waits) = (message.letter.user.clone(), message.order, message.waits);
        self.routes.invalidate(&user);
        let moved = self.lookups.moved(&user, (again && !waits).then_some((order, part.key)));
        if again && moved.waits {
            self.wait(part.key, None);
        } else if again && let Some(message) = self.messages.get_mut(part.key) {
            message.doubt(Cause::Full);
        }
        if moved.ask {
            self.ask(user);
        }
        self.finish_if_done(part.key);
    }

    fn wait(&mut self, key: Key, held_for: Option<Cause>) {
        if let Some(message) = self.messages.get_mut(key) {
            message.waits = true;
            message.held_for = held_for;
            self.waits.insert(message.order, key);
        }
    }

    /// These messages came while their user was being looked up.
    fn ask_again(&mut self, user: &Rc<str>, messages: VecDeque<(u64, Key)>) {
        for (order, key) in messages {
            match self.lookups.send(user, order, key, false, true) {
                Verdict::Ask => self.ask(user.clone()),
                Verdict::Wait => {}
                Verdict::Send | Verdict::Full => {
                    self.waits.remove(&order);
                    self.give_up(key, Cause::Full);
                }
            }
        }
    }
}

impl Survey {
    fn of(rows: &[Row], me: &Me, message: &Message, places: &mut Places, clock: Clock) -> Self {
        let mut survey = Survey::default();
        for Row { node, epoch, shard } in rows {
            // Rows of this node are seen to here; those of its earlier epochs are void.
            if (*node == me.node && *epoch <= me.epoch) || message.took.contains(node) {
                continue;
            }
            let to = Destination { node: node.clone(), epoch: *epoch, shard: *shard };
            match places.life(node, *epoch, clock.boot_ms) {
                Life::Over => {}
                Life::Unsure => survey.blocked = true,
                Life::Lives if message.left.contains(&to) => survey.left.push(to),
                Life::Lives if places.is_deaf(&to, message.is_delivered(), clock.mono_ms) => survey.blocked = true,
                Life::Lives => survey.open.push(to),
            }
        }
        survey
    }

    /// No row counts.
    fn is_nowhere(&self) -> bool {
        self.open.is_empty() && self.left.is_empty() && !self.blocked
    }
}

impl Me {
    pub(super) fn label<'a>(&'a self, origin: Origin, number: u64, route_began: u64, letter: &'a Letter) -> Label<'a> {
        Label {
            origin,
            origin_node: &self.node,
            origin_epoch: self.epoch,
            number,
            route_began,
            to: Target::User(&letter.user),
            message_id: letter.message_id,
            class: letter.class,
            key: letter.key,
            tags: letter.tags.clone(),
            except_user: letter.except_user.as_deref(),
        }
    }
}

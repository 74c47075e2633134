//! How messages end: answered, given up, or not taken; and when Redis is not believed that a user is nowhere.

use super::event::{Cause, Effect, Here, Outcome};
use super::messages::Key;
use super::{Doubt, Exchange};
use crate::cluster::agent::Clock;
use crate::protocol::reply::Status;

impl Exchange {
    /// A message that is not taken.
    pub(super) fn refuse(&mut self, here: Here, token: Option<u64>, cause: Cause) {
        let outcome = match here {
            Here::Took(status @ (Status::Delivered | Status::Stored)) => Outcome::Known(status),
            Here::Took(_) | Here::Nobody | Here::Waits => {
                self.counters.refuse(cause);
                Outcome::Unavailable(cause)
            }
        };
        self.effects.extend(token.map(|token| Effect::Settled { token, outcome }));
    }

    /// A message that is delivered somewhere is answered, whatever becomes of it elsewhere.
    pub(super) fn settle_delivered(&mut self, key: Key) {
        let Some(message) = self.messages.get_mut(key).filter(|message| message.is_delivered()) else { return };
        let outcome = Outcome::Known(Status::Delivered);
        self.effects.extend(message.token.take().map(|token| Effect::Settled { token, outcome }));
    }

    /// Answers and forgets a message of which nothing more will be learned.
    pub(super) fn finish_if_done(&mut self, key: Key) {
        if self.messages.get(key).is_none_or(|message| message.pending > 0 || message.waits) {
            return;
        }
        let Some(message) = self.messages.remove(key) else { return };
        let outcome = message.outcome();
        match outcome {
            Outcome::Unavailable(cause) => self.counters.refuse(cause),
            Outcome::Known(_) => self.counters.missed += u64::from(message.is_doubtful()),
        }
        self.effects.extend(message.token.map(|token| Effect::Settled { token, outcome }));
    }

    /// A message that is not sent (again), after a last try here.
    pub(super) fn give_up(&mut self, key: Key, cause: Cause) {
        self.try_here(key);
        let Some(message) = self.messages.get_mut(key) else { return };
        message.waits = false;
        message.doubt(cause);
        self.finish_if_done(key);
    }

    /// The user may have come here since the message was taken.
    pub(super) fn try_here(&mut self, key: Key) {
        let Some(message) = self.messages.get_mut(key).filter(|message| !message.here_done) else { return };
        message.pending += 1;
        self.effects.push_back(Effect::Here { ticket: key.ticket(), letter: message.letter.clone() });
    }

    /// The bus is gone: nothing waits for it, and nothing is held back for it here.
    pub(super) fn give_up_waiting(&mut self) {
        self.waits.clear();
        for key in self.lookups.clear_waiting() {
            self.give_up(key, Cause::Link);
        }
        self.messages.iter_mut().for_each(|message| message.here_done = true);
    }

    pub(super) fn give_up_one_that_waits(&mut self, key: Key, cause: Cause) {
        let Some((order, _)) = self.waits.pop_first() else { return };
        let Some(message) = self.messages.get(key) else { return };
        let cause = message.held_for.unwrap_or(cause);
        self.lookups.give_up(&message.letter.user.clone(), order);
        self.give_up(key, cause);
    }

    /// The lease is gone: answers have no address any more.
    pub(super) fn lose_everything(&mut self) {
        self.give_up_waiting();
        self.give_up_sent(u64::MAX, Cause::Lost);
        self.give_up_broadcasts(u64::MAX, Cause::Lost);
    }

    /// Whether a user may be somewhere although the registry knows of nothing.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some() || self.announcing
    }

    /// From now on nobody is believed to be nowhere.
    pub(super) fn doubt_registry(&mut self, clock: Clock) {
        let until_ms = self.up.then_some(clock.mono_ms + self.settings.doubt_ms);
        let since_ms = self.doubt.map_or(clock.boot_ms, |doubt| doubt.since_ms);
        self.doubt = Some(Doubt { since_ms, latest_ms: clock.boot_ms, until_ms });
    }

    /// A lease that was there before and is there still shows that Redis has forgotten nothing; one that is gone, that it has.
    pub(super) fn judge_doubt(&mut self, asked_boot_ms: u64, clock: Clock) {
        let Some(me) = self.me.as_ref().filter(|me| me.since_ms <= asked_boot_ms) else { return };
        if !self.places.is_live(&me.node, me.epoch, asked_boot_ms) {
            return self.doubt_registry(clock);
        }
        let since_ms = me.since_ms;
        self.doubt.take_if(|doubt| self.up && since_ms < doubt.since_ms && doubt.latest_ms <= asked_boot_ms);
    }
}

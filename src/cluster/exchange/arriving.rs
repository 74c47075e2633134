//! What has come from other nodes for users here, and the answers to it.

use super::event::{Discarded, Effect, Mode, Verdict};
use super::receiving::Came;
use super::{BROADCAST_CHANNEL, Exchange, Me};
use crate::cluster::agent::Clock;
use crate::cluster::parcel::{Answer, Label, Target};
use crate::limits::EXCHANGE_MESSAGES_MAX;

impl Exchange {
    /// A message for a user has come on this channel (without `redis.prefix`). In [`Mode::Broadcast`] only for users at home here.
    pub fn message(&mut self, channel: &[u8], label: &Label<'_>, clock: Clock) -> Verdict {
        if let Err(why) = self.admit(channel, label, clock) {
            return Verdict::Discarded(why);
        }
        self.counters.received += 1;
        let came = match self.settings.mode {
            Mode::Registry => self.inbox.came(label),
            Mode::Broadcast => Came::New,
        };
        match came {
            Came::New => Verdict::Deliver,
            Came::Answer(answer) => {
                self.counters.repeated += u64::from(answer != Answer::Moved);
                self.counters.useless += u64::from(answer == Answer::Moved);
                self.inbox.answer(label, answer);
                Verdict::Answered
            }
        }
    }

    /// In [`Mode::Broadcast`]: a message has come that is for a user whose home is another shard of this node.
    pub fn overheard(&mut self, channel: &[u8], label: &Label<'_>, clock: Clock) {
        // Numbers are missed only where all are looked at.
        let _ = self.admit(channel, label, clock);
    }

    /// What became of a message for which [`Exchange::message`] said [`Verdict::Deliver`]. [`Answer::Moved`]: the user is not here.
    pub fn delivered(&mut self, label: &Label<'_>, answer: Answer) {
        if answer == Answer::Moved {
            self.counters.useless += 1;
            if let (Mode::Registry, Target::User(user)) = (self.settings.mode, label.to) {
                self.effects.push_back(Effect::Missing { user: user.into() });
            }
        }
        self.inbox.answer(label, answer);
    }

    /// Publishes the answers that have gathered in this turn.
    pub fn end_turn(&mut self) {
        if self.up {
            self.flush_answers();
        } else if self.inbox.owed() > EXCHANGE_MESSAGES_MAX {
            let lost: usize = self.inbox.take_parcels().iter().map(|parcel| parcel.answers.len()).sum();
            self.counters.answers_lost += lost as u64;
        }
    }

    pub(super) fn flush_answers(&mut self) {
        let Some(Me { node, epoch, .. }) = self.me.clone() else { return };
        for parcel in self.inbox.take_parcels() {
            self.counters.answers += parcel.answers.len() as u64;
            self.counters.answer_parcels += 1;
            let payload = parcel.encode(self.settings.me, &node, epoch);
            let ticket = self.next_ticket();
            self.effects.push_back(Effect::Publish { ticket, channel: parcel.channel().into(), payload });
        }
    }

    /// Whether a message that came counts.
    fn admit(&mut self, channel: &[u8], label: &Label<'_>, clock: Clock) -> Result<(), Discarded> {
        let holds = self.me.as_ref().filter(|me| clock.boot_ms < me.until_ms);
        let admitted = match (holds, self.settings.mode) {
            _ if label.origin.instance == self.settings.me.instance => Err(Discarded::Own),
            (Some(me), Mode::Registry) if *channel == *me.channel.as_bytes() => self.inbox.admit(label, clock.mono_ms),
            (Some(me), Mode::Broadcast) if me.listens && *channel == *BROADCAST_CHANNEL.as_bytes() => {
                self.inbox.admit(label, clock.mono_ms)
            }
            (Some(_) | None, _) => Err(Discarded::Lease),
        };
        self.counters.holes = self.inbox.holes();
        admitted.inspect_err(|why| self.counters.discard(*why))
    }
}

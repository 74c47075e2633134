//! What services are told of (`[hooks]`): said to the driver where it happens, and only what is asked for.

use serde_json::value::RawValue;

use crate::config::HookEvent;
use crate::error::CloseReason;
use crate::ids::MessageId;
use crate::protocol::envelope::Topic;
use crate::protocol::happening::{Happening, Place, Target, What};
use crate::protocol::request::Publication;
use crate::settings::Addressee;
use crate::shard::Shard;
use crate::shard::event::Action;
use crate::time::Now;

impl Shard {
    fn tells(&self, event: HookEvent) -> bool {
        self.settings.config.hooks.tells(event)
    }

    fn tell(&mut self, slot: u32, what: What, now: Now) {
        let row = self.connections.row(slot);
        let user = Box::from(self.users.get(row.user).name.as_ref());
        let happening = Happening { timestamp: now.unix_ms, user, connection: self.connections.global_id(slot), what };
        self.connections.actions.push_back(Action::Tell(Box::new(happening)));
    }

    /// A session has begun.
    pub(super) fn tell_connect(&mut self, slot: u32, now: Now) {
        if !self.tells(HookEvent::Connect) {
            return;
        }
        let row = self.connections.row(slot);
        let first = self.users.get(row.user).connections.len() == 1;
        let what = What::Connect { address: row.peer(), user_agent: row.user_agent.as_deref().map(Box::from), first };
        self.tell(slot, what, now);
    }

    /// A session ends; its user still knows it.
    pub(super) fn tell_disconnect(&mut self, slot: u32, reason: CloseReason, now: Now) {
        if !self.tells(HookEvent::Disconnect) {
            return;
        }
        let row = self.connections.row(slot);
        let last = self.users.get(row.user).connections.len() == 1;
        let duration_ms = now.unix_ms.saturating_sub(row.created_unix_ms);
        let what = What::Disconnect { address: row.peer(), reason: reason.name(), last, duration_ms };
        self.tell(slot, what, now);
    }

    /// A user's first connection has entered, or the last one left.
    pub(super) fn tell_membership(&mut self, slot: u32, topic: Topic, name: &str, enters: bool, now: Now) {
        let event = if enters { HookEvent::Join } else { HookEvent::Leave };
        if self.tells(event) {
            let place = Place::new(topic, name);
            self.tell(slot, if enters { What::Join(place) } else { What::Leave(place) }, now);
        }
    }

    /// A client has sent a message.
    pub(super) fn tell_message(
        &mut self,
        slot: u32,
        id: MessageId,
        to: Addressee<'_>,
        publication: &Publication<'_>,
        now: Now,
    ) {
        if !self.tells(HookEvent::Message) {
            return;
        }
        // It was read as one JSON value before.
        let Ok(content) = RawValue::from_string(publication.content.to_owned()) else { return };
        let event = publication.event.as_deref().map(Box::from);
        self.tell(slot, What::Message { id, to: target(to), event, content }, now);
    }
}

/// An addressee as services are told of it.
pub(super) fn target(to: Addressee<'_>) -> Target {
    match to {
        Addressee::User(user) => Target::User(user.into()),
        Addressee::Topic(Topic::Room, room) => Target::Room(room.into()),
        Addressee::Topic(Topic::Channel, channel) => Target::Channel(channel.into()),
        Addressee::All => Target::All(true),
    }
}

//! What was published to this node: parcels of other nodes, questions and answers, and the JSON of services.
//!
//! Nothing is delivered while no lease holds here: a node that was stopped and comes back must not speak for what is not its own any more.

use crate::cluster::inquiry::{self, Inquiry};
use crate::cluster::parcel::{self, Label, Parcel, Target};
use crate::limits::MESSAGE_BYTES_CEILING;
use crate::protocol::class::Class;
use crate::protocol::envelope::{Publication, Topic};
use crate::protocol::service::{Payload, parse_service};
use crate::protocol::valid_name;
use crate::settings::Addressee;
use crate::shard::Shard;
use crate::time::Now;
use crate::ws::frame::{Opcode, server_frame_with};

/// Bytes of a service's message around its payload.
const SERVICE_BYTES_BESIDE: usize = 4096;

impl Shard {
    /// Something was published on a channel (without the prefix).
    pub(super) fn message_arrived(&mut self, channel: &[u8], payload: &[u8], now: Now) {
        self.connections.counters.bus_received += 1;
        let Ok(channel) = std::str::from_utf8(channel) else { return self.malformed() };
        match payload.first() {
            Some(&parcel::VERSION) => match Parcel::decode(payload) {
                Ok(Parcel::Message(label, frame)) => self.parcel_arrived(channel, &label, frame, now),
                Ok(Parcel::Answers(answers)) => self.answers_arrived(&answers, now),
                Err(_) => self.malformed(),
            },
            Some(&inquiry::MARK) => match Inquiry::decode(payload) {
                Some(_) if !self.delivers(now) => {}
                Some(inquiry) => self.inquiry_arrived(channel, inquiry, now),
                None => self.malformed(),
            },
            _ => self.service_arrived(channel, payload, now),
        }
    }

    pub(super) fn malformed(&mut self) {
        self.connections.counters.bus_malformed += 1;
    }

    /// Whether a lease holds; counts what is discarded because none does.
    fn delivers(&mut self, now: Now) -> bool {
        let delivers = self.cluster.as_ref().is_some_and(|cluster| cluster.may_deliver(now));
        self.connections.counters.bus_discarded += u64::from(!delivers);
        delivers
    }

    fn parcel_arrived(&mut self, channel: &str, label: &Label<'_>, frame: &[u8], now: Now) {
        if let Target::User(_) = label.to {
            return self.unicast_arrived(channel, label, frame, now);
        }
        if label.origin.instance == self.settings.instance {
            self.connections.counters.bus_own += 1;
            return;
        }
        if !self.delivers(now) {
            return;
        }
        let (class, key, tags) = (label.class, label.key, label.tags.clone());
        let publication = Publication { frame: frame.into(), class, key, tags, accepted_us: None };
        let (topic, name) = match label.to {
            Target::Room(name) => (Topic::Room, name),
            Target::Channel(name) => (Topic::Channel, name),
            Target::User(_) | Target::All => {
                self.deliver_to_all(publication, now);
                return;
            }
        };
        self.fan_out(topic, name, publication, None, label.except_user, None, now);
    }

    /// The message of a service, on a channel for a user, a room, a channel or everybody.
    fn service_arrived(&mut self, channel: &str, payload: &[u8], now: Now) {
        let size_max = match self.settings.config.limits.message_size as usize {
            0 => MESSAGE_BYTES_CEILING,
            size => size,
        };
        let addressee = match channel.split_once(':') {
            Some(("user", user)) => Addressee::User(user),
            Some(("room", room)) => Addressee::Topic(Topic::Room, room),
            Some(("channel", channel)) => Addressee::Topic(Topic::Channel, channel),
            None if channel == super::BROADCAST => Addressee::All,
            _ => return self.malformed(),
        };
        let named = match addressee {
            Addressee::User(name) | Addressee::Topic(_, name) => valid_name(name),
            Addressee::All => true,
        };
        if !named || payload.len() > size_max.saturating_add(SERVICE_BYTES_BESIDE) {
            return self.malformed();
        }
        let Ok(message) = parse_service(payload) else { return self.malformed() };
        if message.sender.as_deref().is_some_and(|sender| self.is_own_name(sender)) {
            self.connections.counters.bus_own += 1;
            return;
        }
        if !self.delivers(now) {
            return;
        }
        let publication = match message.payload {
            Payload::Publication { from, publication } => self.encode(from.as_deref(), addressee, &publication, now).0,
            Payload::Ready { text, event, class, tags } => {
                let frame = server_frame_with(Opcode::Text, text.len(), |out| out.extend_from_slice(text.as_bytes()));
                let class = class.unwrap_or_else(|| self.class_of(event.as_deref()));
                let key = (class == Class::Latest)
                    .then(|| self.conflation_key(addressee, None, "", event.as_deref().unwrap_or("")));
                Publication { frame: Vec::from(frame).into_boxed_slice(), class, key, tags, accepted_us: None }
            }
        };
        match addressee {
            Addressee::User(user) => {
                self.deliver_to_user(user, publication, now);
            }
            Addressee::Topic(topic, name) => self.fan_out(topic, name, publication, None, None, None, now),
            Addressee::All => {
                self.deliver_to_all(publication, now);
            }
        }
    }

    /// Whether this is the name of this node: as configured, or as it is in the cluster now.
    fn is_own_name(&self, name: &str) -> bool {
        let standing = self.cluster.as_ref().and_then(|cluster| cluster.agent.standing());
        name == self.settings.node_id || standing.is_some_and(|standing| *standing.node == *name)
    }
}

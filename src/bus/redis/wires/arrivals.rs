//! What arrives over the two connections, turned into what the driver and the agent understand.

use std::rc::Rc;

use redis::Value;

use super::{Complaint, Line, Token, Wires};
use crate::bus::redis::scripts::{self, RowReply};
use crate::bus::redis::trouble::Trouble;
use crate::bus::redis::{pipeline, pubsub};
use crate::cluster::agent::{Event, WriteAnswer};
use crate::cluster::lease;
use crate::cluster::link::Side;
use crate::cluster::registry::wants::WriteId;
use crate::cluster::wire::Incoming;

impl Wires {
    pub(super) fn command_arrived(&mut self, arrival: pipeline::Arrival<Token>, now_ms: u64) {
        match arrival {
            pipeline::Arrival::Reply { token, value } => self.replied(token, value, now_ms),
            pipeline::Arrival::Invalidated(keys) => {
                let keys = keys.iter().filter_map(|key| self.scripts.keys().user_of(key));
                self.ready.push_back(Incoming::Invalidated(keys.map(Rc::from).collect()));
            }
            pipeline::Arrival::InvalidatedAll => self.ready.push_back(Incoming::InvalidatedAll),
            pipeline::Arrival::Ended { why, unanswered } => {
                self.hand_back(unanswered);
                self.complain("ended", Complaint::Ended(Side::Commands, why));
                self.ready.push_back(Incoming::Agent(Event::Ended(Side::Commands)));
            }
        }
    }

    fn replied(&mut self, token: Token, value: Value, now_ms: u64) {
        if let Some(trouble) = Trouble::in_reply(&value) {
            self.refused(trouble, value, now_ms);
            return self.failed(token);
        }
        let incoming = match token {
            Token::Row { id, user } => match scripts::row_reply(&value) {
                RowReply::Done => {
                    let event = Event::Row { id, answer: WriteAnswer::Done };
                    self.ready.push_back(Incoming::Agent(event));
                    // Redis tells others of a change, but not the one who made it.
                    Incoming::Invalidated(vec![user])
                }
                // The lease finds out, and everything is written again under another epoch.
                RowReply::Fenced | RowReply::Unreadable => {
                    Incoming::Agent(Event::Row { id, answer: WriteAnswer::Refused })
                }
            },
            Token::Lease { ticket, ask } => {
                Incoming::Agent(Event::Lease { ticket, answer: scripts::lease_answer(ask, &value) })
            }
            Token::Leases { asked_ms } => {
                let leases = scripts::leases(&value).unwrap_or_default();
                Incoming::Leases { leases, asked_ms }
            }
            Token::Publish { ticket } => {
                let heard = if let Value::Int(heard) = value { u64::try_from(heard).ok() } else { None };
                Incoming::Published { ticket, heard }
            }
            Token::Find { user } => Incoming::Found { user, rows: scripts::rows(&value) },
            Token::Sample { grave } => Incoming::Sampled { grave, users: scripts::names(&value) },
            Token::Remove { grave, user } => {
                // It is deleted, or a newer epoch of that node has written it.
                if let RowReply::Done | RowReply::Fenced = scripts::row_reply(&value) {
                    self.removed(&grave, &user, now_ms);
                }
                Incoming::Removed { node: grave.node, user }
            }
            Token::Load { last } => {
                self.loading &= !last;
                return;
            }
            Token::Other => return,
        };
        self.ready.push_back(incoming);
    }

    /// What waits for an answer that was an error.
    fn failed(&mut self, token: Token) {
        let incoming = match token {
            Token::Row { id, .. } => Incoming::Agent(Event::Row { id, answer: WriteAnswer::Refused }),
            Token::Lease { ticket, .. } => Incoming::Agent(Event::Lease { ticket, answer: lease::Answer::Failed }),
            Token::Publish { ticket } => Incoming::Published { ticket, heard: None },
            Token::Find { user } => Incoming::Found { user, rows: None },
            Token::Sample { grave } => Incoming::Sampled { grave, users: None },
            Token::Remove { grave, user } => Incoming::Removed { node: grave.node, user },
            Token::Load { last } => {
                self.loading &= !last;
                return;
            }
            Token::Leases { .. } | Token::Other => return,
        };
        self.ready.push_back(incoming);
    }

    fn refused(&mut self, trouble: Trouble, value: Value, now_ms: u64) {
        if let Value::ServerError(error) = value {
            self.complain(trouble.name(), Complaint::Refused(error));
        }
        match trouble {
            Trouble::NoScript if !self.loading => {
                self.loading = true;
                let scripts = self.scripts.load();
                let last = scripts.len() - 1;
                for (index, script) in scripts.iter().enumerate() {
                    self.send(Token::Load { last: index == last }, script, now_ms);
                }
            }
            _ if trouble.is_fatal() => {
                // Told once: what else is under way is answered by errors too, and then the connection is gone.
                if let Line::On(commands) = &self.commands {
                    commands.close();
                }
            }
            _ => {}
        }
    }

    pub(super) fn subscriber_arrived(&mut self, arrival: pubsub::Arrival<WriteId>) {
        let incoming = match arrival {
            pubsub::Arrival::Message { channel, payload } => {
                let Some(channel) = channel.strip_prefix(self.plan.prefix.as_bytes()) else { return };
                let nonce = || std::str::from_utf8(&payload).ok().and_then(|nonce| nonce.parse().ok());
                // Beside its probes it carries what other nodes ask this shard.
                match (channel == self.probe_channel.as_bytes()).then(nonce).flatten() {
                    Some(nonce) => Incoming::Agent(Event::Probe { nonce }),
                    None => Incoming::Message { channel: channel.to_vec(), payload },
                }
            }
            pubsub::Arrival::Confirmed(id) => Incoming::Agent(Event::Channel { id, answer: WriteAnswer::Done }),
            pubsub::Arrival::Refused { token, error } => {
                self.complain(Trouble::of(&error).name(), Complaint::Refused(error));
                Incoming::Agent(Event::Channel { id: token, answer: WriteAnswer::Refused })
            }
            pubsub::Arrival::Ended { why, .. } => {
                self.complain("ended", Complaint::Ended(Side::Subscriber, why));
                Incoming::Agent(Event::Ended(Side::Subscriber))
            }
        };
        self.ready.push_back(incoming);
    }

    /// Once per kind until a connection is made again.
    pub(super) fn complain(&mut self, kind: &'static str, complaint: Complaint) {
        if !self.complained.contains(&kind) {
            self.complained.push(kind);
            self.complaints.push_back(complaint);
        }
    }
}

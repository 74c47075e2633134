//! What comes down the connections of a shard.

use std::rc::Rc;

use ringgate::cluster::exchange::{Mode, Polled, Verdict};
use ringgate::cluster::parcel::{Answer, Parcel, Target};
use ringgate::cluster::registry::{Row, Rows};
use ringgate::ids::ShardId;
use ringgate::protocol::reply::Status;

use super::node::Node;
use super::redis::Reply;
use super::{World, deliver};

impl World {
    /// What has come down the connections of one shard.
    pub(super) fn arrive(&mut self, node: usize, shard: usize) {
        for side in [0, 1] {
            let Some(id) = self.nodes[node].shards[shard].sides[side] else { continue };
            for _ in 0..self.rng.usize(..16) {
                let Some(reply) = self.connections.get_mut(&id).unwrap().down.pop_front() else { break };
                self.take(node, shard, reply);
                self.act(node, shard);
                if self.nodes[node].shards[shard].sides[side] != Some(id) {
                    break;
                }
            }
            let connection = &self.connections[&id];
            if connection.cut && connection.down.is_empty() {
                self.connections.remove(&id);
                let retry_at_ms = self.now_ms + self.rng.u64(5..60);
                self.lose(node, shard, side, retry_at_ms);
            }
        }
    }

    /// A connection is gone: what it owed is handed back, in one order or the other.
    pub(super) fn lose(&mut self, node: usize, shard: usize, side: usize, retry_at_ms: u64) {
        let clock = self.clock();
        let told_first = self.rng.bool();
        let place = &mut self.nodes[node].shards[shard];
        place.sides[side] = None;
        place.retry_at_ms = retry_at_ms;
        place.up = false;
        if told_first {
            place.exchange.link_up(false, clock);
        }
        if side == 0 {
            place.start_over();
            for user in std::mem::take(&mut place.finding) {
                place.exchange.found(&user, None, clock);
            }
            let tickets = std::mem::take(&mut place.publishing);
            place.exchange.unanswered(&tickets);
            place.exchange.invalidated_all(clock);
        } else {
            place.subscribed = false;
            place.subscribing = 0;
        }
        place.exchange.link_up(false, clock);
        self.act(node, shard);
    }

    pub(super) fn take(&mut self, node: usize, shard: usize, reply: Reply) {
        let clock = self.clock();
        let place = &mut self.nodes[node].shards[shard];
        match reply {
            Reply::Put { user, epoch, done } => {
                place.written(&user, true, done, Some(epoch), clock.mono_ms);
                place.exchange.invalidated(&user);
            }
            Reply::Deleted { user } => {
                place.written(&user, false, true, None, clock.mono_ms);
                place.exchange.invalidated(&user);
            }
            Reply::Found { user, rows } => {
                if self.traces {
                    eprintln!("{:>6} node {node}.{shard} finds {user} on {rows:?}", self.now_ms);
                }
                let user: Rc<str> = user.as_str().into();
                let found = place.finding.iter().position(|finding| *finding == user).expect("it was asked");
                place.finding.remove(found);
                let row = |(node, epoch, shard): (String, u64, u16)| Row {
                    node: node.as_str().into(),
                    epoch,
                    shard: ShardId(shard),
                };
                let rows: Rows = rows.into_iter().map(row).collect();
                place.exchange.found(&user, Some(rows), clock);
            }
            Reply::Published { ticket, heard } => {
                if self.traces {
                    eprintln!("{:>6} node {node}.{shard} is heard {ticket} by {heard}", self.now_ms);
                }
                place.publishing.retain(|publishing| *publishing != ticket);
                place.exchange.published(ticket, Some(heard), clock);
            }
            Reply::Subscribed => {
                place.subscribing -= 1;
                place.subscribed = place.subscribing == 0;
                place.exchange.listening(place.subscribed);
            }
            Reply::Acquired { epoch, sent_ms } => self.lease_answered(node, Some(epoch), epoch, sent_ms),
            Reply::Renewed { renewed, epoch, sent_ms } => {
                self.lease_answered(node, renewed.then_some(epoch), epoch, sent_ms);
            }
            Reply::Leases { leases, asked_ms } => {
                if self.traces {
                    eprintln!("{:>6} node {node} polls at {asked_ms} {leases:?}", self.now_ms);
                }
                let leases: Vec<Polled<'_>> = leases
                    .iter()
                    .map(|(node, epoch, left_ms)| {
                        let shards = Node::shards_of(node);
                        Polled { node, epoch: *epoch, until_ms: left_ms.map(|left| asked_ms + left), shards }
                    })
                    .collect();
                for shard in 0..self.nodes[node].shards.len() {
                    let exchange = &mut self.nodes[node].shards[shard].exchange;
                    exchange.nodes(leases.iter().copied(), asked_ms, clock);
                    self.act(node, shard);
                }
            }
            Reply::Invalidated { user } => place.exchange.invalidated(&user),
            Reply::InvalidatedAll => place.exchange.invalidated_all(clock),
            Reply::Message { channel, payload } => self.message(node, shard, &channel, &payload),
        }
    }

    pub(super) fn message(&mut self, node: usize, shard: usize, channel: &str, payload: &[u8]) {
        let clock = self.clock();
        match Parcel::decode(payload).expect("a parcel") {
            Parcel::Answers(answers) => {
                trace!(self, "node {node}.{shard} hears {answers:?}");
                self.nodes[node].shards[shard].exchange.answers(&answers, clock);
            }
            Parcel::Message(label, frame) => {
                let Target::User(user) = label.to else { panic!("for a user") };
                let home = self.nodes[node].home(user).number;
                let place = &mut self.nodes[node].shards[shard];
                if home != shard {
                    assert_eq!(self.mode, Mode::Broadcast, "by the registry it comes to the home");
                    return place.exchange.overheard(channel.as_bytes(), &label, clock);
                }
                let verdict = place.exchange.message(channel.as_bytes(), &label, clock);
                let (number, began) = (label.number, label.route_began);
                if self.traces {
                    let id = label.message_id.0;
                    eprintln!("{:>6} node {node}.{shard} gets {id} as {number} ({began}): {verdict:?}", self.now_ms);
                }
                if verdict != Verdict::Deliver {
                    return;
                }
                let id = u64::from_be_bytes(frame.try_into().expect("eight bytes"));
                let status = deliver(place, user, id, &mut self.ledger, &mut self.rng, true);
                let answer = match status {
                    Status::Delivered => Answer::Delivered,
                    Status::Offline => Answer::Moved,
                    Status::Dropped | Status::Stored => Answer::Dropped,
                };
                place.exchange.delivered(&label, answer);
            }
        }
    }
}

//! What Redis does with the commands of the registry, as the scripts do it.

use std::collections::{BTreeMap, BTreeSet};

use ringgate::cluster::agent::{Event, WriteAnswer};
use ringgate::cluster::lease::{self, Answer, Ask};
use ringgate::cluster::registry::wants::WriteId;

use super::{Connection, LEASE_TTL_MS, Place};

pub enum Command {
    Row { id: WriteId, user: String, node: String, row: (u64, u16), put: bool, stamp: Stamp },
    Channel { id: WriteId, channel: String, put: bool },
    Lease { command: lease::Command, instance: u32, sent_ms: u64 },
    Probe { channel: String, nonce: u64 },
}

pub enum Reply {
    Row(WriteId, WriteAnswer),
    Channel(WriteId),
    Lease(u64, Answer),
    Probe(u64),
}

#[derive(Default)]
pub struct Redis {
    rows: BTreeMap<String, BTreeMap<String, (u64, u16)>>,
    leases: BTreeMap<Box<str>, Row>,
    /// How often everything was forgotten.
    memory: u64,
    /// What services were told of each user: coming or going.
    pub events: BTreeMap<String, Vec<bool>>,
    /// Out of memory: rows are refused.
    pub full: bool,
}

#[derive(Clone, Copy)]
struct Row {
    epoch: u64,
    instance: u32,
    expires_ms: u64,
}

/// What a shard says of a write.
pub struct Stamp {
    pub confirmed: bool,
    pub lease_ends_ms: u64,
    pub sent_ms: u64,
}

impl Command {
    pub fn sent_ms(&self) -> Option<u64> {
        match self {
            Command::Row { stamp, .. } => Some(stamp.sent_ms),
            Command::Lease { sent_ms, .. } => Some(*sent_ms),
            Command::Channel { .. } | Command::Probe { .. } => None,
        }
    }
}

impl Reply {
    pub fn event(self) -> Event<'static> {
        match self {
            Reply::Row(id, answer) => Event::Row { id, answer },
            Reply::Channel(id) => Event::Channel { id, answer: WriteAnswer::Done },
            Reply::Lease(ticket, answer) => Event::Lease { ticket, answer },
            Reply::Probe(nonce) => Event::Probe { nonce },
        }
    }
}

impl Redis {
    pub fn forget(&mut self) {
        self.rows.clear();
        self.leases.clear();
        self.memory += 1;
    }

    /// Somebody cleans up after the dead.
    pub fn reap(&mut self, now_ms: u64) {
        let leases = &self.leases;
        let over = |node: &str, epoch| {
            leases.get(node).is_some_and(|l| l.epoch > epoch || (l.epoch == epoch && l.expires_ms <= now_ms))
        };
        for (user, rows) in &mut self.rows {
            let before = rows.len();
            rows.retain(|node, (epoch, _)| !over(node, *epoch));
            if before > 0 && rows.is_empty() {
                self.events.entry(user.clone()).or_default().push(false);
            }
        }
        self.rows.retain(|_, rows| !rows.is_empty());
    }

    pub fn live_rows(&self, now_ms: u64) -> BTreeSet<Place> {
        let live = |node: &str, epoch| self.leases.get(node).is_some_and(|l| l.epoch == epoch && l.expires_ms > now_ms);
        let all = self.rows.iter().flat_map(|(user, rows)| rows.iter().map(move |(node, row)| (user, node, *row)));
        all.filter(|(_, node, (epoch, _))| live(node, *epoch))
            .map(|(user, node, (epoch, shard))| (user.clone(), node.clone(), epoch, shard))
            .collect()
    }

    pub fn run(&mut self, from: u64, command: Command, connections: &mut BTreeMap<u64, Connection>, now_ms: u64) {
        let reply = match command {
            Command::Row { id, user, node, row, put, stamp } => {
                Reply::Row(id, self.row(user, node, row, put, stamp.confirmed, now_ms < stamp.lease_ends_ms))
            }
            Command::Channel { id, channel, put } => {
                if let Some(connection) = connections.get_mut(&from) {
                    if put {
                        connection.channels.insert(channel);
                    } else {
                        connection.channels.remove(&channel);
                    }
                }
                Reply::Channel(id)
            }
            Command::Lease { command, instance, .. } => {
                Reply::Lease(command.ticket, self.lease(&command, instance, now_ms))
            }
            Command::Probe { channel, nonce } => {
                let hears = |c: &&mut Connection| c.channels.contains(&channel) && !c.deaf;
                return connections.values_mut().filter(hears).for_each(|c| c.down.push_back(Reply::Probe(nonce)));
            }
        };
        if let Some(connection) = connections.get_mut(&from) {
            connection.down.push_back(reply);
        }
    }

    fn row(
        &mut self,
        user: String,
        node: String,
        row: (u64, u16),
        put: bool,
        confirmed: bool,
        in_time: bool,
    ) -> WriteAnswer {
        let held = self.rows.get(&user).and_then(|rows| rows.get(&node)).copied();
        if held.is_some_and(|(newer, _)| newer > row.0) || (put && (self.full || !in_time)) {
            return WriteAnswer::Refused;
        }
        let rows = self.rows.entry(user.clone()).or_default();
        let first = rows.is_empty();
        let tells = if put {
            rows.insert(node, row);
            first && !confirmed
        } else {
            (rows.remove(&node).is_some() || (confirmed && in_time)) && rows.is_empty()
        };
        if rows.is_empty() {
            self.rows.remove(&user);
        }
        if tells {
            self.events.entry(user).or_default().push(put);
        }
        WriteAnswer::Done
    }

    fn lease(&mut self, command: &lease::Command, instance: u32, now_ms: u64) -> Answer {
        let held = self.leases.get(&command.node).copied();
        let expires_ms = now_ms + LEASE_TTL_MS;
        match (command.kind, held) {
            (Ask::Acquire { take_over: false, .. }, Some(held))
                if held.instance != instance && held.expires_ms > now_ms =>
            {
                Answer::Fenced
            }
            (Ask::Acquire { floor, .. }, held) => {
                let epoch = floor.max(held.map_or(0, |h| h.epoch + 1));
                self.leases.insert(command.node.clone(), Row { epoch, instance, expires_ms });
                Answer::Granted { epoch, memory: self.memory, ends_ms: expires_ms }
            }
            (Ask::Renew { epoch }, Some(held)) if held.epoch == epoch && held.expires_ms > now_ms => {
                self.leases.insert(command.node.clone(), Row { expires_ms, ..held });
                Answer::Renewed { ends_ms: expires_ms }
            }
            (Ask::Release { epoch }, Some(held)) if held.epoch == epoch => {
                self.leases.insert(command.node.clone(), Row { expires_ms: 0, ..held });
                Answer::Released
            }
            (Ask::Renew { epoch } | Ask::Release { epoch }, Some(held)) if held.epoch > epoch => Answer::Fenced,
            (Ask::Renew { .. } | Ask::Release { .. }, _) => Answer::Missing,
        }
    }
}

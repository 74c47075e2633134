//! What Redis does with the commands of an exchange: rows, leases, client-side caching, and publishing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::LEASE_TTL_MS;

pub enum Command {
    Put { user: String, node: String, epoch: u64, shard: u16 },
    Delete { user: String, node: String, epoch: u64 },
    Find { user: String },
    Publish { ticket: u64, channel: String, payload: Vec<u8> },
    Subscribe { channels: Vec<String> },
    Acquire { node: String, floor: u64, sent_ms: u64 },
    Renew { node: String, epoch: u64, sent_ms: u64 },
    Poll { asked_ms: u64 },
}

#[derive(Clone)]
pub enum Reply {
    Put {
        user: String,
        epoch: u64,
        done: bool,
    },
    Deleted {
        user: String,
    },
    Found {
        user: String,
        rows: Vec<(String, u64, u16)>,
    },
    Published {
        ticket: u64,
        heard: u64,
    },
    Subscribed,
    Acquired {
        epoch: u64,
        sent_ms: u64,
    },
    Renewed {
        renewed: bool,
        epoch: u64,
        sent_ms: u64,
    },
    /// Node, epoch, how long it lives on (nothing: it is over), shards.
    Leases {
        leases: Vec<(String, u64, Option<u64>)>,
        asked_ms: u64,
    },
    Invalidated {
        user: String,
    },
    InvalidatedAll,
    Message {
        channel: String,
        payload: Vec<u8>,
    },
}

/// One connection: what is on its way in both directions.
#[derive(Default)]
pub struct Connection {
    pub up: VecDeque<Command>,
    pub down: VecDeque<Reply>,
    /// The server's end is gone; what was on its way down may still arrive.
    pub cut: bool,
    /// Nothing published reaches it any more, though it counts as listening.
    pub deaf: bool,
    pub channels: BTreeSet<String>,
}

#[derive(Default)]
pub struct Redis {
    rows: BTreeMap<String, BTreeMap<String, (u64, u16)>>,
    leases: BTreeMap<String, (u64, u64)>,
    graves: BTreeSet<(String, u64)>,
    /// Which connections have read which user's rows.
    tracked: BTreeMap<String, BTreeSet<u64>>,
    /// How often everything was forgotten.
    pub forgotten: u64,
}

pub type Connections = BTreeMap<u64, Connection>;

impl Redis {
    pub fn forget(&mut self, connections: &mut Connections) {
        *self = Redis { forgotten: self.forgotten + 1, ..Redis::default() };
        connections.values_mut().filter(|c| !c.cut).for_each(|c| c.down.push_back(Reply::InvalidatedAll));
    }

    pub fn has_lease(&self, node: &str, epoch: u64, now_ms: u64) -> bool {
        self.leases.get(node).is_some_and(|lease| lease.0 == epoch && lease.1 > now_ms)
    }

    /// Somebody cleans up after the dead.
    pub fn reap(&mut self, now_ms: u64, connections: &mut Connections) {
        let over: Vec<String> = self.leases.iter().filter(|(_, l)| l.1 <= now_ms).map(|(n, _)| n.clone()).collect();
        for node in over {
            let (epoch, _) = self.leases.remove(&node).unwrap();
            self.graves.insert((node, epoch));
        }
        for (node, epoch) in std::mem::take(&mut self.graves) {
            let dead: Vec<String> = self
                .rows
                .iter()
                .filter(|(_, rows)| rows.get(&node).is_some_and(|r| r.0 <= epoch))
                .map(|(u, _)| u.clone())
                .collect();
            for user in dead {
                self.rows.get_mut(&user).unwrap().remove(&node);
                self.touched(&user, None, connections);
            }
        }
    }

    pub fn run(&mut self, from: u64, command: Command, connections: &mut Connections, now_ms: u64) {
        let reply = match command {
            Command::Put { user, node, epoch, shard } => {
                let rows = self.rows.entry(user.clone()).or_default();
                let done = rows.get(&node).is_none_or(|held| held.0 <= epoch);
                if done {
                    rows.insert(node, (epoch, shard));
                    self.touched(&user, Some(from), connections);
                }
                Reply::Put { user, epoch, done }
            }
            Command::Delete { user, node, epoch } => {
                let rows = self.rows.entry(user.clone()).or_default();
                if rows.get(&node).is_some_and(|held| held.0 <= epoch) {
                    rows.remove(&node);
                    self.touched(&user, Some(from), connections);
                }
                Reply::Deleted { user }
            }
            Command::Find { user } => {
                self.tracked.entry(user.clone()).or_default().insert(from);
                let rows = self.rows.get(&user).into_iter().flatten();
                let rows = rows.map(|(node, (epoch, shard))| (node.clone(), *epoch, *shard)).collect();
                Reply::Found { user, rows }
            }
            Command::Publish { ticket, channel, payload } => {
                let mut heard = 0;
                for connection in connections.values_mut().filter(|c| !c.cut && c.channels.contains(&channel)) {
                    heard += 1;
                    if !connection.deaf {
                        let (channel, payload) = (channel.clone(), payload.clone());
                        connection.down.push_back(Reply::Message { channel, payload });
                    }
                }
                Reply::Published { ticket, heard }
            }
            Command::Subscribe { channels } => {
                if let Some(connection) = connections.get_mut(&from) {
                    connection.channels = channels.into_iter().collect();
                }
                Reply::Subscribed
            }
            Command::Acquire { node, floor, sent_ms } => {
                let held = self.leases.get(&node).copied();
                let epoch = held.map_or(floor, |(held, _)| floor.max(held + 1));
                if let Some((held, _)) = held {
                    self.graves.insert((node.clone(), held));
                }
                self.leases.insert(node, (epoch, now_ms + LEASE_TTL_MS));
                Reply::Acquired { epoch, sent_ms }
            }
            Command::Renew { node, epoch, sent_ms } => {
                let lease = self.leases.get_mut(&node).filter(|lease| lease.0 == epoch && lease.1 > now_ms);
                let renewed = lease.is_some();
                if let Some(lease) = lease {
                    lease.1 = now_ms + LEASE_TTL_MS;
                }
                Reply::Renewed { renewed, epoch, sent_ms }
            }
            Command::Poll { asked_ms } => {
                let live = self.leases.iter().map(|(node, (epoch, expires_ms))| {
                    (node.clone(), *epoch, expires_ms.checked_sub(now_ms).filter(|left| *left > 0))
                });
                let over = self.graves.iter().map(|(node, epoch)| (node.clone(), *epoch, None));
                Reply::Leases { leases: live.chain(over).collect(), asked_ms }
            }
        };
        if let Some(connection) = connections.get_mut(&from).filter(|c| !c.cut) {
            connection.down.push_back(reply);
        }
    }

    /// Those who have read it are told, but for the one who has changed it, and all are forgotten.
    fn touched(&mut self, user: &str, by: Option<u64>, connections: &mut Connections) {
        for reader in self.tracked.remove(user).into_iter().flatten().filter(|reader| Some(*reader) != by) {
            if let Some(connection) = connections.get_mut(&reader).filter(|c| !c.cut) {
                connection.down.push_back(Reply::Invalidated { user: user.to_owned() });
            }
        }
    }
}

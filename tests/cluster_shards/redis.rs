//! What Redis does with the commands of the wires: the scripts of `src/bus/redis/scripts`, sets, publishing, and client-side caching.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use ringgate::bus::redis::scripts::Stamp;
use ringgate::cluster::lease::{self, Answer, Ask};
use ringgate::cluster::nodes::{About, Polled};
use ringgate::cluster::registry::wants::WriteId;
use ringgate::cluster::registry::{Row, Rows};
use ringgate::cluster::wire::Grave;

use super::{ENTRY_TTL_MS, LEASE_TTL_MS};

/// Names a connection among all that there have ever been.
pub type Line = u64;

#[derive(Clone, Debug)]
pub enum Command {
    /// Authentication and, on a connection for commands, scripts, tracking and a first write.
    Greet {
        writes: bool,
    },
    Put {
        user: Rc<str>,
        row: Row,
        stamp: Stamp,
    },
    Delete {
        user: Rc<str>,
        node: Rc<str>,
        epoch: u64,
        /// `None`: of a node and epoch that are over.
        stamp: Option<Stamp>,
    },
    /// The set of the users with a row of this node, epoch and shard: these are to be in it, or not.
    Index {
        of: Grave,
        users: Vec<Rc<str>>,
        put: bool,
    },
    Lease {
        command: lease::Command,
        instance: u32,
        about: About,
    },
    Leases,
    /// And tell this connection when it changes.
    Find {
        user: Rc<str>,
    },
    Publish {
        channel: Rc<str>,
        payload: Vec<u8>,
    },
    Sample {
        of: Grave,
    },
    Bury {
        node: Rc<str>,
        epoch: u64,
    },
    LoadScripts,
    Channels {
        put: bool,
        channels: Vec<(WriteId, Rc<str>)>,
    },
}

#[derive(Clone, Debug)]
pub enum Reply {
    /// Whether the connection is of any use.
    Greeted(bool),
    /// Whether it is as it was asked; or that a newer epoch has been there, or the lease has ended.
    Row(bool),
    Lease(Answer),
    Leases(Vec<Polled>),
    Rows(Rows),
    Heard(u64),
    Names(Vec<Rc<str>>),
    Done,
    /// Refused; whether because it does not know the script.
    Refused {
        no_script: bool,
    },
    // What comes by itself.
    Confirmed(WriteId),
    Message {
        channel: Rc<str>,
        payload: Vec<u8>,
    },
    Invalidated(Rc<str>),
    InvalidatedAll,
}

/// Where a user is: user, node, epoch, shard.
pub type Place = (String, String, u64, u16);

/// One connection: what is on its way in both directions.
#[derive(Default)]
pub struct Connection {
    pub up: VecDeque<Command>,
    pub down: VecDeque<Reply>,
    /// The server's end is gone; what was on its way down may still arrive.
    pub cut: bool,
    /// Nothing published reaches it any more, though it counts as listening.
    pub deaf: bool,
    pub channels: BTreeSet<Rc<str>>,
    /// It has asked for invalidations.
    pub tracks: bool,
}

pub type Connections = BTreeMap<Line, Connection>;

#[derive(Default)]
struct Hash {
    /// Node: epoch, shard, serial.
    rows: BTreeMap<Rc<str>, (u64, u16, u64)>,
    expires_ms: u64,
}

struct Lease {
    epoch: u64,
    expires_ms: u64,
    instance: u32,
    about: About,
}

#[derive(Default)]
pub struct Redis {
    /// The time of the command that is carried out.
    now_ms: u64,
    users: BTreeMap<Rc<str>, Hash>,
    leases: BTreeMap<Rc<str>, Lease>,
    graves: BTreeMap<(Rc<str>, u64), (u32, About)>,
    indices: BTreeMap<(Rc<str>, u64, u16), BTreeSet<Rc<str>>>,
    /// To which process each epoch was granted.
    granted: BTreeMap<(Rc<str>, u64), u32>,
    /// Which connections are told when a user's rows change.
    tracked: BTreeMap<Rc<str>, BTreeSet<Line>>,
    /// Out of memory: what needs some is refused.
    pub full: bool,
    has_scripts: bool,
    /// The name of what it remembers.
    memory: u64,
    /// What services were told on `user:events`: who, and whether they came.
    pub events: Vec<(Rc<str>, bool)>,
    /// Rows that were deleted or overwritten by another epoch since the last look: user and node.
    pub lost: BTreeSet<(Rc<str>, Rc<str>)>,
    /// Of these, those that were deleted one by one under the lease that they were written under: user and process.
    pub taken_back: BTreeSet<(Rc<str>, u32)>,
}

impl Redis {
    /// Everything is forgotten; the connections stay.
    pub fn flush(&mut self, connections: &mut Connections) {
        self.lost_all();
        *self = Redis {
            full: self.full,
            has_scripts: self.has_scripts,
            memory: self.memory + 1,
            events: std::mem::take(&mut self.events),
            granted: std::mem::take(&mut self.granted),
            lost: std::mem::take(&mut self.lost),
            ..Redis::default()
        };
        for connection in connections.values_mut().filter(|c| c.tracks && !c.cut) {
            connection.down.push_back(Reply::InvalidatedAll);
        }
    }

    /// Another process with nothing in it.
    pub fn restart(&mut self) {
        self.lost_all();
        *self = Redis {
            memory: self.memory + 1,
            events: std::mem::take(&mut self.events),
            granted: std::mem::take(&mut self.granted),
            lost: std::mem::take(&mut self.lost),
            ..Redis::default()
        };
    }

    pub fn forget_scripts(&mut self) {
        self.has_scripts = false;
    }

    /// Rows whose time has come go.
    pub fn expire(&mut self, connections: &mut Connections, now_ms: u64) {
        let over: Vec<Rc<str>> =
            self.users.iter().filter(|(_, hash)| hash.expires_ms <= now_ms).map(|(user, _)| user.clone()).collect();
        for user in over {
            let hash = self.users.remove(&user).expect("it was there");
            self.lost.extend(hash.rows.into_keys().map(|node| (user.clone(), node)));
            self.touched(&user, None, connections);
        }
    }

    /// Whether a living lease of this process covers a row of the user.
    pub fn covers(&self, user: &str, instance: u32, now_ms: u64) -> Option<Rc<str>> {
        let rows = self.users.get(user)?.rows.iter();
        let mut live = rows.filter(|(node, (epoch, ..))| {
            let lease = self.leases.get(*node);
            lease.is_some_and(|l| l.epoch == *epoch && l.instance == instance && l.expires_ms > now_ms)
        });
        live.next().map(|(node, _)| node.clone())
    }

    /// All rows that are of a lease, a living one or one that is to be cleaned up after. What a process has written whose lease Redis has
    /// forgotten before is of none: it counts for nothing, and runs out.
    pub fn rows(&self) -> BTreeSet<Place> {
        let rows = self.users.iter().flat_map(|(user, hash)| hash.rows.iter().map(move |row| (user, row)));
        let of_lease = rows.filter(|(_, (node, (epoch, ..)))| {
            self.leases.get(*node).is_some_and(|lease| lease.epoch == *epoch)
                || self.graves.contains_key(&((*node).clone(), *epoch))
        });
        of_lease.map(|(user, (node, (epoch, shard, _)))| (user.to_string(), node.to_string(), *epoch, *shard)).collect()
    }

    /// What these processes have written under leases that are over, and nobody cleans up: users, and where they were.
    pub fn left_behind(&self, instances: &BTreeSet<u32>) -> BTreeSet<Place> {
        let is_left = |node: &Rc<str>, epoch: u64| {
            self.leases.get(node).is_none_or(|lease| lease.epoch != epoch)
                && self.granted.get(&(node.clone(), epoch)).is_some_and(|instance| instances.contains(instance))
        };
        let rows = self.users.iter().flat_map(|(user, hash)| hash.rows.iter().map(move |row| (user, row)));
        let rows = rows.map(|(user, (node, (epoch, shard, _)))| (user, node, *epoch, *shard));
        let indexed = self
            .indices
            .iter()
            .flat_map(|((node, epoch, shard), users)| users.iter().map(move |user| (user, node, *epoch, *shard)));
        let left = rows.chain(indexed).filter(|(_, node, epoch, _)| is_left(node, *epoch));
        left.map(|(user, node, epoch, shard)| (user.to_string(), node.to_string(), epoch, shard)).collect()
    }

    /// Rows that whoever cleans up would not find.
    pub fn unindexed(&self) -> Vec<Place> {
        let is_indexed = |(user, node, epoch, shard): &Place| {
            let index = self.indices.get(&(Rc::from(node.as_str()), *epoch, *shard));
            index.is_some_and(|users| users.contains(user.as_str()))
        };
        self.rows().into_iter().filter(|row| !is_indexed(row)).collect()
    }

    /// Checks that services were told of everybody's coming and going by turns, and the truth at last; unless it has forgotten everything
    /// meanwhile, when some are told twice.
    pub fn check_events(&self) {
        if self.memory > 0 {
            return;
        }
        let mut online = BTreeSet::new();
        for (user, came) in &self.events {
            let turns = if *came { online.insert(user) } else { online.remove(user) };
            assert!(turns, "{user} is told twice in a row to be online: {came}");
        }
        assert_eq!(online, self.users.keys().collect(), "who is online as services know it");
    }

    pub fn graves(&self) -> usize {
        self.graves.len()
    }

    /// Carries out a command of a connection; the answer is on its way, if there is anybody to have it.
    pub fn run(&mut self, from: Line, command: Command, connections: &mut Connections, now_ms: u64) {
        self.now_ms = now_ms;
        let reply = match command {
            Command::Greet { writes } => {
                let refused = writes && self.full;
                self.has_scripts |= writes && !refused;
                if let Some(connection) = connections.get_mut(&from) {
                    connection.tracks = writes;
                }
                Reply::Greeted(!refused)
            }
            Command::LoadScripts => {
                self.has_scripts = true;
                Reply::Done
            }
            Command::Put { .. }
            | Command::Delete { .. }
            | Command::Lease { .. }
            | Command::Leases
            | Command::Bury { .. }
                if !self.has_scripts =>
            {
                Reply::Refused { no_script: true }
            }
            // A script may write as long as it has no `redis.call` that needs memory; these have.
            Command::Put { .. } | Command::Lease { .. } | Command::Index { put: true, .. } if self.full => {
                Reply::Refused { no_script: false }
            }
            Command::Put { user, row, stamp } => Reply::Row(self.put(from, &user, row, stamp, connections)),
            Command::Delete { user, node, epoch, stamp } => {
                Reply::Row(self.delete(from, &user, &node, epoch, stamp, connections))
            }
            Command::Index { of, users, put } => {
                let index = self.indices.entry((of.node, of.epoch, of.shard.0)).or_default();
                for user in users {
                    if put {
                        index.insert(user);
                    } else {
                        index.remove(&user);
                    }
                }
                Reply::Done
            }
            Command::Lease { command, instance, about } => Reply::Lease(self.lease(&command, instance, about)),
            Command::Leases => Reply::Leases(self.polled()),
            Command::Find { user } => {
                self.tracked.entry(user.clone()).or_default().insert(from);
                Reply::Rows(self.rows_of(&user))
            }
            Command::Publish { channel, payload } => Reply::Heard(publish(&channel, &payload, connections)),
            Command::Sample { of } => {
                let index = self.indices.get(&(of.node, of.epoch, of.shard.0));
                Reply::Names(index.into_iter().flatten().take(3).cloned().collect())
            }
            Command::Bury { node, epoch } => {
                if self.graves.remove(&(node.clone(), epoch)).is_none()
                    && self.leases.get(&node).is_some_and(|l| l.epoch == epoch && l.expires_ms <= now_ms)
                {
                    self.leases.remove(&node);
                }
                Reply::Done
            }
            Command::Channels { put, channels } => {
                if let Some(connection) = connections.get_mut(&from).filter(|c| !c.cut) {
                    for (id, channel) in channels {
                        if put {
                            connection.channels.insert(channel);
                        } else {
                            connection.channels.remove(&channel);
                        }
                        connection.down.push_back(Reply::Confirmed(id));
                    }
                }
                return;
            }
        };
        if let Some(connection) = connections.get_mut(&from).filter(|c| !c.cut) {
            connection.down.push_back(reply);
        }
    }

    fn put(&mut self, from: Line, user: &Rc<str>, row: Row, stamp: Stamp, connections: &mut Connections) -> bool {
        let held = self.users.get(user).and_then(|hash| hash.rows.get(&row.node));
        if held.is_some_and(|(held, ..)| *held > row.epoch) || self.now_ms >= stamp.lease_ends_ms {
            return false;
        }
        let hash = self.users.entry(user.clone()).or_default();
        let before = hash.rows.insert(row.node.clone(), (row.epoch, row.shard.0, stamp.serial));
        if before.is_none() && hash.rows.len() == 1 && !stamp.confirmed {
            self.events.push((user.clone(), true));
        }
        if before.is_some_and(|(epoch, ..)| epoch != row.epoch) {
            self.lost.insert((user.clone(), row.node.clone()));
        }
        hash.expires_ms = self.now_ms + ENTRY_TTL_MS;
        self.touched(user, Some(from), connections);
        true
    }

    fn delete(
        &mut self,
        from: Line,
        user: &Rc<str>,
        node: &Rc<str>,
        epoch: u64,
        stamp: Option<Stamp>,
        connections: &mut Connections,
    ) -> bool {
        let held = self.users.get(user).and_then(|hash| hash.rows.get(node)).copied();
        let gone = match held {
            None => stamp.is_some_and(|stamp| stamp.confirmed && self.now_ms < stamp.lease_ends_ms),
            Some((held, ..)) if held > epoch => return false,
            Some((_, _, written)) => stamp.is_none_or(|stamp| written <= stamp.serial),
        };
        if gone && held.is_some() {
            let lease = self
                .leases
                .get(node)
                .filter(|lease| Some(lease.epoch) == held.map(|(held, ..)| held) && lease.expires_ms > self.now_ms);
            self.taken_back.extend(lease.map(|lease| (user.clone(), lease.instance)));
            self.users.get_mut(user).map(|hash| hash.rows.remove(node));
            self.users.retain(|_, hash| !hash.rows.is_empty());
            self.lost.insert((user.clone(), node.clone()));
            self.touched(user, Some(from), connections);
        }
        if gone && !self.users.contains_key(user) {
            self.events.push((user.clone(), false));
        }
        true
    }

    fn lease(&mut self, command: &lease::Command, instance: u32, about: About) -> Answer {
        let node: Rc<str> = Rc::from(&*command.node);
        let expires_ms = self.now_ms + LEASE_TTL_MS;
        match (command.kind, self.leases.get_mut(&node)) {
            (Ask::Acquire { floor, take_over }, held) => {
                let mut epoch = floor;
                if let Some(held) = held {
                    if !take_over && held.instance != instance && held.expires_ms > self.now_ms {
                        return Answer::Fenced;
                    }
                    epoch = epoch.max(held.epoch + 1);
                    self.graves.insert((node.clone(), held.epoch), (held.instance, held.about.clone()));
                }
                if let Some((node, epoch)) = &command.over {
                    self.graves.entry((Rc::from(&**node), *epoch)).or_insert_with(|| (instance, about.clone()));
                }
                self.granted.insert((node.clone(), epoch), instance);
                self.leases.insert(node, Lease { epoch, expires_ms, instance, about });
                Answer::Granted { epoch, memory: self.memory, ends_ms: expires_ms }
            }
            (Ask::Renew { epoch } | Ask::Release { epoch }, Some(held)) if held.epoch > epoch => Answer::Fenced,
            (Ask::Renew { epoch }, Some(held)) if held.epoch == epoch && held.expires_ms > self.now_ms => {
                (held.expires_ms, held.about) = (expires_ms, about);
                Answer::Renewed { ends_ms: expires_ms }
            }
            (Ask::Release { epoch }, Some(held)) if held.epoch == epoch => {
                held.expires_ms = 0;
                Answer::Released
            }
            (Ask::Renew { .. } | Ask::Release { .. }, _) => Answer::Missing,
        }
    }

    fn polled(&self) -> Vec<Polled> {
        let living = self.leases.iter().map(|(node, lease)| Polled {
            node: node.clone(),
            epoch: lease.epoch,
            instance: lease.instance,
            remaining_ms: lease.expires_ms as i64 - self.now_ms as i64,
            about: lease.about.clone(),
        });
        let over = self.graves.iter().map(|((node, epoch), (instance, about))| Polled {
            node: node.clone(),
            epoch: *epoch,
            instance: *instance,
            remaining_ms: -(self.now_ms as i64),
            about: about.clone(),
        });
        living.chain(over).collect()
    }

    fn rows_of(&self, user: &str) -> Rows {
        let rows = self.users.get(user).into_iter().flat_map(|hash| &hash.rows);
        rows.map(|(node, (epoch, shard, _))| Row {
            node: node.clone(),
            epoch: *epoch,
            shard: ringgate::ids::ShardId(*shard),
        })
        .collect()
    }

    /// Those who have read it are told, but for the one who has changed it (NOLOOP), and all are forgotten.
    fn touched(&mut self, user: &Rc<str>, by: Option<Line>, connections: &mut Connections) {
        for reader in self.tracked.remove(user).into_iter().flatten().filter(|reader| Some(*reader) != by) {
            if let Some(connection) = connections.get_mut(&reader).filter(|c| !c.cut) {
                connection.down.push_back(Reply::Invalidated(user.clone()));
            }
        }
    }

    fn lost_all(&mut self) {
        let rows = self.users.iter().flat_map(|(user, hash)| hash.rows.keys().map(move |node| (user, node)));
        let all: Vec<_> = rows.map(|(user, node)| (user.clone(), node.clone())).collect();
        self.lost.extend(all);
    }
}

/// How many connections count as having heard it.
fn publish(channel: &Rc<str>, payload: &[u8], connections: &mut Connections) -> u64 {
    let mut heard = 0;
    for connection in connections.values_mut().filter(|c| !c.cut && c.channels.contains(channel)) {
        heard += 1;
        if !connection.deaf {
            connection.down.push_back(Reply::Message { channel: channel.clone(), payload: payload.to_vec() });
        }
    }
    heard
}

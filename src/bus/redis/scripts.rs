//! The scripts that Redis runs for the registry: what must be decided and done in one step. Each keeps to one key, so to one hash slot.
//!
//! They are called by their hash. A server that has lost its script cache answers `NOSCRIPT`
//! ([`Trouble::NoScript`](super::trouble::Trouble)): load them ([`Scripts::load`]) and ask again. A fresh connection loads them in its
//! greeting.
//!
//! What a script returns is read here too, so that the texts and their readers stand side by side.

use std::rc::Rc;

use redis::{Cmd, Script, Value};

use crate::cluster::nodes::{About, Polled};
use crate::cluster::registry::{Row, Rows};
use crate::cluster::{agent, lease};
use crate::ids::ShardId;
use crate::protocol::service::presence_event;

/// The scripts, and the keys they are run on.
#[derive(Debug)]
pub struct Scripts {
    keys: Keys,
    row_put: Text,
    row_delete: Text,
    lease_acquire: Text,
    lease_renew: Text,
    lease_release: Text,
    lease_list: Text,
}

/// The names of keys and channels, under `redis.prefix`. Braces are hash tags: what is between them alone decides the slot.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Box<str>,
}

#[derive(Debug)]
struct Text {
    text: &'static str,
    hash: Box<str>,
}

/// What a shard says of a write to its own rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Larger than that of the shard's writes before: a deletion leaves alone what was written after it.
    pub serial: u64,
    /// When the node's lease ends, in milliseconds of Redis's clock.
    pub lease_ends_ms: u64,
    /// Redis is known to have had the row: services were told of the user's coming. If Redis has it no more while the lease lives, it has
    /// forgotten it.
    pub confirmed: bool,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowReply {
    /// It is as it was asked.
    Done,
    /// A newer epoch of this node has been there, or the lease has ended: this one is over.
    Fenced,
    /// The reply makes no sense.
    Unreadable,
}

impl Keys {
    /// Names under this prefix.
    pub fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.into() }
    }

    /// The hash of a user's rows: node → `epoch shard serial`.
    pub fn rows(&self, user: &str) -> String {
        format!("{}loc:{user}", self.prefix)
    }

    /// The user whose rows a key holds, for invalidations.
    pub fn user_of<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"loc:")?;
        std::str::from_utf8(rest).ok()
    }

    /// The hash of all leases: node → `epoch expires-at instance about`. The grave of an epoch that was replaced is under
    /// `node\nepoch`, and under `\n` the name of what this Redis remembers.
    pub fn leases(&self) -> String {
        format!("{}leases", self.prefix)
    }

    /// The channel on which services are told of a user's first and last row.
    pub fn user_events(&self) -> String {
        format!("{}user:events", self.prefix)
    }

    /// A key that is written when a connection is made, and lives for a moment: a server that refuses writes is of no use.
    pub fn writable(&self) -> String {
        format!("{}writable", self.prefix)
    }

    /// The set of users that have, or may have, a row of this node, epoch and shard: what others clean up by.
    pub fn index(&self, node: &str, epoch: u64, shard: ShardId) -> String {
        format!("{}idx:{node}:{epoch}:{}", self.prefix, shard.0)
    }

    /// The channel of one shard under one epoch: what is sent to it after that epoch has nobody to hear it.
    pub fn shard_channel(&self, node: &str, epoch: u64, shard: ShardId) -> String {
        format!("{}{}", self.prefix, agent::own_channel(node, epoch, shard))
    }
}

impl Scripts {
    /// The scripts on keys under `prefix`.
    pub fn new(prefix: &str) -> Self {
        let text = |text| Text { text, hash: Script::new(text).get_hash().into() };
        Scripts {
            keys: Keys::new(prefix),
            row_put: text(include_str!("scripts/row_put.lua")),
            row_delete: text(include_str!("scripts/row_delete.lua")),
            lease_acquire: text(include_str!("scripts/lease_acquire.lua")),
            lease_renew: text(include_str!("scripts/lease_renew.lua")),
            lease_release: text(include_str!("scripts/lease_release.lua")),
            lease_list: text(include_str!("scripts/lease_list.lua")),
        }
    }

    /// The names of keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The commands that load all scripts.
    pub fn load(&self) -> Vec<Cmd> {
        let all = [
            &self.row_put,
            &self.row_delete,
            &self.lease_acquire,
            &self.lease_renew,
            &self.lease_release,
            &self.lease_list,
        ];
        all.map(|script| redis::cmd("SCRIPT").arg("LOAD").arg(script.text).to_owned()).into()
    }

    /// Writes or renews a row, and tells services where it is the user's first. Read the reply with [`row_reply`].
    pub fn row_put(&self, user: &str, row: &Row, ttl_ms: u64, stamp: Stamp) -> Cmd {
        let mut command = self.row_put.call(&self.keys.rows(user));
        command.arg(&*row.node).arg(row.epoch).arg(row.shard.0).arg(stamp.serial).arg(ttl_ms).arg(stamp.lease_ends_ms);
        if !stamp.confirmed {
            command.arg(self.keys.user_events()).arg(presence_event(true, user, &row.node));
        }
        command
    }

    /// Deletes a row of one's own, and tells services where it was the user's last. Read the reply with [`row_reply`].
    pub fn row_delete(&self, user: &str, row: &Row, stamp: Stamp) -> Cmd {
        let must_be_there_ms = stamp.confirmed.then_some(stamp.lease_ends_ms);
        self.row_remove(user, &row.node, row.epoch, Some(stamp.serial), must_be_there_ms)
    }

    /// Deletes a row of a node and epoch that are over, as [`Scripts::row_delete`] does.
    pub fn row_reap(&self, user: &str, node: &str, epoch: u64) -> Cmd {
        self.row_remove(user, node, epoch, None, None)
    }

    /// Reads a user's rows, and has changes of them told. Read the reply with [`rows`].
    pub fn row_find(&self, user: &str) -> Cmd {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.keys.rows(user));
        command
    }

    /// What the lease of this node asks. Read the reply with [`lease_answer`].
    pub fn lease(&self, command: &lease::Command, instance: u32, ttl_ms: u64, about: &About) -> Cmd {
        let leases = self.keys.leases();
        match command.kind {
            lease::Ask::Acquire { floor, take_over } => {
                let over = command.over.as_ref().map_or(String::new(), |(node, epoch)| format!("{node}\n{epoch}"));
                let mut call = self.lease_acquire.call(&leases);
                call.arg(&*command.node).arg(instance).arg(floor).arg(ttl_ms);
                call.arg(u8::from(take_over)).arg(about.encode()).arg(over);
                call
            }
            lease::Ask::Renew { epoch } => {
                let mut call = self.lease_renew.call(&leases);
                call.arg(&*command.node).arg(epoch).arg(ttl_ms).arg(about.encode());
                call
            }
            lease::Ask::Release { epoch } => self.lease_remove(&command.node, epoch, false),
        }
    }

    /// Removes the grave of a lease, when the rows under its epoch are cleaned up.
    pub fn lease_reap(&self, node: &str, epoch: u64) -> Cmd {
        self.lease_remove(node, epoch, true)
    }

    /// Reads all leases. Read the reply with [`leases`].
    pub fn lease_list(&self) -> Cmd {
        self.lease_list.call(&self.keys.leases())
    }

    fn row_remove(
        &self,
        user: &str,
        node: &str,
        epoch: u64,
        serial: Option<u64>,
        must_be_there_ms: Option<u64>,
    ) -> Cmd {
        let text = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
        let mut command = self.row_delete.call(&self.keys.rows(user));
        command.arg(node).arg(epoch).arg(text(serial)).arg(text(must_be_there_ms));
        command.arg(self.keys.user_events()).arg(presence_event(false, user, node));
        command
    }

    fn lease_remove(&self, node: &str, epoch: u64, grave: bool) -> Cmd {
        let mut call = self.lease_release.call(&self.keys.leases());
        call.arg(node).arg(epoch).arg(u8::from(grave));
        call
    }
}

impl Text {
    fn call(&self, key: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&*self.hash).arg(1).arg(key);
        command
    }
}

/// What a row script has said.
pub fn row_reply(reply: &Value) -> RowReply {
    match reply {
        Value::Int(1) => RowReply::Done,
        Value::Int(0) => RowReply::Fenced,
        _ => RowReply::Unreadable,
    }
}

/// The rows that a look-up has read; `None` if it is no such reply. Rows that make no sense are left out.
pub fn rows(reply: &Value) -> Option<Rows> {
    match reply {
        Value::Map(rows) => Some(rows.iter().filter_map(|(node, row)| self::row(node, row)).collect()),
        Value::Array(items) => pairs(items),
        _ => None,
    }
}

/// The names that a set's command has listed; `None` if it is no such reply.
pub fn names(reply: &Value) -> Option<Vec<Rc<str>>> {
    let (Value::Array(items) | Value::Set(items)) = reply else { return None };
    Some(items.iter().filter_map(text).map(Rc::from).collect())
}

/// What a lease script has said to this question.
pub fn lease_answer(ask: lease::Ask, reply: &Value) -> lease::Answer {
    use lease::{Answer, Ask};
    match (ask, reply) {
        (Ask::Acquire { .. }, Value::Array(items)) => match items[..] {
            [Value::Int(1), Value::Int(epoch @ 0..), Value::Int(memory @ 0..), Value::Int(ends_ms @ 0..)] => {
                Answer::Granted { epoch: epoch as u64, memory: memory as u64, ends_ms: ends_ms as u64 }
            }
            [Value::Int(0), _] => Answer::Fenced,
            _ => Answer::Failed,
        },
        (Ask::Renew { .. }, Value::Int(ends_ms @ 3..)) => Answer::Renewed { ends_ms: *ends_ms as u64 },
        (Ask::Release { .. }, Value::Int(1)) => Answer::Released,
        (Ask::Renew { .. } | Ask::Release { .. }, Value::Int(0)) => Answer::Missing,
        (Ask::Renew { .. } | Ask::Release { .. }, Value::Int(2)) => Answer::Fenced,
        _ => Answer::Failed,
    }
}

/// The leases of a poll; `None` if it is no such reply. Leases that make no sense are left out.
pub fn leases(reply: &Value) -> Option<Vec<Polled>> {
    let Value::Array(items) = reply else { return None };
    let polled = items.chunks_exact(5).filter_map(|lease| {
        let node = Rc::from(text(&lease[0])?);
        let epoch = text(&lease[1])?.parse().ok()?;
        let instance = text(&lease[2])?.parse().ok()?;
        let remaining_ms = text(&lease[3])?.parse().ok()?;
        let about = About::decode(text(&lease[4])?).unwrap_or_default();
        Some(Polled { node, epoch, instance, remaining_ms, about })
    });
    Some(polled.collect())
}

fn pairs(items: &[Value]) -> Option<Rows> {
    items.len().is_multiple_of(2).then(|| items.chunks_exact(2).filter_map(|pair| row(&pair[0], &pair[1])).collect())
}

fn row(node: &Value, row: &Value) -> Option<Row> {
    let mut words = text(row)?.split(' ');
    let (epoch, shard) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    // The serial is for the scripts.
    let serial = words.next().map(str::parse::<u64>);
    if serial.is_some_and(|serial| serial.is_err()) || words.next().is_some() {
        return None;
    }
    Some(Row { node: text(node)?.into(), epoch, shard: ShardId(shard) })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

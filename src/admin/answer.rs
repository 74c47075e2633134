//! What the server API answers: [`Outcome`]s to JSON. Pure.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::failure::{Code, Failure};
use crate::protocol::command::{ClusterInfo, NodeInfo, Outcome, Published, ShardInfo, Tally};

/// An HTTP response, before it is encoded.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(status: u16, value: &Value) -> Self {
        let mut body = value.to_string();
        body.push('\n');
        Answer { status, content_type: "application/json", headers: Vec::new(), body: body.into() }
    }

    pub(super) fn text(status: u16, text: &'static str) -> Self {
        Answer { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body: text.into() }
    }

    pub(super) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        let answer = Answer::json(failure.code.status(), &failure.json());
        match failure.code {
            Code::Busy | Code::Unavailable => answer.with("retry-after", "1"),
            _ => answer,
        }
    }
}

/// What the answers say about the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    pub(super) id: &'a str,
}

/// The result of one command.
///
/// # Errors
///
/// Too much is under way; another node could not be asked, or is to be asked itself.
pub(super) fn result(outcome: Outcome, node: Node<'_>) -> Result<Value, Failure> {
    Ok(match outcome {
        Outcome::Published(published) => publication(published)?,
        Outcome::Connections(count) => json!({ "count": count }),
        Outcome::Present(present) => {
            let listed = present.users.len() as u32;
            let user = |(user, connections): &(Box<str>, u32)| json!({ "user": user, "connections": connections });
            let elsewhere: u32 = present.elsewhere.iter().map(|(_, connections)| connections).sum();
            let here = (node.id, present.census.connections.saturating_sub(elsewhere));
            let nodes = present.elsewhere.iter().map(|(name, connections)| (&**name, *connections));
            let nodes = std::iter::once(here).chain(nodes).filter(|(_, connections)| *connections > 0);
            let nodes = nodes.map(|(node, connections)| json!({ "node": node, "connections": connections }));
            json!({
                "users": present.users.iter().map(user).collect::<Vec<_>>(),
                "user_count": present.census.users,
                "connection_count": present.census.connections,
                "nodes": nodes.collect::<Vec<_>>(),
                "truncated": listed < present.census.users,
            })
        }
        Outcome::Found { connections, matched } => {
            let described = connections.iter().map(|info| {
                let mut value = serde_json::to_value(info).unwrap_or_default();
                if let Some(fields) = value.as_object_mut() {
                    fields.insert("node".to_owned(), node.id.into());
                }
                value
            });
            json!({ "connections": described.collect::<Vec<_>>(), "matched": matched })
        }
        Outcome::Info(shards) => {
            let known = shards.first().and_then(|info| info.cluster.as_ref());
            json!({ "shards": shards.iter().map(shard).collect::<Vec<_>>(), "cluster": known.map(cluster) })
        }
        Outcome::Traced(events, lost) => json!({ "events": events, "lost": lost }),
        Outcome::Probed => json!({}),
        Outcome::Elsewhere(node) => {
            let text = format!(
                "connection is on the node {node:?}, and this verb is about the node that is asked: ask that one"
            );
            return Err(Failure::bad(text));
        }
        Outcome::Unreachable => {
            let text = "the node that has it could not be asked, or has not answered: what became of it is not known";
            return Err(Failure::new(Code::Unavailable, text));
        }
        Outcome::Busy => return Err(Failure::new(Code::Busy, "too many commands are under way")),
    })
}

/// What became of a message. That nobody is known to have it, and some may, is a failure.
fn publication(published: Published) -> Result<Value, Failure> {
    let Published { id, tally } = published;
    let Tally { delivered, offline, dropped, unavailable } = tally;
    if delivered == 0 && unavailable > 0 {
        let text = "other nodes could not be reached, or it is not known whether they were";
        return Err(Failure::new(Code::Unavailable, text));
    }
    let status = match tally {
        Tally { delivered: 1.., .. } => "delivered",
        Tally { dropped: 1.., .. } => "dropped",
        _ => "offline",
    };
    let mut value = json!({
        "id": id.to_string(),
        "status": status,
        "delivered": delivered,
        "offline": offline,
        "dropped": dropped,
    });
    if let (1.., Some(fields)) = (unavailable, value.as_object_mut()) {
        fields.insert("unavailable".to_owned(), unavailable.into());
    }
    Ok(value)
}

fn cluster(info: &ClusterInfo) -> Value {
    let lease = info.lease.as_ref();
    let node = |node: &NodeInfo| {
        json!({
            "node_id": node.name,
            "shards": node.shards,
            "client": node.advertise,
            "weight": node.weight,
            "lease": { "epoch": node.epoch, "remaining_ms": node.lease_ms },
        })
    };
    json!({
        "lease": lease.map(|(name, epoch, ms)| json!({ "node": name, "epoch": epoch, "remaining_ms": ms })),
        "nodes": info.nodes.iter().map(node).collect::<Vec<_>>(),
        "ring": info.ring.map(|fingerprint| format!("{fingerprint:016x}")),
    })
}

fn shard(info: &ShardInfo) -> Value {
    let mut value = Map::new();
    value.insert("shard".to_owned(), info.shard.0.into());
    for (group, [name, also], number) in &info.figures {
        let group = value.entry(*group).or_insert_with(|| Value::Object(Map::new()));
        if let Some(group) = group.as_object_mut() {
            let dot = if also.is_empty() { "" } else { "." };
            group.insert(format!("{name}{dot}{also}"), (*number).into());
        }
    }
    let room = |(name, census): &(Box<str>, crate::protocol::envelope::Census)| json!({ "room": name, "users": census.users, "connections": census.connections });
    value.insert("rooms".to_owned(), info.rooms.iter().map(room).collect());
    Value::Object(value)
}

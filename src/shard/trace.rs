//! Following one user's frames, for the operator: a few users at a time, for as long as somebody asks for more, and bounded in memory.
//!
//! Where nobody is followed, all of this is one look at an empty list per message.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;

use crate::ids::GlobalConnectionId;
use crate::protocol::class::Class;
use crate::protocol::command::{Traced, TracedWhat};
use crate::shard::Shard;
use crate::shard::connections::Connections;
use crate::shard::row::NONE;
use crate::time::Now;

/// Users followed at a time, per shard.
const TRACES_MAX: usize = 16;
/// Nobody has asked for that long: it ends.
const LEASE_MS: u64 = 10_000;
/// Frames that wait to be asked for.
const EVENTS_MAX: usize = 4096;
/// Bytes of a message that are shown.
const CONTENT_BYTES_MAX: usize = 4096;
/// Bytes of messages that wait to be asked for.
const HELD_BYTES_MAX: usize = 1024 * 1024;

/// The users that are followed on one shard.
#[derive(Debug, Default)]
pub(super) struct Traces(Vec<Trace>);

#[derive(Debug)]
struct Trace {
    user: Box<str>,
    /// The user's index while there are connections, else [`NONE`].
    index: u32,
    content: bool,
    until_ms: u64,
    events: VecDeque<Traced>,
    held_bytes: usize,
    lost: u64,
}

impl Traces {
    /// Nobody is followed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A user has a first connection.
    pub(super) fn arrived(&mut self, user: &str, index: u32) {
        if let Some(trace) = self.0.iter_mut().find(|trace| *trace.user == *user) {
            trace.index = index;
        }
    }

    /// A user has lost the last connection.
    pub(super) fn left(&mut self, index: u32) {
        if let Some(trace) = self.0.iter_mut().find(|trace| trace.index == index) {
            trace.index = NONE;
        }
    }

    /// Ends those that nobody asks for.
    pub(super) fn expire(&mut self, now: Now) {
        self.0.retain(|trace| trace.until_ms > now.mono_ms);
    }

    /// What was seen of a user since the last call, and how much did not fit; begins to follow where nobody did. `None`: too many are followed.
    fn take(&mut self, user: &str, index: Option<u32>, content: bool, now: Now) -> Option<(Vec<Traced>, u64)> {
        let at = match self.0.iter().position(|trace| *trace.user == *user) {
            Some(at) => at,
            None if self.0.len() >= TRACES_MAX => return None,
            None => {
                let index = index.unwrap_or(NONE);
                let events = VecDeque::new();
                self.0.push(Trace { user: user.into(), index, content, until_ms: 0, events, held_bytes: 0, lost: 0 });
                self.0.len() - 1
            }
        };
        let trace = &mut self.0[at];
        trace.content = content;
        trace.until_ms = now.mono_ms + LEASE_MS;
        trace.held_bytes = 0;
        Some((std::mem::take(&mut trace.events).into(), std::mem::take(&mut trace.lost)))
    }

    fn record(&mut self, index: u32, event: impl FnOnce(bool) -> Traced) {
        let Some(trace) = self.0.iter_mut().find(|trace| trace.index == index && index != NONE) else { return };
        let event = event(trace.content);
        let bytes = event.content.as_ref().map_or(0, |content| content.len());
        if trace.events.len() >= EVENTS_MAX || trace.held_bytes + bytes > HELD_BYTES_MAX {
            trace.lost += 1;
        } else {
            trace.held_bytes += bytes;
            trace.events.push_back(event);
        }
    }
}

impl Connections {
    /// Something happened to a connection of a user that may be followed. `text` is the message, where there is one.
    pub(super) fn trace(&mut self, slot: u32, what: TracedWhat, text: &[u8], class: Option<Class>, now: Now) {
        let (index, conn) = (self.row(slot).user, self.global_id(slot));
        self.traces.record(index, |content| traced(conn, what, text, class, content, now));
    }
}

impl Shard {
    /// The operator asks for what was seen of a user.
    pub(super) fn take_trace(&mut self, user: &str, content: bool, now: Now) -> Option<(Vec<Traced>, u64)> {
        let index = self.users.find(user);
        self.connections.traces.take(user, index, content, now)
    }
}

fn traced(
    connection: GlobalConnectionId,
    what: TracedWhat,
    text: &[u8],
    class: Option<Class>,
    content: bool,
    now: Now,
) -> Traced {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
    }
    let kind = serde_json::from_slice::<Typed<'_>>(text).map_or(Box::from(""), |typed| {
        let shown: String = typed.kind.chars().take(64).collect();
        shown.into()
    });
    let shown = || String::from_utf8_lossy(&text[..text.len().min(CONTENT_BYTES_MAX)]).into();
    Traced {
        timestamp_us: now.unix_ms * 1000 + u64::from(now.sub_us),
        connection,
        what,
        kind,
        bytes: text.len() as u32,
        class,
        content: (content && !text.is_empty()).then(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnectionId, ShardId};

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, boot_ms: mono_ms, unix_ms: 1, sub_us: 2 }
    }

    fn event(text: &'static str) -> impl FnOnce(bool) -> Traced {
        let conn = ConnectionId { shard: ShardId(0), slot: 1, generation: 2 }.of(7);
        move |content| traced(conn, TracedWhat::In, text.as_bytes(), None, content, at(0))
    }

    #[test]
    fn a_user_is_followed_while_somebody_asks_and_through_reconnects() {
        let mut traces = Traces::default();
        assert_eq!(traces.take("ann", Some(3), false, at(0)), Some((Vec::new(), 0)));
        traces.record(3, event(r#"{"type":"ping"}"#));
        traces.record(4, event(r#"{"type":"ping"}"#));
        traces.left(3);
        traces.record(3, event(r#"{"type":"pong"}"#));
        traces.arrived("ann", 9);
        traces.record(9, event("not json"));
        let (events, lost) = traces.take("ann", Some(9), true, at(1)).unwrap();
        assert_eq!((events.iter().map(|e| &*e.kind).collect::<Vec<_>>(), lost), (vec!["ping", ""], 0));
        assert!(events.iter().all(|event| event.content.is_none()));
        traces.record(9, event("text"));
        let (events, _) = traces.take("ann", Some(9), true, at(2)).unwrap();
        assert_eq!(events[0].content.as_deref(), Some("text"));
        traces.expire(at(2 + LEASE_MS));
        assert!(traces.is_empty());
    }

    #[test]
    fn bounds_hold_and_losses_are_told() {
        let mut traces = Traces::default();
        for n in 0..TRACES_MAX {
            assert!(traces.take(&format!("u{n}"), Some(n as u32), false, at(0)).is_some());
        }
        assert_eq!(traces.take("one more", None, false, at(0)), None);
        for _ in 0..EVENTS_MAX + 5 {
            traces.record(0, event("{}"));
        }
        let (events, lost) = traces.take("u0", Some(0), false, at(0)).unwrap();
        assert_eq!((events.len(), lost), (EVENTS_MAX, 5));
    }
}

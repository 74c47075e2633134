//! Finding connections for the operator: one pass over the rows that can match, keeping only the largest; TCP's own figures are asked of the
//! driver for those few.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::ids::ShardId;
use crate::limits::RTT_CANDIDATES_MAX;
use crate::protocol::command::{ConnectionInfo, Report, Search, SortBy};
use crate::shard::Shard;
use crate::shard::event::Action;
use crate::shard::relay::Debt;
use crate::shard::row::{NONE, Paused, Row, State};
use crate::time::Now;

/// Tenths of a second without a message of the application after which a connection is called `idle`.
const IDLE_DS: u32 = 300;

/// The searches that wait for the driver.
#[derive(Debug, Default)]
pub(super) struct Searches {
    open: HashMap<u32, Open>,
    next: u32,
}

#[derive(Debug)]
struct Open {
    asker: ShardId,
    number: u32,
    by: SortBy,
    limit: usize,
    matched: u64,
    found: Vec<(u64, ConnectionInfo)>,
    debt: Debt,
}

impl Searches {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

impl Shard {
    /// Selects, and asks the driver for the round trips of what was selected.
    pub(super) fn find(&mut self, asker: ShardId, number: u32, search: &Search, debt: Debt, now: Now) {
        let limit = search.limit as usize;
        let (matched, slots) = self.select(search, now);
        let found: Vec<_> = slots.into_iter().map(|(key, slot)| (key, self.describe(slot, now))).collect();
        if found.is_empty() {
            return self.report(asker, number, Report::Found(found, matched), debt, now);
        }
        let conns = found.iter().map(|(_, info)| info.connection.connection).collect();
        let ticket = self.commands.searches.next;
        self.commands.searches.next = ticket.wrapping_add(1);
        let open = Open { asker, number, by: search.by, limit, matched, found, debt };
        self.commands.searches.open.insert(ticket, open);
        self.connections.actions.push_back(Action::Probe { ticket, conns });
    }

    /// The driver has answered, with round trips in microseconds in the order of the question.
    pub(super) fn probed(&mut self, ticket: u32, rtts_us: &[Option<u32>], now: Now) {
        let Some(open) = self.commands.searches.open.remove(&ticket) else { return };
        let Open { asker, number, by, limit, matched, mut found, debt } = open;
        for ((key, info), rtt_us) in found.iter_mut().zip(rtts_us) {
            info.rtt_us = *rtt_us;
            if by == SortBy::Rtt {
                *key = u64::from(rtt_us.unwrap_or(0));
            }
        }
        found.sort_by_key(|(key, info)| (Reverse(*key), info.connection));
        found.truncate(limit);
        self.report(asker, number, Report::Found(found, matched), debt, now);
    }

    /// How many connections match, and the largest of them with what they are sorted by.
    fn select(&self, search: &Search, now: Now) -> (u64, Vec<(u64, u32)>) {
        let keep = match search.by {
            SortBy::Rtt => RTT_CANDIDATES_MAX,
            _ => search.limit as usize,
        };
        let mut matched = 0;
        let mut largest: BinaryHeap<Reverse<(u64, Reverse<u32>)>> = BinaryHeap::new();
        let mut consider = |slot: u32| {
            if !self.matches(slot, search, now) {
                return;
            }
            matched += 1;
            let candidate = Reverse((self.sort_key(slot, search.by, now), Reverse(slot)));
            if largest.len() < keep {
                largest.push(candidate);
            } else if largest.peek().is_some_and(|smallest| candidate < *smallest) {
                largest.pop();
                largest.push(candidate);
            }
        };
        if let Some(conn) = search.connection {
            self.connections.find_global(conn).into_iter().for_each(&mut consider);
        } else if let Some(user) = &search.user {
            let index = self.users.find(user);
            index.iter().flat_map(|i| self.users.get(*i).connections.iter().copied()).for_each(&mut consider);
        } else if let Some((topic, name)) = &search.topic {
            let index = self.topics.find(*topic, name);
            index.iter().flat_map(|i| self.topics.get(*i).members.iter().map(|m| m.slot)).for_each(&mut consider);
        } else {
            (0..self.connections.capacity()).for_each(&mut consider);
        }
        (matched, largest.into_iter().map(|Reverse((key, Reverse(slot)))| (key, slot)).collect())
    }

    fn matches(&self, slot: u32, search: &Search, now: Now) -> bool {
        let row = self.connections.row(slot);
        row.state != State::Vacant
            && search.address.is_none_or(|address| row.ip.to_canonical() == address.to_canonical())
            && search.state.as_deref().is_none_or(|state| state == self.state_name(row, now))
            && search.user.as_deref().is_none_or(|user| row.user != NONE && *self.users.get(row.user).name == *user)
            && search.topic.as_ref().is_none_or(|(topic, name)| self.membership(slot, *topic, name).is_some())
    }

    fn sort_key(&self, slot: u32, by: SortBy, now: Now) -> u64 {
        let Some(outbox) = self.connections.outbox_of(slot) else { return 0 };
        match by {
            SortBy::OutboxBytes => outbox.bytes() as u64,
            SortBy::OldestMs => outbox.oldest_age_ms(now.mono_ms).unwrap_or(0).into(),
            SortBy::Dropped => dropped(outbox).into(),
            SortBy::Rtt => 0,
        }
    }

    fn state_name(&self, row: &Row, now: Now) -> &'static str {
        match row.state {
            State::Vacant => "vacant",
            State::Connecting => "connecting",
            State::Authenticating | State::Moving => "authenticating",
            State::Active if self.connections.ds(now).saturating_sub(row.last_message_ds) >= IDLE_DS => "idle",
            State::Active => "active",
            State::Echo => "echo",
            State::Closing => "closing",
        }
    }

    fn describe(&self, slot: u32, now: Now) -> ConnectionInfo {
        let row = self.connections.row(slot);
        let outbox = self.connections.outbox_of(slot);
        let since = |then_ds: u32| u64::from(self.connections.ds(now).saturating_sub(then_ds)) * 100;
        ConnectionInfo {
            connection: self.connections.global_id(slot),
            user: (row.user != NONE).then(|| Box::from(self.users.get(row.user).name.as_ref())),
            shard: self.id.0,
            state: self.state_name(row, now).into(),
            address: row.peer(),
            user_agent: row.user_agent.as_deref().map(Box::from),
            age_ms: now.unix_ms.saturating_sub(row.created_unix_ms),
            silent_ms: since(row.last_receive_ds),
            idle_ms: since(row.last_message_ds),
            received_messages: row.received_messages,
            received_bytes: row.received_bytes,
            sent_messages: row.sent_messages,
            sent_bytes: row.sent_bytes,
            subscriptions: row.memberships.len() as u32,
            outbox_bytes: outbox.map_or(0, |o| o.bytes() as u64),
            outbox_frames: outbox.map_or(0, |o| o.len() as u64),
            oldest_ms: outbox.and_then(|o| o.oldest_age_ms(now.mono_ms)).unwrap_or(0),
            dropped: outbox.map_or(0, dropped),
            throttled: row.paused.contains(Paused::THROTTLED),
            compressed: row.deflate.is_some(),
            rtt_us: None,
        }
    }
}

fn dropped(outbox: &crate::shard::outbox::Outbox) -> u32 {
    use crate::protocol::class::Class;
    [Class::Urgent, Class::Normal, Class::Latest, Class::Droppable].into_iter().map(|class| outbox.dropped(class)).sum()
}

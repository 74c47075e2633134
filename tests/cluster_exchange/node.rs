//! One node of the model: its shards, their sessions, and what they know of their rows.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ahash::RandomState;
use ringgate::cluster::exchange::{Exchange, Mode, Settings};
use ringgate::cluster::parcel::Origin;
use ringgate::ids::ShardId;

use super::{ANSWER_WITHIN_MS, LEASE_TTL_MS};

pub struct Node {
    pub name: String,
    pub shards: Vec<Shard>,
    pub lease: Option<Lease>,
    pub lease_asked: bool,
    pub newest_epoch: u64,
    pub poll_at_ms: u64,
    /// Dead until then.
    pub back_at_ms: Option<u64>,
    /// Stopped until then.
    pub frozen_until_ms: u64,
    /// The lease is given up then, as if it had run out.
    pub lose_lease_at_ms: u64,
}

pub struct Lease {
    pub epoch: u64,
    pub until_ms: u64,
    pub renew_at_ms: u64,
}

pub struct Shard {
    pub number: usize,
    /// Names this exchange among all that there have ever been.
    pub exchange_id: u64,
    pub exchange: Exchange,
    pub sessions: BTreeMap<String, Session>,
    pub up: bool,
    pub subscribed: bool,
    pub subscribing: usize,
    /// The connections for commands and for subscriptions.
    pub sides: [Option<u64>; 2],
    pub retry_at_ms: u64,
    pub finding: Vec<Rc<str>>,
    pub publishing: Vec<u64>,
    rows: BTreeMap<String, RowState>,
}

pub struct Session {
    pub id: u64,
    /// Since when a row says that it is here.
    pub sure_since_ms: Option<u64>,
}

#[derive(Default)]
struct RowState {
    /// Whether Redis has it, as far as is known.
    known: Option<bool>,
    asked: bool,
}

impl Node {
    pub fn start(index: usize, mode: Mode, rng: &mut fastrand::Rng) -> Self {
        let name = format!("node-{index}");
        let instance = rng.u32(..);
        let shards = (0..Node::shards_of(&name)).map(|number| {
            let me = Origin { instance, shard: ShardId(number) };
            let mut settings = Settings::new(mode, me, LEASE_TTL_MS, 200);
            settings.answer_within_ms = ANSWER_WITHIN_MS;
            settings.bounds.waiting_per_user_max = 8;
            settings.bounds.moved_per_origin_max = 3;
            settings.bounds.moves_max = 4;
            let hasher = RandomState::with_seeds(1, 2, 3, u64::from(instance));
            Shard {
                number: usize::from(number),
                exchange_id: u64::from(instance) << 16 | u64::from(number),
                exchange: Exchange::new(settings, hasher),
                sessions: BTreeMap::new(),
                up: false,
                subscribed: false,
                subscribing: 0,
                sides: [None; 2],
                retry_at_ms: 0,
                finding: Vec::new(),
                publishing: Vec::new(),
                rows: BTreeMap::new(),
            }
        });
        Node {
            shards: shards.collect(),
            name,
            lease: None,
            lease_asked: false,
            newest_epoch: 0,
            poll_at_ms: 0,
            back_at_ms: None,
            frozen_until_ms: 0,
            lose_lease_at_ms: 0,
        }
    }

    /// Not all nodes are alike.
    pub fn shards_of(name: &str) -> u16 {
        1 + u16::from(name.ends_with('1'))
    }

    pub fn runs(&self, now_ms: u64) -> bool {
        self.back_at_ms.is_none() && self.frozen_until_ms <= now_ms
    }

    pub fn home(&mut self, user: &str) -> &mut Shard {
        let shard = usize::from(user.as_bytes()[1]) % self.shards.len();
        &mut self.shards[shard]
    }

    pub fn has(&mut self, user: &str) -> bool {
        self.home(user).sessions.contains_key(user)
    }
}

impl Shard {
    pub fn come(&mut self, user: &str, id: u64, now_ms: u64) {
        let row = self.rows.entry(user.to_owned()).or_default();
        let sure = row.known == Some(true) && !row.asked;
        self.sessions.insert(user.to_owned(), Session { id, sure_since_ms: sure.then_some(now_ms) });
    }

    /// Nothing is known of the rows any more.
    pub fn start_over(&mut self) {
        self.rows.values_mut().for_each(|row| *row = RowState::default());
        self.sessions.values_mut().for_each(|session| session.sure_since_ms = None);
        for user in self.sessions.keys() {
            self.rows.entry(user.clone()).or_default();
        }
    }

    /// A row may be wrong.
    pub fn stray(&mut self, user: &str) {
        if !self.sessions.contains_key(user) {
            self.rows.entry(user.to_owned()).or_default().known = None;
        }
    }

    /// Users whose rows are to be written or deleted; one write of a name is under way at a time.
    pub fn due_writes(&mut self) -> Vec<(String, bool)> {
        self.rows.retain(|user, row| row.asked || row.known != Some(false) || self.sessions.contains_key(user));
        let wanted: BTreeSet<&String> = self.sessions.keys().collect();
        let due = self.rows.iter_mut().filter(|(user, row)| !row.asked && row.known != Some(wanted.contains(user)));
        due.map(|(user, row)| {
            row.asked = true;
            (user.clone(), wanted.contains(user))
        })
        .collect()
    }

    pub fn written(&mut self, user: &str, put: bool, done: bool, _epoch: Option<u64>, now_ms: u64) {
        let Some(row) = self.rows.get_mut(user).filter(|row| row.asked) else { return };
        *row = RowState { known: done.then_some(put), asked: false };
        if put
            && done
            && let Some(session) = self.sessions.get_mut(user)
        {
            session.sure_since_ms.get_or_insert(now_ms);
        }
    }

    pub fn is_announced(&self) -> bool {
        self.rows.values().all(|row| !row.asked && row.known.is_some())
    }
}

//! What one shard does to be part of the cluster: its link, its users' rows, its subscriptions and, on one shard of the node, the lease.
//!
//! Events in, actions out; the [driver](crate::bus) owns the two connections and carries the actions out. What holds at any time:
//!
//! * Rows are written only under a lease that holds, and only while the shard's own channel of that epoch is confirmed: who is found is
//!   listening.
//! * A lease that is lost ends everything under its epoch: nothing is written, the channel is given up, [`Agent::may_deliver`] is false.
//! * A fresh epoch makes everything that was written before void by itself, so everything is announced again and nothing deleted. Only where
//!   Redis has forgotten everything since the last one, nobody else can clean up: who left meanwhile is deleted, and so told of.

use std::collections::VecDeque;
use std::rc::Rc;

use ahash::RandomState;

pub use event::{Action, Clock, Event, Identity, Standing, WriteAnswer};

use super::lease::{self, Lease};
use super::link::{self, Link, Side, State};
use super::registry::Row;
use super::registry::wants::{Answered, Wants, Write, WriteId};
use crate::ids::ShardId;

mod event;

/// How long everything waits after Redis has refused a row or a channel.
pub const REFUSED_HOLD_MS: u64 = 250;

/// One shard's part in the cluster.
#[derive(Debug)]
pub struct Agent {
    shard: ShardId,
    link: Link,
    rows: Wants,
    rows_unanswered: usize,
    channels: Wants,
    channels_unanswered: usize,
    lease: Option<Lease>,
    standing: Option<Standing>,
    /// What Redis remembered at the last lease.
    memory: Option<u64>,
    node: Rc<str>,
    own_channel: Option<Rc<str>>,
    /// The own channel is confirmed.
    listening: bool,
    probe_channel: Rc<str>,
    actions: VecDeque<Action>,
    batch: Vec<Write>,
}

impl Agent {
    /// An agent that begins to connect with its first tick. One shard of a node has the `lease`.
    pub fn new(identity: &Identity, lease: Option<Lease>, seed: u64, hasher: RandomState) -> Self {
        let Identity { shard, instance, timeout_ms, rows, channels } = *identity;
        let probe_channel: Rc<str> = probe_channel(instance, shard).into();
        let mut agent = Agent {
            shard,
            link: Link::new(timeout_ms, seed),
            rows: Wants::new(rows, hasher.clone()),
            rows_unanswered: 0,
            channels: Wants::new(channels, hasher),
            channels_unanswered: 0,
            lease,
            standing: None,
            memory: None,
            node: Rc::from(""),
            own_channel: None,
            listening: false,
            probe_channel: probe_channel.clone(),
            actions: VecDeque::new(),
            batch: Vec::new(),
        };
        agent.channels.want(&probe_channel, 0);
        agent
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event<'_>, clock: Clock) {
        let now_ms = clock.mono_ms;
        match event {
            Event::Tick { oldest_unanswered_ms } => self.tick(oldest_unanswered_ms, clock),
            Event::Connected(side) => self.link.handle(link::Event::Connected(side), now_ms),
            Event::Refused(side) => self.link.handle(link::Event::Refused(side), now_ms),
            Event::Ended(side) => self.link.handle(link::Event::Ended(side), now_ms),
            Event::UserCame(user) => drop(self.rows.want(user, now_ms)),
            Event::UserLeft(user) => self.rows.unwant(user, now_ms),
            Event::UserMissing(user) => self.rows.stray(user, now_ms),
            Event::Listen(channel) => drop(self.channels.want(channel, now_ms)),
            Event::Unlisten(channel) => self.channels.unwant(channel, now_ms),
            Event::Row { id, answer } => {
                self.rows_unanswered = self.rows_unanswered.saturating_sub(1);
                if let Answered::Settled { name: user, present } = answer.tell(&mut self.rows, id, now_ms) {
                    self.actions.push_back(Action::UserSettled { user, present });
                }
            }
            Event::Channel { id, answer } => {
                self.channels_unanswered = self.channels_unanswered.saturating_sub(1);
                if let Answered::Settled { name, present } = answer.tell(&mut self.channels, id, now_ms) {
                    self.listened(name, present);
                }
            }
            Event::Lease { ticket, answer } => {
                let change = self.lease.as_mut().and_then(|lease| lease.answered(ticket, answer, clock.boot_ms));
                self.lease_changed(change, now_ms);
            }
            Event::Standing(standing) => self.stand(standing, now_ms),
            Event::Probe { nonce } => self.link.handle(link::Event::Probe { nonce }, now_ms),
        }
        self.go_on(clock);
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether the bus can be relied on.
    pub fn state(&self) -> State {
        self.link.state()
    }

    /// Whether what the bus brings under this epoch may be delivered now.
    pub fn may_deliver(&self, epoch: u64, boot_ms: u64) -> bool {
        self.standing.as_ref().is_some_and(|s| s.epoch == epoch && boot_ms < s.until_ms)
    }

    /// How the lease of the node stands.
    pub fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    /// The channel that probes go through.
    pub fn probe_channel(&self) -> &str {
        &self.probe_channel
    }

    /// Renews the lease now, on the shard that has it: what the node says of itself there has changed.
    pub fn renew_lease(&mut self, clock: Clock) {
        if let Some(lease) = &mut self.lease {
            lease.renew_soon(clock.boot_ms);
        }
    }

    /// Gives the lease back: the node ends. Its rows die with it.
    pub fn leave(&mut self, clock: Clock) {
        let change = self.lease.as_mut().and_then(Lease::leave);
        self.lease_changed(change, clock.mono_ms);
        self.go_on(clock);
    }

    /// Whether the lease has been given back, on the shard that had it.
    pub fn has_left(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::has_left)
    }

    /// Users and channels that this agent knows of, its own channels apart: for tests and the operator.
    pub fn held(&self) -> (usize, usize) {
        let own = 1 + usize::from(self.own_channel.is_some());
        (self.rows.len(), self.channels.len().saturating_sub(own))
    }

    fn tick(&mut self, oldest_unanswered_ms: Option<u64>, clock: Clock) {
        self.link.handle(link::Event::Tick { oldest_unanswered_ms }, clock.mono_ms);
        let change = self.lease.as_mut().and_then(|lease| lease.tick(clock.boot_ms));
        self.lease_changed(change, clock.mono_ms);
        if self.lease.is_none() && self.standing.as_ref().is_some_and(|s| clock.boot_ms >= s.until_ms) {
            self.stand(None, clock.mono_ms);
        }
    }

    /// Does what has become possible.
    fn go_on(&mut self, clock: Clock) {
        self.follow_link(clock.mono_ms);
        self.send_channels(clock.mono_ms);
        self.send_rows(clock);
        if self.link.carries_commands()
            && let Some(lease) = &mut self.lease
        {
            self.actions.extend(lease.poll(clock.boot_ms, clock.unix_ms).map(Action::Lease));
        }
    }

    fn follow_link(&mut self, now_ms: u64) {
        if self.channels.take_announced(now_ms) {
            self.link.handle(link::Event::Subscribed, now_ms);
        }
        if self.rows.take_announced(now_ms) {
            self.link.handle(link::Event::Announced, now_ms);
        }
        while let Some(action) = self.link.next_action() {
            let action = match action {
                link::Action::Connect(side) => Action::Connect(side),
                link::Action::Drop(side, cause) => {
                    self.dropped(side);
                    Action::Drop(side, cause)
                }
                link::Action::Subscribe => {
                    self.channels.start_over();
                    continue;
                }
                link::Action::Announce => {
                    self.rows.distrust();
                    continue;
                }
                link::Action::Probe { nonce } => Action::Probe { nonce },
                link::Action::Changed(state) => Action::Changed(state),
            };
            self.actions.push_back(action);
        }
    }

    fn dropped(&mut self, side: Side) {
        match side {
            Side::Commands => {
                self.rows.distrust();
                self.rows_unanswered = 0;
                if let Some(lease) = &mut self.lease {
                    lease.link_lost();
                }
            }
            Side::Subscriber => {
                self.channels.start_over();
                self.channels_unanswered = 0;
                self.listening = false;
            }
        }
    }

    fn send_channels(&mut self, now_ms: u64) {
        if !self.link.carries_subscriptions() {
            return;
        }
        self.channels.batch(now_ms, self.channels_unanswered, &mut self.batch);
        self.channels_unanswered += self.batch.len();
        self.actions.extend(self.batch.drain(..).map(Action::Channel));
        if self.channels.take_announced(now_ms) {
            self.link.handle(link::Event::Subscribed, now_ms);
            self.follow_link(now_ms);
        }
    }

    fn send_rows(&mut self, clock: Clock) {
        let Some(standing) = self.standing.as_ref().filter(|s| clock.boot_ms < s.until_ms) else { return };
        if !self.link.carries_commands() || !self.listening {
            return;
        }
        self.rows.batch(clock.mono_ms, self.rows_unanswered, &mut self.batch);
        self.rows_unanswered += self.batch.len();
        let row = Row { node: self.node.clone(), epoch: standing.epoch, shard: self.shard };
        let lease_ends_ms = standing.ends_ms;
        let action = |write| Action::Row { write, row: row.clone(), lease_ends_ms };
        self.actions.extend(self.batch.drain(..).map(action));
        if self.rows.take_announced(clock.mono_ms) {
            self.link.handle(link::Event::Announced, clock.mono_ms);
            self.follow_link(clock.mono_ms);
        }
    }

    fn listened(&mut self, channel: Rc<str>, present: bool) {
        if Some(&channel) == self.own_channel.as_ref() {
            self.listening = present;
        } else if channel != self.probe_channel {
            self.actions.push_back(Action::ChannelSettled { channel, present });
        }
    }

    /// What the lease has become, on the shard that has it.
    fn lease_changed(&mut self, change: Option<lease::Change>, now_ms: u64) {
        let Some(lease) = &self.lease else { return };
        let epoch = change.as_ref().map(|change| match change {
            lease::Change::Acquired { epoch } => Some(*epoch),
            lease::Change::Lost { .. } | lease::Change::Renamed { .. } => None,
        });
        let epoch = epoch.unwrap_or(self.standing.as_ref().map(|s| s.epoch));
        let node = lease.node();
        let standing = epoch.zip(lease.until_ms()).map(|(epoch, until_ms)| {
            let same = self.standing.as_ref().filter(|s| *s.node == *node).map(|s| s.node.clone());
            let node = same.unwrap_or_else(|| node.into());
            Standing { node, epoch, until_ms, ends_ms: lease.ends_ms(), memory: lease.memory() }
        });
        self.actions.extend(change.map(Action::LeaseChanged));
        if standing != self.standing {
            self.actions.push_back(Action::Standing(standing.clone()));
            self.stand(standing, now_ms);
        }
    }

    /// The lease stands so from now on.
    fn stand(&mut self, standing: Option<Standing>, now_ms: u64) {
        let under = |standing: &Option<Standing>| standing.as_ref().map(|s| (s.node.clone(), s.epoch));
        let changed = under(&self.standing) != under(&standing);
        self.standing = standing;
        if !changed {
            return;
        }
        if let Some(old) = self.own_channel.take() {
            self.channels.unwant(&old, now_ms);
        }
        self.listening = false;
        if let Some(Standing { node, epoch, memory, .. }) = &self.standing {
            let before = self.memory.replace(*memory);
            self.node = Rc::from(&**node);
            let own = own_channel(node, *epoch, self.shard);
            self.channels.want(&own, now_ms);
            self.own_channel = Some(own.into());
            if before.is_some_and(|before| before != *memory) {
                self.rows.distrust();
            } else {
                self.rows.start_over();
            }
            self.link.announce_again(now_ms);
        }
    }

    /// Whether the registry has this user's row, as far as is known: then nothing has to be waited for.
    pub fn is_registered(&self, user: &str) -> bool {
        self.rows.is_settled(user)
    }

    /// Whether this channel is subscribed to, as far as is known: then nothing has to be waited for.
    pub fn is_listening(&self, channel: &str) -> bool {
        self.channels.is_settled(channel)
    }

    /// Whether the shard's own channel under the present epoch is confirmed. What comes over that connection from then on was published under
    /// this lease; what came before may be as old as the lease before.
    pub fn listens(&self) -> bool {
        self.listening
    }

    /// When something is to be sent that waits for its batch: give it an [`Event::Tick`] then. `None`: nothing waits, or what waits needs
    /// another event first.
    pub fn due_ms(&self, clock: Clock) -> Option<u64> {
        let now_ms = clock.mono_ms;
        let subscribes = self.link.carries_subscriptions() && self.channels.has_room(self.channels_unanswered);
        let writes = self.link.carries_commands()
            && self.listening
            && self.rows.has_room(self.rows_unanswered)
            && self.standing.as_ref().is_some_and(|s| clock.boot_ms < s.until_ms);
        let channels = if subscribes { self.channels.due_ms(now_ms) } else { None };
        let rows = if writes { self.rows.due_ms(now_ms) } else { None };
        channels.into_iter().chain(rows).min()
    }
}

impl WriteAnswer {
    fn tell(self, wants: &mut Wants, id: WriteId, now_ms: u64) -> Answered {
        match self {
            WriteAnswer::Done => wants.done(id, now_ms),
            WriteAnswer::Refused => wants.refused(id, now_ms, REFUSED_HOLD_MS),
        }
    }
}

/// The channel that the probes of one shard go through, without `redis.prefix`; and what others ask of its connections, which are the same
/// under each epoch of the node.
pub fn probe_channel(instance: u32, shard: ShardId) -> String {
    format!("probe:{instance:08x}:{}", shard.0)
}

/// The channel of one shard under one epoch, without `redis.prefix`.
pub fn own_channel(node: &str, epoch: u64, shard: ShardId) -> String {
    format!("shard:{node}:{epoch}:{}", shard.0)
}

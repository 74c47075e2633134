//! The two connections of one shard, as `bus::redis::wires` has them: the same commands in the same order, without sockets.

use std::collections::VecDeque;
use std::rc::Rc;

use ringgate::bus::redis::scripts::Stamp;
use ringgate::cluster::agent::{Action, Event, WriteAnswer, probe_channel};
use ringgate::cluster::lease;
use ringgate::cluster::link::{Side, State};
use ringgate::cluster::nodes::About;
use ringgate::cluster::registry::Row;
use ringgate::cluster::registry::wants::{Op, Write, WriteId};
use ringgate::cluster::wire::{Grave, Incoming, Outgoing};
use ringgate::ids::ShardId;

use super::net::Net;
use super::redis::{Command, Line, Reply};

/// How long a server may take to notice that a client is gone.
const HALF_OPEN_MS: u64 = 1_500;

enum Token {
    Row { id: WriteId, user: Rc<str> },
    Lease { ticket: u64 },
    Leases { asked_ms: u64 },
    Publish { ticket: u64 },
    Find { user: Rc<str> },
    Sample { grave: Grave },
    Remove { grave: Grave, user: Rc<str> },
    Load,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Off,
    Opening(Line),
    On(Line),
    /// It has ended, and the agent will hear of it.
    Over,
}

pub struct Wires {
    instance: u32,
    about: About,
    shard: ShardId,
    ways: [Way; 2],
    /// Commands without an answer, and when they were sent.
    asked: VecDeque<(Token, u64)>,
    rows: Vec<(Write, Row, u64)>,
    channels: Vec<Write>,
    ready: VecDeque<Incoming>,
    loading: bool,
    probe_channel: Rc<str>,
}

impl Wires {
    pub fn new(instance: u32, about: About, shard: ShardId) -> Self {
        Wires {
            instance,
            about,
            shard,
            ways: [Way::Off; 2],
            asked: VecDeque::new(),
            rows: Vec::new(),
            channels: Vec::new(),
            ready: VecDeque::new(),
            loading: false,
            probe_channel: probe_channel(instance, shard).into(),
        }
    }

    /// What the channels of the shard are, as the server has them.
    pub fn subscriber(&self) -> Option<Line> {
        self.line(Side::Subscriber)
    }

    /// Everything this process has sent stays on its way, or does not arrive: it is gone.
    pub fn crash(&self, net: &mut Net, rng: &mut fastrand::Rng) {
        for way in self.ways {
            if let Way::Opening(line) | Way::On(line) = way {
                let sent = net.connections.get(&line).map_or(0, |connection| connection.up.len());
                net.abandon(line, rng.usize(..=sent), net.now_ms + rng.u64(..HALF_OPEN_MS));
            }
        }
    }

    pub fn carry_out(&mut self, outgoing: Outgoing, net: &mut Net, rng: &mut fastrand::Rng) {
        match outgoing {
            Outgoing::Agent(action) => self.act(action, net, rng),
            Outgoing::Publish { ticket, channel, payload } if self.is_on() => {
                self.send(Token::Publish { ticket }, Command::Publish { channel, payload }, net);
            }
            Outgoing::Publish { ticket, .. } => self.ready.push_back(Incoming::Unanswered(vec![ticket])),
            Outgoing::Find { user } if self.is_on() => {
                self.send(Token::Find { user: user.clone() }, Command::Find { user }, net);
            }
            Outgoing::Find { user } => self.ready.push_back(Incoming::Found { user, rows: None }),
            Outgoing::PollLeases { asked_ms } => self.send(Token::Leases { asked_ms }, Command::Leases, net),
            Outgoing::Sample { grave } if self.is_on() => {
                self.send(Token::Sample { grave: grave.clone() }, Command::Sample { of: grave }, net);
            }
            Outgoing::Sample { grave } => self.ready.push_back(Incoming::Sampled { grave, users: None }),
            Outgoing::Remove { grave, users } => {
                let Grave { node, epoch, .. } = &grave;
                for user in &users {
                    let (node, user) = (node.clone(), user.clone());
                    let token = Token::Remove { grave: grave.clone(), user: user.clone() };
                    self.send(token, Command::Delete { user, node, epoch: *epoch, stamp: None }, net);
                }
            }
            Outgoing::Retire => self.about.weight = 0,
            Outgoing::Announced => self.about.announcing = false,
            Outgoing::Bury { node, epoch } => self.send(Token::Other, Command::Bury { node, epoch }, net),
        }
    }

    /// What has gathered in a turn.
    pub fn flush(&mut self, net: &mut Net) {
        let rows = std::mem::take(&mut self.rows);
        self.index(Op::Put, &rows, net);
        for (Write { id, op, name: user, confirmed }, row, lease_ends_ms) in &rows {
            let stamp = Stamp { serial: id.serial(), lease_ends_ms: *lease_ends_ms, confirmed: *confirmed };
            let user = user.clone();
            let command = match op {
                Op::Put => Command::Put { user: user.clone(), row: row.clone(), stamp },
                Op::Delete => {
                    let (user, node) = (user.clone(), row.node.clone());
                    Command::Delete { user, node, epoch: row.epoch, stamp: Some(stamp) }
                }
            };
            self.send(Token::Row { id: *id, user }, command, net);
        }
        self.index(Op::Delete, &rows, net);

        let channels = std::mem::take(&mut self.channels);
        if let Some(line) = self.line(Side::Subscriber) {
            for (op, put) in [(Op::Put, true), (Op::Delete, false)] {
                let chosen = channels.iter().filter(|write| write.op == op);
                let channels: Vec<_> = chosen.map(|write| (write.id, write.name.clone())).collect();
                if !channels.is_empty() {
                    net.send(line, Command::Channels { put, channels });
                }
            }
        }
    }

    pub fn oldest_unanswered_ms(&self, now_ms: u64) -> Option<u64> {
        self.asked.front().map(|(_, sent_ms)| now_ms - sent_ms)
    }

    /// What arrives next.
    pub fn next(&mut self, net: &mut Net) -> Option<Incoming> {
        loop {
            if let Some(incoming) = self.ready.pop_front() {
                return Some(incoming);
            }
            let arrived = [Side::Commands, Side::Subscriber].into_iter().any(|side| self.arrive(side, net));
            if !arrived {
                return None;
            }
        }
    }

    /// Takes one thing that has come down a connection, if there is any.
    fn arrive(&mut self, side: Side, net: &mut Net) -> bool {
        let (Way::Opening(line) | Way::On(line)) = self.ways[side as usize] else { return false };
        if let Some(reply) = net.connections.get_mut(&line).and_then(|connection| connection.down.pop_front()) {
            match reply {
                Reply::Greeted(true) => {
                    self.ways[side as usize] = Way::On(line);
                    self.tell(Event::Connected(side));
                }
                Reply::Greeted(false) => self.refused(side, line, net),
                reply => self.replied(reply, net),
            }
            return true;
        }
        if !net.is_over(line) {
            return false;
        }
        if self.ways[side as usize] == Way::Opening(line) {
            self.refused(side, line, net);
        } else {
            net.connections.remove(&line);
            self.ways[side as usize] = Way::Over;
            if side == Side::Commands {
                self.hand_back();
            }
            self.tell(Event::Ended(side));
        }
        true
    }

    fn refused(&mut self, side: Side, line: Line, net: &mut Net) {
        net.connections.remove(&line);
        self.ways[side as usize] = Way::Off;
        self.tell(Event::Refused(side));
    }

    fn replied(&mut self, reply: Reply, net: &mut Net) {
        let incoming = match reply {
            Reply::Invalidated(user) => Incoming::Invalidated(vec![user]),
            Reply::InvalidatedAll => Incoming::InvalidatedAll,
            Reply::Confirmed(id) => Incoming::Agent(Event::Channel { id, answer: WriteAnswer::Done }),
            Reply::Message { channel, payload } if channel == self.probe_channel => {
                let nonce = std::str::from_utf8(&payload).ok().and_then(|nonce| nonce.parse().ok());
                Incoming::Agent(Event::Probe { nonce: nonce.expect("a probe of this shard") })
            }
            Reply::Message { channel, payload } => Incoming::Message { channel: channel.as_bytes().to_vec(), payload },
            reply => {
                let (token, _) = self.asked.pop_front().expect("it was asked");
                return self.answered(token, reply, net);
            }
        };
        self.ready.push_back(incoming);
    }

    fn answered(&mut self, token: Token, reply: Reply, net: &mut Net) {
        let incoming = match (token, reply) {
            (token, Reply::Refused { no_script }) => {
                if no_script && !self.loading {
                    self.loading = true;
                    self.send(Token::Load, Command::LoadScripts, net);
                }
                return self.failed(token);
            }
            (Token::Row { id, user }, Reply::Row(true)) => {
                self.tell(Event::Row { id, answer: WriteAnswer::Done });
                Incoming::Invalidated(vec![user])
            }
            (Token::Row { id, .. }, Reply::Row(false)) => {
                Incoming::Agent(Event::Row { id, answer: WriteAnswer::Refused })
            }
            (Token::Lease { ticket }, Reply::Lease(answer)) => Incoming::Agent(Event::Lease { ticket, answer }),
            (Token::Leases { asked_ms }, Reply::Leases(leases)) => Incoming::Leases { leases, asked_ms },
            (Token::Publish { ticket }, Reply::Heard(heard)) => Incoming::Published { ticket, heard: Some(heard) },
            (Token::Find { user }, Reply::Rows(rows)) => Incoming::Found { user, rows: Some(rows) },
            (Token::Sample { grave }, Reply::Names(users)) => Incoming::Sampled { grave, users: Some(users) },
            (Token::Remove { grave, user }, Reply::Row(_)) => {
                let (of, users) = (grave.clone(), vec![user.clone()]);
                self.send(Token::Other, Command::Index { of, users, put: false }, net);
                Incoming::Removed { node: grave.node, user }
            }
            (Token::Load, Reply::Done) => {
                self.loading = false;
                return;
            }
            (Token::Other, _) => return,
            (_, reply) => panic!("the answer to something else: {reply:?}"),
        };
        self.ready.push_back(incoming);
    }

    fn failed(&mut self, token: Token) {
        let incoming = match token {
            Token::Row { id, .. } => Incoming::Agent(Event::Row { id, answer: WriteAnswer::Refused }),
            Token::Lease { ticket } => Incoming::Agent(Event::Lease { ticket, answer: lease::Answer::Failed }),
            Token::Publish { ticket } => Incoming::Published { ticket, heard: None },
            Token::Find { user } => Incoming::Found { user, rows: None },
            Token::Sample { grave } => Incoming::Sampled { grave, users: None },
            Token::Remove { grave, user } => Incoming::Removed { node: grave.node, user },
            Token::Load | Token::Leases { .. } | Token::Other => return,
        };
        self.ready.push_back(incoming);
    }

    fn act(&mut self, action: Action, net: &mut Net, rng: &mut fastrand::Rng) {
        match action {
            Action::Connect(side) => {
                assert!(self.ways[side as usize] == Way::Off, "one connection per side");
                match net.connect(side == Side::Commands) {
                    Some(line) => self.ways[side as usize] = Way::Opening(line),
                    None => self.tell(Event::Refused(side)),
                }
            }
            Action::Drop(side, _) => self.give_up(side, net, rng),
            Action::Row { write, row, lease_ends_ms } => self.rows.push((write, row, lease_ends_ms)),
            Action::Channel(write) => self.channels.push(write),
            Action::Lease(command) => {
                self.about.announcing |= matches!(command.kind, lease::Ask::Acquire { .. });
                let (instance, about) = (self.instance, self.about.clone());
                self.send(Token::Lease { ticket: command.ticket }, Command::Lease { command, instance, about }, net);
            }
            Action::Probe { nonce } => {
                let (channel, payload) = (self.probe_channel.clone(), nonce.to_string().into_bytes());
                self.send(Token::Other, Command::Publish { channel, payload }, net);
            }
            Action::Changed(State::Up | State::Down | State::Resync) => {}
            Action::Standing(_) | Action::UserSettled { .. } | Action::ChannelSettled { .. } => {
                panic!("this is none of the wires' business: {action:?}")
            }
            Action::LeaseChanged(_) => {}
        }
    }

    /// Forgets a connection. What it has sent may be carried out all the same, perhaps after what is sent on the next one.
    fn give_up(&mut self, side: Side, net: &mut Net, rng: &mut fastrand::Rng) {
        if let Way::Opening(line) | Way::On(line) = std::mem::replace(&mut self.ways[side as usize], Way::Off) {
            let sent = net.connections.get(&line).map_or(0, |connection| connection.up.len());
            let until_ms = net.now_ms.max(net.hangs_until_ms) + rng.u64(..HALF_OPEN_MS);
            net.abandon(line, rng.usize(..=sent), until_ms);
        }
        match side {
            Side::Commands => {
                self.rows.clear();
                self.loading = false;
                self.hand_back();
                self.ready.push_back(Incoming::InvalidatedAll);
            }
            Side::Subscriber => self.channels.clear(),
        }
    }

    fn hand_back(&mut self) {
        let mut publishes = Vec::new();
        for (token, _) in std::mem::take(&mut self.asked) {
            match token {
                Token::Publish { ticket } => publishes.push(ticket),
                Token::Find { user } => self.ready.push_back(Incoming::Found { user, rows: None }),
                Token::Sample { grave } => self.ready.push_back(Incoming::Sampled { grave, users: None }),
                Token::Remove { grave, user } => self.ready.push_back(Incoming::Removed { node: grave.node, user }),
                Token::Row { .. } | Token::Lease { .. } | Token::Leases { .. } | Token::Load | Token::Other => {}
            }
        }
        if !publishes.is_empty() {
            self.ready.push_back(Incoming::Unanswered(publishes));
        }
    }

    fn index(&mut self, op: Op, rows: &[(Write, Row, u64)], net: &mut Net) {
        let mut chosen = rows.iter().filter(|(write, ..)| write.op == op).peekable();
        if let Some((_, row, _)) = chosen.peek() {
            let of = Grave { node: row.node.clone(), epoch: row.epoch, shard: self.shard };
            let users = chosen.map(|(write, ..)| write.name.clone()).collect();
            self.send(Token::Other, Command::Index { of, users, put: op == Op::Put }, net);
        }
    }

    fn send(&mut self, token: Token, command: Command, net: &mut Net) {
        match self.ways[Side::Commands as usize] {
            Way::On(line) => {
                self.asked.push_back((token, net.now_ms));
                net.send(line, command);
            }
            Way::Over => {
                self.asked.push_back((token, net.now_ms));
                self.hand_back();
            }
            Way::Off | Way::Opening(_) => {}
        }
    }

    fn tell(&mut self, event: Event<'static>) {
        self.ready.push_back(Incoming::Agent(event));
    }

    /// Whether commands are taken, were it only to be handed back.
    fn is_on(&self) -> bool {
        matches!(self.ways[Side::Commands as usize], Way::On(_) | Way::Over)
    }

    fn line(&self, side: Side) -> Option<Line> {
        match self.ways[side as usize] {
            Way::On(line) => Some(line),
            Way::Off | Way::Opening(_) | Way::Over => None,
        }
    }
}

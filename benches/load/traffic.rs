//! What is sent, when, and whether what arrives is right.

use crate::client::{State, request_head};
use crate::content::{Arrival, Flow, MARK_LEN, Mark};
use crate::control::Command;
use crate::frame;
use crate::plan::Pace;
use crate::stats;
use crate::worker::{STREAMS_BESIDE_ROOMS, Worker};

/// Sends in a row before what has arrived is looked at.
const SENDS_MAX: u32 = 256;

/// Fixed times at which the senders of one flow take turns.
pub(crate) struct Schedule {
    flow: Flow,
    /// Indices in the worker's own connections.
    senders: Vec<u32>,
    start: u64,
    interval: f64,
    count: u64,
}

impl Schedule {
    pub(crate) fn due(&self) -> u64 {
        self.start + (self.count as f64 * self.interval) as u64
    }
}

impl Worker<'_> {
    /// The traffic begins.
    pub(crate) fn begin_traffic(&mut self, now: u64) {
        let plan = self.plan;
        if let Some(pace) = plan.echo {
            let all = (0..self.connections.len() as u32).collect();
            self.begin(Flow::Echo, pace, all, plan.connections, now);
        }
        if let Some(rooms) = &plan.rooms
            && let Some(pace) = rooms.pace
        {
            let senders = self.own(|index| plan.is_room_sender(index));
            self.begin(Flow::Room, pace, senders, rooms.count * rooms.senders, now);
        }
        if let Some(pace) = plan.pairs {
            let flow = if self.command == Command::Hop { Flow::Hop } else { Flow::Pair };
            let paired = self.own(|index| plan.partner(index).is_some());
            self.begin(flow, pace, paired, plan.connections / 2 * 2, now);
        }
        if let Some(every) = plan.broadcast_every
            && self.first == 0
        {
            self.begin(Flow::Broadcast, Pace::Rate(1.0 / every.as_secs_f64()), vec![0], 1, now);
        }
    }

    fn own(&self, wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        (0..self.connections.len() as u32).filter(|i| wanted(self.first + i)).collect()
    }

    fn begin(&mut self, flow: Flow, pace: Pace, senders: Vec<u32>, of: u32, now: u64) {
        if senders.is_empty() {
            return;
        }
        match (pace, flow) {
            (Pace::Rate(rate), _) => {
                let interval = 1e9 / (rate * senders.len() as f64 / f64::from(of.max(1)));
                // Workers and flows do not all send in the same instant.
                let offset = interval * (f64::from(self.number) / f64::from(self.plan.workers));
                self.schedules.push(Schedule { flow, senders, start: now + offset as u64, interval, count: 0 });
            }
            (Pace::Closed(_), Flow::Room) => self.waiting_rooms = senders,
            (Pace::Closed(depth), _) => {
                for &i in &senders {
                    let mut out = std::mem::take(&mut self.out);
                    for _ in 0..depth {
                        self.compose(i as usize, flow, now, &mut out);
                    }
                    self.send(i as usize, &out);
                    out.clear();
                    self.out = out;
                }
            }
        }
    }

    /// Sends what is due by now.
    pub(crate) fn send_due(&mut self) {
        let mut schedules = std::mem::take(&mut self.schedules);
        for schedule in &mut schedules {
            for _ in 0..SENDS_MAX {
                let (due, now) = (schedule.due(), self.control.now());
                if due > now {
                    break;
                }
                let i = schedule.senders[(schedule.count % schedule.senders.len() as u64) as usize] as usize;
                schedule.count += 1;
                self.send_one(i, schedule.flow, due);
                if self.control.is_measured(due) {
                    self.outcome.lag.saturating_record((now - due).max(1));
                }
            }
        }
        self.schedules = schedules;
        self.send_to_waiting_rooms();
    }

    /// Rooms whose last message has reached everybody get the next one.
    fn send_to_waiting_rooms(&mut self) {
        let Some(depth) = self.plan.room_depth().filter(|_| !self.waiting_rooms.is_empty()) else { return };
        let senders = std::mem::take(&mut self.waiting_rooms);
        let per_room = self.plan.rooms.as_ref().map_or(1, |rooms| u64::from(rooms.senders));
        let mut out = std::mem::take(&mut self.out);
        for &i in &senders {
            let Some(room) = self.plan.room(self.first + i) else { continue };
            let allowed = self.control.room_done(room) / per_room + u64::from(depth);
            if u64::from(self.connections[i as usize].sent) >= allowed {
                continue;
            }
            let now = self.control.now();
            while u64::from(self.connections[i as usize].sent) < allowed
                && self.compose(i as usize, Flow::Room, now, &mut out)
            {}
            self.send(i as usize, &out);
            out.clear();
        }
        self.out = out;
        self.waiting_rooms = senders;
    }

    fn send_one(&mut self, i: usize, flow: Flow, at: u64) {
        let mut out = std::mem::take(&mut self.out);
        self.compose(i, flow, at, &mut out);
        self.send(i, &out);
        out.clear();
        self.out = out;
    }

    /// Appends the next message of connection `i` in `flow`, and expects its deliveries. Whether there was one.
    fn compose(&mut self, i: usize, flow: Flow, at: u64, out: &mut Vec<u8>) -> bool {
        let index = self.first + i as u32;
        let (target, receivers) = match flow {
            Flow::Echo => (Some(index), 1),
            Flow::Room => {
                let room = self.plan.room(index);
                (room, room.map_or(0, |room| self.control.room_receivers[room as usize]))
            }
            Flow::Pair => (self.plan.partner(index), 1),
            Flow::Hop => (self.plan.partner_beyond(index), 1),
            Flow::Broadcast => (Some(0), self.control.broadcast_receivers),
        };
        let connection = &mut self.connections[i];
        let Some(target) = target.filter(|_| connection.state == State::Ready) else { return false };
        if !connection.takes_more() {
            self.outcome.tally.unsent += 1;
            return false;
        }
        let counter = match flow {
            Flow::Echo | Flow::Room => &mut connection.sent,
            Flow::Pair => &mut connection.pair_sent,
            Flow::Hop => &mut connection.hop_sent,
            Flow::Broadcast => &mut self.broadcasts_sent,
        };
        let mark = Mark { flow, sender: index, target, seq: *counter, at }.encode();
        *counter += 1;
        self.outcome.tally.sent += 1;
        self.outcome.tally.expected += u64::from(receivers);
        if flow == Flow::Echo {
            frame::append(out, frame::TEXT, &[&mark, &self.filler]);
        } else {
            let head = request_head(self, flow, target);
            frame::append(out, frame::TEXT, &[head.as_bytes(), &mark, &self.filler, b"\"}"]);
        }
        true
    }

    /// A message has arrived whose mark is at `at`.
    pub(crate) fn delivery(&mut self, i: usize, payload: &[u8], at: usize, now: u64) {
        let index = self.first + i as u32;
        let whole = payload.get(at + MARK_LEN..at + MARK_LEN + self.filler.len()) == Some(&self.filler[..]);
        let Some(mark) = Mark::decode(&payload[at..]).filter(|_| whole) else {
            self.outcome.tally.corrupt += 1;
            return;
        };
        let plan = self.plan;
        let slot = match mark.flow {
            Flow::Echo => (mark.target == index && mark.sender == index).then_some(0),
            Flow::Room => (plan.room(index) == Some(mark.target) && plan.room(mark.sender) == Some(mark.target))
                .then(|| plan.slot(mark.sender))
                .filter(|&slot| slot < self.senders)
                .filter(|_| mark.sender != index || plan.is_channel(mark.target)),
            Flow::Pair => (mark.target == index && plan.partner(index) == Some(mark.sender)).then_some(self.senders),
            Flow::Broadcast => (mark.sender == 0).then_some(self.senders + 1),
            Flow::Hop => {
                (mark.target == index && plan.partner_beyond(index) == Some(mark.sender)).then_some(self.senders + 2)
            }
        };
        let Some(slot) = slot else {
            self.outcome.tally.misrouted += 1;
            self.outcome.note(format!("connection {index} got {mark:?}"));
            return;
        };
        let tally = &mut self.outcome.tally;
        if plan.is_churner(index) || (mark.flow == Flow::Broadcast && index == 0) {
            tally.notices += 1;
            return;
        }
        let stream = i * (self.senders as usize + STREAMS_BESIDE_ROOMS) + slot as usize;
        match self.streams[stream].arrive(mark.seq) {
            Arrival::InOrder => {}
            Arrival::Late => tally.out_of_order += 1,
            Arrival::Duplicate => {
                tally.duplicated += 1;
                return;
            }
        }
        if plan.is_slow(index) {
            tally.notices += 1;
            return;
        }
        tally.delivered += 1;
        if self.control.is_measured(mark.at) {
            let latency = now.saturating_sub(mark.at).max(1);
            self.outcome.latency[stats::index(mark.flow)].saturating_record(latency);
            if mark.flow == Flow::Pair
                && let Some(span) = self.control.span(mark.at)
            {
                self.outcome.spans[span].saturating_record(latency);
            }
        }
        if mark.flow == Flow::Room && plan.room_depth().is_some() {
            self.control.room_delivered(mark.target);
        }
        self.answer(i, mark.flow, now);
    }

    /// Where the next message waits for the last one to arrive, this is its moment.
    fn answer(&mut self, i: usize, flow: Flow, now: u64) {
        let closed = match flow {
            Flow::Echo => matches!(self.plan.echo, Some(Pace::Closed(_))),
            Flow::Pair | Flow::Hop => matches!(self.plan.pairs, Some(Pace::Closed(_))),
            Flow::Room | Flow::Broadcast => false,
        };
        if closed && self.command.sends() {
            let mut out = std::mem::take(&mut self.out);
            self.compose(i, flow, now, &mut out);
            self.out = out;
        }
    }
}

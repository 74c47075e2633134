//! What is on its way to users on other nodes, so that their messages keep their order through look-ups and moves.
//!
//! A message goes straight out while its user's route is known. Where it is not, a look-up is opened and what follows queues behind it.
//! A destination that no longer has the user answers *moved*: then what was sent by that route before is waited for first, what follows
//! queues, and when the last answer is in, a look-up is opened and everything goes out again in its order. Where the look-up leads nowhere
//! yet, the flow is *held*, and looked up again later. All of it is bounded; over a bound a message is refused at once.
//!
//! A user who leaves a shard and comes back to it between two messages of one stale route would get the second before the first. So each
//! message says with which number its route [began](Lookups::sent) at its destination, and a destination that answered `moved` goes on doing
//! so for that user until a route begins after that answer.
//!
//! Messages are ordered by a number of the sender's, which grows from message to message. `M` is whatever names a message; nothing here
//! looks into it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::cluster::delivery::Destination;

/// Bounds of [`Lookups`].
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages that wait, over all users.
    pub waiting_max: usize,
    /// Messages that wait for one user.
    pub waiting_per_user_max: usize,
}

/// What to do with a message.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The route is known and free: send it, and call [`Lookups::sent`].
    Send,
    /// It waits; look the user up.
    Ask,
    /// It waits behind others.
    Wait,
    /// Too many wait: `unavailable`.
    Full,
}

/// What a message leads to that its destination does not have.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Moved {
    /// The message waits to be sent again; otherwise too many wait: `unavailable`.
    pub waits: bool,
    /// Look the user up now; otherwise that follows when what else was sent by the stale route is answered.
    pub ask: bool,
}

/// What a look-up was for.
#[derive(Debug, PartialEq, Eq)]
pub struct Waited<M> {
    /// Who was looked up.
    pub user: Rc<str>,
    /// The messages, in the order in which they must go out.
    pub messages: VecDeque<(u64, M)>,
    /// The last message that was there when it was asked: those after it have not been asked for.
    pub asked: u64,
    /// How often they were held since they last went out.
    pub holds: u32,
}

/// The users to whom something is on its way or waits.
#[derive(Debug)]
pub struct Lookups<M> {
    bounds: Bounds,
    flows: HashMap<Rc<str>, Flow<M>, RandomState>,
    held: BTreeSet<(u64, Rc<str>)>,
    waiting: usize,
}

#[derive(Debug)]
struct Flow<M> {
    phase: Phase,
    /// Destinations that have not answered.
    unanswered: u32,
    /// Where the messages without an answer went, and the number of the first of them there.
    routes: SmallVec<[(Destination, u64); 1]>,
    /// By their order.
    waiting: VecDeque<(u64, M)>,
    holds: u32,
    /// Something of this flow may still have to be delivered on this node.
    homeless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The route is believed.
    Flowing,
    /// The route is stale; its last answers are waited for.
    Settling,
    /// The user is being looked up, for the messages up to this one.
    Asking { asked: u64 },
    /// The user is looked up again at this time.
    Held { until_ms: u64 },
}

impl<M: Copy> Lookups<M> {
    /// Nothing is on its way.
    pub fn new(bounds: Bounds, hasher: RandomState) -> Self {
        Lookups { bounds, flows: HashMap::with_hasher(hasher), held: BTreeSet::new(), waiting: 0 }
    }

    /// Takes a message to a user. `route_known`: it is known where to send it. `homeless`: it may still have to be delivered on this node.
    pub fn send(&mut self, user: &Rc<str>, order: u64, message: M, route_known: bool, homeless: bool) -> Verdict {
        let crowded = match self.flows.get(user) {
            None | Some(Flow { phase: Phase::Flowing, .. }) if route_known => return Verdict::Send,
            Some(flow) => flow.waiting.len() >= self.bounds.waiting_per_user_max,
            None => false,
        };
        if crowded || self.waiting >= self.bounds.waiting_max {
            return Verdict::Full;
        }
        self.waiting += 1;
        let flow = self.flows.entry(user.clone()).or_insert_with(Flow::new);
        flow.homeless |= homeless;
        flow.waiting.push_back((order, message));
        match (flow.phase, flow.unanswered) {
            // The route was forgotten while something was on its way by it: that comes first.
            (Phase::Flowing, 1..) => flow.phase = Phase::Settling,
            (Phase::Flowing, 0) => {
                flow.phase = Phase::Asking { asked: order };
                return Verdict::Ask;
            }
            (Phase::Settling | Phase::Asking { .. } | Phase::Held { .. }, _) => {}
        }
        Verdict::Wait
    }

    /// A message was sent to a destination under this number. Returns the number with which the route to it began: everything that was sent
    /// to this user there before that number is answered.
    pub fn sent(&mut self, user: &Rc<str>, to: &Destination, number: u64, homeless: bool) -> u64 {
        let flow = match self.flows.get_mut(user) {
            Some(flow) => flow,
            None => self.flows.entry(user.clone()).or_insert_with(Flow::new),
        };
        flow.unanswered += 1;
        flow.homeless |= homeless;
        if let Some((_, began)) = flow.routes.iter().find(|(known, _)| known == to) {
            return *began;
        }
        flow.routes.push((to.clone(), number));
        number
    }

    /// A destination has taken a message, refused it, or did not answer in time: in any case it is not sent there again. Returns whether to
    /// look the user up now.
    #[must_use]
    pub fn answered(&mut self, user: &str) -> bool {
        let Some(flow) = self.flows.get_mut(user) else { return false };
        flow.unanswered = flow.unanswered.saturating_sub(1);
        self.step(user)
    }

    /// A destination does not have the user any more, or is no more. The message is to be sent again; `None`: it waits for that already.
    pub fn moved(&mut self, user: &str, again: Option<(u64, M)>) -> Moved {
        let Some(flow) = self.flows.get_mut(user) else { return Moved { waits: false, ask: false } };
        flow.unanswered = flow.unanswered.saturating_sub(1);
        if flow.phase == Phase::Flowing {
            flow.phase = Phase::Settling;
        }
        let full = self.waiting >= self.bounds.waiting_max || flow.waiting.len() >= self.bounds.waiting_per_user_max;
        let waits = match again {
            Some((order, message)) if !full => {
                let place = flow.waiting.partition_point(|(other, _)| *other < order);
                flow.waiting.insert(place, (order, message));
                self.waiting += 1;
                true
            }
            Some(_) => false,
            None => true,
        };
        Moved { waits, ask: self.step(user) }
    }

    /// The look-up of a user has been answered, or has failed: everything that waited for it. What is sent of it now goes by the new route.
    pub fn found(&mut self, user: &str) -> Option<Waited<M>> {
        let Phase::Asking { asked } = self.flows.get(user)?.phase else { return None };
        let (user, flow) = self.flows.remove_entry(user)?;
        self.waiting -= flow.waiting.len();
        Some(Waited { user, messages: flow.waiting, asked, holds: flow.holds })
    }

    /// These messages were found no place yet: the user is looked up again at `until_ms`, or when what went out is answered. They are the
    /// last that [`Lookups::found`] has returned.
    pub fn hold(&mut self, user: &Rc<str>, messages: VecDeque<(u64, M)>, holds: u32, homeless: bool, until_ms: u64) {
        self.waiting += messages.len();
        let flow = self.flows.entry(user.clone()).or_insert_with(Flow::new);
        flow.waiting = messages;
        flow.holds = holds + 1;
        flow.homeless |= homeless;
        flow.phase = if flow.unanswered > 0 { Phase::Settling } else { Phase::Held { until_ms } };
        if flow.unanswered == 0 {
            self.held.insert((until_ms, user.clone()));
        }
    }

    /// Something has changed for this user: returns them if they are held, to be looked up at once.
    pub fn wake(&mut self, user: &str) -> Option<Rc<str>> {
        let Phase::Held { until_ms } = self.flows.get(user)?.phase else { return None };
        let (user, _) = self.flows.get_key_value(user)?;
        let held = (until_ms, user.clone());
        self.held.remove(&held);
        self.flows.get_mut(&held.1)?.ask();
        Some(held.1)
    }

    /// The next held user whose time has come: to be looked up now.
    pub fn wake_next(&mut self, now_ms: u64) -> Option<Rc<str>> {
        let (until_ms, _) = self.held.first()?;
        if *until_ms > now_ms {
            return None;
        }
        let (_, user) = self.held.pop_first()?;
        self.flows.get_mut(&user)?.ask();
        Some(user)
    }

    /// A message that waits is given up.
    pub fn give_up(&mut self, user: &str, order: u64) {
        let Some(flow) = self.flows.get_mut(user) else { return };
        let Ok(index) = flow.waiting.binary_search_by_key(&order, |(order, _)| *order) else { return };
        flow.waiting.remove(index);
        self.waiting -= 1;
        if !flow.waiting.is_empty() {
            return;
        }
        match flow.phase {
            Phase::Held { until_ms } => {
                if let Some((user, _)) = self.flows.remove_entry(user) {
                    self.held.remove(&(until_ms, user));
                }
            }
            // The look-up is under way, and what comes until it is answered waits for it.
            Phase::Asking { .. } | Phase::Flowing => {}
            Phase::Settling => drop(self.step(user)),
        }
    }

    /// The link is gone: everything that waits. What is on its way stays, and holds nothing back on this node.
    pub fn clear_waiting(&mut self) -> Vec<M> {
        self.waiting = 0;
        self.held.clear();
        let mut given_up: Vec<(u64, M)> = Vec::new();
        self.flows.retain(|_, flow| {
            given_up.extend(flow.waiting.drain(..));
            flow.homeless = false;
            flow.phase = Phase::Settling;
            flow.unanswered > 0
        });
        given_up.sort_unstable_by_key(|(order, _)| *order);
        given_up.into_iter().map(|(_, message)| message).collect()
    }

    /// The user's connections on this node were given a message in its turn: whatever is on its way was offered to them before.
    pub fn came_home(&mut self, user: &str) {
        if let Some(flow) = self.flows.get_mut(user) {
            flow.homeless &= !flow.waiting.is_empty();
        }
    }

    /// Whether something that is on its way to this user, or waits, may still have to be delivered on this node.
    pub fn is_homeless(&self, user: &str) -> bool {
        self.flows.get(user).is_some_and(|flow| flow.homeless)
    }

    /// Messages that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Users to whom something is on its way or waits.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether nothing is on its way and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// After an answer: whether it was the last of a stale route, so that the user is looked up now. A flow at rest is forgotten.
    fn step(&mut self, user: &str) -> bool {
        let Some(flow) = self.flows.get_mut(user).filter(|flow| flow.unanswered == 0) else { return false };
        match flow.phase {
            Phase::Asking { .. } | Phase::Held { .. } => false,
            Phase::Settling if !flow.waiting.is_empty() => {
                flow.ask();
                true
            }
            Phase::Settling | Phase::Flowing => {
                self.flows.remove(user);
                false
            }
        }
    }
}

impl<M> Flow<M> {
    fn new() -> Self {
        Flow {
            phase: Phase::Flowing,
            unanswered: 0,
            routes: SmallVec::new(),
            waiting: VecDeque::new(),
            holds: 0,
            homeless: false,
        }
    }

    fn ask(&mut self) {
        let asked = self.waiting.back().map_or(0, |(order, _)| *order);
        self.phase = Phase::Asking { asked };
        self.routes.clear();
    }
}

#[cfg(test)]
mod tests;

//! What is on its way to users on other nodes, so that their messages keep their order through look-ups and moves.
//!
//! A message goes straight out while its user's route is known. Where it is not, a look-up is opened and what follows queues behind it.
//! A destination that no longer has the user answers *moved*: then what was sent by that route before is waited for first, what follows
//! queues, and when the last answer is in, a look-up is opened and everything goes out again in its order. All of it is bounded; over
//! a bound a message is refused at once.
//!
//! One overtaking is left, and is the destination's to prevent: a user who leaves a shard and comes back to it between two messages of one
//! stale route gets the second before the first. A destination that answered `moved` must go on doing so for that route.
//!
//! `M` is a message with whatever its sender needs to go on; nothing here looks into it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

/// Bounds of [`Lookups`].
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages that wait, over all users.
    pub waiting_max: usize,
    /// Messages that wait for one user.
    pub waiting_per_user_max: usize,
    /// How often one message may be sent again after it was answered `moved`.
    pub moves_max: u32,
}

/// What to do with a message.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<M> {
    /// The route is known and free: send it, then call [`Lookups::sent`].
    Send(M),
    /// It waits; look the user up.
    Ask,
    /// It waits behind others.
    Wait,
    /// Too many wait: `unavailable`.
    Full(M),
}

/// What `moved` leads to. The route is to be forgotten in any case.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Moved<M> {
    /// The message, where it has moved too often or too many wait: `unavailable`.
    pub given_up: Option<M>,
    /// Look the user up now; otherwise that follows when what else was sent by the stale route is answered.
    pub ask: bool,
}

/// A message that was found a route.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<M> {
    /// The message.
    pub message: M,
    /// How often it was answered `moved`; to be handed back when it is again.
    pub moves: u32,
}

/// The users to whom something is on its way or waits.
#[derive(Debug)]
pub struct Lookups<M> {
    bounds: Bounds,
    flows: HashMap<Rc<str>, Flow<M>, RandomState>,
    waiting: usize,
}

#[derive(Debug)]
struct Flow<M> {
    phase: Phase,
    /// Destinations that have not answered.
    unanswered: u32,
    /// What was answered `moved`, in the order of the answers, which is the order of sending: ahead of what waits.
    again: VecDeque<Found<M>>,
    behind: VecDeque<Found<M>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The route is believed.
    Flowing,
    /// The route is stale; its last answers are waited for.
    Settling,
    /// The user is being looked up.
    Asking,
}

impl<M> Lookups<M> {
    /// Nothing is on its way.
    pub fn new(bounds: Bounds, hasher: RandomState) -> Self {
        Lookups { bounds, flows: HashMap::with_hasher(hasher), waiting: 0 }
    }

    /// Takes a message to a user. `route_known`: the route cache knows where to send it.
    pub fn send(&mut self, user: &str, message: M, route_known: bool) -> Verdict<M> {
        let crowded = match self.flows.get(user) {
            None | Some(Flow { phase: Phase::Flowing, .. }) if route_known => return Verdict::Send(message),
            Some(flow) => flow.len() >= self.bounds.waiting_per_user_max,
            None => false,
        };
        if crowded || self.waiting >= self.bounds.waiting_max {
            return Verdict::Full(message);
        }
        self.waiting += 1;
        let flow = match self.flows.get_mut(user) {
            Some(flow) => flow,
            None => self.flows.entry(user.into()).or_insert_with(Flow::new),
        };
        flow.behind.push_back(Found { message, moves: 0 });
        match (flow.phase, flow.unanswered) {
            // The route was forgotten while something was on its way by it: that comes first.
            (Phase::Flowing, 1..) => flow.phase = Phase::Settling,
            (Phase::Flowing, 0) => {
                flow.phase = Phase::Asking;
                return Verdict::Ask;
            }
            (Phase::Settling | Phase::Asking, _) => {}
        }
        Verdict::Wait
    }

    /// A message was sent to so many destinations.
    pub fn sent(&mut self, user: &str, destinations: u32) {
        if destinations == 0 {
            return;
        }
        match self.flows.get_mut(user) {
            Some(flow) => flow.unanswered += destinations,
            None => drop(self.flows.insert(user.into(), Flow { unanswered: destinations, ..Flow::new() })),
        }
    }

    /// A destination has taken a message, refused it, or did not answer in time: in any case it is not sent again. Returns whether to look
    /// the user up now.
    #[must_use]
    pub fn answered(&mut self, user: &str) -> bool {
        let Some(flow) = self.flows.get_mut(user) else { return false };
        flow.unanswered = flow.unanswered.saturating_sub(1);
        self.step(user)
    }

    /// A destination does not have the user any more. `moves` is how often this message was answered so before.
    pub fn moved(&mut self, user: &str, message: M, moves: u32) -> Moved<M> {
        let full = self.waiting >= self.bounds.waiting_max;
        // Without a flow everything was given up with the link, and so is this.
        let Some(flow) = self.flows.get_mut(user) else { return Moved { given_up: Some(message), ask: false } };
        flow.unanswered = flow.unanswered.saturating_sub(1);
        if flow.phase == Phase::Flowing {
            flow.phase = Phase::Settling;
        }
        let given_up = if moves >= self.bounds.moves_max || full || flow.len() >= self.bounds.waiting_per_user_max {
            Some(message)
        } else {
            flow.again.push_back(Found { message, moves: moves + 1 });
            self.waiting += 1;
            None
        };
        Moved { given_up, ask: self.step(user) }
    }

    /// The look-up of a user has been answered, or has failed: everything that waited for it, in the order in which it must go out. What
    /// is sent of it now goes by the new route.
    pub fn found(&mut self, user: &str) -> impl Iterator<Item = Found<M>> + use<M> {
        let asked = self.flows.get(user).is_some_and(|flow| flow.phase == Phase::Asking);
        let flow = if asked { self.flows.remove(user) } else { None };
        let found = flow.map(|flow| flow.again.into_iter().chain(flow.behind)).into_iter().flatten();
        let found: Vec<_> = found.collect();
        self.waiting -= found.len();
        found.into_iter()
    }

    /// The link is gone: everything that waits, with its user, to be answered `unavailable`; what is on its way is not known any more.
    pub fn clear(&mut self) -> impl Iterator<Item = (Rc<str>, Found<M>)> + use<M> {
        self.waiting = 0;
        let empty = HashMap::with_hasher(self.flows.hasher().clone());
        let flows = std::mem::replace(&mut self.flows, empty);
        flows
            .into_iter()
            .flat_map(|(user, flow)| flow.again.into_iter().chain(flow.behind).map(move |found| (user.clone(), found)))
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
            Phase::Asking => false,
            Phase::Settling if flow.len() > 0 => {
                flow.phase = Phase::Asking;
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
        Flow { phase: Phase::Flowing, unanswered: 0, again: VecDeque::new(), behind: VecDeque::new() }
    }

    /// Messages that wait.
    fn len(&self) -> usize {
        self.again.len() + self.behind.len()
    }
}

#[cfg(test)]
mod tests;

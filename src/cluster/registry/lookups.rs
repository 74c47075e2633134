//! What is on its way to users on other nodes, so that their messages keep their order through look-ups and moves.
//!
//! A message goes straight out while its user's route is known. Where it is not, a look-up is opened and what follows queues behind it.
//! A destination that no longer has the user answers *moved*: then what was sent by that route before is waited for first, what follows
//! queues, and when the last answer is in, a look-up is opened and everything goes out again in its order. All of it is bounded; over
//! a bound a message is refused at once.
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

/// What an answer of a destination leads to.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Next<M> {
    /// Nothing.
    Nothing,
    /// Forget the route and look the user up.
    Ask,
    /// Forget the route. The look-up follows when what else was sent by it is answered.
    Settle,
    /// Forget the route. This message has moved too often, or too many wait: `unavailable`.
    GiveUp(M),
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
    again: VecDeque<Waiting<M>>,
    behind: VecDeque<Waiting<M>>,
}

#[derive(Debug)]
struct Waiting<M> {
    message: M,
    moves: u32,
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

/// A message that was found a route, and how often it has moved already: hand that back with its answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<M> {
    /// The message.
    pub message: M,
    /// How often it was answered `moved`.
    pub moves: u32,
}

impl<M> Lookups<M> {
    /// Nothing is on its way.
    pub fn new(bounds: Bounds, hasher: RandomState) -> Self {
        Lookups { bounds, flows: HashMap::with_hasher(hasher), waiting: 0 }
    }

    /// Takes a message to a user. `route_known`: the route cache knows where to send it.
    pub fn send(&mut self, user: &str, message: M, route_known: bool) -> Verdict<M> {
        let full = self.waiting >= self.bounds.waiting_max;
        match self.flows.get_mut(user) {
            None | Some(Flow { phase: Phase::Flowing, .. }) if route_known => Verdict::Send(message),
            _ if full => Verdict::Full(message),
            Some(flow) if flow.behind.len() + flow.again.len() >= self.bounds.waiting_per_user_max => {
                Verdict::Full(message)
            }
            flow => {
                self.waiting += 1;
                let flow = match flow {
                    Some(flow) => flow,
                    None => self.flows.entry(user.into()).or_insert_with(Flow::new),
                };
                flow.behind.push_back(Waiting { message, moves: 0 });
                match (flow.phase, flow.unanswered) {
                    // The route was forgotten while something went by it: that comes first.
                    (Phase::Flowing, 1..) => {
                        flow.phase = Phase::Settling;
                        Verdict::Wait
                    }
                    (Phase::Flowing, 0) => {
                        flow.phase = Phase::Asking;
                        Verdict::Ask
                    }
                    (Phase::Settling | Phase::Asking, _) => Verdict::Wait,
                }
            }
        }
    }

    /// A message was sent to so many destinations.
    pub fn sent(&mut self, user: &str, destinations: u32) {
        if destinations == 0 {
            return;
        }
        match self.flows.get_mut(user) {
            Some(flow) => flow.unanswered += destinations,
            None => {
                let flow = Flow { unanswered: destinations, ..Flow::new() };
                self.flows.insert(user.into(), flow);
            }
        }
    }

    /// A destination has taken a message, refused it, or did not answer in time: in any case it is not sent again.
    pub fn answered(&mut self, user: &str) -> Next<M> {
        let Some(flow) = self.flows.get_mut(user) else { return Next::Nothing };
        flow.unanswered = flow.unanswered.saturating_sub(1);
        self.step(user)
    }

    /// A destination does not have the user any more. `moves` is how often this message was answered so before.
    pub fn moved(&mut self, user: &str, message: M, moves: u32) -> Next<M> {
        let full = self.waiting >= self.bounds.waiting_max;
        let bounds = self.bounds;
        let flow = match self.flows.get_mut(user) {
            Some(flow) => flow,
            // Its flow was given up, with the link; so is this.
            None => return Next::GiveUp(message),
        };
        flow.unanswered = flow.unanswered.saturating_sub(1);
        if flow.phase == Phase::Flowing {
            flow.phase = Phase::Settling;
        }
        let crowded = flow.behind.len() + flow.again.len() >= bounds.waiting_per_user_max;
        if moves >= bounds.moves_max || full || crowded {
            return match self.step(user) {
                // Others wait: this one is given up by the caller all the same, who asks for them when told so.
                Next::Ask => {
                    self.flows.get_mut(user).expect("it steps").phase = Phase::Settling;
                    Next::GiveUp(message)
                }
                _ => Next::GiveUp(message),
            };
        }
        flow.again.push_back(Waiting { message, moves: moves + 1 });
        self.waiting += 1;
        match self.step(user) {
            Next::Nothing => Next::Settle,
            next => next,
        }
    }
}

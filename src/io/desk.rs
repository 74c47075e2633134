//! The desk between a shard's reactor and the tasks that run beside it on the same thread: they leave commands, and wait for what came of
//! them; and they take what services are asked, and leave what those say.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::ids::{ConnectionId, ShardId};
use crate::mesh::Bells;
use crate::protocol::command::{Command, Outcome};
use crate::protocol::hook::{Question, Verdict};
use crate::settings::Settings;

/// See the module.
#[derive(Debug)]
pub struct Desk {
    shard: ShardId,
    bells: Bells,
    inner: RefCell<Inner>,
    settings: RefCell<Option<Arc<Settings>>>,
}

#[derive(Debug, Default)]
struct Inner {
    left: VecDeque<(u64, Command)>,
    calls: HashMap<u64, Waiting>,
    next: u64,
    questions: VecDeque<Asking>,
    /// Whoever waits for a question.
    asker: Option<Waker>,
    verdicts: VecDeque<(ConnectionId, u32, Box<Verdict>)>,
}

/// A question to a service. [`Desk::say`] must follow.
#[derive(Debug)]
pub struct Asking {
    /// The connection that waits.
    pub conn: ConnectionId,
    /// The number of the question.
    pub number: u32,
    /// What is asked.
    pub question: Box<Question>,
}

#[derive(Debug)]
enum Waiting {
    For(Option<Waker>),
    Done(Box<Outcome>),
}

impl Desk {
    /// The desk of a shard; its bell wakes the reactor.
    pub fn new(shard: ShardId, bells: Bells) -> Rc<Self> {
        Rc::new(Desk { shard, bells, inner: RefCell::default(), settings: RefCell::default() })
    }

    /// Leaves a command for the reactor's next turn. Commands are carried out in the order in which they were left, whether or not the
    /// answers are awaited.
    pub fn call(self: &Rc<Self>, command: Command) -> Call {
        let mut inner = self.inner.borrow_mut();
        let ticket = inner.next;
        inner.next += 1;
        inner.left.push_back((ticket, command));
        inner.calls.insert(ticket, Waiting::For(None));
        drop(inner);
        self.bells.ring(self.shard);
        Call { desk: self.clone(), ticket }
    }

    /// Commands whose answers are awaited.
    pub fn under_way(&self) -> usize {
        self.inner.borrow().calls.len()
    }

    /// The next question to a service, as soon as there is one. One task waits for it.
    pub async fn question(&self) -> Asking {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            match inner.questions.pop_front() {
                Some(asking) => Poll::Ready(asking),
                None => {
                    inner.asker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Leaves what a service says.
    pub fn say(&self, conn: ConnectionId, number: u32, verdict: Verdict) {
        self.inner.borrow_mut().verdicts.push_back((conn, number, Box::new(verdict)));
        self.bells.ring(self.shard);
    }

    /// A question for whoever waits for one.
    pub(super) fn ask(&self, asking: Asking) {
        let mut inner = self.inner.borrow_mut();
        inner.questions.push_back(asking);
        let waker = inner.asker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next verdict for the state machine.
    pub(super) fn take_verdict(&self) -> Option<(ConnectionId, u32, Box<Verdict>)> {
        self.inner.borrow_mut().verdicts.pop_front()
    }

    /// The settings of the last reload, where there was one.
    pub fn settings(&self) -> Option<Arc<Settings>> {
        self.settings.borrow().clone()
    }

    pub(super) fn set_settings(&self, settings: Arc<Settings>) {
        *self.settings.borrow_mut() = Some(settings);
    }

    /// The next command for the state machine.
    pub(super) fn take(&self) -> Option<(u64, Command)> {
        self.inner.borrow_mut().left.pop_front()
    }

    /// Whether there is nothing for the state machine.
    pub(super) fn is_empty(&self) -> bool {
        let inner = self.inner.borrow();
        inner.left.is_empty() && inner.verdicts.is_empty()
    }

    /// The answer; nobody may be waiting for it any more.
    pub(super) fn done(&self, ticket: u64, outcome: Box<Outcome>) {
        let mut inner = self.inner.borrow_mut();
        let Some(waiting) = inner.calls.get_mut(&ticket) else { return };
        let before = std::mem::replace(waiting, Waiting::Done(outcome));
        drop(inner);
        if let Waiting::For(Some(waker)) = before {
            waker.wake();
        }
    }
}

/// A command under way. Dropped, it is still carried out, and its answer thrown away.
#[derive(Debug)]
pub struct Call {
    desk: Rc<Desk>,
    ticket: u64,
}

impl Future for Call {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut inner = self.desk.inner.borrow_mut();
        match inner.calls.remove(&self.ticket) {
            Some(Waiting::Done(outcome)) => Poll::Ready(*outcome),
            _ => {
                inner.calls.insert(self.ticket, Waiting::For(Some(cx.waker().clone())));
                Poll::Pending
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.desk.inner.borrow_mut().calls.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(call: &mut Call) -> Poll<Outcome> {
        Pin::new(call).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn answers_find_their_callers_in_any_order() {
        let desk = Desk::new(ShardId(0), Bells::new(1).unwrap());
        let probe = || Command::Probe { shard: ShardId(0) };
        let (mut first, mut second, dropped) = (desk.call(probe()), desk.call(probe()), desk.call(probe()));
        assert!(poll(&mut first).is_pending());
        let tickets: Vec<u64> = std::iter::from_fn(|| desk.take()).map(|(ticket, _)| ticket).collect();
        drop(dropped);
        desk.done(tickets[2], Box::new(Outcome::Busy));
        desk.done(tickets[1], Box::new(Outcome::Connections(2)));
        assert!(poll(&mut first).is_pending());
        assert!(matches!(poll(&mut second), Poll::Ready(Outcome::Connections(2))));
        desk.done(tickets[0], Box::new(Outcome::Connections(1)));
        assert!(matches!(poll(&mut first), Poll::Ready(Outcome::Connections(1))));
        drop((first, second));
        assert_eq!((desk.under_way(), desk.is_empty()), (0, true));
    }

    #[test]
    fn questions_wake_who_waits_for_them_and_verdicts_wait_for_the_reactor() {
        let desk = Desk::new(ShardId(0), Bells::new(1).unwrap());
        let conn = ConnectionId { shard: ShardId(0), slot: 1, generation: 2 };
        let mut waiting = Box::pin(desk.question());
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        let question = || Box::new(Question { hook: crate::protocol::hook::Hook::Message, body: Box::default() });
        desk.ask(Asking { conn, number: 7, question: question() });
        assert!(desk.is_empty(), "a question is nothing for the reactor");
        assert!(matches!(waiting.as_mut().poll(&mut context), Poll::Ready(Asking { number: 7, .. })));
        desk.say(conn, 7, Verdict::Failed);
        assert!(!desk.is_empty());
        assert!(matches!(desk.take_verdict(), Some((_, 7, _))));
        assert!(desk.is_empty() && desk.take_verdict().is_none());
    }
}

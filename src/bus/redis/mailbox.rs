//! What a connection has received and its owner has not taken yet: on one thread, without a lock, bounded by making the reader wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Bytes above which nothing is read until the owner has taken half of them.
pub(super) const MAILBOX_BYTES_HIGH: usize = 4 * 1024 * 1024;
/// What an arrival counts beside its bytes.
const ARRIVAL_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct Mailbox<A>(RefCell<Inner<A>>);

#[derive(Debug)]
struct Inner<A> {
    queue: VecDeque<(A, usize)>,
    bytes: usize,
    owner: Option<Waker>,
    reader: Option<Waker>,
}

impl<A> Mailbox<A> {
    pub(super) fn new() -> Self {
        Mailbox(RefCell::new(Inner { queue: VecDeque::new(), bytes: 0, owner: None, reader: None }))
    }

    /// Adds an arrival of that many bytes. Whoever waits for it runs later, not now.
    pub(super) fn put(&self, arrival: A, bytes: usize) {
        let mut inner = self.0.borrow_mut();
        inner.bytes += bytes + ARRIVAL_BYTES;
        inner.queue.push_back((arrival, bytes + ARRIVAL_BYTES));
        if let Some(owner) = inner.owner.take() {
            drop(inner);
            owner.wake();
        }
    }

    pub(super) fn take(&self) -> Option<A> {
        let mut inner = self.0.borrow_mut();
        let (arrival, bytes) = inner.queue.pop_front()?;
        inner.bytes -= bytes;
        if inner.bytes <= MAILBOX_BYTES_HIGH / 2
            && let Some(reader) = inner.reader.take()
        {
            drop(inner);
            reader.wake();
        }
        Some(arrival)
    }

    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<A> {
        match self.take() {
            Some(arrival) => Poll::Ready(arrival),
            None => {
                self.0.borrow_mut().owner = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Until there is room.
    pub(super) async fn room(&self) {
        let mut waited = false;
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            // With hysteresis: who has waited waits for half of it.
            let most = if waited { MAILBOX_BYTES_HIGH / 2 } else { MAILBOX_BYTES_HIGH };
            if inner.bytes <= most {
                return Poll::Ready(());
            }
            waited = true;
            inner.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[test]
    fn the_reader_waits_above_the_mark_until_half_is_taken() {
        let mailbox = Mailbox::new();
        let mut cx = Context::from_waker(Waker::noop());
        for i in 0..8 {
            mailbox.put(i, MAILBOX_BYTES_HIGH / 4);
        }
        let mut room = pin!(mailbox.room());
        let mut taken = 0;
        while room.as_mut().poll(&mut cx).is_pending() {
            assert_eq!(mailbox.take(), Some(taken), "in order");
            taken += 1;
        }
        assert!((6..8).contains(&taken), "{taken}");
        assert!(mailbox.poll_take(&mut cx).is_ready());
    }
}

//! The io_uring poller: multishot POLL_ADD for readiness, RECV and SEND in batches that are complete when `enter` returns.
//!
//! MSG_DONTWAIT makes the kernel finish a RECV or SEND inside the submitting call, one way or the other. So no buffer is the kernel's
//! across calls. SENDs report only when they fail or are short; MSG_WAITALL is what makes a short one a failure, without it CQE_SKIP_SUCCESS
//! hides it.
//!
//! Sockets of connections are in the ring's own file table, by the number of their row, so that no RECV or SEND looks a descriptor up and
//! counts a reference that all cores share: 3 % of the CPU of an echo. It holds a socket open; so it is taken out when its poll is ended.
//!
//! Polls report wakeups. They are armed once for both directions: a socket wakes for POLLOUT only after it refused bytes.
//! Their completions that come while a batch is in flight are kept for the next [`Poller::collect`], so that a report about room to write is
//! never looked at before the short send that it answers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::process::{Resource, getrlimit};

use super::{
    Disarmed, Interest, KIND_SHIFT, Poller, RECEIVE_BATCH, Readiness, Ready, Receive, SEND_BATCH, Send, Subject, Token,
};
use crate::io::poller::arena::Arena;
use crate::limits::RECEIVE_BYTES;

/// Submissions in one `enter`.
const SQ_ENTRIES: u32 = 512;
/// Completions before the kernel keeps them on a list of its own.
const CQ_ENTRIES: u32 = 8192;
/// The most that the ring's file table is made for: 8 bytes of the kernel's memory each, used or not.
const FILES_MAX: u32 = 128 * 1024;
/// Times that `enter` is repeated while the kernel lacks memory, before the shard gives up.
const ENTER_RETRIES_MAX: u32 = 10_000;

const KIND_RECEIVE: u64 = 2;
const KIND_SEND: u64 = 3;
const KIND_CANCEL: u64 = 4;

const _: () = assert!(RECEIVE_BATCH <= SQ_ENTRIES as usize);
const _: () = assert!(SEND_BATCH <= SQ_ENTRIES as usize);

/// See the module.
pub struct Uring {
    ring: IoUring,
    arena: Arena,
    ready: Vec<Ready>,
    overflows: u64,
    /// Which rows have their socket in the ring's file table.
    filed: Vec<bool>,
    /// Entries of that table.
    files_max: u32,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

/// What of a batch is in flight.
enum Batch<'a> {
    None,
    Receives(&'a mut [Receive]),
    Sends(&'a mut [Send]),
}

impl Uring {
    /// Makes the ring.
    ///
    /// # Errors
    ///
    /// When io_uring is forbidden, or this kernel lacks what is needed (5.19: COOP_TASKRUN; 5.17: CQE_SKIP_SUCCESS).
    pub fn new() -> io::Result<Self> {
        Self::with_entries(SQ_ENTRIES, CQ_ENTRIES)
    }

    fn with_entries(sq: u32, cq: u32) -> io::Result<Self> {
        // No DEFER_TASKRUN: a ring made so never wakes whoever polls its descriptor.
        let ring = IoUring::builder().setup_coop_taskrun().setup_submit_all().setup_cqsize(cq).build(sq)?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_skip_cqe_on_success() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring without NODROP and CQE_SKIP_SUCCESS"));
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::from(FILES_MAX));
        let files_max = limit.min(u64::from(FILES_MAX)) as u32;
        // Where that is not to be had everything goes by descriptor.
        let files_max = if ring.submitter().register_files_sparse(files_max).is_ok() { files_max } else { 0 };
        Ok(Uring { ring, arena: Arena::new(), ready: Vec::new(), overflows: 0, filed: Vec::new(), files_max })
    }

    /// Puts the socket of a row into the ring's file table, if it has room.
    fn file(&mut self, slot: u32, fd: BorrowedFd<'_>) {
        if slot >= self.files_max {
            return;
        }
        if self.filed.len() <= slot as usize {
            self.filed.resize(slot as usize + 1, false);
        }
        // What is there already is replaced.
        self.filed[slot as usize] = self.ring.submitter().register_files_update(slot, &[fd.as_raw_fd()]).is_ok();
    }

    /// Takes it out again.
    fn unfile(&mut self, slot: u32) {
        if let Some(filed) = self.filed.get_mut(slot as usize).filter(|filed| **filed) {
            *filed = false;
            let removed = self.ring.submitter().register_files_update(slot, &[-1]);
            debug_assert!(removed.is_ok(), "{removed:?}");
        }
    }

    fn is_filed(&self, slot: u32) -> bool {
        self.filed.get(slot as usize).is_some_and(|filed| *filed)
    }

    /// Queues one entry, entering the kernel first where the queue is full.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay valid until it has completed.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: by the caller's promise.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.run(&mut Batch::None, 0)?;
        }
        Ok(())
    }

    /// Makes sure that a whole batch can be queued: entering in the middle of one would take a part of its completions unseen.
    fn make_room(&mut self, entries: usize) -> io::Result<()> {
        let queue = self.ring.submission();
        assert!(entries <= queue.capacity());
        if queue.len() + entries > queue.capacity() {
            drop(queue);
            self.run(&mut Batch::None, 0)?;
        }
        Ok(())
    }

    /// Submits everything and takes all completions, until `expected` receives of the batch have theirs.
    fn run(&mut self, batch: &mut Batch<'_>, mut expected: usize) -> io::Result<()> {
        let mut retries = 0;
        loop {
            let (queued, overflown) = {
                let queue = self.ring.submission();
                (queue.len() as u32, queue.cq_overflow())
            };
            if queued > 0 || overflown {
                self.overflows += u64::from(overflown);
                // GETEVENTS moves what the kernel kept on its list into the queue.
                let flags = if overflown { IORING_ENTER_GETEVENTS } else { 0 };
                // SAFETY: no argument is passed; the queued entries were promised to be valid when they were pushed.
                let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) };
                match entered {
                    Ok(_) => {}
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                        retries += 1;
                        if retries > ENTER_RETRIES_MAX {
                            return Err(e);
                        }
                        std::thread::yield_now();
                    }
                    Err(e) => return Err(e),
                }
            }
            expected = expected.saturating_sub(self.reap(batch));
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.cq_overflow() {
                if expected == 0 {
                    return Ok(());
                }
                // By MSG_DONTWAIT this does not happen; should it ever, the batch is waited for: its buffers are ours again only then.
                drop(queue);
                self.ring.submit_and_wait(1)?;
            }
        }
    }

    /// Takes what is in the completion queue; returns how many receives were among it.
    fn reap(&mut self, batch: &mut Batch<'_>) -> usize {
        let mut receives = 0;
        for completion in self.ring.completion() {
            let index = completion.user_data() as u32 as usize;
            match (completion.user_data() >> KIND_SHIFT, &mut *batch) {
                (KIND_RECEIVE, Batch::Receives(batch)) => {
                    receives += 1;
                    batch[index].result = completion.result();
                }
                (KIND_SEND, Batch::Sends(batch)) => batch[index].result = completion.result(),
                (KIND_RECEIVE | KIND_SEND, _) => unreachable!("a batch is complete when its call returns"),
                (KIND_CANCEL, _) => {}
                _ => self.ready.push(report(&completion)),
            }
        }
        receives
    }
}

const IORING_ENTER_GETEVENTS: u32 = 1;

fn report(completion: &cqueue::Entry) -> Ready {
    let result = completion.result();
    let has = |bits: i16| result >= 0 && result & i32::from(bits) != 0;
    let gone = !cqueue::more(completion.flags());
    let readiness = Readiness {
        read: has(libc::POLLIN),
        write: has(libc::POLLOUT),
        hangup: has(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR),
        gone,
        failed: gone && result < 0 && result != -libc::ECANCELED,
    };
    Ready { token: Token(completion.user_data()), readiness }
}

impl Poller for Uring {
    fn wait_fd(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring's descriptor is open as long as the ring is.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }.as_fd().try_clone_to_owned()
    }

    fn arm(&mut self, token: Token, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::POLLIN,
            Interest::Stream => libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP,
        };
        if let Subject::Row(slot, _) = token.subject() {
            self.file(slot, fd);
        }
        let fd = types::Fd(fd.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, events as u32).multi(true).build().user_data(token.0);
        // SAFETY: a poll points to nothing.
        let pushed = unsafe { self.push(&entry) };
        if let (Err(_), Subject::Row(slot, _)) = (&pushed, token.subject()) {
            self.unfile(slot);
        }
        pushed
    }

    fn disarm(&mut self, token: Token, _fd: BorrowedFd<'_>) -> Disarmed {
        if let Subject::Row(slot, _) = token.subject() {
            self.unfile(slot);
        }
        let entry = opcode::AsyncCancel::new(token.0).build().user_data(KIND_CANCEL << KIND_SHIFT);
        // SAFETY: a cancellation points to nothing.
        let pushed = unsafe { self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS)) };
        debug_assert!(pushed.is_ok(), "{pushed:?}");
        Disarmed::Later
    }

    fn submit(&mut self) -> io::Result<()> {
        self.run(&mut Batch::None, 0)
    }

    fn collect(&mut self, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.run(&mut Batch::None, 0)?;
        let mut collected = std::mem::take(&mut self.ready);
        for Ready { token, readiness } in &collected {
            // Nobody disarms what is over. A row is used again only after this.
            if let (true, Subject::Row(slot, _)) = (readiness.gone, token.subject()) {
                self.unfile(slot);
            }
        }
        ready.append(&mut collected);
        self.ready = collected;
        Ok(())
    }

    fn has_collected(&self) -> bool {
        !self.ready.is_empty()
    }

    fn receive(&mut self, batch: &mut [Receive]) -> io::Result<()> {
        self.make_room(batch.len())?;
        for (i, receive) in batch.iter_mut().enumerate() {
            receive.result = -libc::EAGAIN;
            let slice = self.arena.slice(i).as_mut_ptr();
            let len = RECEIVE_BYTES as u32;
            let entry = match self.is_filed(receive.slot) {
                true => opcode::Recv::new(types::Fixed(receive.slot), slice, len).flags(libc::MSG_DONTWAIT).build(),
                false => opcode::Recv::new(types::Fd(receive.fd), slice, len).flags(libc::MSG_DONTWAIT).build(),
            };
            let entry = entry.user_data(KIND_RECEIVE << KIND_SHIFT | i as u64);
            // SAFETY: the slice is RECEIVE_BYTES long, nobody else uses it before the batch is complete, and that is before we return.
            unsafe { self.push(&entry)? };
        }
        let expected = batch.len();
        self.run(&mut Batch::Receives(batch), expected)
    }

    fn received(&mut self, index: usize, len: usize) -> &mut [u8] {
        &mut self.arena.slice(index)[..len]
    }

    unsafe fn send(&mut self, batch: &mut [Send]) -> io::Result<()> {
        self.make_room(batch.len())?;
        for (i, send) in batch.iter_mut().enumerate() {
            send.result = send.len as i32;
            let (slot, flags) = (send.conn.slot, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL);
            let entry = match self.is_filed(slot) {
                true => opcode::Send::new(types::Fixed(slot), send.data, send.len as u32).flags(flags).build(),
                false => opcode::Send::new(types::Fd(send.fd), send.data, send.len as u32).flags(flags).build(),
            };
            let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(KIND_SEND << KIND_SHIFT | i as u64);
            // SAFETY: the caller keeps the bytes in place until we return, and the batch is complete before that.
            unsafe { self.push(&entry)? };
        }
        self.run(&mut Batch::Sends(batch), 0)
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::poller::Subject;
    use std::os::unix::net::UnixStream;

    #[test]
    fn nothing_is_lost_when_the_completion_queue_overflows() {
        const SOCKETS: usize = 300;
        let Ok(mut poller) = Uring::with_entries(8, 16) else { return };
        let pairs: Vec<_> = (0..SOCKETS).map(|_| UnixStream::pair().unwrap()).collect();
        let arm = |poller: &mut Uring, i: usize| {
            poller.arm(Token::row(i as u32, 0), pairs[i].0.as_fd(), Interest::Stream).unwrap();
        };
        (0..SOCKETS).for_each(|i| arm(&mut poller, i));
        poller.submit().unwrap();
        for (_, peer) in &pairs {
            rustix::io::write(peer, b"x").unwrap();
        }
        let mut seen = [false; SOCKETS];
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while seen.iter().any(|seen| !seen) {
            assert!(std::time::Instant::now() < deadline, "lost: {}", seen.iter().filter(|seen| !**seen).count());
            std::thread::yield_now();
            let mut ready = Vec::new();
            poller.collect(&mut ready).unwrap();
            for Ready { token, readiness } in ready {
                let Subject::Row(slot, 0) = token.subject() else { panic!("{token:?}") };
                assert!(!readiness.failed);
                seen[slot as usize] |= readiness.read;
                if readiness.gone {
                    arm(&mut poller, slot as usize);
                }
            }
        }
        assert!(poller.overflows() > 0, "the queue was large enough: this tests nothing");
    }
}

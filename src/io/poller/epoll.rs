//! The epoll poller: edge-triggered readiness, `recv` and `send` directly. For kernels and containers without io_uring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::arena::Arena;
use super::{Disarmed, Interest, Poller, Readiness, Ready, Receive, Send, Token};

/// Reports taken in one call.
const EVENTS: usize = 512;

/// See the module.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<Event>,
    arena: Arena,
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoll").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Epoll {
    /// Makes the epoll instance.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Epoll { fd: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS), arena: Arena::new() })
    }
}

impl Poller for Epoll {
    fn wait_fd(&self) -> io::Result<OwnedFd> {
        self.fd.as_fd().try_clone_to_owned()
    }

    fn arm(&mut self, token: Token, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Read => EventFlags::IN | EventFlags::ET,
            Interest::Stream => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        };
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token.0), events)?)
    }

    fn disarm(&mut self, _token: Token, fd: BorrowedFd<'_>) -> Disarmed {
        // Never left out: while the socket lives elsewhere, closing it here would not end the reports.
        let deleted = epoll::delete(&self.fd, fd);
        debug_assert!(deleted.is_ok(), "{deleted:?}");
        Disarmed::Now
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn collect(&mut self, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.events.clear();
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        ready.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            let readiness = Readiness {
                read: flags.contains(EventFlags::IN),
                write: flags.contains(EventFlags::OUT),
                hangup: flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
                ..Readiness::default()
            };
            Ready { token: Token(event.data.u64()), readiness }
        }));
        Ok(())
    }

    fn has_collected(&self) -> bool {
        false
    }

    fn receive(&mut self, batch: &mut [Receive]) -> io::Result<()> {
        for (i, receive) in batch.iter_mut().enumerate() {
            // SAFETY: the caller's row owns the socket.
            let fd = unsafe { BorrowedFd::borrow_raw(receive.fd) };
            receive.result = loop {
                match rustix::net::recv(fd, self.arena.slice(i), RecvFlags::DONTWAIT) {
                    Ok((len, _)) => break len as i32,
                    Err(Errno::INTR) => {}
                    Err(e) => break -e.raw_os_error(),
                }
            };
        }
        Ok(())
    }

    fn received(&mut self, index: usize, len: usize) -> &mut [u8] {
        &mut self.arena.slice(index)[..len]
    }

    unsafe fn send(&mut self, batch: &mut [Send]) -> io::Result<()> {
        for send in batch {
            // SAFETY: the caller's row owns the socket, and the caller keeps the bytes in place until we return.
            let (fd, data) =
                unsafe { (BorrowedFd::borrow_raw(send.fd), std::slice::from_raw_parts(send.data, send.len)) };
            send.result = loop {
                match rustix::net::send(fd, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(len) => break len as i32,
                    Err(Errno::INTR) => {}
                    Err(e) => break -e.raw_os_error(),
                }
            };
        }
        Ok(())
    }
}

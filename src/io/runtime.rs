//! The monoio runtime of a shard, and how the reactor waits inside it.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use monoio::net::TcpStream;
use monoio::time::TimeDriver;
use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};
use rustix::event::{EventfdFlags, eventfd};

use super::desk::Desk;
use super::machine::Machine;
use super::poller::Poller;
use super::poller::uring::Uring;
use super::reactor::Reactor;
use crate::config::Driver;

/// Entries of the runtime's own ring.
const RING_ENTRIES: u32 = 1024;
/// Busy turns after which the runtime gets its turn.
const BUSY_TURNS_MAX: u32 = 4;

/// How a shard talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring, for the clients and for the runtime.
    IoUring,
    /// epoll, for both.
    Epoll,
}

impl DriverKind {
    /// The name in configuration, log and `/health`.
    pub fn name(self) -> &'static str {
        match self {
            DriverKind::IoUring => "io_uring",
            DriverKind::Epoll => "epoll",
        }
    }
}

/// What was chosen, and why it is not what one would expect.
#[derive(Debug)]
pub struct Choice {
    /// The driver.
    pub driver: DriverKind,
    /// Why `auto` fell back to epoll.
    pub fallback: Option<io::Error>,
}

/// Finds out what this machine allows.
///
/// # Errors
///
/// When `shards.driver` insists on io_uring and it is not to be had.
pub fn choose(driver: Driver) -> io::Result<Choice> {
    let tried = match driver {
        Driver::Epoll => return Ok(Choice { driver: DriverKind::Epoll, fallback: None }),
        Driver::Auto | Driver::IoUring => Uring::new().and_then(|_| Runtime::new(DriverKind::IoUring)),
    };
    match tried {
        Ok(_) => Ok(Choice { driver: DriverKind::IoUring, fallback: None }),
        Err(e) if driver == Driver::Auto => Ok(Choice { driver: DriverKind::Epoll, fallback: Some(e) }),
        Err(e) => Err(e),
    }
}

/// A runtime, and what the reactor needs to wait in it: made before the barrier.
pub struct Runtime {
    driver: DriverKind,
    runtime: FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>,
    breath: OwnedFd,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Builds the runtime of this thread.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn new(driver: DriverKind) -> io::Result<Self> {
        let runtime = match driver {
            DriverKind::IoUring => {
                RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES).enable_timer().build()?.into()
            }
            DriverKind::Epoll => {
                RuntimeBuilder::<LegacyDriver>::new().with_entries(RING_ENTRIES).enable_timer().build()?.into()
            }
        };
        let readable = u32::from(driver == DriverKind::IoUring);
        let breath = eventfd(readable, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Runtime { driver, runtime, breath })
    }

    /// Runs `reactor` until it is told to stop, and beside it the task that `beside` makes, which ends with it.
    ///
    /// # Errors
    ///
    /// When the poller or the runtime breaks.
    pub fn run<P: Poller, M: Machine>(
        mut self,
        reactor: Reactor<P, M>,
        beside: Option<impl FnOnce(Rc<Desk>) -> Pin<Box<dyn Future<Output = ()>>>>,
    ) -> io::Result<()> {
        let wait_fd = reactor.wait_fd()?;
        let (driver, breath) = (self.driver, self.breath);
        self.runtime.block_on(async move {
            let waiter = Waiter::new(driver, wait_fd, breath)?;
            if let Some(beside) = beside {
                monoio::spawn(beside(reactor.desk()));
            }
            drive(reactor, waiter).await
        })
    }
}

async fn drive<P: Poller, M: Machine>(mut reactor: Reactor<P, M>, mut waiter: Waiter) -> io::Result<()> {
    let mut busy_turns = 0;
    loop {
        let mut more = false;
        if reactor.is_wired() {
            poll_fn(|cx| {
                more = reactor.take_bus(cx);
                Poll::Ready(())
            })
            .await;
        }
        let busy = reactor.turn()? | more;
        if reactor.stopped() {
            return Ok(());
        }
        if busy {
            busy_turns += 1;
            if busy_turns >= BUSY_TURNS_MAX {
                busy_turns = 0;
                waiter.breathe().await?;
            }
        } else if reactor.sleep() {
            busy_turns = 0;
            if reactor.is_wired() {
                waiter.wait_beside(&mut reactor).await?;
            } else {
                waiter.wait().await?;
            }
            reactor.awake();
        }
    }
}

/// The two descriptors that the reactor awaits. monoio takes any descriptor that can be polled for a stream.
struct Waiter {
    driver: DriverKind,
    poller: Rc<TcpStream>,
    breath: TcpStream,
    /// The same eventfd as `breath`.
    bell: OwnedFd,
    /// A wait for the poller that was left for something else: it goes on where it was, since nothing is cancelled.
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>>>>;

impl Waiter {
    fn new(driver: DriverKind, poller: OwnedFd, breath: OwnedFd) -> io::Result<Self> {
        let bell = breath.as_fd().try_clone_to_owned()?;
        let stream = |fd: OwnedFd| TcpStream::from_std(std::net::TcpStream::from(fd));
        Ok(Waiter { driver, poller: Rc::new(stream(poller)?), breath: stream(breath)?, bell, waiting: None })
    }

    /// Until the poller has something.
    async fn wait(&self) -> io::Result<()> {
        // On the legacy driver `readable(true)` never clears.
        self.poller.readable(self.driver == DriverKind::IoUring).await
    }

    /// Until the poller has something, or the wires, or the machine wants to be told the time.
    async fn wait_beside<P: Poller, M: Machine>(&mut self, reactor: &mut Reactor<P, M>) -> io::Result<()> {
        let relaxed = self.driver == DriverKind::IoUring;
        let poller = self.poller.clone();
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { poller.readable(relaxed).await }));
        let mut due = match reactor.bus_due_in_ms() {
            // Whoever wants to be told again at once must not keep the runtime from its turn.
            Some(0) => return self.breathe().await,
            Some(ms) => Some(Box::pin(monoio::time::sleep(Duration::from_millis(ms)))),
            None => None,
        };
        let waited = poll_fn(|cx| {
            if reactor.poll_bus(cx) {
                return Poll::Ready(None);
            }
            if due.as_mut().is_some_and(|due| due.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(None);
            }
            waiting.as_mut().poll(cx).map(Some)
        })
        .await;
        let Some(result) = waited else { return Ok(()) };
        self.waiting = None;
        result
    }

    /// Gives the runtime its turn, by waiting for something real that is there at once: a task that only wakes itself would keep timers
    /// and the other tasks' I/O from ever being looked at.
    async fn breathe(&self) -> io::Result<()> {
        match self.driver {
            DriverKind::IoUring => self.breath.readable(true).await,
            DriverKind::Epoll => {
                // An edge is needed: the eventfd is filled only after the runtime has found it empty.
                let mut readable = pin!(self.breath.readable(false));
                let mut rung = false;
                poll_fn(|cx| match readable.as_mut().poll(cx) {
                    Poll::Pending if !std::mem::replace(&mut rung, true) => {
                        rustix::io::write(&self.bell, &1u64.to_ne_bytes())?;
                        Poll::Pending
                    }
                    other => other,
                })
                .await?;
                match rustix::io::read(&self.bell, &mut [0; 8]) {
                    Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
                    Err(e) => Err(e.into()),
                }
            }
        }
    }
}

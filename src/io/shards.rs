//! The threads of the shards: started in the order that private descriptor tables demand, told what to do, and joined.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};

use super::bus::MakeBus;
use super::ceiling::Ceiling;
use super::clock::{self, Ticker};
use super::counters::{Counters, Status};
use super::desk::Desk;
use super::listener::Listener;
use super::machine::Machine;
use super::poller::{Poller, epoll::Epoll, uring::Uring};
use super::reactor::{Parts, Reactor};
use super::runtime::{DriverKind, Runtime};
use super::{fd_table, process};
use crate::ids::ShardId;
use crate::limits::HAPPENINGS_BYTES_MAX;
use crate::mesh::{self, Bells, handoff};
use crate::protocol::happening::Happening;
use crate::settings::Settings;
use crate::time::Now;

/// Commands that a shard may have waiting.
const COMMANDS_MAX: usize = 64;

/// What the control thread tells a shard.
#[derive(Clone, Debug)]
pub enum Command {
    /// Begin to drain.
    Drain,
    /// Give back what the node holds in the cluster.
    Leave,
    /// Take these settings.
    Reload(Arc<Settings>),
    /// Say that the loop turns, by showing this number in its [`Status`].
    Probe(u64),
    /// Close everything and end.
    Stop,
}

/// How to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards.
    pub shards: u16,
    /// Poller and runtime.
    pub driver: DriverKind,
    /// Pin shard `i` to core `i`.
    pub pin: bool,
    /// One descriptor table per shard.
    pub private_tables: bool,
    /// Where clients connect. Port 0 takes a free one, the same for all shards.
    pub listen: SocketAddr,
    /// Connections that the kernel queues per shard.
    pub backlog: u32,
    /// `limits.connections`, 0 for none.
    pub connections: u64,
    /// Connections that one descriptor table holds.
    pub table_capacity: u64,
}

/// What runs beside the reactor of the first shard, on its runtime.
#[derive(Clone)]
pub struct Beside {
    /// Where it listens. Port 0 takes a free one.
    pub address: SocketAddr,
    /// Happenings of all shards that may wait for it to take them; 0: it never does.
    pub happenings: usize,
    /// Makes its task, on the shard's thread.
    pub serve: Arc<ServeBeside>,
}

/// The task of [`Beside`]: it ends with the shard.
pub type ServeBeside = dyn Fn(Surroundings) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

/// What the task of [`Beside`] finds.
#[derive(Debug)]
pub struct Surroundings {
    /// Its listener, made after `unshare`.
    pub listener: TcpListener,
    /// Where it leaves commands for the shards.
    pub desk: Rc<Desk>,
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// Where clients connect.
    pub client: SocketAddr,
    /// Poller and runtime.
    pub driver: DriverKind,
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A shard could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Doorbells or socket pairs.
    #[error("cannot make the mesh between the shards: {0}")]
    Mesh(io::Error),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Its runtime, ring, epoll or timer.
    #[error("cannot build the {} runtime of a shard: {error}", driver.name())]
    Runtime {
        /// Which.
        driver: DriverKind,
        /// Why.
        error: io::Error,
    },
    /// Its descriptor table.
    #[error("cannot make a private descriptor table (shards.fd_tables): {0}")]
    Unshare(io::Error),
    /// Its listener.
    #[error("cannot listen on {address} (listen.client): {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The listener beside the first one.
    #[error("cannot listen on {address} (listen.admin): {error}")]
    ListenBeside {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Its reactor.
    #[error("cannot start the reactor of a shard: {0}")]
    Reactor(io::Error),
    /// It panicked.
    #[error("a shard's thread died while it started")]
    Died,
}

/// What all shards and the control thread share.
#[derive(Debug)]
pub struct Shared {
    /// `limits.connections`.
    pub ceiling: Ceiling,
    /// One per shard.
    pub statuses: Box<[Status]>,
    /// Rows that one shard can hold.
    pub table_capacity: usize,
    control: OwnedFd,
    ready: AtomicBool,
    draining: AtomicBool,
    /// One queue per shard: what one user does stays in order. Empty: nobody listens.
    happenings: Box<[ArrayQueue<Box<Happening>>]>,
    happening_bytes: CachePadded<AtomicUsize>,
}

impl Shared {
    /// Leaves a happening for whoever tells the services; `false`: there is no room.
    pub(super) fn tell(&self, shard: ShardId, happening: Box<Happening>) -> bool {
        let Some(queue) = self.happenings.get(shard.index()) else { return false };
        let bytes = happening.bytes();
        let fits = self.happening_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= HAPPENINGS_BYTES_MAX;
        let told = fits && queue.push(happening).is_ok();
        if !told {
            self.happening_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        told
    }

    /// Takes up to `max` happenings, some of each shard.
    pub fn take_happenings(&self, max: usize) -> Vec<Box<Happening>> {
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            for queue in &self.happenings {
                if taken.len() == max {
                    return taken;
                }
                if let Some(happening) = queue.pop() {
                    self.happening_bytes.fetch_sub(happening.bytes(), Ordering::Relaxed);
                    taken.push(happening);
                }
            }
            if taken.len() == before {
                return taken;
            }
        }
    }

    /// Happenings that wait.
    pub fn happenings_waiting(&self) -> usize {
        self.happenings.iter().map(ArrayQueue::len).sum()
    }

    /// Whether the node has started: clients are accepted, and whoever waits for that has been told.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The node has started.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether the node drains, or was asked to.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Asks the control thread for a drain; whether it was the first to.
    pub fn request_drain(&self) -> bool {
        let first = !self.draining.swap(true, Ordering::AcqRel);
        self.ring_control();
        first
    }

    /// Makes the control thread look.
    pub(super) fn ring_control(&self) {
        let _ = rustix::io::write(&self.control, &1u64.to_ne_bytes());
    }
}

/// The running shards.
#[derive(Debug)]
pub struct Shards {
    threads: Vec<JoinHandle<io::Result<()>>>,
    commands: Vec<Arc<ArrayQueue<Command>>>,
    bells: Bells,
    shared: Arc<Shared>,
    address: SocketAddr,
    beside: Option<SocketAddr>,
}

/// What a thread has reached, in this order.
enum Reached {
    Built,
    Unshared,
    Listening { client: SocketAddr, beside: Option<SocketAddr> },
    Running,
}

/// What a thread may do next, in this order. It ends when the other end of the channel does.
enum Go {
    Unshare,
    Listen(SocketAddr),
    Run,
}

impl Shards {
    /// Starts the threads and waits until all of them accept connections. `make` makes each state machine, on its thread.
    ///
    /// # Errors
    ///
    /// The first that failed; the others have ended then.
    pub fn start<M, F>(plan: &Plan, make: F) -> Result<Shards, StartError>
    where
        M: Machine + 'static,
        F: Fn(ShardId, Now) -> M + Send + Sync + 'static,
    {
        Shards::start_with(plan, None, None, make)
    }

    /// As [`Shards::start`], with something beside the first shard, and with wires to other nodes.
    ///
    /// # Errors
    ///
    /// As [`Shards::start`].
    pub fn start_with<M, F>(
        plan: &Plan,
        beside: Option<&Beside>,
        make_bus: Option<MakeBus>,
        make: F,
    ) -> Result<Shards, StartError>
    where
        M: Machine + 'static,
        F: Fn(ShardId, Now) -> M + Send + Sync + 'static,
    {
        let count = usize::from(plan.shards);
        let bells = Bells::new(count).map_err(StartError::Mesh)?;
        let handoffs = handoff::build(count).map_err(StartError::Mesh)?.into_ports();
        let control =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| StartError::Mesh(e.into()))?;
        let room = beside.map_or(0, |beside| beside.happenings.div_ceil(count.max(1)));
        let shared = Arc::new(Shared {
            ceiling: Ceiling::new(plan.connections),
            statuses: (0..count).map(|_| Status::new(M::figures_len())).collect(),
            table_capacity: usize::try_from(plan.table_capacity).unwrap_or(usize::MAX),
            control,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            happenings: (0..if room > 0 { count } else { 0 }).map(|_| ArrayQueue::new(room)).collect(),
            happening_bytes: CachePadded::default(),
        });
        let commands: Vec<_> = (0..count).map(|_| Arc::new(ArrayQueue::new(COMMANDS_MAX))).collect();
        let make = Arc::new(make);
        let (report, reports) = channel();
        let mut gates = Vec::new();
        let mut threads = Vec::new();
        let blocked = process::SignalsBlocked::new();
        for (i, (mesh, handoff)) in mesh::build(count, &bells).into_iter().zip(handoffs).enumerate() {
            let (gate, go) = channel();
            gates.push(gate);
            let (plan, make, report, shared) = (plan.clone(), make.clone(), report.clone(), shared.clone());
            let commands = commands[i].clone();
            let bells = bells.clone();
            let beside = beside.filter(|_| i == 0).cloned();
            let make_bus = make_bus.clone();
            let body = move || {
                let id = ShardId(i as u16);
                let desk = Desk::new(id, bells);
                let part = move |ticker| {
                    let bus = make_bus.map(|make| make(id));
                    Parts { id, mesh, handoff, commands, shared, ticker, desk, bus }
                };
                let make = move |now| make(id, now);
                run_shard(id, &plan, beside, part, make, &go, &report)
            };
            let thread =
                std::thread::Builder::new().name(format!("shard-{i}")).spawn(body).map_err(StartError::Thread)?;
            threads.push(thread);
        }
        drop((report, blocked));
        let (address, beside) = bring_up(plan, &gates, &reports)?;
        Ok(Shards { threads, commands, bells, shared, address, beside })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where what is beside the first shard listens.
    pub fn address_beside(&self) -> Option<SocketAddr> {
        self.beside
    }

    /// Tells every shard. One whose queue is full has not looked for a long time; it misses this.
    pub fn command(&self, command: &Command) {
        for (i, queue) in self.commands.iter().enumerate() {
            if queue.push(command.clone()).is_err() {
                tracing::error!(shard = i, "a shard takes no more commands");
            }
            self.bells.ring(ShardId(i as u16));
        }
    }

    /// Asks one shard whether its loop turns; [`Status::answered`] shows the number then. Where its queue is full the answer is no.
    pub fn probe(&self, shard: usize, number: u64) {
        if self.commands[shard].push(Command::Probe(number)).is_ok() {
            self.bells.ring(ShardId(shard as u16));
        }
    }

    /// Becomes readable when a shard has drained, or has ended.
    pub fn control_fd(&self) -> BorrowedFd<'_> {
        self.shared.control.as_fd()
    }

    /// Clears [`Shards::control_fd`].
    pub fn clear_control(&self) {
        let _ = rustix::io::read(&self.shared.control, &mut [0; 8]);
    }

    /// Whether every shard has drained, and no connection is on its way from one to another.
    pub fn drained(&self) -> bool {
        self.shared.statuses.iter().all(Status::drained) && self.connections() == 0
    }

    /// Whether every shard has given back what the node held in the cluster.
    pub fn left(&self) -> bool {
        self.shared.statuses.iter().all(Status::left)
    }

    /// Waits until [`Shards::left`], `patience` at most; whether it came to that.
    pub fn wait_left(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.left() && Instant::now() < deadline && !self.any_ended() {
            wait_readable(self.control_fd(), deadline.saturating_duration_since(Instant::now()));
            self.clear_control();
        }
        self.left()
    }

    /// Whether a shard has ended by itself, which none should.
    pub fn any_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Connections of the process.
    pub fn connections(&self) -> u64 {
        self.shared.ceiling.used()
    }

    /// What each shard shows.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The counters of each shard, as of its last tick.
    pub fn counters(&self) -> Vec<Counters> {
        self.shared.statuses.iter().map(Status::counters).collect()
    }

    /// Stops every shard and waits for them, `patience` at most. Returns the first error that ended one.
    ///
    /// # Errors
    ///
    /// What broke a shard's poller or runtime, or that it hangs.
    pub fn stop(self, patience: Duration) -> io::Result<()> {
        self.command(&Command::Stop);
        let deadline = Instant::now() + patience;
        let mut result = Ok(());
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(20));
                wait_readable(self.shared.control.as_fd(), left);
                let _ = rustix::io::read(&self.shared.control, &mut [0; 8]);
            }
            let ended = match thread.is_finished().then(|| thread.join()) {
                Some(Ok(ended)) => ended,
                Some(Err(_)) => Err(io::Error::other("a shard panicked")),
                None => Err(io::Error::new(io::ErrorKind::TimedOut, "a shard does not end")),
            };
            result = result.and(ended);
        }
        result
    }
}

/// Waits until the descriptor is readable, or for `patience`.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = rustix::event::Timespec::try_from(patience).ok();
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, timeout.as_ref()).is_ok_and(|n| n > 0)
}

type Report = Result<Reached, StartError>;

/// Leads the threads through the steps, all of them through each before any begins the next. Where clients connect, and where the first
/// shard listens beside.
fn bring_up(
    plan: &Plan,
    gates: &[Sender<Go>],
    reports: &Receiver<Report>,
) -> Result<(SocketAddr, Option<SocketAddr>), StartError> {
    let next = || reports.recv().map_err(|_| StartError::Died)?;
    let all = || gates.iter().try_for_each(|_| next().map(drop));
    let go = |gate: &Sender<Go>, step| gate.send(step).map_err(|_| StartError::Died);
    all()?;
    gates.iter().try_for_each(|gate| go(gate, Go::Unshare))?;
    all()?;
    // The first shard finds the port where it is 0, and the others share it.
    let address = plan.listen;
    Listener::probe(address).map_err(|error| StartError::Listen { address, error })?;
    let mut bound = (address, None);
    for gate in gates {
        go(gate, Go::Listen(bound.0))?;
        if let Reached::Listening { client, beside } = next()? {
            bound = (client, bound.1.or(beside));
        }
    }
    gates.iter().try_for_each(|gate| go(gate, Go::Run))?;
    all()?;
    Ok(bound)
}

/// Tells whoever leads the start that this thread panicked: the others would keep the channel open.
struct Obituary<'a>(&'a Sender<Report>);

impl Drop for Obituary<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Err(StartError::Died));
        }
    }
}

/// Rings the control thread when its shard ends, however it ends.
struct EndBell(Arc<Shared>);

impl Drop for EndBell {
    fn drop(&mut self) {
        self.0.ring_control();
    }
}

fn run_shard<M: Machine>(
    id: ShardId,
    plan: &Plan,
    beside: Option<Beside>,
    part: impl FnOnce(Ticker) -> Parts,
    make: impl FnOnce(Now) -> M,
    go: &Receiver<Go>,
    report: &Sender<Report>,
) -> io::Result<()> {
    match plan.driver {
        DriverKind::IoUring => run_with(id, plan, beside, Uring::new, part, make, go, report),
        DriverKind::Epoll => run_with(id, plan, beside, Epoll::new, part, make, go, report),
    }
}

#[expect(clippy::too_many_arguments, reason = "what one thread needs, each once")]
fn run_with<P: Poller, M: Machine>(
    id: ShardId,
    plan: &Plan,
    beside: Option<Beside>,
    poller: impl FnOnce() -> io::Result<P>,
    part: impl FnOnce(Ticker) -> Parts,
    make: impl FnOnce(Now) -> M,
    go: &Receiver<Go>,
    report: &Sender<Report>,
) -> io::Result<()> {
    let _obituary = Obituary(report);
    if plan.pin && process::pin(id.index()).is_err() {
        tracing::warn!(shard = id.0, "cannot pin the shard to its core");
    }
    let build = || -> io::Result<_> { Ok((Runtime::new(plan.driver)?, poller()?, Ticker::new()?)) };
    let built = build().map_err(|error| StartError::Runtime { driver: plan.driver, error });
    let Some((runtime, poller, ticker)) = pass(built, |_| Reached::Built, report) else { return Ok(()) };
    let Ok(Go::Unshare) = go.recv() else { return Ok(()) };
    let unshared = if plan.private_tables { fd_table::unshare() } else { Ok(()) };
    let Some(()) = pass(unshared.map_err(StartError::Unshare), |()| Reached::Unshared, report) else { return Ok(()) };
    let Ok(Go::Listen(address)) = go.recv() else { return Ok(()) };
    let listeners = listen(plan, address, beside.as_ref());
    let listening = |(listener, beside): &(Listener, Option<TcpListener>)| Reached::Listening {
        client: listener.address(),
        beside: beside.as_ref().and_then(|beside| beside.local_addr().ok()),
    };
    let Some((listener, listener_beside)) = pass(listeners, listening, report) else { return Ok(()) };
    let Ok(Go::Run) = go.recv() else { return Ok(()) };
    let parts = part(ticker);
    let (shared, client, driver) = (parts.shared.clone(), listener.address(), plan.driver);
    let _end = EndBell(shared.clone());
    shared.statuses[id.index()].set_thread(rustix::thread::gettid().as_raw_nonzero().get());
    let reactor = Reactor::new(poller, make(clock::now()), Some(listener), parts).map_err(StartError::Reactor);
    let Some(reactor) = pass(reactor, |_| Reached::Running, report) else { return Ok(()) };
    let beside = beside
        .zip(listener_beside)
        .map(|(beside, listener)| move |desk| (beside.serve)(Surroundings { listener, desk, shared, client, driver }));
    runtime.run(reactor, beside).inspect_err(|e| tracing::error!(shard = id.0, error = %e, "the shard ends"))
}

/// The listener for clients, and the one beside it.
fn listen(
    plan: &Plan,
    address: SocketAddr,
    beside: Option<&Beside>,
) -> Result<(Listener, Option<TcpListener>), StartError> {
    let listener = Listener::bind(address, plan.backlog).map_err(|error| StartError::Listen { address, error })?;
    let bind = |address| {
        let listener = TcpListener::bind(address)?;
        // What the runtime's io_uring driver waits for must be able to wait; its epoll driver must never.
        listener.set_nonblocking(plan.driver == DriverKind::Epoll)?;
        Ok(listener)
    };
    let beside = match beside.map(|beside| beside.address) {
        Some(address) => Some(bind(address).map_err(|error| StartError::ListenBeside { address, error })?),
        None => None,
    };
    Ok((listener, beside))
}

/// Reports a step; `None` when it failed.
fn pass<T>(done: Result<T, StartError>, reached: impl FnOnce(&T) -> Reached, report: &Sender<Report>) -> Option<T> {
    match done {
        Ok(value) => report.send(Ok(reached(&value))).ok().map(|()| value),
        Err(e) => {
            let _ = report.send(Err(e));
            None
        }
    }
}

//! The connections of the admin listener: each a task, bounded in number, memory and time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::net::{TcpListener, TcpStream};

use super::health::Pulses;
use super::hooks::{self, Tally, Targets};
use crate::config::Config;
use crate::io::clock;
use crate::io::desk::Desk;
use crate::io::shards::{Beside, Shared, Surroundings};
use crate::io::tcp::Stopper;
use crate::limits::ADMIN_CONNECTIONS_MAX;
use crate::settings::Settings;

mod connection;
mod handler;

/// How often overdue connections are looked for.
const SWEEP: Duration = Duration::from_millis(250);
/// After a failure to accept, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin listener says of the node and cannot find out.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The settings at the start.
    pub settings: Arc<Settings>,
    /// `shared` or `private`.
    pub fd_tables: &'static str,
    /// RLIMIT_NOFILE.
    pub open_files_max: u64,
    /// Why `shards.driver = "auto"` fell back to epoll.
    pub fallback: Option<String>,
    /// When the node started.
    pub started_unix_ms: u64,
    /// Where services are.
    pub hooks: Targets,
}

/// The admin listener as something to run beside the first shard.
pub fn beside(address: SocketAddr, facts: Facts) -> Beside {
    let happenings = facts.hooks.events.as_ref().map_or(0, |_| facts.settings.config.hooks.queue as usize);
    let facts = Arc::new(facts);
    let serve = move |surroundings: Surroundings| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(serve(surroundings, facts.clone()))
    };
    Beside { address, happenings, serve: Arc::new(serve) }
}

/// What all connections share.
#[derive(Debug)]
struct Node {
    facts: Arc<Facts>,
    desk: Rc<Desk>,
    shared: Arc<Shared>,
    client: SocketAddr,
    driver: &'static str,
    pulses: Rc<Pulses>,
    /// Requests by route and status.
    requests: RefCell<BTreeMap<(&'static str, u16), u64>>,
    /// Bytes of bodies held by all connections.
    held_bytes: Cell<usize>,
    open: Open,
    hooks: Rc<Tally>,
}

impl Node {
    fn settings(&self) -> Arc<Settings> {
        self.desk.settings().unwrap_or_else(|| self.facts.settings.clone())
    }

    fn count(&self, route: &'static str, status: u16) {
        *self.requests.borrow_mut().entry((route, status)).or_default() += 1;
    }
}

async fn serve(surroundings: Surroundings, facts: Arc<Facts>) {
    let Surroundings { listener, desk, shared, client, driver } = surroundings;
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin listener cannot be watched"),
    };
    let pulses = Pulses::new(shared.statuses.len());
    pulses.start(&desk);
    let node = Rc::new(Node {
        facts,
        desk,
        shared,
        client,
        driver: driver.name(),
        pulses,
        requests: RefCell::default(),
        held_bytes: Cell::new(0),
        open: Open::default(),
        hooks: Rc::default(),
    });
    monoio::spawn(sweep(node.clone()));
    hooks::start(&node.facts.hooks, &node.facts.settings, node.driver, &node.hooks, &node.shared, &node.desk);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(&node, stream),
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(node: &Rc<Node>, stream: TcpStream) {
    let Ok(stopper) = Stopper::new(&stream) else { return };
    let _ = stream.set_nodelay(true);
    if node.open.is_full() {
        node.open.make_room();
    }
    if node.open.len() >= ADMIN_CONNECTIONS_MAX * 2 {
        // Those that were told to end have not yet: no more of this.
        return;
    }
    let place = node.open.enter(stopper);
    monoio::spawn(connection::serve(node.clone(), stream, place));
}

/// Ends what is overdue, for as long as the runtime lives.
async fn sweep(node: Rc<Node>) {
    loop {
        monoio::time::sleep(SWEEP).await;
        node.open.sweep(clock::now().mono_ms);
    }
}

/// What a connection is doing, and so how it is ended when its time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between two requests, or before the first byte of one.
    Idle,
    /// Part of a request is there.
    Reading,
    /// The answer is being made: bounded elsewhere.
    Working,
    /// The answer is being sent, or the rest of a refused request is thrown away.
    Writing,
}

#[derive(Debug)]
struct Entry {
    stopper: Stopper,
    phase: Phase,
    since_ms: u64,
    deadline_ms: u64,
    /// It was told to end.
    told: bool,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    entries: RefCell<BTreeMap<u64, Entry>>,
    next: Cell<u64>,
}

impl Open {
    fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    fn is_full(&self) -> bool {
        self.entries.borrow().values().filter(|entry| !entry.told).count() >= ADMIN_CONNECTIONS_MAX
    }

    fn enter(&self, stopper: Stopper) -> u64 {
        let place = self.next.get();
        self.next.set(place + 1);
        let entry = Entry { stopper, phase: Phase::Idle, since_ms: 0, deadline_ms: u64::MAX, told: false };
        self.entries.borrow_mut().insert(place, entry);
        place
    }

    fn leave(&self, place: u64) {
        self.entries.borrow_mut().remove(&place);
    }

    /// The connection does something else now, for `patience` at the most.
    fn set_phase(&self, place: u64, phase: Phase, patience: Duration) {
        if let Some(entry) = self.entries.borrow_mut().get_mut(&place) {
            entry.phase = phase;
            entry.since_ms = clock::now().mono_ms;
            entry.deadline_ms = entry.since_ms + patience.as_millis() as u64;
        }
    }

    /// Whether it was told to end.
    fn told(&self, place: u64) -> bool {
        self.entries.borrow().get(&place).is_some_and(|entry| entry.told)
    }

    /// Ends the connection that has been without a whole request for longest.
    fn make_room(&self) {
        let mut entries = self.entries.borrow_mut();
        let waiting = entries.values_mut().filter(|e| !e.told && matches!(e.phase, Phase::Idle | Phase::Reading));
        if let Some(entry) = waiting.min_by_key(|entry| entry.since_ms) {
            entry.told = true;
            entry.stopper.stop();
        }
    }

    fn sweep(&self, now_ms: u64) {
        for entry in self.entries.borrow_mut().values_mut().filter(|entry| entry.deadline_ms <= now_ms) {
            entry.told = true;
            entry.deadline_ms = u64::MAX;
            match entry.phase {
                Phase::Idle | Phase::Reading => entry.stopper.stop_reading(),
                Phase::Working | Phase::Writing => entry.stopper.stop(),
            }
        }
    }
}

/// Bytes that one request body may have.
fn body_bytes_max(config: &Config) -> usize {
    crate::limits::ADMIN_BODY_BYTES_MAX.max(message_bytes_max(config) + 64 * 1024)
}

/// Bytes that one message may have.
pub(super) fn message_bytes_max(config: &Config) -> usize {
    match config.limits.message_size as usize {
        0 => crate::limits::MESSAGE_BYTES_CEILING,
        size => size,
    }
}

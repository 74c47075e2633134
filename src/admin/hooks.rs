//! Webhooks: what happens is posted to a service, in the order in which it happened to each user; and services are asked before it happens.
//!
//! Events: one request at a time, so that the order holds; what comes meanwhile waits in the queues of the shards, which are bounded and
//! whose losses are counted. A receiver that hangs or is gone costs the clients nothing: a shard that finds its queue full goes on.
//!
//! Questions ([`ask`]) have connections and bounds of their own, each kind its own: one that hangs costs nothing but its own answers.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config;
use crate::io::clock;
use crate::io::desk::Desk;
use crate::io::shards::Shared;
use crate::protocol::happening::Happening;
use crate::protocol::hook::{Hook, Verdict};
use crate::settings::Settings;

mod ask;
mod client;
mod reply;
mod sign;
mod target;

use ask::Asker;
pub(super) use ask::Questions;
use client::Client;
use reply::Reply;
pub use target::keep_resolving;
use target::{Route, Target};

/// The first pause before a request is repeated; it doubles each time.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer's body that are read so that the connection can be used again.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Where services are, with their names resolved.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// `hooks.url`
    pub events: Option<Target>,
    /// `hooks.connect_url`
    pub connect: Option<Target>,
    /// `hooks.message_url`
    pub message: Option<Target>,
}

impl Targets {
    /// Resolves the names. Blocks.
    ///
    /// # Errors
    ///
    /// The key and the URL whose name does not resolve, and why.
    pub fn resolve(hooks: &config::Hooks) -> Result<Self, (&'static str, String, io::Error)> {
        let resolve = |key, url: &Option<String>| {
            let target = url.as_ref().map(|url| Target::resolve(url).map_err(|error| (key, url.clone(), error)));
            target.transpose()
        };
        Ok(Targets {
            events: resolve("hooks.url", &hooks.url)?,
            connect: resolve("hooks.connect_url", &hooks.connect_url)?,
            message: resolve("hooks.message_url", &hooks.message_url)?,
        })
    }

    /// All there are.
    pub fn all(&self) -> impl Iterator<Item = Target> {
        [&self.events, &self.connect, &self.message].into_iter().flatten().cloned()
    }
}

/// What became of it so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Events that were taken.
    pub(super) sent: Cell<u64>,
    /// Events that were given up.
    pub(super) given_up: Cell<u64>,
    /// Requests.
    pub(super) ok: Cell<u64>,
    pub(super) failed: Cell<u64>,
    /// By [`Hook`].
    pub(super) questions: [Rc<Questions>; Hook::ALL.len()],
}

fn add(cell: &Cell<u64>, more: usize) {
    cell.set(cell.get() + more as u64);
}

/// Tells services what happens, and asks them, for as long as the runtime lives.
pub(super) fn start(
    targets: &Targets,
    settings: &Arc<Settings>,
    driver: &str,
    tally: &Rc<Tally>,
    shared: &Arc<Shared>,
    desk: &Rc<Desk>,
) {
    let epoll = driver == "epoll";
    if let Some(target) = &targets.events {
        let events = Events::new(target.clone(), settings, epoll, tally.clone());
        monoio::spawn(events.run(shared.clone()));
    }
    let asker = |hook: Hook, target: &Option<Target>| {
        let target = target.clone()?;
        Some(Asker::new(hook, target, settings, epoll, desk, &tally.questions[hook as usize]))
    };
    let askers = [asker(Hook::Connect, &targets.connect), asker(Hook::Message, &targets.message)];
    let desk = desk.clone();
    monoio::spawn(async move {
        loop {
            let asking = desk.question().await;
            match &askers[asking.question.hook as usize] {
                Some(asker) => asker.take(asking),
                None => desk.say(asking.conn, asking.number, Verdict::Failed),
            }
        }
    });
}

/// Posts what happens.
#[derive(Debug)]
struct Events {
    settings: Arc<Settings>,
    client: Client,
    tally: Rc<Tally>,
    /// Numbers the deliveries, so that a service can tell a repeated one.
    next: u64,
    random: fastrand::Rng,
}

#[derive(Serialize)]
struct Delivery<'a> {
    node: &'a str,
    delivery: &'a str,
    events: &'a [Box<Happening>],
}

impl Events {
    fn new(target: Target, settings: &Arc<Settings>, epoll: bool, tally: Rc<Tally>) -> Self {
        let client = Client::new(Rc::new(Route::new(target)), epoll);
        let random = fastrand::Rng::with_seed(u64::from(settings.instance));
        Events { settings: settings.clone(), client, tally, next: 0, random }
    }

    async fn run(mut self, shared: Arc<Shared>) {
        let batch_size = self.settings.config.hooks.batch_size as usize;
        let delay = Duration::from_millis(self.settings.config.hooks.batch_delay_ms);
        loop {
            let events = shared.take_happenings(batch_size);
            if !events.is_empty() {
                self.deliver(&events).await;
            }
            // A full batch is followed by the next one at once.
            if events.len() < batch_size {
                monoio::time::sleep(delay).await;
            }
        }
    }

    async fn deliver(&mut self, events: &[Box<Happening>]) {
        let delivery = format!("{:08x}-{}", self.settings.instance, self.next);
        self.next += 1;
        let body = Delivery { node: &self.settings.node_id, delivery: &delivery, events };
        let body = match serde_json::to_vec(&body) {
            Ok(body) => bytes::Bytes::from(body),
            Err(error) => {
                tracing::error!(%error, "events that cannot be written are given up");
                return add(&self.tally.given_up, events.len());
            }
        };
        let mut pause = BACK_OFF;
        for attempt in 0..=self.settings.config.hooks.retries {
            if attempt > 0 {
                monoio::time::sleep(pause.mul_f64(0.5 + self.random.f64() / 2.0)).await;
                pause = (pause * 2).min(BACK_OFF_MAX);
            }
            let mut headers = vec![("x-ringgate-delivery", delivery.clone())];
            if let Some(secret) = &self.settings.config.hooks.secret {
                headers.push(("x-ringgate-signature", sign::signature(&secret.0, clock::now().unix_s(), &body)));
            }
            let deadline = Instant::now() + Duration::from_millis(self.settings.config.hooks.timeout_ms);
            let error = match self.client.post(&headers, body.clone(), BODY_BYTES_MAX, deadline).await {
                Ok(Reply { status: 200..=299, .. }) => {
                    add(&self.tally.ok, 1);
                    return add(&self.tally.sent, events.len());
                }
                Ok(Reply { status, .. }) => io::Error::other(format!("HTTP {status}")),
                Err(error) => error,
            };
            add(&self.tally.failed, 1);
            tracing::warn!(%error, attempt, events = events.len(), "a webhook failed");
        }
        tracing::error!(events = events.len(), "events are given up: the webhook failed too often");
        add(&self.tally.given_up, events.len());
    }
}

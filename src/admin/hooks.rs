//! Webhooks: what happens is posted to a service, in the order in which it happened to each user.
//!
//! One request at a time, so that the order holds; what comes meanwhile waits in the queues of the shards, which are bounded and whose losses
//! are counted. A receiver that hangs or is gone costs the clients nothing: a shard that finds its queue full goes on.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::io::clock;
use crate::io::shards::Shared;
use crate::protocol::happening::Happening;
use crate::settings::Settings;

mod client;
mod sign;

use client::Client;

/// The first pause before a request is repeated; it doubles each time.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// Where to.
#[derive(Clone, Debug)]
pub struct Target {
    addresses: Vec<SocketAddr>,
    host: String,
    path: String,
}

impl Target {
    /// Reads `http://host[:port][/path]` and resolves the name. Blocks.
    ///
    /// # Errors
    ///
    /// The name does not resolve, or it is no such URL.
    pub fn resolve(url: &str) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "expected http://host[:port][/path]");
        let rest = url.strip_prefix("http://").ok_or_else(bad)?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() || host.contains(['@', '?', '#']) || !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad());
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let addresses: Vec<SocketAddr> = with_port.to_socket_addrs()?.collect();
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { addresses, host: host.to_owned(), path: path.to_owned() })
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
}

fn add(cell: &Cell<u64>, more: usize) {
    cell.set(cell.get() + more as u64);
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hooks {
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

impl Hooks {
    pub(super) fn new(target: Target, settings: &Arc<Settings>, driver: &str, tally: Rc<Tally>) -> Self {
        let timeout = Duration::from_millis(settings.config.hooks.timeout_ms);
        let client = Client::new(target, timeout, driver == "epoll");
        let random = fastrand::Rng::with_seed(u64::from(settings.instance));
        Hooks { settings: settings.clone(), client, tally, next: 0, random }
    }

    /// Tells what happens, for as long as the runtime lives.
    pub(super) async fn run(mut self, shared: Arc<Shared>) {
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
            match self.client.post(&headers, body.clone()).await {
                Ok(()) => {
                    add(&self.tally.ok, 1);
                    return add(&self.tally.sent, events.len());
                }
                Err(error) => {
                    add(&self.tally.failed, 1);
                    tracing::warn!(%error, attempt, events = events.len(), "a webhook failed");
                }
            }
        }
        tracing::error!(events = events.len(), "events are given up: the webhook failed too often");
        add(&self.tally.given_up, events.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parts = |url: &str| Target::resolve(url).map(|t| (t.host, t.path, t.addresses[0].port())).ok();
        let is = |host: &str, path: &str, port| Some((host.to_owned(), path.to_owned(), port));
        assert_eq!(parts("http://127.0.0.1:9000/a?b=c"), is("127.0.0.1:9000", "/a?b=c", 9000));
        assert_eq!(parts("http://127.0.0.1"), is("127.0.0.1", "/", 80));
        assert_eq!(parts("http://[::1]:7/x"), is("[::1]:7", "/x", 7));
        for bad in ["https://127.0.0.1/", "http://", "http:///x", "http://u@127.0.0.1/", "http://127.0.0.1/a b", "x"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}

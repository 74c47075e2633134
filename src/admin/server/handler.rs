//! What the node answers, request by request.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Node, message_bytes_max};
use crate::admin::answer::{self, Answer};
use crate::admin::body;
use crate::admin::failure::{Code, Failure};
use crate::admin::health::Readiness;
use crate::admin::metrics::{self, NodeFigures};
use crate::admin::process::Process;
use crate::admin::routes::{self, Call, Route};
use crate::cluster::link::State;
use crate::config::{AuthMode, Routing};
use crate::io::clock;
use crate::protocol::command::{Command, Outcome};

/// How long the shards may take to answer a command.
const PATIENCE: Duration = Duration::from_secs(10);
/// Commands of one batch that are under way at a time.
const BATCH_WINDOW: usize = 256;
/// Bytes of messages of one batch that are under way at a time.
const BATCH_WINDOW_BYTES: usize = 1024 * 1024;
/// Commands of all connections that are under way at a time; over it: 429.
const UNDER_WAY_MAX: usize = 4096;
/// Nothing is loaded from elsewhere, and nobody shows the page in a frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                           connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("../page.html");

impl Node {
    /// Answers a request that was let in.
    pub(super) async fn handle(&self, route: Route<'_>, body: &[u8]) -> Answer {
        match route {
            Route::Page => Answer {
                status: 200,
                content_type: "text/html; charset=utf-8",
                headers: vec![("content-security-policy", PAGE_POLICY), ("referrer-policy", "no-referrer")],
                body: PAGE.into(),
            },
            Route::Live => Answer::text(200, "ok\n"),
            Route::Health => Answer::json(200, &self.health()),
            Route::Ready => self.ready(),
            Route::Metrics => self.metrics(),
            Route::Api(verb) => self.api(verb, body).await.unwrap_or_else(Answer::from),
        }
    }

    fn readiness(&self) -> Readiness {
        let (started, draining) = (self.shared.ready(), self.shared.draining());
        self.pulses.readiness(started, draining, clock::now().mono_ms)
    }

    fn health(&self) -> Value {
        let settings = self.settings();
        let mut health = json!({
            "status": "ok",
            "node_id": settings.node_id,
            "connections": self.shared.ceiling.used(),
            "version": env!("CARGO_PKG_VERSION"),
            "driver": self.driver,
            "shards": self.shared.statuses.len(),
            "routing": routing(settings.config.cluster.routing),
            "uptime_s": clock::now().unix_ms.saturating_sub(self.facts.started_unix_ms) / 1000,
            "draining": self.shared.draining(),
        });
        if let Some(fields) = health.as_object_mut() {
            if let Some(why) = &self.facts.fallback {
                fields.insert("driver_fallback".to_owned(), why.as_str().into());
            }
            if let Some(bus) = self.bus() {
                fields.insert("bus".to_owned(), bus.name().into());
            }
        }
        health
    }

    fn ready(&self) -> Answer {
        let bus = self.bus();
        let (status, mut value) = match self.readiness() {
            Readiness::Ready if self.bus_is_missed() => (503, json!({ "status": "bus" })),
            Readiness::Ready => (200, json!({ "status": "ready" })),
            Readiness::Starting => (503, json!({ "status": "starting" })),
            Readiness::Draining => (503, json!({ "status": "draining" })),
            Readiness::Stalled(shards) => (503, json!({ "status": "stalled", "shards": shards })),
        };
        if let (Some(bus), Some(fields)) = (bus, value.as_object_mut()) {
            fields.insert("bus".to_owned(), bus.name().into());
        }
        Answer::json(status, &value)
    }

    /// How the links to the bus stand: as the worst of them. `None`: there is no cluster.
    fn bus(&self) -> Option<State> {
        let worse = |a: State, b: State| match (a, b) {
            (State::Down, _) | (_, State::Down) => State::Down,
            (State::Resync, _) | (_, State::Resync) => State::Resync,
            (State::Up, State::Up) => State::Up,
        };
        self.shared.statuses.iter().filter_map(crate::io::counters::Status::bus).reduce(worse)
    }

    /// `cluster.ready_needs_bus`, and it is not up.
    fn bus_is_missed(&self) -> bool {
        self.settings().config.cluster.ready_needs_bus && self.bus().is_some_and(|bus| bus != State::Up)
    }

    /// Whether `/readyz` says 200.
    fn is_ready(&self) -> bool {
        self.readiness() == Readiness::Ready && !self.bus_is_missed()
    }

    fn process(&self) -> Process {
        let threads = self.shared.statuses.iter().map(crate::io::counters::Status::thread);
        let tables: Vec<i32> = threads.filter(|_| self.facts.fd_tables == "private").collect();
        Process::read(&tables)
    }

    fn metrics(&self) -> Answer {
        let settings = self.settings();
        let figures = NodeFigures {
            version: env!("CARGO_PKG_VERSION"),
            node_id: &settings.node_id,
            driver: self.driver,
            ready: self.is_ready(),
            draining: self.shared.draining(),
            started_unix_ms: self.facts.started_unix_ms,
            connections_max: settings.config.limits.connections.into(),
            open_files_max: self.facts.open_files_max,
            admin_connections: self.open.len(),
            requests: &self.requests.borrow(),
            probe_ms: &self.pulses.ages_ms(clock::now().mono_ms),
            process: self.process(),
            hooks: &self.hooks,
        };
        let body = metrics::render(&figures, &self.shared).into();
        Answer { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", headers: Vec::new(), body }
    }

    async fn api(&self, verb: &str, body: &[u8]) -> Result<Answer, Failure> {
        let message_max = message_bytes_max(&self.settings().config);
        match routes::call(verb, body, message_max)? {
            Call::Drain => {
                let started = self.shared.request_drain();
                Ok(Answer::json(200, &json!({ "draining": true, "started": started })))
            }
            Call::One(command) => {
                let asked_info = matches!(command, Command::Info { .. });
                let value = self.command(command).await?;
                Ok(Answer::json(200, &if asked_info { self.info(value) } else { value }))
            }
            Call::Many(entries) => {
                let body = self.batch(entries, message_max).await.into();
                Ok(Answer { status: 200, content_type: "application/json", headers: Vec::new(), body })
            }
        }
    }

    /// Gives one command, and waits for what comes of it.
    async fn command(&self, command: Command) -> Result<Value, Failure> {
        if self.desk.under_way() >= UNDER_WAY_MAX {
            return Err(Failure::new(Code::Busy, "too many commands are under way"));
        }
        self.finish(self.desk.call(command)).await
    }

    async fn finish(&self, call: crate::io::desk::Call) -> Result<Value, Failure> {
        // Nothing of the kernel's is in there: it may be given up.
        let outcome: Outcome = monoio::time::timeout(PATIENCE, call)
            .await
            .map_err(|_| Failure::new(Code::Unavailable, "a shard did not answer in time"))?;
        answer::result(outcome, answer::Node { id: &self.facts.settings.node_id })
    }

    /// Reads and gives many commands in their order, a bounded number at a time; the results in the same order, as JSON. What changes who is
    /// where is waited for before anything else is done. The clients of this shard are served in between.
    async fn batch(&self, entries: Vec<&RawValue>, message_max: usize) -> String {
        let mut results = String::from("{\"results\":[");
        let mut under_way = VecDeque::new();
        let mut bytes = 0;
        for raw in entries {
            let entry = body::entry(raw, message_max);
            let alone = matches!(entry, Ok(Command::Member { .. } | Command::Disconnect { .. }));
            let size = entry.as_ref().map_or(0, size);
            while under_way.len() >= BATCH_WINDOW || bytes + size > BATCH_WINDOW_BYTES || alone {
                let Some((size, step)) = under_way.pop_front() else { break };
                bytes -= size;
                self.step(step, &mut results).await;
            }
            let step = entry.map(|command| self.desk.call(command));
            if alone {
                self.step(step, &mut results).await;
            } else {
                bytes += size;
                under_way.push_back((size, step));
            }
        }
        for (_, step) in under_way {
            self.step(step, &mut results).await;
        }
        results.push_str("]}\n");
        results
    }

    /// Waits for one command of a batch, and appends its result.
    async fn step(&self, step: Result<crate::io::desk::Call, Failure>, results: &mut String) {
        let result = match step {
            Ok(call) => self.finish(call).await,
            Err(failure) => Err(failure),
        };
        if !results.ends_with('[') {
            results.push(',');
        }
        results.push_str(&result.unwrap_or_else(|failure| failure.json()).to_string());
    }

    /// What `info` says beside what the shards say.
    fn info(&self, shards: Value) -> Value {
        let settings = self.settings();
        let config = &settings.config;
        let (shards, cluster) = match shards {
            Value::Object(mut fields) => {
                (fields.remove("shards").unwrap_or_default(), fields.remove("cluster").unwrap_or_default())
            }
            other => (other, Value::Null),
        };
        let lease = &cluster["lease"];
        let sum = |group: &str, name: &str| -> u64 {
            shards.as_array().into_iter().flatten().filter_map(|shard| shard[group][name].as_u64()).sum()
        };
        let process = self.process();
        let now = clock::now();
        let node = json!({
            "node_id": settings.node_id,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": now.unix_ms.saturating_sub(self.facts.started_unix_ms) / 1000,
            "driver": self.driver,
            "fd_tables": self.facts.fd_tables,
            "ready": self.is_ready(),
            "draining": self.shared.draining(),
            "client": self.client.to_string(),
            "weight": config.cluster.weight,
            "auth": match config.auth.mode { AuthMode::None => "none", AuthMode::Jwt => "jwt" },
            "memory_bytes": process.resident_bytes,
            "descriptors": process.descriptors,
            "cpu_seconds": process.cpu_seconds,
            "lease": lease,
        });
        let others = cluster["nodes"].as_array().into_iter().flatten().filter(|n| n["node_id"] != lease["node"]);
        let nodes: Vec<&Value> = std::iter::once(&node).chain(others).collect();
        json!({
            "node_id": settings.node_id,
            "now_ms": now.unix_ms,
            "routing": routing(config.cluster.routing),
            "connections": sum("held", "connections"),
            "users": sum("held", "users"),
            "rooms": sum("held", "home_rooms"),
            "channels": sum("held", "home_channels"),
            "limits": { "connections": config.limits.connections },
            "bus": self.bus().map(State::name),
            "ring": cluster["ring"],
            "probe_ms": self.pulses.ages_ms(now.mono_ms),
            "nodes": nodes,
            "shards": shards,
        })
    }
}

fn routing(routing: Routing) -> &'static str {
    match routing {
        Routing::Local => "local",
        Routing::Broadcast => "broadcast",
        Routing::Registry => "registry",
        Routing::Hash => "hash",
    }
}

/// Bytes of payload that a command puts on its way.
fn size(command: &Command) -> usize {
    match command {
        Command::Publish(publish) => publish.content.len(),
        _ => 0,
    }
}

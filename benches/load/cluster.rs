//! Nodes over Redis: what a hop to another node costs against the same message on one node, in each routing.
//!
//! Everybody has two partners, one on the same node and one on another, and writes to the one and the other by turns, at the same rate. What
//! Redis is asked meanwhile, less what it is asked when nobody says anything (leases, probes), is what the messages cost.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::content::Flow;
use crate::control::{Command, user};
use crate::options::Options;
use crate::plan::Plan;
use crate::redis::{Calls, Redis};
use crate::report::Report;
use crate::run::{Course, drive};
use crate::server::Server;
use crate::stats::Percentiles;

/// How long the nodes may take to be a cluster.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// What the background may be off by, per message, where a figure must be none.
const NOISE: f64 = 0.1;
/// The gateway's counter of batches of acknowledgements that were published.
const ANSWERS: &str = "ringgate_unicasts_answer_parcels_total";
/// The gateway's counters of messages that came to a node by the bus, and of those that had nobody there.
const RECEIVED: &str = "ringgate_unicasts_received_total";
const USELESS: &str = "ringgate_unicasts_useless_total";

/// What one routing costs.
#[derive(Debug, Serialize)]
pub(crate) struct Bus {
    routing: String,
    nodes: usize,
    /// Redis commands per second when nobody says anything.
    idle_commands_per_second: f64,
    /// Messages to somebody on the same node.
    near: Cost,
    /// Messages to somebody on another node.
    far: Cost,
}

/// What one kind of message costs, per message, and where it went.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cost {
    messages: u64,
    /// Publishes to Redis that are not acknowledgements.
    publishes: f64,
    acknowledgements: f64,
    /// All other commands: look-ups and the like.
    others: f64,
    /// Messages that came to a node by the bus, and the share of those that had nobody there.
    received: f64,
    useless: Option<f64>,
}

/// Runs every routing that is asked for, one after the other.
pub(crate) fn run(options: &Options, plan: &Plan) -> Result<Vec<Report>, String> {
    if options.url.is_some() {
        return Err("cluster starts its own nodes: --url is not for it".into());
    }
    options.routing.iter().map(|routing| one(options, plan, routing)).collect()
}

fn one(options: &Options, plan: &Plan, routing: &str) -> Result<Report, String> {
    let redis = Redis::start()?;
    let mut servers = Vec::new();
    for node in 0..plan.nodes {
        servers.push(Server::start(
            options,
            plan.total(),
            &format!("node-{node}"),
            &settings(options, &redis, routing, node),
        )?);
    }
    wait_until_ready(&servers)?;
    let letters = if routing == "hash" { letters(plan, &servers)? } else { Vec::new() };
    drive(options, plan, servers, letters, |course, report| course.cluster(report, &redis, routing))
}

fn settings(options: &Options, redis: &Redis, routing: &str, node: u32) -> Vec<String> {
    let mut settings = vec![
        format!("node.id=node-{node}"),
        format!("cluster.routing={routing}"),
        format!("redis.url={}", redis.url()),
        // Wherever this leads: nobody is sent there, as everybody is where they belong.
        "cluster.advertise=ws://nowhere.invalid/ws".into(),
    ];
    if options.shards.is_none() && options.pin_server.is_none() {
        settings.push("shards.count=2".into());
    }
    // What the command line says comes last.
    settings.extend(options.settings.iter().cloned());
    settings
}

/// What the name of each user begins with, so that everybody belongs on the node that they connect to, as they would after `reconnect`.
fn letters(plan: &Plan, servers: &[Server]) -> Result<Vec<u8>, String> {
    let letter = |index: u32| {
        let home = format!("node-{}", index % plan.nodes);
        for letter in b'a'..=b'z' {
            if servers[0].route(&user(letter, index))? == home {
                return Ok(letter);
            }
        }
        Err(format!("of 26 names none belongs on {home}"))
    };
    (0..plan.total()).map(letter).collect()
}

/// Every node carries its own probe, and knows of all others.
pub(crate) fn wait_until_ready(servers: &[Server]) -> Result<(), String> {
    let deadline = Instant::now() + READY_WITHIN;
    let is_ready = |server: &Server| server.page("/readyz").is_ok_and(|body| body.contains(r#""bus":"up""#));
    while !servers.iter().all(is_ready) {
        if Instant::now() > deadline {
            return Err(format!("the nodes were no cluster within {} s", READY_WITHIN.as_secs()));
        }
        thread::sleep(Duration::from_millis(50));
    }
    // Others are found by polling, once a second.
    thread::sleep(Duration::from_millis(1500));
    Ok(())
}

/// What Redis and the nodes have counted until now.
struct Counted {
    at: Instant,
    calls: Calls,
    sent: u64,
    nodes: BTreeMap<&'static str, f64>,
}

impl Course<'_> {
    /// Both kinds of message by turns, after a look at what the cluster costs when nobody says anything.
    fn cluster(&mut self, report: &mut Report, redis: &Redis, routing: &str) -> Result<(), String> {
        self.connect(report)?;
        self.pass("settling", Duration::from_millis(500))?;
        let before = self.counted(redis)?;
        self.pass("resting", self.plan.measure.min(Duration::from_secs(2)))?;
        let rest = self.counted(redis)?.since(&before);

        // Everybody has written to everybody once: what can be known of the other nodes is.
        for command in [Command::Run, Command::Hop] {
            self.say(command, self.plan.warmup)?;
        }
        let (mut near, mut far) = (Spent::default(), Spent::default());
        for _ in 0..self.plan.rounds {
            for (command, spent) in [(Command::Run, &mut near), (Command::Hop, &mut far)] {
                let before = self.counted(redis)?;
                self.say(command, self.plan.measure)?;
                spent.add(&self.counted(redis)?.since(&before), &rest);
            }
        }
        self.pass("draining", Duration::from_millis(200))?;
        report.bus = Some(Bus {
            routing: routing.to_owned(),
            nodes: self.servers.len(),
            idle_commands_per_second: rest.publishes + rest.others,
            near: near.cost(),
            far: far.cost(),
        });
        Ok(())
    }

    /// Messages of one kind, until all of them have arrived and are acknowledged.
    fn say(&mut self, command: Command, time: Duration) -> Result<(), String> {
        let start = self.control.now();
        self.control.measure(start, start + time.as_nanos() as u64);
        self.control.give(command);
        self.pass("measuring", time)?;
        self.drain()?;
        self.pass("draining", Duration::from_millis(200))
    }

    fn counted(&self, redis: &Redis) -> Result<Counted, String> {
        let mut nodes = BTreeMap::new();
        for server in &self.servers {
            let page = server.page("/metrics")?;
            for name in [ANSWERS, RECEIVED, USELESS] {
                *nodes.entry(name).or_default() += family(&page, name);
            }
        }
        Ok(Counted { at: Instant::now(), calls: redis.calls()?, sent: self.control.tally().sent, nodes })
    }
}

/// What was counted in some time; what was asked of Redis per second.
struct Span {
    seconds: f64,
    sent: u64,
    publishes: f64,
    others: f64,
    nodes: BTreeMap<&'static str, f64>,
}

impl Counted {
    fn since(&self, earlier: &Counted) -> Span {
        let seconds = (self.at - earlier.at).as_secs_f64();
        let calls = self.calls.since(&earlier.calls);
        let nodes = self.nodes.iter().map(|(name, value)| (*name, value - earlier.nodes[name])).collect();
        Span {
            seconds,
            sent: self.sent - earlier.sent,
            publishes: calls.publishes() as f64 / seconds,
            others: calls.others() as f64 / seconds,
            nodes,
        }
    }
}

/// What the messages of one kind have cost so far.
#[derive(Default)]
struct Spent {
    sent: u64,
    publishes: f64,
    others: f64,
    nodes: BTreeMap<&'static str, f64>,
}

impl Spent {
    fn add(&mut self, span: &Span, rest: &Span) {
        self.sent += span.sent;
        self.publishes += (span.publishes - rest.publishes) * span.seconds;
        self.others += (span.others - rest.others) * span.seconds;
        for (name, value) in &span.nodes {
            *self.nodes.entry(name).or_default() += value;
        }
    }

    fn cost(&self) -> Cost {
        let per_message = |count: f64| (count / self.sent.max(1) as f64).max(0.0);
        let node = |name: &str| self.nodes.get(name).copied().unwrap_or(0.0);
        let (answers, received) = (node(ANSWERS), node(RECEIVED));
        Cost {
            messages: self.sent,
            publishes: per_message(self.publishes - answers),
            acknowledgements: per_message(answers),
            others: per_message(self.others),
            received: per_message(received),
            useless: (received > 0.0).then(|| node(USELESS) / received),
        }
    }
}

impl Bus {
    /// What must be so whatever the machine.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                failures.push(format!("{}: {what}", self.routing));
            }
        };
        if self.routing != "broadcast" {
            let Cost { publishes, others, .. } = self.far;
            must(publishes <= 1.0 + NOISE, format!("{publishes:.2} publishes for a message to one other node"));
            must(others <= NOISE, format!("{others:.2} look-ups per message with all routes known"));
            let near = self.near.publishes + self.near.others;
            must(near <= NOISE, format!("{near:.2} commands for a message that stays on its node"));
            must(self.far.useless.unwrap_or(0.0) <= NOISE, "messages went to nodes that had nobody".into());
        }
        must(self.far.publishes > 1.0 - NOISE, "messages to another node without a publish".into());
        failures
    }
}

/// All routings side by side.
pub(crate) fn comparison(reports: &[Report]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<10} {:>19} {:>19} {:>19} {:>10} {:>6} {:>7} {:>9} {:>8}",
        "routing",
        "same node p50/p99",
        "another p50/p99",
        "extra p50/p99",
        "publishes",
        "acks",
        "others",
        "received",
        "useless"
    );
    for report in reports {
        let (Some(bus), Some(near), Some(far)) =
            (&report.bus, report.latency.get(Flow::Pair.name()), report.latency.get(Flow::Hop.name()))
        else {
            continue;
        };
        let pair = |p50: f64, p99: f64| format!("{p50:.3} / {p99:.3} ms");
        let of = |p: &Percentiles| pair(p.p50_ms, p.p99_ms);
        let extra = pair(far.p50_ms - near.p50_ms, far.p99_ms - near.p99_ms);
        let useless = bus.far.useless.map_or("?".into(), |share| format!("{:.0} %", share * 100.0));
        let Cost { publishes, acknowledgements, others, received, .. } = bus.far;
        let _ = writeln!(
            out,
            "{:<10} {:>19} {:>19} {extra:>19} {publishes:>10.2} {acknowledgements:>6.2} {others:>7.2} {received:>9.2} {useless:>8}",
            bus.routing,
            of(near),
            of(far),
        );
    }
    let _ = writeln!(
        out,
        "publishes, acks and other Redis commands, and messages received by nodes: per message to another node"
    );
    out
}

/// Lines of the report.
impl Bus {
    pub(crate) fn rows(&self) -> [(String, String); 3] {
        let cost = |cost: &Cost| {
            let useless =
                cost.useless.map_or(String::new(), |share| format!(", {:.1} % of them useless", share * 100.0));
            format!(
                "{:.2} publishes, {:.2} acknowledgements, {:.2} other commands per message ({} messages), {:.2} received by nodes{useless}",
                cost.publishes, cost.acknowledgements, cost.others, cost.messages, cost.received
            )
        };
        [
            (
                "cluster".into(),
                format!(
                    "{} nodes, {}: {:.1} Redis commands/s at rest",
                    self.nodes, self.routing, self.idle_commands_per_second
                ),
            ),
            ("Redis, same node".into(), cost(&self.near)),
            ("Redis, another node".into(), cost(&self.far)),
        ]
    }
}

/// The sum of a family's samples in the text that Prometheus reads.
fn family(page: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    page.lines().filter_map(value).sum()
}

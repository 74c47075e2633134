//! Redis loses everything, and comes back: how long until it has a row of every user again, and what messages to them take meanwhile.
//!
//! One node holds everybody, so that nothing but its rows goes to Redis. Rows are counted by their keys, all of them: Redis says how many keys it
//! has, and once there are enough, which of the users' are among them.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cluster::wait_until_ready;
use crate::control::Command;
use crate::options::Options;
use crate::plan::Plan;
use crate::redis::Redis;
use crate::report::Report;
use crate::run::{Course, drive};
use crate::server::Server;
use crate::stats::{Percentiles, SPANS};

/// How long it may take at most.
const WITHIN: Duration = Duration::from_secs(60);
/// How often Redis is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What the report tells apart: before and during each loss.
const SPANS_PER_LOSS: usize = 2;

const _: () = assert!(2 * SPANS_PER_LOSS == SPANS);

/// How everything is lost.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Loss {
    /// FLUSHALL: the connections stay.
    Flush,
    /// The server is killed and starts empty.
    Restart,
}

/// One loss, and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Refill {
    loss: Loss,
    users: usize,
    /// From FLUSHALL, or from when the server takes commands again, until every user has a row.
    seconds: f64,
    /// Direct messages that were to be sent before it, and from the loss until every user had a row.
    before: Option<Percentiles>,
    during: Option<Percentiles>,
}

/// Runs it: a node, everybody connected to it, a flush, a restart.
pub(crate) fn run(options: &Options, plan: &Plan) -> Result<Report, String> {
    if options.url.is_some() {
        return Err("register starts its own node: --url is not for it".into());
    }
    let mut redis = Redis::start()?;
    let mut settings =
        vec!["node.id=node-0".into(), "cluster.routing=registry".into(), format!("redis.url={}", redis.url())];
    // What the command line says comes last.
    settings.extend(options.settings.iter().cloned());
    let servers = vec![Server::start(options, plan.total(), "node-0", &settings)?];
    wait_until_ready(&servers)?;
    drive(options, plan, servers, Vec::new(), |course, report| course.register(report, &mut redis))
}

impl Course<'_> {
    fn register(&mut self, report: &mut Report, redis: &mut Redis) -> Result<(), String> {
        self.connect(report)?;
        let keys: Vec<String> =
            (0..self.plan.total()).map(|index| format!("ws:loc:{}", self.control.user(index))).collect();
        self.until_registered(redis, &keys)?;
        let start = self.control.now() + self.plan.warmup.as_nanos() as u64;
        self.control.measure(start, u64::MAX);
        self.control.give(Command::Run);
        self.pass("warm-up", self.plan.warmup)?;
        for (number, loss) in [Loss::Flush, Loss::Restart].into_iter().enumerate() {
            let (before, during) = (number * SPANS_PER_LOSS, number * SPANS_PER_LOSS + 1);
            self.control.begin_span(before);
            self.pass("measuring", self.plan.measure)?;
            self.control.end_span(before);
            self.control.begin_span(during);
            let lost = match loss {
                Loss::Flush => {
                    let asked = Instant::now();
                    redis.flush()?;
                    asked
                }
                Loss::Restart => redis.restart()?,
            };
            self.until_registered(redis, &keys)?;
            let seconds = lost.elapsed().as_secs_f64();
            report.refills.push(Refill { loss, users: keys.len(), seconds, before: None, during: None });
            self.control.end_span(during);
            self.pass("settling", self.plan.warmup)?;
        }
        self.drain()?;
        self.pass("draining", Duration::from_millis(200))
    }

    /// Waits until Redis has all these keys.
    fn until_registered(&mut self, redis: &Redis, keys: &[String]) -> Result<(), String> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let there = redis.existing(keys)?;
            if there == keys.len() as u64 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("after {} s {there} of {} users have a row", WITHIN.as_secs(), keys.len()));
            }
            self.pass("registering", LOOK_EVERY)?;
        }
    }
}

impl Refill {
    /// Takes in what the workers have measured; `number` is its place among the losses.
    pub(crate) fn complete(&mut self, number: usize, spans: &[hdrhistogram::Histogram<u64>]) {
        let of = |span: usize| spans.get(number * SPANS_PER_LOSS + span).and_then(Percentiles::of);
        (self.before, self.during) = (of(0), of(1));
    }

    /// Lines of the report.
    pub(crate) fn rows(&self) -> [(String, String); 2] {
        let name = match self.loss {
            Loss::Flush => "flush",
            Loss::Restart => "restart",
        };
        let both = |p: &Option<Percentiles>| {
            p.as_ref()
                .map_or("nothing".into(), |p| format!("p50 {:.3} ms, p99 {:.3} ({})", p.p50_ms, p.p99_ms, p.count))
        };
        let times = match (&self.before, &self.during) {
            (Some(before), Some(during)) => format!(": {:.2} times the p99", during.p99_ms / before.p99_ms),
            _ => String::new(),
        };
        [
            (name.into(), format!("{} users registered again after {:.2} s", self.users, self.seconds)),
            (
                format!("{name}, messages"),
                format!("before {}, during {}{times}", both(&self.before), both(&self.during)),
            ),
        ]
    }
}

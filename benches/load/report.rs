//! The report: as a table for people, as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde::Serialize;

use crate::cluster::Bus;
use crate::content::Flow;
use crate::options::{Mode, Options};
use crate::plan::Plan;
use crate::server::Server;
use crate::stats::{Outcome, Percentiles, Tally, index};

/// The measured span.
#[derive(Debug, Serialize)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) delivered_per_second: f64,
    pub(crate) server_cpu_s: f64,
    pub(crate) server_cores: f64,
    pub(crate) server_cpu_s_per_million: Option<f64>,
    pub(crate) client_cores: f64,
}

/// Bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss_empty: u64,
    pub(crate) rss: u64,
    pub(crate) rss_per_connection: u64,
    /// Slab growth per connection, the generator's end included.
    pub(crate) kernel_both_ends: u64,
    /// The server's end of it.
    pub(crate) kernel_per_connection: Option<u64>,
    pub(crate) socket_buffers: u64,
}

/// One wave of a storm.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    /// Until everybody was through.
    pub(crate) seconds: f64,
    pub(crate) server_cpu_s: f64,
    pub(crate) rss: u64,
    /// After everybody was cut.
    pub(crate) rss_after: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    mode: Mode,
    machine: String,
    driver: Option<String>,
    shards: Option<u64>,
    connections: u32,
    rooms: Option<u32>,
    size: usize,
    workers: u32,
    spin: bool,
    connect: Vec<Percentiles>,
    pub(crate) memory: Option<Memory>,
    pub(crate) window: Option<Window>,
    pub(crate) latency: BTreeMap<&'static str, Percentiles>,
    lag: Option<Percentiles>,
    pub(crate) bus: Option<Bus>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) rss_end: u64,
    pub(crate) rss_peak: u64,
    lost: u64,
    totals: Tally,
    closes: BTreeMap<String, u64>,
    notes: Vec<String>,
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(options: &Options, plan: &Plan, server: &Server) -> Report {
        Report {
            mode: options.mode,
            machine: machine(),
            driver: server.driver.clone(),
            shards: server.shards,
            connections: plan.connections,
            rooms: plan.rooms.as_ref().map(|rooms| rooms.count),
            size: plan.size,
            workers: plan.workers,
            spin: plan.spin,
            connect: Vec::new(),
            memory: None,
            window: None,
            latency: BTreeMap::new(),
            lag: None,
            bus: None,
            rounds: Vec::new(),
            rss_end: 0,
            rss_peak: 0,
            lost: 0,
            totals: Tally::default(),
            closes: BTreeMap::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes in what the workers brought, and judges it.
    pub(crate) fn complete(&mut self, plan: &Plan, outcome: Outcome) {
        let tally = outcome.tally;
        self.connect = outcome.connect.iter().filter_map(Percentiles::of).collect();
        self.latency = Flow::ALL
            .into_iter()
            .filter_map(|flow| Some((flow.name(), Percentiles::of(&outcome.latency[index(flow)])?)))
            .collect();
        self.lag = Percentiles::of(&outcome.lag);
        self.lost = tally.outstanding();
        self.totals = tally;
        self.closes = outcome.closes;
        self.notes = outcome.notes;
        let wrong = [
            ("lost", self.lost),
            ("more than expected", tally.delivered.saturating_sub(tally.expected)),
            ("duplicated", tally.duplicated),
            ("out of order", tally.out_of_order),
            ("misrouted", tally.misrouted),
            ("corrupt", tally.corrupt),
            ("errors of the server", tally.errors),
            ("not sent, because the server did not read", tally.unsent),
            ("disconnected", tally.disconnected),
            ("connects given up", tally.gave_up),
        ];
        self.failures
            .extend(wrong.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")));
        self.failures.extend(self.bus.iter().flat_map(Bus::failures));
        let nothing_came = self.window.as_ref().is_some_and(|window| window.delivered == 0) || tally.delivered == 0;
        let something_was_sent =
            plan.echo.is_some() || plan.pairs.is_some() || plan.rooms.as_ref().is_some_and(|r| r.pace.is_some());
        if nothing_came && something_was_sent {
            self.failures.push("nothing was delivered".into());
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    pub(crate) fn json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["passed"] = self.passed().into();
        value.to_string()
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, text: String| {
            let _ = writeln!(out, "{name:<22} {text}");
        };
        let rooms = self.rooms.map_or(String::new(), |rooms| format!(" in {rooms} rooms"));
        let driver = self.driver.as_deref().unwrap_or("given by --url");
        let shards = self.shards.map_or(String::new(), |shards| format!(", {shards} shards"));
        row("mode", format!("{}: {} connections{rooms}, {} B", self.mode.name(), self.connections, self.size));
        row("server", format!("{driver}{shards}"));
        row("machine", self.machine.clone());
        for (round, connect) in self.connect.iter().enumerate() {
            let name = if self.connect.len() > 1 { format!("connect, round {round}") } else { "connect".into() };
            row(&name, percentiles(connect));
        }
        for (number, round) in self.rounds.iter().enumerate() {
            row(
                &format!("round {number}"),
                format!(
                    "all through in {:.2} s, server CPU {:.2} s, RSS {} with all, {} after the cut",
                    round.seconds,
                    round.server_cpu_s,
                    megabytes(round.rss),
                    megabytes(round.rss_after)
                ),
            );
        }
        if let Some(memory) = &self.memory {
            row(
                "server RSS",
                format!(
                    "{} with all, {} before, {} at the end, {} at most: {} B per connection",
                    megabytes(memory.rss),
                    megabytes(memory.rss_empty),
                    megabytes(self.rss_end),
                    megabytes(self.rss_peak),
                    memory.rss_per_connection
                ),
            );
            if let Some(kernel) = memory.kernel_per_connection {
                let both = memory.kernel_both_ends;
                row("kernel memory", format!("{kernel} B per connection ({both} B with the generator's end)"));
            }
        }
        if let Some(window) = &self.window {
            row(
                "delivered",
                format!(
                    "{:.0}/s, {} in {:.1} s, {} sent",
                    window.delivered_per_second, window.delivered, window.seconds, window.sent
                ),
            );
            let per_million = window
                .server_cpu_s_per_million
                .map_or(String::new(), |per| format!(", {per:.3} s per million deliveries"));
            row("server CPU", format!("{:.1} % of a core{per_million}", window.server_cores * 100.0));
            let busy = window.client_cores / f64::from(self.workers);
            let warning = match busy > 0.9 {
                true if self.spin => " (it does not sleep)",
                true => " (saturated: the rate is the generator's)",
                false => "",
            };
            row("generator CPU", format!("{:.1} % of a core{warning}", window.client_cores * 100.0));
        }
        for (flow, latency) in &self.latency {
            row(&format!("latency, {flow}"), percentiles(latency));
        }
        if let Some(lag) = &self.lag {
            row("generator lag", percentiles(lag));
        }
        for (name, text) in self.bus.iter().flat_map(Bus::rows) {
            row(&name, text);
        }
        let t = &self.totals;
        row(
            "checked",
            format!(
                "{} expected, {} lost, {} duplicated, {} out of order, {} misrouted, {} corrupt",
                t.expected, self.lost, t.duplicated, t.out_of_order, t.misrouted, t.corrupt
            ),
        );
        row(
            "connections",
            format!(
                "{} disconnected, {} refused and retried, {} given up, {} errors, {} pings answered",
                t.disconnected, t.refused, t.gave_up, t.errors, t.pings
            ),
        );
        if self.mode == Mode::Slow {
            row("slow readers", format!("{} closed by the server, {} messages in gaps", t.slow_closed, t.gaps));
        }
        if t.churned > 0 {
            row("came and went", format!("{} times", t.churned));
        }
        for (how, count) in self.closes.iter().take(10) {
            row("ended", format!("{count} × {how}"));
        }
        for note in &self.notes {
            row("note", note.clone());
        }
        for failure in &self.failures {
            row("FAILED", failure.clone());
        }
        out
    }
}

fn percentiles(p: &Percentiles) -> String {
    format!(
        "p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3} ({})",
        p.p50_ms, p.p90_ms, p.p99_ms, p.p999_ms, p.max_ms, p.count
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}

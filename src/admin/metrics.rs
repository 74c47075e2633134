//! `/metrics`: what the shards published with their last tick, fed through the `metrics` facade when somebody asks. It costs the shards
//! nothing: a scrape reads atomics.

use std::collections::BTreeMap;

use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::hooks::Tally;
use super::process::Process;
use super::text::Scrape;
use crate::io::counters::Distributions;
use crate::io::shards::Shared;
use crate::protocol::hook::Hook;
use crate::shard;
use crate::shard::figures::{Figure, Spread, layout};

/// Buckets of a histogram that are shown.
const SHOWN_BOUNDS: usize = 25;

/// What of the node itself is shown.
#[derive(Debug)]
pub(super) struct NodeFigures<'a> {
    pub(super) version: &'static str,
    pub(super) node_id: &'a str,
    pub(super) driver: &'static str,
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) started_unix_ms: u64,
    /// `limits.connections`
    pub(super) connections_max: u64,
    pub(super) open_files_max: u64,
    pub(super) admin_connections: usize,
    /// Requests on the admin listener, by route and status.
    pub(super) requests: &'a BTreeMap<(&'static str, u16), u64>,
    pub(super) probe_ms: &'a [u64],
    pub(super) process: Process,
    pub(super) hooks: &'a Tally,
}

/// The text.
pub(super) fn render(node: &NodeFigures<'_>, shared: &Shared) -> String {
    let scrape = Scrape::default();
    metrics::with_local_recorder(&scrape, || {
        feed_node(node, shared);
        feed_process(node);
        feed_hooks(node, shared);
        feed_questions(node);
        feed_shards(shared);
    });
    feed_answer_times(&scrape, node);
    feed_spreads(&scrape, shared);
    scrape.render()
}

fn feed_node(node: &NodeFigures<'_>, shared: &Shared) {
    describe_gauge!("ringgate_build_info", "Always 1; the labels say what runs.");
    let labels =
        [("version", node.version.to_owned()), ("driver", node.driver.to_owned()), ("node", node.node_id.to_owned())];
    gauge!("ringgate_build_info", &labels).set(1.0);
    describe_gauge!("ringgate_ready", "Whether /readyz says 200.");
    gauge!("ringgate_ready").set(f64::from(u8::from(node.ready)));
    describe_gauge!("ringgate_draining", "Whether the node drains.");
    gauge!("ringgate_draining").set(f64::from(u8::from(node.draining)));
    describe_gauge!("ringgate_connections_reserved", "Connections of the process, as counted against the limit.");
    gauge!("ringgate_connections_reserved").set(shared.ceiling.used() as f64);
    describe_gauge!("ringgate_connections_limit", "The bound limits.connections; 0 is none.");
    gauge!("ringgate_connections_limit").set(node.connections_max as f64);
    describe_gauge!("ringgate_admin_connections", "Connections of the admin listener.");
    gauge!("ringgate_admin_connections").set(node.admin_connections as f64);
    describe_counter!("ringgate_admin_requests_total", "Requests on the admin listener, by route and status.");
    for ((route, status), count) in node.requests {
        counter!("ringgate_admin_requests_total", "route" => *route, "status" => status.to_string()).absolute(*count);
    }
    describe_gauge!(
        "ringgate_shard_probe_seconds",
        "How long the shard took to answer a probe through its queue and loop."
    );
    for (shard, ms) in node.probe_ms.iter().enumerate() {
        gauge!("ringgate_shard_probe_seconds", "shard" => shard.to_string()).set(*ms as f64 / 1000.0);
    }
}

fn feed_hooks(node: &NodeFigures<'_>, shared: &Shared) {
    describe_counter!("ringgate_hook_events_sent_total", "Events that a service has taken.");
    counter!("ringgate_hook_events_sent_total").absolute(node.hooks.sent.get());
    describe_counter!("ringgate_hook_events_lost_total", "Events that no service was told of, by reason.");
    let full = shared.statuses.iter().map(|status| status.counters().happenings_lost).sum();
    counter!("ringgate_hook_events_lost_total", "reason" => "queue_full").absolute(full);
    counter!("ringgate_hook_events_lost_total", "reason" => "given_up").absolute(node.hooks.given_up.get());
    describe_counter!("ringgate_hook_requests_total", "Requests to services, by result.");
    counter!("ringgate_hook_requests_total", "result" => "ok").absolute(node.hooks.ok.get());
    counter!("ringgate_hook_requests_total", "result" => "failed").absolute(node.hooks.failed.get());
    describe_gauge!("ringgate_hook_events_waiting", "Events that wait to be sent.");
    gauge!("ringgate_hook_events_waiting").set(shared.happenings_waiting() as f64);
}

fn feed_questions(node: &NodeFigures<'_>) {
    describe_counter!("ringgate_hook_questions_total", "Questions to services about clients and messages, by result.");
    describe_gauge!("ringgate_hook_questions_waiting", "Questions that are not answered yet.");
    for (hook, questions) in Hook::ALL.iter().zip(&node.hooks.questions) {
        for (result, count) in questions.results() {
            counter!("ringgate_hook_questions_total", "hook" => hook.name(), "result" => result).absolute(count);
        }
        gauge!("ringgate_hook_questions_waiting", "hook" => hook.name()).set(questions.under_way() as f64);
    }
}

fn feed_answer_times(scrape: &Scrape, node: &NodeFigures<'_>) {
    const SHOWN: Shown = Shown {
        name: "ringgate_hook_answer_seconds",
        help: "How long a question to a service was under way, its wait for a connection included.",
        scale: 1e-6,
    };
    for (hook, questions) in Hook::ALL.iter().zip(&node.hooks.questions) {
        let mut row = Vec::with_capacity(Spread::LEN);
        Spread::push(&questions.took_us.borrow(), &mut row);
        feed_spread(scrape, &SHOWN, ("hook", hook.name()), &row);
    }
}

fn feed_process(node: &NodeFigures<'_>) {
    let process = &node.process;
    describe_gauge!("process_resident_memory_bytes", "Resident memory.");
    gauge!("process_resident_memory_bytes").set(process.resident_bytes as f64);
    describe_gauge!("process_virtual_memory_bytes", "Virtual memory.");
    gauge!("process_virtual_memory_bytes").set(process.virtual_bytes as f64);
    if process.descriptors > 0 {
        describe_gauge!("process_open_fds", "Open descriptors, over all descriptor tables.");
        gauge!("process_open_fds").set(process.descriptors as f64);
    }
    describe_gauge!("process_max_fds", "RLIMIT_NOFILE: the most that one descriptor table holds.");
    gauge!("process_max_fds").set(node.open_files_max as f64);
    describe_gauge!("process_start_time_seconds", "When it started, in Unix time.");
    gauge!("process_start_time_seconds").set(node.started_unix_ms as f64 / 1000.0);
    describe_gauge!("process_threads", "Threads.");
    gauge!("process_threads").set(process.threads as f64);
    // The facade's counters are whole numbers: this one is described as what it is, and set as what it can be set as.
    describe_counter!("process_cpu_seconds_total", "Processor time, user and system.");
    gauge!("process_cpu_seconds_total").set(process.cpu_seconds);
}

fn feed_shards(shared: &Shared) {
    let layout = layout();
    let mut by_label: BTreeMap<(&str, [&str; 2]), u64> = BTreeMap::new();
    for (shard, status) in shared.statuses.iter().enumerate() {
        let shard = shard.to_string();
        for (figure, value) in layout.iter().zip(status.figures()) {
            match figure.group {
                "held" | "gauges" => feed_gauge(figure, &shard, value),
                "counters" => feed_counter(figure, &shard, value),
                "unicasts" => {
                    let name = format!("ringgate_unicasts_{}_total", figure.names[0]);
                    describe_counter!(name.clone(), figure.help);
                    counter!(name, "shard" => shard.clone()).absolute(value);
                }
                _ => *by_label.entry((figure.group, figure.names)).or_default() += value,
            }
        }
        for (name, help, value) in status.counters().described() {
            let name = format!("ringgate_io_{name}_total");
            describe_counter!(name.clone(), help);
            counter!(name, "shard" => shard.clone()).absolute(value);
        }
    }
    for figure in &layout {
        let Some(value) = by_label.remove(&(figure.group, figure.names)) else { continue };
        let (name, keys) = labelled(figure.group);
        describe_counter!(name, figure.help);
        let labels: Vec<_> = keys.iter().copied().zip(figure.names).collect();
        counter!(name, &labels).absolute(value);
    }
}

fn feed_gauge(figure: &Figure, shard: &str, value: u64) {
    let (name, value) = match figure.names[0] {
        "rooms" => ("ringgate_shard_rooms".to_owned(), value as f64),
        "channels" => ("ringgate_shard_channels".to_owned(), value as f64),
        "home_rooms" => ("ringgate_rooms".to_owned(), value as f64),
        "home_channels" => ("ringgate_channels".to_owned(), value as f64),
        "outgoing" => ("ringgate_mesh_envelopes_waiting".to_owned(), value as f64),
        "outstanding" => ("ringgate_mesh_envelopes_outstanding".to_owned(), value as f64),
        "presence" => ("ringgate_presence_questions".to_owned(), value as f64),
        "commands" => ("ringgate_api_commands".to_owned(), value as f64),
        "comings" => ("ringgate_rooms_asking".to_owned(), value as f64),
        "connections" | "users" | "sessions" => (format!("ringgate_{}", figure.names[0]), value as f64),
        "connecting" | "authenticating" | "moving" | "echoing" | "closing" | "throttled" | "paused_by_pressure"
        | "asking" => (format!("ringgate_connections_{}", figure.names[0]), value as f64),
        "oldest_queued_ms" => ("ringgate_outbox_oldest_seconds".to_owned(), value as f64 / 1000.0),
        "outboxes" => ("ringgate_outboxes".to_owned(), value as f64),
        "pressure" => ("ringgate_pressure_level".to_owned(), value as f64),
        other => match other.strip_suffix("_bytes") {
            Some(of) => (format!("ringgate_memory_{of}_bytes"), value as f64),
            None => (format!("ringgate_{other}"), value as f64),
        },
    };
    let help = figure.help.replace("Milliseconds for which", "How long");
    describe_gauge!(name.clone(), help);
    gauge!(name, "shard" => shard.to_owned()).set(value);
}

fn feed_counter(figure: &Figure, shard: &str, value: u64) {
    let name = match figure.names[0] {
        name @ ("accepted" | "upgraded" | "authenticated" | "handed_over" | "adopted") => {
            format!("ringgate_connections_{name}_total")
        }
        "bytes_received" => "ringgate_received_bytes_total".to_owned(),
        "bytes_sent" => "ringgate_sent_bytes_total".to_owned(),
        "conflated" => "ringgate_messages_conflated_total".to_owned(),
        "rate_limited" => "ringgate_messages_rate_limited_total".to_owned(),
        other => format!("ringgate_{other}_total"),
    };
    describe_counter!(name.clone(), figure.help);
    counter!(name, "shard" => shard.to_owned()).absolute(value);
}

/// The family of a group that is counted by labels, and their names.
fn labelled(group: &'static str) -> (&'static str, &'static [&'static str]) {
    match group {
        "closes" => ("ringgate_connections_closed_total", &["reason"]),
        "dropped" => ("ringgate_messages_dropped_total", &["reason", "class"]),
        "refusals" => ("ringgate_upgrades_refused_total", &["reason"]),
        "unavailable" => ("ringgate_unicasts_unavailable_total", &["cause"]),
        "pressure_levels" => ("ringgate_pressure_reached_total", &["level"]),
        other => (other, &["name"]),
    }
}

/// What was counted in buckets does not pass the facade, which would want every value again.
fn feed_spreads(scrape: &Scrape, shared: &Shared) {
    const OF_SHARD: [Shown; shard::counters::Distributions::COUNT] = [
        Shown {
            name: "ringgate_delivery_seconds",
            help: "From reading a client's message to handing its last byte to the kernel for a receiver.",
            scale: 1e-6,
        },
        Shown { name: "ringgate_handshake_seconds", help: "From accepting a connection to its 101.", scale: 1e-6 },
        Shown { name: "ringgate_send_frames", help: "Frames that one send completed.", scale: 1.0 },
    ];
    const OF_DRIVER: [Shown; Distributions::COUNT] = [
        Shown {
            name: "ringgate_loop_turn_seconds",
            help: "How long a turn of the shard's loop took in which there was something to do.",
            scale: 1e-6,
        },
        Shown {
            name: "ringgate_flush_batch_connections",
            help: "Connections written to by one batch of sends.",
            scale: 1.0,
        },
    ];
    let figures = layout().len();
    for (shard, status) in shared.statuses.iter().enumerate() {
        let row: Vec<u64> = status.figures().skip(figures).chain(status.spreads()).collect();
        for (shown, row) in OF_SHARD.iter().chain(&OF_DRIVER).zip(row.chunks_exact(Spread::LEN)) {
            feed_spread(scrape, shown, ("shard", &shard.to_string()), row);
        }
    }
}

/// How a distribution is shown.
struct Shown {
    name: &'static str,
    help: &'static str,
    scale: f64,
}

fn feed_spread(scrape: &Scrape, shown: &Shown, label: (&'static str, &str), row: &[u64]) {
    let (Some(counts), Some(sum)) = (row.get(..Spread::BOUNDS), row.get(Spread::BOUNDS)) else { return };
    let [bounded @ .., all] = counts else { return };
    // From 8 to 134 seconds, where these are microseconds: what is beyond is in the last one.
    let bounds = bounded.iter().enumerate().take(SHOWN_BOUNDS);
    // Of a time, its microsecond may have been half over.
    let whole = u64::from(shown.scale < 1.0);
    let buckets = bounds.map(|(index, below)| ((Spread::bound(index) + whole) as f64 * shown.scale, *below));
    scrape.buckets(shown.name, shown.help, label, buckets, *all, *sum as f64 * shown.scale);
}

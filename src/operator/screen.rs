//! What `ringgate top` shows: answers of the server API to text.

use std::fmt::Write as _;

use serde_json::Value;

/// Remembers the last answer, for the rates.
#[derive(Debug, Default)]
pub(super) struct Screen {
    before: Option<Totals>,
    rates: Option<Totals>,
}

/// What is counted, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Totals {
    at_ms: f64,
    received: f64,
    pushed: f64,
    dropped: f64,
    bytes_in: f64,
    bytes_out: f64,
    opened: f64,
    closed: f64,
    cpu: f64,
}

impl Screen {
    /// Takes an answer; whether there are rates now.
    pub(super) fn update(&mut self, info: &Value) -> bool {
        let now = Totals::of(info);
        self.rates = self.before.map(|before| now.per_second_since(before));
        self.before = Some(now);
        self.rates.is_some()
    }

    /// The text, cut to the width of the terminal.
    pub(super) fn render(&self, info: &Value, worst: &Value, by: &str, columns: usize) -> String {
        let mut out = String::new();
        let rates = self.rates.unwrap_or_default();
        let node = &info["nodes"][0];
        let state = match (node["draining"].as_bool(), node["ready"].as_bool()) {
            (Some(true), _) => "draining",
            (_, Some(true)) => "ready",
            _ => "not ready",
        };
        let uptime = node["uptime_s"].as_u64().unwrap_or(0);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "ringgate {}  {}  {state}  {}  {} shards  routing {}  up {}",
            text(&node["version"]),
            text(&info["node_id"]),
            text(&node["driver"]),
            array(&info["shards"]).len(),
            text(&info["routing"]),
            age(uptime * 1000),
        );
        let _ = writeln!(
            out,
            "connections {}   users {}   rooms {}   channels {}   behind {}   memory {}   descriptors {}   cpu {:.0} %",
            number(&info["connections"]),
            number(&info["users"]),
            number(&info["rooms"]),
            number(&info["channels"]),
            sum(info, "gauges", "throttled"),
            bytes(node["memory_bytes"].as_f64().unwrap_or(0.0)),
            number(&node["descriptors"]),
            rates.cpu * 100.0,
        );
        let _ = writeln!(
            out,
            "per second: in {:.0} msg {}   out {:.0} msg {}   dropped {:.0}   opened {:.0}   closed {:.0}",
            rates.received,
            bytes(rates.bytes_in),
            rates.pushed,
            bytes(rates.bytes_out),
            rates.dropped,
            rates.opened,
            rates.closed,
        );
        shards(&mut out, info);
        connections(&mut out, worst, by);
        rooms(&mut out, info);
        out.lines().map(|line| cut(line, columns) + "\n").collect()
    }
}

/// One line of `ringgate trace`.
pub(super) fn traced(event: &Value) -> String {
    let us = number(&event["timestamp_us"]);
    let day_s = us / 1_000_000 % 86_400;
    let arrow = match event["what"].as_str() {
        Some("in") => "->",
        Some("out") => "<-",
        Some("dropped") => "x-",
        other => other.unwrap_or("?"),
    };
    let bytes = number(&event["bytes"]);
    let mut line = format!(
        "{:02}:{:02}:{:02}.{:06} {} {arrow:<10}",
        day_s / 3600,
        day_s / 60 % 60,
        day_s % 60,
        us % 1_000_000,
        text(&event["connection"]),
    );
    if bytes > 0 {
        let _ = write!(line, " {:<14} {bytes:>7} B", text(&event["type"]));
    }
    if let Some(class) = event["class"].as_str() {
        let _ = write!(line, " {class}");
    }
    if let Some(content) = event["content"].as_str() {
        let _ = write!(line, "  {content}");
    }
    cut(&line, usize::MAX).trim_end().to_owned()
}

fn shards(out: &mut String, info: &Value) {
    let _ = writeln!(
        out,
        "\n{:>5} {:>11} {:>9} {:>9} {:>12} {:>12} {:>7} {:>10} {:>8}",
        "SHARD", "CONNECTIONS", "USERS", "ROOMS", "IN", "OUT", "BEHIND", "QUEUED", "PROBE"
    );
    for shard in array(&info["shards"]) {
        let index = shard["shard"].as_u64().unwrap_or(0) as usize;
        let _ = writeln!(
            out,
            "{:>5} {:>11} {:>9} {:>9} {:>12} {:>12} {:>7} {:>10} {:>5} ms",
            index,
            number(&shard["held"]["connections"]),
            number(&shard["held"]["users"]),
            number(&shard["held"]["home_rooms"]),
            number(&shard["counters"]["messages_received"]),
            number(&shard["counters"]["messages_pushed"]),
            number(&shard["gauges"]["throttled"]),
            bytes(shard["gauges"]["queued_bytes"].as_f64().unwrap_or(0.0)),
            number(&info["probe_ms"][index]),
        );
    }
}

fn connections(out: &mut String, worst: &Value, by: &str) {
    let matched = number(&worst["matched"]);
    let _ = writeln!(
        out,
        "\n{:<24} {:<14} {:<22} {:>6} {:>10} {:>8} {:>8} {:>9} {:>8}   of {matched}, by {by}",
        "USER", "STATE", "ADDRESS", "AGE", "OUTBOX", "OLDEST", "DROPPED", "RTT", "IDLE"
    );
    for info in array(&worst["connections"]) {
        let behind = if info["throttled"].as_bool() == Some(true) { ", behind" } else { "" };
        let rtt = info["rtt_us"].as_f64().map_or("-".to_owned(), |us| format!("{:.1} ms", us / 1000.0));
        let _ = writeln!(
            out,
            "{:<24} {:<14} {:<22} {:>6} {:>10} {:>8} {:>8} {:>9} {:>8}",
            cut(text(&info["user"]), 24),
            format!("{}{behind}", text(&info["state"])),
            text(&info["address"]),
            age(info["age_ms"].as_u64().unwrap_or(0)),
            bytes(info["outbox_bytes"].as_f64().unwrap_or(0.0)),
            age(info["oldest_ms"].as_u64().unwrap_or(0)),
            number(&info["dropped"]),
            rtt,
            age(info["idle_ms"].as_u64().unwrap_or(0)),
        );
    }
}

fn rooms(out: &mut String, info: &Value) {
    let mut rooms: Vec<_> = array(&info["shards"]).iter().flat_map(|shard| array(&shard["rooms"])).collect();
    rooms.sort_by_key(|room| std::cmp::Reverse(room["connections"].as_u64()));
    let _ = writeln!(out, "\n{:<40} {:>9} {:>11}", "ROOM", "USERS", "CONNECTIONS");
    for room in rooms.iter().take(10) {
        let name = cut(text(&room["room"]), 40);
        let _ = writeln!(out, "{name:<40} {:>9} {:>11}", number(&room["users"]), number(&room["connections"]));
    }
}

impl Totals {
    fn of(info: &Value) -> Self {
        let counter = |name: &str| sum(info, "counters", name) as f64;
        Totals {
            at_ms: info["now_ms"].as_f64().unwrap_or(0.0),
            received: counter("messages_received"),
            pushed: counter("messages_pushed"),
            dropped: sum_all(info, "dropped") as f64,
            bytes_in: counter("bytes_received"),
            bytes_out: counter("bytes_sent"),
            opened: counter("accepted"),
            closed: sum_all(info, "closes") as f64,
            cpu: info["nodes"][0]["cpu_seconds"].as_f64().unwrap_or(0.0),
        }
    }

    fn per_second_since(self, before: Totals) -> Totals {
        let seconds = ((self.at_ms - before.at_ms) / 1000.0).max(0.001);
        let rate = |now: f64, then: f64| ((now - then) / seconds).max(0.0);
        Totals {
            at_ms: self.at_ms,
            received: rate(self.received, before.received),
            pushed: rate(self.pushed, before.pushed),
            dropped: rate(self.dropped, before.dropped),
            bytes_in: rate(self.bytes_in, before.bytes_in),
            bytes_out: rate(self.bytes_out, before.bytes_out),
            opened: rate(self.opened, before.opened),
            closed: rate(self.closed, before.closed),
            cpu: rate(self.cpu, before.cpu),
        }
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn sum(info: &Value, group: &str, name: &str) -> u64 {
    array(&info["shards"]).iter().map(|shard| number(&shard[group][name])).sum()
}

fn sum_all(info: &Value, group: &str) -> u64 {
    let of = |shard: &Value| shard[group].as_object().map_or(0, |all| all.values().map(number).sum::<u64>());
    array(&info["shards"]).iter().map(of).sum()
}

fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut count = count;
    while count >= 1024.0 && unit + 1 < units.len() {
        count /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count:.0} B") } else { format!("{count:.1} {}", units[unit]) }
}

fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{} s", ms / 1000),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// The first characters of a line. What clients call themselves must not move the cursor.
fn cut(line: &str, columns: usize) -> String {
    line.chars().filter(|c| !c.is_control()).take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(now_ms: u64, received: u64) -> Value {
        json!({
            "node_id": "n-1", "now_ms": now_ms, "routing": "local", "connections": 3, "users": 2, "rooms": 1, "channels": 0,
            "probe_ms": [1],
            "nodes": [{"version": "0.1.0", "driver": "epoll", "ready": true, "draining": false, "uptime_s": 61,
                       "memory_bytes": 1_572_864, "descriptors": 9, "cpu_seconds": 0.5}],
            "shards": [{"shard": 0, "held": {"connections": 3, "users": 2, "home_rooms": 1},
                        "counters": {"messages_received": received}, "gauges": {"throttled": 1, "queued_bytes": 2048},
                        "dropped": {"a.b": 4}, "closes": {"x": 1}, "rooms": [{"room": "lobby", "users": 2, "connections": 3}]}],
        })
    }

    #[test]
    fn rates_are_between_two_answers() {
        let mut screen = Screen::default();
        assert!(!screen.update(&info(1_000, 100)));
        assert!(screen.update(&info(3_000, 300)));
        let worst = json!({"matched": 7, "connections": [
            {"user": "ev\u{1b}[2Jil", "state": "active", "throttled": true, "address": "1.2.3.4:5", "age_ms": 5000,
             "outbox_bytes": 100, "oldest_ms": 3, "dropped": 2, "rtt_us": 1500, "idle_ms": 0}]});
        let shown = screen.render(&info(3_000, 300), &worst, "outbox_bytes", 200);
        let expected =
            ["ready", "up 1 min", "in 100 msg", "1.5 MiB", "lobby", "ev[2Jil", "active, behind", "1.5 ms", "of 7"];
        for part in expected {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'), "a name moves the cursor");
        let narrow = screen.render(&info(3_000, 300), &worst, "rtt", 20);
        assert!(narrow.lines().all(|line| line.chars().count() <= 20));
        screen.render(&Value::Null, &Value::Null, "rtt", 80);
    }
}

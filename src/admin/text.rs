//! A recorder for the `metrics` facade that lives for one scrape and ends as Prometheus text (version 0.0.4). Nothing on a hot path ever
//! meets it: what the shards have published is fed to it, whole, when somebody asks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    families: RefCell<BTreeMap<String, Family>>,
}

#[derive(Debug, Default)]
struct Family {
    kind: &'static str,
    help: String,
    series: Vec<(String, Arc<Value>)>,
    /// Lines of a histogram.
    lines: String,
}

/// A number that is shown as it was set.
#[derive(Debug)]
enum Value {
    Whole(AtomicU64),
    /// The bits of a float.
    Real(AtomicU64),
}

impl CounterFn for Value {
    fn increment(&self, value: u64) {
        if let Value::Whole(shown) = self {
            shown.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn absolute(&self, value: u64) {
        if let Value::Whole(shown) = self {
            shown.store(value, Ordering::Relaxed);
        }
    }
}

impl GaugeFn for Value {
    fn increment(&self, value: f64) {
        self.set(self.real() + value);
    }

    fn decrement(&self, value: f64) {
        self.set(self.real() - value);
    }

    fn set(&self, value: f64) {
        if let Value::Real(shown) = self {
            shown.store(value.to_bits(), Ordering::Relaxed);
        }
    }
}

impl Value {
    fn real(&self) -> f64 {
        match self {
            Value::Whole(shown) => shown.load(Ordering::Relaxed) as f64,
            Value::Real(shown) => f64::from_bits(shown.load(Ordering::Relaxed)),
        }
    }
}

impl Recorder for Scrape {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe("counter", &key, &description);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe("gauge", &key, &description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe("histogram", &key, &description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series("counter", key, Value::Whole(AtomicU64::new(0))))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series("gauge", key, Value::Real(AtomicU64::new(0))))
    }

    /// What is counted in buckets already comes by [`Scrape::buckets`].
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Scrape {
    fn describe(&self, kind: &'static str, key: &KeyName, help: &str) {
        let mut families = self.families.borrow_mut();
        let family = families.entry(key.as_str().to_owned()).or_default();
        family.kind = kind;
        family.help = help.to_owned();
    }

    fn series(&self, kind: &'static str, key: &Key, value: Value) -> Arc<Value> {
        let mut families = self.families.borrow_mut();
        if !families.contains_key(key.name()) {
            families.insert(key.name().to_owned(), Family { kind, ..Family::default() });
        }
        let value = Arc::new(value);
        if let Some(family) = families.get_mut(key.name()) {
            let labels = labels(key.labels().map(|label| (label.key(), label.value())));
            family.series.push((labels, value.clone()));
        }
        value
    }

    /// A histogram that was counted elsewhere: cumulative counts with their upper bounds, all of them, and their sum. `labels` as in
    /// `shard="0"`.
    pub(super) fn buckets(
        &self,
        name: &str,
        help: &str,
        label: (&str, &str),
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let mut families = self.families.borrow_mut();
        let family = families.entry(name.to_owned()).or_default();
        family.kind = "histogram";
        help.clone_into(&mut family.help);
        let own = labels([label].into_iter().filter(|(key, _)| !key.is_empty()));
        let comma = if own.is_empty() { "" } else { "," };
        let out = &mut family.lines;
        // Writing to a String cannot fail.
        for (bound, below) in buckets {
            let _ = writeln!(out, "{name}_bucket{{{own}{comma}le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{{own}{comma}le=\"+Inf\"}} {count}");
        let braces = if own.is_empty() { String::new() } else { format!("{{{own}}}") };
        let _ = writeln!(out, "{name}_sum{braces} {sum}\n{name}_count{braces} {count}");
    }

    /// The text.
    pub(super) fn render(&self) -> String {
        let mut out = String::with_capacity(32 * 1024);
        for (name, family) in self.families.borrow().iter() {
            if family.series.is_empty() && family.lines.is_empty() {
                continue;
            }
            if !family.help.is_empty() {
                let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
                let _ = writeln!(out, "# HELP {name} {}", help.trim());
            }
            let _ = writeln!(out, "# TYPE {name} {}", family.kind);
            for (labels, value) in &family.series {
                let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = match &**value {
                    Value::Whole(shown) => writeln!(out, "{name}{braces} {}", shown.load(Ordering::Relaxed)),
                    Value::Real(_) => writeln!(out, "{name}{braces} {}", value.real()),
                };
            }
            out.push_str(&family.lines);
        }
        out
    }
}

fn labels<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        let comma = if out.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{comma}{key}=\"{value}\"");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facade_ends_as_text() {
        let scrape = Scrape::default();
        metrics::with_local_recorder(&scrape, || {
            metrics::describe_counter!("b_total", "What b \\ is.\nReally.");
            metrics::counter!("b_total", "shard" => "1", "why" => "a\"b").absolute(u64::MAX);
            metrics::counter!("b_total", "shard" => "2").absolute(2);
            metrics::gauge!("a_bytes").set(1.5);
        });
        let buckets = [(0.5, 1), (1.0, 3)];
        scrape.buckets("c_seconds", "How long.", ("shard", "0"), buckets.into_iter(), 4, 9.25);
        let expected = "\
# TYPE a_bytes gauge
a_bytes 1.5
# HELP b_total What b \\\\ is.\\nReally.
# TYPE b_total counter
b_total{shard=\"1\",why=\"a\\\"b\"} 18446744073709551615
b_total{shard=\"2\"} 2
# HELP c_seconds How long.
# TYPE c_seconds histogram
c_seconds_bucket{shard=\"0\",le=\"0.5\"} 1
c_seconds_bucket{shard=\"0\",le=\"1\"} 3
c_seconds_bucket{shard=\"0\",le=\"+Inf\"} 4
c_seconds_sum{shard=\"0\"} 9.25
c_seconds_count{shard=\"0\"} 4
";
        assert_eq!(scrape.render(), expected);
    }
}

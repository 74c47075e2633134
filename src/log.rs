//! The log: lines to standard error, written by a thread of their own.
//!
//! A shard never writes to a descriptor for the log: with private descriptor tables a number means another file there, and a slow reader
//! of the log must not hold up connections. So [`init`] makes the writer's thread, on the main thread and before any shard, and lines over
//! its bound are dropped and counted.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::config::{self, LogFormat, LogLevel};

/// Lines that wait to be written.
const LINES_MAX: usize = 16 * 1024;

/// The log of this process. What is still waiting is written when it is dropped.
pub struct Log {
    level: Level,
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dropped", &self.dropped.dropped_lines()).finish_non_exhaustive()
    }
}

impl Log {
    /// Changes the least severe level that is written.
    pub fn set_level(&self, level: LogLevel) {
        self.level.0.store(number(level), Ordering::Relaxed);
        // Call sites remember whether anybody listens.
        tracing::callsite::rebuild_interest_cache();
    }

    /// Lines that were dropped because the writer was behind.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }
}

/// Begins to log, panics included. Call it once, on the main thread, before any other thread is made.
pub fn init(config: &config::Log) -> Log {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(std::io::stderr());
    let level = Level(Arc::new(AtomicU8::new(number(config.level))));
    let dropped = writer.error_counter();
    let subscriber = subscriber(config.format, level.clone(), writer, std::io::stderr().is_terminal());
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
    Log { level, dropped, _writer: guard }
}

fn subscriber(format: LogFormat, level: Level, writer: NonBlocking, colour: bool) -> Box<dyn Subscriber + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => {
            Box::new(tracing_subscriber::registry().with(level).with(lines.with_ansi(colour).with_target(false)))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            Box::new(tracing_subscriber::registry().with(level).with(lines))
        }
    }
}

fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("(no message)");
    tracing::error!(thread = thread.name().unwrap_or("?"), location, "panic: {message}");
}

/// The least severe level, shared. A relaxed load where the `reload` layer of the library takes a lock.
#[derive(Clone)]
struct Level(Arc<AtomicU8>);

impl Level {
    fn filter(&self) -> LevelFilter {
        match self.0.load(Ordering::Relaxed) {
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }
}

impl<S: Subscriber> Layer<S> for Level {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if *metadata.level() <= self.filter() { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.filter()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.filter())
    }
}

fn number(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 1,
        LogLevel::Warn => 2,
        LogLevel::Info => 3,
        LogLevel::Debug => 4,
        LogLevel::Trace => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: LogLevel, log: impl FnOnce(&Level)) -> String {
        let sink = Sink::default();
        let (writer, guard) = NonBlockingBuilder::default().finish(sink.clone());
        let level = Level(Arc::new(AtomicU8::new(number(level))));
        tracing::subscriber::with_default(subscriber(format, level.clone(), writer, false), || log(&level));
        drop(guard);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_line_per_event_in_either_format() {
        let text = logged(LogFormat::Text, LogLevel::Info, |_| tracing::info!(shards = 2, "started"));
        assert!(text.contains("INFO started shards=2") && text.ends_with('\n'), "{text}");
        let json = logged(LogFormat::Json, LogLevel::Info, |_| tracing::info!(shards = 2, "line\nbreak"));
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["shards"]),
            (&"INFO".into(), &"line\nbreak".into(), &2.into())
        );
        assert_eq!(json.lines().count(), 1);
    }

    #[test]
    fn the_level_can_change() {
        let text = logged(LogFormat::Text, LogLevel::Warn, |level| {
            tracing::info!("one");
            tracing::warn!("two");
            level.0.store(number(LogLevel::Debug), Ordering::Relaxed);
            tracing::callsite::rebuild_interest_cache();
            tracing::debug!("three");
            tracing::trace!("four");
        });
        let seen: Vec<bool> = ["one", "two", "three", "four"].iter().map(|word| text.contains(word)).collect();
        assert_eq!(seen, [false, true, true, false], "{text}");
    }
}

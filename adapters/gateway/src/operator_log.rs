//! The log for the operator: which lines are written, how, and by which thread.
//!
//! Invariant: no exchange waits for the log. Where its output is too slow, lines are dropped and counted.

mod lines;

use crate::lock;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use leasehold_config::{LogLevel, LogSettings, LogStyle};
use lines::Lines;
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt::layer, reload};

/// Lines that may wait for the output.
const WAITING: usize = 8_192;
/// The begin of the names of the gateway's own targets.
const OWN: &str = "leasehold";

/// The targets of the gateway's events.
pub(crate) mod target {
    pub(crate) const ALERT: &str = "leasehold::alert";
    pub(crate) const ADMIN: &str = "leasehold::admin";
    pub(crate) const COMFYUI: &str = "leasehold::comfyui";
    pub(crate) const EXCHANGE: &str = "leasehold::exchange";
    pub(crate) const GATEWAY: &str = "leasehold::gateway";
    pub(crate) const HEALTH: &str = "leasehold::health";
    pub(crate) const NAMES: &str = "leasehold::names";
    pub(crate) const OTLP: &str = "leasehold::otlp";
    pub(crate) const RELOAD: &str = "leasehold::reload";
    pub(crate) const STATE: &str = "leasehold::state";
}

/// The log for the operator, whose level and form can be changed while it is written.
#[derive(Clone)]
pub struct OperatorLog(Arc<Inner>);

struct Inner {
    settings: Mutex<LogSettings>,
    filter: reload::Handle<Targets, Registry>,
    is_json: Arc<AtomicBool>,
    dropped: ErrorCounter,
}

/// Writes the lines that wait when it is dropped, for a second at most.
#[derive(Debug)]
#[must_use = "lines are lost that wait when the process ends"]
pub struct LogFlush {
    _guard: WorkerGuard,
}

impl OperatorLog {
    /// Makes a log, and the subscriber that a program installs so that events come to it.
    ///
    /// A thread of its own writes to `output`.
    pub fn new(
        settings: &LogSettings,
        output: impl Write + Send + 'static,
    ) -> (Self, Dispatch, LogFlush) {
        let (output, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(WAITING)
            .thread_name("log")
            .finish(output);
        let dropped = output.error_counter();
        let is_json = Arc::new(AtomicBool::new(settings.format == LogStyle::Json));
        let (filter, handle) = reload::Layer::new(filter_of(settings));
        let lines = layer()
            .event_format(Lines::new(Arc::clone(&is_json)))
            .with_writer(output)
            .log_internal_errors(false);
        let subscriber = Registry::default().with(filter).with(lines);
        let log = Self(Arc::new(Inner {
            settings: Mutex::new(settings.clone()),
            filter: handle,
            is_json,
            dropped,
        }));
        (log, Dispatch::new(subscriber), LogFlush { _guard: guard })
    }

    /// Puts other settings in force.
    pub(crate) fn set(&self, settings: LogSettings) {
        self.put(&mut lock(&self.0.settings), settings);
    }

    /// Changes the settings in force, and returns them; no other change falls between.
    pub(crate) fn change<E>(
        &self,
        change: impl FnOnce(LogSettings) -> Result<LogSettings, E>,
    ) -> Result<LogSettings, E> {
        let mut known = lock(&self.0.settings);
        let settings = change(known.clone())?;
        self.put(&mut known, settings.clone());
        Ok(settings)
    }

    fn put(&self, known: &mut LogSettings, settings: LogSettings) {
        let is_json = settings.format == LogStyle::Json;
        self.0.is_json.store(is_json, Ordering::Relaxed);
        // Without its subscriber the log has no lines to choose from.
        let _ = self.0.filter.reload(filter_of(&settings));
        *known = settings;
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> LogSettings {
        lock(&self.0.settings).clone()
    }

    /// Returns how many lines were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.dropped_lines() as u64
    }
}

impl fmt::Debug for OperatorLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorLog")
            .field("settings", &self.settings())
            .finish_non_exhaustive()
    }
}

/// Chooses lines by their targets; of libraries, those that warn of something.
fn filter_of(settings: &LogSettings) -> Targets {
    let targets = settings.targets.iter();
    Targets::new()
        .with_default(filter_level(settings.level.min(LogLevel::Warn)))
        .with_target(OWN, filter_level(settings.level))
        .with_targets(targets.map(|(target, level)| (target.as_str(), filter_level(*level))))
}

fn filter_level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use tracing::dispatcher::with_default;

    struct Told(Sender<String>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(settings: &LogSettings) -> (OperatorLog, Dispatch, LogFlush, Receiver<String>) {
        let (sender, receiver) = channel();
        let (log, dispatch, flush) = OperatorLog::new(settings, Told(sender));
        (log, dispatch, flush, receiver)
    }

    fn events() {
        let error = "a\nb\u{1b}[31m";
        tracing::warn!(target: target::HEALTH, pool = "web", member = %"one", "down: {error}");
        tracing::info!(target: target::RELOAD, "the settings were reloaded");
        tracing::debug!(target: target::EXCHANGE, pool = "web", attempt = 2, "failed");
        tracing::info!(target: "hickory_net", "found");
        tracing::warn!(target: "hickory_net", "lost");
    }

    #[test]
    fn a_line_is_a_sentence_that_begins_with_its_pool_and_member() {
        let (log, dispatch, flush, told) = log(&LogSettings::default());
        with_default(&dispatch, || {
            events();
            log.set(LogSettings {
                level: LogLevel::Debug,
                ..LogSettings::default()
            });
            events();
        });
        drop((flush, dispatch));
        let lines = [
            "pool web: one: down: a\n    b\\u{1b}[31m\n",
            "the settings were reloaded\n",
        ];
        let lost = "WARN hickory_net: lost\n";
        let failed = "DEBUG leasehold::exchange: pool web: failed: attempt=2\n";
        let expected = [&lines[..], &[lost], &lines, &[failed, lost]].concat();
        assert_eq!(told.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_target_has_a_level_of_its_own_and_a_line_can_be_json() {
        let (log, dispatch, flush, told) = log(&LogSettings::default());
        with_default(&dispatch, || {
            log.set(LogSettings {
                format: LogStyle::Json,
                level: LogLevel::Off,
                targets: [("leasehold::health".to_owned(), LogLevel::Warn)].into(),
            });
            events();
        });
        drop((flush, dispatch));
        let lines: Vec<String> = told.iter().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        for (field, value) in [
            ("level", "WARN"),
            ("target", "leasehold::health"),
            ("pool", "web"),
            ("member", "one"),
            ("message", "down: a\nb\u{1b}[31m"),
        ] {
            assert_eq!(line[field], value, "{line}");
        }
        assert!(line["timestamp"].is_string(), "{line}");
    }

    #[test]
    fn lines_that_the_output_does_not_take_are_dropped_and_counted() {
        struct Stuck(Receiver<()>);

        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Until the test is over.
                let _ = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (free, stuck) = channel();
        let (log, dispatch, flush) = OperatorLog::new(&LogSettings::default(), Stuck(stuck));
        with_default(&dispatch, || {
            // One more is in the hands of the thread.
            for _ in 0..WAITING + 1 + 5 {
                tracing::info!(target: target::GATEWAY, "a line");
            }
        });
        let dropped = log.dropped();
        assert!((5..=6).contains(&dropped), "{dropped}");
        drop(free);
        drop(flush);
    }
}

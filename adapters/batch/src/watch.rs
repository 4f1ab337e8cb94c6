//! The watch over a run: it says when and why the run waits, and ends it when that takes too long.

use crate::load::Load;
use crate::progress::Counter;
use crate::source::Source;
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_page::words;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Time between two messages about the same wait.
const REPEAT: Duration = Duration::from_secs(30);
/// Shorter waits are not told.
const SHORT: Duration = Duration::from_secs(2);

/// Watches from a thread of `scope` until the returned sender is dropped.
///
/// `close` ends waits that no closed pool ends, such as that for a delayed task.
pub(crate) fn watch<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    source: &'scope impl Source,
    counter: &'scope Counter,
    load: &'scope Load,
    close: impl Fn() + Send + 'scope,
) -> Sender<()> {
    let (stop, stopped) = mpsc::channel();
    let mut talk = Talk::default();
    scope.spawn(move || {
        while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let now = source.now();
            source.give_up(now);
            if source.is_over() {
                close();
                continue;
            }
            let idle = load.in_flight() == 0;
            let pause = idle.then(|| source.pause(now)).flatten();
            if let Some(message) = talk.message(now, counter.ok(), pause) {
                counter.say(&message);
            }
        }
    });
    stop
}

/// What was said so far about a wait.
#[derive(Debug, Default)]
struct Talk {
    /// The tick of the last message, and the number of answers then.
    last: Option<(Tick, usize)>,
}

impl Talk {
    /// Returns what to say: at once when a wait begins, and every 30 s while no answer comes.
    fn message(
        &mut self,
        now: Tick,
        answers: usize,
        pause: Option<(String, Tick)>,
    ) -> Option<String> {
        let (reason, next) = pause?;
        let left = next.since(now);
        let is_due = match self.last {
            Some((last, before)) if before == answers => now.since(last) >= REPEAT,
            Some(_) | None => left >= SHORT,
        };
        if !is_due {
            return None;
        }
        self.last = Some((now, answers));
        let left = words(left.saturating_add(Duration::from_millis(999)));
        Some(format!("waiting for {reason}, next try in {left}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Tick {
        Tick::from_nanos(second * 1_000_000_000)
    }

    #[test]
    fn a_wait_is_told_once_and_every_thirty_seconds() {
        let mut talk = Talk::default();
        let pause = |until: u64| Some(("h: 503 since 14:02 UTC".to_owned(), at(until)));
        assert_eq!(talk.message(at(1), 5, None), None);
        assert_eq!(talk.message(at(1), 5, pause(2)), None, "too short");
        let told = talk.message(at(1), 5, pause(21)).unwrap();
        assert_eq!(told, "waiting for h: 503 since 14:02 UTC, next try in 20 s");
        assert_eq!(talk.message(at(22), 5, pause(40)), None);
        assert!(talk.message(at(31), 5, pause(40)).is_some());
        assert!(talk.message(at(32), 6, pause(40)).is_some(), "another wait");
    }
}

//! Signs of progress of the threads that serve, for a watchdog.
//!
//! Invariant: a thread is late once its tasks have not run for a given time, or once it has panicked; one that has
//! ended in order is not.

use crate::clock::now;
use crate::lock;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex};
use std::thread;
use tokio::time::{Instant, interval};

/// The pause between two signs.
const BEAT: Duration = Duration::from_millis(250);

/// The signs of all threads of a gateway.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    began: Instant,
    threads: Arc<Mutex<Vec<Arc<Beats>>>>,
}

#[derive(Debug)]
struct Beats {
    thread: String,
    /// Milliseconds from the gateway's begin to the last sign.
    last: AtomicU64,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self {
            began: now(),
            threads: Arc::default(),
        }
    }
}

impl Heartbeats {
    /// Returns the name of a thread that has made no progress for longer than this; below 1 s it is taken as 1 s.
    #[must_use]
    pub fn late(&self, longest: Duration) -> Option<String> {
        self.late_at(millis(self.began.elapsed()), longest)
    }

    fn late_at(&self, now: u64, longest: Duration) -> Option<String> {
        let longest = millis(longest.max(4 * BEAT));
        let threads = lock(&self.threads);
        let is_late =
            |beats: &&Arc<Beats>| now.saturating_sub(beats.last.load(Ordering::Relaxed)) > longest;
        threads
            .iter()
            .find(is_late)
            .map(|beats| beats.thread.clone())
    }

    /// Adds a thread, which counts from now on.
    pub(crate) fn join(&self, thread: &str) -> Heart {
        let beats = Arc::new(Beats {
            thread: thread.to_owned(),
            last: AtomicU64::new(millis(self.began.elapsed())),
        });
        lock(&self.threads).push(Arc::clone(&beats));
        Heart {
            all: self.clone(),
            beats,
        }
    }
}

/// The sign of one thread.
#[derive(Debug)]
pub(crate) struct Heart {
    all: Heartbeats,
    beats: Arc<Beats>,
}

impl Heart {
    /// Gives a sign now and then, as a task of the thread.
    pub(crate) async fn beat(self) {
        let mut ticks = interval(BEAT);
        loop {
            ticks.tick().await;
            let time = millis(self.all.began.elapsed());
            self.beats.last.store(time, Ordering::Relaxed);
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        if !thread::panicking() {
            lock(&self.all.threads).retain(|beats| !Arc::ptr_eq(beats, &self.beats));
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(2);

    #[test]
    fn a_thread_is_late_when_its_last_sign_is_too_old_and_not_once_it_has_ended() {
        let all = Heartbeats::default();
        let heart = all.join("one");
        heart.beats.last.store(5_000, Ordering::Relaxed);
        assert_eq!(all.late_at(7_000, LONGEST), None);
        assert_eq!(all.late_at(7_001, LONGEST).as_deref(), Some("one"));
        assert_eq!(all.late_at(5_900, Duration::ZERO), None);
        drop(heart);
        assert_eq!(all.late_at(7_001, LONGEST), None);
    }

    #[test]
    fn a_thread_that_has_panicked_is_late() {
        let all = Heartbeats::default();
        let heart = all.join("one");
        let ended = thread::spawn(move || {
            let _heart = heart;
            panic!("on purpose");
        });
        assert!(ended.join().is_err());
        assert_eq!(all.late_at(60_000, LONGEST).as_deref(), Some("one"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_whose_tasks_run_is_never_late() {
        let all = Heartbeats::default();
        let beating = tokio::spawn(all.join("one").beat());
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert_eq!(all.late(LONGEST), None);
        }
        beating.abort();
    }
}

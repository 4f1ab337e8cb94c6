//! Admission of calls and counts of what arrived: each arrival is compared with all arrivals before it.
//!
//! Invariant: no key is admitted more often than its limit in any half-open window. A call at `t` is admitted
//! only if fewer than the limit were admitted at `a` with `t - a < window`.
//!
//! Times are nanoseconds from an epoch the caller picks, in the order of arrival. Arrivals older than a window are
//! dropped, so memory is bounded by the arrivals within one.

use crate::report::{KeyReport, Report, masked};
use core::num::NonZeroU32;
use core::time::Duration;

/// Maximum number of keys if any key is accepted; later keys are unknown.
const MAX_KEYS: usize = 4096;

#[derive(Clone, Copy, Debug)]
pub(crate) struct JudgeConfig {
    /// Maximum number of calls admitted in any window.
    pub(crate) limit: Option<NonZeroU32>,
    /// The window; arrivals are counted over it even without a limit.
    pub(crate) window: Duration,
    /// Maximum number of calls in flight.
    pub(crate) max_concurrent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyId(usize);

/// The judge's decision about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Admitted; in flight until [`Judge::finish`].
    Admitted,
    /// Over the limit; the key is below it again after this time.
    OverLimit(Duration),
    /// Within the limit, and counted against it, but too many calls are in flight.
    Busy,
}

/// A key's use of its limit just after an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitUsage {
    /// Maximum number of calls admitted in any window.
    pub(crate) limit: u32,
    /// Calls admitted in the window that ends now.
    pub(crate) used: u32,
    /// Time until none of them counts any more.
    pub(crate) reset: Duration,
    pub(crate) window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallEnd {
    Ok,
    Fault,
    Invalid,
    /// The caller hung up, or the server stopped.
    Abandoned,
}

/// Enforces the limits of every key and counts all calls.
#[derive(Debug)]
pub(crate) struct Judge {
    config: JudgeConfig,
    window: u64,
    open: bool,
    keys: Vec<KeyState>,
    all: CallCounts,
}

impl Judge {
    /// Creates a judge that knows `keys`; with no keys given, it knows any key.
    pub(crate) fn new(config: JudgeConfig, keys: Vec<String>) -> Self {
        Self {
            config,
            window: u64::try_from(config.window.as_nanos()).unwrap_or(u64::MAX),
            open: keys.is_empty(),
            keys: keys.into_iter().map(KeyState::new).collect(),
            all: CallCounts::default(),
        }
    }

    pub(crate) fn knows(&self, key: &str) -> bool {
        self.position(key).is_some() || (self.open && self.keys.len() < MAX_KEYS)
    }

    /// Returns the id of a known key. If any key is accepted, adds it.
    pub(crate) fn identify(&mut self, key: &str) -> Option<KeyId> {
        if !self.knows(key) {
            return None;
        }
        let position = self.position(key).unwrap_or_else(|| {
            self.keys.push(KeyState::new(key.to_owned()));
            self.keys.len() - 1
        });
        Some(KeyId(position))
    }

    pub(crate) fn arrive(&mut self, key: KeyId, now: u64) -> (Ruling, Option<LimitUsage>) {
        let key = &mut self.keys[key.0];
        key.drop_older_than(self.window, now);
        let ruling = key.rule(&self.config, self.window, now);
        key.recent.push(now);
        key.max_in_window = key.max_in_window.max(key.recent.len() as u64);
        for counts in [&mut key.counts, &mut self.all] {
            counts.max_concurrent = counts.max_concurrent.max(counts.in_flight + 1);
            counts.calls += 1;
            match ruling {
                Ruling::Admitted => counts.in_flight += 1,
                Ruling::OverLimit(_) => counts.rejected_429 += 1,
                Ruling::Busy => counts.rejected_503 += 1,
            }
        }
        (ruling, key.usage(&self.config, self.window, now))
    }

    /// Ends an admitted call. To be called once for each [`Ruling::Admitted`].
    pub(crate) fn finish(&mut self, key: KeyId, end: CallEnd) {
        for counts in [&mut self.keys[key.0].counts, &mut self.all] {
            counts.in_flight -= 1;
            match end {
                CallEnd::Ok => counts.ok += 1,
                CallEnd::Fault => counts.faults += 1,
                CallEnd::Invalid => counts.invalid += 1,
                CallEnd::Abandoned => counts.abandoned += 1,
            }
        }
    }

    /// Reports all counts so far, together with figures that only the server knows.
    pub(crate) fn report(&self, connections_opened: u64, latencies: Vec<Duration>) -> Report {
        Report {
            limit: self.config.limit.map(NonZeroU32::get),
            window: self.config.window,
            calls: self.all.calls,
            ok: self.all.ok,
            rejected_429: self.all.rejected_429,
            rejected_503: self.all.rejected_503,
            faults: self.all.faults,
            invalid: self.all.invalid,
            abandoned: self.all.abandoned,
            max_in_window: self
                .keys
                .iter()
                .map(|key| key.max_in_window)
                .max()
                .unwrap_or(0),
            max_concurrent: self.all.max_concurrent,
            connections_opened,
            per_key: self.keys.iter().map(KeyState::report).collect(),
            latencies,
        }
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|state| state.key == key)
    }
}

struct KeyState {
    key: String,
    /// Admitted arrivals of the last window; empty without a limit.
    admitted: Vec<u64>,
    /// All arrivals of the last window, rejected ones included.
    recent: Vec<u64>,
    max_in_window: u64,
    counts: CallCounts,
}

impl KeyState {
    fn new(key: String) -> Self {
        Self {
            key,
            admitted: Vec::new(),
            recent: Vec::new(),
            max_in_window: 0,
            counts: CallCounts::default(),
        }
    }

    fn drop_older_than(&mut self, window: u64, now: u64) {
        let in_window = |at: &u64| now.saturating_sub(*at) < window;
        self.admitted.retain(in_window);
        self.recent.retain(in_window);
    }

    /// Rules on an arrival at `now`; a call within the limit counts against it.
    fn rule(&mut self, config: &JudgeConfig, window: u64, now: u64) -> Ruling {
        if let Some(limit) = config.limit {
            if self.admitted.len() >= limit.get() as usize {
                let oldest = self.admitted.iter().min().copied().unwrap_or(now);
                let wait = window - now.saturating_sub(oldest);
                return Ruling::OverLimit(Duration::from_nanos(wait));
            }
            self.admitted.push(now);
        }
        match config.max_concurrent {
            Some(max) if self.counts.in_flight >= u64::from(max) => Ruling::Busy,
            Some(_) | None => Ruling::Admitted,
        }
    }

    fn usage(&self, config: &JudgeConfig, window: u64, now: u64) -> Option<LimitUsage> {
        let newest = self.admitted.iter().max().copied().unwrap_or(now);
        Some(LimitUsage {
            limit: config.limit?.get(),
            used: u32::try_from(self.admitted.len()).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(window - now.saturating_sub(newest)),
            window: config.window,
        })
    }

    fn report(&self) -> KeyReport {
        KeyReport {
            key: masked(&self.key),
            calls: self.counts.calls,
            ok: self.counts.ok,
            rejected_429: self.counts.rejected_429,
            max_in_window: self.max_in_window,
            max_concurrent: self.counts.max_concurrent,
        }
    }
}

impl core::fmt::Debug for KeyState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyState")
            .field("key", &masked(&self.key))
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct CallCounts {
    in_flight: u64,
    calls: u64,
    ok: u64,
    rejected_429: u64,
    rejected_503: u64,
    faults: u64,
    invalid: u64,
    abandoned: u64,
    max_concurrent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 1_000;

    fn judge(limit: u32, max_concurrent: Option<u32>, keys: &[&str]) -> Judge {
        Judge::new(
            JudgeConfig {
                limit: NonZeroU32::new(limit),
                window: Duration::from_nanos(WINDOW),
                max_concurrent,
            },
            keys.iter().map(|key| (*key).to_owned()).collect(),
        )
    }

    fn admitted(judge: &mut Judge, key: KeyId, now: u64) -> bool {
        judge.arrive(key, now).0 == Ruling::Admitted
    }

    #[test]
    fn a_call_is_admitted_at_the_end_of_the_window_and_rejected_a_nanosecond_before() {
        let mut judge = judge(2, None, &["a"]);
        let key = judge.identify("a").unwrap();
        assert!(admitted(&mut judge, key, 10));
        assert!(admitted(&mut judge, key, 20));
        let rejected = |span| Ruling::OverLimit(Duration::from_nanos(span));
        assert_eq!(judge.arrive(key, 20).0, rejected(WINDOW - 10));
        assert_eq!(judge.arrive(key, 9 + WINDOW).0, rejected(1));
        assert!(admitted(&mut judge, key, 10 + WINDOW));
        assert_eq!(judge.arrive(key, 10 + WINDOW).0, rejected(10));
        assert!(admitted(&mut judge, key, 20 + WINDOW));
    }

    #[test]
    fn a_rejected_call_is_not_charged_but_counts_in_the_window() {
        let mut judge = judge(1, None, &["a", "b"]);
        let (a, b) = (judge.identify("a").unwrap(), judge.identify("b").unwrap());
        assert!(admitted(&mut judge, a, 0));
        assert!(!admitted(&mut judge, a, WINDOW - 1));
        assert!(admitted(&mut judge, a, WINDOW));
        assert!(admitted(&mut judge, b, WINDOW));
        let report = judge.report(0, Vec::new());
        assert_eq!(report.per_key[0].max_in_window, 2);
        assert_eq!(report.per_key[1].max_in_window, 1);
        assert_eq!(report.max_in_window, 2);
        assert_eq!((report.calls, report.rejected_429), (4, 1));
    }

    #[test]
    fn the_usage_has_the_used_calls_and_the_time_until_none_counts() {
        let mut judge = judge(3, None, &["a"]);
        let key = judge.identify("a").unwrap();
        judge.arrive(key, 0);
        let (_, usage) = judge.arrive(key, 400);
        let usage = usage.unwrap();
        assert_eq!((usage.limit, usage.used), (3, 2));
        assert_eq!(usage.reset, Duration::from_nanos(WINDOW));
        judge.arrive(key, 500);
        let (_, usage) = judge.arrive(key, 600);
        assert_eq!(usage.unwrap().reset, Duration::from_nanos(WINDOW - 100));
    }

    #[test]
    fn a_call_over_the_concurrency_is_busy_and_counts_against_the_limit() {
        let mut judge = judge(3, Some(1), &["a"]);
        let key = judge.identify("a").unwrap();
        assert!(admitted(&mut judge, key, 0));
        assert_eq!(judge.arrive(key, 1).0, Ruling::Busy);
        judge.finish(key, CallEnd::Ok);
        assert!(admitted(&mut judge, key, 2));
        assert!(matches!(judge.arrive(key, 3).0, Ruling::OverLimit(_)));
        let report = judge.report(0, Vec::new());
        assert_eq!((report.rejected_503, report.rejected_429), (1, 1));
        assert_eq!((report.max_concurrent, report.ok), (2, 1));
    }

    #[test]
    fn without_configured_keys_any_key_is_known_up_to_a_maximum() {
        let mut open = judge(1, None, &[]);
        assert!(open.knows("x"));
        assert_eq!(open.identify("x"), open.identify("x"));
        for n in 1..MAX_KEYS {
            assert!(open.identify(&n.to_string()).is_some());
        }
        assert_eq!(open.identify("one more"), None);
        assert!(open.identify("x").is_some());
        assert_eq!(judge(1, None, &["a"]).identify("b"), None);
    }

    #[test]
    fn the_rulings_agree_with_a_count_over_the_whole_history() {
        let mut rng = fastrand::Rng::with_seed(7);
        for limit in 1..5 {
            let mut judge = judge(limit, None, &["a"]);
            let key = judge.identify("a").unwrap();
            let (mut now, mut all, mut taken) = (0, Vec::new(), Vec::new());
            for _ in 0..500 {
                now += rng.u64(0..WINDOW / 2);
                let before = |stamps: &[u64]| {
                    let start = (now + 1).saturating_sub(WINDOW);
                    stamps.iter().filter(|at| **at >= start).count()
                };
                let fits = before(&taken) < limit as usize;
                assert_eq!(admitted(&mut judge, key, now), fits);
                if fits {
                    taken.push(now);
                }
                all.push(now);
            }
            let most = all
                .iter()
                .map(|from| {
                    let span = *from..*from + WINDOW;
                    all.iter().filter(|at| span.contains(at)).count()
                })
                .max();
            let report = judge.report(0, Vec::new());
            assert_eq!(Some(report.max_in_window as usize), most);
        }
    }
}

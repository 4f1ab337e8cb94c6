//! Who is admitted, and what was seen: every arrival is judged by a scan over the arrivals before it.
//!
//! Invariant: no key is ever admitted more often than its limit in any half-open window: a call at `t`
//! is admitted only where fewer than the limit were admitted at `a` with `t - a < window`.
//!
//! Time comes as nanoseconds from an epoch the caller picks, in the order of arrival. An arrival is
//! forgotten once it is older than a window, so memory is bounded by what arrives within one.

use crate::report::{KeyReport, Report, masked};
use core::num::NonZeroU32;
use core::time::Duration;

/// How many keys are told apart where any key is accepted; keys beyond them are unknown.
const MAX_KEYS: usize = 4096;

/// What a judge enforces, on each key by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Calls admitted in any one window.
    pub(crate) limit: Option<NonZeroU32>,
    /// The window, over which arrivals are also counted where there is no limit.
    pub(crate) window: Duration,
    /// Calls in flight at once.
    pub(crate) max_concurrent: Option<u32>,
}

/// Names a key that a judge knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyId(usize);

/// What was decided about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in flight until [`Judge::finish`] is told of its end.
    Admitted,
    /// It is over the limit; the same key is below it again after the span.
    OverLimit(Duration),
    /// It is within the limit, and counts against it, but too many are in flight.
    Busy,
}

/// How a key stands against its limit just after an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Calls admitted in any one window.
    pub(crate) limit: u32,
    /// Calls admitted in the window that ends now.
    pub(crate) used: u32,
    /// How long until none of them counts any more.
    pub(crate) reset: Duration,
    /// The window.
    pub(crate) window: Duration,
}

/// How an admitted call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered in full.
    Ok,
    /// Failed on purpose.
    Fault,
    /// Not a valid call.
    Invalid,
    /// Nobody waited for the answer.
    Abandoned,
}

/// Enforces [`Rules`] on any number of keys and counts what it sees.
#[derive(Debug)]
pub(crate) struct Judge {
    rules: Rules,
    window: u64,
    open: bool,
    keys: Vec<Account>,
    all: Tally,
}

impl Judge {
    /// A judge that knows `keys`, or any key where none is given.
    pub(crate) fn new(rules: Rules, keys: Vec<String>) -> Self {
        Self {
            rules,
            window: u64::try_from(rules.window.as_nanos()).unwrap_or(u64::MAX),
            open: keys.is_empty(),
            keys: keys.into_iter().map(Account::new).collect(),
            all: Tally::default(),
        }
    }

    /// Whether calls with `key` would be judged, rather than turned away as unknown.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.position(key).is_some() || (self.open && self.keys.len() < MAX_KEYS)
    }

    /// The name of `key`, where it is known. Where any key is accepted, it is known from now on.
    pub(crate) fn identify(&mut self, key: &str) -> Option<KeyId> {
        if !self.knows(key) {
            return None;
        }
        let position = self.position(key).unwrap_or_else(|| {
            self.keys.push(Account::new(key.to_owned()));
            self.keys.len() - 1
        });
        Some(KeyId(position))
    }

    /// Judges a call that arrives at `now`.
    pub(crate) fn arrive(&mut self, key: KeyId, now: u64) -> (Verdict, Option<Quota>) {
        let window = self.window;
        let account = &mut self.keys[key.0];
        let in_window = |at: &u64| now.saturating_sub(*at) < window;

        account.admitted.retain(in_window);
        let verdict = match self.rules.limit {
            Some(limit) if account.admitted.len() >= limit.get() as usize => {
                let oldest = account.admitted.iter().min().copied().unwrap_or(now);
                Verdict::OverLimit(Duration::from_nanos(window - now.saturating_sub(oldest)))
            }
            limit => {
                if limit.is_some() {
                    account.admitted.push(now);
                }
                match self.rules.max_concurrent {
                    Some(max) if account.tally.in_flight >= u64::from(max) => Verdict::Busy,
                    Some(_) | None => Verdict::Admitted,
                }
            }
        };

        account.recent.retain(in_window);
        account.recent.push(now);
        account.max_in_window = account.max_in_window.max(account.recent.len() as u64);
        for tally in [&mut account.tally, &mut self.all] {
            tally.max_concurrent = tally.max_concurrent.max(tally.in_flight + 1);
            tally.calls += 1;
            match verdict {
                Verdict::Admitted => tally.in_flight += 1,
                Verdict::OverLimit(_) => tally.rejected_429 += 1,
                Verdict::Busy => tally.rejected_503 += 1,
            }
        }

        let quota = self.rules.limit.map(|limit| {
            let newest = account.admitted.iter().max().copied().unwrap_or(now);
            Quota {
                limit: limit.get(),
                used: u32::try_from(account.admitted.len()).unwrap_or(u32::MAX),
                reset: Duration::from_nanos(window - now.saturating_sub(newest)),
                window: self.rules.window,
            }
        });
        (verdict, quota)
    }

    /// Takes note that an admitted call has ended. Once for each [`Verdict::Admitted`].
    pub(crate) fn finish(&mut self, key: KeyId, outcome: Outcome) {
        for tally in [&mut self.keys[key.0].tally, &mut self.all] {
            tally.in_flight -= 1;
            match outcome {
                Outcome::Ok => tally.ok += 1,
                Outcome::Fault => tally.faults += 1,
                Outcome::Invalid => tally.invalid += 1,
                Outcome::Abandoned => tally.abandoned += 1,
            }
        }
    }

    /// What was seen so far, and what only the server around the judge knows.
    pub(crate) fn report(&self, connections_opened: u64, latencies: Vec<Duration>) -> Report {
        Report {
            limit: self.rules.limit.map(NonZeroU32::get),
            window: self.rules.window,
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
            per_key: self
                .keys
                .iter()
                .map(
                    |Account {
                         key,
                         tally,
                         max_in_window,
                         ..
                     }| KeyReport {
                        key: masked(key),
                        calls: tally.calls,
                        ok: tally.ok,
                        rejected_429: tally.rejected_429,
                        max_in_window: *max_in_window,
                        max_concurrent: tally.max_concurrent,
                    },
                )
                .collect(),
            latencies,
        }
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|account| account.key == key)
    }
}

/// One key and what it did.
struct Account {
    key: String,
    /// Admitted arrivals of the last window, where there is a limit.
    admitted: Vec<u64>,
    /// All arrivals of the last window, refused ones included.
    recent: Vec<u64>,
    max_in_window: u64,
    tally: Tally,
}

impl Account {
    fn new(key: String) -> Self {
        Self {
            key,
            admitted: Vec::new(),
            recent: Vec::new(),
            max_in_window: 0,
            tally: Tally::default(),
        }
    }
}

impl core::fmt::Debug for Account {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Account")
            .field("key", &masked(&self.key))
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// Counts of calls, of one key or of all.
#[derive(Debug, Default)]
struct Tally {
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
            Rules {
                limit: NonZeroU32::new(limit),
                window: Duration::from_nanos(WINDOW),
                max_concurrent,
            },
            keys.iter().map(|key| (*key).to_owned()).collect(),
        )
    }

    fn admitted(judge: &mut Judge, key: KeyId, now: u64) -> bool {
        judge.arrive(key, now).0 == Verdict::Admitted
    }

    #[test]
    fn a_call_is_admitted_at_the_windows_end_and_refused_a_nanosecond_before() {
        let mut judge = judge(2, None, &["a"]);
        let key = judge.identify("a").unwrap();
        assert!(admitted(&mut judge, key, 10));
        assert!(admitted(&mut judge, key, 20));
        let refused = |span| Verdict::OverLimit(Duration::from_nanos(span));
        assert_eq!(judge.arrive(key, 20).0, refused(WINDOW - 10));
        assert_eq!(judge.arrive(key, 9 + WINDOW).0, refused(1));
        assert!(admitted(&mut judge, key, 10 + WINDOW));
        assert_eq!(judge.arrive(key, 10 + WINDOW).0, refused(10));
        assert!(admitted(&mut judge, key, 20 + WINDOW));
    }

    #[test]
    fn a_refused_call_takes_nothing_from_the_limit_but_shows_in_the_window() {
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
    fn a_quota_says_what_is_used_and_when_none_is() {
        let mut judge = judge(3, None, &["a"]);
        let key = judge.identify("a").unwrap();
        judge.arrive(key, 0);
        let (_, quota) = judge.arrive(key, 400);
        let quota = quota.unwrap();
        assert_eq!((quota.limit, quota.used), (3, 2));
        assert_eq!(quota.reset, Duration::from_nanos(WINDOW));
        judge.arrive(key, 500);
        let (_, quota) = judge.arrive(key, 600);
        assert_eq!(quota.unwrap().reset, Duration::from_nanos(WINDOW - 100));
    }

    #[test]
    fn a_call_above_the_concurrency_is_busy_and_counts_against_the_limit() {
        let mut judge = judge(3, Some(1), &["a"]);
        let key = judge.identify("a").unwrap();
        assert!(admitted(&mut judge, key, 0));
        assert_eq!(judge.arrive(key, 1).0, Verdict::Busy);
        judge.finish(key, Outcome::Ok);
        assert!(admitted(&mut judge, key, 2));
        assert!(matches!(judge.arrive(key, 3).0, Verdict::OverLimit(_)));
        let report = judge.report(0, Vec::new());
        assert_eq!((report.rejected_503, report.rejected_429), (1, 1));
        assert_eq!((report.max_concurrent, report.ok), (2, 1));
    }

    #[test]
    fn any_key_is_known_where_none_is_named_up_to_a_bound() {
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
    fn the_verdicts_agree_with_a_count_over_the_whole_history() {
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

//! Admission of calls and counts of what arrived: each arrival is compared with all arrivals before it.
//!
//! Invariant: no key is admitted more often than its limits in any half-open window. A call at `t` is admitted
//! only if its cost and the costs charged at `a` with `t - a < window` are together at most the limit.
//!
//! Limits on requests of every model are ruled on when the head of a call was read, all others when its body was.
//! Each ruling charges all its limits or none.
//!
//! Times are nanoseconds from an epoch the caller picks, in the order of arrival. Arrivals older than a window are
//! dropped, so memory is bounded by the arrivals within one.

mod ledger;

pub(crate) use ledger::LimitUsage;

use crate::limit::{Limit, LimitUnit};
use crate::report::{KeyReport, LimitReport, masked};
use core::time::Duration;
use ledger::{Fit, Ledger, nanos};
use std::collections::HashMap;

/// Maximum number of keys if any key is accepted; later keys are unknown.
const MAX_KEYS: usize = 4096;

/// Maximum length of such a key; a longer one is unknown.
const MAX_KEY_BYTES: usize = 1_024;

#[derive(Clone, Debug)]
pub(crate) struct JudgeConfig {
    pub(crate) limits: Vec<Limit>,
    /// Arrivals are counted over this window even without a limit.
    pub(crate) window: Duration,
    /// Maximum number of calls in flight.
    pub(crate) max_concurrent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyId(usize);

/// The judge's decision about the head of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Admitted; in flight until [`Judge::finish`].
    Admitted,
    OverLimit(Refusal),
    /// Within the limits, and counted against them, but too many calls are in flight.
    Busy,
}

/// The limit that a call was refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) limit: Limit,
    pub(crate) used: u64,
    pub(crate) cost: u64,
    /// Time until the cost fits; `None` if it is above the limit itself.
    pub(crate) wait: Option<Duration>,
}

/// A key's use of the tightest limit of each unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usages {
    pub(crate) requests: Option<LimitUsage>,
    pub(crate) tokens: Option<LimitUsage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallEnd {
    Ok,
    Fault,
    Invalid,
    /// Refused for a limit that needs the body.
    OverLimit,
    /// The caller hung up, or the server stopped.
    Abandoned,
}

/// Counts of calls, for one key or all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallCounts {
    pub(crate) in_flight: u64,
    pub(crate) calls: u64,
    pub(crate) ok: u64,
    pub(crate) rejected_429: u64,
    pub(crate) rejected_503: u64,
    pub(crate) faults: u64,
    pub(crate) invalid: u64,
    pub(crate) abandoned: u64,
    pub(crate) max_concurrent: u64,
    /// Calls that arrived while their key was known to have to wait.
    pub(crate) early: u64,
}

/// Enforces the limits of every key and counts all calls.
#[derive(Debug)]
pub(crate) struct Judge {
    config: JudgeConfig,
    window: u64,
    open: bool,
    keys: Vec<KeyState>,
    /// By connection: the key that was told to wait by its last answer, and until when.
    told: HashMap<u64, (KeyId, u64)>,
    all: CallCounts,
}

impl Judge {
    /// Creates a judge that knows `keys`; with no keys given, it knows any key.
    pub(crate) fn new(config: JudgeConfig, keys: Vec<String>) -> Self {
        Self {
            window: nanos(config.window),
            open: keys.is_empty(),
            keys: keys
                .into_iter()
                .map(|key| KeyState::new(key, &config.limits))
                .collect(),
            config,
            told: HashMap::new(),
            all: CallCounts::default(),
        }
    }

    pub(crate) fn knows(&self, key: &str) -> bool {
        let has_room = || self.open && self.keys.len() < MAX_KEYS && key.len() <= MAX_KEY_BYTES;
        self.position(key).is_some() || has_room()
    }

    /// Returns the id of a known key. If any key is accepted, adds it.
    pub(crate) fn identify(&mut self, key: &str) -> Option<KeyId> {
        if !self.knows(key) {
            return None;
        }
        let position = self.position(key).unwrap_or_else(|| {
            let state = KeyState::new(key.to_owned(), &self.config.limits);
            self.keys.push(state);
            self.keys.len() - 1
        });
        Some(KeyId(position))
    }

    pub(crate) fn key(&self, key: KeyId) -> &str {
        &self.keys[key.0].key
    }

    /// Rules on a call whose head was read.
    pub(crate) fn arrive(&mut self, key: KeyId, now: u64) -> Ruling {
        let key = &mut self.keys[key.0];
        let ruling = key.rule(self.config.max_concurrent, now);
        key.count_arrival(self.window, now);
        let early = u64::from(now < key.waits_until);
        for counts in [&mut key.counts, &mut self.all] {
            counts.max_concurrent = counts.max_concurrent.max(counts.in_flight + 1);
            counts.calls += 1;
            counts.early += early;
            match ruling {
                Ruling::Admitted => counts.in_flight += 1,
                Ruling::OverLimit(_) => counts.rejected_429 += 1,
                Ruling::Busy => counts.rejected_503 += 1,
            }
        }
        ruling
    }

    /// Rules on the body of an admitted call, which asks for `tokens`.
    pub(crate) fn admit(
        &mut self,
        key: KeyId,
        model: &str,
        tokens: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        self.keys[key.0].charge(
            |limit| limit.needs_body() && limit.counts(model),
            tokens,
            now,
        )
    }

    /// Notes that an answer on a connection tells a key to wait, if it does.
    ///
    /// Calls that are under way on other connections can't heed it. So none is early before the caller has read the
    /// answer.
    pub(crate) fn tell_wait(
        &mut self,
        key: KeyId,
        connection: u64,
        wait: Option<Duration>,
        now: u64,
    ) {
        if let Some(wait) = wait {
            let until = now.saturating_add(nanos(wait));
            self.told.insert(connection, (key, until));
        }
    }

    /// Notes that the caller has read the last answer on a connection, as another call there shows, or its end.
    pub(crate) fn note_read(&mut self, connection: u64) {
        if let Some((key, until)) = self.told.remove(&connection) {
            let known = &mut self.keys[key.0].waits_until;
            *known = until.max(*known);
        }
    }

    /// Ends an admitted call. To be called once for each [`Ruling::Admitted`].
    pub(crate) fn finish(&mut self, key: KeyId, end: CallEnd) {
        for counts in [&mut self.keys[key.0].counts, &mut self.all] {
            counts.in_flight -= 1;
            match end {
                CallEnd::Ok => counts.ok += 1,
                CallEnd::Fault => counts.faults += 1,
                CallEnd::Invalid => counts.invalid += 1,
                CallEnd::OverLimit => counts.rejected_429 += 1,
                CallEnd::Abandoned => counts.abandoned += 1,
            }
        }
    }

    /// A key's use of its limits, of those for every model if `model` is not known yet.
    pub(crate) fn usages(&self, key: KeyId, model: Option<&str>, now: u64) -> Usages {
        let tightest = |unit| {
            let ledgers = self.keys[key.0].ledgers.iter();
            ledgers
                .filter(|ledger| ledger.limit.unit == unit)
                .filter(|ledger| match model {
                    Some(model) => ledger.limit.counts(model),
                    None => ledger.limit.model.is_none(),
                })
                .map(|ledger| ledger.usage(now))
                .min_by_key(|usage| (usage.remaining(), core::cmp::Reverse(usage.reset)))
        };
        Usages {
            requests: tightest(LimitUnit::Requests),
            tokens: tightest(LimitUnit::Tokens),
        }
    }

    /// Counts over all keys.
    pub(crate) const fn counts(&self) -> CallCounts {
        self.all
    }

    pub(crate) fn key_reports(&self) -> Vec<KeyReport> {
        self.keys.iter().map(KeyState::report).collect()
    }

    /// One report a limit, over all keys: the maximum of the windows, the sum of the refusals.
    pub(crate) fn limit_reports(&self) -> Vec<LimitReport> {
        let limits = self.config.limits.iter().enumerate();
        limits
            .map(|(index, limit)| {
                let mut total = Ledger::new(limit.clone()).report();
                for key in &self.keys {
                    let report = key.ledgers[index].report();
                    total.max_in_window = total.max_in_window.max(report.max_in_window);
                    total.refused += report.refused;
                }
                total
            })
            .collect()
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|state| state.key == key)
    }
}

struct KeyState {
    key: String,
    /// One for each configured limit, in the same order.
    ledgers: Vec<Ledger>,
    /// All arrivals of the last reported window, rejected ones included.
    recent: Vec<u64>,
    max_in_window: u64,
    /// End of the wait that the caller knows of.
    waits_until: u64,
    counts: CallCounts,
}

impl KeyState {
    fn new(key: String, limits: &[Limit]) -> Self {
        Self {
            key,
            ledgers: limits.iter().cloned().map(Ledger::new).collect(),
            recent: Vec::new(),
            max_in_window: 0,
            waits_until: 0,
            counts: CallCounts::default(),
        }
    }

    fn count_arrival(&mut self, window: u64, now: u64) {
        self.recent.retain(|at| now.saturating_sub(*at) < window);
        self.recent.push(now);
        self.max_in_window = self.max_in_window.max(self.recent.len() as u64);
    }

    /// Rules on an arrival at `now`; a call within the limits counts against them.
    fn rule(&mut self, max_concurrent: Option<u32>, now: u64) -> Ruling {
        if let Err(refusal) = self.charge(|limit| !limit.needs_body(), 0, now) {
            return Ruling::OverLimit(refusal);
        }
        match max_concurrent {
            Some(max) if self.counts.in_flight >= u64::from(max) => Ruling::Busy,
            Some(_) | None => Ruling::Admitted,
        }
    }

    /// Charges all the limits that `applies` picks, or none of them.
    fn charge(
        &mut self,
        applies: impl Fn(&Limit) -> bool,
        tokens: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        let cost = |limit: &Limit| match limit.unit {
            LimitUnit::Requests => 1,
            LimitUnit::Tokens => tokens,
        };
        let mut worst: Option<Refusal> = None;
        for ledger in self.ledgers.iter_mut().filter(|of| applies(&of.limit)) {
            let cost = cost(&ledger.limit);
            ledger.arrive(cost, now);
            let wait = match ledger.fit(cost, now) {
                Fit::Now => continue,
                Fit::After(wait) => Some(wait),
                Fit::Never => None,
            };
            ledger.refuse();
            // No wait at all is worse than any wait.
            let longest = |wait: Option<Duration>| wait.unwrap_or(Duration::MAX);
            if worst
                .as_ref()
                .is_none_or(|known| longest(known.wait) < longest(wait))
            {
                worst = Some(Refusal {
                    limit: ledger.limit.clone(),
                    used: ledger.usage(now).used,
                    cost,
                    wait,
                });
            }
        }
        if let Some(refusal) = worst {
            return Err(refusal);
        }
        for ledger in self.ledgers.iter_mut().filter(|of| applies(&of.limit)) {
            ledger.charge(cost(&ledger.limit), now);
        }
        Ok(())
    }

    fn report(&self) -> KeyReport {
        KeyReport {
            key: masked(&self.key),
            calls: self.counts.calls,
            ok: self.counts.ok,
            rejected_429: self.counts.rejected_429,
            max_in_window: self.max_in_window,
            max_concurrent: self.counts.max_concurrent,
            early: self.counts.early,
            limits: self.ledgers.iter().map(Ledger::report).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU64;

    const WINDOW: u64 = 1_000;

    fn limit(unit: LimitUnit, amount: u64) -> Limit {
        let amount = NonZeroU64::new(amount).unwrap();
        Limit::new(unit, amount, Duration::from_nanos(WINDOW))
    }

    fn judge_of(limits: Vec<Limit>, max_concurrent: Option<u32>, keys: &[&str]) -> Judge {
        Judge::new(
            JudgeConfig {
                limits,
                window: Duration::from_nanos(WINDOW),
                max_concurrent,
            },
            keys.iter().map(|key| (*key).to_owned()).collect(),
        )
    }

    fn judge(requests: u64, max_concurrent: Option<u32>, keys: &[&str]) -> Judge {
        judge_of(
            vec![limit(LimitUnit::Requests, requests)],
            max_concurrent,
            keys,
        )
    }

    fn admitted(judge: &mut Judge, key: KeyId, now: u64) -> bool {
        judge.arrive(key, now) == Ruling::Admitted
    }

    /// The wait of a refused head.
    fn wait(judge: &mut Judge, key: KeyId, now: u64) -> u128 {
        let Ruling::OverLimit(refusal) = judge.arrive(key, now) else {
            panic!("it was admitted");
        };
        refusal.wait.unwrap().as_nanos()
    }

    #[test]
    fn a_call_is_admitted_at_the_end_of_the_window_and_rejected_a_nanosecond_before() {
        let mut judge = judge(2, None, &["a"]);
        let key = judge.identify("a").unwrap();
        assert!(admitted(&mut judge, key, 10));
        assert!(admitted(&mut judge, key, 20));
        assert_eq!(wait(&mut judge, key, 20), u128::from(WINDOW) - 10);
        assert_eq!(wait(&mut judge, key, 9 + WINDOW), 1);
        assert!(admitted(&mut judge, key, 10 + WINDOW));
        assert_eq!(wait(&mut judge, key, 10 + WINDOW), 10);
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
        let keys = judge.key_reports();
        assert_eq!((keys[0].max_in_window, keys[1].max_in_window), (2, 1));
        assert_eq!(
            (keys[0].limits[0].max_in_window, keys[0].limits[0].refused),
            (2, 1)
        );
        let total = &judge.limit_reports()[0];
        assert_eq!((total.max_in_window, total.refused), (2, 1));
        assert_eq!((judge.counts().calls, judge.counts().rejected_429), (4, 1));
    }

    #[test]
    fn the_usage_has_the_used_calls_and_the_time_until_none_counts() {
        let mut judge = judge(3, None, &["a"]);
        let key = judge.identify("a").unwrap();
        judge.arrive(key, 0);
        judge.arrive(key, 400);
        let usage = |judge: &Judge, now| judge.usages(key, None, now).requests.unwrap();
        let at_400 = usage(&judge, 400);
        assert_eq!((at_400.amount, at_400.used, at_400.remaining()), (3, 2, 1));
        assert_eq!(at_400.reset, Duration::from_nanos(WINDOW));
        judge.arrive(key, 500);
        judge.arrive(key, 600);
        assert_eq!(usage(&judge, 600).reset, Duration::from_nanos(WINDOW - 100));
    }

    #[test]
    fn a_call_over_the_concurrency_is_busy_and_counts_against_the_limit() {
        let mut judge = judge(3, Some(1), &["a"]);
        let key = judge.identify("a").unwrap();
        assert!(admitted(&mut judge, key, 0));
        assert_eq!(judge.arrive(key, 1), Ruling::Busy);
        judge.finish(key, CallEnd::Ok);
        assert!(admitted(&mut judge, key, 2));
        assert!(matches!(judge.arrive(key, 3), Ruling::OverLimit(_)));
        let counts = judge.counts();
        assert_eq!((counts.rejected_503, counts.rejected_429), (1, 1));
        assert_eq!((counts.max_concurrent, counts.ok), (2, 1));
    }

    #[test]
    fn without_configured_keys_any_key_is_known_up_to_a_maximum() {
        let mut open = judge(1, None, &[]);
        assert!(open.knows("x"));
        assert_eq!(open.identify("x"), open.identify("x"));
        assert_eq!(open.identify(&"x".repeat(MAX_KEY_BYTES + 1)), None);
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
            let key = &judge.key_reports()[0];
            assert_eq!(Some(key.max_in_window as usize), most);
            assert_eq!(Some(key.limits[0].max_in_window as usize), most);
        }
    }

    #[test]
    fn tokens_are_admitted_as_soon_as_they_fit_and_not_before() {
        let mut judge = judge_of(vec![limit(LimitUnit::Tokens, 100)], None, &["a"]);
        let key = judge.identify("a").unwrap();
        assert_eq!(judge.admit(key, "m", 60, 0), Ok(()));
        assert_eq!(judge.admit(key, "m", 30, 100), Ok(()));
        let wait = |judge: &mut Judge, tokens, now| {
            let refusal = judge.admit(key, "m", tokens, now).unwrap_err();
            assert_eq!(refusal.cost, tokens);
            refusal.wait.map(|wait| wait.as_nanos())
        };
        assert_eq!(wait(&mut judge, 11, 200), Some(800));
        assert_eq!(wait(&mut judge, 71, 200), Some(900));
        assert_eq!(
            wait(&mut judge, 101, 200),
            None,
            "it is above the limit itself"
        );
        assert_eq!(judge.admit(key, "m", 10, 200), Ok(()));
        assert_eq!(judge.admit(key, "m", 60, WINDOW), Ok(()));
        let report = &judge.limit_reports()[0];
        assert_eq!((report.amount, report.refused), (100, 3));
        assert_eq!(report.max_in_window, 60 + 30 + 11 + 71 + 101 + 10);
    }

    #[test]
    fn a_body_refused_for_one_limit_is_charged_to_none() {
        let limits = vec![
            limit(LimitUnit::Tokens, 100),
            limit(LimitUnit::Requests, 1).of_model("m"),
        ];
        let mut judge = judge_of(limits, None, &["a"]);
        let key = judge.identify("a").unwrap();
        assert_eq!(judge.admit(key, "m", 40, 0), Ok(()));
        assert!(judge.admit(key, "m", 40, 1).is_err());
        assert_eq!(judge.admit(key, "other", 60, 2), Ok(()));
        let usages = judge.usages(key, Some("m"), 2);
        assert_eq!(usages.tokens.unwrap().used, 100);
        assert_eq!(usages.requests.unwrap().remaining(), 0);
        assert_eq!(judge.usages(key, Some("other"), 2).requests, None);
    }

    #[test]
    fn a_call_is_early_before_the_told_time_once_the_caller_knows_it() {
        let mut judge = judge(9, None, &["a"]);
        let key = judge.identify("a").unwrap();
        judge.tell_wait(key, 1, Some(Duration::from_nanos(40)), 10);
        judge.tell_wait(key, 2, Some(Duration::from_nanos(5)), 15);
        judge.tell_wait(key, 3, None, 16);
        // It may have been under way.
        judge.arrive(key, 19);
        (1..=3).for_each(|connection| judge.note_read(connection));
        judge.arrive(key, 49);
        judge.arrive(key, 50);
        assert_eq!((judge.counts().early, judge.key_reports()[0].early), (1, 1));
    }
}

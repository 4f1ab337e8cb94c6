//! The addresses of a name: how long they are used, and when the name is looked up again.
//!
//! Invariant: addresses that were found are used until others are, however often a look-up fails meanwhile. It reads no
//! clock and looks nothing up.

use core::net::SocketAddr;
use core::ops::RangeInclusive;
use core::time::Duration;
use std::sync::Arc;
use tokio::time::Instant;

/// How long addresses are used before their name is looked up again, where DNS says nothing of it.
const KEPT: Duration = Duration::from_secs(30);
/// The shortest and the longest of such times that are taken from DNS.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// The pause after the first failure; each further one is twice as long, up to [`KEPT`].
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Failures in a row after which the pause is [`KEPT`].
const MAX_DOUBLINGS: u32 = 5;

/// The addresses of a name.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// `None` until the first are found.
    known: Option<Arc<[SocketAddr]>>,
    /// When the name is looked up again; `None` while that is under way.
    due: Option<Instant>,
    /// Look-ups that failed since the last one that did not.
    failures: u32,
}

/// What a look-up has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) addresses: Vec<SocketAddr>,
    /// How long they hold; `None` if that was not told.
    pub(crate) ttl: Option<Duration>,
}

/// How a connection comes to an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It uses these.
    Use(Arc<[SocketAddr]>),
    /// It uses these, and has the name looked up beside that.
    Refresh(Arc<[SocketAddr]>),
    /// It waits for a look-up of its own.
    LookUp,
}

/// What there is to tell of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The first failure in a row, while addresses are known.
    Lost,
    /// The first success after it.
    Back,
}

impl Addresses {
    /// Says what a connection does; one of them at a time is told to refresh.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        let Some(known) = &self.known else {
            return Step::LookUp;
        };
        let known = Arc::clone(known);
        match self.due {
            Some(due) if due <= now => {
                self.due = None;
                Step::Refresh(known)
            }
            Some(_) | None => Step::Use(known),
        }
    }

    /// The addresses; none until some were found.
    pub(crate) fn known(&self) -> &[SocketAddr] {
        self.known.as_deref().unwrap_or_default()
    }

    /// When the name is to be looked up again; `None` if it never was.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes the result of a look-up. One without addresses has failed.
    pub(crate) fn finish(&mut self, now: Instant, found: &Found) -> Option<News> {
        if !found.addresses.is_empty() {
            let was_lost = core::mem::take(&mut self.failures) > 0 && self.known.is_some();
            self.known = Some(found.addresses.as_slice().into());
            let ttl = found.ttl.map(|ttl| ttl.clamp(*TTL.start(), *TTL.end()));
            self.due = Some(now + ttl.unwrap_or(KEPT));
            return was_lost.then_some(News::Back);
        }
        let doublings = self.failures.min(MAX_DOUBLINGS);
        self.due = Some(now + KEPT.min(AFTER_FAILURE * 2_u32.pow(doublings)));
        self.failures = self.failures.saturating_add(1);
        (self.failures == 1 && self.known.is_some()).then_some(News::Lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;
    use proptest::prelude::*;

    fn found(port: u16, ttl: Option<u64>) -> Found {
        Found {
            addresses: vec![address(port)],
            ttl: ttl.map(Duration::from_secs),
        }
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn a_name_that_was_never_found_is_looked_up_by_each_connection() {
        let mut addresses = Addresses::default();
        let now = now();
        assert_eq!(addresses.step(now), Step::LookUp);
        assert_eq!(addresses.finish(now, &Found::default()), None);
        assert_eq!(addresses.step(now), Step::LookUp);
        assert_eq!(addresses.finish(now, &found(1, None)), None);
        assert_eq!(addresses.step(now), Step::Use([address(1)].into()));
    }

    #[test]
    fn one_connection_at_a_time_refreshes_and_none_waits_for_it() {
        let mut addresses = Addresses::default();
        let begun = now();
        let _ = addresses.finish(begun, &found(1, None));
        let known: Arc<[_]> = [address(1)].into();
        let just_before = begun + KEPT - Duration::from_nanos(1);
        assert_eq!(addresses.step(just_before), Step::Use(Arc::clone(&known)));
        assert_eq!(
            addresses.step(begun + KEPT),
            Step::Refresh(Arc::clone(&known))
        );
        assert_eq!(addresses.step(begun + KEPT * 9), Step::Use(known));
    }

    proptest! {
        /// Each step is a pause in ms and the result of a look-up, if one is asked for: a port, or 0 for a failure, and
        /// a lifetime in seconds.
        #[test]
        fn addresses_outlive_failures_which_are_told_once(
            steps in proptest::collection::vec(
                (0_u64..40_000, prop_oneof![Just(0_u16), 1_u16..4], proptest::option::of(0_u64..1_000)),
                1..60,
            ),
        ) {
            let (mut addresses, mut now) = (Addresses::default(), now());
            let mut last: Option<SocketAddr> = None;
            let (mut failures, mut next) = (0_u32, now);
            for (pause, port, ttl) in steps {
                now += Duration::from_millis(pause);
                let asks = match addresses.step(now) {
                    Step::LookUp => {
                        prop_assert_eq!(last, None);
                        true
                    }
                    Step::Use(known) => {
                        prop_assert_eq!(Some(known[0]), last);
                        prop_assert!(now < next);
                        false
                    }
                    Step::Refresh(known) => {
                        prop_assert_eq!(Some(known[0]), last);
                        prop_assert!(now >= next);
                        true
                    }
                };
                if !asks {
                    continue;
                }
                let found = if port > 0 { found(port, ttl) } else { Found::default() };
                let news = addresses.finish(now, &found);
                let expected = match (last, port, failures) {
                    (Some(_), 0, 0) => Some(News::Lost),
                    (Some(_), 1.., 1..) => Some(News::Back),
                    _ => None,
                };
                prop_assert_eq!(news, expected);
                // 1, 2, 4, 8, 16 and 30 s after failures; what DNS says after a success, from 1 s to 5 min.
                let seconds = match port {
                    0 => (1 << failures.min(5)).min(30),
                    _ => ttl.map_or(30, |ttl| ttl.clamp(1, 300)),
                };
                prop_assert_eq!(addresses.due(), Some(now + Duration::from_secs(seconds)));
                failures = if port == 0 { failures + 1 } else { 0 };
                next = now + Duration::from_secs(seconds);
                last = found.addresses.first().copied().or(last);
                prop_assert_eq!(addresses.known().first().copied(), last);
            }
        }
    }
}

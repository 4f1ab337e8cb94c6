//! Alerts: when an operator is told of a condition, and that it is over.
//!
//! Invariant: begin and end of an alert are told by turns, the begin first.

use crate::time::Tick;
use core::time::Duration;

/// Settings of an [`Alert`].
///
/// A condition that comes and goes is told of once: it begins an alert when it has held for `hold`, and the alert
/// ends when the condition has been absent for `clear`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AlertConfig {
    /// The time that the condition has to hold before it is told; zero tells at the first observation.
    pub hold: Duration,
    /// The time that the condition has to be absent before the alert is over; zero ends at the first observation.
    pub clear: Duration,
    /// The pause after which an alert whose condition still holds is told again; `None` tells once.
    pub repeat: Option<Duration>,
}

/// An alert of one condition, which is observed now and then.
///
/// Changes are reported only at observations; a late one reports late. Every operation costs O(1); memory is 64 bytes.
///
/// Source: the states of alerting rules in Prometheus (`for`, `keep_firing_for`), and of its Alertmanager
/// (`repeat_interval`).
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::health::{Alert, AlertConfig, AlertChange};
/// use leasehold_core::time::Tick;
///
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// let (hold, clear) = (Duration::from_secs(10), Duration::from_secs(30));
/// let config = AlertConfig { hold, clear, repeat: None };
/// let mut alert = Alert::default();
/// assert_eq!(alert.observe(&config, at(0), true), None);
/// assert_eq!(alert.observe(&config, at(10), true), Some(AlertChange::Began { since: at(0) }));
/// // It comes and goes: still the same alert.
/// assert_eq!(alert.observe(&config, at(20), false), None);
/// assert_eq!(alert.observe(&config, at(45), true), None);
/// assert_eq!(alert.observe(&config, at(50), false), None);
/// let ended = AlertChange::Ended { since: at(0), until: at(50) };
/// assert_eq!(alert.observe(&config, at(80), false), Some(ended));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alert {
    latest: Tick,
    /// The first of the latest observations in a row with the condition, while it is not told; and then the begin of
    /// the alert.
    since: Option<Tick>,
    /// When it was told last; `None` while it is not told.
    told: Option<Tick>,
    /// The first of the latest observations in a row without the condition.
    absent: Option<Tick>,
}

/// Change of an alert that an operator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertChange {
    /// The condition holds.
    Began {
        /// The observation since which it has held.
        since: Tick,
    },
    /// The condition holds still or again, a `repeat` after it was last told.
    Lasts {
        /// The begin of the alert.
        since: Tick,
    },
    /// The condition is over.
    Ended {
        /// The begin of the alert.
        since: Tick,
        /// The observation since which the condition has been absent.
        until: Tick,
    },
}

impl Alert {
    /// Notes whether the condition holds, and returns what is to be told of it.
    ///
    /// Time that runs backwards counts as the latest time.
    pub fn observe(&mut self, config: &AlertConfig, now: Tick, holds: bool) -> Option<AlertChange> {
        let now = now.max(self.latest);
        self.latest = now;
        match holds {
            true => self.observe_present(config, now),
            false => self.observe_absent(config, now),
        }
    }

    /// Returns the begin of the alert that was told and is not over.
    #[must_use]
    pub const fn since(&self) -> Option<Tick> {
        match self.told {
            Some(_) => self.since,
            None => None,
        }
    }

    /// Whether nothing would change if it were forgotten: no condition holds, and none was told.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.since.is_none()
    }

    fn observe_present(&mut self, config: &AlertConfig, now: Tick) -> Option<AlertChange> {
        self.absent = None;
        let since = *self.since.get_or_insert(now);
        let change = match (self.told, config.repeat) {
            (None, _) => now
                .since(since)
                .ge(&config.hold)
                .then_some(AlertChange::Began { since }),
            (Some(told), Some(repeat)) => now
                .since(told)
                .ge(&repeat)
                .then_some(AlertChange::Lasts { since }),
            (Some(_), None) => None,
        };
        if change.is_some() {
            self.told = Some(now);
        }
        change
    }

    fn observe_absent(&mut self, config: &AlertConfig, now: Tick) -> Option<AlertChange> {
        if self.told.is_none() {
            self.since = None;
            return None;
        }
        let until = *self.absent.get_or_insert(now);
        if now.since(until) < config.clear {
            return None;
        }
        self.told = None;
        self.absent = None;
        let since = self.since.take()?;
        Some(AlertChange::Ended { since, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Tick {
        Tick::from_nanos(secs.saturating_mul(1_000_000_000))
    }

    const CONFIG: AlertConfig = AlertConfig {
        hold: Duration::from_secs(10),
        clear: Duration::from_secs(5),
        repeat: Some(Duration::from_secs(60)),
    };

    #[test]
    fn a_condition_that_is_absent_for_one_observation_has_to_hold_anew() {
        let mut alert = Alert::default();
        for (secs, holds) in [(0, true), (9, true), (10, false), (11, true), (20, true)] {
            assert_eq!(alert.observe(&CONFIG, at(secs), holds), None, "{secs}");
        }
        let began = AlertChange::Began { since: at(11) };
        assert_eq!(alert.observe(&CONFIG, at(21), true), Some(began));
        assert_eq!(alert.since(), Some(at(11)));
    }

    #[test]
    fn an_alert_is_told_again_after_each_repeat_while_its_condition_holds() {
        let mut alert = Alert::default();
        alert.observe(&CONFIG, at(0), true);
        assert!(alert.observe(&CONFIG, at(10), true).is_some());
        assert_eq!(alert.observe(&CONFIG, at(69), true), None);
        assert_eq!(alert.observe(&CONFIG, at(70), false), None);
        let lasts = Some(AlertChange::Lasts { since: at(0) });
        assert_eq!(alert.observe(&CONFIG, at(72), true), lasts);
        assert_eq!(alert.observe(&CONFIG, at(131), true), None);
        assert_eq!(alert.observe(&CONFIG, at(132), true), lasts);
    }

    #[test]
    fn an_alert_without_times_begins_and_ends_at_once() {
        let config = AlertConfig {
            hold: Duration::ZERO,
            clear: Duration::ZERO,
            repeat: None,
        };
        let mut alert = Alert::default();
        assert!(alert.is_idle());
        let began = Some(AlertChange::Began { since: at(7) });
        assert_eq!(alert.observe(&config, at(7), true), began);
        assert!(!alert.is_idle());
        // The clock was set back.
        let (since, until) = (at(7), at(7));
        let ended = Some(AlertChange::Ended { since, until });
        assert_eq!(alert.observe(&config, at(3), false), ended);
        assert!(alert.is_idle() && alert.since().is_none());
    }
}

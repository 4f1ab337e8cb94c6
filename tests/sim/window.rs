//! A brute-force count of what arrives, held against a limit.
//!
//! Invariant: no half-open window that ends at an arrival holds more than the limit.

use crate::schedule::Nanos;
use std::collections::VecDeque;

/// Records every arrival, and panics if a window exceeds its limit. Shares no code with the core.
#[derive(Clone, Debug)]
pub(crate) struct WindowOracle {
    name: &'static str,
    limit: u64,
    window: Nanos,
    arrivals: VecDeque<(Nanos, u64)>,
    /// The most units that a window has held.
    most: u64,
}

impl WindowOracle {
    pub(crate) const fn new(name: &'static str, limit: u32, window: Nanos) -> Self {
        Self {
            name,
            limit: limit as u64,
            window,
            arrivals: VecDeque::new(),
            most: 0,
        }
    }

    /// Records an arrival. Arrivals come in order of time, so only the window that ends now can be new.
    pub(crate) fn record(&mut self, now: Nanos, units: u64) {
        self.arrivals.push_back((now, units));
        while let Some((first, _)) = self.arrivals.front()
            && first + self.window <= now
        {
            self.arrivals.pop_front();
        }
        let held: u64 = self.arrivals.iter().map(|(_, units)| units).sum();
        self.most = self.most.max(held);
        assert!(
            held <= self.limit,
            "{} saw {held} of {} within {} ns at {now} ns",
            self.name,
            self.limit,
            self.window
        );
    }

    /// Whether a window ever held exactly its limit.
    pub(crate) const fn has_been_full(&self) -> bool {
        self.most == self.limit
    }
}

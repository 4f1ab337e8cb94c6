//! The pauses between tries to reach a lease service: each twice as long as the one before, up to a longest.

use core::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);

/// The pause before the next try.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause(Duration);

impl Pause {
    /// Returns the next pause, at most this long.
    pub(super) fn next(&mut self, longest: Duration) -> Duration {
        let Self(last) = *self;
        self.0 = last.saturating_mul(2).clamp(FIRST, longest);
        self.0
    }
}

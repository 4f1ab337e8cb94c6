//! What all algorithms have in common: the trait, its answers and its errors.

use crate::time::Tick;
use core::time::Duration;

/// The bound on a window's buckets, so that no text can make one take gigabytes.
pub(super) const MAX_BUCKETS: u32 = 65_536;

/// The event from which a window counts an admission.
///
/// An upstream counts arrivals, and a request arrives somewhere between its grant and its completion. With
/// [`Grant`](Self::Grant), a slow first call and a fast later one can arrive closer together than they were granted, so
/// that the upstream sees more than the limit. With [`Completion`](Self::Completion), the calls in flight and those
/// completed within the window never exceed the limit, whatever the arrivals between grant and completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Anchor {
    /// Windows count from the grant: for limits on grants themselves.
    Grant,
    /// Windows count from completion: for limits that an upstream enforces.
    #[default]
    Completion,
}

/// When a cost can be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At this tick and not before, provided that nothing else is admitted or settled until then.
    Until(Tick),
    /// Not before something in flight is settled.
    ForSettlement,
    /// Never: the cost is above the limit, or the last tick comes first.
    Never,
}

/// Why a limit could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitConfigError {
    /// The window has no length.
    #[error("a window needs a length above zero")]
    EmptyWindow,
    /// The window is longer than a [`Tick`] can count.
    #[error("a window may be at most 584 years long")]
    WindowTooLong,
    /// The window can't be cut into that many buckets of whole nanoseconds.
    #[error("the window's nanoseconds must be a multiple of the number of buckets")]
    UnevenBuckets,
    /// The window has more buckets than [`BucketedWindow::MAX_BUCKETS`](super::BucketedWindow::MAX_BUCKETS).
    #[error("a window may have at most {MAX_BUCKETS} buckets")]
    TooManyBuckets,
    /// The limit or burst is too large to be counted exactly in its window.
    #[error("the limit or burst is too large for its window to be counted exactly")]
    TooFine,
}

/// Why a snapshot was not restored.
#[cfg(feature = "serde")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The snapshot holds a configuration that no limit can have.
    #[error("the snapshot's configuration is wrong: {0}")]
    Config(#[from] LimitConfigError),
    /// The snapshot holds a state that no machine can be in.
    #[error("the snapshot contradicts itself")]
    Contradiction,
}

/// A limiting algorithm: admits, settles, and answers when to ask again.
///
/// An admitted cost is booked at a tick. When its use has ended, [`settle`](Self::settle) takes that tick, the cost
/// reserved and the cost really used. Under [`Anchor::Completion`] a cost that is never settled stays in flight. A
/// refusal leaves the state bit for bit as it was.
pub trait Limit {
    /// Admits `cost` units and answers the tick they are booked at, or changes nothing.
    ///
    /// A cost of zero is always admitted, and booked, because it may be settled at more.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) answers.
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait>;

    /// When `cost` units can be admitted: `Until(now)` if at once.
    ///
    /// The tick is exact: the cost is admitted at it, and refused one tick before.
    fn earliest(&self, now: Tick, cost: u32) -> Wait;

    /// Books `cost` units, whether they fit or not, and answers the tick they are booked at.
    fn charge(&mut self, now: Tick, cost: u32) -> Tick;

    /// Ends the use of a booked cost: `reserved` units become the `actual` ones.
    ///
    /// `actual` may be larger; the limit then owes the difference. An algorithm that credits less than the whole
    /// difference when `actual` is smaller says so in its own docs.
    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32);

    /// Whether a cost may count from its [arrival](Self::arrive) instead of its settlement: windows under
    /// [`Anchor::Completion`].
    fn counts_arrivals(&self) -> bool {
        false
    }

    /// Starts the window of a booked cost before its settlement, because its call has arrived at the upstream.
    ///
    /// Changes only limits that [count arrivals](Self::counts_arrivals), to which an arrival is what a completion would
    /// be. The cost is then ended by [`settle_arrived`](Self::settle_arrived).
    fn arrive(&mut self, now: Tick, reserved: u32) {
        if self.counts_arrivals() {
            self.settle(now, now, reserved, reserved);
        }
    }

    /// Ends the use of a booked cost that has [arrived](Self::arrive).
    ///
    /// A limit that counts it from its arrival credits nothing, because the upstream has seen all of it; units above
    /// the reservation count from `now`.
    fn settle_arrived(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        if self.counts_arrivals() {
            self.settle(now, booked, 0, actual.saturating_sub(reserved));
        } else {
            self.settle(now, booked, reserved, actual);
        }
    }

    /// Returns a booked cost that was not used.
    fn refund(&mut self, now: Tick, booked: Tick, reserved: u32) {
        self.settle(now, booked, reserved, 0);
    }

    /// The largest cost that is ever admitted: the limit of a window, or a burst.
    fn capacity(&self) -> u32;

    /// The largest cost that is admitted at `now`.
    fn available(&self, now: Tick) -> u32;

    /// Whether the limiter decides like a new one from `now` on: nothing in flight, nothing still counted.
    fn is_idle(&self, now: Tick) -> bool;

    /// The first tick after `now` at which more is available, if nothing happens until then.
    fn next_change(&self, now: Tick) -> Option<Tick> {
        let more = self.available(now).checked_add(1)?;
        match self.earliest(now, more) {
            Wait::Until(tick) => Some(tick),
            Wait::ForSettlement | Wait::Never => None,
        }
    }

    /// Translates the state to another clock, which shows `to` when this one shows `from`.
    ///
    /// A tick that the other clock can't show becomes the nearest one it can; an admission may then count for longer,
    /// never for less. Callers must translate the ticks of their bookings likewise. A booking at or before the other
    /// clock's epoch is not credited if it is settled at less than was reserved.
    fn rebase(&mut self, from: Tick, to: Tick);

    /// The most units that are ever admitted in a half-open span of this length.
    ///
    /// It holds if nothing is charged beyond the limit or settled above its reservation. Under
    /// [`Anchor::Completion`] it holds for any arrival between grant and settlement.
    fn worst_case(&self, span: Duration) -> u64;
}

/// The later of two waits.
pub(super) fn later(a: Wait, b: Wait) -> Wait {
    match (a, b) {
        (Wait::Never, _) | (_, Wait::Never) => Wait::Never,
        (Wait::ForSettlement, _) | (_, Wait::ForSettlement) => Wait::ForSettlement,
        (Wait::Until(a), Wait::Until(b)) => Wait::Until(a.max(b)),
    }
}

/// Checks that the window or bucket that begins at `start` holds `latest`.
#[cfg(feature = "serde")]
pub(super) fn check_start(
    start: u64,
    latest: Tick,
    width: core::num::NonZeroU64,
) -> Result<(), SnapshotError> {
    match latest.as_nanos().checked_sub(start) {
        Some(within) if within < width.get() => Ok(()),
        Some(_) | None => Err(SnapshotError::Contradiction),
    }
}

/// The nanoseconds of a window, if an algorithm can work with them.
pub(super) fn window_nanos(window: Duration) -> Result<u64, LimitConfigError> {
    match u64::try_from(window.as_nanos()) {
        Ok(0) => Err(LimitConfigError::EmptyWindow),
        Ok(nanos) => Ok(nanos),
        Err(_) => Err(LimitConfigError::WindowTooLong),
    }
}

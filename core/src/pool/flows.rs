//! Flows: the weights, limits and bounds of the sources of requests.
//!
//! Invariant: a flow has a state here if it was configured, or if all flows have bounds and it holds a lease or
//! something of it still counts; its limits hold exactly what the leases of the flow have booked.

use crate::limit::{Booking, Cost, LimitSet, Wait};
use crate::time::Tick;
use alloc::collections::BTreeMap;
use core::num::NonZeroU16;
use core::ops::Bound;

/// What a flow may use, and its share while it waits.
///
/// ```
/// use core::num::{NonZeroU16, NonZeroU32};
/// use leasehold_core::limit::{Concurrency, LimitSet, Unit};
/// use leasehold_core::pool::FlowConfig;
///
/// let two = NonZeroU32::new(2).unwrap();
/// let caller = FlowConfig::new()
///     .weight(NonZeroU16::new(3).unwrap())
///     .limits(LimitSet::new().with(Unit::Requests, Concurrency::new(two)))
///     .max_waiters(100);
/// ```
#[derive(Clone, Debug)]
pub struct FlowConfig {
    weight: NonZeroU16,
    limits: LimitSet,
    max_waiters: u32,
}

/// The unit of cost by which flows share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShareBy {
    /// Flows get requests in proportion to their weights.
    #[default]
    Requests,
    /// Flows get tokens in proportion to their weights. A request without tokens counts as one.
    Tokens,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl FlowConfig {
    /// A flow of weight 1 without limits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            weight: NonZeroU16::MIN,
            limits: LimitSet::new(),
            max_waiters: u32::MAX,
        }
    }

    /// Its share, in proportion to the weights of other flows that wait.
    #[must_use]
    pub fn weight(mut self, weight: NonZeroU16) -> Self {
        self.weight = weight;
        self
    }

    /// Limits over all its leases, taken all or none with those of the member, its group and the pool. While they
    /// hold back a flow's first request, requests of other flows go ahead.
    #[must_use]
    pub fn limits(mut self, limits: LimitSet) -> Self {
        self.limits = limits;
        self
    }

    /// The bound on its queued requests; more are refused.
    #[must_use]
    pub fn max_waiters(mut self, max: u32) -> Self {
        self.max_waiters = max;
        self
    }

    fn has_bounds(&self) -> bool {
        !self.limits.is_empty() || self.max_waiters < u32::MAX
    }

    pub(super) fn counts_classes(&self) -> bool {
        self.limits.counts_classes()
    }
}

/// The figures of a flow that the pool keeps a state of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct FlowStats {
    /// The flow.
    pub flow: u64,
    /// Its weight.
    pub weight: NonZeroU16,
    /// Its requests queued now.
    pub waiting: u32,
    /// Leases held by it now.
    pub held: u32,
    /// Leases granted to it since the pool keeps a state of it.
    pub granted: u64,
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct FlowState {
    /// Whether it was configured by itself.
    is_own: bool,
    weight: NonZeroU16,
    max_waiters: u32,
    limits: LimitSet,
    #[cfg_attr(feature = "serde", serde(skip))]
    held: u32,
    granted: u64,
}

impl FlowState {
    fn new(config: &FlowConfig, is_own: bool) -> Self {
        Self {
            is_own,
            weight: config.weight,
            max_waiters: config.max_waiters,
            limits: config.limits.clone(),
            held: 0,
            granted: 0,
        }
    }

    #[cfg(feature = "serde")]
    pub(super) fn limits_mut(&mut self) -> &mut LimitSet {
        &mut self.limits
    }
}

#[derive(Clone, Debug)]
pub(super) struct Flows {
    default: FlowConfig,
    /// Whether the default has limits or a bound, so that every flow has a state.
    has_bounds: bool,
    states: BTreeMap<u64, FlowState>,
    /// The flow looked at last for removal.
    swept: u64,
}

impl Flows {
    pub(super) fn new(default: FlowConfig) -> Self {
        Self {
            has_bounds: default.has_bounds(),
            default,
            states: BTreeMap::new(),
            swept: 0,
        }
    }

    /// Whether any flow has settings, so that requests are to be held to them.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        !self.has_bounds && self.states.is_empty()
    }

    #[inline]
    pub(super) fn weight(&self, flow: u64) -> NonZeroU16 {
        if self.states.is_empty() {
            return self.default.weight;
        }
        let state = self.states.get(&flow);
        state.map_or(self.default.weight, |state| state.weight)
    }

    pub(super) fn max_waiters(&self, flow: u64) -> u32 {
        let state = self.states.get(&flow);
        state.map_or(self.default.max_waiters, |state| state.max_waiters)
    }

    /// Lets each flow queue any number of requests.
    pub(super) fn lift_max_waiters(&mut self) {
        self.default.max_waiters = u32::MAX;
        for state in self.states.values_mut() {
            state.max_waiters = u32::MAX;
        }
    }

    /// When a flow's limits admit a cost.
    pub(super) fn earliest(&self, now: Tick, flow: u64, class: u32, cost: Cost) -> Wait {
        let state = self.states.get(&flow);
        let limits = state.map_or(&self.default.limits, |state| &state.limits);
        limits.earliest(now, class, cost)
    }

    /// Whether a flow's limits would ever admit a cost.
    pub(super) fn fits(&self, flow: u64, class: u32, cost: Cost) -> bool {
        let state = self.states.get(&flow);
        let limits = state.map_or(&self.default.limits, |state| &state.limits);
        limits.fits(class, cost)
    }

    /// Books a grant.
    pub(super) fn charge(&mut self, now: Tick, flow: u64, class: u32, cost: Cost) -> Option<Tick> {
        if self.has_bounds {
            let fresh = || FlowState::new(&self.default, false);
            self.states.entry(flow).or_insert_with(fresh);
        }
        let state = self.states.get_mut(&flow)?;
        state.held = state.held.saturating_add(1);
        state.granted = state.granted.saturating_add(1);
        let booking = state.limits.charge(now, class, cost);
        self.sweep(now);
        Some(booking.at())
    }

    /// Starts the windows of a booking that has not arrived.
    pub(super) fn arrive(&mut self, now: Tick, flow: u64, mut booking: Booking, cost: Cost) {
        if let Some(state) = self.states.get_mut(&flow) {
            state.limits.arrive(now, &mut booking, cost);
        }
    }

    pub(super) fn settle(
        &mut self,
        now: Tick,
        flow: u64,
        booking: Booking,
        reserved: Cost,
        actual: Cost,
    ) {
        if let Some(state) = self.states.get_mut(&flow) {
            state.held = state.held.saturating_sub(1);
            state.limits.settle(now, booking, reserved, actual);
        }
        self.sweep(now);
    }

    /// Configures a flow, or with `None` lets it be as the others. The leases it holds are to be
    /// [rebooked](Self::rebook).
    pub(super) fn set(&mut self, flow: u64, config: Option<&FlowConfig>) {
        let granted = self.states.get(&flow).map_or(0, |state| state.granted);
        let mut state = FlowState::new(config.unwrap_or(&self.default), config.is_some());
        state.granted = granted;
        self.states.insert(flow, state);
    }

    /// Books a lease that the flow already holds.
    pub(super) fn rebook(&mut self, now: Tick, flow: u64, class: u32, cost: Cost) -> Option<Tick> {
        let state = self.states.get_mut(&flow)?;
        state.held = state.held.saturating_add(1);
        Some(state.limits.charge(now, class, cost).at())
    }

    /// Removes idle states among the next few: two for each that a grant can create.
    fn sweep(&mut self, now: Tick) {
        for _ in 0..2 {
            let after = (Bound::Excluded(self.swept), Bound::Unbounded);
            let next = self.states.range(after).next();
            let Some((flow, state)) = next.or_else(|| self.states.first_key_value()) else {
                return;
            };
            self.swept = *flow;
            if !state.is_own && state.held == 0 && state.limits.is_idle(now) {
                self.states.remove(&self.swept);
            }
        }
    }

    /// The figures of all flows with a state, except their waiters.
    pub(super) fn stats(&self) -> impl Iterator<Item = FlowStats> {
        self.states.iter().map(|(flow, state)| FlowStats {
            flow: *flow,
            weight: state.weight,
            waiting: 0,
            held: state.held,
            granted: state.granted,
        })
    }

    pub(super) fn counts_classes(&self) -> bool {
        let states = self.states.values();
        let mut limits = states.map(|state| &state.limits);
        self.default.counts_classes() || limits.any(LimitSet::counts_classes)
    }

    /// The state of a flow without settings of its own, if it has bounds.
    #[cfg(feature = "serde")]
    pub(super) fn fresh(&self) -> Option<FlowState> {
        self.has_bounds
            .then(|| FlowState::new(&self.default, false))
    }

    #[cfg(feature = "serde")]
    pub(super) fn saved(&self) -> alloc::vec::Vec<(u64, FlowState)> {
        let states = self.states.iter();
        let states = states.map(|(flow, state)| {
            let state = FlowState {
                held: 0,
                ..state.clone()
            };
            (*flow, state)
        });
        states.collect()
    }

    /// Enters saved states, on a clock that shows `to` when theirs would show `from`.
    #[cfg(feature = "serde")]
    pub(super) fn restore(
        &mut self,
        saved: alloc::vec::Vec<(u64, FlowState)>,
        from: Tick,
        to: Tick,
    ) {
        self.default.limits.rebase(from, to);
        for (flow, mut state) in saved {
            state.limits.rebase(from, to);
            self.states.insert(flow, state);
        }
    }

    /// Counts a restored lease.
    #[cfg(feature = "serde")]
    pub(super) fn hold(&mut self, flow: u64) {
        if let Some(state) = self.states.get_mut(&flow) {
            state.held = state.held.saturating_add(1);
        }
    }
}

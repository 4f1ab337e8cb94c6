//! The pool itself, and what drives it: time, timeouts, events, and members handed over to waiters.
//!
//! Invariant: after each command, no request at the head of its lane has a member that is ready for it,
//! unless the pool's own limits forbid it, or it waits for a faster one.

use super::charges::{Charge, ChargeLog};
use super::config::PoolConfig;
use super::event::Event;
use super::fast_failures::FastFailures;
use super::flows::Flows;
use super::groups::SharedLimits;
use super::ids::{LeaseId, WaiterId};
use super::labels::LabelSets;
use super::lanes::Lanes;
use super::leases::Leases;
use super::member_state::EligibilityContext;
use super::members::Members;
use super::outcome::LeaseEnd;
use super::postpone::Origin;
use super::queue::Queue;
use super::request::Request;
use super::stats::Figures;
use super::times::FleetTimes;
use crate::affinity::Affinity;
use crate::health::OutlierDetector;
use crate::time::{Tick, earliest};
use crate::util::slab::Handle;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// Leases members to requests, in order of arrival and within every member's limits.
///
/// Commands cost O(log n) in members, leases and waiters, for each lane that the member or waiter is in, and
/// as much again for each thing that became due since the last command. On top of that:
/// - every command looks at all lanes in which requests wait;
/// - where the costs of requests in one lane differ, each change judges the members again that a limit held
///   back for the last cost;
/// - a grant or release in a [group](super::Member::group) at its limit judges all members of the group;
/// - where work is [weighed by time](super::PoolConfigBuilder::weigh_by_time), each grant looks at all lanes in which requests
///   wait, and at all members where few requests do;
/// - these look at all members: the first request of a lane, the beginning and end of panic, an outlier
///   sweep, a queued request that costs more than one request, and a refusal where no member is to be
///   ready by itself.
///
/// A command on an id that is stale, or of another pool, is an error: it only does what became due.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_core::balance::Policy;
/// use leasehold_core::pool::{Acquired, Event, Member, Outcome, Pool, PoolConfig, Request};
/// use leasehold_core::time::Tick;
///
/// let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
/// let now = Tick::ZERO;
/// pool.add(now, Member::new("http://127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
///
/// let Acquired::Granted(first) = pool.acquire(now, Request::new())? else { panic!() };
/// let Acquired::Waiting(second) = pool.acquire(now, Request::new())? else { panic!() };
/// pool.release(now, first.lease, Outcome::Ok)?;
/// assert!(matches!(pool.poll_event(), Some(Event::Granted { waiter, .. }) if waiter == second));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pool<T> {
    pub(super) config: PoolConfig,
    pub(super) clock: Clock,
    pub(super) is_closed: bool,
    pub(super) members: Members<T>,
    pub(super) shared: SharedLimits,
    pub(super) label_sets: LabelSets,
    pub(super) flows: Flows,
    pub(super) lanes: Lanes,
    /// Whether classes have lanes of their own, because something is counted by class.
    pub(super) by_class: bool,
    pub(super) queue: Queue,
    pub(super) leases: Leases,
    /// The log of charges, if one is kept.
    pub(super) charges: Option<ChargeLog>,
    pub(super) fast_failures: FastFailures,
    pub(super) outlier: Option<OutlierDetector>,
    /// Members by session.
    pub(super) sessions: Option<Affinity<Handle>>,
    pub(super) times: FleetTimes,
    pub(super) figures: Figures,
    pub(super) events: VecDeque<Event<T>>,
}

/// The present, and the order of what happens in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The latest time seen.
    pub(super) now: Tick,
    /// The tick up to which due work is done; `now` except while catching up.
    pub(super) as_of: Tick,
    /// Grants, releases and arrivals so far.
    pub(super) sequence: u64,
}

impl Clock {
    fn starting_at(now: Tick) -> Self {
        Self {
            now,
            as_of: now,
            sequence: 0,
        }
    }

    /// The context in which eligibility is judged now.
    fn context<'a>(
        &self,
        config: &'a PoolConfig,
        shared: &'a SharedLimits,
        label_sets: &'a LabelSets,
        in_panic: bool,
    ) -> EligibilityContext<'a> {
        EligibilityContext {
            config,
            shared,
            label_sets,
            now: self.now,
            as_of: self.as_of,
            in_panic,
        }
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }
}

impl<T> Pool<T> {
    /// A pool without members.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self::at(config, Tick::ZERO, [NonZeroU32::MIN; 3])
    }

    /// A pool without members whose clock shows `now`, and whose members, leases and waiters get handles of
    /// these generations or later.
    pub(super) fn at(
        mut config: PoolConfig,
        now: Tick,
        [members, leases, waiters]: [NonZeroU32; 3],
    ) -> Self {
        let outlier = config.outlier.as_ref();
        let flows = Flows::new(core::mem::take(&mut config.each_flow));
        let by_class = config.limits.counts_classes() || flows.counts_classes();
        Self {
            clock: Clock::starting_at(now),
            is_closed: false,
            members: Members::starting_at_generation(config.id, members),
            shared: SharedLimits::new(core::mem::take(&mut config.limits)),
            label_sets: LabelSets::new(),
            flows,
            lanes: Lanes::new(),
            by_class: by_class || config.weighs_by_time(),
            queue: Queue::starting_at_generation(waiters, config.share_by),
            leases: Leases::starting_at(leases, config.first_fence.saturating_sub(1)),
            charges: config.block_permille.map(ChargeLog::new),
            fast_failures: FastFailures::new(),
            outlier: outlier.map(|config| OutlierDetector::new(config, now)),
            sessions: config.affinity.take(),
            times: FleetTimes::new(config.policy.half_life(), now),
            figures: Figures::default(),
            events: VecDeque::new(),
            config,
        }
    }

    /// Does what is due: expires leases, times out requests, opens windows and hands members over.
    ///
    /// It does so in order of time. A request is granted if a member became ready before its deadline, and
    /// times out if that was at its deadline or later. Probes, slow starts and outlier sweeps are as of
    /// `now`, however late that is.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.advance(now);
    }

    /// The tick at which [`handle_timeout`](Self::handle_timeout) is wanted next; `None` means never.
    /// O(lanes in which requests wait).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let sweep = self
            .outlier
            .as_ref()
            .and_then(OutlierDetector::poll_timeout);
        let others = earliest(
            earliest(self.leases.next_expiry(), self.queue.next_timer()),
            earliest(self.members.next_timer(), sweep),
        );
        if self.lanes.awaited().is_empty() {
            return others;
        }
        let awaited = self.lanes.awaited().iter();
        let ready = awaited.map(|lane| self.ready_at(*lane));
        let ready = ready.chain([self.fast_failures.next_end()]);
        ready.fold(others, earliest)
    }

    /// The tick at which a lane's head may be served; `None` where that is now or not known.
    fn ready_at(&self, lane: u32) -> Option<Tick> {
        let tick = self.lanes.get(lane)?.ready_at()?;
        self.queue.next(lane).map(|_| tick)
    }

    /// Something that no command asked for, oldest first.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event<T>> {
        self.events.pop_front()
    }

    /// Whether a lease was granted whose call must not be sent before the [charges](Self::take_charges) so far are
    /// written, or 1,024 of them wait. Always false where no log is [kept](super::PoolConfigBuilder::log_charges).
    #[must_use]
    pub fn charges_due(&self) -> bool {
        self.charges.as_ref().is_some_and(ChargeLog::is_due)
    }

    /// The charges since they were taken last, in order, to be written to a log.
    ///
    /// They must be written at once where they are [due](Self::charges_due), and should be written now and then
    /// otherwise: a lease whose end was not written counts from the restart after a crash. A
    /// [`PoolSnapshot`](super::PoolSnapshot) replaces all charges taken before it.
    #[must_use]
    pub fn take_charges(&mut self) -> Vec<Charge> {
        self.charges
            .as_mut()
            .map(ChargeLog::take)
            .unwrap_or_default()
    }

    /// Does what became due since the last command, as [`handle_timeout`](Self::handle_timeout) says. Health
    /// is as of now, since no probe can have been made before. Grants are made now, whenever they could
    /// have been.
    pub(super) fn advance(&mut self, now: Tick) {
        self.clock.now = self.clock.now.max(now);
        while let Some(member) = self.members.due(self.clock.now) {
            self.handle_timer(member);
        }
        self.sweep();
        self.hand_over();
        while let Some(due) = self.poll_timeout().filter(|due| *due <= self.clock.now) {
            self.clock.as_of = self.clock.as_of.max(due);
            self.catch_up();
        }
        self.clock.as_of = self.clock.now;
        self.end_fast_failures();
        self.hand_over();
    }

    /// Does what is due as of `as_of`.
    fn catch_up(&mut self) {
        let as_of = self.clock.as_of;
        self.end_fast_failures();
        while let Some((lease, member)) = self.leases.due(as_of) {
            self.events.push_back(Event::Expired {
                lease: LeaseId::new(self.config.id, lease),
                member: self.members.id(member),
            });
            if self.finish_lease(lease, LeaseEnd::Expired).is_err() {
                break;
            }
        }
        while let Some((waiter, left)) = self.queue.pop_due(as_of) {
            self.figures.record_timeout();
            self.events.push_back(Event::TimedOut {
                waiter: WaiterId::new(self.config.id, waiter),
                cause: self.cause_of_wait(left.lane, &left.request),
            });
            self.waiter_left(left.lane);
            self.rejudge_flow(left.request.flow);
        }
        while let Some(head) = self.queue.parked_due(as_of) {
            self.judge_head(head);
        }
        for at in 0..self.lanes.awaited().len() {
            if let Some(lane) = self.lanes.awaited().get(at).copied()
                && self.ready_at(lane).is_some_and(|tick| tick <= as_of)
            {
                self.lanes.flag(lane);
            }
        }
        self.hand_over();
    }

    /// Grants members that are ready to the requests at the heads of their lanes.
    pub(super) fn hand_over(&mut self) {
        if self.lanes.awaited().is_empty() && !self.lanes.has_flagged() {
            return;
        }
        self.flag_dependent();
        while let Some((lane, waiter)) = self.next_flagged() {
            if self.serve(lane, waiter).is_some() {
                self.flag_dependent();
                self.consider(lane);
            } else {
                self.lanes.unflag(lane);
            }
        }
        if self.config.weighs_by_time() {
            self.note_postponed();
        }
    }

    /// Takes the flagged lane whose head is served first, and that head. Lanes without a head are unflagged.
    fn next_flagged(&mut self) -> Option<(u32, Handle)> {
        while let Some(lane) = self.lanes.pop_flagged() {
            self.consider(lane);
        }
        while let Some((turn, lane)) = self.lanes.pop_candidate() {
            match self.queue.next(lane) {
                Some((present, waiter)) if present == turn => return Some((lane, waiter)),
                // Turns only move back while members are handed over. The others have moved with this one.
                Some(_) | None => {
                    self.consider(lane);
                    for lane in self.lanes.take_candidates() {
                        self.consider(lane);
                    }
                }
            }
        }
        None
    }

    /// Makes a flagged lane a candidate, if it has a head that may be served.
    fn consider(&mut self, lane: u32) {
        if self.config.weighs_by_time()
            && let Some(known) = self.lanes.get_mut(lane)
        {
            // The member that its head did not take may be ready no more.
            known.postponement = None;
        }
        let Some((turn, waiter)) = self.queue.next(lane) else {
            self.lanes.unflag(lane);
            return;
        };
        let known = self.lanes.get(lane);
        let cost = self.queue.waiter(waiter).map(|waiter| waiter.request.cost);
        // The lane's index tells by itself that no member is ready, if it was judged for this cost.
        let is_idle = known
            .is_some_and(|known| Some(known.wanted) == cost && !known.may_serve(self.clock.as_of));
        if is_idle && self.is_exact(lane) && self.shared.is_empty() {
            self.lanes.unflag(lane);
        } else {
            self.lanes.push_candidate(turn, lane);
        }
    }

    /// Grants a member to the head of a lane; `None` if no member is ready for it.
    fn serve(&mut self, lane: u32, waiter: Handle) -> Option<()> {
        let request = self.queue.waiter(waiter)?.request;
        let slot = self.select(lane, &request, Origin::Queue(waiter)).ok()?;
        let (waiter, queued) = self.queue.pop(lane)?;
        if let Some(grant) = self.grant(lane, slot, &request, queued.since, true) {
            let waiter = WaiterId::new(self.config.id, waiter);
            self.events.push_back(Event::Granted { waiter, grant });
        }
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.record_served(self.clock.now);
        }
        self.flag_lanes_of(&request);
        self.waiter_left(lane);
        Some(())
    }

    /// Flags the lanes in which a flow waits that has had its turn: their heads may have changed.
    pub(super) fn flag_lanes_of(&mut self, request: &Request) {
        for lane in self.queue.lanes_of(request) {
            self.lanes.flag(*lane);
        }
    }

    /// Flags the lanes whose heads may be served because of another member or lane: all in which requests wait, if members
    /// share limits; else those whose head waits for a faster member.
    fn flag_dependent(&mut self) {
        if !self.shared.is_empty() {
            self.lanes.flag_awaited();
        } else if self.config.weighs_by_time() {
            self.lanes.flag_postponed();
        }
    }

    /// Notes that a request no longer waits in a lane.
    pub(super) fn waiter_left(&mut self, lane: u32) {
        if self.queue.len_of(lane) > 0 {
            self.lanes.flag(lane);
        } else {
            self.lanes.set_awaited(lane, false);
            self.lanes.remove_if_pinned_and_idle(lane);
        }
    }

    /// Splits off the parts that decide over a member's position in the lanes.
    pub(super) fn indexing(&mut self) -> (&mut Lanes, &Members<T>, EligibilityContext<'_>) {
        let in_panic = self.members.in_panic();
        let ctx = self
            .clock
            .context(&self.config, &self.shared, &self.label_sets, in_panic);
        (&mut self.lanes, &self.members, ctx)
    }

    /// The state of the pool that decides over members together with their own.
    pub(super) fn context(&self) -> EligibilityContext<'_> {
        let in_panic = self.members.in_panic();
        self.clock
            .context(&self.config, &self.shared, &self.label_sets, in_panic)
    }

    /// Judges a member again in all its lanes.
    pub(super) fn reindex(&mut self, slot: u32) {
        let (lanes, members, ctx) = self.indexing();
        if let Some(member) = members.at(slot)
            && lanes.reindex(slot, member, &ctx)
            && let Some(group) = member.group
        {
            self.shared.hold_back(group);
        }
    }

    /// Judges a member again in one lane.
    pub(super) fn reindex_in(&mut self, lane: u32, slot: u32) {
        let (lanes, members, ctx) = self.indexing();
        if let Some(member) = members.at(slot)
            && lanes.reindex_in(lane, slot, member, &ctx)
            && let Some(group) = member.group
        {
            self.shared.hold_back(group);
        }
    }

    pub(super) fn reindex_all(&mut self) {
        for slot in self.members.slots() {
            self.reindex(slot);
        }
    }
}

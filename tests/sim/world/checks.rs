//! The checks: every grant and refusal, every member once a second, and the pool's figures.

use super::member::Membership;
use super::{SimEvent, World};
use crate::schedule::SEC;
use crate::settings::{
    BUDGET_PER_SECOND, BUDGET_PERMILLE, BUDGET_RESERVE, LEASE_TTL, MAX_WAITERS, MEMBERS, TIER_0,
    labels, tick,
};
use leasehold_core::pool::{AcquireError, Eligibility, Grant};

impl World {
    pub(super) fn check_refusal(&self, number: u32, error: AcquireError) {
        let task = &self.tasks[number as usize];
        match error {
            AcquireError::DeadlineTooSoon { at, .. } => {
                assert!(at >= tick(task.deadline), "{at:?} is soon enough");
                for (member, reason) in self.pool.explain(&task.request) {
                    let ready = matches!(reason, Eligibility::Ready | Eligibility::LowerTier);
                    assert!(!ready, "{member:?} could serve at once");
                }
            }
            AcquireError::QueueFull { .. } => assert_eq!(self.waiting.len(), MAX_WAITERS as usize),
            AcquireError::PinnedMemberRemoved => {}
            AcquireError::Closed
            | AcquireError::NotReady { .. }
            | AcquireError::NeverFits
            | AcquireError::FlowQueueFull { .. }
            | AcquireError::ForeignLabels
            | AcquireError::TooManyLanes => panic!("{error} for {task:?}"),
        }
    }

    pub(super) fn check_grant(&self, number: u32, index: usize, grant: Grant) {
        let (now, member) = (self.now, &self.members[index]);
        assert_eq!(
            member.membership,
            Membership::Present(grant.member),
            "{index} was removed"
        );
        assert!(member.is_in_service(), "{index} is out of service");
        assert_eq!(grant.expires, Some(tick(now + LEASE_TTL)));
        let needed = self.tasks[number as usize].labels;
        assert_eq!(
            labels(index) & needed,
            needed,
            "{index} lacks labels of {number}"
        );
        assert!(member.throttled_until <= now, "{index} was throttled");
        assert!(
            member.breaker.open_until <= now,
            "{index} has an open breaker"
        );
        assert!(
            member.is_healthy(now) || self.is_in_panic(),
            "{index} is unhealthy"
        );
    }

    pub(super) fn check(&mut self) {
        self.after(SEC, SimEvent::Check);
        assert!(
            self.now <= self.plan.length + 300 * SEC,
            "tasks or leases are left"
        );
        for index in 0..MEMBERS {
            self.check_member(index);
        }
        for number in self.waiting.values().take(3) {
            let task = &self.tasks[*number as usize];
            // With token costs, the first of the lane may cost more than this one and rightly wait.
            if task.tokens == 0 {
                let mut reasons = self.pool.explain(&task.request);
                let ready = reasons.find(|(_, reason)| *reason == Eligibility::Ready);
                assert_eq!(ready, None, "{task:?} waits for nothing");
            }
        }
        if self.now.is_multiple_of(10 * SEC) {
            self.check_stats();
        }
    }

    /// Checks that a member is up again in time, is drained in time, and doesn't idle for too long.
    fn check_member(&mut self, index: usize) {
        let now = self.now;
        let member = &mut self.members[index];
        assert!(
            !member.draining || member.in_flight > 0,
            "{index} is drained without an event"
        );
        if member.upstream.fault.is_some() || !member.is_in_service() {
            member.excuse_idle_until(now);
            return;
        }
        assert!(
            !member.down || now <= member.up_by,
            "{index} is still down, and was due up at {}",
            member.up_by
        );
        if index < TIER_0 && now <= self.plan.length {
            let since = member.last_grant.max(member.idle_excused_until);
            let idle = now.saturating_sub(since);
            self.sum.longest_idle = self.sum.longest_idle.max(idle);
            assert!(idle <= self.plan.max_idle, "{index} is starved at {now}");
        }
    }

    /// Compares the pool's figures with those of the world.
    pub(super) fn check_stats(&self) {
        let stats = self.pool.stats();
        let (ours, theirs) = (self.sum.counts, stats.total);
        assert_eq!(ours, theirs);
        let in_flight = self.calls.len() as u64;
        let ended = ours.ok + ours.failed + ours.throttled + ours.not_sent + ours.expired;
        assert_eq!(
            theirs.granted,
            ended + in_flight,
            "granted = ended + in flight"
        );
        let (queue, waiting) = (&self.queue, &stats.waiting);
        assert_eq!(waiting.waiting as usize, self.waiting.len());
        assert_eq!(waiting.refused, queue.refused);
        assert_eq!(waiting.cancelled, queue.cancelled);
        assert_eq!(waiting.timed_out, queue.timed_out);
        for member in &stats.members {
            let ours = &self.members[self.index(member.member)];
            assert_eq!(member.in_flight, ours.in_flight);
            assert_eq!(member.counts.granted, ours.granted);
        }
        assert_eq!(
            self.sum.queued,
            queue.granted
                + waiting.cancelled
                + waiting.timed_out
                + queue.pinned_member_removed
                + u64::from(waiting.waiting),
            "queued = granted + cancelled + timed out + refused + waiting"
        );
    }

    /// Checks at the end that no lease and no task is left, and the bounds on retries and timeouts.
    pub(super) fn check_totals(&self) {
        let stats = self.pool.stats();
        assert!(stats.members.iter().all(|member| member.in_flight == 0));
        let sum = &self.sum;
        let ended = sum.served + sum.refused + sum.timed_out + sum.cancelled;
        assert_eq!(sum.tasks, ended, "a task is lost");
        let seconds = self.now / SEC + 1;
        let retries = u64::from(BUDGET_RESERVE)
            + sum.tasks * u64::from(BUDGET_PERMILLE) / 1_000
            + seconds * u64::from(BUDGET_PER_SECOND);
        assert!(sum.retries <= retries, "{} of {retries}", sum.retries);
        assert!(
            sum.timeouts <= 2 * sum.events,
            "{} timeouts for {} events",
            sum.timeouts,
            sum.events
        );
    }
}

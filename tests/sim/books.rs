//! What the world holds the pool to: each grant and refusal, and all the figures.

use super::{Happening, Place, World};
use crate::settings::{
    BREAKER_CAP, BREAKER_PROBE_TIMEOUT, MEMBERS, NEAREST, PANIC_PERMILLE, TTL, labels, tick,
};
use crate::upstream::SEC;
use leasehold_core::pool::{AcquireError, Eligibility, Grant};

impl World {
    pub(super) fn judge_refusal(&self, number: u32, error: AcquireError) {
        let task = &self.tasks[number as usize];
        match error {
            AcquireError::DeadlineTooSoon { at, .. } => {
                assert!(at >= tick(task.deadline), "{at:?} is soon enough");
                for (member, reason) in self.pool.explain(&task.request) {
                    let ready = matches!(reason, Eligibility::Ready | Eligibility::LowerTier);
                    assert!(!ready, "{member:?} could serve at once");
                }
            }
            AcquireError::QueueFull { .. } => assert_eq!(self.waiting.len(), 3_000),
            AcquireError::PinnedMemberRemoved => {}
            AcquireError::Closed
            | AcquireError::NotReady { .. }
            | AcquireError::NeverFits
            | AcquireError::TooManyLanes => panic!("{error} for {task:?}"),
        }
    }

    pub(super) fn judge_grant(&self, number: u32, at: usize, grant: Grant) {
        let (now, known) = (self.now, &self.members[at]);
        assert_eq!(known.place, Place::In(grant.member), "{at} was removed");
        assert!(known.enabled && known.weight > 0, "{at} is out of service");
        assert_eq!(grant.expires, Some(tick(now + TTL)));
        let needed = self.tasks[number as usize].labels;
        assert_eq!(labels(at) & needed, needed, "{at} can't do {number}");
        assert!(known.rests_until <= now, "{at} was throttled");
        assert!(known.open_until <= now, "{at} has an open breaker");
        if known.down || known.ejected_until > now {
            assert!(self.is_panic(), "{at} is left out");
        }
    }

    /// Whether so few members are healthy that health is ignored.
    pub(super) fn is_panic(&self) -> bool {
        let enabled = self.members.iter().filter(|known| {
            matches!(known.place, Place::In(_)) && known.enabled && known.weight > 0
        });
        let healthy = enabled
            .clone()
            .filter(|known| !known.down && known.ejected_until <= self.now);
        healthy.count() * 1_000 < enabled.count() * usize::from(PANIC_PERMILLE)
    }

    pub(super) fn check(&mut self) {
        self.after(SEC, Happening::Check);
        let now = self.now;
        assert!(
            now <= self.plan.span + 300 * SEC,
            "tasks or leases are left"
        );
        self.reopen();
        for at in 0..MEMBERS {
            let known = &mut self.members[at];
            let out = !matches!(known.place, Place::In(_)) || !known.enabled || known.weight == 0;
            assert!(
                !known.draining || known.live > 0,
                "{at} is drained, and nobody told"
            );
            if known.upstream.fault.is_some() {
                known.excused = known.excused.max(now);
                continue;
            }
            assert!(
                out || !known.down || now <= known.up_by,
                "{at} is well again since {} and not up",
                known.up_by
            );
            if out {
                known.excused = known.excused.max(now);
            } else if at < NEAREST && now <= self.plan.span {
                let idle = now.saturating_sub(known.last_grant.max(known.excused));
                self.sum.longest_idle = self.sum.longest_idle.max(idle);
                assert!(idle <= self.plan.idle, "{at} is starved at {now}");
            }
        }
        for number in self.waiting.values().take(3) {
            let task = &self.tasks[*number as usize];
            // In a lane where costs differ, who comes first may cost more.
            if task.tokens == 0 {
                let mut reasons = self.pool.explain(&task.request);
                let could = reasons.find(|(_, reason)| *reason == Eligibility::Ready);
                assert_eq!(could, None, "{task:?} waits for nothing");
            }
        }
        if now.is_multiple_of(10 * SEC) {
            self.compare();
        }
    }

    /// Notes the breakers that have opened because a call that tried them had no answer in time, of which
    /// the pool doesn't tell: see `a_breaker_that_a_silent_probe_opens_is_told_of`.
    fn reopen(&mut self) {
        for call in self.calls.values() {
            let known = &mut self.members[call.at];
            let deadline = call.granted + BREAKER_PROBE_TIMEOUT;
            if call.epoch == Some(known.epoch) && deadline <= self.now {
                known.excused = known.excused.max(deadline + BREAKER_CAP);
                known.epoch += 1;
                known.trying = 0;
            }
        }
    }

    /// Holds the pool's figures against those of the world.
    pub(super) fn compare(&self) {
        let stats = self.pool.stats();
        let (ours, theirs) = (self.sum.counts, stats.total);
        assert_eq!(ours, theirs);
        let live = self.calls.len() as u64;
        let ended = ours.ok + ours.failed + ours.throttled + ours.not_sent + ours.expired;
        assert_eq!(theirs.granted, ended + live, "granted = ended + live");
        let waiting = &stats.waiting;
        assert_eq!(waiting.waiting as usize, self.waiting.len());
        assert_eq!(waiting.refused, self.waiting_refused);
        assert_eq!(waiting.cancelled, self.waiting_cancelled);
        assert_eq!(waiting.timed_out, self.waiting_timed_out);
        for member in &stats.members {
            let known = &self.members[self.index(member.member)];
            assert_eq!(member.in_flight, known.live);
            assert_eq!(member.counts.granted, known.granted);
        }
        assert_eq!(
            self.sum.queued,
            self.granted_waiting
                + waiting.cancelled
                + waiting.timed_out
                + self.pins_removed
                + u64::from(waiting.waiting),
            "queued = granted + cancelled + timed out + refused + waiting"
        );
    }
}

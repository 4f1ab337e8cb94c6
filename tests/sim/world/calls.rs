//! Calls under leases: from the grant over the arrival at the upstream to the release or expiry.

use super::tasks::{End, Stage};
use super::{SimEvent, World};
use crate::schedule::{MS, Nanos, SEC};
use crate::settings::{BREAKER_PROBES, CALL_TIMEOUT, LEASE_TTL, TIER_0, group, max_leases, tick};
use crate::upstream::Answer;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{Grant, LeaseId, MemberId, Outcome, Release};
use leasehold_core::retry::AttemptFailure;

#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    task: u32,
    member: usize,
    granted: Nanos,
    expires: Nanos,
    /// The answer and when the client receives it; known once the call has arrived.
    answer: Option<(Nanos, Answer)>,
    tokens: u32,
    /// Whether the client dies before it releases the lease.
    is_lost: bool,
    is_sent: bool,
    /// The epoch of the half-open breaker that it probes.
    breaker_epoch: Option<u64>,
}

impl World {
    pub(super) fn start_call(&mut self, number: u32, grant: Grant) {
        let (now, lease) = (self.now, grant.lease);
        let index = self.index(grant.member);
        self.record(("granted", number, index));
        self.check_grant(number, index, grant);
        let breaker_epoch = self.count_grant(index);
        let rng = &mut self.rng;
        let is_sent = rng.u32(..1_000) >= 5;
        let is_lost = rng.u32(..1_000) < 2;
        let transit = match rng.u32(..50) {
            0 => rng.u64(..2 * SEC),
            _ => rng.u64(MS..20 * MS),
        };
        let task = &mut self.tasks[number as usize];
        task.stage = Stage::Calling;
        let tokens = match task.tokens {
            0 => 0,
            estimate => rng.u32(1..=estimate),
        };
        let call = Call {
            task: number,
            member: index,
            granted: now,
            expires: now + LEASE_TTL,
            answer: None,
            tokens,
            is_lost,
            is_sent,
            breaker_epoch,
        };
        assert!(
            self.calls.insert(lease, call).is_none(),
            "a lease was granted twice"
        );
        if is_sent {
            self.after(transit, SimEvent::CallArrival(lease));
        } else if !is_lost {
            self.after(transit, SimEvent::Answer(lease));
        }
    }

    /// Counts a grant, and returns the epoch of the member's breaker if it is half-open.
    fn count_grant(&mut self, index: usize) -> Option<u64> {
        self.sum.counts.granted += 1;
        self.sum.tier_1_grants += u64::from(index >= TIER_0);
        let member = &mut self.members[index];
        member.in_flight += 1;
        member.granted += 1;
        member.last_grant = self.now;
        let breaker = &mut member.breaker;
        let epoch = breaker.is_tripped.then_some(breaker.epoch);
        if breaker.is_tripped {
            breaker.probes += 1;
            assert!(
                breaker.probes <= BREAKER_PROBES,
                "{index} has too many half-open calls"
            );
        }
        assert!(
            member.in_flight <= max_leases(index),
            "{index} has too many leases"
        );
        epoch
    }

    pub(super) fn arrive(&mut self, lease: LeaseId) {
        let call = self.calls.get_mut(&lease).expect("no call is that slow");
        let (now, index) = (self.now, call.member);
        let member = &mut self.members[index];
        member.arrivals.record(now, 1);
        self.pool_arrivals.record(now, 1);
        if let Some(group) = group(index) {
            self.group_arrivals[group].record(now, 1);
        }
        let class = self.tasks[call.task as usize].class;
        if let Some(tokens) = &mut member.tokens {
            tokens[class as usize].record(now, call.tokens.into());
        }
        let (mut end, mut answer) = member.upstream.take(now, &mut self.rng);
        if end > call.granted + CALL_TIMEOUT {
            (end, answer) = (call.granted + CALL_TIMEOUT, Answer::Failed);
        }
        call.answer = Some((end, answer));
        let (is_lost, expires) = (call.is_lost, call.expires);
        if !is_lost {
            self.at(end, SimEvent::Answer(lease));
            if end >= expires - SEC {
                self.at(expires - SEC, SimEvent::Renewal(lease));
            }
        }
    }

    pub(super) fn renew(&mut self, lease: LeaseId) {
        let now = self.now;
        let Some(call) = self.calls.get_mut(&lease) else {
            return;
        };
        let renewed = self.pool.renew(tick(now), lease);
        assert_eq!(renewed, Ok(Some(tick(now + LEASE_TTL))));
        call.expires = now + LEASE_TTL;
        let outlasts = |(end, _)| end >= now + LEASE_TTL - SEC;
        if call.answer.is_some_and(outlasts) {
            self.after(LEASE_TTL - SEC, SimEvent::Renewal(lease));
        }
    }

    pub(super) fn answer(&mut self, lease: LeaseId) {
        let call = self.calls.get(&lease).copied().expect("its client lives");
        let (outcome, failure) = self.judge_answer(call);
        self.record(("answered", call.task, failure.is_none()));
        self.close_call(lease);
        let release = Release::from(outcome).cost(Cost {
            requests: 1,
            tokens: call.tokens,
        });
        let released = self.pool.release(tick(self.now), lease, release);
        assert_eq!(released, Ok(()), "{call:?}");
        let is_cancelled = self.tasks[call.task as usize].is_cancelled;
        match failure {
            _ if is_cancelled => self.end(call.task, End::Cancelled),
            None => self.end(call.task, End::Served),
            Some(failure) => self.retry_later(call.task, failure),
        }
    }

    /// Counts an answer, and returns its meaning for the pool and for the task.
    fn judge_answer(&mut self, call: Call) -> (Outcome, Option<AttemptFailure>) {
        let counts = &mut self.sum.counts;
        match call.answer {
            None => {
                assert!(!call.is_sent);
                counts.not_sent += 1;
                (Outcome::NotSent, Some(AttemptFailure::MemberUnusable))
            }
            Some((_, Answer::Served)) => {
                counts.ok += 1;
                (Outcome::Ok, None)
            }
            Some((_, Answer::Failed)) => {
                counts.failed += 1;
                (Outcome::Failed, Some(AttemptFailure::Failed))
            }
            Some((_, Answer::Throttled { retry_after })) => {
                counts.throttled += 1;
                let until = self.now + retry_after;
                let member = &mut self.members[call.member];
                member.throttled_until = member.throttled_until.max(until);
                member.excuse_idle_until(until);
                let until = tick(until);
                (
                    Outcome::Throttled { until },
                    Some(AttemptFailure::Throttled),
                )
            }
        }
    }

    pub(super) fn expire(&mut self, lease: LeaseId, member: MemberId) {
        let call = self.close_call(lease);
        assert!(call.is_lost, "the client of {call:?} lives");
        assert_eq!(self.now, call.expires);
        assert_eq!(self.index(member), call.member);
        self.sum.counts.expired += 1;
        self.record(("expired", call.task));
        if self.tasks[call.task as usize].is_cancelled {
            self.end(call.task, End::Cancelled);
        } else {
            self.retry_later(call.task, AttemptFailure::Failed);
        }
    }

    fn close_call(&mut self, lease: LeaseId) -> Call {
        let call = self.calls.remove(&lease).expect("it is in flight");
        let member = &mut self.members[call.member];
        member.in_flight -= 1;
        if call.breaker_epoch == Some(member.breaker.epoch) {
            member.breaker.probes -= 1;
        }
        call
    }
}

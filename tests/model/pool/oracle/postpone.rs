//! Expected ends, and requests that wait for a faster member.

use super::super::case::{Ask, Choice, End};
use super::{Kind, Opening, Oracle, OracleLease, State};
use leasehold_core::pool::Eligibility;

/// A wait for a faster member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Postponement {
    pub(super) again_at: u64,
    until: u64,
}

/// When a member would serve the next call.
#[derive(Clone, Copy, Debug)]
struct Prospect {
    free: u64,
    mean: u64,
    late_at: Option<u64>,
    is_late: bool,
}

impl Prospect {
    fn ends(self) -> u64 {
        self.free + self.mean
    }

    /// The jobs that it ends before a tick.
    fn jobs_before(self, tick: u64) -> u64 {
        tick.saturating_sub(self.free).saturating_sub(1) / self.mean
    }
}

impl Oracle {
    /// The nanoseconds that a call of a class takes on a member: the mean of the class, else that of all classes.
    pub(super) fn estimate_of(&self, member: usize, class: u32) -> Option<u64> {
        let service = &self.members[member].service;
        let own = service.get(&class).copied();
        let over_all = service
            .values()
            .sum::<u64>()
            .checked_div(service.len() as u64);
        own.or(over_all).map(|mean| mean.max(1))
    }

    fn jobs_of(&self, member: usize) -> impl Iterator<Item = &OracleLease> {
        let leases = self.leases.iter();
        leases.filter(move |lease| lease.live && lease.member == member)
    }

    /// The nanoseconds of the jobs ahead of the next one.
    pub(super) fn ahead_of_next(&self, member: usize, mean: u64) -> u64 {
        let own = self.jobs_of(member).map(|job| job.expected.unwrap_or(mean));
        let others = self
            .jobs(member)
            .saturating_sub(self.jobs_of(member).count() as u64);
        own.sum::<u64>() + others * mean
    }

    fn prospect(&self, member: usize, class: u32) -> Option<Prospect> {
        let mean = self.estimate_of(member, class)?;
        let ahead = self.ahead_of_next(member, mean);
        let began = self.members[member].began;
        let first = self.jobs_of(member).next();
        let late_at = first.map(|first| began + 2 * first.expected.unwrap_or(mean));
        Some(Prospect {
            free: match first {
                Some(_) => self.as_of.max(began + ahead),
                None => self.as_of + ahead,
            },
            mean,
            late_at,
            is_late: late_at.is_some_and(|late| late <= self.as_of),
        })
    }

    /// Enters that a member is about to get a job.
    pub(super) fn enter_job(&mut self, member: usize) {
        if self.jobs_of(member).next().is_none() {
            self.members[member].began = self.now;
        }
    }

    /// The ticks that a lease which has just ended took of its member alone.
    pub(super) fn end_job(&mut self, ended: &OracleLease, end: Option<End>) -> u64 {
        let now = self.now;
        let began = self.members[ended.member].began;
        // Leases are granted in the order of their names.
        let next = self.jobs_of(ended.member).next();
        let next = next.map(|job| (job.number, job.granted));
        if next.is_none_or(|(number, _)| ended.number < number) {
            self.members[ended.member].began = match (next, end) {
                (Some((_, granted)), Some(End::NotSent)) => began.max(granted),
                (Some(_) | None, _) => now,
            };
        }
        now - began.max(ended.granted)
    }

    /// Enters the jobs that a snapshot has brought back.
    pub(super) fn restart_jobs(&mut self) {
        for lease in 0..self.leases.len() {
            let OracleLease { member, class, .. } = self.leases[lease];
            self.leases[lease].expected = self.estimate_of(member, class);
        }
        for member in 0..self.members.len() {
            let granted = self.jobs_of(member).next().map(|first| first.granted);
            let member = &mut self.members[member];
            member.began = granted.unwrap_or(member.began);
        }
    }

    /// The other members that a request could wait for or go to instead of one.
    fn rivals(&self, kind: Kind, ask: Ask, member: usize) -> Vec<(usize, Prospect)> {
        let tier = |name: usize| self.members[name].setup.tier();
        let others = (0..self.members.len()).filter(|one| {
            *one != member
                && self.matches(kind, *one)
                && tier(*one) <= tier(member)
                && self.members[*one].state != State::Gone
        });
        let prospects = others.filter_map(|one| {
            let prospect = self.prospect(one, kind.class)?;
            let reason = self.reason(one, kind, ask.cost());
            let is_only_full = || {
                reason == Eligibility::Full
                    && prospect.late_at.is_some()
                    && self.reason_but_for_leases(one, kind, ask.cost()) == Eligibility::Ready
            };
            let serves = reason == Eligibility::Ready || is_only_full();
            (serves && !prospect.is_late).then_some((one, prospect))
        });
        prospects.collect()
    }

    /// The wait for others if they do all that waits for a member before it has done its next job.
    fn outpaced(
        &self,
        kind: Kind,
        ask: Ask,
        member: usize,
        waiter: Option<usize>,
    ) -> Option<Postponement> {
        let prospect = self.prospect(member, kind.class);
        if prospect.is_none() && self.jobs(member) == 0 {
            return None;
        }
        // Of a member that is late, or was never measured, the end is not known.
        let own = prospect.filter(|prospect| !prospect.is_late);
        let ends = own.map_or(u64::MAX, Prospect::ends);
        let rivals = self.rivals(kind, ask, member);
        let faster = rivals.iter().filter(|(_, one)| one.jobs_before(ends) > 0);
        let faster: Vec<Prospect> = faster.map(|(_, one)| *one).collect();
        let served: u128 = faster
            .iter()
            .map(|one| u128::from(one.jobs_before(ends)))
            .sum();
        let is_outpaced = match own {
            None => !faster.is_empty(),
            Some(own) => {
                let waiting = self.waiting().filter(|(name, _)| Some(*name) != waiter);
                let waiting = waiting.filter(|(_, one)| self.matches(one.kind, member));
                let times = waiting.map(|(_, one)| self.estimate_of(member, one.kind.class));
                let others: u64 = times.flatten().sum();
                served * u128::from(own.mean) >= u128::from(others + own.mean)
            }
        };
        let late = faster.iter().filter_map(|one| one.late_at);
        let until = late.clone().max().unwrap_or(0);
        let has_less_room = faster.iter().filter_map(|one| {
            let own = own.filter(|own| own.free > self.as_of)?;
            Some(own.ends() - one.jobs_before(own.ends()) * one.mean)
        });
        let again_at = late.chain(has_less_room).min().unwrap_or(until);
        is_outpaced.then_some(Postponement { again_at, until })
    }

    /// The ready member with the first expected end, where others outpace the chosen one.
    pub(super) fn faster(
        &self,
        kind: Kind,
        ask: Ask,
        chosen: usize,
        waiter: Option<usize>,
    ) -> usize {
        if self.choice != Choice::LeastTime
            || kind.pin.is_some()
            || self.session_member(ask) == Some(chosen)
            || self.outpaced(kind, ask, chosen, waiter).is_none()
        {
            return chosen;
        }
        let tier = |name: usize| self.members[name].setup.tier();
        let ready = (0..self.members.len()).filter(|one| {
            self.matches(kind, *one)
                && tier(*one) == tier(chosen)
                && self.reason(*one, kind, ask.cost()) == Eligibility::Ready
        });
        let first = ready.min_by_key(|one| {
            let end = match self.prospect(*one, kind.class) {
                None if self.jobs(*one) == 0 => (false, 0),
                Some(prospect) if !prospect.is_late => (false, prospect.ends()),
                Some(_) | None => (true, 0),
            };
            (end, self.members[*one].stamp)
        });
        first.expect("the chosen one is ready")
    }

    /// The wait of a request for which a member is ready; `None` where it is served now. `waiter` is its name if it waits.
    pub(super) fn postponement(
        &self,
        kind: Kind,
        ask: Ask,
        deadline: Option<u64>,
        waiter: Option<usize>,
    ) -> Option<Postponement> {
        if self.choice != Choice::LeastTime || kind.pin.is_some() {
            return None;
        }
        let chosen = self.preferred(kind, ask);
        if self.session_member(ask) == Some(chosen) {
            return None;
        }
        self.outpaced(kind, ask, chosen, waiter)?;
        let first = self.faster(kind, ask, chosen, waiter);
        let wait = self.outpaced(kind, ask, first, waiter)?;
        let known = waiter.and_then(|name| self.waiters[name].postponed_until);
        let until = known.unwrap_or(wait.until);
        let waits = until > self.as_of && deadline.is_none_or(|deadline| until < deadline);
        waits.then_some(Postponement {
            again_at: wait.again_at.min(until),
            until,
        })
    }

    /// When a request that is not queued, and could be, is served.
    pub(crate) fn newcomer_opening(&self, kind: Kind, ask: Ask, deadline: Option<u64>) -> Opening {
        let opening = self.lane_opening(kind, ask.cost());
        let waits =
            opening == Opening::Now && self.postponement(kind, ask, deadline, None).is_some();
        if waits { Opening::AnyTime } else { opening }
    }

    pub(super) fn postponement_of(&self, name: usize) -> Option<Postponement> {
        let waiter = self.waiters[name];
        self.postponement(waiter.kind, waiter.ask, waiter.deadline, Some(name))
    }

    /// Sets how long the heads of lanes wait that have begun to wait for a faster member.
    pub(super) fn note_postponed(&mut self) {
        let kinds: Vec<Kind> = self.waiting().map(|(_, waiter)| waiter.kind).collect();
        for kind in kinds {
            let Some((_, head)) = self.next(kind) else {
                continue;
            };
            let waiter = self.waiters[head];
            if self.lane_opening(kind, waiter.ask.cost()) == Opening::Now
                && let Some(wait) = self.postponement_of(head)
            {
                self.waiters[head].postponed_until.get_or_insert(wait.until);
            }
        }
    }
}

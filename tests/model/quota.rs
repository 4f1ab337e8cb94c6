//! A quota against an oracle that asks each rule's definition in turn.

use crate::limits;
use crate::reports::Reports;
use arbitrary::Arbitrary;
use core::time::Duration;
use leasehold_core::limit::{
    Claim, Cost, Quota, QuotaSnapshot, ReservationId, Rule, Scope, Unit, Wait,
};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;
use std::collections::BTreeMap;

/// A quota and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Its rules; only the first three are taken.
    pub rules: Vec<RuleSetup>,
    /// Ticks that a reservation lives, taken modulo 64 and made at least 1.
    pub ttl: u8,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// One rule.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct RuleSetup {
    /// Pool, group or member.
    pub scope: u8,
    /// Whether each class counts by itself.
    pub each_class: bool,
    /// Whether tokens are counted.
    pub tokens: bool,
    /// How.
    pub limit: limits::Setup,
}

/// One operation. There are four members in two groups, and two classes.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Claims for one of 8 members and classes up to 2 requests and 5 tokens.
    #[proptest(weight = 8)]
    Acquire(u8, u8, u8),
    /// Settles one of the latest 8 reservations, at up to 2 requests and 5 tokens.
    #[proptest(weight = 6)]
    Settle(u8, u8, u8),
    /// Says how many more tokens, or requests, a member will be served within so many ticks.
    Observe(u8, bool, u8, u8),
    /// Pauses a member for at most 15 ticks.
    Throttle(u8, u8),
    /// Forgets a member.
    Forget(u8),
    /// Saves and restores.
    Restart,
    /// Lets at most 15 ticks pass.
    #[proptest(weight = 6)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
    /// Tells the quota the time.
    HandleTimeout,
}

#[derive(Clone)]
struct OracleReservation {
    cost: [u64; 2],
    deadline: u64,
    booked: Vec<(usize, u32, u32, usize)>,
    open: bool,
    /// Whether its name is known, as it isn't after a restart.
    named: bool,
}

#[derive(Clone)]
struct Oracle {
    rules: Vec<RuleSetup>,
    ttl: u64,
    latest: u64,
    counts: BTreeMap<(usize, u32, u32), limits::Oracle>,
    reservations: Vec<OracleReservation>,
    reports: Reports,
    pauses: BTreeMap<u32, u64>,
}

impl RuleSetup {
    fn rule(self) -> Rule {
        let scope = [Scope::Pool, Scope::Group, Scope::Member][usize::from(self.scope % 3)];
        let unit = if self.tokens {
            Unit::Tokens
        } else {
            Unit::Requests
        };
        let rule = Rule::new(scope, unit, self.limit.machine());
        if self.each_class {
            rule.each_class()
        } else {
            rule
        }
    }

    fn unit(self) -> usize {
        usize::from(self.tokens)
    }

    fn place(self, claim: Claim) -> (u32, u32) {
        let owner = [0, claim.group, claim.member][usize::from(self.scope % 3)];
        (owner, if self.each_class { claim.class } else { 0 })
    }
}

fn claim(who: u8, requests: u8, tokens: u8) -> Claim {
    let who = u32::from(who % 8);
    Claim {
        member: who % 4,
        group: who % 2,
        class: who / 4,
        cost: Cost {
            requests: u32::from(requests % 3),
            tokens: u32::from(tokens % 6),
        },
    }
}

fn by_unit(cost: Cost) -> [u64; 2] {
    [cost.requests.into(), cost.tokens.into()]
}

impl Oracle {
    fn advance(&mut self, now: u64) {
        let due = |one: &OracleReservation| one.open && one.deadline <= now;
        let mut expired: Vec<_> = (0..self.reservations.len())
            .filter(|name| due(&self.reservations[*name]))
            .collect();
        expired.sort_by_key(|name| self.reservations[*name].deadline);
        for name in expired {
            let deadline = self.reservations[name].deadline;
            self.end(deadline, name, None);
        }
    }

    fn admits(&self, now: u64, claim: Claim) -> bool {
        let cost = by_unit(claim.cost);
        let paused = self
            .pauses
            .get(&claim.member)
            .is_some_and(|until| *until > now);
        let leaves = |unit: usize| self.reports.leave(now, claim.member, unit, cost[unit]);
        let mut rules = self.rules.iter().enumerate();
        !paused
            && leaves(0)
            && leaves(1)
            && rules.all(|(index, rule)| {
                let (owner, class) = rule.place(claim);
                let fresh = rule.limit.oracle();
                let count = self.counts.get(&(index, owner, class)).unwrap_or(&fresh);
                count.admits(now, cost[rule.unit()])
            })
    }

    fn waits_for_settlement(&self, claim: Claim) -> bool {
        let cost = by_unit(claim.cost);
        self.rules.iter().enumerate().any(|(index, rule)| {
            let (owner, class) = rule.place(claim);
            let count = self.counts.get(&(index, owner, class));
            count.is_some_and(|count| count.waits_for_settlement(cost[rule.unit()]))
        })
    }

    fn acquire(&mut self, now: u64, claim: Claim) -> bool {
        self.advance(now);
        let now = now.max(self.latest);
        if !self.admits(now, claim) {
            return false;
        }
        self.latest = now;
        let cost = by_unit(claim.cost);
        let mut booked = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let (owner, class) = rule.place(claim);
            let count = self.counts.entry((index, owner, class));
            let count = count.or_insert_with(|| rule.limit.oracle().settled_as_if());
            count.charge(now, cost[rule.unit()]);
            booked.push((index, owner, class, count.uses.len() - 1));
        }
        self.reports.admit(claim.member, cost);
        self.reservations.push(OracleReservation {
            cost,
            deadline: now.saturating_add(self.ttl),
            booked,
            open: true,
            named: true,
        });
        true
    }

    fn settle(&mut self, now: u64, name: usize, actual: [u64; 2]) -> bool {
        self.advance(now);
        let open = self.reservations[name].open && self.reservations[name].named;
        if open {
            self.end(now, name, Some(actual));
        }
        open
    }

    fn end(&mut self, now: u64, name: usize, actual: Option<[u64; 2]>) {
        let now = now.max(self.latest);
        self.latest = now;
        let one = &mut self.reservations[name];
        one.open = false;
        let actual = actual.unwrap_or(one.cost);
        for (rule, owner, class, which) in &one.booked {
            let count = self.counts.get_mut(&(*rule, *owner, *class));
            let count = count.expect("what is booked is counted");
            count.settle(now, *which, actual[self.rules[*rule].unit()]);
        }
        self.reports.settle(name, actual);
    }

    fn observe(&mut self, now: u64, member: u32, unit: usize, remaining: u64, until: u64) -> bool {
        self.advance(now);
        let now = now.max(self.latest);
        self.latest = now;
        self.reports.observe(now, member, unit, remaining, until)
    }

    fn forget(&mut self, member: u32) {
        self.pauses.remove(&member);
        self.reports.forget(member);
        let rules = &self.rules;
        let gone = |rule: usize, owner| rules[rule].scope % 3 == 2 && owner == member;
        self.counts
            .retain(|(rule, owner, _), _| !gone(*rule, *owner));
        for one in &mut self.reservations {
            one.booked.retain(|(rule, owner, ..)| !gone(*rule, *owner));
        }
    }
}

/// Holds a quota to its oracle: the same answers and deadlines, all or none, exact to the tick.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let rules: Vec<_> = case.rules.iter().copied().take(3).collect();
    let ttl = u64::from(case.ttl % 64).max(1);
    let made = Quota::new(
        rules.iter().map(|rule| rule.rule()),
        Duration::from_nanos(ttl),
    );
    let mut machine = made.expect("the time to live is above zero");
    let mut oracle = Oracle {
        rules,
        ttl,
        latest: 0,
        counts: BTreeMap::new(),
        reservations: Vec::new(),
        reports: Reports::default(),
        pauses: BTreeMap::new(),
    };
    let mut names: Vec<ReservationId> = Vec::new();
    let mut now = 0u64;
    for op in &case.ops {
        let tick = Tick::from_nanos(now);
        match *op {
            Op::Acquire(who, requests, tokens) => {
                let claim = claim(who, requests, tokens);
                machine.handle_timeout(tick);
                let before = format!("{:?}", machine.snapshot());
                let got = machine.try_acquire(tick, claim);
                let after = format!("{:?}", machine.snapshot());
                assert!(
                    got.is_ok() || before == after,
                    "a refusal changed the state"
                );
                assert_eq!(
                    got.is_ok(),
                    oracle.acquire(now, claim),
                    "{claim:?} at {now}"
                );
                names.extend(got);
            }
            Op::Settle(back, requests, tokens) => {
                if let Some(back) = usize::from(back % 8).checked_rem(names.len()) {
                    let name = names.len() - 1 - back;
                    let actual = claim(0, requests, tokens).cost;
                    let settled = oracle.settle(now, name, by_unit(actual));
                    assert_eq!(machine.settle(tick, names[name], actual).is_ok(), settled);
                }
            }
            Op::Observe(member, tokens, remaining, reset) => {
                let (member, remaining) = (u32::from(member % 4), remaining % 8);
                let unit = if tokens { Unit::Tokens } else { Unit::Requests };
                let reset = now.saturating_add(u64::from(reset % 32));
                let index = usize::from(tokens);
                // What no longer holds is no news.
                let news = oracle.observe(now, member, index, remaining.into(), reset);
                let reset = if news { reset } else { 0 };
                let reset = Tick::from_nanos(reset);
                machine.observe(tick, member, unit, remaining.into(), reset);
            }
            Op::Throttle(member, ticks) => {
                let (member, until) = (u32::from(member % 4), now + u64::from(ticks % 16));
                machine.throttle(member, Tick::from_nanos(until));
                let pause = oracle.pauses.entry(member).or_insert(until);
                *pause = until.max(*pause);
            }
            Op::Forget(member) => {
                let member = u32::from(member % 4);
                machine.forget_member(member);
                oracle.forget(member);
            }
            Op::Restart => {
                let saved = serde_json::to_vec(&machine.snapshot()).expect("it can be saved");
                let read: QuotaSnapshot = serde_json::from_slice(&saved).expect("and read");
                machine = Quota::restore(read).expect("and restored");
                oracle
                    .reservations
                    .iter_mut()
                    .for_each(|one| one.named = false);
            }
            Op::Advance(ticks) => now += u64::from(ticks % 16),
            Op::Back(ticks) => now = now.saturating_sub(ticks.into()),
            Op::HandleTimeout => {
                machine.handle_timeout(tick);
                oracle.advance(now);
            }
        }
        compare(&machine, &oracle, now);
    }
}

fn compare(machine: &Quota, oracle: &Oracle, now: u64) {
    let open = oracle.reservations.iter().filter(|one| one.open);
    let deadline = open.map(|one| one.deadline).min();
    assert_eq!(machine.poll_timeout(), deadline.map(Tick::from_nanos));
    let (mut machine, mut oracle) = (machine.clone(), oracle.clone());
    oracle.advance(now);
    let present = now.max(oracle.latest);
    for who in 0..8 {
        let claim = claim(who, 1, 3);
        let wait = machine.earliest(Tick::from_nanos(now), claim);
        let at_once = machine.clone().try_acquire(Tick::from_nanos(now), claim);
        assert_eq!(
            at_once.err(),
            (wait != Wait::Until(Tick::from_nanos(present))).then_some(wait)
        );
        match wait {
            Wait::Until(then) => {
                let then = then.as_nanos();
                assert!(
                    then >= present && oracle.admits(then, claim),
                    "{claim:?} at {then}"
                );
                assert!(
                    then == present || !oracle.admits(then - 1, claim),
                    "{claim:?}"
                );
            }
            Wait::ForSettlement => assert!(oracle.waits_for_settlement(claim)),
            Wait::Never => assert!(!oracle.admits(u64::MAX, claim)),
        }
    }
}

//! Members that are added, removed and changed.

use super::super::case::{Change, Management, MemberSetup, Own};
use super::super::owner::Owner;
use super::{Oracle, OracleEvent, OracleMember, State};
use crate::limits;
use core::mem;
use leasehold_core::balance::PeakEwma;
use leasehold_core::health::{Breaker, BreakerState};
use leasehold_core::health::{OutcomeWindow, OutlierDetector};
use leasehold_core::health::{Prober, SlowStart};
use leasehold_core::pool::MemberId;
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

impl Oracle {
    pub(crate) fn add(&mut self, now: u64, id: MemberId, setup: MemberSetup) {
        self.advance(now);
        if setup.tokens.is_some() {
            self.part_classes();
        }
        let stamp = self.stamp();
        let mut slow_start = SlowStart::default();
        slow_start.begin(self.tick());
        let health = self.watch.health();
        let seed = self.members.len() as u64;
        self.members.push(OracleMember {
            id,
            setup,
            weight: setup.weight(),
            owner: setup.owner(),
            state: State::Enabled,
            in_flight: 0,
            pass: self.pass_floors.get(&setup.tier()).copied().unwrap_or(0),
            stamp,
            cooldown_until: 0,
            calls: 0,
            breaker: Breaker::new(),
            health: health.map(|config| Prober::new(&config, self.tick(), seed)),
            probe: None,
            latest_probe: None,
            outcomes: OutcomeWindow::default(),
            slow_start,
            depth: None,
            granted_since_depth: 0,
            granted_since_probe: 0,
            latency: self.latency.as_ref().map(PeakEwma::another),
            service: BTreeMap::new(),
            began: 0,
            told: BreakerState::Closed,
            own_breaker: Own::Pool,
            own_probes: Own::Pool,
            seed,
            ejected_until: None,
            judged: true,
        });
        self.refresh_panic();
        self.serve();
    }

    /// Whether the member was there, and whether it left at once.
    pub(crate) fn manage(&mut self, now: u64, member: usize, what: Management) -> (bool, bool) {
        self.advance(now);
        if matches!(self.members[member].state, State::Removing | State::Gone) {
            return (false, false);
        }
        let idle = self.members[member].in_flight == 0;
        let mut there = true;
        let (state, leaves) = match what {
            Management::Remove if idle => (State::Gone, true),
            Management::Remove => (State::Removing, false),
            Management::Drain => (State::Draining, false),
            Management::Disable => (State::Disabled, false),
            Management::Enable => (State::Enabled, false),
            Management::Weigh(weight) => {
                self.members[member].weight = u16::from(weight % 4);
                (self.members[member].state, false)
            }
            Management::Limit(setup) => {
                self.set_limit(member, setup);
                (self.members[member].state, false)
            }
            Management::Update(change) => {
                self.update(member, change);
                (self.members[member].state, false)
            }
            Management::Trip(pause) => {
                let until = self.now.saturating_add(u64::from(pause % 64));
                there = self.command_breaker(member, Some(until));
                (self.members[member].state, false)
            }
            Management::Reset => {
                there = self.command_breaker(member, None);
                (self.members[member].state, false)
            }
        };
        self.members[member].state = state;
        if matches!(what, Management::Remove) {
            self.send_away(member);
        }
        self.refresh_panic();
        self.serve();
        if idle && state == State::Draining && matches!(what, Management::Drain) {
            self.events.push(OracleEvent::Drained(member));
        }
        (there, leaves)
    }

    fn update(&mut self, name: usize, change: Change) {
        let member = &mut self.members[name];
        let old = member.setup;
        member.setup = change.of(old);
        if let Some(_new) = change.weight {
            member.weight = member.setup.weight();
        }
        if member.setup.tier() != old.tier() {
            let floor = self.pass_floors.get(&member.setup.tier());
            member.pass = floor.copied().unwrap_or(0);
        }
        if let Some(limit) = change.limit {
            self.set_limit(name, limit);
        }
        let group = self.members[name].setup.group().filter(|_| self.has_groups);
        if group != old.group().filter(|_| self.has_groups) {
            self.move_to_group(name, group);
        }
        if change.breaker.is_some() || change.probes.is_some() {
            let was_probed = self.probes_of(name).is_some();
            let member = &mut self.members[name];
            member.own_breaker = change.breaker.unwrap_or(member.own_breaker);
            member.own_probes = change.probes.unwrap_or(member.own_probes);
            self.apply_settings(name, was_probed);
        }
    }

    fn move_to_group(&mut self, name: usize, group: Option<usize>) {
        let now = self.now;
        let held = self.leases.iter_mut();
        for lease in held.filter(|one| one.live && one.member == name) {
            if let Some((old, uses)) = lease.group {
                self.groups[old].settle(now, lease.class, uses, lease.cost);
            }
            lease.group = group.map(|new| {
                self.groups_judged[new] = false;
                let uses = self.groups[new].charge(now, lease.class, lease.cost);
                if lease.arrived {
                    self.groups[new].arrive(now, uses);
                }
                (new, uses)
            });
        }
    }

    fn set_limit(&mut self, name: usize, setup: limits::Setup) {
        let member = &mut self.members[name];
        member.judged = false;
        let new = Owner {
            requests: Some(setup.anchored().oracle()),
            ..Owner::default()
        };
        let earlier = mem::replace(&mut member.owner, new);
        for lease in &mut self.leases {
            if lease.live && lease.member == name {
                lease.own = member.owner.charge(self.now, lease.class, lease.cost);
                if lease.arrived {
                    member.owner.arrive(self.now, lease.own);
                }
            }
        }
        member.owner.take_over(self.now, &earlier);
    }

    /// Refuses the requests pinned to a removed member, by lane in order of creation, then by arrival.
    fn send_away(&mut self, member: usize) {
        let pinned = self
            .waiting()
            .filter(|(_, one)| one.kind.pin == Some(member));
        let pinned: Vec<_> = pinned.map(|(name, one)| (one.kind.class, name)).collect();
        let mut lanes: Vec<u32> = Vec::new();
        for (class, _) in &pinned {
            if !lanes.contains(class) {
                lanes.push(*class);
            }
        }
        for lane in lanes {
            for (_, name) in pinned.iter().filter(|(class, _)| *class == lane) {
                self.waiters[*name].waiting = false;
                self.tally.refused += 1;
                self.events.push(OracleEvent::PinnedMemberRemoved(*name));
            }
        }
        self.forget_turns();
    }

    pub(crate) fn close(&mut self, now: u64) {
        self.advance(now);
        self.closed = true;
        for (name, waiter) in self.waiters.iter_mut().enumerate() {
            if core::mem::take(&mut waiter.waiting) {
                self.tally.cancelled += 1;
                self.events.push(OracleEvent::Closed(name));
            }
        }
        self.forget_turns();
    }

    /// Forgets what a snapshot leaves out. `leases` are the live ones, in the order of their expiries.
    pub(crate) fn restart(&mut self, now: u64, leases: &[usize]) {
        self.now = self.now.max(now);
        self.as_of = self.now;
        self.closed = false;
        for waiter in &mut self.waiters {
            self.tally.cancelled += u64::from(core::mem::take(&mut waiter.waiting));
        }
        self.forget_turns();
        self.by_class = self.counts_classes();
        self.kinds.clear();
        self.fast_failures.clear();
        self.outlier = self
            .watch
            .outlier()
            .map(|one| OutlierDetector::new(&one, self.tick()));
        let half_life = self.choice.policy().half_life();
        self.latency = half_life.map(|half_life| PeakEwma::new(half_life, self.tick()));
        for member in &mut self.members {
            member.probe = None;
            member.latency = self.latency.as_ref().map(PeakEwma::another);
            let was_off = member.own_probes == Own::Off;
            (member.own_breaker, member.own_probes) = (Own::Pool, Own::Pool);
            if self.watch.breaker().is_none() {
                member.breaker = Breaker::new();
                member.told = BreakerState::Closed;
            }
            let (seed, tick) = (member.seed, Tick::from_nanos(self.now));
            let saved = member.health.take();
            member.health = self.watch.health().map(|config| match saved {
                // Its probes are still told apart from those before.
                Some(mut saved) if was_off => {
                    saved.restart(&config, tick, seed);
                    saved
                }
                Some(saved) => saved,
                None => Prober::new(&config, tick, seed),
            });
            let now = Tick::from_nanos(self.now);
            member.ejected_until = member.ejected_until.filter(|until| *until > now);
            if member.outcomes.uneject_if_due(now) {
                member.slow_start.begin(now);
            }
        }
        for lease in leases {
            let stamp = self.stamp();
            let now = self.now;
            let ends = &mut self.leases[*lease];
            ends.held = false;
            ends.expires = Some((ends.expires.map_or(now, |(tick, _)| tick), stamp));
        }
        self.restart_jobs();
        self.refresh_panic();
    }
}

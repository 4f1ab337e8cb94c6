//! The commands of a case, given to machine and oracle alike; their answers are compared.

use super::case::{
    self, Ask, End, FlowSetup, Found, IN_RANGE, Management, MemberSetup, machine_of, nanos,
};
use super::oracle::{Answer, Opening, Refusal, State};
use super::{Pair, request};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Cost, LimitSet, Unit};
use leasehold_core::pool::{
    self, Acquired, Member, MemberUpdate, Outcome, Pool, PoolConfig, PoolId, ProbeResult, Release,
    Request, StaleMember,
};
use leasehold_core::time::Tick;

impl Pair {
    pub(super) fn add(&mut self, now: u64, setup: MemberSetup) {
        let labels = case::labels(&mut self.machine, setup.labels());
        let member = setup.member(self.members.len(), &self.groups, labels);
        let added = self.machine.add(Tick::from_nanos(now), member);
        let id = added.expect("a small pool takes members");
        self.members.push(id);
        self.take_hints();
        self.oracle.add(now, id, setup);
    }

    /// The member that a request is pinned to.
    pub(super) fn pin(&self, ask: Ask) -> Option<usize> {
        let pin = (ask.pin < 32).then(|| pick(ask.pin, self.members.len()));
        pin.flatten()
    }

    /// The machine's request.
    pub(super) fn request(
        &mut self,
        ask: Ask,
        pin: Option<usize>,
        deadline: Option<u64>,
    ) -> Request {
        let pin = pin.map(|pin| self.members[pin]);
        request(&mut self.machine, ask, pin, deadline)
    }

    pub(super) fn acquire(&mut self, now: u64, ask: Ask) -> Answer {
        let pin = self.pin(ask);
        let deadline = ask
            .deadline
            .map(|ticks| now.saturating_add(u64::from(ticks % 64)));
        let request = self.request(ask, pin, deadline);
        self.asked = Some((ask, pin));
        let tick = Tick::from_nanos(now);
        // Requests that became due before are granted first, and those that this enables afterwards.
        let due = self.granted_by(tick);
        let got = self.machine.acquire(tick, request);
        self.take_hints();
        if let Ok(Acquired::Granted(grant)) = got {
            let member = self.member(grant.member);
            self.oracle.hints.insert(due, member);
        }
        let expected = self.oracle.acquire(now, ask, pin, deadline);
        if let Ok(Acquired::Waiting(waiter)) = got {
            // It may be granted in the same command, because another no longer waits for a faster member.
            self.waiters.push(waiter);
        }
        let own = self.compare_events_with(got.ok().and_then(|acquired| match acquired {
            Acquired::Granted(grant) => Some((due, grant)),
            Acquired::Waiting(_) => None,
        }));
        let got = match got {
            Ok(Acquired::Granted(_)) => Answer::Granted(own.expect("it was named")),
            Ok(Acquired::Waiting(_)) => Answer::Waiting(self.waiters.len() - 1),
            Err(error) => {
                if let Some(cause) = error.cause() {
                    let causes = &self.oracle.causes;
                    assert!(causes.contains(&cause), "{cause:?} of {causes:?}");
                }
                Answer::Refused(Refusal::from(error))
            }
        };
        assert_eq!(got, expected);
        got
    }

    pub(super) fn release(
        &mut self,
        now: u64,
        which: u8,
        end: End,
        tokens: Option<u8>,
        took: Option<u8>,
    ) {
        let Some(lease) = pick(which, self.leases.len()) else {
            return;
        };
        let outcome = match end {
            End::Ok => Outcome::Ok,
            End::Failed => Outcome::Failed,
            End::Throttled(pause) => {
                // The pool's clock never runs backwards.
                let from = self.oracle.now.max(now);
                let until = from.saturating_add(u64::from(pause % 64));
                Outcome::Throttled {
                    until: Tick::from_nanos(until),
                }
            }
            End::NotSent => Outcome::NotSent,
            End::Unknown => Outcome::Unknown,
        };
        // No more than was reserved, so that the limits' promises hold.
        let reserved = self.oracle.leases[lease].cost.tokens;
        let tokens = tokens.map(|tokens| u32::from(tokens).min(reserved));
        let took = took.map(u64::from);
        let mut release = Release::from(outcome);
        if let Some(tokens) = tokens {
            release = release.cost(Cost {
                requests: 1,
                tokens,
            });
        }
        if let Some(took) = took {
            release = release.latency(nanos(took));
        }
        let id = self.leases[lease];
        let got = self.machine.release(Tick::from_nanos(now), id, release);
        self.take_hints();
        let live = self.oracle.release(now, lease, end, tokens, took);
        assert_eq!(got.is_ok(), live);
    }

    pub(super) fn arrive(&mut self, now: u64, which: u8) {
        let Some(lease) = pick(which, self.leases.len()) else {
            return;
        };
        let id = self.leases[lease];
        let got = self.machine.arrived(Tick::from_nanos(now), id);
        self.take_hints();
        assert_eq!(got.is_ok(), self.oracle.arrived(now, lease));
    }

    pub(super) fn renew(&mut self, now: u64, which: u8) {
        let Some(lease) = pick(which, self.leases.len()) else {
            return;
        };
        let id = self.leases[lease];
        let got = self.machine.renew(Tick::from_nanos(now), id);
        self.take_hints();
        let live = self.oracle.renew(now, lease);
        let expires = self.oracle.leases[lease].expires;
        let expected = expires.map(|(tick, _)| Tick::from_nanos(tick));
        assert_eq!(got.ok(), live.then_some(expected));
    }

    pub(super) fn manage(&mut self, now: u64, which: u8, what: Management) {
        let Some(member) = pick(which, self.members.len()) else {
            return;
        };
        let (tick, id) = (Tick::from_nanos(now), self.members[member]);
        let machine = &mut self.machine;
        let mut payload = None;
        let got = match what {
            Management::Remove => machine.remove(tick, id).map(|gone| payload = gone),
            Management::Drain => machine.drain(tick, id),
            Management::Disable => machine.disable(tick, id),
            Management::Enable => machine.enable(tick, id),
            Management::Weigh(weight) => machine.set_weight(tick, id, (weight % 4).into()),
            Management::Limit(setup) => machine.set_limits(tick, id, machine_of(Some(setup), None)),
            Management::Update(change) => {
                let setup = self.oracle.members[member].setup;
                let labels = case::labels(machine, change.of(setup).labels());
                let update = change.update(member, setup, &self.groups, labels);
                let replaced = machine.update(tick, id, update);
                if let Ok(replaced) = replaced {
                    assert_eq!(replaced, change.payload.then_some(member));
                }
                replaced.map(drop).map_err(|_| StaleMember)
            }
            Management::Trip(pause) => {
                let from = self.oracle.now.max(now);
                let until = from.saturating_add(u64::from(pause % 64));
                let until = Tick::from_nanos(until);
                machine
                    .trip_breaker(tick, id, until)
                    .map_err(|_| StaleMember)
            }
            Management::Reset => machine.reset_breaker(tick, id).map_err(|_| StaleMember),
        };
        self.take_hints();
        let (there, leaves) = self.oracle.manage(now, member, what);
        assert_eq!(got.is_ok(), there);
        assert_eq!(payload, leaves.then_some(member));
    }

    pub(super) fn cancel(&mut self, now: u64, which: u8) {
        let Some(waiter) = pick(which, self.waiters.len()) else {
            return;
        };
        let id = self.waiters[waiter];
        let got = self.machine.cancel(Tick::from_nanos(now), id);
        self.take_hints();
        assert_eq!(got.is_ok(), self.oracle.cancel(now, waiter));
    }

    pub(super) fn close(&mut self, now: u64) {
        self.machine.close(Tick::from_nanos(now));
        self.take_hints();
        self.oracle.close(now);
    }

    pub(super) fn observe_depth(&mut self, now: u64, which: u8, depth: u8) {
        let Some(member) = pick(which, self.members.len()) else {
            return;
        };
        let id = self.members[member];
        let tick = Tick::from_nanos(now);
        let got = self.machine.observe_depth(tick, id, depth.into());
        self.take_hints();
        assert_eq!(got.is_ok(), self.oracle.observe_depth(now, member, depth));
    }

    pub(super) fn restart(&mut self, now: u64) {
        let mut saved = self.machine.snapshot();
        if now.is_multiple_of(2) {
            let written = serde_json::to_vec(&saved).expect("a pool can be saved");
            saved = serde_json::from_slice(&written).expect("it was saved just now");
        }
        let tick = Tick::from_nanos(now);
        let restored = Pool::restore(self.config.clone(), saved, tick, tick);
        self.machine = restored.expect("it was saved just now");
        let leases = &self.oracle.leases;
        let mut orphans: Vec<_> = (0..leases.len()).filter(|one| leases[*one].live).collect();
        orphans.sort_by_key(|one| {
            let id = self.leases.get(*one);
            (leases[*one].expires, id)
        });
        self.oracle.restart(now, &orphans);
        orphans.sort_by_key(|one| self.oracle.leases[*one].expires);
        self.orphans = orphans.into();
        let members = &self.oracle.members;
        let there = (0..members.len()).filter(|one| members[*one].state != State::Gone);
        let mut there: Vec<_> = there.collect();
        there.sort_by_key(|one| self.members[*one]);
        let ids: Vec<_> = self.machine.members().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), there.len());
        for (name, id) in there.into_iter().zip(ids) {
            assert!(!self.members.contains(&id), "an id from before is valid");
            self.members[name] = id;
            self.oracle.members[name].id = id;
        }
    }

    pub(super) fn answer(&mut self, now: u64, which: u8, found: Found) {
        let Some(at) = pick(which, self.probes.len()) else {
            return;
        };
        let (probe, member, known) = self.probes[at];
        let answer = match found {
            Found::Up(depth, latency) => ProbeResult::Up {
                depth: depth.map(u32::from),
                latency: latency.map(|took| nanos(took.into())),
            },
            Found::Down => ProbeResult::Down,
        };
        let got = self
            .machine
            .handle_probe(Tick::from_nanos(now), probe, answer);
        self.take_hints();
        let known = known.expect("the oracle probed as well");
        assert_eq!(
            got.is_ok(),
            self.oracle.handle_probe(now, member, known, found)
        );
    }

    pub(super) fn place(&mut self, now: u64, which: u8) {
        let Some(waiter) = pick(which, self.waiters.len()) else {
            return;
        };
        let got = self
            .machine
            .place(Tick::from_nanos(now), self.waiters[waiter]);
        self.take_hints();
        self.oracle.advance(now);
        assert_eq!(got.ok().map(|place| place.ahead), self.oracle.place(waiter));
    }

    pub(super) fn estimate(&mut self, now: u64, ask: Ask) {
        let pin = self.pin(ask);
        let request = self.request(ask, pin, None);
        let got = self.machine.estimate(Tick::from_nanos(now), &request);
        self.take_hints();
        self.oracle.advance(now);
        let kind = self.oracle.kind(ask, pin);
        match (got, kind) {
            (Ok(got), Ok(kind)) => {
                let held_back = self.oracle.held_back(ask);
                let mut opening = self.oracle.newcomer_opening(kind, ask, None);
                let newcomer = self.waiters.len();
                assert_eq!(got.ahead, self.oracle.ahead_of(kind, ask, newcomer));
                let causes = match got.ahead {
                    _ if held_back.is_some() => {
                        held_back.map(|(_, cause)| cause).into_iter().collect()
                    }
                    0 if opening == Opening::Now => Vec::new(),
                    0 => self.oracle.causes_of(kind, ask.cost()),
                    _ => self.oracle.causes_of_head(kind),
                };
                opening = held_back.map_or(opening, |(held_back, _)| held_back);
                assert_eq!(got.cause.is_none(), causes.is_empty(), "{got:?}");
                assert!(
                    got.cause.is_none_or(|cause| causes.contains(&cause)),
                    "{got:?} {causes:?}"
                );
                let mut waiting = self.oracle.waiting();
                let idle = !waiting.any(|(_, waiter)| waiter.kind == kind);
                if idle {
                    assert_eq!(got.ahead, 0);
                    match opening {
                        Opening::Now => assert_eq!(got.wait, Some(Duration::ZERO)),
                        Opening::At(at) => assert_eq!(got.wait, Some(nanos(at - self.oracle.now))),
                        Opening::AnyTime | Opening::Unknown => {}
                    }
                }
            }
            (got, kind) => assert_eq!(got.err().map(Refusal::from), kind.err()),
        }
    }

    /// Uses the ids of another pool, whose handles are equal to some of this one's. All are refused, and nothing
    /// changes.
    pub(super) fn use_foreign_ids(&mut self, now: Tick) {
        if self.members.is_empty() {
            return;
        }
        let config = PoolConfig::builder(Policy::Fifo).id(PoolId::new(1));
        let mut other = Pool::new(config.build().expect(IN_RANGE));
        let group = other.add_group(LimitSet::new());
        let one = Member::new(0).max_leases(NonZeroU32::MIN);
        let member = other.add(now, one).expect("a small pool takes members");
        let mut acquire = || other.acquire(now, Request::new());
        let (Ok(Acquired::Granted(grant)), Ok(Acquired::Waiting(waiter))) = (acquire(), acquire())
        else {
            panic!("one member serves one request and then none");
        };
        let labels = other.labels([0]).expect("there are few sets");
        let own = self.members[self.members.len().saturating_sub(1)];
        let pool = &mut self.machine;
        let before = self.oracle.members.len();
        let stale = [
            pool.release(now, grant.lease, Outcome::Ok).is_err(),
            pool.arrived(now, grant.lease).is_err(),
            pool.renew(now, grant.lease).is_err(),
            pool.cancel(now, waiter).is_err(),
            pool.remove(now, member).is_err(),
            pool.drain(now, member).is_err(),
            pool.disable(now, member).is_err(),
            pool.enable(now, member).is_err(),
            pool.set_weight(now, member, 0).is_err(),
            pool.update(now, member, MemberUpdate::new()).is_err(),
            pool.trip_breaker(now, member, Tick::MAX).is_err(),
            pool.reset_breaker(now, member).is_err(),
            pool.set_limits(now, member, LimitSet::new()).is_err(),
            pool.observe(now, member, Unit::Requests, 0, now).is_err(),
            pool.observe_depth(now, member, 0).is_err(),
            pool.payload(member).is_none(),
            pool.estimate(now, &Request::new().pin(member)).is_err(),
            pool.add(now, Member::new(before).group(group)).is_err(),
            pool.add(now, Member::new(before).labels(labels)).is_err(),
            pool.update(now, own, MemberUpdate::new().labels(labels))
                .is_err(),
            pool.acquire(now, Request::new().labels(labels)).is_err(),
            pool.place(now, waiter).is_err(),
        ];
        assert!(stale.into_iter().all(|stale| stale), "{stale:?}");
        self.take_hints();
        self.oracle.tally.refused += 1;
        self.oracle.advance(now.as_nanos());
    }

    /// Collects the machine's events. The oracle follows its choices where the policy is not determined.
    pub(super) fn take_hints(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            if let pool::Event::Granted { grant, .. } = &event {
                let member = self.member(grant.member);
                self.oracle.hints.push_back(member);
            }
            self.told.push(event);
        }
    }

    /// Queued requests that are granted by what is due, before a command does anything.
    pub(super) fn granted_by(&self, now: Tick) -> usize {
        if self.machine.stats().waiting.waiting == 0 {
            return 0;
        }
        let mut machine = self.machine.clone();
        machine.handle_timeout(now);
        let events = core::iter::from_fn(|| machine.poll_event());
        events
            .filter(|event| matches!(event, pool::Event::Granted { .. }))
            .count()
    }

    pub(super) fn set_flow(&mut self, now: u64, flow: u8, setup: Option<FlowSetup>) {
        let (tick, flow) = (Tick::from_nanos(now), u64::from(flow % 3));
        match setup {
            Some(setup) => self.machine.set_flow(tick, flow, &setup.config()),
            None => self.machine.reset_flow(tick, flow),
        }
        self.take_hints();
        self.oracle.set_flow(now, flow, setup);
    }
}

/// The index of one of the latest 16.
pub(super) fn pick(which: u8, among: usize) -> Option<usize> {
    let back = usize::from(which % 16).checked_rem(among)?;
    Some(among - 1 - back)
}

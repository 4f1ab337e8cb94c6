//! Lanes and flows, and the order of the requests in them.

use super::super::case::{Ask, Choice, FlowSetup};
use super::super::owner::{Owner, Uses};
use super::{Kind, Opening, Oracle, OracleWaiter, Refusal, State};
use leasehold_core::limit::{Cost, Wait};
use leasehold_core::pool::Cause;
use std::collections::BTreeMap;

/// Priority, tag and arrival.
pub(super) type Turn = (u8, u128, usize);

/// A flow that has settings.
#[derive(Clone, Debug)]
pub(in super::super) struct OracleFlow {
    pub(in super::super) setup: FlowSetup,
    pub(in super::super) owner: Owner,
    /// Whether nothing was booked beyond its limits.
    pub(in super::super) judged: bool,
}

impl OracleFlow {
    pub(super) fn new(setup: FlowSetup) -> Self {
        Self {
            setup,
            owner: setup.owner(),
            judged: true,
        }
    }
}

impl Oracle {
    /// The lane of a request, which is not looked for.
    pub(super) fn kind_of(&self, ask: Ask, pin: Option<usize>) -> Kind {
        Kind {
            class: if self.by_class { ask.class() } else { 0 },
            labels: if pin.is_some() { 0 } else { ask.labels() },
            pin,
        }
    }

    /// The lane of a request; an error if there would be too many.
    pub(crate) fn kind(&mut self, ask: Ask, pin: Option<usize>) -> Result<Kind, Refusal> {
        let kind = self.kind_of(ask, pin);
        self.asked += 1;
        if let Some(pin) = pin {
            if self.waiting().any(|(_, waiter)| waiter.kind == kind) {
                return Ok(kind);
            }
            if matches!(self.members[pin].state, State::Removing | State::Gone) {
                return Err(Refusal::PinnedMemberRemoved);
            }
            return self.make_room().map(|()| kind);
        }
        if !self.kinds.contains_key(&kind) {
            self.make_room()?;
        }
        self.kinds.insert(kind, self.asked);
        Ok(kind)
    }

    /// Evicts the least recently used idle lane at the bound.
    fn make_room(&mut self) -> Result<(), Refusal> {
        let mut waited: Vec<Kind> = self.waiting().map(|(_, waiter)| waiter.kind).collect();
        waited.sort_unstable();
        waited.dedup();
        let pinned = waited.iter().filter(|kind| kind.pin.is_some()).count();
        if self.kinds.len() + pinned < self.max_lanes {
            return Ok(());
        }
        let kinds = self.kinds.iter();
        let idle = kinds.filter(|(kind, _)| !waited.contains(kind));
        let oldest = idle.min_by_key(|(_, asked)| **asked).map(|(kind, _)| *kind);
        let oldest = oldest.ok_or(Refusal::TooManyLanes)?;
        self.kinds.remove(&oldest);
        Ok(())
    }

    /// Gives classes lanes of their own.
    pub(super) fn part_classes(&mut self) {
        if core::mem::replace(&mut self.by_class, true) {
            return;
        }
        let waiting: Vec<usize> = self.waiting().map(|(name, _)| name).collect();
        for name in waiting {
            let OracleWaiter { ask, kind, .. } = self.waiters[name];
            if ask.class() > 0 {
                let kind = self.kind_of(ask, kind.pin);
                self.asked += 1;
                if kind.pin.is_none() {
                    self.kinds.insert(kind, self.asked);
                }
                self.waiters[name].kind = kind;
            }
        }
    }

    /// Whether something is counted by class from the beginning.
    pub(super) fn counts_classes(&self) -> bool {
        let members = self.members.iter();
        let mut there = members.filter(|member| member.state != State::Gone);
        let mut flows = self.flows.values();
        self.choice == Choice::LeastTime
            || self.each_flow.is_some_and(|flow| flow.tokens.is_some())
            || there.any(|member| member.owner.tokens.is_some())
            || flows.any(|flow| flow.owner.tokens.is_some())
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, &OracleWaiter)> {
        let all = self.waiters.iter().enumerate();
        all.filter(|(_, waiter)| waiter.waiting)
    }

    /// The virtual time that a request takes.
    fn stride(&self, ask: Ask) -> u128 {
        let units = match self.share_by_tokens {
            true => ask.cost().tokens.max(1),
            false => 1,
        };
        let weight = self.flow_setup(ask.flow()).map_or(1, FlowSetup::weight);
        (u128::from(units) << 32) / u128::from(weight)
    }

    fn base(&self, ask: Ask) -> u128 {
        let known = self.bases.get(&(ask.priority(), ask.flow()));
        let time = self.times.get(&ask.priority());
        known.or(time).copied().unwrap_or(0)
    }

    /// The turn of a request at the head of its flow.
    pub(super) fn turn(&self, ask: Ask, arrival: usize) -> Turn {
        let tag = self.base(ask) + self.stride(ask);
        (ask.priority(), tag, arrival)
    }

    /// The flows' heads in a lane.
    fn heads(&self, kind: Kind) -> Vec<usize> {
        let mut heads = BTreeMap::new();
        for (name, waiter) in self.waiting().filter(|(_, waiter)| waiter.kind == kind) {
            let flow = (waiter.ask.priority(), waiter.ask.flow());
            heads.entry(flow).or_insert(name);
        }
        heads.into_values().collect()
    }

    /// Whether a request of the same flow and priority waits in a lane.
    pub(super) fn is_behind_own(&self, kind: Kind, ask: Ask) -> bool {
        let mut in_lane = self.waiting().filter(|(_, waiter)| waiter.kind == kind);
        let flow = (ask.priority(), ask.flow());
        in_lane.any(|(_, waiter)| (waiter.ask.priority(), waiter.ask.flow()) == flow)
    }

    /// The head of a lane.
    pub(crate) fn next(&self, kind: Kind) -> Option<(Turn, usize)> {
        let heads = self.heads(kind).into_iter();
        let free = heads.filter(|name| self.held_back(self.waiters[*name].ask).is_none());
        let turns = free.map(|name| (self.turn(self.waiters[name].ask, name), name));
        turns.min()
    }

    /// The ticks at which heads may go on that their flows' limits hold back.
    pub(super) fn parked_until(&self) -> Vec<u64> {
        let kinds: Vec<Kind> = self.waiting().map(|(_, waiter)| waiter.kind).collect();
        let heads = kinds.into_iter().flat_map(|kind| self.heads(kind));
        let held_back = heads.filter_map(|name| self.held_back(self.waiters[name].ask));
        let ticks = held_back.filter_map(|(opening, _)| match opening {
            Opening::At(at) => Some(at),
            Opening::Now | Opening::AnyTime | Opening::Unknown => None,
        });
        ticks.collect()
    }

    /// The requests ahead of one in its lane, which waits or might come.
    pub(crate) fn ahead_of(&self, kind: Kind, ask: Ask, arrival: usize) -> u32 {
        let mut own = self.base(ask);
        let flow = |ask: Ask| (ask.priority(), ask.flow());
        let in_lane: Vec<_> = self
            .waiting()
            .filter(|(_, waiter)| waiter.kind == kind)
            .collect();
        let mine = in_lane
            .iter()
            .filter(|(name, waiter)| *name < arrival && flow(waiter.ask) == flow(ask));
        let mut ahead = 0;
        for (_, waiter) in mine {
            own += self.stride(waiter.ask);
            ahead += 1;
        }
        let turn = (own + self.stride(ask), arrival);
        let mut tags = BTreeMap::new();
        for (name, waiter) in &in_lane {
            let other = waiter.ask;
            let is_first = !tags.contains_key(&flow(other));
            let base = self.base(other);
            let (tag, parked) = tags.entry(flow(other)).or_insert((base, false));
            if is_first {
                *parked = self.held_back(other).is_some();
            }
            *tag += self.stride(other);
            if *parked || flow(other) == flow(ask) {
                continue;
            }
            let before = match other.priority().cmp(&ask.priority()) {
                core::cmp::Ordering::Less => true,
                core::cmp::Ordering::Equal => (*tag, *name) < turn,
                core::cmp::Ordering::Greater => false,
            };
            ahead += u32::from(before);
        }
        ahead
    }

    /// Enters that a request of a turn is served.
    pub(super) fn had_its_turn(&mut self, ask: Ask, (priority, tag, _): Turn) {
        let time = self.times.entry(priority).or_insert(0);
        *time = tag.max(*time);
        self.bases.insert((priority, ask.flow()), *time);
        self.forget_turns();
    }

    /// Forgets flows without waiters, and the virtual time of priorities without flows.
    pub(super) fn forget_turns(&mut self) {
        let waiting: Vec<_> = self
            .waiting()
            .map(|(_, waiter)| (waiter.ask.priority(), waiter.ask.flow()))
            .collect();
        self.bases.retain(|flow, _| waiting.contains(flow));
        let waits = |priority: u8| waiting.iter().any(|(other, _)| *other == priority);
        self.times.retain(|priority, _| waits(*priority));
    }

    pub(super) fn flow_setup(&self, flow: u64) -> Option<FlowSetup> {
        let own = self.flows.get(&flow).map(|flow| flow.setup);
        own.or(self.each_flow)
    }

    /// When the limits of its flow let a request go on, and the cause; `None` if they do not hold it back.
    pub(crate) fn held_back(&self, ask: Ask) -> Option<(Opening, Cause)> {
        let flow = self.flows.get(&ask.flow())?;
        match flow.owner.earliest(self.as_of, ask.class(), ask.cost()) {
            Wait::Until(at) if at.as_nanos() <= self.as_of => None,
            Wait::Until(at) => {
                let until = Some(at);
                Some((Opening::At(at.as_nanos()), Cause::FlowAtLimit { until }))
            }
            Wait::ForSettlement => Some((Opening::AnyTime, Cause::FlowAtLimit { until: None })),
            Wait::Never => Some((Opening::Unknown, Cause::NeverFits)),
        }
    }

    pub(super) fn charge_flow(&mut self, ask: Ask) -> Option<Uses> {
        let now = self.now;
        let flow = self.flows.get_mut(&ask.flow())?;
        Some(flow.owner.charge(now, ask.class(), ask.cost()))
    }

    pub(super) fn settle_flow(&mut self, flow: u64, class: u32, uses: Option<Uses>, actual: Cost) {
        let now = self.now;
        if let (Some(flow), Some(uses)) = (self.flows.get_mut(&flow), uses) {
            flow.owner.settle(now, class, uses, actual);
        }
    }

    /// Configures a flow, or lets it be as the others.
    pub(crate) fn set_flow(&mut self, now: u64, number: u64, setup: Option<FlowSetup>) {
        self.advance(now);
        let setup = setup.or(self.each_flow).unwrap_or(FlowSetup::PLAIN);
        let mut flow = OracleFlow::new(setup);
        for lease in &mut self.leases {
            if lease.live && lease.flow == number {
                flow.judged = false;
                let uses = flow.owner.charge(self.now, lease.class, lease.cost);
                if lease.arrived {
                    flow.owner.arrive(self.now, uses);
                }
                lease.flow_uses = Some(uses);
            }
        }
        self.flows.insert(number, flow);
        if self.flows.values().any(|flow| flow.owner.tokens.is_some()) {
            self.part_classes();
        }
        self.serve();
    }
}

//! Lanes and flows, and the order of the requests in them.

use super::super::case::{Ask, Choice, FlowSetup};
use super::super::owner::{Owner, Uses};
use super::{Kind, Opening, Oracle, OracleWaiter, Refusal, State};
use leasehold_core::limit::{Cost, Wait};
use leasehold_core::pool::Cause;
use std::collections::{BTreeMap, VecDeque};

/// Priority, tag and place.
pub(super) type Turn = (u8, u128, u64);

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

    /// The virtual time and place at which its flow was served last, or joined.
    fn base(&self, ask: Ask) -> (u128, u64) {
        let known = self.bases.get(&(ask.priority(), ask.flow()));
        let time = self.times.get(&ask.priority());
        let joins = (time.copied().unwrap_or(0), self.last_place);
        known.copied().unwrap_or(joins)
    }

    /// The turn of a request at the head of its flow.
    pub(super) fn turn(&self, ask: Ask) -> Turn {
        let (base, place) = self.base(ask);
        (ask.priority(), base + self.stride(ask), place)
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
        let turns = free.map(|name| (self.turn(self.waiters[name].ask), name));
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

    /// The requests ahead of one in its lane, which waits or might come: all are served in turn until it is.
    pub(crate) fn ahead_of(&self, kind: Kind, ask: Ask, arrival: usize) -> u32 {
        let flow = |ask: Ask| (ask.priority(), ask.flow());
        let in_lane = self.waiting().filter(|(_, waiter)| waiter.kind == kind);
        let in_lane = in_lane.map(|(name, waiter)| (name, waiter.ask));
        let newcomer = (arrival == self.waiters.len()).then_some((arrival, ask));
        let mut queues: BTreeMap<(u8, u64), VecDeque<(usize, Ask)>> = BTreeMap::new();
        for (name, ask) in in_lane.chain(newcomer) {
            queues.entry(flow(ask)).or_default().push_back((name, ask));
        }
        let own = flow(ask);
        queues.retain(|other, queue| *other == own || self.held_back(queue[0].1).is_none());
        let bases = queues.iter();
        let bases = bases.map(|(other, queue)| (*other, self.base(queue[0].1)));
        let mut bases: BTreeMap<_, _> = bases.collect();
        let mut times = self.times.clone();
        for ahead in 0u32.. {
            let heads = queues.iter().filter_map(|(other, queue)| {
                let (base, place) = bases[other];
                let (name, head) = queue.front()?;
                Some((other.0, base + self.stride(*head), place, *other, *name))
            });
            let (priority, tag, _, first, name) = heads.min().expect("it is among them");
            if name == arrival {
                return ahead;
            }
            let time = times.entry(priority).or_insert(0);
            *time = tag.max(*time);
            let last_place = self.last_place + 1 + u64::from(ahead);
            bases.insert(first, (*time, last_place));
            queues.entry(first).or_default().pop_front();
        }
        unreachable!("it is served")
    }

    /// Enters that a request of a turn is served.
    pub(super) fn had_its_turn(&mut self, ask: Ask, (priority, tag, _): Turn) {
        let time = self.times.entry(priority).or_insert(0);
        *time = tag.max(*time);
        let served = (*time, self.last_place);
        self.bases.insert((priority, ask.flow()), served);
        self.last_place += 1;
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

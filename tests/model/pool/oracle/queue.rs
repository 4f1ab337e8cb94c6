//! Lanes, and the order of the requests in them.

use super::super::case::Ask;
use super::{Kind, Oracle, OracleWaiter, Refusal, State};

impl Oracle {
    /// The lane of a request; an error if there would be too many.
    pub(crate) fn kind(&mut self, ask: Ask, pin: Option<usize>) -> Result<Kind, Refusal> {
        let kind = Kind {
            class: ask.class(),
            labels: if pin.is_some() { 0 } else { ask.labels() },
            pin,
        };
        self.asked += 1;
        if let Some(pin) = pin {
            if self.next(kind).is_some() {
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
        let mut pinned: Vec<Kind> = self.waiting().map(|(_, waiter)| waiter.kind).collect();
        pinned.retain(|kind| kind.pin.is_some());
        pinned.sort_unstable();
        pinned.dedup();
        if self.kinds.len() + pinned.len() < self.max_lanes {
            return Ok(());
        }
        let kinds = self.kinds.iter();
        let idle = kinds.filter(|(kind, _)| self.next(**kind).is_none());
        let oldest = idle.min_by_key(|(_, asked)| **asked).map(|(kind, _)| *kind);
        let oldest = oldest.ok_or(Refusal::TooManyLanes)?;
        self.kinds.remove(&oldest);
        Ok(())
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, &OracleWaiter)> {
        let all = self.waiters.iter().enumerate();
        all.filter(|(_, waiter)| waiter.waiting)
    }

    pub(super) fn turn(&self, ask: Ask, arrival: usize) -> (u8, u64, usize) {
        let known = self.turns.get(&(ask.priority(), ask.flow()));
        let turn = known.copied().unwrap_or(self.turn);
        (ask.priority(), turn, arrival)
    }

    /// The head of a lane.
    pub(crate) fn next(&self, kind: Kind) -> Option<((u8, u64, usize), usize)> {
        let in_lane = self.waiting().filter(|(_, waiter)| waiter.kind == kind);
        let turns = in_lane.map(|(name, waiter)| (self.turn(waiter.ask, name), name));
        turns.min()
    }

    pub(super) fn had_its_turn(&mut self, ask: Ask) {
        self.turns.insert((ask.priority(), ask.flow()), self.turn);
        self.turn += 1;
        self.forget_turns();
    }

    /// Forgets flows without waiters.
    pub(super) fn forget_turns(&mut self) {
        let waiting: Vec<_> = self
            .waiting()
            .map(|(_, waiter)| (waiter.ask.priority(), waiter.ask.flow()))
            .collect();
        self.turns.retain(|flow, _| waiting.contains(flow));
    }
}

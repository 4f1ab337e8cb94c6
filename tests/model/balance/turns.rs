//! Weighted round robin by its statement: virtual time and the turns of each member, as whole counts.

use leasehold_core::balance::Availability;
use std::collections::BTreeMap;

/// Returns `count / divisor` in units of 2^-64, and the remainder.
fn quotient(count: u128, divisor: u128) -> (u128, u128) {
    let count = count << 64;
    (count / divisor.max(1), count % divisor.max(1))
}

/// Virtual time: an origin and the calls since, each of `1 / rate`.
#[derive(Clone, Debug)]
struct Clock {
    origin: u128,
    calls: u128,
    rate: u128,
}

impl Clock {
    fn now(&self) -> u128 {
        self.origin + quotient(self.calls, self.rate).0
    }

    /// Jumps to `at` if that is later.
    fn jump_to(&mut self, at: u128) {
        if at > self.now() {
            (self.origin, self.calls) = (at, 0);
        }
    }

    /// Passes one call.
    fn pass(&mut self, rate: u128) {
        if rate != self.rate {
            (self.origin, self.calls, self.rate) = (self.now(), 0, rate);
        }
        self.calls += 1;
    }
}

/// A member and its current turn.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// The turn begins this number of turns after the origin.
    origin: u128,
    turns: u128,
    /// Whether the call of this turn, which was missed, takes the place of the next turn's.
    missed: bool,
    busy_since: u128,
    /// The weight that the member has, or had before it was 0.
    weight: u32,
    availability: Availability,
    /// Whether it counts although it is out, because it has had this turn.
    is_leaving: bool,
}

impl Turn {
    fn after(&self, turns: u128) -> u128 {
        self.origin + quotient(self.turns + turns, self.weight.into()).0
    }

    fn eligible_at(&self) -> u128 {
        self.after(0)
    }

    fn deadline(&self) -> u128 {
        self.after(1)
    }

    /// Virtual time up to which the member has had its share, in units of 2^-64.
    #[must_use]
    pub fn served_until(&self) -> u128 {
        self.after(self.missed.into())
    }

    fn is_in(&self) -> bool {
        self.availability != Availability::Out
    }

    fn counts(&self) -> bool {
        self.is_in() || self.is_leaving
    }

    fn move_to(&mut self, at: u128) {
        (self.origin, self.turns) = (at, 0);
    }

    /// Changes the weight, keeping the part of a call between the turn and now.
    fn set_weight(&mut self, now: u128, weight: u32) {
        let (old, new) = (u128::from(self.weight), u128::from(weight));
        let at = self.eligible_at();
        self.move_to(if at >= now {
            now + (at - now) * old / new
        } else {
            now.saturating_sub((now - at) * old / new)
        });
        self.weight = weight;
    }

    /// Comes back from out: owed nothing.
    fn rejoin(&mut self, now: u128) {
        self.missed = false;
        if self.eligible_at() < now {
            self.move_to(now);
        }
    }

    /// Comes back from busy: owed one turn at most, or only the next call after more than a turn's time.
    fn resume(&mut self, now: u128) {
        let turn = quotient(1, self.weight.into()).0;
        let was_long = now.saturating_sub(self.busy_since) > turn + turn / 65_536;
        let earliest = if was_long {
            now
        } else {
            now.saturating_sub(turn)
        };
        if self.served_until() < earliest {
            self.missed = was_long;
            self.move_to(now.saturating_sub(turn));
        }
    }

    /// Ends the turn with a call.
    fn serve(&mut self) {
        self.turns += 1 + u128::from(self.missed);
        self.missed = false;
    }

    /// Takes a call before the turn: the next turn is a whole turn from now, or the one that it was.
    fn serve_early(&mut self, now: u128) {
        let turn = quotient(1, self.weight.into()).0;
        self.move_to(self.eligible_at().max(now + turn));
    }
}

/// The members of a weighted round robin by number. A removed one is as one that is out.
#[derive(Clone, Debug)]
pub struct Turns {
    clock: Clock,
    turns: BTreeMap<u32, Turn>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            clock: Clock {
                origin: 1 << 84,
                calls: 0,
                rate: 1,
            },
            turns: BTreeMap::new(),
        }
    }
}

impl Turns {
    /// Virtual time in units of 2^-64.
    #[must_use]
    pub fn now(&self) -> u128 {
        self.clock.now()
    }

    /// A member by number.
    #[must_use]
    pub fn turn(&self, id: u32) -> Option<&Turn> {
        self.turns.get(&id)
    }

    /// Weight among which the latest call was shared.
    #[must_use]
    pub fn rate(&self) -> u128 {
        self.clock.rate
    }

    fn weight(&self) -> u128 {
        let counted = self.turns.values().filter(|turn| turn.counts());
        counted.map(|turn| u128::from(turn.weight)).sum()
    }

    /// Adds a member, out, or replaces the one of its number.
    pub fn insert(&mut self, id: u32, weight: u32) {
        let turn = Turn {
            origin: self.now(),
            turns: 0,
            missed: false,
            busy_since: self.now(),
            weight,
            availability: Availability::Out,
            is_leaving: false,
        };
        self.turns.insert(id, turn);
    }

    /// Changes weight and availability of a member; one of weight 0 is out.
    pub fn update(&mut self, id: u32, weight: u32, availability: Availability) {
        let now = self.now();
        let Some(turn) = self.turns.get_mut(&id) else {
            return;
        };
        if weight > 0 && weight != turn.weight {
            turn.set_weight(now, weight);
        }
        let (before, counted) = (turn.availability, turn.counts());
        turn.availability = match weight {
            0 => Availability::Out,
            _ => availability,
        };
        match (before, turn.availability) {
            (Availability::Out, Availability::Ready | Availability::Busy) => turn.rejoin(now),
            (Availability::Busy, Availability::Ready) => turn.resume(now),
            (Availability::Ready, _) | (_, Availability::Out | Availability::Busy) => {}
        }
        if before != Availability::Busy && turn.availability == Availability::Busy {
            turn.busy_since = now;
        }
        turn.is_leaving = !turn.is_in() && counted && turn.eligible_at() > now;
    }

    fn ready(&self) -> impl Iterator<Item = (u32, &Turn)> {
        let turns = self.turns.iter().map(|(id, turn)| (*id, turn));
        turns.filter(|(_, turn)| turn.availability == Availability::Ready)
    }

    /// Returns, of the first ready members of each weight, the eligible one with the earliest deadline, or
    /// else the first to be eligible.
    #[must_use]
    pub fn choose(&self) -> Option<u32> {
        let key = |(id, turn): (u32, &Turn)| {
            let (_, rest) = quotient(turn.turns, turn.weight.into());
            (turn.eligible_at(), rest, id)
        };
        let is_first = |one: &(u32, &Turn)| {
            let mut peers = self.ready().filter(|peer| peer.1.weight == one.1.weight);
            peers.all(|peer| key(*one) <= key(peer))
        };
        let firsts = || self.ready().filter(is_first);
        let eligible = firsts().filter(|(_, turn)| turn.eligible_at() <= self.now());
        let first = eligible.min_by_key(|(id, turn)| (turn.deadline(), *id));
        let upcoming = || firsts().min_by_key(|(id, turn)| (turn.eligible_at(), *id));
        first.or_else(upcoming).map(|(id, _)| id)
    }

    /// Gives a member a call: virtual time passes if its turn had begun, or no other's had.
    pub fn chosen(&mut self, id: u32) {
        let is_next = self.choose() == Some(id);
        let now = self.now();
        let Some(turn) = self.turns.get_mut(&id).filter(|turn| turn.weight > 0) else {
            return;
        };
        let (at, weight) = (turn.eligible_at(), turn.weight);
        if at > now && !is_next {
            turn.serve_early(now);
            return;
        }
        turn.serve();
        self.clock.jump_to(at);
        self.drop_left();
        self.clock.pass(self.weight().max(weight.into()));
        self.drop_left();
    }

    /// Stops counting members that are out and whose turns have ended.
    fn drop_left(&mut self) {
        let now = self.now();
        for turn in self.turns.values_mut() {
            turn.is_leaving &= turn.eligible_at() > now;
        }
    }
}

//! Upstreams that serve by a queue of their own, fail on demand, and judge by brute force whether they
//! were asked too often.

use fastrand::Rng;
use std::collections::VecDeque;

/// Virtual time, in nanoseconds.
pub(crate) type Nanos = u64;

pub(crate) const MS: Nanos = 1_000_000;
pub(crate) const SEC: Nanos = 1_000 * MS;

/// What is wrong with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every call fails after a millisecond.
    Crash,
    /// Every call takes twenty times as long.
    Slow,
    /// It crashes and comes back every few seconds.
    Flap { down: bool },
    /// Every call is turned away, with a time to come back.
    Storm,
}

/// How an upstream answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Served,
    Broken,
    /// Turned away for so long.
    TooMany {
        retry_after: Nanos,
    },
}

/// Calls wait in one line for a few servers.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// When each server is free.
    servers: Vec<Nanos>,
    mean: Nanos,
    pub(crate) fault: Option<Fault>,
    /// When those it works on or holds in line will be done.
    ends: Vec<Nanos>,
}

impl Upstream {
    pub(crate) fn new(servers: usize, mean: Nanos) -> Self {
        Self {
            servers: vec![0; servers],
            mean,
            fault: None,
            ends: Vec::new(),
        }
    }

    /// Takes a call, and says when and how it will be answered.
    pub(crate) fn take(&mut self, now: Nanos, rng: &mut Rng) -> (Nanos, Answer) {
        let slower = match self.fault {
            Some(Fault::Crash | Fault::Flap { down: true }) => return (now + MS, Answer::Broken),
            Some(Fault::Storm) => {
                let retry_after = rng.u64(1..=8) * SEC;
                return (now + MS, Answer::TooMany { retry_after });
            }
            Some(Fault::Slow) => 20,
            Some(Fault::Flap { down: false }) | None => 1,
        };
        let work = slower * rng.u64(self.mean / 2..=self.mean * 3 / 2);
        let free = self.servers.iter_mut().min().expect("it has a server");
        *free = now.max(*free) + work;
        let end = *free;
        self.ends.push(end);
        let broken = rng.u32(..1_000) < 3;
        let answer = if broken {
            Answer::Broken
        } else {
            Answer::Served
        };
        (end, answer)
    }

    /// How many calls it works on or holds in line.
    pub(crate) fn depth(&mut self, now: Nanos) -> u32 {
        self.ends.retain(|end| *end > now);
        self.ends.len() as u32
    }

    /// How long it takes to answer a probe; `None` if it says that it is down.
    pub(crate) fn probe(&self, rng: &mut Rng) -> Option<Nanos> {
        let usual = rng.u64(5 * MS..50 * MS);
        match self.fault {
            Some(Fault::Crash | Fault::Flap { down: true }) => None,
            Some(Fault::Slow) => Some(20 * usual),
            Some(Fault::Storm | Fault::Flap { down: false }) | None => Some(usual),
        }
    }
}

/// Counts what arrives, one by one, and panics where any half-open window holds more than its limit.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    what: &'static str,
    limit: u64,
    window: Nanos,
    seen: VecDeque<(Nanos, u64)>,
    /// The most that a window has held.
    pub(crate) most: u64,
}

impl Judge {
    pub(crate) fn new(what: &'static str, limit: u32, window: Nanos) -> Self {
        Self {
            what,
            limit: limit.into(),
            window,
            seen: VecDeque::new(),
            most: 0,
        }
    }

    /// Takes an arrival. It is told of them in order of time, and so need only look at the window that
    /// ends with the latest.
    pub(crate) fn see(&mut self, now: Nanos, units: u64) {
        self.seen.push_back((now, units));
        while let Some((first, _)) = self.seen.front()
            && first + self.window <= now
        {
            self.seen.pop_front();
        }
        let held: u64 = self.seen.iter().map(|(_, units)| units).sum();
        self.most = self.most.max(held);
        assert!(
            held <= self.limit,
            "{} has seen {held} of {} within {} ns at {now}",
            self.what,
            self.limit,
            self.window
        );
    }

    /// Whether it ever saw as much as its limit.
    pub(crate) fn was_full(&self) -> bool {
        self.most == self.limit
    }
}

//! Simulated upstreams: each serves calls from a queue of its own, and fails on demand.

use crate::schedule::{MS, Nanos, SEC};
use fastrand::Rng;

/// What is wrong with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every call fails after 1 ms.
    Crash,
    /// Every call takes 20 times as long.
    Slow,
    /// The upstream crashes and recovers every few seconds.
    Flap { down: bool },
    /// Every call is answered after 1 ms with a time to retry after.
    Throttle,
}

/// How an upstream answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Served,
    Failed,
    Throttled { retry_after: Nanos },
}

/// An upstream: one queue of calls for a few servers.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// When each server is free.
    servers: Vec<Nanos>,
    /// Mean service time.
    mean: Nanos,
    pub(crate) fault: Option<Fault>,
    /// Completion times of the calls that are queued or in service.
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

    /// Takes a call, and returns when and how it will be answered.
    pub(crate) fn take(&mut self, now: Nanos, rng: &mut Rng) -> (Nanos, Answer) {
        let slowdown = match self.fault {
            Some(Fault::Crash | Fault::Flap { down: true }) => return (now + MS, Answer::Failed),
            Some(Fault::Throttle) => {
                let retry_after = rng.u64(1..=8) * SEC;
                return (now + MS, Answer::Throttled { retry_after });
            }
            Some(Fault::Slow) => 20,
            Some(Fault::Flap { down: false }) | None => 1,
        };
        let work = slowdown * rng.u64(self.mean / 2..=self.mean * 3 / 2);
        let free = self.servers.iter_mut().min().expect("it has a server");
        *free = now.max(*free) + work;
        let end = *free;
        self.ends.push(end);
        let fails = rng.u32(..1_000) < 3;
        let answer = if fails {
            Answer::Failed
        } else {
            Answer::Served
        };
        (end, answer)
    }

    /// Returns the number of calls that are queued or in service.
    pub(crate) fn depth(&mut self, now: Nanos) -> u32 {
        self.ends.retain(|end| *end > now);
        self.ends.len() as u32
    }

    /// Returns how long a probe takes, or `None` if the upstream is down.
    pub(crate) fn probe(&self, rng: &mut Rng) -> Option<Nanos> {
        let usual = rng.u64(5 * MS..50 * MS);
        match self.fault {
            Some(Fault::Crash | Fault::Flap { down: true }) => None,
            Some(Fault::Slow) => Some(20 * usual),
            Some(Fault::Throttle | Fault::Flap { down: false }) | None => Some(usual),
        }
    }
}

//! The two designs: the pool, and the least depth of the last poll.

use super::Design;
use crate::schedule::Nanos;
use crate::settings::{IN_RANGE, count, tick};
use leasehold_core::balance::Policy;
use leasehold_core::pool::{
    Acquired, Event, Grant, LeaseId, Member, MemberId, Outcome, Pool, PoolConfig, Request, WaiterId,
};
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

/// A job that goes to a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) server: usize,
    pub(super) job: usize,
}

#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(super) enum Dispatcher {
    Pool(Balanced),
    Polled(Polled),
}

/// Each job waits in the pool for a lease, which lasts to its end.
pub(super) struct Balanced {
    pool: Pool<usize>,
    members: Vec<MemberId>,
    waiting: BTreeMap<WaiterId, usize>,
    leases: BTreeMap<usize, LeaseId>,
}

/// The earlier design.
#[derive(Debug, Default)]
pub(super) struct Polled {
    /// Depths as polled; `None` for a server that did not answer.
    depths: Vec<Option<usize>>,
    /// Jobs lost with a server, which the next poll finds.
    lost: Vec<usize>,
}

impl Dispatcher {
    pub(super) fn new(design: Design, servers: usize) -> Self {
        match design {
            Design::Pool => Self::Pool(Balanced::new(servers)),
            Design::Polled => Self::Polled(Polled::default()),
        }
    }

    pub(super) fn arrive(&mut self, now: Nanos, job: usize, class: u32, up: &[bool]) -> Vec<Sent> {
        match self {
            Self::Pool(pool) => pool.acquire(now, job, class),
            Self::Polled(polled) => polled.send(job, up).into_iter().collect(),
        }
    }

    pub(super) fn end(&mut self, now: Nanos, job: usize) -> Vec<Sent> {
        match self {
            Self::Pool(pool) => pool.release(now, job, Outcome::Ok),
            Self::Polled(_) => Vec::new(),
        }
    }

    /// A server has died with some jobs and their classes. The pool's caller sees its connections close.
    pub(super) fn lose(
        &mut self,
        now: Nanos,
        server: usize,
        jobs: Vec<(usize, u32)>,
        up: &[bool],
    ) -> Vec<Sent> {
        match self {
            Self::Pool(pool) => {
                let disabled = pool.pool.disable(tick(now), pool.members[server]);
                disabled.expect("it is there");
                let mut sent = Vec::new();
                for (job, class) in jobs {
                    sent.extend(pool.release(now, job, Outcome::Failed));
                    sent.extend(pool.acquire(now, job, class));
                }
                sent
            }
            Self::Polled(polled) => {
                polled.lost.extend(jobs.into_iter().map(|(job, _)| job));
                assert!(up.contains(&true), "a server is left");
                Vec::new()
            }
        }
    }

    pub(super) fn welcome(&mut self, now: Nanos, server: usize) -> Vec<Sent> {
        match self {
            Self::Pool(pool) => {
                let enabled = pool.pool.enable(tick(now), pool.members[server]);
                enabled.expect("it is there");
                pool.take_events()
            }
            Self::Polled(_) => Vec::new(),
        }
    }

    pub(super) fn poll(&mut self, depths: Vec<Option<usize>>, up: &[bool]) -> Vec<Sent> {
        match self {
            Self::Pool(_) => Vec::new(),
            Self::Polled(polled) => {
                polled.depths = depths;
                let lost = core::mem::take(&mut polled.lost);
                lost.into_iter()
                    .filter_map(|job| polled.send(job, up))
                    .collect()
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Nanos> {
        match self {
            Self::Pool(pool) => pool.pool.poll_timeout().map(Tick::as_nanos),
            Self::Polled(_) => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Nanos) -> Vec<Sent> {
        match self {
            Self::Pool(pool) => {
                pool.pool.handle_timeout(tick(now));
                pool.take_events()
            }
            Self::Polled(_) => Vec::new(),
        }
    }
}

impl Balanced {
    fn new(servers: usize) -> Self {
        let config = PoolConfig::builder(Policy::LeastQueue).weigh_by_time();
        let mut pool = Pool::new(config.build().expect(IN_RANGE));
        let members = (0..servers).map(|server| {
            let member = Member::new(server).max_leases(count(2));
            pool.add(Tick::ZERO, member).expect("there is room")
        });
        Self {
            members: members.collect(),
            pool,
            waiting: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }

    fn acquire(&mut self, now: Nanos, job: usize, class: u32) -> Vec<Sent> {
        let mut sent = Vec::new();
        match self.pool.acquire(tick(now), Request::new().class(class)) {
            Ok(Acquired::Granted(grant)) => sent.push(self.granted(job, grant)),
            Ok(Acquired::Waiting(waiter)) => drop(self.waiting.insert(waiter, job)),
            Err(error) => panic!("{error}"),
        }
        sent.extend(self.take_events());
        sent
    }

    fn release(&mut self, now: Nanos, job: usize, outcome: Outcome) -> Vec<Sent> {
        let lease = self.leases.remove(&job).expect("it has a lease");
        let released = self.pool.release(tick(now), lease, outcome);
        released.expect("it is held");
        self.take_events()
    }

    fn granted(&mut self, job: usize, grant: Grant) -> Sent {
        self.leases.insert(job, grant.lease);
        let server = *self.pool.payload(grant.member).expect("it is there");
        Sent { server, job }
    }

    fn take_events(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(event) = self.pool.poll_event() {
            if let Event::Granted { waiter, grant } = event {
                let job = self.waiting.remove(&waiter).expect("it waited");
                sent.push(self.granted(job, grant));
            }
        }
        sent
    }
}

impl Polled {
    /// Sends a job to the first server of the least depth; where that refuses the connection, to the next.
    fn send(&mut self, job: usize, up: &[bool]) -> Option<Sent> {
        let known = self.depths.iter().enumerate();
        let known = known.filter_map(|(server, depth)| Some(((*depth)?, server)));
        let least = known.filter(|(_, server)| up[*server]).min();
        match least {
            Some((_, server)) => Some(Sent { server, job }),
            None => {
                self.lost.push(job);
                None
            }
        }
    }
}

//! Who gets what while a member fails faster than the others serve, and while several flows wait.

use crate::upstream::{MS, Nanos, SEC};
use core::cmp::Reverse;
use core::num::NonZeroU32;
use fastrand::Rng;
use leasehold_core::balance::Policy;
use leasehold_core::pool::{
    Acquired, Event, Grant, LeaseId, Member, Outcome, Pool, PoolConfig, Request, WaiterId,
};
use leasehold_core::time::Tick;
use std::collections::{BTreeMap, BinaryHeap};

fn tick(nanos: Nanos) -> Tick {
    Tick::from_nanos(nanos)
}

/// Calls that come at random and take 200 ms, on ten members, one of which fails for a minute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastFailure {
    pub(crate) policy: Policy,
    pub(crate) seed: u64,
    /// Calls a second.
    pub(crate) rate: u64,
    /// Leases at once on each member; each can serve as many.
    pub(crate) max_leases: u32,
}

const MEMBERS: usize = 10;

impl FastFailure {
    /// How often the failing member was leased, and all together, while it failed; calls that failed are
    /// tried again at once, up to three times.
    pub(crate) fn play(self) -> (u64, u64) {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        enum Happening {
            Call,
            End {
                lease: LeaseId,
                tries: u32,
                ok: bool,
            },
            Depths,
        }
        let mut rng = Rng::with_seed(self.seed);
        let mut pool = Pool::new(config(self.policy, self.seed));
        let max = NonZeroU32::new(self.max_leases).expect("it is above zero");
        let add = |at: usize| pool.add(Tick::ZERO, Member::new(at).max_leases(max));
        let members: Vec<_> = (0..MEMBERS)
            .map(add)
            .collect::<Result<_, _>>()
            .expect("there is room");
        let mut agenda = BinaryHeap::from([Reverse((0, 0, Happening::Call))]);
        agenda.push(Reverse((1, 1, Happening::Depths)));
        let mut turn = 2;
        let mut waiting = BTreeMap::new();
        let mut live = BTreeMap::new();
        let (mut to_failing, mut to_all) = (0, 0);
        while let Some(Reverse((now, _, what))) = agenda.pop() {
            let fails = now >= 30 * SEC;
            if now >= 90 * SEC {
                break;
            }
            let mut granted = Vec::new();
            let mut ask = |pool: &mut Pool<usize>, tries: u32| match pool
                .acquire(tick(now), Request::new())
                .expect("any number may wait")
            {
                Acquired::Granted(grant) => granted.push((grant, tries)),
                Acquired::Waiting(waiter) => drop(waiting.insert(waiter, tries)),
            };
            let mut next = None;
            match what {
                Happening::Call => {
                    ask(&mut pool, 3);
                    next = Some((now + rng.u64(1..2 * SEC / self.rate), Happening::Call));
                }
                Happening::End { lease, tries, ok } => {
                    live.remove(&lease);
                    let outcome = if ok { Outcome::Ok } else { Outcome::Failed };
                    pool.release(tick(now), lease, outcome).expect("it is held");
                    if !ok && tries > 0 {
                        ask(&mut pool, tries - 1);
                    }
                }
                Happening::Depths => {
                    for member in &members {
                        let depth = live.values().filter(|at| *at == member).count();
                        pool.observe_depth(tick(now), *member, depth as u32)
                            .expect("it is in");
                    }
                    next = Some((now + 5 * SEC, Happening::Depths));
                }
            }
            while let Some(event) = pool.poll_event() {
                if let Event::Granted { waiter, grant } = event {
                    let tries = waiting.remove(&waiter).expect("it waited");
                    granted.push((grant, tries));
                }
            }
            for (grant, tries) in granted {
                let Grant { lease, member, .. } = grant;
                live.insert(lease, member);
                let ok = member != members[0] || !fails;
                let took = if ok { rng.u64(100 * MS..300 * MS) } else { MS };
                turn += 1;
                let end = Happening::End { lease, tries, ok };
                agenda.push(Reverse((now + took, turn, end)));
                if fails {
                    to_all += 1;
                    to_failing += u64::from(member == members[0]);
                }
            }
            if let Some((at, what)) = next {
                turn += 1;
                agenda.push(Reverse((at, turn, what)));
            }
        }
        (to_failing, to_all)
    }
}

/// Five flows that come and go on four members that serve all of them, with cancellations; answers by how
/// many grants any two have differed at most, since any moment from which both waited all along.
pub(crate) fn flows(policy: Policy, seed: u64) -> i64 {
    let mut rng = Rng::with_seed(seed);
    let mut pool: Pool<()> = Pool::new(config(policy, seed));
    let two = NonZeroU32::MIN.saturating_add(1);
    for _ in 0..4 {
        pool.add(Tick::ZERO, Member::new(()).max_leases(two))
            .expect("there is room");
    }
    let mut lines: [Vec<WaiterId>; FLOWS] = Default::default();
    let mut ahead = Ahead::default();
    let mut agenda: BinaryHeap<Reverse<(Nanos, LeaseId)>> = BinaryHeap::new();
    let mut now = 0;
    for _ in 0..20_000 {
        now += rng.u64(1..10 * MS);
        while let Some(Reverse((end, lease))) = agenda.peek().copied()
            && end <= now
        {
            agenda.pop();
            pool.release(tick(end), lease, Outcome::Ok)
                .expect("it is held");
            while let Some(event) = pool.poll_event() {
                if let Event::Granted { waiter, grant } = event {
                    let of = |line: &Vec<WaiterId>| line.contains(&waiter);
                    let flow = lines.iter().position(of).expect("it waited");
                    ahead.serve(flow, &lines);
                    lines[flow].retain(|one| *one != waiter);
                    ahead.settle(flow, &lines);
                    let took = rng.u64(10 * MS..60 * MS);
                    agenda.push(Reverse((end + took, grant.lease)));
                }
            }
        }
        let flow = rng.usize(..FLOWS);
        if rng.u32(..20) == 0
            && let Some(waiter) = lines[flow].pop()
        {
            pool.cancel(tick(now), waiter).expect("it waits");
            ahead.settle(flow, &lines);
            continue;
        }
        for _ in 0..rng.u32(..4) {
            match pool.acquire(tick(now), Request::new().flow(flow as u64)) {
                Ok(Acquired::Granted(grant)) => {
                    agenda.push(Reverse((now + rng.u64(10 * MS..60 * MS), grant.lease)));
                }
                Ok(Acquired::Waiting(waiter)) => lines[flow].push(waiter),
                Err(error) => panic!("{error}"),
            }
        }
        // Bursts, and rests in which lines run dry.
        if rng.u32(..200) == 0 {
            now += 2 * SEC;
        }
    }
    ahead.most
}

const FLOWS: usize = 5;

/// How far each flow is ahead of each other since both wait: the least, the present and the most.
#[derive(Default)]
struct Ahead {
    of: [[(i64, i64, i64); FLOWS]; FLOWS],
    most: i64,
}

impl Ahead {
    /// Counts a grant to a flow that waited.
    fn serve(&mut self, flow: usize, lines: &[Vec<WaiterId>; FLOWS]) {
        let waits = |other: &usize| *other != flow && !lines[*other].is_empty();
        for other in (0..FLOWS).filter(waits) {
            for (one, two, step) in [(flow, other, 1), (other, flow, -1)] {
                let (least, present, greatest) = &mut self.of[one][two];
                *present += step;
                *least = (*least).min(*present);
                *greatest = (*greatest).max(*present);
                self.most = self.most.max(*greatest - *least);
            }
        }
    }

    /// A flow that no longer waits begins anew with all others.
    fn settle(&mut self, flow: usize, lines: &[Vec<WaiterId>; FLOWS]) {
        if lines[flow].is_empty() {
            for other in 0..FLOWS {
                self.of[flow][other] = (0, 0, 0);
                self.of[other][flow] = (0, 0, 0);
            }
        }
    }
}

fn config(policy: Policy, seed: u64) -> PoolConfig {
    let builder = PoolConfig::builder(policy).seed(seed);
    builder.build().expect("a seed is never wrong")
}

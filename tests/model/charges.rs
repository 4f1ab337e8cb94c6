//! Charges: crashes at every point of a pool's life, and of its log, against what the upstream has seen.
//!
//! Invariant: a pool restored from a snapshot and the charges written since admits no more than an exact limiter that
//! has seen every call; and no less, except for what was left of blocks and calls whose end was not written.

use crate::limits;
use arbitrary::Arbitrary;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Cost, LimitSet, Unit};
use leasehold_core::pool::{
    Acquired, Charge, Event, LeaseId, Member, Outcome, Pool, PoolConfig, PoolSnapshot, Release,
    Request, close_log, compact_log, compact_log_by_age,
};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;
use std::collections::BTreeSet;

/// A pool of one member and the operations on it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The limit of requests.
    pub limit: limits::Setup,
    /// The limit of tokens.
    pub tokens: Option<limits::Setup>,
    /// Whether the limits are those of the member's group.
    pub grouped: bool,
    /// The size of a block in quarters of the limit, modulo 5.
    pub block: u8,
    /// The operations, in order; at most 24 are taken.
    pub ops: Vec<Op>,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary, Strategy)]
pub enum Op {
    /// Asks for a lease of some tokens, modulo 4.
    #[proptest(weight = 4)]
    Acquire(u8),
    /// Asks for a lease of some tokens, modulo 4, that expires after at most 8 ticks.
    #[proptest(weight = 3)]
    Lend(u8, u8),
    /// Renews one of the leases.
    #[proptest(weight = 2)]
    Renew(u8),
    /// Releases one of the leases, at no more tokens than it asked for.
    #[proptest(weight = 3)]
    Release(u8, u8),
    /// Gives one of the leases back unused.
    Refund(u8),
    /// Tells that the call of one of the leases has arrived.
    #[proptest(weight = 2)]
    Arrive(u8),
    /// Lets at most 7 ticks pass.
    #[proptest(weight = 3)]
    Advance(u8),
    /// Writes the charges, due or not.
    Write,
    /// Takes a snapshot, which begins the log anew.
    Snapshot,
}

/// What the upstream has seen, by brute force.
#[derive(Clone)]
struct Truth {
    requests: limits::Oracle,
    tokens: Option<limits::Oracle>,
    calls: Vec<Call>,
}

#[derive(Clone, Copy)]
struct Call {
    lease: LeaseId,
    fence: u64,
    cost: Cost,
    requests: usize,
    tokens: usize,
    /// How long it is held, and the tick at which it expires.
    lent: Option<(u64, u64)>,
}

impl Truth {
    fn grant(&mut self, now: u64, lease: LeaseId, fence: u64, cost: Cost, ttl: Option<u64>) {
        self.requests.charge(now, cost.requests.into());
        let mut call = Call {
            lease,
            fence,
            cost,
            requests: self.requests.uses.len() - 1,
            tokens: 0,
            lent: ttl.map(|ttl| (ttl, now + ttl)),
        };
        if let Some(tokens) = &mut self.tokens {
            tokens.charge(now, cost.tokens.into());
            call.tokens = tokens.uses.len() - 1;
        }
        self.calls.push(call);
    }

    fn end(&mut self, now: u64, call: Call, actual: Cost) {
        self.requests
            .settle(now, call.requests, actual.requests.into());
        if let Some(tokens) = &mut self.tokens {
            tokens.settle(now, call.tokens, actual.tokens.into());
        }
    }

    /// What counts after a crash: each call of this process has reached the upstream by then, and those that were lent
    /// go on.
    fn after_crash(&self, now: u64) -> Self {
        let mut after = self.clone();
        let (lent, own) = after.calls.drain(..).partition(|call| call.lent.is_some());
        after.calls = lent;
        let own: Vec<Call> = own;
        for call in own {
            after.end(now, call, call.cost);
        }
        after
    }

    /// Ends what has expired by now, each at its tick.
    fn expire(&mut self, now: u64) {
        let due = |call: &Call| call.lent.filter(|(_, expires)| *expires <= now);
        let mut expired: Vec<_> = self
            .calls
            .iter()
            .copied()
            .filter(|call| due(call).is_some())
            .collect();
        expired.sort_by_key(|call| call.lent);
        self.calls.retain(|call| due(call).is_none());
        for call in expired {
            let at = call.lent.map_or(now, |(_, expires)| expires);
            self.end(at, call, call.cost);
        }
    }

    fn admits(&self, now: u64, cost: Cost) -> bool {
        let tokens = self.tokens.as_ref();
        self.requests.admits(now, cost.requests.into())
            && tokens.is_none_or(|tokens| tokens.admits(now, cost.tokens.into()))
    }
}

struct Run {
    config: PoolConfig,
    pool: Pool<usize>,
    truth: Truth,
    now: u64,
    snapshot: PoolSnapshot<usize>,
    /// The charges written since the snapshot.
    written: Vec<Charge>,
    window: u64,
}

fn limits_of(case: &Case) -> LimitSet {
    let limits = LimitSet::new().with(Unit::Requests, case.limit.anchored().machine());
    match case.tokens {
        Some(tokens) => limits.with(Unit::Tokens, tokens.anchored().machine()),
        None => limits,
    }
}

/// Crashes a pool after every operation, and in the middle of every write.
///
/// # Panics
/// Where a restored pool admits too much or too little.
pub fn run(case: &Case) {
    let config = PoolConfig::builder(Policy::Fifo).log_charges(u16::from(case.block % 5) * 250);
    let config = config.build().expect("nothing is out of range");
    let mut pool = Pool::new(config.clone());
    let mut member = Member::new(0).name("member");
    if case.grouped {
        let group = pool.add_group(limits_of(case));
        member = member.group(group);
    } else {
        member = member.limits(limits_of(case));
    }
    pool.add(Tick::ZERO, member).expect("there is room");
    let windows = [Some(case.limit), case.tokens].into_iter().flatten();
    let windows = windows.map(|setup| setup.anchored().window().as_nanos() as u64);
    let mut run = Run {
        snapshot: pool.snapshot(),
        config,
        pool,
        truth: Truth {
            requests: case.limit.anchored().oracle(),
            tokens: case.tokens.map(|tokens| tokens.anchored().oracle()),
            calls: Vec::new(),
        },
        now: 0,
        written: Vec::new(),
        window: windows.max().unwrap_or(0),
    };
    for op in case.ops.iter().take(24) {
        let before = run.truth.clone();
        run.apply(*op);
        if run.pool.charges_due() || *op == Op::Write {
            run.write(&before);
        }
        run.crash(&run.truth, &run.written, true);
    }
}

impl Run {
    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now)
    }

    fn call(&mut self, which: u8) -> Option<Call> {
        let at = usize::from(which).checked_rem(self.truth.calls.len())?;
        Some(self.truth.calls[at])
    }

    fn apply(&mut self, op: Op) {
        let now = self.tick();
        match op {
            Op::Acquire(tokens) => self.acquire(tokens, None),
            Op::Lend(tokens, ttl) => self.acquire(tokens, Some(u64::from(ttl % 8) + 1)),
            Op::Renew(which) => {
                if let Some(call) = self.call(which) {
                    let expires = self.pool.renew(now, call.lease).expect("it is held");
                    let lent = call.lent.map(|(ttl, _)| (ttl, self.now + ttl));
                    assert_eq!(
                        expires.map(Tick::as_nanos),
                        lent.map(|(_, expires)| expires)
                    );
                    let calls = &mut self.truth.calls;
                    let renewed = calls.iter_mut().find(|one| one.lease == call.lease);
                    renewed.expect("it is held").lent = lent;
                }
            }
            Op::Release(which, tokens) => {
                if let Some(call) = self.call(which) {
                    let actual = Cost {
                        requests: 1,
                        tokens: u32::from(tokens).min(call.cost.tokens),
                    };
                    self.end(call, Release::from(Outcome::Ok).cost(actual), actual);
                }
            }
            Op::Refund(which) => {
                if let Some(call) = self.call(which) {
                    self.end(call, Outcome::NotSent.into(), Cost::default());
                }
            }
            Op::Arrive(which) => {
                if let Some(call) = self.call(which) {
                    self.pool.arrived(now, call.lease).expect("it is held");
                    if !self.truth.requests.has_arrived(call.requests) {
                        self.truth.requests.arrive(self.now, call.requests);
                    }
                }
            }
            Op::Advance(ticks) => {
                // A late pool would end leases later than they expire.
                for _ in 0..ticks % 8 {
                    self.now += 1;
                    self.pool.handle_timeout(self.tick());
                    self.truth.expire(self.now);
                }
            }
            Op::Write => {}
            Op::Snapshot => {
                self.pool.handle_timeout(now);
                drop(self.pool.take_charges());
                self.snapshot = self.pool.snapshot();
                self.written.clear();
            }
        }
    }

    fn acquire(&mut self, tokens: u8, ttl: Option<u64>) {
        let (now, tokens) = (self.tick(), u32::from(tokens % 4));
        let cost = Cost {
            requests: 1,
            tokens,
        };
        let mut request = Request::new().cost(cost).deadline(now);
        if let Some(ttl) = ttl {
            request = request.ttl(Duration::from_nanos(ttl));
        }
        if let Ok(Acquired::Granted(grant)) = self.pool.acquire(now, request) {
            let (lease, fence) = (grant.lease, grant.fence);
            self.truth.grant(self.now, lease, fence, cost, ttl);
        }
    }

    fn end(&mut self, call: Call, release: Release, actual: Cost) {
        self.pool
            .release(self.tick(), call.lease, release)
            .expect("it is held");
        self.truth.end(self.now, call, actual);
        self.truth.calls.retain(|one| one.lease != call.lease);
    }

    /// Writes the charges; before the last of them is written, no call that they are due for was sent.
    fn write(&mut self, before: &Truth) {
        for charge in self.pool.take_charges() {
            self.crash(before, &self.written, false);
            let line = serde_json::to_string(&charge).expect("a charge can be written");
            let read = serde_json::from_str(&line).expect("and read");
            self.written.push(read);
        }
    }

    /// Restores a pool as if this one had crashed now, and compares it with what the upstream has seen.
    fn crash(&self, truth: &Truth, written: &[Charge], is_whole: bool) {
        self.restart(truth, written, is_whole);
        // A shorter log may make calls wait for longer, and lets none through earlier.
        let (now, kept) = (self.tick(), Duration::MAX);
        let log: Vec<_> = written.iter().map(|charge| ((), *charge)).collect();
        let untagged = |log: Vec<((), Charge)>| -> Vec<Charge> {
            log.into_iter().map(|(_, charge)| charge).collect()
        };
        for exact in [0, self.window] {
            let exact = Duration::from_nanos(exact);
            let short = compact_log(&log, now, exact, kept);
            self.restart(truth, &untagged(short), false);
            let short = compact_log_by_age(&log, now, exact, kept, NonZeroU64::MIN);
            self.restart(truth, &untagged(short), false);
        }
        let mut closed = log;
        close_log(&mut closed, now);
        self.restart(truth, &untagged(closed), false);
    }

    fn restart(&self, truth: &Truth, written: &[Charge], is_whole: bool) {
        let mut snapshot = self.snapshot.clone();
        let (now, config) = (self.tick(), self.config.clone());
        let replayed = snapshot.replay(now, written.iter().copied());
        let mut pool = Pool::restore(config, snapshot, now, now).expect("it was saved");
        // Leases without holders end.
        pool.handle_timeout(now);
        let mut truth = truth.after_crash(self.now);
        // What may count for longer than it has to: what is left of blocks, and ends that were not written.
        let mut pending = self.pool.clone();
        let unwritten: BTreeSet<u64> = pending
            .take_charges()
            .into_iter()
            .filter_map(|charge| match charge {
                Charge::Arrived { lease, .. } | Charge::Ended { lease, .. } => Some(lease),
                Charge::Granted { .. }
                | Charge::Renewed { .. }
                | Charge::Observed { .. }
                | Charge::Block { .. } => None,
            })
            .collect();
        let slack = replayed.unrecorded.requests + unwritten.len() as u32;
        for at in self.now..=self.now + self.window + 8 {
            truth.expire(at);
            pool.handle_timeout(Tick::from_nanos(at));
            for tokens in 0..4 {
                let cost = Cost {
                    requests: 1,
                    tokens,
                };
                let mut pool = pool.clone();
                let admitted = admitted(&mut pool, at, cost);
                let by_truth = admitted_by(&truth, at, cost);
                assert!(
                    admitted <= by_truth,
                    "{admitted} instead of {by_truth} at {at}, {cost:?}"
                );
                let is_exact = is_whole && tokens == 0;
                assert!(
                    !is_exact || admitted + slack >= by_truth,
                    "{admitted} and {slack} instead of {by_truth} at {at}"
                );
            }
        }
        if is_whole {
            let latest = truth_fence(&self.truth, written);
            let mut pool = pool;
            let far = Tick::from_nanos(self.now + 1_000);
            pool.handle_timeout(far);
            while pool.poll_event().is_some() {}
            if let Ok(Acquired::Granted(grant)) = pool.acquire(far, Request::new()) {
                assert!(grant.fence > latest, "fences grow over a crash");
            }
        }
    }
}

/// The highest fence of any call that may have been sent.
fn truth_fence(truth: &Truth, written: &[Charge]) -> u64 {
    let calls = truth.calls.iter().map(|call| call.fence);
    let logged = written.iter().filter_map(|charge| match charge {
        Charge::Granted { lease, .. } => Some(*lease),
        Charge::Arrived { .. }
        | Charge::Renewed { .. }
        | Charge::Ended { .. }
        | Charge::Observed { .. }
        | Charge::Block { .. } => None,
    });
    calls.chain(logged).max().unwrap_or(0)
}

/// The requests of a cost that a pool grants at a tick.
fn admitted(pool: &mut Pool<usize>, at: u64, cost: Cost) -> u32 {
    let now = Tick::from_nanos(at);
    let request = Request::new().cost(cost).deadline(now);
    let mut count = 0;
    while let Ok(Acquired::Granted(_)) = pool.acquire(now, request) {
        count += 1;
        while let Some(event) = pool.poll_event() {
            assert!(!matches!(event, Event::Granted { .. }));
        }
    }
    count
}

/// The requests of a cost that the upstream can take at a tick.
fn admitted_by(truth: &Truth, at: u64, cost: Cost) -> u32 {
    let fits = |count: u32| {
        truth.admits(
            at,
            Cost {
                requests: cost.requests * count,
                tokens: cost.tokens * count,
            },
        )
    };
    (0..=8)
        .rev()
        .find(|count| *count == 0 || fits(*count))
        .unwrap_or(0)
}

/// Every sequence of `length` operations on small pools of every kind, and of those with leases that are lent on two of
/// them.
///
/// # Panics
/// As [`run`].
pub fn run_all(length: u32) {
    let own = [
        Op::Acquire(0),
        Op::Release(0, 0),
        Op::Arrive(0),
        Op::Advance(1),
        Op::Advance(3),
        Op::Write,
    ];
    let lent = [
        Op::Lend(0, 1),
        Op::Renew(0),
        Op::Release(0, 0),
        Op::Arrive(0),
        Op::Advance(1),
        Op::Write,
    ];
    let pools = [(1, 0, true), (2, 2, true), (4, 2, true), (2, 4, false)];
    for kind in [limits::Kind::Log, limits::Kind::Buckets] {
        for (limit, block, completion) in pools {
            let limit = limits::Setup {
                kind,
                limit,
                width: 2,
                buckets: 1,
                completion,
            };
            run_each(&own, length, limit, block);
        }
    }
    for (limit, block, completion) in &pools[..2] {
        let limit = limits::Setup {
            kind: limits::Kind::Log,
            limit: *limit,
            width: 2,
            buckets: 1,
            completion: *completion,
        };
        run_each(&lent, length, limit, *block);
    }
    assert!(NonZeroU32::new(length).is_some(), "something was tried");
}

fn run_each(alphabet: &[Op; 6], length: u32, limit: limits::Setup, block: u8) {
    for mut number in 0..6u32.pow(length) {
        let ops = (0..length).map(|_| {
            let op = alphabet[(number % 6) as usize];
            number /= 6;
            op
        });
        run(&Case {
            limit,
            tokens: None,
            grouped: false,
            block,
            ops: ops.collect(),
        });
    }
}

//! A retry budget against an oracle that adds up all that was ever done, and against its statement over
//! every span.

use arbitrary::Arbitrary;
use leasehold_core::retry::RetryBudget;
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A budget and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Its configuration.
    pub setup: Setup,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// A configuration.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// Thousandths of a retry a first attempt adds, modulo 1,200.
    pub deposit: u16,
    /// The most retries it holds, modulo 5.
    pub reserve: u8,
    /// Retries it begins with, modulo 6.
    pub initial: u8,
    /// Retries a second adds, modulo 4.
    pub per_second: u8,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary, Strategy)]
pub enum Op {
    /// A first attempt.
    #[proptest(weight = 6)]
    Deposit,
    /// Decides a retry, if there is one left.
    #[proptest(weight = 8)]
    Retry,
    /// Gives one back.
    Refund,
    /// Lets so many hundredths of a second pass.
    #[proptest(weight = 2)]
    Advance(u8),
    /// Turns the clock back by so many nanoseconds.
    Back(u32),
    /// Lets so many nanoseconds pass.
    Leap(u64),
    /// Saves and restores.
    Restart,
}

/// In thousandths of a nanosecond's retry.
const RETRY: i128 = 1_000_000_000_000;

impl Setup {
    fn reserve(self) -> i128 {
        i128::from(self.reserve % 5)
    }
    fn initial(self) -> i128 {
        i128::from(self.initial % 6).min(self.reserve())
    }
    fn deposit(self) -> i128 {
        i128::from(self.deposit % 1_200) * 1_000_000_000
    }
    fn per_nano(self) -> i128 {
        i128::from(self.per_second % 4) * 1_000
    }

    /// The machine.
    #[must_use]
    pub fn machine(self) -> RetryBudget {
        RetryBudget::new(self.deposit % 1_200, u32::from(self.reserve % 5))
            .initial(u32::from(self.initial % 6))
            .per_second(u32::from(self.per_second % 4))
    }
}

/// What was done at a time, by how much it adds to retries, first attempts and retries given back.
#[derive(Clone, Copy, Debug)]
struct Done {
    at: u64,
    retries: i128,
    firsts: i128,
}

/// What is left: at each step, what came in up to the reserve, less what was taken.
fn level(setup: Setup, done: &[Done], now: u64) -> i128 {
    let (mut level, mut last) = (setup.initial() * RETRY, 0);
    let end = Done {
        at: now,
        retries: 0,
        firsts: 0,
    };
    for one in done.iter().chain([&end]) {
        level += i128::from(one.at - last) * setup.per_nano();
        level = level.min(setup.reserve() * RETRY);
        level += one.firsts * setup.deposit() - one.retries * RETRY;
        level = level.min(setup.reserve() * RETRY);
        last = one.at;
    }
    level
}

/// Whether no span saw more retries than the statement allows for it.
fn check_every_span(setup: Setup, done: &[Done]) {
    let allowed = |held: i128, firsts: i128, nanos: u64| {
        held * RETRY + firsts * setup.deposit() + i128::from(nanos) * setup.per_nano()
    };
    for (from, first) in done.iter().enumerate() {
        let (mut retries, mut firsts) = (0, 0);
        for last in &done[from..] {
            retries += last.retries;
            firsts += last.firsts;
            let most = allowed(setup.reserve(), firsts, last.at - first.at);
            assert!(retries * RETRY <= most, "{first:?} to {last:?} of {done:?}");
            if from == 0 {
                let most = allowed(setup.initial(), firsts, last.at);
                assert!(retries * RETRY <= most, "up to {last:?} of {done:?}");
            }
        }
    }
}

/// Runs a case.
///
/// # Panics
/// Where machine and oracle differ, or a promise is broken.
pub fn run(case: &Case) {
    let setup = case.setup;
    let mut machine = setup.machine();
    let mut done: Vec<Done> = Vec::new();
    let (mut now, mut latest) = (0_u64, 0_u64);
    for op in case.ops.iter().take(200) {
        let tick = Tick::from_nanos(now);
        let mut did = |retries, firsts| {
            latest = latest.max(now);
            done.push(Done {
                at: latest,
                retries,
                firsts,
            });
        };
        match *op {
            Op::Deposit => {
                machine.deposit(tick);
                did(0, 1);
            }
            Op::Retry => {
                let granted = machine.try_retry(tick).is_ok();
                did(0, 0);
                assert_eq!(granted, level(setup, &done, latest) >= RETRY, "{done:?}");
                done.last_mut().expect("it was pushed").retries = granted.into();
            }
            Op::Refund => {
                machine.refund(tick);
                did(0, 0);
                let open: i128 = done.iter().map(|one| one.retries).sum();
                done.last_mut().expect("it was pushed").retries = -i128::from(open > 0);
            }
            Op::Advance(hundredths) => {
                now = now.saturating_add(u64::from(hundredths) * 10_000_000);
            }
            Op::Back(nanos) => now = now.saturating_sub(nanos.into()),
            Op::Leap(nanos) => now = now.saturating_add(nanos),
            Op::Restart => {
                let saved = serde_json::to_string(&machine).expect("it can be saved");
                machine = serde_json::from_str(&saved).expect("it can be restored");
            }
        }
        let left = level(setup, &done, latest.max(now)) / RETRY;
        let available = machine.available(Tick::from_nanos(now));
        assert_eq!(i128::from(available), left, "at {now} after {done:?}");
        let retries: i128 = done.iter().map(|one| one.retries).sum();
        assert_eq!(i128::from(machine.retries()), retries);
    }
    check_every_span(setup, &done);
}

//! A retry budget against an oracle that replays every operation, and its stated bound for every span.

use arbitrary::Arbitrary;
use leasehold_core::retry::RetryBudget;
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A retry budget and the operations on it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Configuration.
    pub setup: Setup,
    /// Operations in order.
    pub ops: Vec<Op>,
}

/// Configuration.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// Deposit of a first attempt in thousandths of a retry, modulo 1,200.
    pub deposit: u16,
    /// Reserve in retries, modulo 5.
    pub reserve: u8,
    /// Initial retries, modulo 6.
    pub initial: u8,
    /// Retries added each second, modulo 4.
    pub per_second: u8,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary, Strategy)]
pub enum Op {
    /// Counts a first attempt.
    #[proptest(weight = 6)]
    Deposit,
    /// Withdraws a retry if one is left.
    #[proptest(weight = 8)]
    Retry,
    /// Refunds a retry.
    Refund,
    /// Advances the clock by this many times 10 ms.
    #[proptest(weight = 2)]
    Advance(u8),
    /// Turns the clock back by this many nanoseconds.
    Back(u32),
    /// Advances the clock by this many nanoseconds.
    Leap(u64),
    /// Serializes and deserializes the machine.
    Restart,
}

/// One retry, in units of a permille of a retry times 1 ns.
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

    /// Returns the machine under test.
    #[must_use]
    pub fn machine(self) -> RetryBudget {
        RetryBudget::new(self.deposit % 1_200, u32::from(self.reserve % 5))
            .initial(u32::from(self.initial % 6))
            .per_second(u32::from(self.per_second % 4))
    }
}

/// One operation: how many retries (negative for refunds) and first attempts it adds.
#[derive(Clone, Copy, Debug)]
struct Done {
    at: u64,
    retries: i128,
    firsts: i128,
}

/// Replays all operations and returns the level at `now`.
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

/// Asserts that no span has more retries than the stated bound.
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
/// If machine and oracle differ, or a promise is broken.
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
                done.last_mut().expect("an operation was pushed").retries = granted.into();
            }
            Op::Refund => {
                machine.refund(tick);
                did(0, 0);
                let open: i128 = done.iter().map(|one| one.retries).sum();
                done.last_mut().expect("an operation was pushed").retries = -i128::from(open > 0);
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

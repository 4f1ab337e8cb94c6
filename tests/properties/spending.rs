//! Budgets against the sum of everything that was reserved.

use core::num::NonZeroU64;
use core::time::Duration;
use leasehold_core::limit::{Budget, Reserved, Wait};
use leasehold_core::time::Tick;
use proptest::prelude::*;

const WIDTH: u64 = 100;

/// What a test does with a budget, after a pause.
#[derive(Clone, Copy, Debug)]
enum Command {
    Reserve(u64),
    /// Settles one of the open reservations at this amount.
    Settle(usize, u64),
}

fn command() -> impl Strategy<Value = (u64, Command)> {
    let command = prop_oneof![
        (0_u64..130).prop_map(Command::Reserve),
        (0_usize..8, 0_u64..130).prop_map(|(index, spent)| Command::Settle(index, spent)),
    ];
    (0_u64..60, command)
}

proptest! {
    #![proptest_config(crate::cases())]

    /// Against the sum over all reservations of each window, which nothing is taken out of.
    #[test]
    fn a_window_grants_what_its_sum_has_room_for(
        amount in 1_u64..120,
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let mut budget =
            Budget::new(NonZeroU64::new(amount).unwrap(), Duration::from_nanos(WIDTH)).unwrap();
        // The window and the present amount of each reservation, and those that are open.
        let mut all: Vec<(u64, u64)> = Vec::new();
        let mut open: Vec<(usize, Reserved)> = Vec::new();
        let mut now = 0;
        for (pause, command) in commands {
            now += pause;
            let (at, window) = (Tick::from_nanos(now), now / WIDTH);
            let sum = |all: &[(u64, u64)]| -> u64 {
                all.iter().filter(|one| one.0 == window).map(|one| one.1).sum()
            };
            match command {
                Command::Reserve(cost) => {
                    let answer = budget.reserve(at, cost);
                    let expected = if cost > amount {
                        Err(Wait::Never)
                    } else if sum(&all) + cost > amount {
                        Err(Wait::Until(Tick::from_nanos((window + 1) * WIDTH)))
                    } else {
                        Ok(())
                    };
                    prop_assert_eq!(answer.map(drop), expected);
                    if let Ok(reserved) = answer {
                        open.push((all.len(), reserved));
                        all.push((window, cost));
                    }
                }
                Command::Settle(index, spent) => {
                    if !open.is_empty() {
                        let (one, reserved) = open.swap_remove(index % open.len());
                        budget.settle(at, reserved, spent);
                        if all[one].0 == window {
                            all[one].1 = spent;
                        }
                    }
                }
            }
            prop_assert_eq!(budget.spent(at), sum(&all));
            let mut restored = Budget::new(NonZeroU64::new(amount).unwrap(), Duration::from_nanos(WIDTH)).unwrap();
            restored.restore(at, at, budget.spent(at));
            prop_assert_eq!(restored.spent(at), budget.spent(at));
            prop_assert_eq!(restored.next_window(at), budget.next_window(at));
        }
    }
}

//! The members in use: which of them are taken out when they can't serve any more.
//!
//! Invariant: of the members of a model, the last ones stay in use, so that tasks that wait for them are woken.

use crate::lock;
use std::sync::Mutex;

/// Which models are served by members in use.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    /// Held from the look at the members to the end of what follows from it: by two looks of different times, each could
    /// take out the member that the other leaves.
    retiring: Mutex<()>,
}

impl InUse {
    /// Takes out the members that can serve no model, unless they are the last ones of one; returns by model whether it is
    /// served.
    ///
    /// `serves` tells by member and model whether the member is for it, and `can_serve` whether it still can, which it
    /// never can again once it could not. `take_out` gets the members' numbers, some of them again.
    pub(crate) fn retire(
        &self,
        serves: &[Vec<bool>],
        can_serve: impl Fn(usize, usize) -> bool,
        mut take_out: impl FnMut(usize),
    ) -> Vec<bool> {
        let _alone = lock(&self.retiring);
        let still = |member: usize, serves: &Vec<bool>| -> Vec<bool> {
            let models = serves.iter().enumerate();
            models
                .map(|(model, serves)| *serves && can_serve(member, model))
                .collect()
        };
        let still: Vec<Vec<bool>> = serves
            .iter()
            .enumerate()
            .map(|(member, serves)| still(member, serves))
            .collect();
        let models = serves.first().map_or(0, Vec::len);
        let is_served = |model: usize| still.iter().any(|member| member[model]);
        let served: Vec<bool> = (0..models).map(is_served).collect();
        if served.contains(&true) {
            for (member, (serves, still)) in serves.iter().zip(&still).enumerate() {
                let is_last = |model: usize| serves[model] && !served[model];
                if !(0..models).any(|model| still[model] || is_last(model)) {
                    take_out(member);
                }
            }
        }
        served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use std::collections::HashSet;

    /// One model is served by two members, the second of which is found unable during the look at the first.
    #[test]
    fn the_last_members_of_a_model_stay_in_use() {
        let serves = [vec![true, false], vec![true, false], vec![false, true]];
        for change_at in 0..20 {
            let (in_use, looks) = (InUse::default(), Cell::new(0));
            let mut taken = HashSet::new();
            let can_serve = |member: usize, _| {
                looks.set(looks.get() + 1);
                member == 2 || member == 1 && looks.get() <= change_at
            };
            for _ in 0..2 {
                in_use.retire(&serves, can_serve, |member| {
                    taken.insert(member);
                });
            }
            assert!(
                taken.len() < 2,
                "both are out of use; the change was at look {change_at}"
            );
        }
    }

    #[test]
    fn members_that_serve_nothing_are_taken_out_while_others_serve() {
        let serves = [vec![true, true], vec![true, false], vec![false, true]];
        for (able, expected) in [
            ([true, true, true], (vec![true, true], vec![])),
            ([true, false, false], (vec![true, true], vec![1, 2])),
            // The second model has no other.
            ([false, true, false], (vec![true, false], vec![])),
            ([false, false, false], (vec![false, false], vec![])),
        ] {
            let mut taken = Vec::new();
            let in_use = InUse::default();
            let served = in_use.retire(&serves, |member, _| able[member], |one| taken.push(one));
            assert_eq!((served, taken), expected, "{able:?}");
        }
    }
}

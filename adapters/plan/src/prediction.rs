//! A plan as a whole: its figures, what each limit costs, and what changes would bring.

use crate::capacity::Capacity;
use crate::change::Change;
use crate::cost::Prices;
use crate::figures::Figures;
use crate::limit::PlanLimit;
use crate::simulation::{PlanError, Schedule, simulate};
use crate::workload::{Pace, Workload};
use core::sync::atomic::{AtomicUsize, Ordering};
use std::panic::resume_unwind;
use std::thread;

/// The figures of a plan, and of the same plan with one thing changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// The plan as it is.
    pub figures: Figures,
    /// The plan call by call.
    pub schedule: Schedule,
    /// The plan without each of its limits, the most costly one first.
    pub limits: Vec<(PlanLimit, Figures)>,
    /// The plan with each change, in the order asked for.
    pub changes: Vec<(Change, Figures)>,
    /// Whether workers take the calls, so that the finish tells how well it goes; the waits do otherwise.
    pub by_finish: bool,
}

impl Prediction {
    /// The most limits that are left out one by one.
    pub const MAX_LIMITS: usize = 8;

    /// Runs the plan, once without each of its limits, and once with each change.
    ///
    /// # Errors
    /// If the capacity can't serve the workload, with a change or without.
    pub fn new(
        capacity: &Capacity,
        workload: &Workload,
        changes: Vec<Change>,
        prices: Option<Prices>,
    ) -> Result<Self, PlanError> {
        let limits = PlanLimit::all(capacity, workload);
        let limits: Vec<PlanLimit> = limits.into_iter().take(Self::MAX_LIMITS).collect();
        let left_out = limits.iter().cloned().map(Change::Without);
        let runs: Vec<Change> = left_out.chain(changes.iter().cloned()).collect();
        let run = |change: &Change| {
            let (mut capacity, mut workload) = (capacity.clone(), workload.clone());
            change.apply(&mut capacity, &mut workload);
            let schedule = simulate(&capacity, &workload)?;
            Ok(Figures::of(&schedule, &workload, &capacity, prices))
        };
        let (schedule, figures) = beside(|| simulate(capacity, workload), &runs, run);
        let schedule = schedule?;
        let mut others = figures.into_iter().collect::<Result<Vec<_>, PlanError>>()?;
        let compared = others.split_off(limits.len());
        let figures = Figures::of(&schedule, workload, capacity, prices);
        let mut limits: Vec<_> = limits.into_iter().zip(others).collect();
        let by_finish = matches!(workload.pace(), Pace::Workers { .. });
        limits.sort_by(|(_, one), (_, other)| {
            let gain = |figures: &Figures| pain(figures, by_finish);
            gain(one).total_cmp(&gain(other))
        });
        Ok(Self {
            figures,
            schedule,
            limits,
            changes: changes.into_iter().zip(compared).collect(),
            by_finish,
        })
    }

    /// The limit that holds the plan back: without it alone, the plan gets better by at least 1 %, and the most.
    ///
    /// `None` where no single limit does: none is reached, or another takes its place.
    #[must_use]
    pub fn binding(&self) -> Option<&(PlanLimit, Figures)> {
        let before = pain(&self.figures, self.by_finish);
        let (_, figures) = self.limits.first()?;
        (pain(figures, self.by_finish) < before * 0.99).then(|| &self.limits[0])
    }
}

/// Does one task, and beside it the same task for each item, on as many threads as there are processors.
///
/// The results are in the order of the items, whatever the order in which they were done.
fn beside<A, T: Sync, R: Send>(
    first: impl FnOnce() -> A,
    items: &[T],
    task: impl Fn(&T) -> R + Sync,
) -> (A, Vec<R>) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(index)
        {
            done.push((index, task(item)));
        }
        done
    };
    let others = thread::available_parallelism().map_or(0, |all| all.get() - 1);
    let (first, mut done) = thread::scope(|scope| {
        // Where there is no thread to be had, this one does all.
        let started = (0..others.min(items.len()))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok());
        let started: Vec<_> = started.collect();
        let (first, mut done) = (first(), work());
        for thread in started {
            match thread.join() {
                Ok(more) => done.extend(more),
                Err(panic) => resume_unwind(panic),
            }
        }
        (first, done)
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    (first, done.into_iter().map(|(_, result)| result).collect())
}

/// Rates a plan in seconds, less being better: by its finish or its mean wait; each call that is not served adds an hour.
fn pain(figures: &Figures, by_finish: bool) -> f64 {
    let lost = figures.calls.saturating_sub(figures.served) as f64;
    let time = if by_finish {
        figures.finish
    } else {
        figures.waits.mean
    };
    time.as_secs_f64() + lost * 3_600.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_their_items() {
        for count in [0, 1, 100] {
            let items: Vec<u32> = (0..count).collect();
            let (first, all) = beside(|| "first", &items, |item| item * 2);
            assert_eq!(first, "first");
            assert!(all.into_iter().eq(items.iter().map(|item| item * 2)));
        }
    }
}

//! A plan as a whole: its figures, what each limit costs, and what changes would bring.

use crate::capacity::Capacity;
use crate::change::Change;
use crate::cost::Prices;
use crate::figures::Figures;
use crate::limit::PlanLimit;
use crate::simulation::{PlanError, Schedule, simulate};
use crate::workload::{Pace, Workload};

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
        let schedule = simulate(capacity, workload)?;
        let figures = Figures::of(&schedule, workload, capacity, prices);
        let changed = |change: &Change| {
            let (mut capacity, mut workload) = (capacity.clone(), workload.clone());
            change.apply(&mut capacity, &mut workload);
            let schedule = simulate(&capacity, &workload)?;
            Ok::<_, PlanError>(Figures::of(&schedule, &workload, &capacity, prices))
        };
        let mut limits = Vec::new();
        for limit in PlanLimit::all(capacity, workload)
            .into_iter()
            .take(Self::MAX_LIMITS)
        {
            let figures = changed(&Change::Without(limit.clone()))?;
            limits.push((limit, figures));
        }
        let by_finish = matches!(workload.pace(), Pace::Workers { .. });
        limits.sort_by(|(_, one), (_, other)| {
            let gain = |figures: &Figures| pain(figures, by_finish);
            gain(one).total_cmp(&gain(other))
        });
        let mut compared = Vec::new();
        for change in changes {
            let figures = changed(&change)?;
            compared.push((change, figures));
        }
        Ok(Self {
            figures,
            schedule,
            limits,
            changes: compared,
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

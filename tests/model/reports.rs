//! The oracle of upstream reports.
//!
//! Invariant: until a report's reset, at most `remaining` units are admitted besides those in flight at the report.

use leasehold_core::limit::LimitSet;

/// All reports and all admissions so far.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    uses: Vec<Use>,
    reports: Vec<Report>,
}

#[derive(Clone, Debug)]
struct Use {
    member: u32,
    reserved: [u64; 2],
    actual: Option<[u64; 2]>,
}

#[derive(Clone, Debug)]
struct Report {
    member: u32,
    unit: usize,
    remaining: u64,
    until: u64,
    /// Number of admissions before it.
    admitted: usize,
    /// Those of them in flight.
    in_flight: Vec<usize>,
}

impl Reports {
    /// Records an admission.
    pub fn admit(&mut self, member: u32, reserved: [u64; 2]) {
        self.uses.push(Use {
            member,
            reserved,
            actual: None,
        });
    }

    /// Settles the admission with this number.
    pub fn settle(&mut self, which: usize, actual: [u64; 2]) {
        self.uses[which].actual = Some(actual);
    }

    /// Records a report; answers false if more reports hold than a set keeps apart.
    pub fn observe(
        &mut self,
        now: u64,
        member: u32,
        unit: usize,
        remaining: u64,
        until: u64,
    ) -> bool {
        let live = |one: &&Report| (one.member, one.unit) == (member, unit) && one.until > now;
        if self.reports.iter().filter(live).count() >= LimitSet::REPORTS {
            return false;
        }
        let admitted = self.uses.len();
        let open = |which: &usize| {
            self.uses[*which].actual.is_none() && self.uses[*which].member == member
        };
        self.reports.push(Report {
            member,
            unit,
            remaining,
            until,
            admitted,
            in_flight: (0..admitted).filter(open).collect(),
        });
        true
    }

    /// Whether the reports that hold at `now` leave `cost` units.
    #[must_use]
    pub fn leave(&self, now: u64, member: u32, unit: usize, cost: u64) -> bool {
        let live = |one: &&Report| (one.member, one.unit) == (member, unit) && one.until > now;
        let mut live = self.reports.iter().filter(live);
        cost == 0 || live.all(|report| self.taken_since(report) + cost <= report.remaining)
    }

    /// The units admitted since a report. Of bookings in flight then, only units above their reservation count, because
    /// the upstream may not have known of them.
    fn taken_since(&self, report: &Report) -> u64 {
        let unit = report.unit;
        let later = self.uses[report.admitted..].iter();
        let later = later.filter(|one| one.member == report.member);
        let later = later.map(|one| one.actual.unwrap_or(one.reserved)[unit]);
        let in_flight = report.in_flight.iter().map(|which| &self.uses[*which]);
        let above = |one: &Use| {
            let actual = one.actual.unwrap_or(one.reserved);
            actual[unit].saturating_sub(one.reserved[unit])
        };
        later.sum::<u64>() + in_flight.map(above).sum::<u64>()
    }

    /// Removes the reports on a member.
    pub fn forget(&mut self, member: u32) {
        self.reports.retain(|report| report.member != member);
    }

    /// Continues on a clock that is ahead by `shift`, or behind if below zero.
    pub fn rebase(&mut self, shift: i128) {
        for report in &mut self.reports {
            report.until = crate::shifted(report.until, shift);
        }
    }
}

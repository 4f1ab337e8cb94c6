//! What upstreams said that they will still serve, by the statement: at any time, at most `remaining`
//! units beyond those in flight at a report are admitted before its reset.

use leasehold_core::limit::LimitSet;

/// All reports and all that was ever admitted.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    uses: Vec<Use>,
    said: Vec<Report>,
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
    /// How much had been admitted before.
    made: usize,
    /// What of that was in flight.
    in_flight: Vec<usize>,
}

impl Reports {
    /// Something was admitted.
    pub fn admit(&mut self, member: u32, reserved: [u64; 2]) {
        self.uses.push(Use {
            member,
            reserved,
            actual: None,
        });
    }

    /// The one of this number has ended.
    pub fn settle(&mut self, which: usize, actual: [u64; 2]) {
        self.uses[which].actual = Some(actual);
    }

    /// An upstream said something; false where that is more at a time than is kept apart.
    pub fn observe(
        &mut self,
        now: u64,
        member: u32,
        unit: usize,
        remaining: u64,
        until: u64,
    ) -> bool {
        let live = |one: &&Report| (one.member, one.unit) == (member, unit) && one.until > now;
        if self.said.iter().filter(live).count() >= LimitSet::REPORTS {
            return false;
        }
        let made = self.uses.len();
        let open = |which: &usize| {
            self.uses[*which].actual.is_none() && self.uses[*which].member == member
        };
        self.said.push(Report {
            member,
            unit,
            remaining,
            until,
            made,
            in_flight: (0..made).filter(open).collect(),
        });
        true
    }

    /// Whether the reports that hold at `now` leave so much of a unit.
    #[must_use]
    pub fn leave(&self, now: u64, member: u32, unit: usize, cost: u64) -> bool {
        let live = |one: &&Report| (one.member, one.unit) == (member, unit) && one.until > now;
        let mut live = self.said.iter().filter(live);
        cost == 0 || live.all(|report| self.taken_since(report) + cost <= report.remaining)
    }

    /// What was admitted for the member of a report beyond what was in flight then. What that turned out
    /// to cost above its reservation, the upstream may not have known.
    fn taken_since(&self, report: &Report) -> u64 {
        let unit = report.unit;
        let later = self.uses[report.made..].iter();
        let later = later.filter(|one| one.member == report.member);
        let later = later.map(|one| one.actual.unwrap_or(one.reserved)[unit]);
        let in_flight = report.in_flight.iter().map(|which| &self.uses[*which]);
        let above = |one: &Use| {
            let actual = one.actual.unwrap_or(one.reserved);
            actual[unit].saturating_sub(one.reserved[unit])
        };
        later.sum::<u64>() + in_flight.map(above).sum::<u64>()
    }

    /// Nothing was ever said of a member.
    pub fn forget(&mut self, member: u32) {
        self.said.retain(|report| report.member != member);
    }

    /// Another clock is used, which is ahead by so much, or behind where that is below zero; what it can't show
    /// it shows as zero.
    pub fn rebase(&mut self, shift: i128) {
        for report in &mut self.said {
            report.until = crate::shifted(report.until, shift);
        }
    }
}

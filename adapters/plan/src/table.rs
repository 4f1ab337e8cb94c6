//! A prediction as text, for people.

use crate::figures::Figures;
use crate::prediction::Prediction;
use core::fmt::{self, Display, Formatter};
use leasehold_page::{counted, decimal, duration, grouped};

/// Limits that are shown in the table.
const SHOWN_LIMITS: usize = 5;

impl Display for Prediction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        write!(f, "calls          {}", grouped(figures.calls))?;
        writeln!(f, ": {}", self.ends().join(", "))?;
        writeln!(f, "finish         {}", duration(figures.finish))?;
        write!(
            f,
            "rate           {} calls a minute",
            decimal(figures.calls_per_minute())
        )?;
        if figures.tokens.total() > 0 {
            let tokens = decimal(figures.tokens_per_minute());
            write!(f, ", {tokens} tokens a minute")?;
        }
        writeln!(f)?;
        if let Some(cost) = figures.cost {
            writeln!(f, "cost           {}", decimal(cost))?;
        }
        for (name, times) in [("wait", figures.waits), ("call", figures.times)] {
            let [p50, p99, max] = [times.p50, times.p99, times.max].map(duration);
            writeln!(f, "{name:<14} p50 {p50}, p99 {p99}, longest {max}")?;
        }
        writeln!(f, "held back by   {}", self.held_back())?;
        writeln!(f)?;
        self.write_comparison(f)
    }
}

impl Prediction {
    /// Says in words what holds the plan back.
    #[must_use]
    pub fn held_back(&self) -> String {
        match self.binding() {
            Some((limit, without)) if self.by_finish => {
                let finish = duration(without.finish);
                format!("{limit}; without it, the finish is at {finish}")
            }
            Some((limit, without)) => {
                let mean = duration(without.waits.mean);
                format!("{limit}; without it, the mean wait is {mean}")
            }
            None if self.limits.is_empty() => "no limit; there are none".to_owned(),
            None => "no single limit".to_owned(),
        }
    }

    /// The rows of the comparison: the plan, without each of its limits, and with each change.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, &Figures)> {
        let plan = [("as planned".to_owned(), &self.figures)].into_iter();
        let limits = self.limits.iter().take(SHOWN_LIMITS);
        let limits = limits.map(|(limit, figures)| (format!("without {limit}"), figures));
        let changes = self.changes.iter();
        let changes = changes.map(|(change, figures)| (change.to_string(), figures));
        plan.chain(limits).chain(changes).collect()
    }

    fn ends(&self) -> Vec<String> {
        let figures = &self.figures;
        let others = [
            (figures.refused, "refused"),
            (figures.never_fit, "above what a limit ever admits"),
            (figures.never_served, "never served"),
        ];
        let served = format!("{} served", grouped(figures.served));
        let others = others.iter().filter(|(count, _)| *count > 0);
        let others = others.map(|(count, end)| format!("{} {end}", grouped(*count)));
        [served].into_iter().chain(others).collect()
    }

    fn write_comparison(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let widths = rows.iter().map(|(name, _)| name.chars().count());
        let width = widths.max().unwrap_or(0).max(12);
        writeln!(
            f,
            "{:<width$}  {:>12}  {:>10}  {:>10}  {:>10}  {:>10}  {:>8}",
            "", "finish", "calls/min", "wait p50", "wait p99", "total p99", "balance",
        )?;
        for (name, figures) in rows {
            write!(
                f,
                "{name:<width$}  {:>12}  {:>10}  {:>10}  {:>10}  {:>10}  {:>8.3}",
                duration(figures.finish),
                decimal(figures.calls_per_minute()),
                duration(figures.waits.p50),
                duration(figures.waits.p99),
                duration(figures.totals.p99),
                figures.balance_score(),
            )?;
            if !figures.is_complete() {
                let lost = figures.calls.saturating_sub(figures.served);
                write!(f, "  {}", counted(lost, "call lost", "calls lost"))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

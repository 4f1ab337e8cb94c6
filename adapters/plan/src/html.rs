//! A prediction as one HTML page with charts, without scripts or anything to load.
//!
//! Invariant: all text of users goes through [`Escaped`].

use crate::capacity::Capacity;
use crate::figures::{Figures, Quantiles};
use crate::prediction::Prediction;
use crate::simulation::Fate;
use core::fmt::{self, Display, Formatter};
use core::time::Duration;
use leasehold_core::pool::stats::Histogram;
use leasehold_core::time::Tick;
use leasehold_page::{
    Chart, DurationFigures, Escaped, Label, Series, counted, decimal, duration, grouped,
    short_duration, write_head, write_histogram, write_legend,
};

/// Columns of the chart over time.
const SLOTS: usize = 120;
/// Members with a column of their own; the rest is left to the JSON.
const MAX_MEMBERS: usize = 200;
/// Times from which on a chart counts in seconds.
const LONG: Duration = Duration::from_secs(10);
/// Labels below a chart.
const LABELS: usize = 6;

impl Prediction {
    /// Returns the page; `about` says in words what was planned.
    #[must_use]
    pub fn to_html(&self, capacity: &Capacity, about: &str) -> String {
        Page {
            prediction: self,
            capacity,
            about,
        }
        .to_string()
    }
}

struct Page<'a> {
    prediction: &'a Prediction,
    capacity: &'a Capacity,
    about: &'a str,
}

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let figures = &self.prediction.figures;
        write_head(
            f,
            &format!("Plan of {}", counted(figures.calls, "call", "calls")),
        )?;
        self.write_summary(f)?;
        self.write_timeline(f)?;
        self.write_comparison(f)?;
        writeln!(f, r#"<section><h2>Waits and times</h2><div class="pair">"#)?;
        let waits = self.durations(figures.waits, |asked, granted, _| granted.since(asked));
        write_histogram(f, "Wait for a key or server", ("call", "calls"), &waits)?;
        let times = self.durations(figures.times, |_, granted, ended| ended.since(granted));
        write_histogram(f, "Time of a call", ("call", "calls"), &times)?;
        writeln!(f, "</div></section>")?;
        self.write_members(f)?;
        let version = env!("CARGO_PKG_VERSION");
        writeln!(
            f,
            "</main><footer>Written by leasehold {version}, from a simulation: nothing was sent.</footer></body></html>"
        )
    }
}

impl Page<'_> {
    fn write_summary(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let figures = &self.prediction.figures;
        let (class, verdict) = match figures.is_complete() {
            true => ("good", "all served"),
            false => ("bad", "not all served"),
        };
        writeln!(
            f,
            r#"<header><p class="kind">Plan</p><h1>{} in {} <span class="badge {class}">{verdict}</span></h1>
<p class="lead">{}</p><p class="note">Held back by {}.</p></header>
<section><h2>Figures</h2><dl class="tiles">"#,
            counted(figures.calls, "call", "calls"),
            Escaped(&duration(figures.finish)),
            Escaped(self.about),
            Escaped(&self.prediction.held_back()),
        )?;
        let lost = figures.calls.saturating_sub(figures.served);
        let mut tiles = vec![
            ("Finish", duration(figures.finish)),
            ("Calls a minute", decimal(figures.calls_per_minute())),
            ("Tokens a minute", decimal(figures.tokens_per_minute())),
            ("Wait, median", duration(figures.waits.p50)),
            ("Wait, 99th percentile", duration(figures.waits.p99)),
            (
                "Wait and call, 99th percentile",
                duration(figures.totals.p99),
            ),
            ("Calls not served", grouped(lost)),
        ];
        if let Some(cost) = figures.cost {
            tiles.push(("Cost", decimal(cost)));
        }
        for (name, value) in tiles {
            let value = Escaped(&value);
            writeln!(
                f,
                r#"<div><dt>{name}</dt><dd class="value">{value}</dd></div>"#
            )?;
        }
        writeln!(f, "</dl></section>")
    }

    /// Writes how many calls begin in each slot of time, and how many wait at its end.
    fn write_timeline(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let finish = self.prediction.figures.finish.as_nanos().max(1);
        let slot = |at: Tick| {
            let nanos = u128::from(at.as_nanos());
            let slot = nanos.saturating_mul(SLOTS as u128) / finish;
            (slot as usize).min(SLOTS.saturating_sub(1))
        };
        let (mut begun, mut asked) = (vec![0_u64; SLOTS], vec![0_u64; SLOTS]);
        let add = |counts: &mut Vec<u64>, slot: usize| {
            if let Some(count) = counts.get_mut(slot) {
                *count = count.saturating_add(1);
            }
        };
        for call in &self.prediction.schedule.calls {
            if let (Some(at), Fate::Served { granted, .. }) = (call.asked, call.fate) {
                add(&mut asked, slot(at));
                add(&mut begun, slot(granted));
            }
        }
        let mut waiting = 0_u64;
        let line = asked.iter().zip(&begun).map(|(asked, begun)| {
            waiting = waiting.saturating_add(*asked).saturating_sub(*begun);
            Some(waiting as f64)
        });
        let span = self.prediction.figures.finish;
        let chart = Chart {
            label: "Calls that begin, and calls that wait, over time".to_owned(),
            height: 180,
            gap: 0.1,
            line: line.collect(),
            series: vec![Series {
                class: "plain",
                counts: begun,
            }],
            labels: labels(|part| short_duration(span.mul_f64(part))),
            ..Chart::default()
        };
        let each = short_duration(span / (SLOTS as u32));
        writeln!(f, "<section><h2>Over time</h2>")?;
        write_legend(
            f,
            &[
                ("plain", format!("calls that begin in {each}")),
                ("line", "calls that wait at its end".to_owned()),
            ],
        )?;
        writeln!(f, "{chart}</section>")
    }

    fn write_comparison(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows = self.prediction.rows();
        writeln!(
            f,
            r#"<section><h2>What would change it</h2><div class="scroll"><table><thead><tr><th scope="col">Plan</th><th scope="col" class="number">Finish</th><th scope="col" class="number">Calls a minute</th><th scope="col" class="number">Wait p50</th><th scope="col" class="number">Wait p99</th><th scope="col" class="number">Wait and call p99</th><th scope="col" class="number">Not served</th></tr></thead><tbody>"#
        )?;
        for (number, (name, figures)) in (1..).zip(&rows) {
            writeln!(
                f,
                r#"<tr><th scope="row">{number}. {}</th><td class="number">{}</td><td class="number">{}</td><td class="number">{}</td><td class="number">{}</td><td class="number">{}</td><td class="number">{}</td></tr>"#,
                Escaped(name),
                duration(figures.finish),
                decimal(figures.calls_per_minute()),
                duration(figures.waits.p50),
                duration(figures.waits.p99),
                duration(figures.totals.p99),
                grouped(figures.calls.saturating_sub(figures.served)),
            )?;
        }
        writeln!(f, "</tbody></table></div>")?;
        let (name, value): (_, fn(&Figures) -> Duration) = match self.prediction.by_finish {
            true => ("Finish", |figures| figures.finish),
            false => ("99th percentile of wait and call", |figures| {
                figures.totals.p99
            }),
        };
        let is_long = rows.iter().any(|(_, figures)| value(figures) >= LONG);
        let (unit, parts) = if is_long { ("s", 1_000) } else { ("ms", 1) };
        let name = format!("{name} in {unit}, by row");
        let counts = rows.iter().map(|(_, figures)| {
            let millis = value(figures).as_millis();
            u64::try_from(millis / parts).unwrap_or(u64::MAX)
        });
        let count = rows.len().max(1) as f64;
        let chart = Chart {
            label: name.clone(),
            height: 120,
            max_column: 60,
            gap: 0.2,
            series: vec![Series {
                class: "plain",
                counts: counts.collect(),
            }],
            labels: (0..rows.len())
                .map(|row| Label {
                    at: (row as f64 + 0.5) / count,
                    text: row.saturating_add(1).to_string(),
                })
                .collect(),
            tips: rows
                .iter()
                .map(|(name, figures)| format!("{name}: {}", duration(value(figures))))
                .collect(),
            ..Chart::default()
        };
        writeln!(
            f,
            "<figure><figcaption>{name}</figcaption>{chart}</figure></section>"
        )
    }

    fn write_members(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts = &self.prediction.figures.per_member;
        let shown = counts.len().min(MAX_MEMBERS);
        let members = self.capacity.members.iter().zip(counts).take(shown);
        let chart = Chart {
            label: "Calls of each key or server".to_owned(),
            height: 120,
            max_column: 60,
            gap: 0.1,
            series: vec![Series {
                class: "plain",
                counts: counts.iter().take(shown).copied().collect(),
            }],
            tips: members
                .map(|(member, calls)| format!("{}: {}", member.name, grouped(*calls)))
                .collect(),
            ..Chart::default()
        };
        writeln!(f, "<section><h2>Keys and servers</h2>{chart}")?;
        if shown < counts.len() {
            let all = grouped(counts.len() as u64);
            writeln!(f, r#"<p class="note">The first {shown} of {all}.</p>"#)?;
        }
        writeln!(f, "</section>")
    }

    /// Returns the histogram of a time of each served call, with its exact quantiles.
    fn durations(
        &self,
        exact: Quantiles,
        of: impl Fn(Tick, Tick, Tick) -> Duration,
    ) -> DurationFigures {
        let mut times = Histogram::new();
        for call in &self.prediction.schedule.calls {
            if let (Some(asked), Fate::Served { granted, ended, .. }) = (call.asked, call.fate) {
                times.record(of(asked, granted, ended));
            }
        }
        DurationFigures {
            p50: exact.p50,
            p90: exact.p90,
            p99: exact.p99,
            ..DurationFigures::from(&times)
        }
    }
}

/// Returns labels at even places of an axis.
fn labels(text: impl Fn(f64) -> String) -> Vec<Label> {
    let places = (0..LABELS).map(|number| number as f64 / (LABELS - 1) as f64);
    places.map(|at| Label { at, text: text(at) }).collect()
}

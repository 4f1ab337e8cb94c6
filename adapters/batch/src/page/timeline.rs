//! The section on time: calls that ended in each slot, and calls in flight.

use super::chart::{Chart, Label, Series, nice_step, write_legend};
use super::data::{Slot, Timeline};
use super::keys::series_legend;
use super::text::{Escaped, compact, counted, decimal, duration, grouped};
use core::fmt::{self, Formatter};

/// Fewer slots say less than a sentence.
const FEWEST: usize = 3;

pub(super) fn write_timeline(f: &mut Formatter<'_>, timeline: &Timeline) -> fmt::Result {
    writeln!(f, "<section><h2>Calls over time</h2>")?;
    let slots = &timeline.slots;
    if slots
        .iter()
        .all(|slot| ended(slot) == 0 && slot.in_flight == 0)
    {
        return writeln!(f, r#"<p class="none">No call was sent.</p></section>"#);
    }
    if slots.len() < FEWEST {
        let ended = counted(
            slots.iter().map(ended).fold(0, u64::saturating_add),
            "call",
            "calls",
        );
        let span = duration(timeline.slot.saturating_mul(slots.len() as u32));
        return writeln!(
            f,
            r#"<p class="none">{ended} ended within {span}: too short to draw.</p></section>"#
        );
    }
    let slot = duration(timeline.slot);
    let line = limit_line(slots);
    let most = slots.iter().map(ended).max().unwrap_or_default();
    let series = |class, count: fn(&Slot) -> u64| Series {
        class,
        counts: slots.iter().map(count).collect(),
    };
    let calls = Chart {
        label: format!(
            "Calls that ended in each slot of {slot}: {} slots, at most {} in one.",
            grouped(slots.len() as u64),
            counted(most, "call", "calls"),
        ),
        height: 180,
        series: vec![
            series("ok", |slot| slot.ok),
            series("throttled", |slot| slot.throttled),
            series("failed", |slot| slot.failed),
        ],
        line: line.clone(),
        labels: time_labels(timeline),
        tips: slots.iter().map(tip).collect(),
        ..Chart::default()
    };
    writeln!(
        f,
        "<figure><figcaption>Calls that ended, per {}</figcaption>",
        Escaped(&slot)
    )?;
    let mut legend = series_legend(&calls.series);
    if line.iter().any(Option::is_some) {
        legend.push(("line", "admitted by the limits, on average".to_owned()));
    }
    write_legend(f, &legend)?;
    writeln!(f, "{calls}")?;
    write_note(f, slots, &line)?;
    writeln!(f, "</figure>")?;
    write_in_flight(f, timeline)?;
    writeln!(f, "</section>")
}

fn write_in_flight(f: &mut Formatter<'_>, timeline: &Timeline) -> fmt::Result {
    let slots = &timeline.slots;
    let most = slots
        .iter()
        .map(|slot| slot.in_flight)
        .max()
        .unwrap_or_default();
    let chart = Chart {
        label: format!("Calls in flight over time: at most {}.", grouped(most)),
        height: 70,
        series: vec![Series {
            class: "in-flight",
            counts: slots.iter().map(|slot| slot.in_flight).collect(),
        }],
        labels: time_labels(timeline),
        tips: slots.iter().map(tip).collect(),
        ..Chart::default()
    };
    writeln!(
        f,
        "<figure><figcaption>Calls in flight, at most {}</figcaption>",
        grouped(most)
    )?;
    writeln!(f, "{chart}</figure>")
}

fn ended(slot: &Slot) -> u64 {
    slot.ok
        .saturating_add(slot.failed)
        .saturating_add(slot.throttled)
}

/// Returns the limit of each slot where it is known, and low enough to be drawn beside the calls.
fn limit_line(slots: &[Slot]) -> Vec<Option<f64>> {
    let most = slots.iter().map(ended).max().unwrap_or_default();
    let limits = slots.iter().map(|slot| slot.admitted);
    let is_near = |limit: &f64| *limit <= (most as f64 * 3.0).max(1.0);
    limits
        .map(|limit| limit.filter(is_usable).filter(is_near))
        .collect()
}

fn write_note(f: &mut Formatter<'_>, slots: &[Slot], line: &[Option<f64>]) -> fmt::Result {
    let limits = slots.iter().filter_map(|slot| slot.admitted);
    let most = limits.filter(is_usable).reduce(f64::max);
    let mut notes = Vec::new();
    if line.iter().any(Option::is_some) {
        notes.push("A burst can exceed the dashed line in one slot and still keep to the limit over its window.".to_owned());
    } else if let Some(most) = most {
        notes.push(format!(
            "The limits admit up to {} calls in a slot, far above this chart.",
            decimal(most)
        ));
    }
    if slots
        .iter()
        .any(|slot| slot.failed > 0 || slot.throttled > 0)
    {
        notes
            .push("Small counts are drawn larger than they are, so that they are seen.".to_owned());
    }
    writeln!(f, r#"<p class="note">{}</p>"#, notes.join(" "))
}

fn is_usable(limit: &f64) -> bool {
    limit.is_finite() && *limit >= 0.0
}

fn tip(slot: &Slot) -> String {
    format!(
        "from {}: {} answered, {} throttled, {} failed, {} in flight",
        duration(slot.begin),
        grouped(slot.ok),
        grouped(slot.throttled),
        grouped(slot.failed),
        grouped(slot.in_flight),
    )
}

/// Returns labels at round times from the start, at most seven and all in one unit.
fn time_labels(timeline: &Timeline) -> Vec<Label> {
    let total = timeline.slot.as_secs_f64() * timeline.slots.len() as f64;
    let (unit, name) = match total {
        ..1.0 => (1e-3, "ms"),
        ..120.0 => (1.0, "s"),
        ..7_200.0 => (60.0, "min"),
        ..172_800.0 => (3_600.0, "h"),
        _ => (86_400.0, "d"),
    };
    let end = total / unit;
    let step = nice_step(end, 6);
    (0..=6)
        .map(|at| step * f64::from(at))
        .filter(|time| *time <= end)
        .map(|time| Label {
            at: if end > 0.0 { time / end } else { 0.0 },
            text: format!("{} {name}", compact(time)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn labels(slot: Duration, slots: usize) -> Vec<String> {
        let slots = vec![Slot::default(); slots];
        let labels = time_labels(&Timeline { slot, slots });
        labels.into_iter().map(|label| label.text).collect()
    }

    #[test]
    fn times_are_round_and_share_a_unit() {
        let minutes = labels(Duration::from_secs(10), 90);
        assert_eq!(minutes, ["0 min", "5 min", "10 min", "15 min"]);
        let seconds = labels(Duration::from_millis(500), 8);
        assert_eq!(seconds, ["0 s", "1 s", "2 s", "3 s", "4 s"]);
        assert_eq!(labels(Duration::ZERO, 8).len(), 1);
    }

    #[test]
    fn a_limit_far_above_the_calls_is_not_drawn() {
        let slot = |admitted| Slot {
            ok: 10,
            admitted,
            ..Slot::default()
        };
        let slots = [
            slot(Some(20.0)),
            slot(Some(1e6)),
            slot(Some(f64::NAN)),
            slot(None),
        ];
        assert_eq!(limit_line(&slots), [Some(20.0), None, None, None]);
    }
}

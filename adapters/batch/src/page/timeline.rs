//! The section on time: calls that ended in each slot, and calls in flight.

use super::keys::series_legend;
use crate::timeline::{TimeSlot, Timeline};
use core::fmt::{self, Formatter};
use core::time::Duration;
use leasehold_page::{
    Chart, Escaped, Label, Series, compact, counted, decimal, duration, grouped, nice_step,
    write_legend,
};

/// Fewer slots say less than a sentence.
const FEWEST: usize = 3;

/// Writes the section; `admitted` is the number of calls that the limits admit in a second on average.
pub(super) fn write_timeline(
    f: &mut Formatter<'_>,
    timeline: &Timeline,
    admitted: Option<f64>,
) -> fmt::Result {
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
        let span = duration(timeline.width.saturating_mul(slots.len() as u32));
        return writeln!(
            f,
            r#"<p class="none">{ended} ended within {span}: too short to draw.</p></section>"#
        );
    }
    let slot = duration(timeline.width);
    let admitted = admitted.map(|rate| rate * timeline.width.as_secs_f64());
    let admitted = admitted.filter(is_usable);
    let most = slots.iter().map(ended).max().unwrap_or_default();
    let series = |class, count: fn(&TimeSlot) -> u64| Series {
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
        line: vec![admitted.filter(|limit| is_near(*limit, most)); slots.len()],
        labels: time_labels(timeline),
        tips: tips(timeline),
        ..Chart::default()
    };
    writeln!(
        f,
        "<figure><figcaption>Calls that ended, per {}</figcaption>",
        Escaped(&slot)
    )?;
    let mut legend = series_legend(&calls.series);
    if admitted.is_some_and(|limit| is_near(limit, most)) {
        legend.push(("line", "admitted by the limits, on average".to_owned()));
    }
    write_legend(f, &legend)?;
    writeln!(f, "{calls}")?;
    write_note(f, slots, admitted, most)?;
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
        tips: tips(timeline),
        ..Chart::default()
    };
    writeln!(
        f,
        "<figure><figcaption>Calls in flight, at most {}</figcaption>",
        grouped(most)
    )?;
    writeln!(f, "{chart}</figure>")
}

fn ended(slot: &TimeSlot) -> u64 {
    slot.ok
        .saturating_add(slot.failed)
        .saturating_add(slot.throttled)
}

/// Whether a limit is low enough to be drawn beside the calls of the busiest slot.
fn is_near(limit: f64, most: u64) -> bool {
    limit <= (most as f64 * 3.0).max(1.0)
}

fn write_note(
    f: &mut Formatter<'_>,
    slots: &[TimeSlot],
    admitted: Option<f64>,
    most: u64,
) -> fmt::Result {
    let mut notes = Vec::new();
    match admitted {
        Some(limit) if is_near(limit, most) => notes.push(
            "A burst can exceed the dashed line in one slot and still keep to the limit over its window."
                .to_owned(),
        ),
        Some(limit) => notes.push(format!(
            "The limits admit {} calls in a slot, far above this chart.",
            decimal(limit)
        )),
        None => {}
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

fn tips(timeline: &Timeline) -> Vec<String> {
    let slots = (0_u32..).zip(&timeline.slots);
    let tip = |(index, slot): (u32, &TimeSlot)| {
        let begin: Duration = timeline.width.saturating_mul(index);
        format!(
            "from {}: {} answered, {} throttled, {} failed, {} in flight",
            duration(begin),
            grouped(slot.ok),
            grouped(slot.throttled),
            grouped(slot.failed),
            grouped(slot.in_flight),
        )
    };
    slots.map(tip).collect()
}

/// Returns labels at round times from the start, at most seven and all in one unit.
fn time_labels(timeline: &Timeline) -> Vec<Label> {
    let total = timeline.width.as_secs_f64() * timeline.slots.len() as f64;
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

    fn labels(width: Duration, slots: usize) -> Vec<String> {
        let slots = vec![TimeSlot::default(); slots];
        let labels = time_labels(&Timeline { width, slots });
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
        assert!(is_near(20.0, 10) && is_near(30.0, 10) && is_near(1.0, 0));
        assert!(!is_near(1e6, 10) && !is_near(2.0, 0));
        assert!(!is_usable(&f64::NAN) && !is_usable(&-1.0));
    }
}

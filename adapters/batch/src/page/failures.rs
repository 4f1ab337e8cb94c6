//! The section on tasks that failed: their causes, and the first of them.

use super::data::PageReport;
use core::fmt::{self, Formatter};
use leasehold_page::{Escaped, counted, grouped, percent, shortened};

/// Most failed tasks shown.
const MAX_FAILURES: usize = 20;
/// Most causes shown.
const MAX_CAUSES: usize = 20;
/// Most characters of a reason; services answer with whole pages.
const MAX_REASON: usize = 500;
/// Most characters of an item's id or a model's name.
const MAX_NAME: usize = 120;

pub(super) fn write_failures(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    writeln!(f, "<section><h2>Failures</h2>")?;
    if report.causes.is_empty() && report.first_failures.is_empty() {
        let text = match report.tasks.failed {
            0 => "No task failed.".to_owned(),
            failed => format!("{} failed.", counted(failed, "task", "tasks")),
        };
        return writeln!(f, r#"<p class="none">{}</p></section>"#, Escaped(&text));
    }
    write_causes(f, &report.causes)?;
    write_first(f, report)?;
    writeln!(f, "</section>")
}

fn write_causes(f: &mut Formatter<'_>, causes: &[(String, u64)]) -> fmt::Result {
    if causes.is_empty() {
        return Ok(());
    }
    let sum = causes
        .iter()
        .fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
    writeln!(
        f,
        r#"<table><caption>Failed tasks by cause</caption>
<thead><tr><th scope="col">Cause</th><th scope="col" class="number">Tasks</th><th scope="col" class="number">Share</th><th scope="col" class="bar"><span class="hidden">Share, drawn</span></th></tr></thead><tbody>"#
    )?;
    for (cause, count) in causes.iter().take(MAX_CAUSES) {
        let share = *count as f64 / sum.max(1) as f64 * 100.0;
        writeln!(
            f,
            r#"<tr><th scope="row" class="text">{}</th><td class="number">{}</td><td class="number">{}</td><td class="bar"><svg width="100%" height="12" aria-hidden="true"><rect class="failed" width="{share:.1}%" height="12"/></svg></td></tr>"#,
            Escaped(&shortened(cause, MAX_REASON)),
            grouped(*count),
            percent(*count, sum),
        )?;
    }
    writeln!(f, "</tbody></table>")?;
    match causes.len().checked_sub(MAX_CAUSES) {
        None | Some(0) => Ok(()),
        Some(more) => {
            let more = counted(more as u64, "more cause", "more causes");
            writeln!(f, r#"<p class="note">And {more}.</p>"#)
        }
    }
}

fn write_first(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    let shown = report.first_failures.iter().take(MAX_FAILURES);
    if shown.len() == 0 {
        return Ok(());
    }
    let count = shown.len() as u64;
    let caption = if report.tasks.failed > count {
        format!(
            "The first {count} of {} failed tasks",
            grouped(report.tasks.failed)
        )
    } else {
        "All failed tasks".to_owned()
    };
    writeln!(
        f,
        r#"<table class="rows"><caption>{}</caption>
<thead><tr><th scope="col">Item</th><th scope="col">Model</th><th scope="col">Reason</th></tr></thead><tbody>"#,
        Escaped(&caption),
    )?;
    for failure in shown {
        writeln!(
            f,
            r#"<tr><th scope="row" class="text">{}</th><td class="text">{}</td><td class="text">{}</td></tr>"#,
            Escaped(&shortened(&failure.item, MAX_NAME)),
            Escaped(&shortened(&failure.model, MAX_NAME)),
            Escaped(&shortened(&failure.reason, MAX_REASON)),
        )?;
    }
    writeln!(f, "</tbody></table>")
}

//! The top of the page: how the run ended, what it was, and its figures.

use super::data::{PageReport, TaskCounts};
use core::fmt::{self, Formatter};
use leasehold_page::{
    Escaped, counted, decimal, duration, grouped, percent, shortened, write_legend,
};
use leasehold_plan::Tokens;

/// Most models named; the rest are counted.
const MAX_MODELS: usize = 12;

pub(super) fn write_summary(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    let (class, verdict) = verdict(report);
    writeln!(
        f,
        r#"<header><p class="kind">Batch run</p><h1><bdi>{}</bdi> <span class="badge {class}">{verdict}</span></h1>"#,
        Escaped(&shortened(&report.input, 200)),
    )?;
    writeln!(f, r#"<p class="lead">{}</p>"#, lead(report))?;
    write_stopped(f, &report.stopped)?;
    writeln!(f, "</header>")?;
    writeln!(f, "<section><h2>Summary</h2>")?;
    write_tasks(f, &report.tasks)?;
    write_tiles(f, report)?;
    write_facts(f, report)?;
    writeln!(f, "</section>")
}

/// Says how the run ended, with the class of its badge.
fn verdict(report: &PageReport) -> (&'static str, &'static str) {
    let tasks = &report.tasks;
    if !report.stopped.is_empty() || tasks.unfinished > 0 {
        ("bad", "stopped early")
    } else if tasks.failed > 0 {
        ("bad", "finished with failures")
    } else if tasks.ok == 0 {
        ("", "nothing to do")
    } else {
        ("good", "finished")
    }
}

fn lead(report: &PageReport) -> String {
    let TaskCounts {
        total,
        earlier,
        ok,
        failed,
        unfinished,
    } = report.tasks;
    if total == 0 {
        return "The input holds no tasks.".to_owned();
    }
    let answered = earlier.saturating_add(ok);
    let mut text = if answered >= total {
        match total {
            1 => "The only task is answered".to_owned(),
            _ => format!("All {} are answered", counted(total, "task", "tasks")),
        }
    } else {
        let is = if answered <= 1 { "is" } else { "are" };
        let number = if answered == 0 {
            "None".to_owned()
        } else {
            grouped(answered)
        };
        format!(
            "{number} of {} {is} answered",
            counted(total, "task", "tasks")
        )
    };
    if earlier > 0 {
        text += &format!(", {} of them by an earlier run", grouped(earlier));
    }
    if failed > 0 {
        text += &format!("; {} failed", grouped(failed));
    }
    if unfinished > 0 {
        text += &format!(
            "; {} not done",
            if unfinished == 1 {
                "1 is".to_owned()
            } else {
                grouped(unfinished) + " are"
            }
        );
    }
    text += ".";
    if failed > 0 || unfinished > 0 {
        text += " Run the same command again for the rest.";
    }
    text
}

fn write_stopped(f: &mut Formatter<'_>, reasons: &[String]) -> fmt::Result {
    if reasons.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        r#"<div class="stopped"><p><strong>Why it stopped</strong></p><ul>"#
    )?;
    for reason in reasons {
        writeln!(f, "<li>{}</li>", Escaped(&shortened(reason, 500)))?;
    }
    writeln!(f, "</ul></div>")
}

/// Writes a bar of all tasks by how they ended, with its legend.
fn write_tasks(f: &mut Formatter<'_>, tasks: &TaskCounts) -> fmt::Result {
    let TaskCounts {
        total,
        earlier,
        ok,
        failed,
        unfinished,
    } = *tasks;
    if total == 0 {
        return Ok(());
    }
    let parts = [
        ("earlier", "answered by an earlier run", earlier),
        ("ok", "answered", ok),
        ("failed", "failed", failed),
        ("unfinished", "not done", unfinished),
    ];
    let words = parts.map(|(_, name, count)| format!("{} {name}", grouped(count)));
    let label = format!("{}: {}", counted(total, "task", "tasks"), words.join(", "));
    writeln!(
        f,
        r#"<figure><figcaption>{}</figcaption><svg class="tasks" role="img" aria-label="{label}" width="100%" height="20"><title>{label}</title>"#,
        counted(total, "task", "tasks"),
    )?;
    let sum: f64 = parts.iter().map(|(_, _, count)| *count as f64).sum();
    let mut left = 0.0;
    for (class, _, count) in parts.iter().filter(|(_, _, count)| *count > 0) {
        let wide = *count as f64 / sum * 100.0;
        writeln!(
            f,
            r#"<rect class="{class}" x="{left:.3}%" width="{wide:.3}%" height="20"/>"#
        )?;
        left += wide;
    }
    writeln!(f, r#"<rect class="frame" width="100%" height="20"/></svg>"#)?;
    let rows = parts.iter().filter(|(_, _, count)| *count > 0);
    let row = |&(class, name, count): &(&'static str, &str, u64)| {
        (
            class,
            format!("{} {name} ({})", grouped(count), percent(count, total)),
        )
    };
    write_legend(f, &rows.map(row).collect::<Vec<_>>())?;
    writeln!(f, "</figure>")
}

fn write_tiles(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    let ok = report.tasks.ok;
    writeln!(f, r#"<dl class="tiles">"#)?;
    write_tile(f, "Elapsed", &duration(report.elapsed), &rate(report))?;
    let retries = match report.retries {
        0 => "no retries".to_owned(),
        retries => counted(retries, "retry", "retries"),
    };
    write_tile(f, "Calls", &grouped(report.attempts), &retries)?;
    if let Some(Tokens { prompt, completion }) = report.tokens {
        let sum = prompt.saturating_add(completion);
        let parts = format!(
            "{} prompt, {} completion",
            grouped(prompt),
            grouped(completion)
        );
        write_tile(f, "Tokens", &grouped(sum), &parts)?;
    }
    if let Some(cost) = report.cost.filter(|cost| cost.is_finite()) {
        let each = match ok {
            0 => String::new(),
            _ => format!("{} per answer", decimal(cost / ok as f64)),
        };
        write_tile(f, "Cost", &decimal(cost), &each)?;
    }
    writeln!(f, "</dl>")
}

/// Says how many answers came in a minute, or in a second where these are many.
fn rate(report: &PageReport) -> String {
    let per_second = report.tasks.ok as f64 / report.elapsed.as_secs_f64();
    match per_second {
        _ if !per_second.is_finite() || per_second <= 0.0 => String::new(),
        10.0.. => format!("{} answers a second", decimal(per_second)),
        _ => format!("{} answers a minute", decimal(per_second * 60.0)),
    }
}

fn write_tile(f: &mut Formatter<'_>, name: &str, value: &str, note: &str) -> fmt::Result {
    let (value, note) = (Escaped(value), Escaped(note));
    writeln!(
        f,
        r#"<div><dt>{name}</dt><dd class="value">{value}</dd><dd class="note">{note}</dd></div>"#
    )
}

fn write_facts(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    let mut models = report
        .models
        .iter()
        .take(MAX_MODELS)
        .map(|model| shortened(model, 120))
        .collect::<Vec<_>>()
        .join(", ");
    let more = report.models.len().saturating_sub(MAX_MODELS);
    if more > 0 {
        models += &format!(", and {more} more");
    }
    let limits = report.limits.as_deref().unwrap_or("none");
    let facts = [
        ("Ended", report.date.as_str()),
        ("Input", &report.input),
        ("Output", &report.output),
        (
            if report.models.len() == 1 {
                "Model"
            } else {
                "Models"
            },
            &models,
        ),
        ("Limits", limits),
    ];
    writeln!(f, r#"<dl class="facts">"#)?;
    for (name, text) in facts {
        let text = if text.is_empty() { "–" } else { text };
        writeln!(f, "<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(text))?;
    }
    writeln!(f, "</dl>")
}

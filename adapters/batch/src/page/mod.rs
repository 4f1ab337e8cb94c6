//! The report of a run as one HTML page, without scripts or anything to load.
//!
//! Invariant: all text of users goes through [`Escaped`], and every number that is printed is finite.

mod chart;
pub(crate) mod data;
mod durations;
mod failures;
mod keys;
#[cfg(test)]
mod samples;
mod summary;
#[cfg(test)]
mod tests;
mod text;
mod timeline;

use core::fmt::{self, Display, Formatter};
use data::{ClientFigures, PageReport};
use text::{Escaped, grouped, percent, shortened};

const STYLE: &str = include_str!("style.css");

/// Returns the page of a run as HTML.
pub(crate) fn page(report: &PageReport) -> String {
    Page(report).to_string()
}

struct Page<'a>(&'a PageReport);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write_head(f, report)?;
        summary::write_summary(f, report)?;
        timeline::write_timeline(f, &report.timeline, report.admitted)?;
        keys::write_keys(f, &report.keys)?;
        durations::write_durations(f, &report.waits, &report.latencies)?;
        write_leases(f, report)?;
        failures::write_failures(f, report)?;
        writeln!(
            f,
            "</main><footer>Written by leasehold {}. Keys are shown by their last characters.</footer></body></html>",
            Escaped(&report.version),
        )
    }
}

/// Writes everything up to the first section.
fn write_head(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    let input = shortened(&report.input, 200);
    writeln!(
        f,
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Batch run of {input}, {date}</title>
<style>
{STYLE}</style></head>
<body>{PATTERNS}<main>"#,
        input = Escaped(&input),
        date = Escaped(&report.date),
    )
}

/// Fills that are told apart without colour. The stripes are level, so that charts can stretch them.
const PATTERNS: &str = r#"<svg class="hidden" width="0" height="0" aria-hidden="true"><defs>
<pattern id="throttled" width="4" height="4" patternUnits="userSpaceOnUse"><rect class="light" width="4" height="4"/><rect class="dark" width="4" height="2"/></pattern>
<pattern id="earlier" width="6" height="6" patternUnits="userSpaceOnUse"><rect class="light" width="6" height="6"/><rect class="dark" width="6" height="1"/></pattern>
</defs></svg>"#;

/// Writes what became of requests for leases, and of HTTP clients.
fn write_leases(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    let leases = &report.leases;
    let ClientFigures { created, reused } = report.clients;
    writeln!(
        f,
        r#"<section><h2>Leases and connections</h2><div class="pair">"#
    )?;
    let leases = [
        ("Granted at once", leases.at_once),
        ("Granted after a wait", leases.after_waiting),
        ("Refused", leases.refused),
    ];
    write_counts(f, "Requests for a lease", &leases)?;
    let clients = [
        ("Opened a client", created),
        ("Reused an open client", reused),
    ];
    write_counts(f, "HTTP clients, by call", &clients)?;
    writeln!(f, "</div></section>")
}

/// Writes a table of counts and their shares of the sum.
fn write_counts(f: &mut Formatter<'_>, caption: &str, rows: &[(&str, u64)]) -> fmt::Result {
    let sum = rows
        .iter()
        .fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
    writeln!(
        f,
        r#"<table><caption>{caption}</caption><thead><tr><th scope="col">Kind</th><th scope="col" class="number">Count</th><th scope="col" class="number">Share</th></tr></thead><tbody>"#
    )?;
    for (name, count) in rows {
        writeln!(
            f,
            r#"<tr><th scope="row">{name}</th><td class="number">{}</td><td class="number">{}</td></tr>"#,
            grouped(*count),
            percent(*count, sum),
        )?;
    }
    writeln!(f, "</tbody></table>")
}

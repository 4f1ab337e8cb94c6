//! The report of a run as one HTML page, without scripts or anything to load.
//!
//! Invariant: all text of users goes through [`Escaped`], and every number that is printed is finite.

pub(crate) mod data;
mod failures;
mod keys;
#[cfg(test)]
mod samples;
mod summary;
#[cfg(test)]
mod tests;
mod timeline;

use core::fmt::{self, Display, Formatter};
use data::{ClientFigures, PageReport};
use leasehold_page::{Escaped, grouped, percent, shortened, write_head, write_histogram};

/// Returns the page of a run as HTML.
pub(crate) fn page(report: &PageReport) -> String {
    Page(report).to_string()
}

struct Page<'a>(&'a PageReport);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let input = shortened(&report.input, 200);
        write_head(f, &format!("Batch run of {input}, {}", report.date))?;
        summary::write_summary(f, report)?;
        timeline::write_timeline(f, &report.timeline, report.admitted)?;
        keys::write_keys(f, &report.keys)?;
        write_durations(f, report)?;
        write_leases(f, report)?;
        failures::write_failures(f, report)?;
        writeln!(
            f,
            "</main><footer>Written by leasehold {}. Keys are shown by their last characters.</footer></body></html>",
            Escaped(&report.version),
        )
    }
}

/// Writes the histograms of the times to a lease and to an answer side by side.
fn write_durations(f: &mut Formatter<'_>, report: &PageReport) -> fmt::Result {
    writeln!(
        f,
        r#"<section><h2>Waits and latencies</h2><div class="pair">"#
    )?;
    write_histogram(f, "Wait for a lease", ("lease", "leases"), &report.waits)?;
    write_histogram(f, "Latency of a call", ("call", "calls"), &report.latencies)?;
    writeln!(f, "</div></section>")
}

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

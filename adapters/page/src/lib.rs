//! Pages and texts of figures: numbers and times as people read them, and charts as inline SVG.
//!
//! Invariant: all text of users goes through [`Escaped`], a page loads nothing, and every number that is written is finite.

mod chart;
mod durations;
mod text;

pub use chart::{Chart, Label, Series, nice_step, write_legend};
pub use durations::{DurationFigures, write_histogram};
pub use text::{
    Escaped, compact, counted, decimal, duration, grouped, percent, short_duration, shortened,
    words,
};

use core::fmt::{self, Formatter};

const STYLE: &str = include_str!("style.css");

/// Writes a page up to its first section. Whatever follows ends it by `</main></body></html>`.
///
/// # Errors
/// If the formatter fails.
pub fn write_head(f: &mut Formatter<'_>, title: &str) -> fmt::Result {
    writeln!(
        f,
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{STYLE}</style></head>
<body>{PATTERNS}<main>"#,
        title = Escaped(title),
    )
}

/// Fills that are told apart without colour. The stripes are level, so that charts can stretch them.
const PATTERNS: &str = r#"<svg class="hidden" width="0" height="0" aria-hidden="true"><defs>
<pattern id="throttled" width="4" height="4" patternUnits="userSpaceOnUse"><rect class="light" width="4" height="4"/><rect class="dark" width="4" height="2"/></pattern>
<pattern id="earlier" width="6" height="6" patternUnits="userSpaceOnUse"><rect class="light" width="6" height="6"/><rect class="dark" width="6" height="1"/></pattern>
</defs></svg>"#;

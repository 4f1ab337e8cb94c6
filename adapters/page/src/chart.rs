//! Charts of stacked columns, as inline SVG.
//!
//! The plot stretches to the width of the page, while texts and lines keep their size: shapes are paths of an inner SVG in
//! units of columns, and everything else is placed by per cent.

use crate::text::{Escaped, compact};
use core::fmt::{self, Display, Formatter, Write};

/// Height of a row of labels, in px.
const ROW: f64 = 18.0;
/// Least height of a count that is not zero, in px, so that one failure in a thousand is seen.
const LEAST: f64 = 2.0;
/// More columns have no texts of their own to be shown under the pointer.
const MAX_TIPS: usize = 400;

/// A chart of stacked columns.
#[derive(Debug, Default)]
pub struct Chart {
    /// The chart in words, for screen readers.
    pub label: String,
    /// Height of the plot in px.
    pub height: u32,
    /// Greatest width of a column in px; 0 for any.
    pub max_column: u32,
    /// Part of a column that is left free, from 0 to 1.
    pub gap: f64,
    /// The series, from the bottom up.
    pub series: Vec<Series>,
    /// A dashed line over the columns: a value for each, or none.
    pub line: Vec<Option<f64>>,
    /// Vertical lines, from the right, each with a row for its label above the plot: so none crosses the label of another.
    pub marks: Vec<Label>,
    /// Labels below the plot.
    pub labels: Vec<Label>,
    /// A text for each column, shown under the pointer.
    pub tips: Vec<String>,
}

/// Counts of one kind, one for each column.
#[derive(Debug)]
pub struct Series {
    /// The class that fills it.
    pub class: &'static str,
    /// The counts.
    pub counts: Vec<u64>,
}

/// A text at a place of the horizontal axis.
#[derive(Debug)]
pub struct Label {
    /// The place, from 0 to 1.
    pub at: f64,
    /// The text.
    pub text: String,
}

impl Chart {
    /// Returns the number of columns.
    fn columns(&self) -> usize {
        let lengths = self.series.iter().map(|series| series.counts.len());
        lengths.max().unwrap_or_default()
    }

    /// Returns the height of the rows above the plot in px.
    fn head(&self) -> f64 {
        // Half a row is for the topmost label of the vertical axis.
        ROW / 2.0 + ROW * self.marks.len() as f64
    }

    /// Returns the greatest sum of a column.
    fn most(&self) -> u64 {
        let sum = |column: usize| {
            let counts = self.series.iter().map(|series| series.counts.get(column));
            counts
                .flatten()
                .fold(0, |sum: u64, &count| sum.saturating_add(count))
        };
        (0..self.columns()).map(sum).max().unwrap_or_default()
    }

    /// Returns the step and the end of the vertical axis.
    fn scale(&self) -> (f64, f64) {
        let lines = self.line.iter().flatten().copied();
        let most = lines
            .filter(|value| value.is_finite())
            .fold(self.most() as f64, f64::max)
            .max(1.0);
        // A line of the grid needs the height of a text.
        let step = nice_step(most, (self.height / 30).clamp(1, 4)).max(1.0);
        (step, (most / step).ceil() * step)
    }
}

impl Display for Chart {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (height, head) = (f64::from(self.height), self.head());
        let foot = if self.labels.is_empty() {
            ROW / 2.0
        } else {
            ROW * 1.5
        };
        let columns = self.columns().max(1);
        write!(
            f,
            r#"<svg class="chart" role="img" height="{}""#,
            head + height + foot
        )?;
        if self.max_column > 0 {
            let most = columns.saturating_mul(self.max_column as usize);
            write!(f, r#" style="max-width:{most}px""#)?;
        }
        let label = Escaped(&self.label);
        writeln!(f, r#" aria-label="{label}"><title>{label}</title>"#)?;
        let (step, end) = self.scale();
        write_grid(f, step, end, head, height)?;
        writeln!(
            f,
            r#"<svg y="{head}" width="100%" height="{height}" viewBox="0 0 {columns} {height}" preserveAspectRatio="none" overflow="visible">"#,
        )?;
        self.write_series(f, end)?;
        write_step_line(f, &self.line, end, height)?;
        writeln!(f, "</svg>")?;
        self.write_marks(f)?;
        write_labels(f, &self.labels, head + height)?;
        self.write_tips(f)?;
        writeln!(f, "</svg>")
    }
}

impl Chart {
    /// Writes each series as one path of rectangles, on top of the series before it.
    fn write_series(&self, f: &mut Formatter<'_>, end: f64) -> fmt::Result {
        let height = f64::from(self.height);
        let mut tops = vec![height; self.columns()];
        for series in &self.series {
            let mut path = String::new();
            for (column, (top, &count)) in tops.iter_mut().zip(&series.counts).enumerate() {
                if count == 0 {
                    continue;
                }
                let tall = (count as f64 / end * height).max(LEAST);
                let bottom = *top;
                // What is drawn taller than it is may stand out of the plot.
                *top = (bottom - tall).max(-2.0 * LEAST);
                let left = column as f64 + self.gap / 2.0;
                let right = left + 1.0 - self.gap;
                // Within one path, neighbours are drawn without a seam.
                write!(
                    path,
                    "M{left:.2} {bottom:.1}V{top:.1}H{right:.2}V{bottom:.1}Z"
                )?;
            }
            if !path.is_empty() {
                writeln!(f, r#"<path class="{}" d="{path}"/>"#, series.class)?;
            }
        }
        Ok(())
    }

    fn write_marks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bottom = self.head() + f64::from(self.height);
        for (row, mark) in self.marks.iter().enumerate() {
            let at = mark.at.clamp(0.0, 1.0);
            let top = ROW * row as f64;
            writeln!(
                f,
                r#"<line class="mark" x1="{x:.2}%" x2="{x:.2}%" y1="{top}" y2="{bottom}"/><text class="strong" x="{x:.2}%" dx="-4" y="{}" text-anchor="end">{}</text>"#,
                top + 12.0,
                Escaped(&mark.text),
                x = at * 100.0,
            )?;
        }
        Ok(())
    }

    /// Writes a clear rectangle over each column, whose title a browser shows under the pointer.
    fn write_tips(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.tips.len() > MAX_TIPS {
            return Ok(());
        }
        let wide = 100.0 / self.tips.len().max(1) as f64;
        for (column, tip) in self.tips.iter().enumerate() {
            writeln!(
                f,
                r#"<rect class="tip" x="{:.3}%" y="{}" width="{wide:.3}%" height="{}"><title>{}</title></rect>"#,
                column as f64 * wide,
                self.head(),
                self.height,
                Escaped(tip),
            )?;
        }
        Ok(())
    }
}

fn write_grid(f: &mut Formatter<'_>, step: f64, end: f64, head: f64, height: f64) -> fmt::Result {
    let steps = (end / step).round() as u32;
    for line in 0..=steps {
        let y = head + height * (1.0 - f64::from(line) / f64::from(steps.max(1)));
        let class = if line == 0 { "axis" } else { "grid" };
        writeln!(
            f,
            r#"<line class="{class}" x1="0" x2="100%" y1="{y:.1}" y2="{y:.1}"/><text x="-8" y="{:.1}" text-anchor="end">{}</text>"#,
            y + 4.0,
            compact(step * f64::from(line)),
        )?;
    }
    Ok(())
}

/// Writes a line with a level piece over each column that has a value.
fn write_step_line(
    f: &mut Formatter<'_>,
    values: &[Option<f64>],
    end: f64,
    height: f64,
) -> fmt::Result {
    let mut path = String::new();
    let mut is_drawn = false;
    for (column, value) in values.iter().enumerate() {
        let value = value.filter(|value| value.is_finite());
        if let Some(value) = value {
            let y = height * (1.0 - (value / end).clamp(0.0, 1.0));
            if is_drawn {
                write!(path, "V{y:.1}")?;
            } else {
                write!(path, "M{column} {y:.1}")?;
            }
            write!(path, "H{}", column + 1)?;
        }
        is_drawn = value.is_some();
    }
    if path.is_empty() {
        return Ok(());
    }
    writeln!(f, r#"<path class="line" d="{path}"/>"#)
}

fn write_labels(f: &mut Formatter<'_>, labels: &[Label], bottom: f64) -> fmt::Result {
    for label in labels {
        let at = label.at.clamp(0.0, 1.0);
        let anchor = match at {
            ..0.01 => "start",
            ..0.97 => "middle",
            _ => "end",
        };
        writeln!(
            f,
            r#"<line class="axis" x1="{x:.2}%" x2="{x:.2}%" y1="{bottom}" y2="{}"/><text x="{x:.2}%" y="{}" text-anchor="{anchor}">{}</text>"#,
            bottom + 4.0,
            bottom + ROW,
            Escaped(&label.text),
            x = at * 100.0,
        )?;
    }
    Ok(())
}

/// Returns the least of 1, 2 and 5 times a power of ten that divides `most` into at most `steps`.
#[must_use]
pub fn nice_step(most: f64, steps: u32) -> f64 {
    let least = most / f64::from(steps.max(1));
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0].into_iter();
    let factor = factors.filter(|factor| factor * power >= least * 0.999_999);
    factor.fold(10.0, f64::min) * power
}

/// Writes the legend of a chart: swatches by class, and their meaning.
///
/// # Errors
/// If the formatter fails.
pub fn write_legend(f: &mut Formatter<'_>, rows: &[(&str, String)]) -> fmt::Result {
    writeln!(f, r#"<ul class="legend">"#)?;
    for (class, text) in rows {
        let text = Escaped(text);
        writeln!(f, "<li>{} {text}</li>", Swatch(class))?;
    }
    writeln!(f, "</ul>")
}

/// A sample of how a class is drawn.
struct Swatch<'a>(&'a str);

impl Display for Swatch<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let class = self.0;
        write!(
            f,
            r#"<svg class="swatch" width="16" height="12" aria-hidden="true">"#
        )?;
        match class {
            "line" => write!(f, r#"<path class="line" d="M0 6H16"/>"#)?,
            _ => write!(f, r#"<rect class="{class}" width="16" height="12"/>"#)?,
        }
        write!(f, "</svg>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        assert_eq!(nice_step(4.0, 4), 1.0);
        assert_eq!(nice_step(30.0, 4), 10.0);
        assert_eq!(nice_step(17.0, 4), 5.0);
        assert_eq!(nice_step(7_000.0, 4), 2_000.0);
        for most in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(nice_step(most, 4), 1.0);
        }
    }

    #[test]
    fn a_count_of_one_is_seen_beside_a_million() {
        let series = |class, counts: &[u64]| Series {
            class,
            counts: counts.to_vec(),
        };
        let chart = Chart {
            height: 100,
            series: vec![series("ok", &[1_000_000, 0]), series("failed", &[1, 0])],
            ..Chart::default()
        };
        let svg = chart.to_string();
        assert!(
            svg.contains(r#"class="failed" d="M0.00 33.3V31.3H1.00V33.3Z""#),
            "{svg}"
        );
    }
}

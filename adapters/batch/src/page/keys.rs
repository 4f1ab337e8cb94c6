//! The section on keys: how calls are spread over them, and the figures of each.

use super::data::KeyFigures;
use core::fmt::{self, Formatter};
use leasehold_page::{
    Chart, Escaped, Label, Series, counted, decimal, duration, grouped, percent, write_legend,
};

pub(super) fn write_keys(f: &mut Formatter<'_>, keys: &[KeyFigures]) -> fmt::Result {
    writeln!(f, "<section><h2>Keys</h2>")?;
    if keys.is_empty() {
        return writeln!(
            f,
            r#"<p class="none">This run had no keys of its own.</p></section>"#
        );
    }
    writeln!(f, "<p>{}</p>", Escaped(&balance(keys)))?;
    let is_spread = keys.len() > 1 && keys.iter().any(|key| key.calls > 0);
    if is_spread {
        write_chart(f, keys)?;
    }
    write_table(f, keys)?;
    writeln!(f, "</section>")
}

/// How calls are spread over the keys that the service did not reject.
#[derive(Clone, Copy, Debug)]
struct Spread {
    keys: usize,
    min: u64,
    mean: f64,
    max: u64,
}

impl Spread {
    fn new(keys: &[KeyFigures]) -> Option<Self> {
        let calls = || keys.iter().filter(|key| !key.rejected).map(|key| key.calls);
        let sum: f64 = calls().map(|calls| calls as f64).sum();
        let keys = calls().count();
        Some(Self {
            keys,
            min: calls().min()?,
            mean: sum / keys.max(1) as f64,
            max: calls().max()?,
        })
    }
}

/// Says in words how even the calls are spread.
fn balance(keys: &[KeyFigures]) -> String {
    let rejected = keys.iter().filter(|key| key.rejected).count();
    let left_out = match rejected {
        0 => String::new(),
        _ => format!(
            " {} by the service and not counted here.",
            if rejected == 1 {
                "1 key was rejected".to_owned()
            } else {
                format!("{rejected} keys were rejected")
            },
        ),
    };
    let Some(spread) = Spread::new(keys) else {
        return format!(
            "All {} were rejected by the service.",
            counted(keys.len() as u64, "key", "keys")
        );
    };
    let Spread {
        keys,
        min,
        mean,
        max,
    } = spread;
    let text = if max == 0 {
        "No call was sent.".to_owned()
    } else if keys == 1 {
        format!("One key was used, for {}.", counted(max, "call", "calls"))
    } else if min == max {
        format!(
            "Even: each of {keys} keys was used for {}.",
            counted(max, "call", "calls")
        )
    } else {
        let word = match (max - min) as f64 / mean {
            ..=0.1 => "Even",
            ..=0.3 => "Nearly even",
            _ => "Uneven",
        };
        format!(
            "{word}: {keys} keys were used for {} to {} calls each, {} on average. The least used had {} of the calls of the most used.",
            grouped(min),
            grouped(max),
            decimal(mean),
            percent(min, max),
        )
    };
    text + &left_out
}

fn write_chart(f: &mut Formatter<'_>, keys: &[KeyFigures]) -> fmt::Result {
    let series = |class, count: fn(&KeyFigures) -> u64| Series {
        class,
        counts: keys.iter().map(count).collect(),
    };
    let count = keys.len();
    let every = match count {
        ..=12 => 1,
        _ => count.div_ceil(10).next_multiple_of(5),
    };
    let labels = (1..=count).filter(|number| *number == 1 || number.is_multiple_of(every));
    let spread = Spread::new(keys);
    let mean = spread.map(|spread| spread.mean);
    let chart = Chart {
        label: format!("Calls by key. {}", balance(keys)),
        height: 160,
        max_column: 88,
        gap: if count > 120 { 0.0 } else { 0.3 },
        series: vec![
            series("ok", |key| key.ok),
            series("throttled", |key| key.throttled),
            series("failed", |key| key.failed),
            series("unknown", |key| {
                let ended = key
                    .ok
                    .saturating_add(key.throttled)
                    .saturating_add(key.failed);
                key.calls.saturating_sub(ended)
            }),
        ],
        line: keys
            .iter()
            .map(|key| mean.filter(|_| !key.rejected))
            .collect(),
        labels: labels
            .map(|number| Label {
                at: (number as f64 - 0.5) / count as f64,
                text: number.to_string(),
            })
            .collect(),
        tips: keys.iter().map(tip).collect(),
        ..Chart::default()
    };
    writeln!(
        f,
        "<figure><figcaption>Calls by key, in the order of the table</figcaption>"
    )?;
    let mut legend = series_legend(&chart.series);
    if let Some(Spread { min, mean, max, .. }) = spread {
        let text = format!(
            "mean {} (min {}, max {})",
            decimal(mean),
            grouped(min),
            grouped(max)
        );
        legend.push(("line", text));
    }
    write_legend(f, &legend)?;
    writeln!(f, "{chart}</figure>")
}

/// Returns the rows of a legend for the series that are drawn at all.
pub(super) fn series_legend(series: &[Series]) -> Vec<(&'static str, String)> {
    let drawn = series
        .iter()
        .filter(|series| series.counts.iter().any(|&count| count > 0));
    let row = |series: &Series| {
        let text = if series.class == "ok" {
            "answered"
        } else {
            series.class
        };
        (series.class, text.to_owned())
    };
    drawn.map(row).collect()
}

fn tip(key: &KeyFigures) -> String {
    format!(
        "{}: {}, {} answered, {} throttled, {} failed{}",
        key.name,
        counted(key.calls, "call", "calls"),
        grouped(key.ok),
        grouped(key.throttled),
        grouped(key.failed),
        if key.rejected {
            "; rejected by the service"
        } else {
            ""
        },
    )
}

fn write_table(f: &mut Formatter<'_>, keys: &[KeyFigures]) -> fmt::Result {
    writeln!(
        f,
        r#"<div class="scroll" role="region" aria-label="Figures by key" tabindex="0"><table><caption>Figures by key</caption>
<thead><tr><th scope="col" class="number">#</th><th scope="col">Key</th><th scope="col" class="number">Calls</th><th scope="col" class="number">Answered</th><th scope="col" class="number">Throttled</th><th scope="col" class="number">Failed</th><th scope="col" class="number">Latency, min</th><th scope="col" class="number">mean</th><th scope="col" class="number">p95</th><th scope="col" class="number">max</th></tr></thead><tbody>"#
    )?;
    for (at, key) in keys.iter().enumerate() {
        let note = if key.rejected {
            r#" <span class="badge bad">rejected</span>"#
        } else {
            ""
        };
        write!(
            f,
            r#"<tr><td class="number faint">{}</td><th scope="row" class="key">{}{note}</th>"#,
            at + 1,
            Escaped(&key.name),
        )?;
        for count in [key.calls, key.ok, key.throttled, key.failed] {
            write_number(f, &grouped(count), count == 0)?;
        }
        let latency = key.latency.map(|one| [one.min, one.mean, one.p95, one.max]);
        for span in latency.map_or([None; 4], |spans| spans.map(Some)) {
            write_number(f, &span.map_or("–".to_owned(), duration), span.is_none())?;
        }
        writeln!(f, "</tr>")?;
    }
    writeln!(f, "</tbody></table></div>")
}

fn write_number(f: &mut Formatter<'_>, text: &str, is_faint: bool) -> fmt::Result {
    let class = if is_faint { "number faint" } else { "number" };
    write!(f, r#"<td class="{class}">{}</td>"#, Escaped(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(calls: &[u64]) -> Vec<KeyFigures> {
        let key = |&calls| KeyFigures {
            calls,
            ..KeyFigures::default()
        };
        calls.iter().map(key).collect()
    }

    #[test]
    fn the_balance_is_told_in_words() {
        assert_eq!(
            balance(&keys(&[15, 15])),
            "Even: each of 2 keys was used for 15 calls."
        );
        assert!(
            balance(&keys(&[14, 16]))
                .starts_with("Nearly even: 2 keys were used for 14 to 16 calls each, 15 on")
        );
        assert!(balance(&keys(&[0, 16])).starts_with("Uneven"));
        assert_eq!(balance(&keys(&[7])), "One key was used, for 7 calls.");
        assert_eq!(balance(&keys(&[0, 0])), "No call was sent.");
        let mut keys = keys(&[15, 15, 1]);
        keys[2].rejected = true;
        let text = balance(&keys);
        assert!(
            text.ends_with("15 calls. 1 key was rejected by the service and not counted here."),
            "{text}"
        );
        keys.iter_mut().for_each(|key| key.rejected = true);
        assert_eq!(balance(&keys), "All 3 keys were rejected by the service.");
    }
}

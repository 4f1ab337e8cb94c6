//! Properties of the page: whatever is in the report, it is well-formed and shows texts of users as texts.

use super::data::*;
use super::page;
use super::samples::{self, Random};
use crate::report::{FailedTask, Waits};
use crate::timeline::{TimeSlot, Timeline};
use core::time::Duration;
use leasehold_page::DurationFigures;
use leasehold_plan::Tokens;

/// Elements that the page has; any other came from a text.
const ELEMENTS: &[&str] = &[
    "b",
    "bdi",
    "body",
    "caption",
    "dd",
    "defs",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "footer",
    "h1",
    "h2",
    "head",
    "header",
    "html",
    "li",
    "line",
    "main",
    "meta",
    "p",
    "path",
    "pattern",
    "rect",
    "section",
    "span",
    "strong",
    "style",
    "svg",
    "table",
    "tbody",
    "td",
    "text",
    "th",
    "thead",
    "title",
    "tr",
    "ul",
];
/// Attributes that the page has.
const ATTRIBUTES: &[&str] = &[
    "aria-hidden",
    "aria-label",
    "charset",
    "class",
    "content",
    "d",
    "dx",
    "height",
    "http-equiv",
    "id",
    "lang",
    "name",
    "overflow",
    "patternUnits",
    "preserveAspectRatio",
    "role",
    "scope",
    "style",
    "tabindex",
    "text-anchor",
    "viewBox",
    "width",
    "x",
    "x1",
    "x2",
    "y",
    "y1",
    "y2",
];
const ENTITIES: &[&str] = &["amp;", "lt;", "gt;", "quot;", "#39;"];

/// Checks that tags are balanced and known; returns the texts and the values of attributes, still escaped.
fn check(html: &str) -> Vec<&str> {
    let mut texts = Vec::new();
    let mut open = Vec::new();
    let mut rest = html.strip_prefix("<!doctype html>").expect("a doctype");
    while let Some((text, tag)) = rest.split_once('<') {
        texts.push(text);
        let (tag, after) = tag.split_once('>').expect("a tag that ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed before {:.80}", rest);
            continue;
        }
        let is_closed = tag.ends_with('/');
        let tag = tag.trim_end_matches('/');
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(ELEMENTS.contains(&name), "<{tag}>");
        texts.extend(check_attributes(attributes));
        if !is_closed && name != "meta" {
            open.push(name);
        }
        if name == "style" {
            let (_, after) = rest.split_once("</style>").expect("an end of the style");
            open.pop();
            rest = after;
        }
    }
    assert_eq!(open, [""; 0], "left open");
    texts.push(rest);
    for text in &texts {
        check_text(text);
    }
    texts
}

fn check_attributes(mut rest: &str) -> Vec<&str> {
    let mut values = Vec::new();
    while !rest.trim().is_empty() {
        let (name, after) = rest.trim_start().split_once("=\"").expect("a quoted value");
        assert!(ATTRIBUTES.contains(&name), "{name} in {rest}");
        let (value, after) = after.split_once('"').expect("an end of the value");
        values.push(value);
        rest = after;
    }
    values
}

fn check_text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let after = &text[at + 1..];
        assert!(
            ENTITIES.iter().any(|entity| after.starts_with(entity)),
            "{text}"
        );
    }
    let is_control = |char: char| char.is_control() && char != '\n' && char != '\t';
    assert!(!text.contains(is_control), "{text:?}");
    let mut words = text.split(|char: char| !char.is_alphanumeric());
    assert!(!words.any(|word| word == "NaN" || word == "inf"), "{text}");
}

/// Texts that end an element, an attribute or a comment where they are not escaped.
const NASTY: &[&str] = &[
    "<script>alert(1)</script>",
    "</title></style></svg>",
    "\" onload=\"alert(1)",
    "' x='",
    "&lt;",
    "&",
    "<!--",
    "-->",
    "]]>",
    "<",
    ">",
    "\0",
    "\u{1b}[31m",
    "\u{202e}",
    "\n",
    "é",
    "🦀",
    "{}",
    "%",
    "",
    " ",
    "…0001",
    "a long text that goes on ",
];

fn text(random: &mut Random) -> String {
    let pieces = random.below(4);
    let mut text: String = (0..pieces).map(|_| random.pick(NASTY)).collect();
    if random.below(20) == 0 {
        text = text.repeat(200);
    }
    text
}

fn count(random: &mut Random) -> u64 {
    random.pick(&[0, 0, 1, 2, 17, 1_000, 1_000_000, u64::MAX - 1, u64::MAX])
}

fn span(random: &mut Random) -> Duration {
    let second = Duration::from_secs(1);
    random.pick(&[
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(999),
        second,
        second * 59,
        second * 90,
        second * 100_000,
        Duration::MAX,
    ])
}

fn number(random: &mut Random) -> Option<f64> {
    let numbers = [
        0.0,
        -0.0,
        1e-9,
        0.5,
        3.0,
        1e6,
        1e300,
        -1.0,
        f64::MAX,
        f64::MIN,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let number = random.pick(&numbers);
    (random.below(4) > 0).then_some(number)
}

fn list<T>(random: &mut Random, most: u64, mut one: impl FnMut(&mut Random) -> T) -> Vec<T> {
    let count = random.below(most + 1);
    (0..count).map(|_| one(random)).collect()
}

fn durations(random: &mut Random) -> DurationFigures {
    DurationFigures {
        buckets: list(random, 30, |random| (span(random), count(random))),
        p50: span(random),
        p90: span(random),
        p99: span(random),
    }
}

fn key(random: &mut Random) -> KeyFigures {
    let latency = LatencyFigures {
        min: span(random),
        mean: span(random),
        p95: span(random),
        max: span(random),
    };
    KeyFigures {
        name: text(random),
        calls: count(random),
        ok: count(random),
        failed: count(random),
        throttled: count(random),
        rejected: random.below(3) == 0,
        latency: (random.below(3) > 0).then_some(latency),
    }
}

fn slot(random: &mut Random) -> TimeSlot {
    TimeSlot {
        ok: count(random),
        failed: count(random),
        throttled: count(random),
        in_flight: count(random),
    }
}

fn report(random: &mut Random) -> PageReport {
    PageReport {
        date: text(random),
        version: text(random),
        input: text(random),
        output: text(random),
        models: list(random, 20, text),
        limits: Some(text(random)),
        stopped: list(random, 3, text),
        tasks: TaskCounts {
            total: count(random),
            earlier: count(random),
            ok: count(random),
            failed: count(random),
            unfinished: count(random),
        },
        elapsed: span(random),
        attempts: count(random),
        retries: count(random),
        tokens: Some(Tokens {
            prompt: count(random),
            completion: count(random),
        }),
        cost: number(random),
        keys: list(random, 30, key),
        waits: durations(random),
        latencies: durations(random),
        leases: Waits {
            at_once: count(random),
            after_waiting: count(random),
            refused: count(random),
            ..Waits::default()
        },
        clients: ClientFigures {
            created: count(random),
            reused: count(random),
        },
        timeline: Timeline {
            width: span(random),
            slots: list(random, 50, slot),
        },
        admitted: number(random),
        causes: list(random, 25, |random| (text(random), count(random))),
        first_failures: list(random, 25, |random| FailedTask {
            item: text(random),
            model: text(random),
            reason: text(random),
        }),
    }
}

#[test]
fn no_text_and_no_number_breaks_the_page() {
    let mut random = Random(0x1ea5_e401d);
    for _ in 0..500 {
        check(&page(&report(&mut random)));
    }
}

#[test]
fn texts_of_users_are_shown_as_they_are() {
    let evil = "<script>\"it's\" & more</script>";
    let failure = FailedTask {
        item: format!("item {evil}"),
        model: format!("model {evil}"),
        reason: format!("reason {evil}"),
    };
    let report = PageReport {
        date: format!("date {evil}"),
        version: format!("version {evil}"),
        input: format!("input {evil}"),
        output: format!("output {evil}"),
        models: vec![format!("models {evil}")],
        limits: Some(format!("limits {evil}")),
        stopped: vec![format!("stopped {evil}")],
        keys: vec![KeyFigures {
            name: format!("key {evil}"),
            ..KeyFigures::default()
        }],
        causes: vec![(format!("cause {evil}"), 1)],
        first_failures: vec![failure],
        ..samples::typical()
    };
    let html = page(&report);
    let shown: String = check(&html).join("|");
    let unescaped = ENTITIES.iter().zip(["&", "<", ">", "\"", "'"]).rev();
    let shown = unescaped.fold(shown, |shown, (entity, char)| {
        shown.replace(&format!("&{entity}"), char)
    });
    for place in [
        "date", "version", "input", "output", "models", "limits", "stopped", "key", "cause",
        "item", "model", "reason",
    ] {
        assert!(shown.contains(&format!("{place} {evil}")), "{place}");
    }
}

/// Also writes the pages to the folder named by `LEASEHOLD_PAGES`, to be looked at.
#[test]
fn samples_are_well_formed_and_load_nothing() {
    let samples = [
        ("typical", samples::typical()),
        ("large", samples::large()),
        ("stopped", samples::stopped()),
        ("single", samples::single()),
        ("empty", PageReport::default()),
    ];
    for (name, report) in samples {
        let html = page(&report);
        check(&html);
        assert!(
            !html.contains("http://www") && !html.contains("src="),
            "{name}"
        );
        assert!(html.contains("default-src 'none'"), "{name}");
        assert!(html.len() < 200_000, "{name} has {} bytes", html.len());
        if let Some(folder) = std::env::var_os("LEASEHOLD_PAGES") {
            let file = std::path::Path::new(&folder)
                .join(name)
                .with_extension("html");
            std::fs::write(file, html).unwrap();
        }
    }
}

//! Reports to test and to look at.

use super::data::*;
use crate::report::{FailedTask, Waits};
use crate::timeline::{TimeSlot, Timeline};
use core::time::Duration;
use leasehold_page::DurationFigures;
use leasehold_plan::Tokens;

/// Random numbers (xorshift64), the same in each run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A run of 150 tasks over 10 keys at 3 calls per minute each.
pub(super) fn typical() -> PageReport {
    PageReport {
        date: "2026-03-01 14:02 UTC".to_owned(),
        version: "0.1.0".to_owned(),
        input: "items.jsonl".to_owned(),
        output: "results.jsonl".to_owned(),
        models: vec!["gpt-4o-mini".to_owned()],
        limits: Some("3/60s".to_owned()),
        tasks: TaskCounts {
            total: 150,
            earlier: 0,
            ok: 148,
            failed: 2,
            unfinished: 0,
        },
        elapsed: Duration::from_secs(301),
        attempts: 160,
        retries: 10,
        tokens: Some(Tokens {
            prompt: 41_230,
            completion: 88_104,
        }),
        cost: Some(0.059_05),
        keys: (1..=10)
            .map(|at| key(at, [16, 17, 15, 16, 15, 16, 14, 17, 16, 18][at - 1]))
            .collect(),
        waits: DurationFigures {
            buckets: buckets(&[
                0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 30, 93, 0, 0, 0,
            ]),
            p50: Duration::from_millis(36_200),
            p90: Duration::from_millis(57_900),
            p99: Duration::from_millis(59_800),
        },
        latencies: DurationFigures {
            buckets: buckets(&[
                0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 44, 71, 30, 4, 1, 0, 0, 0, 0, 0,
            ]),
            p50: Duration::from_millis(1_310),
            p90: Duration::from_millis(3_050),
            p99: Duration::from_millis(6_400),
        },
        leases: Waits {
            at_once: 30,
            after_waiting: 130,
            refused: 0,
            ..Waits::default()
        },
        clients: ClientFigures {
            created: 10,
            reused: 150,
        },
        timeline: bursts(),
        admitted: Some(0.5),
        causes: vec![
            ("content filter (400)".to_owned(), 1),
            ("answer could not be read".to_owned(), 1),
        ],
        first_failures: vec![
            failure(
                "\"item-0017\"",
                "400: The response was filtered due to the prompt triggering a content management policy.",
            ),
            failure(
                "92",
                "the answer ended early: expected `}` at line 1 column 8192",
            ),
        ],
        stopped: Vec::new(),
    }
}

/// A run of a million tasks over 50 keys, in part by an earlier run.
pub(super) fn large() -> PageReport {
    PageReport {
        input: "questions-of-the-whole-corpus-2026-02.jsonl".to_owned(),
        output:
            "/data/experiments/2026-02/answers/results-of-the-whole-corpus-with-two-models.jsonl"
                .to_owned(),
        models: vec![
            "gpt-4o-mini".to_owned(),
            "meta-llama/Llama-3.3-70B-Instruct-Turbo".to_owned(),
        ],
        limits: Some(
            "40/min, 100000 tokens/min; meta-llama/Llama-3.3-70B-Instruct-Turbo: 20/min".to_owned(),
        ),
        tasks: TaskCounts {
            total: 1_000_000,
            earlier: 120_000,
            ok: 877_538,
            failed: 2_462,
            unfinished: 0,
        },
        elapsed: Duration::from_secs(28_800),
        attempts: 893_112,
        retries: 13_112,
        tokens: Some(Tokens {
            prompt: 412_300_119,
            completion: 881_040_771,
        }),
        cost: Some(590.468),
        keys: many_keys(),
        waits: DurationFigures {
            buckets: buckets(&[
                120, 900, 4_000, 9_000, 22_000, 60_000, 90_000, 150_000, 240_000, 200_000, 70_000,
                20_000, 9_000, 800, 90, 3, 0, 0, 0, 0,
            ]),
            p50: Duration::from_millis(170),
            p90: Duration::from_millis(800),
            p99: Duration::from_millis(3_900),
        },
        leases: Waits {
            at_once: 12_001,
            after_waiting: 881_111,
            refused: 17,
            ..Waits::default()
        },
        clients: ClientFigures {
            created: 50,
            reused: 893_062,
        },
        timeline: outage(),
        admitted: Some(33.0),
        causes: many_causes(),
        first_failures: (0..20)
            .map(|at| failure(&format!("\"q-{:06}\"", at * 7_919), "timed out after 120 s"))
            .collect(),
        ..typical()
    }
}

/// A run whose URL is wrong.
pub(super) fn stopped() -> PageReport {
    PageReport {
        tasks: TaskCounts {
            total: 150,
            earlier: 0,
            ok: 0,
            failed: 0,
            unfinished: 150,
        },
        stopped: vec![
            "http://127.0.0.1:9 refused the connection; nothing was answered for 30 min".to_owned(),
        ],
        elapsed: Duration::ZERO,
        attempts: 0,
        retries: 0,
        tokens: None,
        cost: None,
        keys: vec![KeyFigures {
            name: "…0001".to_owned(),
            ..KeyFigures::default()
        }],
        waits: DurationFigures::default(),
        latencies: DurationFigures::default(),
        leases: Waits::default(),
        clients: ClientFigures::default(),
        timeline: Timeline::default(),
        admitted: None,
        causes: Vec::new(),
        first_failures: Vec::new(),
        ..typical()
    }
}

/// A run of one task over one key.
pub(super) fn single() -> PageReport {
    let slot = TimeSlot {
        ok: 1,
        in_flight: 1,
        ..TimeSlot::default()
    };
    PageReport {
        tasks: TaskCounts {
            total: 1,
            ok: 1,
            ..TaskCounts::default()
        },
        elapsed: Duration::from_millis(840),
        attempts: 1,
        keys: vec![key(1, 1)],
        waits: DurationFigures {
            buckets: buckets(&[1, 0, 0, 0]),
            ..DurationFigures::default()
        },
        latencies: DurationFigures {
            buckets: vec![(Duration::from_secs(1), 1)],
            p50: Duration::from_millis(831),
            p90: Duration::from_millis(831),
            p99: Duration::from_millis(831),
        },
        leases: Waits {
            at_once: 1,
            ..Waits::default()
        },
        clients: ClientFigures {
            created: 1,
            reused: 0,
        },
        timeline: Timeline {
            width: Duration::from_secs(1),
            slots: vec![slot],
        },
        limits: None,
        stopped: Vec::new(),
        ..self::stopped()
    }
}

/// A burst of calls each minute.
fn bursts() -> Timeline {
    let mut random = Random(7);
    let minute = |slot: u64| slot.is_multiple_of(6);
    let slot = |at: u64| TimeSlot {
        ok: if minute(at) {
            18 + random.below(6)
        } else {
            2 + random.below(2)
        },
        failed: u64::from(at == 7),
        throttled: if (12..15).contains(&at) { 2 } else { 0 },
        in_flight: if minute(at) { 24 } else { 3 },
    };
    Timeline {
        width: Duration::from_secs(10),
        slots: (0..31).map(slot).collect(),
    }
}

/// Steady calls with an outage.
fn outage() -> Timeline {
    let mut random = Random(11);
    let slot = |at: u64| {
        let is_outage = (150..158).contains(&at);
        TimeSlot {
            ok: if is_outage {
                0
            } else {
                3_300 + random.below(700)
            },
            failed: if is_outage { 40 } else { random.below(4) },
            throttled: if at % 50 > 45 { 300 } else { 0 },
            in_flight: if is_outage { 2 } else { 380 + random.below(20) },
        }
    };
    Timeline {
        width: Duration::from_secs(120),
        slots: (0..240).map(slot).collect(),
    }
}

/// 50 keys, one of them rejected.
fn many_keys() -> Vec<KeyFigures> {
    let mut random = Random(13);
    let mut keys: Vec<_> = (1..=50)
        .map(|at| key(at, 17_000 + random.below(900)))
        .collect();
    keys[12] = KeyFigures {
        rejected: true,
        latency: None,
        ..key(13, 0)
    };
    keys
}

fn many_causes() -> Vec<(String, u64)> {
    let causes = [
        ("timed out after 120 s", 2_108),
        ("500 Internal Server Error", 311),
        ("context length exceeded (400)", 42),
        (
            "refused by the safety system, with a long explanation that goes on and on over the width of the page and more",
            1,
        ),
    ];
    causes
        .map(|(cause, count)| (cause.to_owned(), count))
        .into()
}

fn key(number: usize, calls: u64) -> KeyFigures {
    let failed = u64::from(number == 4);
    let throttled = calls / 400 + u64::from(number == 6 && calls > 1);
    let millis = |millis: u64| Duration::from_millis(millis + 3 * number as u64);
    KeyFigures {
        name: format!("…{:04}", 1_000 + number * 37),
        calls,
        ok: calls.saturating_sub(failed + throttled),
        failed,
        throttled,
        rejected: false,
        latency: Some(LatencyFigures {
            min: millis(480),
            mean: millis(1_490),
            p95: millis(3_400),
            max: millis(7_000),
        }),
    }
}

/// Buckets that double from 1 ms.
fn buckets(counts: &[u64]) -> Vec<(Duration, u64)> {
    let bucket = |(at, &count): (usize, &u64)| (Duration::from_millis(1 << at), count);
    counts.iter().enumerate().map(bucket).collect()
}

fn failure(item: &str, reason: &str) -> FailedTask {
    FailedTask {
        item: item.to_owned(),
        model: "gpt-4o-mini".to_owned(),
        reason: reason.to_owned(),
    }
}

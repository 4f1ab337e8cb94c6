//! Lines of each form, and what is made of them.

use super::*;
use crate::Change;
use crate::{Capacity, PlannedMember, Prediction};
use core::num::NonZeroU32;
use leasehold_core::balance::Policy;
use proptest::prelude::*;

const COMBINED: &str = r#"127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET /a\"b HTTP/1.1" 200 12 "-" "wrk" 0198a 127.0.0.1:8001 0.250 ok"#;
const HAPROXY: &str = r#"Feb  6 12:14:14 localhost haproxy[14389]: 10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in static/srv1 10/20/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 {1wt.eu} {} "GET /index.html HTTP/1.1""#;
const JSON: &str = r#"{"time":"10/Oct/2000:13:55:36 +0000","client":"10.0.0.1","method":"GET","uri":"/","status":200,"bytes":5,"request_id":"x","backend":"127.0.0.1:8002","attempts":1,"end":"ok","queue_ms":50.0,"first_byte_ms":60.0,"total_ms":300.0}"#;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn defaults() -> TraceDefaults {
    TraceDefaults::new(vec!["any".to_owned()], CallTime::Between(ms(7)..=ms(7)))
}

#[test]
fn each_form_of_a_line_tells_its_time_and_member() {
    let entry = |line: &str| parse(line).expect(line);
    let combined = entry(COMBINED);
    assert_eq!(combined.time, Some(ms(250)));
    assert_eq!(combined.member.as_deref(), Some("127.0.0.1:8001"));
    assert_eq!(combined.caller.as_deref(), Some("127.0.0.1"));
    let haproxy = entry(HAPROXY);
    assert_eq!(haproxy.time, Some(ms(79)));
    assert_eq!(haproxy.member.as_deref(), Some("srv1"));
    assert_eq!(haproxy.caller.as_deref(), Some("10.0.1.2"));
    assert_eq!(haproxy.start, 1_233_922_454_665_000_000);
    let json = entry(JSON);
    assert_eq!(json.time, Some(ms(250)));
    assert_eq!(json.member.as_deref(), Some("127.0.0.1:8002"));
    let nginx = r#"::1 - bob [10/Oct/2000:13:55:36 +0000] "GET / HTTP/2.0" 304 0 "-" "x" rt=0.125"#;
    assert_eq!(entry(nginx).time, Some(ms(125)));
    let common = r#"::1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 -"#;
    assert_eq!(entry(common).time, None);
    let own =
        r#"{"at": 1.5, "model": "m", "prompt_tokens": 7, "completion_tokens": 3, "call_ms": 20}"#;
    let own = entry(own);
    assert_eq!((own.start, own.time), (1_500_000_000, Some(ms(20))));
    assert_eq!(
        (own.model.as_deref(), own.prompt, own.completion),
        (Some("m"), Some(7), Some(3))
    );
}

#[test]
fn lines_of_one_second_are_spread_over_it_and_begin_before_their_end() {
    let log = [COMBINED; 4].join("\n");
    let workload = Trace::read(&log).workload(&[], &defaults()).unwrap();
    let at: Vec<_> = workload.calls().iter().map(|call| call.at).collect();
    assert_eq!(at, [0, 250, 500, 750].map(ms));
}

#[test]
fn a_line_of_no_form_is_counted_and_the_first_is_shown() {
    let log = format!("hello\n{COMBINED}\n\n{{\"at\": null}}\n{JSON}\n");
    let trace = Trace::read(&log);
    assert_eq!((trace.read, trace.left_out), (2, 2));
    assert_eq!(trace.first_left_out, Some((1, "hello".to_owned())));
    let none = Trace::read("nothing").workload(&[], &defaults());
    assert_eq!(none, Err(WorkloadError::Empty));
}

#[test]
fn a_call_takes_as_long_as_the_log_has_measured_at_its_member() {
    let line = |second: u32, port: u32, time: &str| {
        format!(
            r#"::1 - - [10/Oct/2000:13:55:{second:02} +0000] "GET / HTTP/1.1" 200 1 "-" "x" id s:{port} {time} ok"#
        )
    };
    let log: Vec<_> = (0..20)
        .map(|second| match second % 2 {
            0 => line(second, 1, "0.010"),
            _ => line(second, 2, "0.900"),
        })
        .collect();
    let names = ["s:1", "s:2"].map(str::to_owned).to_vec();
    let members = names.iter().map(PlannedMember::new);
    let capacity = Capacity::new(Policy::RoundRobin, members.collect());
    let workers = Pace::Workers {
        count: NonZeroU32::new(4).unwrap(),
        start: None,
    };
    let defaults = TraceDefaults {
        pace: Some(workers),
        ..defaults()
    };
    let workload = Trace::read(&log.join("\n"))
        .workload(&names, &defaults)
        .unwrap();
    let changes = Change::parse_all("policy=least_connections").unwrap();
    let prediction = Prediction::new(&capacity, &workload, changes, None).unwrap();
    assert_eq!(prediction.figures.per_member, [10, 10]);
    // The fast one gets more where connections count, and the whole is done sooner.
    let least = &prediction.changes[0].1;
    assert!(least.per_member[0] > 14, "{:?}", least.per_member);
    assert!(least.finish < prediction.figures.finish);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_and_every_line_is_counted(
        lines in proptest::collection::vec(
            prop_oneof![
                ".{0,60}",
                "[0-9./:\\[\\]\"{} -]{0,60}",
                (0..COMBINED.len()).prop_map(|at| COMBINED.get(..at).unwrap_or_default().to_owned()),
                (0..HAPROXY.len()).prop_map(|at| HAPROXY.get(..at).unwrap_or_default().to_owned()),
                Just(JSON.to_owned()),
            ],
            0..20,
        )
    ) {
        let text = lines.join("\n");
        let trace = Trace::read(&text);
        let count = text.lines().filter(|line| !line.trim().is_empty()).count();
        prop_assert_eq!(trace.read + trace.left_out, count as u64);
        let workload = trace.workload(&[], &defaults());
        prop_assert_eq!(workload.map_or(0, |it| it.calls().len()) as u64, trace.read);
    }
}

//! Faults on demand and by rule, closes and stalls, and the judge of limits.

use super::*;
use crate::openai::TransportFault;
use crate::{Fault, FaultGroup, LimitUnit};
use core::num::NonZeroU64;
use serde_json::json;

/// All bytes of the answer to a GET on a connection of its own, and how they ended.
fn raw(backend: &Backend, path: &str) -> (String, End) {
    let mut client = Client::to(backend);
    client.request("GET", path, "", "");
    let (bytes, end) = client.read_all();
    (String::from_utf8(bytes).unwrap(), end)
}

#[test]
fn a_connection_closes_where_the_query_says() {
    let backend = start();
    assert_eq!(raw(&backend, "/close"), (String::new(), End::Closed));
    assert_eq!(raw(&backend, "/close?reset"), (String::new(), End::Reset));
    let (head, end) = raw(&backend, "/close?when=head");
    assert!(head.ends_with("content-type: applica"), "{head}");
    assert_eq!(end, End::Closed);
    for (query, expected) in [("", End::Closed), ("&reset", End::Reset)] {
        let (text, end) = raw(&backend, &format!("/close?when=headers{query}"));
        let length = text.split("content-length: ").nth(1).unwrap();
        assert!(
            text.ends_with("\r\n\r\n") && !length.starts_with('0'),
            "{text}"
        );
        assert_eq!(end, expected);
        let (text, end) = raw(&backend, &format!("/close?when=body{query}"));
        assert!(
            text.contains("{\"server_info\":") && !text.ends_with('}'),
            "{text}"
        );
        assert_eq!(end, expected);
        let (text, end) = raw(&backend, &format!("/close?when=after{query}"));
        assert!(
            text.ends_with('}') && !text.contains("connection: close"),
            "{text}"
        );
        assert_eq!(end, expected);
    }
    let (text, _) = raw(&backend, "/bytes?n=2000000&fault=cut-body");
    assert!(text.contains("content-length: 2000000\r\n"));
    assert!((1_000_000..1_001_000).contains(&text.len()));
    assert_eq!(Client::to(&backend).get("/close?when=never").status, 400);

    // The rest of the body is not waited for.
    let mut client = Client::to(&backend);
    client.request("POST", "/close?unread", "content-length: 9\r\n", "");
    assert_eq!(client.read_all(), (Vec::new(), End::Closed));
    wait_until(&backend, |now| now.connections_open == 0);
    let report = backend.stop();
    assert_eq!((report.faults, report.answered), (11, 1));
    assert_eq!(sum(&report), report.requests);
}

#[test]
fn each_fault_can_be_asked_for_by_query_or_header() {
    let config = BackendConfig {
        stall: Duration::from_millis(20),
        fault_wait: Duration::from_millis(20),
        trickle: Duration::from_micros(100),
        ..BackendConfig::default()
    };
    let backend = Backend::start(config).unwrap();
    for (fault, name, _) in FaultGroup::Transport.faults() {
        let mut client = Client::to(&backend);
        client.request("GET", "/", &format!("x-testbed-fault: {name}\r\n"), "");
        if fault.is_answered() {
            let mut reply = client.receive().unwrap();
            while reply.status < 200 {
                reply = client.receive().unwrap();
            }
            assert_eq!((reply.status, reply.end), (200, End::Whole), "{name}");
            assert_eq!(reply.json()["server_info"]["id"], backend.id());
        } else {
            let (_, end) = client.read_all();
            let resets = name.starts_with("reset");
            assert_eq!(end, if resets { End::Reset } else { End::Closed }, "{name}");
        }
        wait_until(&backend, |now| {
            now.by_fault.get(name) == Some(&1) && now.in_flight == 0
        });
    }
    let mut client = Client::to(&backend);
    let reply = client.upload("/x?fault=503", "a body");
    assert_eq!(
        (reply.status, &reply.json()["error"]),
        (503, &json!("a fault"))
    );
    assert_eq!(client.get("/?fault=sorrow").status, 400);
    assert_eq!(client.get("/").status, 200);
    let report = backend.stop();
    assert_eq!(report.faults, 1 + TransportFault::TABLE.len() as u64);
    assert_eq!(report.by_status, [(200, 1), (400, 1), (503, 1)].into());
    assert!(
        BackendFault::table()
            .lines()
            .all(|line| line.chars().count() <= 100)
    );
    assert_eq!(
        Fault::all()
            .iter()
            .filter(|fault| matches!(fault, Fault::Transport(_)))
            .count(),
        TransportFault::TABLE.len()
    );
}

#[test]
fn rules_give_faults_to_a_share_of_the_requests_until_they_are_replaced() {
    let config = BackendConfig {
        faults: ["503=20%", "502=first:1@/first"]
            .map(|rule| rule.parse().unwrap())
            .into(),
        seed: 3,
        ..BackendConfig::default()
    };
    let backend = Backend::start(config).unwrap();
    let mut client = Client::to(&backend);
    let failed = (0..500).filter(|_| client.get("/").status == 503).count();
    assert!((75..125).contains(&failed), "{failed}");
    backend.set_faults(vec!["close@/closed".parse().unwrap()]);
    assert!((0..50).all(|_| client.get("/first").status == 200));
    client.request("GET", "/closed", "", "");
    assert_eq!(client.read_all(), (Vec::new(), End::Closed));
    let report = backend.stop();
    assert_eq!(report.by_fault["503"], failed as u64);
    assert_eq!((report.faults, report.requests), (failed as u64 + 1, 551));
}

#[test]
fn a_stall_ends_with_its_time_or_its_caller() {
    let backend = start();
    for (when, has_head) in [("before", false), ("headers", true), ("body", true)] {
        let (text, end) = raw(&backend, &format!("/stall?ms=20&when={when}"));
        assert_eq!(
            (text.starts_with("HTTP/1.1 200 "), end),
            (has_head, End::Closed)
        );
    }
    let mut callers: Vec<_> = (0..4).map(|_| Client::to(&backend)).collect();
    for caller in &mut callers {
        caller.request("GET", "/stall", "", "");
    }
    wait_until(&backend, |now| now.in_flight == 4);
    callers.truncate(1);
    wait_until(&backend, |now| {
        now.in_flight == 1 && now.connections_open == 1
    });
    let report = backend.report();
    assert_eq!((report.max_in_flight, report.max_connections), (4, 4));
    assert_eq!(Client::to(&backend).get("/stall?when=later").status, 400);
}

#[test]
fn a_judge_of_its_own_counts_the_requests_over_its_limits() {
    let limit = NonZeroU64::new(3).unwrap();
    let config = BackendConfig {
        limits: vec![Limit::new(
            LimitUnit::Requests,
            limit,
            Duration::from_secs(3_600),
        )],
        ..BackendConfig::default()
    };
    let backend = Backend::start(config).unwrap();
    let mut client = Client::to(&backend);
    let statuses = [0; 5].map(|_| client.upload("/", "x").status);
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let reply = client.get("/");
    assert!((3_590..=3_600).contains(&reply.number("retry-after")));
    assert_eq!(reply.json()["error"], "over 3 requests/3600s");
    assert_eq!(client.get("/health").status, 200, "a probe is not limited");
    let report = backend.stop();
    assert_eq!(
        (report.answered, report.refused_429, report.early),
        (3, 3, 2)
    );
    assert_eq!(
        (report.limits[0].max_in_window, report.limits[0].refused),
        (6, 3)
    );

    for limits in ["9 tokens/s", "m=9/s"] {
        let config = BackendConfig {
            limits: Limit::parse_list(limits).unwrap(),
            ..BackendConfig::default()
        };
        let error = Backend::start(config).unwrap_err().to_string();
        assert!(error.starts_with("a backend can't limit "), "{error}");
        assert!(
            error.ends_with("; limit requests, such as 100/s"),
            "{error}"
        );
    }
}

#[test]
fn too_many_requests_at_once_are_refused_until_one_ends() {
    let config = BackendConfig {
        max_concurrent: Some(2),
        ..BackendConfig::default()
    };
    let backend = Backend::start(config).unwrap();
    let mut callers: Vec<_> = (0..2).map(|_| Client::to(&backend)).collect();
    for caller in &mut callers {
        caller.request("GET", "/slow?ms=3600000", "", "");
    }
    wait_until(&backend, |now| now.in_flight == 2);
    let mut client = Client::to(&backend);
    assert_eq!(client.get("/").status, 503);
    callers.pop();
    wait_until(&backend, |now| now.hung_up == 1);
    assert_eq!(client.get("/").status, 200);
    let report = backend.report();
    assert_eq!(
        (report.refused_503, report.answered, report.max_in_flight),
        (1, 1, 3)
    );
    assert_eq!(sum(&report), report.requests);
}

//! What each call answers and does.

use crate::support::*;
use core::sync::atomic::{AtomicBool, Ordering};
use leasehold_core::balance::Policy;
use serde_json::{Value, json};
use std::sync::Arc;

#[test]
fn twenty_requests_count_twenty_whatever_comes_between() {
    let mut web = pool("web", Policy::RoundRobin, &[backend(), backend()]);
    web.health = Some(health());
    let running = Running::start(settings(vec![web]));
    for _ in 0..20 {
        assert_eq!(running.get("/").status, 200);
        for path in [
            "stats", "health", "backends", "config", "explain", "nothing",
        ] {
            call(running.address, "GET", &format!("/lb/{path}"), &[], None);
        }
    }
    let stats = running.read("/lb/stats");
    assert_eq!(stats["load_balancer"], "RoundRobinBalancer");
    assert_eq!(stats["total_requests"], 20);
    assert_eq!(stats["successful_requests"], 20);
    assert_eq!(stats["failed_requests"], 0);
    assert_eq!(stats["success_rate"], 1.0);
    assert!(stats["average_response_time"].as_f64().unwrap() > 0.0);
    let breaker = &stats["circuit_breaker"];
    assert_eq!(
        (&breaker["state"], &breaker["failure_count"]),
        (&json!("closed"), &json!(0))
    );
    assert_eq!(breaker["success_count"], 20);
    let limiter = json!({
        "type": "none", "total_requests": 20, "allowed_requests": 20, "rejected_requests": 0,
    });
    assert_eq!(stats["rate_limiter"], limiter);
    let backends = json!({
        "algorithm": "round_robin",
        "total_backends": 2, "healthy_backends": 2, "unhealthy_backends": 0,
    });
    assert_eq!(stats["backends"], backends);
    assert_eq!(stats["pools"][0]["requests"]["ok"], 20);
}

#[test]
fn failures_and_refusals_by_the_limit_are_told_apart() {
    let mut settings = settings(vec![pool("web", Policy::RoundRobin, &[backend()])]);
    settings.listeners[0].limit = Some("4/h token bucket".parse().unwrap());
    let running = Running::start(settings);
    let statuses: Vec<_> = ["/", "/fail", "/fail", "/", "/", "/"]
        .iter()
        .map(|path| running.get(path).status)
        .collect();
    assert_eq!(statuses, [200, 500, 500, 200, 429, 429]);
    let stats = running.read("/lb/stats");
    assert_eq!(stats["total_requests"], 6);
    assert_eq!(
        (&stats["successful_requests"], &stats["failed_requests"]),
        (&json!(2), &json!(2))
    );
    let limiter = json!({
        "type": "token_bucket", "total_requests": 6, "allowed_requests": 4, "rejected_requests": 2,
    });
    assert_eq!(stats["rate_limiter"], limiter);
    assert_eq!(stats["circuit_breaker"]["failure_count"], 2);
}

#[test]
fn an_added_backend_gets_its_share_by_weight() {
    let (one, two) = (backend(), backend());
    let running = Running::start(settings(vec![pool(
        "web",
        Policy::WeightedRoundRobin,
        &[one],
    )]));
    let body = json!({"host": "127.0.0.1", "port": two.port(), "weight": 3, "name": "two"});
    let added = running.changed("POST", "/lb/backends/add", Some(&body.to_string()));
    assert_eq!((&added["id"], &added["weight"]), (&json!("two"), &json!(3)));
    assert_eq!(
        (&added["healthy"], &added["host"]),
        (&json!(true), &json!("127.0.0.1"))
    );
    let count = |servers: &[String]| {
        servers
            .iter()
            .filter(|one| **one == two.to_string())
            .count()
    };
    assert_eq!(count(&running.servers(20)), 15);
    let changed = running.changed("POST", "/lb/backends/two/weight", Some(r#"{"weight":1}"#));
    assert_eq!(changed["weight"], 1);
    assert_eq!(count(&running.servers(20)), 10);
    let list = running.read("/lb/backends");
    let ids: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(ids, [&json!(one.to_string()), &json!("two")]);
    assert_eq!(list[1]["port"], two.port());
    assert_eq!(list[1]["active_connections"], 0);
}

#[test]
fn a_disabled_draining_or_removed_backend_gets_nothing() {
    let (one, two) = (backend(), backend());
    let running = Running::in_front_of(&[one, two]);
    let only = |address: core::net::SocketAddr| vec![address.to_string(); 6];
    for (call, status) in [("disable", "disabled"), ("drain", "draining")] {
        let view = running.changed("POST", &format!("/lb/backends/{one}/{call}"), None);
        assert_eq!(
            (&view["status"], &view["healthy"]),
            (&json!(status), &json!(false))
        );
        assert_eq!(running.servers(6), only(two));
        assert_eq!(running.read("/lb/health")["status"], "degraded");
        running.changed("POST", &format!("/lb/backends/{one}/enable"), Some("{}"));
        assert_eq!(
            running
                .servers(6)
                .iter()
                .filter(|id| **id == one.to_string())
                .count(),
            3
        );
        assert_eq!(running.read("/lb/health")["status"], "healthy");
    }
    let removed = running.changed("DELETE", &format!("/lb/backends/{two}/remove"), None);
    assert_eq!(removed["id"], two.to_string());
    assert_eq!(running.servers(6), only(one));
    let again = running.change("DELETE", &format!("/lb/backends/{two}/remove"), None);
    assert_eq!(
        (again.status, again.code()),
        (404, "unknown_backend".to_owned())
    );
    running.changed("DELETE", &format!("/lb/backends/{one}/remove"), None);
    assert_eq!(running.read("/lb/backends"), json!([]));
    assert_eq!(running.read("/lb/health")["status"], "unhealthy");
    assert_eq!(running.read("/lb/stats")["backends"]["total_backends"], 0);
}

#[test]
fn a_breaker_opens_and_closes_by_command() {
    let (one, two) = (backend(), backend());
    let running = Running::in_front_of(&[one, two]);
    let path = format!("/lb/backends/{one}/breaker");
    let open = running.changed("POST", &path, Some(r#"{"state":"open","for":"1h"}"#));
    assert_eq!(
        (&open["healthy"], &open["circuit_breaker"]["state"]),
        (&json!(false), &json!("open"))
    );
    assert!(open["circuit_breaker"]["open_ms"].as_f64().unwrap() > 3_500_000.0);
    assert_eq!(running.servers(4), vec![two.to_string(); 4]);
    assert_eq!(
        running.read("/lb/stats")["circuit_breaker"]["state"],
        "open"
    );
    let closed = running.changed("POST", &path, Some(r#"{"state":"closed"}"#));
    assert_eq!(closed["circuit_breaker"]["state"], "closed");
    assert!(running.servers(4).contains(&one.to_string()));
    assert_eq!(
        running.read("/lb/stats")["circuit_breaker"]["state"],
        "closed"
    );
}

#[test]
fn a_breaker_that_failures_have_opened_is_told() {
    let running = Running::in_front_of(&[backend()]);
    for _ in 0..3 {
        assert_eq!(running.get("/fail").status, 500);
    }
    let stats = running.read("/lb/stats");
    assert_eq!(stats["circuit_breaker"]["state"], "open");
    assert_eq!(stats["circuit_breaker"]["failure_count"], 3);
    assert_eq!(stats["backends"]["unhealthy_backends"], 1);
    let list = running.read("/lb/backends");
    assert_eq!(list[0]["state"], "its breaker is open");
}

#[test]
fn an_explanation_names_the_backend_that_then_serves() {
    let backends = [backend(), backend(), backend()];
    let running = Running::in_front_of(&backends);
    for _ in 0..6 {
        let explained = running.read("/lb/explain?path=%2Fa&host=a.test%3A80");
        let foreseen = explained["choice"]["backend"].as_str().unwrap().to_owned();
        assert_ne!(explained["choice"]["alternative"], foreseen.as_str());
        assert_eq!(running.servers(1), [foreseen]);
        assert_eq!(explained["route"]["pool"], "web");
        assert_eq!(explained["host"], "a.test");
    }
    let hashed = Running::start(settings(vec![pool("web", Policy::RENDEZVOUS, &backends)]));
    let mut seen = std::collections::BTreeSet::new();
    for client in 0..64 {
        let client = format!("10.0.0.{client}");
        let explained = hashed.read(&format!("/lb/explain?client={client}"));
        let forwarded = [("x-forwarded-for", client.as_str())];
        let server = call(hashed.address, "GET", "/", &forwarded, None).body;
        assert_eq!(explained["choice"]["backend"], server.as_str(), "{client}");
        assert_eq!(explained["choice"]["algorithm"], "ip_hash");
        seen.insert(server);
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn an_explanation_says_why_nothing_serves() {
    let one = backend();
    let running = Running::in_front_of(&[one]);
    running.changed("POST", &format!("/lb/backends/{one}/disable"), None);
    let explained = running.read("/lb/explain");
    assert!(explained["choice"]["backend"].is_null());
    assert_eq!(
        explained["choice"]["cause"],
        "the members are disabled or draining"
    );
    let reason = &explained["choice"]["backends"][0];
    assert_eq!(
        (&reason["eligible"], &reason["reason"]),
        (&json!(false), &json!("disabled"))
    );
}

#[test]
fn the_settings_in_force_are_shown_without_the_token() {
    let running = Running::in_front_of(&[backend()]);
    let answer = call(running.address, "GET", "/lb/config", &[BEARER], None);
    assert!(!answer.body.contains(TOKEN));
    let config = answer.json();
    assert_eq!(config["admin"]["has_token"], true);
    assert_eq!(config["algorithm"], "round_robin");
    assert_eq!(config["settings"]["pools"]["web"]["max_wait"], "5s");
}

#[test]
fn a_wrong_method_is_answered_with_the_right_ones() {
    let running = Running::in_front_of(&[]);
    for (method, path, allow) in [
        ("POST", "/lb/stats", "GET, HEAD"),
        ("OPTIONS", "/lb/backends", "GET, HEAD"),
        ("GET", "/lb/backends/add", "POST"),
        ("POST", "/lb/backends/a/remove", "DELETE"),
    ] {
        let answer = call(running.address, method, path, &[], None);
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allow)),
            "{path}"
        );
        assert_eq!(answer.code(), "wrong_method");
    }
    let head = call(running.address, "HEAD", "/lb/stats", &[], None);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("cache-control"), Some("no-store"));
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_shown_until_it_is_right() {
    let (one, two) = (backend(), backend());
    let with = |backend| settings(vec![pool("web", Policy::RoundRobin, &[backend])]);
    let (next, is_right) = (with(two), Arc::new(AtomicBool::new(false)));
    let file = Arc::clone(&is_right);
    let source = move || match file.load(Ordering::Relaxed) {
        true => Ok(next.clone()),
        false => Err("gateway.toml:3:1: unknown name".to_owned()),
    };
    let running = Running::start_from(Box::new(source), with(one));
    assert_eq!(running.read("/lb/config")["reload"], Value::Null);
    let refused = running.change("POST", "/lb/reload", None);
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "not_reloaded")
    );
    let shown = &running.read("/lb/config")["reload"];
    assert_eq!(shown["successful"], false);
    assert_eq!(shown["error"], "gateway.toml:3:1: unknown name");
    assert_eq!(running.servers(1), [one.to_string()]);
    is_right.store(true, Ordering::Relaxed);
    let shown = running.changed("POST", "/lb/reload", None);
    assert_eq!(shown["reload"]["successful"], true);
    assert_eq!(shown["reload"]["error"], Value::Null);
    assert_eq!(running.servers(1), [two.to_string()]);
}

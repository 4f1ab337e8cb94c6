//! Changes outlive a restart and a reload.

use crate::support::*;
use core::net::SocketAddr;
use leasehold_config::{AfterCrash, Settings, StateSettings};
use leasehold_core::balance::Policy;
use serde_json::{Value, json};

/// What is kept of each backend, in order.
fn kept(running: &Running) -> Vec<(Value, Value, Value)> {
    let list = running.read("/lb/backends");
    let views = list.as_array().expect("a list").iter();
    let kept = views.map(|one| {
        (
            one["id"].clone(),
            one["weight"].clone(),
            one["status"].clone(),
        )
    });
    kept.collect()
}

fn row(id: &str, weight: u16, status: &str) -> (Value, Value, Value) {
    (json!(id), json!(weight), json!(status))
}

fn web(backends: &[SocketAddr]) -> Settings {
    settings(vec![pool("web", Policy::WeightedRoundRobin, backends)])
}

/// Changes each of three backends in another way, and adds one.
fn change(running: &Running, [one, two, three]: [SocketAddr; 3], added: SocketAddr) {
    running.changed(
        "POST",
        &format!("/lb/backends/{one}/weight"),
        Some(r#"{"weight":5}"#),
    );
    running.changed("POST", &format!("/lb/backends/{two}/disable"), None);
    running.changed("DELETE", &format!("/lb/backends/{three}/remove"), None);
    let body = json!({"host": "127.0.0.1", "port": added.port(), "name": "new", "weight": 2});
    running.changed("POST", "/lb/backends/add", Some(&body.to_string()));
    running.changed("POST", "/lb/backends/new/drain", None);
}

#[test]
fn changes_come_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let backends = [backend(), backend(), backend()];
    let [one, two, _] = backends;
    let with_state = || Settings {
        state: Some(StateSettings {
            path: folder.path().join("state"),
            after_crash: AfterCrash::Closed,
        }),
        ..web(&backends)
    };
    let expected = [
        row(&one.to_string(), 5, "enabled"),
        row(&two.to_string(), 1, "disabled"),
        row("new", 2, "draining"),
    ];
    let first = Running::start(with_state());
    change(&first, backends, backend());
    assert_eq!(kept(&first), expected);
    drop(first);
    let second = Running::start(with_state());
    assert_eq!(kept(&second), expected);
    assert_eq!(second.servers(3), vec![one.to_string(); 3]);
    second.changed("POST", &format!("/lb/backends/{two}/enable"), None);
    second.changed("DELETE", "/lb/backends/new/remove", None);
    drop(second);
    let third = Running::start(with_state());
    assert_eq!(
        kept(&third),
        [
            row(&one.to_string(), 5, "enabled"),
            row(&two.to_string(), 1, "enabled")
        ]
    );
}

#[test]
fn changes_hold_over_a_reload() {
    let backends = [backend(), backend(), backend()];
    let [one, two, three] = backends;
    let running = Running::start(web(&backends));
    change(&running, backends, backend());
    let four = backend();
    for policy in [Policy::WeightedRoundRobin, Policy::LeastConnections] {
        // The second reload makes a new pool, as its policy is another.
        let mut settings = web(&[one, two, three, four]);
        settings.pools[0].policy = policy;
        running.reload(settings);
        let mut kept = kept(&running);
        kept.sort_by_key(|(id, _, _)| id.to_string());
        let mut expected = vec![
            row(&one.to_string(), 5, "enabled"),
            row(&two.to_string(), 1, "disabled"),
            row("new", 2, "draining"),
            row(&four.to_string(), 1, "enabled"),
        ];
        expected.sort_by_key(|(id, _, _)| id.to_string());
        assert_eq!(kept, expected, "{policy}");
    }
}

#[test]
fn limits_that_were_set_hold_over_a_restart_with_what_was_used_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let one = backend();
    let with_state = || Settings {
        state: Some(StateSettings {
            path: folder.path().join("state"),
            after_crash: AfterCrash::Closed,
        }),
        ..web(&[one])
    };
    let limits = format!("/lb/backends/{one}/limits");
    let first = Running::start(with_state());
    first.changed("POST", &limits, Some(r#"{"limit":"2/48h"}"#));
    assert_eq!(first.get("/").status, 200);
    first.changed("POST", &limits, Some(r#"{"limit":"1/48h"}"#));
    drop(first);
    let second = Running::start(with_state());
    assert_eq!(second.get("/").status, 429, "it was used before");
    second.changed("POST", &limits, Some(r#"{"limit":""}"#));
    assert_eq!(second.get("/").status, 200);
}

//! Every documented answer is possible, and no other is given.

use crate::support::*;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use leasehold_config::{Address, Kind};
use leasehold_core::balance::Policy;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A request to one of the calls.
struct Try<'a> {
    query: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    id: &'a str,
    body: Option<String>,
}

/// Returns requests that together meet every answer of a call with an id or without, with a body or without.
fn tries<'a>(path: &str, ok_body: Option<&str>, id: &'a str, both: &'a str) -> Vec<Try<'a>> {
    let body = ok_body.map(str::to_owned);
    let right = |query: &'a str, id: &'a str| Try {
        query,
        headers: vec![BEARER, JSON],
        id,
        body: body.clone(),
    };
    let with = |headers: &[(&'a str, &'a str)]| Try {
        headers: headers.to_vec(),
        ..right("", id)
    };
    let mut tries = vec![
        right("nonsense=1", id),
        with(&[("authorization", "Bearer wrong"), JSON]),
        with(&[("host", "evil.test"), JSON]),
        right("pool=nowhere", id),
        right("", both),
        with(&[BEARER, ("content-type", "text/plain")]),
        Try {
            body: Some(" ".repeat(65 * 1_024)),
            ..right("", id)
        },
        right("pool=web", id),
    ];
    if path.ends_with("add") || path.ends_with("reload") {
        // Once more: it is there already, or the file is right by now.
        tries.push(right("pool=web", id));
    }
    tries
}

fn statuses(
    admin: SocketAddr,
    method: &str,
    path: &str,
    ok_body: Option<&str>,
    ids: (&str, &str),
) -> BTreeSet<String> {
    let is_change = method != "get";
    let mut seen = BTreeSet::new();
    for one in tries(path, ok_body, ids.0, ids.1) {
        let path = path.replace("{id}", one.id);
        let is_pool = one.query.starts_with("pool");
        let is_of_pool = !path.ends_with("reload")
            && !["waiting/", "alerts/"]
                .iter()
                .any(|part| path.contains(part));
        let takes_pool = is_change && is_of_pool
            || path.ends_with("backends")
            || path.ends_with("waiting")
            || path.contains("comfyui")
            || path.contains("jobs");
        let query = match takes_pool || !is_pool {
            true => format!("?{}", one.query),
            false => String::new(),
        };
        let body = one.body.as_deref().filter(|_| is_change);
        let target = format!("{path}{query}");
        // A stream has no end, and figures and the page are no JSON: their head is enough.
        let is_other = ["events", "metrics", "dashboard"].map(|end| path.ends_with(end));
        let status = match is_other.contains(&true) {
            true => head(admin, &target, &one.headers),
            false => {
                let answer = call(admin, &method.to_uppercase(), &target, &one.headers, body);
                let answered = answer.json();
                let is_error = answer.status >= 400;
                assert_eq!(answered["error"].is_object(), is_error, "{target}");
                answer.status.to_string()
            }
        };
        seen.insert(status);
    }
    seen
}

/// The status of a call for the log at a gateway that has none of its own.
fn without_log(method: &str, body: Option<&str>) -> String {
    let bare = Running::in_front_of(&[]);
    let method = method.to_uppercase();
    let answer = call(bare.admin, &method, "/lb/log", &[BEARER, JSON], body);
    assert_eq!(answer.code(), "no_log");
    answer.status.to_string()
}

fn head(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> String {
    use std::io::BufRead;
    let stream = open(address, "GET", target, headers, None);
    let mut line = String::new();
    std::io::BufReader::new(stream)
        .read_line(&mut line)
        .expect("a status");
    line.split(' ').nth(1).expect("a status").to_owned()
}

#[test]
fn every_documented_answer_is_possible_and_no_other_is_given() {
    let (one, shared) = (backend(), backend());
    let mut images = pool("images", Policy::LeastQueue, &[one]);
    images.kind = Kind::Comfyui;
    let pools = vec![
        pool("web", Policy::RoundRobin, &[one, shared]),
        pool("api", Policy::RoundRobin, &[shared]),
        images,
    ];
    let mut settings = settings(pools);
    settings.admin.listen = Some(Address::Tcp(([127, 0, 0, 1], 0).into()));
    // Settings that are wrong when they are first read again, and then right.
    let (again, is_right) = (settings.clone(), AtomicBool::new(false));
    let source = move || match is_right.swap(true, Ordering::Relaxed) {
        true => Ok(again.clone()),
        false => Err("line 1: nonsense".to_owned()),
    };
    let running = Running::start_logged(Box::new(source), settings);
    let document = running.read("/lb/openapi.json");
    let (one, shared) = (one.to_string(), shared.to_string());
    let mut documented: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            let key = (method.clone(), path.clone());
            documented.insert(key, responses.keys().cloned().collect());
        }
    }
    assert_eq!(documented.len(), 32);
    // A removal ends the backend that the others are tried with, and what takes a place or a pool is tried apart.
    let mut order: Vec<_> = documented.into_iter().collect();
    order.sort_by_key(|((method, _), _)| method == "delete");
    for ((method, path), expected) in order {
        let body = match path.rsplit('/').next().unwrap() {
            "add" => Some(r#"{"host":"a.test","port":80}"#),
            "weight" => Some(r#"{"weight":2}"#),
            "log" => Some(r#"{"level":"warn","targets":{"leasehold::health":"debug"}}"#),
            "verbose" => Some(r#"{"verbose":true}"#),
            "limits" => Some(r#"{"limit":"1000/s"}"#),
            "breaker" => Some(r#"{"state":"closed"}"#),
            _ => None,
        };
        let mut seen = statuses(running.admin, &method, &path, body, (&one, &shared));
        match path.as_str() {
            "/lb/events" => {
                let streams: Vec<_> = (0..64)
                    .map(|_| open(running.admin, "GET", "/lb/events", &[], None))
                    .collect();
                // Those before it have been counted once it is answered, as one thread serves all.
                while head(running.admin, "/lb/events", &[]) == "200" {}
                seen.insert("503".to_owned());
                drop(streams);
            }
            // Other tests have jobs, requests that wait, and alerts.
            "/lb/jobs/{id}/preview"
            | "/lb/jobs/{id}/cancel"
            | "/lb/waiting/{id}/cancel"
            | "/lb/alerts/{id}/test" => {
                seen.insert("200".to_owned());
            }
            "/lb/log" => _ = seen.insert(without_log(&method, body)),
            "/ready" => {
                for id in [&one, &shared] {
                    running.changed("POST", &format!("/lb/backends/{id}/disable?pool=web"), None);
                }
                seen.insert(
                    call(running.admin, "GET", "/ready", &[], None)
                        .status
                        .to_string(),
                );
            }
            _ => {}
        }
        assert_eq!(seen, expected, "{method} {path}");
    }
    assert_eq!(Value::Null, document["paths"]["/lb"]);
}

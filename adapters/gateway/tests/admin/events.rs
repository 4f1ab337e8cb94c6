//! The stream of events.

use crate::support::*;
use core::net::SocketAddr;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;

/// A stream of events, in chunks.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(address: SocketAddr) -> Self {
        Self::of(address, "/lb/events")
    }

    fn of(address: SocketAddr, path: &str) -> Self {
        let stream = open(address, "GET", path, &[], None);
        let mut stream = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.0.read_line(&mut head).expect("a line") > 0, "{head}");
        }
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        stream
    }

    /// Reads the next event's name and data; `None` at the end of the stream.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = None;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("a line") == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("event: ") {
                name = Some(text.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                let name = name.take().expect("a name before the data");
                return Some((name, serde_json::from_str(data).expect("JSON")));
            }
        }
    }

    fn change(&mut self) -> Value {
        let (name, data) = self.next().expect("an event");
        assert_eq!(name, "change");
        data
    }
}

#[test]
fn a_snapshot_comes_first_and_then_each_change() {
    let (one, two) = (backend(), backend());
    let running = Running::in_front_of(&[one]);
    let mut stream = Stream::open(running.address);
    let (name, snapshot) = stream.next().unwrap();
    assert_eq!(name, "snapshot");
    assert_eq!(snapshot["backends"][0]["id"], one.to_string());
    let body = json!({"host": "127.0.0.1", "port": two.port(), "name": "b/2"}).to_string();
    running.changed("POST", "/lb/backends/add", Some(&body));
    running.changed("POST", "/lb/backends/b%2F2/weight", Some(r#"{"weight":7}"#));
    running.changed("POST", "/lb/backends/b%2F2/disable", None);
    running.changed("POST", "/lb/backends/b%2F2/enable", None);
    running.changed("DELETE", "/lb/backends/b%2F2/remove", None);
    for expected in [
        json!({"pool": "web", "backend": "b/2", "change": "added"}),
        json!({"pool": "web", "backend": "b/2", "change": "weight", "weight": 7}),
        json!({"pool": "web", "backend": "b/2", "change": "disabled"}),
        json!({"pool": "web", "backend": "b/2", "change": "enabled"}),
        json!({"pool": "web", "backend": "b/2", "change": "removed"}),
    ] {
        assert_eq!(stream.change(), expected);
    }
}

#[test]
fn changes_of_health_are_told() {
    let running = Running::in_front_of(&[backend()]);
    let mut stream = Stream::open(running.address);
    stream.next().unwrap();
    for _ in 0..3 {
        running.get("/fail");
    }
    let change = stream.change();
    assert_eq!(change["change"], "breaker_open");
    assert!(change["for_ms"].as_f64().unwrap() > 50_000.0, "{change}");
}

#[test]
fn a_drain_ends_the_stream() {
    let mut running = Running::in_front_of(&[]);
    let mut stream = Stream::open(running.address);
    stream.next().unwrap();
    running.drain();
    assert_eq!(stream.next(), None);
}

#[test]
fn streams_are_bounded_and_a_place_is_given_back() {
    let running = Running::in_front_of(&[]);
    let mut streams: Vec<_> = (0..64).map(|_| Stream::open(running.address)).collect();
    let refused = call(running.address, "GET", "/lb/events", &[], None);
    assert_eq!(
        (refused.status, refused.code()),
        (503, "too_many_streams".to_owned())
    );
    drop(streams.pop());
    // Its end is noticed once the gateway reads it.
    let mut refused = 503;
    while refused == 503 {
        let stream = open(running.address, "GET", "/lb/events", &[], None);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        refused = line.split(' ').nth(1).unwrap().parse().unwrap();
    }
    assert_eq!(refused, 200);
}

/// Applies a merge patch (RFC 7396).
fn merge(to: &mut Value, patch: &Value) {
    for (name, value) in patch.as_object().into_iter().flatten() {
        if value.is_null() {
            to.as_object_mut().expect("an object").remove(name);
        } else if value.is_object() && to[name].is_object() {
            merge(&mut to[name], value);
        } else {
            to[name] = value.clone();
        }
    }
}

#[test]
fn figures_come_whole_and_then_as_differences() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let one = taken.local_addr().expect("an address");
    drop(taken);
    let running = Running::in_front_of(&[one]);
    let mut stream = Stream::of(running.address, "/lb/events?view=figures");
    let (name, mut all) = stream.next().unwrap();
    assert_eq!(name, "snapshot");
    let member = all["figures"]["members"]["web"][one.to_string()].clone();
    assert_eq!(
        (&member["ok"], &member["state"]),
        (&json!(0), &json!("ready"))
    );
    assert!(all["history"].is_object(), "{all}");

    assert_eq!(running.get("/").status, 502);
    running.changed(
        "POST",
        &format!("/lb/backends/{one}/weight"),
        Some(r#"{"weight":7}"#),
    );
    let is_weight = |told: &Value| told["change"] == "weight";
    let (mut refusals, mut changes) = (Vec::new(), Vec::new());
    while refusals.is_empty() || !changes.iter().any(is_weight) {
        let (name, tick) = stream.next().unwrap();
        assert_eq!(name, "tick");
        merge(&mut all["figures"], &tick["patch"]);
        // What stays as it is is not told again.
        assert!(tick["patch"]["gateway"]["version"].is_null(), "{tick}");
        for (told, name) in [(&mut refusals, "refusals"), (&mut changes, "changes")] {
            told.extend(tick[name].as_array().expect("a list").iter().cloned());
        }
    }
    let member = &all["figures"]["members"]["web"][one.to_string()];
    assert_eq!(member["weight"], 7);
    assert_eq!(changes.iter().filter(|told| is_weight(told)).count(), 1);
    let [refusal] = &refusals[..] else {
        panic!("{refusals:?}");
    };
    assert_eq!(refusal["status"], 502);
    assert_eq!(refusal["request"], "GET /");
    assert!(refusal["why"].as_str().is_some_and(|why| !why.is_empty()));
    let answer = call(running.address, "GET", "/lb/events?view=all", &[], None);
    assert_eq!(
        (answer.status, answer.code()),
        (400, "bad_request".to_owned())
    );
}

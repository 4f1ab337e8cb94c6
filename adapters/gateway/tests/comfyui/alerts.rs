//! Events and alerts: a queue that is long, a wait that is, and jobs that are lost.

use crate::http::{ask, repeat_until};
use crate::support::{QUICK, servers, sleeping, start, taking};
use core::time::Duration;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

#[test]
fn a_long_queue_and_a_long_wait_are_told_once_each_and_when_they_are_over() {
    let mut settings = QUICK();
    settings.alert_waiting = Some(3);
    settings.alert_wait = Some(Duration::from_secs(1));
    let world = start(servers([taking(10)]), settings, "");
    let mut stream = TcpStream::connect(world.address).expect("it listens");
    let request = "GET /lb/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "event: snapshot"));
    let caller = world.caller("one");
    let ids: Vec<String> = (0..8).map(|_| caller.queue(&sleeping("me", 0.7))).collect();
    let changes = lines.filter_map(|line| {
        let data: Value = serde_json::from_str(line.strip_prefix("data: ")?).expect("JSON");
        let change = data["change"].as_str()?.to_owned();
        change.starts_with("wait").then_some((change, data))
    });
    let told: Vec<(String, Value)> = changes.take(4).collect();
    let mut names: Vec<&str> = told.iter().map(|(change, _)| change.as_str()).collect();
    assert_eq!(names[0], "waiting_above");
    names.sort_unstable();
    let all = ["wait_above", "wait_below", "waiting_above", "waiting_below"];
    assert_eq!(names, all);
    for (_, data) in &told {
        assert_eq!(
            (&data["pool"], &data["backend"]),
            (&json!("images"), &Value::Null)
        );
    }
    assert!(caller.all_ended(&ids).iter().all(|end| end == "success"));
}

#[test]
fn a_long_queue_and_lost_jobs_are_alerts() {
    let more = "[[alert]]\nwhen = \"queue > 3\"\n[[alert]]\nwhen = \"jobs lost\"";
    let mut world = start(servers([taking(10), taking(10)]), QUICK(), more);
    let address = world.address;
    let told = |alert: usize| {
        let answer = ask(
            address,
            "GET /lb/alerts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        );
        let answer: Value = serde_json::from_str(answer.text()).expect("JSON");
        answer["alerts"][alert]["active"][0]["text"]
            .as_str()
            .map(ToOwned::to_owned)
    };
    let until_told = |alert: usize| {
        let mut text = None;
        repeat_until("the alert is told", || {
            text = told(alert);
            text.is_some()
        });
        text.unwrap_or_default()
    };
    let caller = world.caller("one");
    let ids: Vec<String> = (0..8).map(|_| caller.queue(&sleeping("me", 1.0))).collect();
    let queue = until_told(0);
    assert!(queue.ends_with(" requests wait for pool images"), "{queue}");
    assert_eq!(told(1), None);
    world.servers[0].kill().expect("it was up");
    let lost = until_told(1);
    assert!(
        lost.ends_with(" lost with a server of pool images in 5min"),
        "{lost}"
    );
    assert!(caller.all_ended(&ids).iter().all(|end| end == "success"));
}

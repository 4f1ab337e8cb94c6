//! Events for alerts: a queue that is long, and a wait that is.

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

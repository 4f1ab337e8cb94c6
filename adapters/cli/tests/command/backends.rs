//! The test backends as a process: help, flags, report.

use super::*;
use std::io::{self, Write};
use std::net::TcpStream;

/// Test servers in a process of their own.
pub(super) struct Doubles {
    process: Child,
    output: BufReader<ChildStdout>,
    pub(super) addresses: Vec<String>,
}

impl Doubles {
    /// Starts this many of a kind.
    pub(super) fn start(kind: &str, count: usize, arguments: &[&str]) -> Self {
        let (process, mut output) = super::start(&["testbed", kind], arguments, Stdio::inherit());
        let mut address = || {
            let mut line = String::new();
            output
                .read_line(&mut line)
                .expect("it prints its addresses");
            let url = line.trim().strip_prefix("listening on http://");
            url.expect(&line).to_owned()
        };
        Self {
            addresses: (0..count).map(|_| address()).collect(),
            process,
            output,
        }
    }

    /// Sends a request on a connection of its own, and returns all bytes of the answer.
    fn ask(&self, index: usize, line: &str) -> String {
        let mut stream = TcpStream::connect(&self.addresses[index]).expect("it listens");
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut reply = Vec::new();
        match stream.read_to_end(&mut reply) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
        text(&reply)
    }

    pub(super) fn port(&self, index: usize) -> &str {
        self.addresses[index].rsplit(':').next().expect("a port")
    }

    /// Interrupts the process and returns the rest of its output.
    pub(super) fn stop(mut self) -> String {
        interrupt(&mut self.process, &mut self.output)
    }

    pub(super) fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Doubles {
    fn drop(&mut self) {
        // After `stop` the process has ended already, and this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn three_backends_answer_with_their_names_and_report_what_they_saw() {
    let backends = Doubles::start("backends", 3, &["--ports", "0,0,0"]);
    for index in 0..3 {
        let id = format!("\"id\":\"backend-{}\"", backends.port(index));
        assert!(backends.ask(index, "GET /").contains(&id));
        let health = backends.ask(index, "GET /health");
        assert!(
            health.starts_with("HTTP/1.1 200 ") && health.contains(&id),
            "{health}"
        );
    }
    assert!(
        backends
            .ask(1, "POST /testbed/set?healthy=false")
            .starts_with("HTTP/1.1 200 ")
    );
    assert!(backends.ask(1, "GET /health").starts_with("HTTP/1.1 503 "));
    assert!(backends.ask(1, "GET /x").starts_with("HTTP/1.1 200 "));
    let port = backends.port(1).to_owned();
    let report = backends.stop();
    let words = |line: usize| {
        report
            .lines()
            .nth(line)
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
    };
    assert_eq!(
        words(0).map(|words| words[..3].join(" ")).as_deref(),
        Some("backend requests answered")
    );
    let id = format!("backend-{port}");
    assert_eq!(
        words(2),
        Some(vec![id.as_str(), "2", "2", "0", "0", "0", "0", "1", "2"])
    );
    assert_eq!(report.lines().count(), 4);
}

#[test]
fn flags_reach_all_backends_or_the_one_of_a_port() {
    let first = std::net::TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let port = first.local_addr().expect("an address").port();
    drop(first);
    let backends = Doubles::start(
        "backends",
        2,
        &[
            "--ports",
            &format!("{port},0"),
            "--json",
            "--record",
            "2",
            "--limit",
            "5/h",
            "--concurrency",
            &format!("{port}=9"),
            "--delay",
            &format!("{port}=1ms"),
            "--fault",
            &format!("{port}=503=first:1"),
            "--fault",
            "502=first:1@/b",
            "--fault",
            "cut-body@/cut",
        ],
    );
    let status = |index, path: &str| {
        let reply = backends.ask(index, &format!("GET {path}"));
        reply.split(' ').nth(1).map(ToOwned::to_owned)
    };
    let statuses = [
        (0, "/"),
        (0, "/"),
        (0, "/b"),
        (1, "/"),
        (1, "/b"),
        (1, "/c"),
    ]
    .map(|(index, path)| status(index, path).expect("a status"));
    assert_eq!(statuses, ["503", "200", "502", "200", "502", "200"]);
    assert!(!backends.ask(0, "GET /cut").ends_with('}'));
    assert_eq!(
        [(); 2].map(|()| status(0, "/x").expect("a status")),
        ["200", "429"]
    );
    let report: Value = serde_json::from_str(&backends.stop()).expect("the report is JSON");
    let reports = report["backends"].as_array().expect("a list");
    assert_eq!(reports[0]["id"], format!("backend-{port}"));
    assert_eq!(
        reports[0]["by_fault"],
        json!({ "502": 1, "503": 1, "cut-body": 1 })
    );
    assert_eq!(
        (&reports[0]["requests"], &reports[0]["refused_429"]),
        (&json!(6), &json!(1))
    );
    assert_eq!(
        (&reports[1]["requests"], &reports[1]["faults"]),
        (&json!(3), &json!(1))
    );
    let targets = [0, 1].map(|index| reports[0]["recorded"][index]["target"].clone());
    assert_eq!(targets, ["/x", "/x"]);
}

#[test]
fn the_help_has_every_path_and_fault_and_fits_100_columns() {
    let help = leasehold().args(["testbed", "backends", "--help"]).output();
    let help = text(&help.expect("the command runs").stdout);
    let list = leasehold()
        .args(["testbed", "backends", "--fault", "list"])
        .output();
    let list = text(&list.expect("the command runs").stdout);
    for line in help.lines().chain(list.lines()) {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for row in list.lines() {
        assert!(help.lines().any(|line| line == row), "{row}");
    }
    for path in [
        "/health",
        "/slow?",
        "/bytes?",
        "/stream?",
        "/echo",
        "/status/",
        "/early-hints?",
        "/continue?",
        "/ws?",
        "/close?",
        "/stall?",
        "/redirect?",
        "/cookie?",
        "/testbed/report",
    ] {
        assert!(help.contains(&format!("\n  {path}")), "{path}");
    }
    assert!(list.lines().any(|line| line.starts_with("  cut-headers ")));
}

#[test]
fn wrong_arguments_are_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let taken = taken
        .local_addr()
        .map(|address| (address.port().to_string(), taken));
    let (port, _taken) = taken.expect("an address");
    for (arguments, message) in [
        (vec!["--ports", "8001,8001"], "--ports: 8001 is there twice"),
        (vec!["--ports", "8001,x"], "must be a whole number"),
        (
            vec!["--ports", "0", "--delay", "8009=1s"],
            "--delay: 8009 is not one of the --ports",
        ),
        (
            vec!["--ports", "0", "--limit", "5 tokens/s"],
            "limit requests, such as 100/s",
        ),
        (vec!["--fault", "sorrow"], "there is no fault \"sorrow\""),
        (vec!["--fault", "close=7"], "\"7\" is not a share"),
        (
            vec!["--ports", &port],
            "choose other --ports or another --host",
        ),
    ] {
        let output = leasehold()
            .args(["testbed", "backends"])
            .args(&arguments)
            .output();
        let output = output.expect("the command runs");
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(shown.contains(message), "{shown}");
        assert!(output.stdout.is_empty());
    }
}

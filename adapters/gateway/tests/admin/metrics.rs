//! The figures for Prometheus: what they say, that its own tool takes them, and that they are bounded.

use crate::support::*;
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{AlertSettings, AlertWhen, Settings};
use leasehold_core::balance::Policy;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use tokio::time::Instant;

const OPEN: (&str, &str) = ("accept", "application/openmetrics-text; version=1.0.0");

/// The value of a row, by its name and labels.
fn value(text: &str, row: &str) -> f64 {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("no {row} in:\n{text}"));
    found.parse().expect("a number")
}

#[test]
fn an_alert_is_counted_and_shown() {
    let backend = backend();
    let when: AlertWhen = "pool down".parse().expect("a condition");
    let mut alert = AlertSettings::new(when);
    alert.command = vec!["/no/such/program".to_owned()];
    let settings = Settings {
        alerts: vec![alert],
        ..settings(vec![pool("web", Policy::RoundRobin, &[backend])])
    };
    let running = Running::start(settings);
    let told = || {
        let answer = call(running.admin, "GET", "/lb/metrics", &[], None);
        answer
            .body
            .contains("\nleasehold_alerts{alert=\"pool down\"} 1\n")
    };
    assert!(!told());
    running.changed("POST", &format!("/lb/backends/{backend}/disable"), None);
    let begun = Instant::now();
    while !told() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not told");
    }
    let figures = call(running.admin, "GET", "/lb/metrics", &[], None).body;
    let waiting = "leasehold_alert_messages_waiting{alert=\"pool down\",receiver=\"command\"}";
    assert!(value(&figures, waiting) > 0.0, "{figures}");
    let view = running.read("/lb/alerts");
    let alert = &view["alerts"][0];
    assert_eq!(
        (&alert["name"], &alert["for"]),
        (&json!("pool down"), &json!("0s"))
    );
    let told = json!([{
        "alert": "pool down", "pool": "web", "backend": null, "caller": null,
        "since": alert["active"][0]["since"], "text": "no member of pool web serves",
    }]);
    assert_eq!(alert["active"], told);
    assert!(alert["active"][0]["since"].is_u64());
}

/// A gateway whose one member answered twice, and failed once.
fn used() -> (Running, SocketAddr) {
    let backend = backend();
    let running = Running::in_front_of(&[backend]);
    for path in ["/", "/", "/fail"] {
        running.get(path);
    }
    (running, backend)
}

#[test]
fn figures_count_what_was_done() {
    let (running, backend) = used();
    let answer = call(running.admin, "GET", "/lb/metrics", &[], None);
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
    let of = |row: &str| value(&answer.body, row);
    assert_eq!(of("leasehold_requests_total{outcome=\"ok\"}"), 2.0);
    assert_eq!(of("leasehold_requests_total{outcome=\"failed\"}"), 1.0);
    let member = format!("pool=\"web\",member=\"{backend}\"");
    let leases = |outcome: &str| {
        of(&format!(
            "leasehold_member_leases_total{{{member},outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((leases("ok"), leases("failed")), (2.0, 1.0));
    assert_eq!(of(&format!("leasehold_member_up{{{member}}}")), 1.0);
    assert_eq!(of(&format!("leasehold_inflight{{{member}}}")), 0.0);
    assert_eq!(
        of("leasehold_request_duration_seconds_count{pool=\"web\"}"),
        3.0
    );
    let least = "leasehold_lease_wait_seconds_bucket{pool=\"web\",le=\"+Inf\"}";
    assert_eq!(of(least), 3.0);
    assert_eq!(of("leasehold_config_last_reload_successful"), 1.0);
    running.changed("POST", &format!("/lb/backends/{backend}/disable"), None);
    let after = call(running.admin, "GET", "/lb/metrics", &[], None);
    assert_eq!(
        value(&after.body, &format!("leasehold_member_up{{{member}}}")),
        0.0
    );
}

#[test]
fn what_limits_have_left_is_told() {
    let backend = backend();
    let mut limited = pool("web", Policy::RoundRobin, &[backend]);
    let text = "[pools.web]\nkind = \"http\"\n[[pools.web.members]]\nurl = \"http://a.test\"\nlimits = \"5/1h\"\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n";
    let given = leasehold_config::Given::new();
    let read = leasehold_config::Settings::parse(text, std::path::Path::new("/"), &given);
    limited.members[0].limits = read.expect("sound settings").pools[0].members[0]
        .limits
        .clone();
    let running = Running::start(settings(vec![limited]));
    running.get("/");
    let answer = call(running.admin, "GET", "/lb/metrics", &[], None);
    let labels = format!("{{pool=\"web\",member=\"{backend}\",unit=\"requests\"}}");
    let of = |name: &str| value(&answer.body, &format!("{name}{labels}"));
    assert_eq!(of("leasehold_limit_remaining"), 4.0);
    assert_eq!(of("leasehold_limit_capacity"), 5.0);
}

#[test]
fn openmetrics_is_told_to_those_that_ask_for_it() {
    let (running, _) = used();
    let answer = call(running.admin, "GET", "/lb/metrics", &[OPEN], None);
    let kind = answer.header("content-type").expect("a type");
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    assert!(answer.body.contains("# TYPE leasehold_requests counter"));
}

#[test]
fn a_thousand_members_stay_under_twenty_thousand_series() {
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let backends: Vec<SocketAddr> = (1..=1_000).map(address).collect();
    let running = Running::in_front_of(&backends);
    let answer = call(running.admin, "GET", "/lb/metrics", &[], None);
    let series = answer
        .body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    assert!((10_000..20_000).contains(&series), "{series}");
}

/// Runs a check of Prometheus' own tool on a text, and asserts that it finds nothing; says so where there is no tool.
fn check(arguments: &[&str], input: &str) {
    let mut tool = Command::new("promtool");
    tool.arg("check").args(arguments).stdin(Stdio::piped());
    let child = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let is_gate = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_gate, "promtool can't be run: {error}");
            eprintln!("promtool can't be run, so that nothing is checked: {error}");
            return;
        }
    };
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("it reads");
    drop(pipe);
    let told = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success() && said.is_empty(), "{said}\n{input}");
}

#[test]
fn the_tool_of_prometheus_finds_nothing_wrong() {
    let (running, _) = used();
    let text = call(running.admin, "GET", "/lb/metrics", &[], None).body;
    check(&["metrics"], &text);
    check(
        &[
            "rules",
            concat!(env!("CARGO_MANIFEST_DIR"), "/ops/alerts.yml"),
        ],
        "",
    );
}

#[test]
fn rules_and_dashboard_name_only_figures_that_are_told() {
    let (running, _) = used();
    let text = call(running.admin, "GET", "/lb/metrics", &[OPEN], None).body;
    let told: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    for file in [
        include_str!("../../ops/alerts.yml"),
        include_str!("../../ops/grafana.json"),
    ] {
        let words = file.split(|letter| !is_letter(letter));
        let names: Vec<&str> = words
            .filter(|word| word.starts_with("leasehold_"))
            .collect();
        assert!(names.len() > 10);
        for name in names {
            let name = name.trim_end_matches("_total").trim_end_matches("_bucket");
            assert!(told.contains(&name), "{name} is not told: {told:?}");
        }
    }
}

/// A Prometheus that takes native histograms, and ends with its test.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _data: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// Starts one that asks a gateway each second; `None` where there is none, which only a machine of CI must have.
    fn start(target: SocketAddr) -> Option<Self> {
        let data = tempfile::tempdir().expect("a folder");
        let config = data.path().join("prometheus.yml");
        let text = format!(
            "scrape_configs:\n- job_name: gateway\n  scrape_interval: 1s\n  metrics_path: /lb/metrics\n  \
            authorization: {{ credentials: {TOKEN} }}\n  static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        std::fs::write(&config, text).expect("a file");
        // It can't tell which port it was given.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let process = Command::new("prometheus")
            .arg("--enable-feature=native-histograms")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                data.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn();
        match process {
            Ok(process) => Some(Self {
                process,
                address,
                _data: data,
            }),
            Err(error) => {
                let is_gate = std::env::var("CI").is_ok_and(|value| value == "true");
                assert!(
                    !is_gate,
                    "no prometheus: {error}; apt-get install prometheus"
                );
                eprintln!("left out: no prometheus: {error}; apt-get install prometheus");
                None
            }
        }
    }

    /// The value of a query; `None` while there is none.
    fn query(&self, query: &str) -> Option<f64> {
        // It may not listen, or not be ready yet.
        TcpStream::connect(self.address).ok()?;
        let path = format!("/api/v1/query?query={query}");
        let answer = call(self.address, "GET", &path, &[], None);
        let answer: Value = serde_json::from_str(&answer.body).ok()?;
        answer["data"]["result"][0]["value"][1]
            .as_str()?
            .parse()
            .ok()
    }
}

#[test]
fn prometheus_takes_native_histograms() {
    let (running, _) = used();
    let Some(prometheus) = Prometheus::start(running.admin) else {
        return;
    };
    let until = |query: &str| {
        let begun = Instant::now();
        loop {
            if let Some(value) = prometheus.query(query) {
                return value;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{query} has no value"
            );
        }
    };
    // These are of native histograms alone.
    assert_eq!(
        until("histogram_count(leasehold_request_duration_seconds)"),
        3.0
    );
    let sum = until("histogram_sum(leasehold_request_duration_seconds)");
    let median = until("histogram_quantile(0.5,leasehold_request_duration_seconds)");
    assert!(median > 0.0 && median < sum, "{median} of {sum}");
    assert_eq!(until("leasehold_requests_total{outcome=%22ok%22}"), 2.0);
}

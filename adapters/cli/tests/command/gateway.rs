//! The gateway as a process: settings, signals and kills.

use super::*;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use leasehold_testbed::{Backend, BackendConfig, Limit};
use std::io::Write;
use std::net::TcpStream;

/// A running gateway.
pub(super) struct Gateway {
    pub(super) process: Child,
    pub(super) address: String,
    log: BufReader<ChildStdout>,
}

impl Gateway {
    pub(super) fn start(arguments: &[&str]) -> Self {
        let mut command = leasehold();
        command.arg("gateway").args(arguments);
        Self::spawn(command)
    }

    /// Starts it by a command of its own.
    pub(super) fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("it starts");
        let mut log = BufReader::new(process.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        log.read_line(&mut line).expect("it prints its address");
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let output = process.wait_with_output().expect("it ends");
            panic!("{line:?}, {}", text(&output.stderr));
        };
        Self {
            address: address.to_owned(),
            process,
            log,
        }
    }

    /// The address of its next listener.
    pub(super) fn next_address(&mut self) -> String {
        let mut line = String::new();
        self.log
            .read_line(&mut line)
            .expect("it prints its address");
        let address = line.trim().strip_prefix("listening on http://");
        address.expect(&line).to_owned()
    }

    /// Ends it in order, and returns the rest of its output and what it said on standard error.
    pub(super) fn end(mut self) -> (String, String) {
        send_signal(&self.process, "TERM");
        let mut rest = String::new();
        self.log
            .read_to_string(&mut rest)
            .expect("its output is text");
        let output = self.process.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        (rest, text(&output.stderr))
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// A call to a service.
const CALL: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 60\r\n\r\n\
    {\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";

fn get(address: &str) -> Option<u16> {
    send(address, GET)
}

/// Sends one request; `None` if there is no whole answer.
fn send(address: &str, request: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

pub(super) fn backend(limit: &str) -> Backend {
    let mut config = BackendConfig::default();
    if !limit.is_empty() {
        config.limits = Limit::parse_list(limit).expect("a limit");
    }
    Backend::start(config).expect("a free port")
}

#[test]
fn a_gateway_needs_no_settings_but_its_backends() {
    let backends = [(); 2].map(|()| backend(""));
    let addresses = backends
        .each_ref()
        .map(|backend| backend.address().to_string());
    let gateway = Gateway::start(&[
        "--port",
        "0",
        "--backend",
        &addresses[0],
        "--backend",
        &format!("{}=3", addresses[1]),
        "--algorithm",
        "weighted_round_robin",
    ]);
    for _ in 0..8 {
        assert_eq!(get(&gateway.address), Some(200));
    }
    let (log, _) = gateway.end();
    assert_eq!(
        log.lines()
            .filter(|line| line.contains("\"GET / HTTP/1.1\" 200"))
            .count(),
        8,
        "{log}"
    );
    assert_eq!(backends.map(|backend| backend.stop().requests), [2, 6]);
}

#[test]
fn wrong_settings_are_told_with_their_place_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let wrong = "[pools.web]\nkind = \"http\"\npolcy = \"ip_hash\"\n";
    fs::write(&path, wrong).unwrap();
    let output = leasehold()
        .args(["gateway", "--check-config", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(
        told.contains("gateway.toml:3:1") && told.contains("did you mean policy?"),
        "{told}"
    );
}

#[test]
fn settings_are_printed_as_they_are_in_force_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let print = |arguments: &[&str]| {
        let output = leasehold()
            .args(["gateway", "--print-config"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let servers = ["--comfyui", "http://gpu1:8188,https://gpu2/comfy"];
    let switched = ["--no-queue-weight", "--no-failover", "--verbose"];
    for flags in [
        &["--port", "0", "--session", "lb"][..],
        &servers[..],
        &[&servers[..], &switched[..]].concat(),
    ] {
        let printed = print(flags);
        fs::write(&path, &printed).unwrap();
        // A file can't say that changes need no token.
        let (before, rest) = printed.split_once("[admin]\n").unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        assert_eq!(
            print(&["--config", path.to_str().unwrap()]),
            format!("{before}{after}")
        );
    }
}

#[test]
fn comfyui_servers_are_given_by_one_flag_with_how_they_are_checked() {
    let output = leasehold()
        .args(["gateway", "--print-config", "--comfyui"])
        .args(["http://gpu1:8188,http://gpu2:8188", "--port", "8188"])
        .args(["--health-interval", "20s", "--health-timeout", "4s"])
        .args(["--health-tries", "5", "--no-failover", "--verbose"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for part in [
        "kind = \"comfyui\"",
        "policy = \"least_queue\"",
        "interval = \"20s\"",
        "timeout = \"4s\"",
        "unhealthy_after = 5",
        "failover = false",
        "verbose = true",
        "url = \"http://gpu1:8188/\"\nweight = 1",
        "url = \"http://gpu2:8188/\"\nweight = 0",
        "address = \"127.0.0.1:8188\"",
        "serve = \"comfyui\"",
    ] {
        assert!(printed.contains(part), "{part}:\n{printed}");
    }
}

#[test]
fn flags_of_comfyui_that_can_not_be_are_refused_with_what_to_write() {
    let servers = "http://gpu1:8188";
    for (arguments, told) in [
        (
            &["--comfyui", "gpu1:8188"][..],
            "write http:// or https:// before the host",
        ),
        (&["--comfyui", "http://:8188"], "the host is missing"),
        (
            &["--comfyui", "http://gpu1,"],
            "write http:// or https:// before the host",
        ),
        (
            &["--comfyui", "http://gpu1,http://gpu1/"],
            "two ComfyUI servers have the same URL",
        ),
        (
            &["--comfyui", servers, "--backend", "h:1"],
            "cannot be used with",
        ),
        (
            &["--comfyui", servers, "--openai", "http://h", "--keys", "k"],
            "cannot be used with",
        ),
        (
            &["--comfyui", servers, "--algorithm", "random"],
            "cannot be used with",
        ),
        (
            &["--comfyui", servers, "--config", "f"],
            "cannot be used with",
        ),
        (
            &["--comfyui", servers, "--health-tries", "0"],
            "must be at least 1",
        ),
        (
            &["--comfyui", servers, "--health-timeout", "31s"],
            "above zero and at most their interval",
        ),
        (&["--health-timeout", "1s"], "--comfyui"),
        (&["--health-tries", "1"], "--comfyui"),
        (&["--no-queue-weight"], "--comfyui"),
        (&["--no-failover"], "--comfyui"),
        (&["--verbose"], "--comfyui"),
    ] {
        let output = leasehold()
            .args(["gateway", "--check-config"])
            .args(arguments)
            .output()
            .unwrap();
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {shown}");
        assert!(shown.contains(told), "{arguments:?}: {shown}");
    }
}

#[test]
fn a_collector_is_given_by_a_flag_whose_url_is_checked() {
    let run = |url: &str| {
        let mut command = leasehold();
        let command = command.args(["gateway", "--print-config", "--otlp", url]);
        command.output().unwrap()
    };
    let printed = text(&run("http://127.0.0.1:4318").stdout);
    let table = "[otlp]\nendpoint = \"http://127.0.0.1:4318/\"\nsample = \"100%\"\n";
    assert!(printed.contains(table), "{printed}");
    for (url, told) in [
        ("127.0.0.1:4318", "http://"),
        ("http://c:4318/?api-version=1", "headers_file"),
    ] {
        let output = run(url);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{url}: {shown}");
        assert!(shown.contains(told), "{url}: {shown}");
    }
}

#[test]
fn a_hangup_reloads_and_a_bad_file_changes_nothing() {
    let backends = [(); 2].map(|()| backend(""));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let text_for = |backend: &Backend| {
        let url = backend.url();
        format!(
            "[pools.web]\nkind = \"http\"\nmembers = [{{ url = \"{url}\" }}]\n[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
        )
    };
    fs::write(&path, text_for(&backends[0])).unwrap();
    let mut gateway = Gateway::start(&["--config", path.to_str().unwrap()]);
    let mut told = BufReader::new(gateway.process.stderr.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        line
    };
    let line = next();
    assert!(
        line.starts_with("started, listening at 127.0.0.1:"),
        "{line}"
    );
    assert_eq!(get(&gateway.address), Some(200));
    fs::write(&path, "nonsense").unwrap();
    send_signal(&gateway.process, "HUP");
    let line = next();
    assert!(line.starts_with("not reloaded: "), "{line}");
    assert_eq!(get(&gateway.address), Some(200));
    fs::write(&path, text_for(&backends[1])).unwrap();
    send_signal(&gateway.process, "HUP");
    while next() != "the settings were reloaded\n" {}
    assert_eq!(get(&gateway.address), Some(200));
    assert_eq!(
        backends.each_ref().map(|backend| backend.report().requests),
        [2, 1]
    );
    send_signal(&gateway.process, "TERM");
    assert!(gateway.process.wait().unwrap().success());
}

#[test]
fn a_log_that_was_moved_away_is_opened_anew() {
    let backend = backend("");
    let folder = tempfile::tempdir().unwrap();
    let [path, log, old] =
        ["gateway.toml", "access.log", "access.log.1"].map(|name| folder.path().join(name));
    let (shown, url) = (log.display(), backend.url());
    let settings = format!(
        "access_log = {{ path = \"{shown}\", format = \"common\" }}\n[pools.web]\nkind = \"http\"\nmembers = [{{ url = \"{url}\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
    );
    fs::write(&path, settings).unwrap();
    let gateway = Gateway::start(&["--config", path.to_str().unwrap()]);
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    let wait_for = |path: &Path, count: usize| {
        while lines(path) < count {
            thread::sleep(Duration::from_millis(10));
        }
    };
    assert_eq!(get(&gateway.address), Some(200));
    wait_for(&log, 1);
    fs::rename(&log, &old).unwrap();
    send_signal(&gateway.process, "USR1");
    // A line that was on its way may still go to the old file.
    while !log.exists() {
        assert_eq!(get(&gateway.address), Some(200));
        thread::sleep(Duration::from_millis(20));
    }
    gateway.end();
    assert!(lines(&old) >= 1 && lines(&log) >= 1);
}

/// The promise of the state file: an upstream that counts strictly refuses nothing, whenever the gateway is killed.
#[test]
fn limits_hold_over_kills_at_random_moments() {
    let backends = [(); 2].map(|()| backend("10/1s"));
    let members: String = backends
        .iter()
        .map(|backend| format!("{{ url = \"{}\", limits = \"10/1s\" }},", backend.url()))
        .collect();
    serve_over_kills("http", &members, "", GET);
    for backend in backends {
        let report = backend.stop();
        let limit = &report.limits[0];
        assert_eq!(limit.refused, 0, "{limit:?}");
        assert!(limit.max_in_window <= 10, "{limit:?}");
    }
}

#[test]
fn limits_of_keys_hold_over_kills_at_random_moments() {
    let testbed = Testbed::start(&["--keys", "2", "--limit", "10/1s"]);
    let keys = "sk-testbed-0001\nsk-testbed-0002\n";
    let url = &testbed.url;
    let member = format!("{{ url = \"{url}/v1\", keys = \"keys.txt\", limits = \"10/1s\" }}");
    serve_over_kills("openai", &member, keys, CALL);
    let report = testbed.stop();
    assert_eq!(report["rejected_429"], 0, "{report}");
    let most = report["limits"][0]["max_in_window"].as_u64();
    assert!(
        most.is_some_and(|most| (5..=10).contains(&most)),
        "{report}"
    );
}

/// Puts a load through a gateway that is killed again and again.
fn serve_over_kills(kind: &str, members: &str, keys: &str, request: &str) {
    let kills = 20;
    let folder = tempfile::tempdir().expect("it can be done");
    let path = folder.path().join("gateway.toml");
    fs::write(folder.path().join("keys.txt"), keys).expect("it can be done");
    let write = |address: &str| {
        let settings = format!(
            "state = \"leasehold.state\"\naccess_log = false\n[pools.all]\nkind = \"{kind}\"\nmax_wait = \"10s\"\nmembers = [{members}]\n\
            [[listen]]\naddress = \"{address}\"\nserve = \"{kind}\"\npool = \"all\"\n"
        );
        fs::write(&path, settings).expect("it can be done");
    };
    write("127.0.0.1:0");
    let mut gateway = Gateway::start(&["--config", path.to_str().expect("it can be done")]);
    let address = gateway.address.clone();
    write(&address);
    let (stop, ok) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut seed = 7_u64;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match send(&address, request) {
                        Some(200) => _ = ok.fetch_add(1, Ordering::Relaxed),
                        Some(status) => assert!(matches!(status, 429 | 503), "{status}"),
                        // It was killed, or is not there yet.
                        None => thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        }
        for _ in 0..kills {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            thread::sleep(Duration::from_millis(20 + (seed >> 33) % 400));
            gateway.process.kill().expect("it can be done");
            gateway.process.wait().expect("it can be done");
            gateway = Gateway::start(&["--config", path.to_str().expect("it can be done")]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    gateway.end();
    assert!(ok.load(Ordering::Relaxed) > 40, "{ok:?}");
}

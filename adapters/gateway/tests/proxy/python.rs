//! The client of `examples/lease.py`, run by Python against a real gateway.

use crate::leases::{TOKEN, start, started, text_of, view};
use crate::support::{Running, repeat_until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Holds a lease as each line of its input says: the gateway, the outcome, and how its block ends.
const WORKER: &str = r#"
import json, sys
from lease import lease

def tell(**what):
    print(json.dumps(what), flush=True)

for line in sys.stdin:
    asked = json.loads(line)
    try:
        with lease(asked["gateway"], token=asked["token"], wait=20, **asked["request"]) as held:
            tell(member=held.member, secret=held.secret, url=held.url, live=held.live())
            how = json.loads(sys.stdin.readline())
            held.outcome, held.figures = how.get("outcome"), how.get("figures", {})
            live = held.live()
            if how.get("raises"):
                raise RuntimeError("the call has failed")
        tell(ended=held.outcome, live=live)
    except (RuntimeError, OSError) as error:
        tell(error=str(error))
"#;

/// A worker in Python, which is told and tells lines.
struct Worker {
    child: Child,
    told: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts it; `None` without Python, which only a machine of CI must have.
    fn start() -> Option<Self> {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
        let started = Command::new("python3")
            .args(["-B", "-c", WORKER])
            .env("PYTHONPATH", examples)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!must, "python3: {error}");
                eprintln!("skipped: python3: {error}");
                return None;
            }
        };
        let told = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Some(Self { child, told })
    }

    fn tell(&mut self, what: &Value) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{what}").expect("it reads");
    }

    fn told(&mut self) -> Value {
        let line = self.told.next().expect("it tells").expect("a text");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))
    }

    fn ask(&mut self, running: &Running, pool: &str) {
        let gateway = format!("http://{}", running.address);
        self.tell(&json!({"gateway": gateway, "token": TOKEN, "request": {"pool": pool}}));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A figure of all members of a pool.
fn counted(running: &Running, pool: &str, figure: &str) -> u64 {
    let view = view(running.address, pool);
    let members = view["members"].as_array().expect("members").iter();
    members.filter_map(|one| one[figure].as_u64()).sum()
}

#[test]
fn a_lease_ends_as_its_block_says() {
    let Some(mut worker) = Worker::start() else {
        return;
    };
    let running = start("1 concurrent", "");
    for (how, figure) in [
        (json!({}), "ok"),
        (json!({"raises": true}), "failed"),
        (json!({"outcome": "not_sent", "raises": true}), "not_sent"),
        (
            json!({"outcome": "unknown", "figures": {"latency_ms": 7}}),
            "unknown",
        ),
        (
            json!({"outcome": "throttled", "figures": {"retry_after_ms": 60_000}}),
            "throttled",
        ),
    ] {
        worker.ask(&running, "keys");
        let held = worker.told();
        let secret = held["secret"].as_str().unwrap_or_default();
        assert!(secret.starts_with("sk-test-000"), "{held}");
        assert_eq!(held["live"], true);
        assert_eq!(held["url"], "https://api.test/v1");
        assert_eq!(counted(&running, "keys", "held"), 1);
        worker.tell(&how);
        let ended = worker.told();
        assert_eq!(
            ended.get("error").is_some(),
            how.get("raises").is_some(),
            "{ended}"
        );
        assert_eq!(counted(&running, "keys", figure), 1, "{figure}");
        assert_eq!(counted(&running, "keys", "held"), 0);
    }
    worker.ask(&running, "none");
    let refused = worker.told();
    assert!(
        refused["error"].as_str().unwrap().contains("404"),
        "{refused}"
    );
}

#[test]
fn a_lease_outlives_its_time_and_the_gateway_as_does_a_request() {
    let (Some(mut first), Some(mut second)) = (Worker::start(), Worker::start()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let state = format!("state = \"{}\"\n", folder.path().join("state").display());
    let listen = "token_file = \"/token\"\nlease_ttl = \"2s\"";
    let text = state + &text_of("1 concurrent", listen);
    let running = started(&text);
    let address = running.address;
    first.ask(&running, "gpu");
    assert_eq!(first.told()["member"], "one");
    second.ask(&running, "gpu");
    repeat_until("it waits", || view(address, "gpu")["waiting"] == 1);
    running.gateway.drain();
    let running = started(&text.replace("127.0.0.1:0", &address.to_string()));
    repeat_until("it waits again", || view(address, "gpu")["waiting"] == 1);
    // Longer than a lease lasts that is not renewed.
    std::thread::sleep(core::time::Duration::from_millis(2_500));
    assert_eq!(counted(&running, "gpu", "held"), 1);
    first.tell(&json!({}));
    let ended = first.told();
    assert_eq!(
        (&ended["live"], ended.get("error")),
        (&json!(true), None),
        "{ended}"
    );
    assert_eq!(second.told()["member"], "one");
    second.tell(&json!({"outcome": "not_sent"}));
    assert_eq!(second.told()["ended"], "not_sent");
    let figures = ["ok", "not_sent", "expired", "held"].map(|it| counted(&running, "gpu", it));
    assert_eq!(figures, [1, 1, 0, 0]);
    first.ask(&running, "gpu");
    assert_eq!(first.told()["live"], true);
    running.gateway.drain();
    std::thread::sleep(core::time::Duration::from_millis(2_100));
    first.tell(&json!({}));
    assert_eq!(first.told()["live"], false, "it could not be renewed");
}

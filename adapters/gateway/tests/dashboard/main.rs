//! The dashboard in a real browser: what it shows, and what an operator does there.
//!
//! It needs Chromium, and Node with playwright-core and axe-core in the folder of `LEASEHOLD_NODE_MODULES`. Pictures of
//! the page are left in `target/tmp/dashboard`.

#[expect(dead_code, reason = "the proxy's tests use all of it")]
#[path = "../proxy/support.rs"]
mod http;

use crate::http::{Caller, repeat_until};
use core::fmt::Write as _;
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{Given, Settings};
use leasehold_gateway::Gateway;
use leasehold_testbed::{Backend, BackendConfig};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

const TOKEN: &str = "a-token-of-some-length";

/// One browser at a time, as two would take the processor from each other.
static ALONE: Mutex<()> = Mutex::new(());

/// A browser that shows the dashboard.
struct Browser {
    process: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
    _alone: MutexGuard<'static, ()>,
}

impl Browser {
    /// Opens the page; `None` without what that needs, which only a machine of CI must have.
    fn open(admin: SocketAddr, name: &str) -> Option<Self> {
        let modules = std::env::var("LEASEHOLD_NODE_MODULES").unwrap_or_default();
        let has = |module| Path::new(&modules).join(module).is_dir();
        if !has("playwright-core") || !has("axe-core") {
            let is_gate = std::env::var("CI").is_ok_and(|value| value == "true");
            let told =
                "Node has no packages playwright-core and axe-core; set LEASEHOLD_NODE_MODULES";
            assert!(!is_gate, "{told}");
            eprintln!("left out: {told}");
            return None;
        }
        // A test that failed before has poisoned it, and is over.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dashboard/drive.mjs");
        let mut process = Command::new("node")
            .arg(script)
            .arg(format!("http://{admin}/lb/dashboard"))
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let steps = process.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Some(Self {
            process,
            steps,
            answers,
            _alone: alone,
        })
    }

    fn step(&mut self, step: &str, told: &[&str]) -> Value {
        let line = [&[step], told].concat().join("\t");
        writeln!(self.steps, "{line}").expect("it listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer["error"].is_null(), "{step} {told:?}: {answer}");
        answer["value"].clone()
    }

    fn text(&mut self, step: &str, told: &[&str]) -> String {
        let answer = self.step(step, told);
        answer.as_str().expect("a text").to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Without steps to come it ends; its browser with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a gateway with members of these names and URLs, and returns it with the addresses of its listeners.
fn gateway(
    members: &[(String, String)],
    pool: &str,
    end: &str,
) -> (Gateway, SocketAddr, SocketAddr) {
    let mut text = format!(
        "access_log = false\n[admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"token\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n\
         [pools.web]\nkind = \"http\"\n{pool}\n"
    );
    for (name, url) in members {
        writeln!(
            text,
            "[[pools.web.members]]\nname = \"{name}\"\nurl = \"{url}\"\nlimits = \"1000/min\""
        )
        .expect("text grows");
    }
    text += "\n";
    text += end;
    let inputs = Given::new().with_file("/token", TOKEN);
    let settings = Settings::parse(&text, Path::new("/"), &inputs);
    let settings = settings.unwrap_or_else(|error| panic!("{error}"));
    let gateway = Gateway::start(settings).unwrap_or_else(|error| panic!("{error}"));
    let address = gateway.addresses()[0].expect("a TCP listener");
    let admin = gateway.admin_address().expect("a listener of its own");
    (gateway, address, admin)
}

fn get(address: SocketAddr, path: &str) -> u16 {
    let mut caller = Caller::connect(address);
    caller.send(format!(
        "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    ));
    caller.answer().map_or(0, |answer| answer.status)
}

#[test]
fn an_operator_sees_what_happens_and_acts_by_keys_and_mouse() {
    let start = || Backend::start(BackendConfig::default()).expect("a free port");
    let mut backends = [start(), start(), start()];
    let members: Vec<_> = ["alpha", "beta", "gamma"]
        .into_iter()
        .zip(&backends)
        .map(|(name, backend)| (name.to_owned(), backend.url()))
        .collect();
    let alert = "[[alert]]\nname = \"web is gone\"\nwhen = \"pool down\"";
    let health = "breaker = { failures = 3, open = \"1min\" }\nhealth = { path = \"/health\", interval = \"250ms\" }";
    let (_gateway, address, admin) = gateway(&members, health, alert);
    let Some(mut browser) = Browser::open(admin, "dashboard") else {
        return;
    };
    assert_eq!(browser.text("state", &["beta"]), "ready");
    repeat_until("the rate is shown", || {
        assert_eq!(get(address, "/"), 200);
        !browser.text("tile", &["0"]).starts_with('0')
    });

    backends[1].kill().expect("it was up");
    let killed = Instant::now();
    browser.step("shows_bad", &["beta"]);
    let after = killed.elapsed();
    println!("a backend that died was shown after {after:?}");
    assert!(after < Duration::from_secs(2), "shown after {after:?}");
    backends[1].restart().expect("its port");

    assert_eq!(
        browser.text("disable_by_keys", &["alpha", TOKEN]),
        "disabled"
    );
    let told = browser.text("enable_by_mouse", &["alpha"]);
    assert!(told.ends_with("alpha is enabled."), "{told}");
    let row = browser.text("set", &["alpha", "Weight", "7", "Set the weight", "weight"]);
    assert_eq!(row, "7");
    let row = browser.text(
        "set",
        &["alpha", "Limits", "5/h", "Set the limits", "limit"],
    );
    assert!(row.ends_with(" of 5 requests"), "{row}");

    for backend in &mut backends {
        backend.kill().expect("it was up");
    }
    assert_eq!(get(address, "/away"), 502);
    repeat_until("the refusal is shown", || {
        browser.text("panel", &["Refused"]).contains("GET /away")
    });
    repeat_until("the alert is shown", || {
        browser
            .text("panel", &["Alerts"])
            .contains("no member of pool web serves")
    });
    for backend in &mut backends {
        backend.restart().expect("its port");
    }
    let found = browser.step("look", &[]);
    assert_eq!(found, Value::Array(Vec::new()), "{found:#}");
    let errors = browser.step("errors", &[]);
    assert_eq!(errors, Value::Array(Vec::new()), "{errors:#}");
}

#[test]
fn a_thousand_members_scroll_smoothly() {
    let backend = Backend::start(BackendConfig::default()).expect("a free port");
    let members: Vec<_> = (0..1_000)
        .map(|number| (format!("member-{number:04}"), backend.url()))
        .collect();
    let (_gateway, address, admin) = gateway(&members, "policy = \"round_robin\"", "");
    let Some(mut browser) = Browser::open(admin, "dashboard") else {
        return;
    };
    for _ in 0..500 {
        assert_eq!(get(address, "/"), 200);
    }
    let scrolled = browser.step("scroll", &[]);
    println!("{scrolled}");
    let figure = |name: &str| scrolled[name].as_f64().expect("a number");
    assert!(figure("scrolled") > 20_000.0, "{scrolled}");
    assert!(figure("tasks") > 100.0, "{scrolled}");
    // A frame in which the main thread works for 50 ms is seen to be late.
    assert!(figure("longest") < 50.0, "{scrolled}");
}

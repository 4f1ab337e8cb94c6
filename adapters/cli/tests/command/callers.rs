//! Callers with keys of their own, as an operator makes them.

use super::gateway::Gateway;
use super::*;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_testbed::{OpenAi, OpenAiConfig};
use std::io::Write;
use ureq::Agent;

/// Makes a key and the table of its caller.
fn new_key(name: &str) -> (String, String) {
    let output = leasehold()
        .args(["key", "new", "--name", name])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    let (table, told) = (text(&output.stdout), text(&output.stderr));
    let (_, key) = told.trim().rsplit_once(' ').expect("a key");
    assert!(key.starts_with("lh-") && !table.contains(key), "{table}");
    (key.to_owned(), table)
}

#[test]
fn a_table_is_written_for_a_key_that_one_has() {
    let hash = |key: &str| {
        let mut process = leasehold()
            .args(["key", "hash", "--name", "alice"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut input = process.stdin.take().expect("its input is piped");
        input.write_all(key.as_bytes()).expect("it reads");
        drop(input);
        process.wait_with_output().expect("it ends")
    };
    let (key, table) = new_key("alice");
    assert_eq!(text(&hash(&format!("{key}\n")).stdout), table);
    for wrong in ["", "short", "with a space between words"] {
        let output = hash(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(text(&output.stderr).contains("make one with: leasehold key new"));
    }
    let output = leasehold().args(["key", "new", "--name", "a b"]).output();
    assert_eq!(output.expect("it runs").status.code(), Some(2));
}

/// A caller's limits and budget hold over a kill, and its key is in no file, log or answer.
#[test]
fn what_a_caller_may_use_does_not_grow_by_a_kill() {
    let service = OpenAi::start(OpenAiConfig::default()).expect("a free port");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (limited, limited_table) = new_key("limited");
    let (poor, poor_table) = new_key("poor");
    let url = service.url();
    let settings = format!(
        "state = \"state\"\n[pools.keys]\nkind = \"openai\"\nmax_wait = \"0s\"\n\
        members = [{{ url = \"{url}\", keys = \"keys.txt\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n\
        {limited_table}limits = \"8/365d\"\n{poor_table}budget = \"1 USD/365d\"\n\
        [price.\"*\"]\ninput = \"1 USD\"\noutput = \"5000 USD\"\n"
    );
    fs::write(path("gateway.toml"), settings).unwrap();
    fs::write(path("keys.txt"), "sk-testbed-0001\n").unwrap();
    let config = path("gateway.toml");
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .into();
    let call = |gateway: &Gateway, key: &str| {
        let body = json!({
            "model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "one two"}],
        });
        let url = format!("http://{}/v1/chat/completions", gateway.address);
        let answer = agent
            .post(&url)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {key}"))
            .send(body.to_string());
        answer.expect("it answers").status().as_u16()
    };
    let (mut served, mut paid) = (0, 0);
    for _ in 0..12 {
        let mut gateway = Gateway::start(&["--config", config.to_str().unwrap()]);
        for _ in 0..4 {
            served += u32::from(call(&gateway, &limited) == 200);
            paid += u32::from(call(&gateway, &poor) == 200);
        }
        gateway.process.kill().expect("it can be killed");
        gateway.process.wait().expect("it ends");
    }
    assert_eq!(served, 8);
    // An answer is five tokens or more, of which the budget pays 200; what was in flight at a kill stays spent.
    assert!((9..=40).contains(&paid), "{paid}");
    let gateway = Gateway::start(&["--config", config.to_str().unwrap()]);
    assert_eq!(call(&gateway, &poor), 429);
    let (log, errors) = gateway.end();
    let state = fs::read_to_string(path("state")).unwrap();
    for secret in [&limited, &poor, "sk-testbed-0001"] {
        for (name, text) in [("log", &log), ("errors", &errors), ("state", &state)] {
            assert!(!text.contains(secret), "{name}: {text}");
        }
    }
    assert_eq!(service.stop().calls, u64::from(served + paid));
}

#[test]
fn keys_are_exchanged_while_calls_are_made_and_none_is_dropped() {
    let mut config = OpenAiConfig::default();
    config.keys = ["sk-testbed-0001", "sk-testbed-0002"]
        .map(str::to_owned)
        .to_vec();
    config.latency = Duration::from_millis(10)..=Duration::from_millis(40);
    let service = OpenAi::start(config).expect("a free port");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let url = service.url();
    let settings = format!(
        "[pools.keys]\nkind = \"openai\"\nmembers = [{{ url = \"{url}\", keys = \"keys.txt\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n"
    );
    fs::write(path("gateway.toml"), settings).unwrap();
    fs::write(path("keys.txt"), "sk-testbed-0001\n").unwrap();
    let mut gateway = Gateway::start(&["--config", path("gateway.toml").to_str().unwrap()]);
    let mut told = BufReader::new(gateway.process.stderr.take().unwrap());
    let url = format!("http://{}/v1/chat/completions", gateway.address);
    let body =
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "one two"}]});
    let (body, has_ended) = (body.to_string(), AtomicBool::new(false));
    let call = |agent: &Agent| {
        let sent = agent.post(&url).header("content-type", "application/json");
        let mut answer = sent.send(&body).expect("it answers");
        let text = answer.body_mut().read_to_string().expect("a whole stream");
        assert!(
            answer.status() == 200 && text.ends_with("data: [DONE]\n\n"),
            "{text}"
        );
    };
    let calls_of = |key: usize| service.report().per_key[key].calls;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let agent = Agent::new_with_defaults();
                while !has_ended.load(Ordering::Relaxed) {
                    call(&agent);
                }
            });
        }
        while calls_of(0) < 20 {
            thread::sleep(Duration::from_millis(5));
        }
        fs::write(path("keys.txt"), "sk-testbed-0002\n").unwrap();
        send_signal(&gateway.process, "HUP");
        let mut line = String::new();
        while line != "the settings were reloaded\n" {
            line.clear();
            assert_ne!(told.read_line(&mut line).unwrap(), 0);
        }
        while calls_of(1) < 20 {
            thread::sleep(Duration::from_millis(5));
        }
        has_ended.store(true, Ordering::Relaxed);
    });
    let before = calls_of(0);
    call(&Agent::new_with_defaults());
    assert_eq!(calls_of(0), before);
    send_signal(&gateway.process, "TERM");
    assert!(gateway.process.wait().unwrap().success());
    let report = service.stop();
    assert_eq!((report.ok, report.hung_up), (report.calls, 0));
}

//! The log for the operator of a running gateway: what is in it, what is not, and how it is changed.

use super::gateway::Gateway;
use super::*;
use core::time::Duration;
use leasehold_testbed::{Backend, BackendConfig, FaultRule, OpenAi, OpenAiConfig};
use ureq::Agent;

const TOKEN: &str = "token-0f9a8b7c6d5e4f3a";
const ADMIN: &str = "admin-1f9a8b7c6d5e4f3a";
const WRONG: &str = "wrong-2f9a8b7c6d5e4f3a";
const HEADER: &str = "header-3f9a8b7c6d5e4f3a";
const KEYS: [&str; 2] = ["sk-testbed-0001", "sk-unknown-99999999"];

fn agent() -> Agent {
    let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(20)));
    config.http_status_as_error(false).build().into()
}

/// Posts JSON with a credential; returns the status and the answer.
fn post(url: &str, credential: &str, body: &Value) -> (u16, String) {
    let sent = agent()
        .post(url)
        .content_type("application/json")
        .header("authorization", format!("Bearer {credential}"));
    let mut answer = sent.send(body.to_string()).expect("it answers");
    let text = answer.body_mut().read_to_string().expect("a text");
    (answer.status().as_u16(), text)
}

fn log_of(address: &str) -> Value {
    let url = format!("http://{address}/lb/log");
    let mut answer = agent().get(url).call().expect("it answers");
    let text = answer.body_mut().read_to_string().expect("a text");
    serde_json::from_str(&text).expect("JSON")
}

/// A gateway with a log at level trace, in front of a service that knows one of its two keys.
fn chatty(folder: &Path, format: &str, service: &OpenAi) -> Gateway {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
    write("token", TOKEN);
    write("admin", ADMIN);
    write("keys", &KEYS.join("\n"));
    write("headers", &format!("authorization: Bearer {HEADER}\n"));
    let url = service.url();
    let libraries =
        "hickory_net = \"trace\", hickory_proto = \"trace\", hickory_resolver = \"trace\"";
    write(
        "gateway.toml",
        &format!(
            "access_log = {{ format = \"json\" }}\n\
            log = {{ format = \"{format}\", level = \"trace\", targets = {{ {libraries} }} }}\n\
            [otlp]\nendpoint = \"http://127.0.0.1:1\"\nheaders_file = \"headers\"\ninterval = \"20ms\"\n\
            [admin]\ntoken_file = \"admin\"\n\
            [pools.keys]\nkind = \"openai\"\npolicy = \"round_robin\"\nmax_wait = \"1s\"\n\
            members = [{{ url = \"{url}\", keys = \"keys\" }}]\n\
            [pools.broken]\nkind = \"http\"\n\
            members = [{{ name = \"gone\", url = \"http://127.0.0.1:1\" }}]\n\
            [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\ntoken_file = \"token\"\n\
            [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"broken\"\n"
        ),
    );
    let path = folder.join("gateway.toml");
    Gateway::start(&["--config", path.to_str().expect("a path")])
}

#[test]
fn no_key_and_no_token_is_in_a_log_that_has_everything_else() {
    for format in ["human", "json"] {
        let mut config = OpenAiConfig::default();
        config.keys = vec![KEYS[0].to_owned()];
        config.faults = vec!["500=every:3".parse::<FaultRule>().expect("a fault")];
        let service = OpenAi::start(config).expect("a free port");
        let folder = tempfile::tempdir().expect("a folder");
        let mut gateway = chatty(folder.path(), format, &service);
        let address = gateway.address.clone();
        let url = format!("http://{address}/v1/chat/completions");
        let call = json!({"model": "m", "messages": [{"role": "user", "content": "one two"}]});
        let streamed = json!({"model": "m", "stream": true, "messages": call["messages"]});
        let statuses: Vec<u16> = [&call, &streamed, &call, &streamed]
            .map(|body| post(&url, TOKEN, body).0)
            .into();
        assert!(statuses.contains(&200), "{statuses:?}");
        assert_eq!(post(&url, WRONG, &call).0, 401);
        assert_eq!(post(&format!("{url}?key={TOKEN}"), TOKEN, &json!(7)).0, 400);
        let other = format!("http://{}/", gateway.next_address());
        assert_eq!(post(&other, TOKEN, &call).0, 502);
        let admin = format!("http://{address}/lb/log");
        assert_eq!(post(&admin, WRONG, &json!({})).0, 401);
        assert_eq!(post(&admin, ADMIN, &json!({"level": "trace"})).0, 200);
        let (_, errors) = gateway.end();
        for secret in [TOKEN, ADMIN, WRONG, HEADER].iter().chain(&KEYS) {
            assert!(!errors.contains(secret), "{format}: {secret}: {errors}");
        }
        for told in [
            "an exchange has ended",
            "refused: the gateway does not know this key",
            "the attempt has failed: cannot connect",
            "Incorrect API key provided: …9999",
            "status 500",
            "the collector http://127.0.0.1:1/v1/metrics took no figures: cannot connect: Connection refused",
        ] {
            assert!(errors.contains(told), "{format}: {told}: {errors}");
        }
        assert_eq!(errors.matches("took no figures").count(), 1, "{errors}");
        if format == "json" {
            for line in errors.lines() {
                let line: Value = serde_json::from_str(line).expect(line);
                assert!(line["level"].is_string() && line["target"].is_string());
            }
        }
    }
}

#[test]
fn the_level_is_changed_by_the_admin_interface_until_the_settings_are_read_again() {
    let backend = Backend::start(BackendConfig::default()).expect("a free port");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway.toml");
    fs::write(folder.path().join("admin"), ADMIN).expect("written");
    let url = backend.url();
    let write = |log: &str| {
        let settings = format!(
            "access_log = false\nlog = {{ {log} }}\n[admin]\ntoken_file = \"admin\"\n\
            [pools.web]\nkind = \"http\"\nmembers = [{{ url = \"{url}\" }}]\n\
            [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
        );
        fs::write(&path, settings).expect("written");
    };
    write("level = \"info\"");
    let mut gateway = Gateway::start(&["--config", path.to_str().expect("a path")]);
    let mut told = BufReader::new(gateway.process.stderr.take().expect("a pipe")).lines();
    let mut next = || told.next().expect("a line").expect("a text");
    assert!(next().starts_with("started, listening at 127.0.0.1:"));
    let address = gateway.address.clone();
    let get = || {
        agent()
            .get(format!("http://{address}/some/path?a=b"))
            .call()
    };
    let log = log_of(&address);
    assert_eq!(
        (&log["level"], &log["format"]),
        (&json!("info"), &json!("human"))
    );
    assert!(get().is_ok());
    let admin = format!("http://{address}/lb/log");
    let (status, log) = post(
        &admin,
        ADMIN,
        &json!({"targets": {"leasehold::exchange": "trace"}}),
    );
    assert!(
        status == 200 && log.contains("\"leasehold::exchange\": \"trace\""),
        "{log}"
    );
    assert!(next().starts_with("the log was changed by the admin interface: new_level=info"));
    assert!(get().is_ok());
    let line = next();
    let begin = "TRACE leasehold::exchange: an exchange has ended: method=GET path=/some/path";
    assert!(
        line.starts_with(begin) && line.contains("status=200 end=ok"),
        "{line}"
    );
    write("format = \"json\"");
    send_signal(&gateway.process, "HUP");
    let line: Value = serde_json::from_str(&next()).expect("JSON");
    assert_eq!(line["message"], "the settings were reloaded");
    assert_eq!(log_of(&address)["targets"], json!({}));
    assert!(get().is_ok());
    send_signal(&gateway.process, "TERM");
    let line: Value = serde_json::from_str(&next()).expect("JSON");
    assert_eq!(line["level"], "INFO");
    assert!(gateway.process.wait().expect("it ends").success());
}

#[test]
fn a_standard_error_that_is_not_read_holds_up_no_request() {
    let backend = Backend::start(BackendConfig::default()).expect("a free port");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway.toml");
    let url = backend.url();
    let settings = format!(
        "access_log = false\nlog.level = \"trace\"\n[pools.web]\nkind = \"http\"\nmembers = [{{ url = \"{url}\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\nlimit = \"1/d\"\n"
    );
    fs::write(&path, settings).expect("written");
    let mut gateway = Gateway::start(&["--config", path.to_str().expect("a path")]);
    let agent = agent();
    let url = format!("http://{}/", gateway.address);
    let dropped = || {
        let log = log_of(&gateway.address);
        log["lines_dropped"].as_u64().expect("a number")
    };
    // A pipe has 64 KiB; some thousand lines wait in the gateway.
    let mut requests = 0;
    while dropped() == 0 {
        assert!(requests < 50_000, "all lines are kept");
        for _ in 0..500 {
            agent.get(&url).call().expect("it answers");
            requests += 1;
        }
    }
    assert!(requests > 0, "none waits at first");
    gateway.process.kill().expect("it runs");
    gateway.process.wait().expect("it ends");
}

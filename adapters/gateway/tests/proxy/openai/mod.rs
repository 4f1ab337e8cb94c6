//! Calls through the gateway to services with keys, judged by what the services saw.

mod callers;
mod calls;
mod routes;

use crate::support::*;
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{Given, Settings};
use leasehold_gateway::Gateway;
use leasehold_testbed::{CallStatus, Fault, Limit, OpenAi, OpenAiConfig, Recording, Report};
use serde_json::{Value, json};
use std::path::Path;
use std::thread;

const TOKEN: &str = "a-token-of-some-length";

fn key(number: usize) -> String {
    format!("sk-test-{number:04}")
}

/// A service with a number of keys, each of which has these limits.
fn service(keys: usize, limits: &str) -> OpenAi {
    let mut config = OpenAiConfig::default();
    config.keys = (1..=keys).map(key).collect();
    config.recording = Recording::Full;
    config.fault_wait = Duration::from_millis(300);
    if !limits.is_empty() {
        config.limits = Limit::parse_list(limits).expect("limits");
    }
    OpenAi::start(config).expect("a free port")
}

/// A service with one key, which takes this many milliseconds for each answer.
fn slow_service(millis: u64) -> OpenAi {
    let mut config = OpenAiConfig::default();
    config.keys = vec![key(1)];
    config.recording = Recording::Full;
    config.latency = Duration::from_millis(millis)..=Duration::from_millis(millis);
    OpenAi::start(config).expect("a free port")
}

/// The settings of a gateway in front of a service, with further ones of its pool, members and listener.
fn text_of(service: &OpenAi, pool: &str, members: &str, listen: &str) -> String {
    let url = service.url();
    format!(
        "access_log = false\n[pools.keys]\nkind = \"openai\"\n{pool}\n\
        [[pools.keys.members]]\nurl = \"{url}\"\nkeys = \"keys.txt\"\n{members}\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n{listen}\n"
    )
}

/// Starts a gateway by settings that name the keys of a service, in `keys.txt`.
fn started(text: &str, service: &OpenAi) -> Running {
    let gateway = Gateway::start(settings_of(text, service));
    let gateway = gateway.unwrap_or_else(|error| panic!("{error}"));
    let address = gateway.addresses()[0].expect("a TCP listener");
    Running { gateway, address }
}

fn settings_of(text: &str, service: &OpenAi) -> Settings {
    let keys = service.report().per_key.len();
    let keys: String = (1..=keys).map(|number| key(number) + "\n").collect();
    let given = Given::new()
        .with_file("/keys.txt", &keys)
        .with_file("/token", TOKEN);
    let settings = Settings::parse(text, Path::new("/"), &given);
    settings.unwrap_or_else(|error| panic!("{error}"))
}

fn start_with(service: &OpenAi, pool: &str, members: &str, listen: &str) -> Running {
    started(&text_of(service, pool, members, listen), service)
}

fn start(service: &OpenAi, limits: &str) -> Running {
    let limits = match limits {
        "" => String::new(),
        limits => format!("limits = \"{limits}\""),
    };
    start_with(service, "", &limits, "")
}

fn chat(words: &str) -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": words}]})
}

fn streamed(words: &str, options: Value) -> Value {
    let mut body = chat(words);
    body["stream"] = true.into();
    if !options.is_null() {
        body["stream_options"] = options;
    }
    body
}

fn request(path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\
        content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn post(address: SocketAddr, body: &Value) -> Answer {
    ask(address, &request("/v1/chat/completions", "", body))
}

/// The data of each event of a stream.
fn events(answer: &Answer) -> Vec<String> {
    let data = answer
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.map(str::to_owned).collect()
}

fn error_of(answer: &Answer) -> Value {
    let body: Value = serde_json::from_str(answer.text()).expect("JSON");
    body["error"].clone()
}

fn fault(name: &str) -> Fault {
    name.parse().expect("a fault")
}

fn calls_by_key(report: &Report) -> Vec<u64> {
    report.per_key.iter().map(|key| key.calls).collect()
}

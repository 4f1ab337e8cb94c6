//! Tests of the server over real sockets, with a client that only frames HTTP/1.

mod answers;
mod control;
mod faults;
mod messages;
mod resources;
mod server;
mod streams;
mod transport;

use super::*;
use crate::client::{Client, End, PATIENCE, Reply, end_of};
use core::num::NonZeroU32;
use serde_json::{Value, json};
use std::io::Read;

const KEY: &str = "sk-testbed-key-0001";

fn config() -> OpenAiConfig {
    OpenAiConfig {
        keys: vec![KEY.into(), "sk-testbed-key-0002".into()],
        ..OpenAiConfig::default()
    }
}

fn call() -> Value {
    json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hello there" }] })
}

fn streamed() -> Value {
    let mut call = call();
    call["stream"] = json!(true);
    call["stream_options"] = json!({ "include_usage": true });
    call
}

impl Reply {
    fn code(&self) -> String {
        self.json()["error"]["code"].to_string()
    }
}

impl Client {
    fn new(server: &OpenAi) -> Self {
        Self::connect(server.addr())
    }

    fn post(&mut self, body: &Value) {
        let body = body.to_string();
        self.send(&head("POST", "/v1/chat/completions", KEY, body.len()));
        self.send(&body);
    }

    fn try_ask(&mut self, method: &str, path: &str, key: &str, body: &str) -> Option<Reply> {
        self.send(&head(method, path, key, body.len()));
        self.send(body);
        self.receive()
    }

    fn ask(&mut self, method: &str, path: &str, key: &str, body: &str) -> Reply {
        self.try_ask(method, path, key, body).unwrap()
    }

    fn chat(&mut self, body: &Value) -> Reply {
        self.ask("POST", "/v1/chat/completions", KEY, &body.to_string())
    }
}

fn head(method: &str, path: &str, key: &str, length: usize) -> String {
    let key = if key.is_empty() {
        String::new()
    } else {
        format!("authorization: Bearer {key}\r\n")
    };
    format!("{method} {path} HTTP/1.1\r\nhost: testbed\r\n{key}content-length: {length}\r\n\r\n")
}

/// Waits for a state of the server that the client can't see.
#[track_caller]
fn wait_until(server: &OpenAi, condition: impl Fn(&Control) -> bool) {
    let control = server.control();
    assert!(control.wait(PATIENCE, condition), "{:?}", control.report());
}

/// Sends a call, and if it is refused, another after the time that it is told to wait.
#[track_caller]
fn wait_as_told(client: &mut Client) {
    let mut reply = client.chat(&call());
    if reply.status == 429 {
        std::thread::sleep(Duration::from_millis(reply.number("retry-after-ms")));
        reply = client.chat(&call());
    }
    assert_eq!(reply.status, 200);
}

/// Events of a stream: name and data, parsed as the HTML standard says.
fn events(bytes: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let text = text
        .trim_start_matches('\u{feff}')
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), Vec::new());
    let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
    for line in complete.split_terminator('\n') {
        if line.is_empty() {
            if !data.is_empty() {
                events.push((core::mem::take(&mut name), data.join("\n")));
                data.clear();
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => data.push(value.to_owned()),
            _ => {}
        }
    }
    events
}

/// The JSON chunks of a stream, without its end.
fn chunks(bytes: &[u8]) -> Vec<Value> {
    let events = events(bytes).into_iter();
    events
        .filter(|(_, data)| data != "[DONE]")
        .map(|(_, data)| serde_json::from_str(&data).unwrap())
        .collect()
}

/// The joined contents of the first choice.
fn content(chunks: &[Value]) -> String {
    let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    deltas
        .filter_map(|delta| delta["content"].as_str())
        .collect()
}

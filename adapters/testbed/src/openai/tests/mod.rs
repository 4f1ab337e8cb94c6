//! Tests of the server over real sockets, with a client that only frames HTTP/1.

mod answers;
mod control;
mod faults;
mod server;
mod streams;
mod transport;

use super::*;
use core::num::NonZeroU32;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

const KEY: &str = "sk-testbed-key-0001";

/// Longest wait for a state of the server, and for bytes of it.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// How the bytes of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The message was whole.
    Whole,
    /// The server closed the connection before.
    Closed,
    /// The server reset the connection before.
    Reset,
}

/// A keep-alive connection.
struct Client(BufReader<TcpStream>);

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Chunks of a chunked body, as they were framed.
    chunks: Vec<Vec<u8>>,
    end: End,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn number(&self, name: &str) -> u64 {
        self.header(name).unwrap().parse().unwrap()
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].to_string()
    }
}

impl Client {
    fn new(server: &OpenAi) -> Self {
        let stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn post(&mut self, body: &Value) {
        let body = body.to_string();
        self.send(&head("POST", "/v1/chat/completions", KEY, body.len()));
        self.send(&body);
    }

    /// Reads the next reply; `None` if the connection was closed instead.
    fn receive(&mut self) -> Option<Reply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).unwrap() == 0 {
                assert_eq!(head, "");
                return None;
            }
        }
        let mut reply = Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: Vec::new(),
            chunks: Vec::new(),
            end: End::Whole,
        };
        if reply.header("content-length").is_some() {
            let length = reply.number("content-length") as usize;
            (reply.body, reply.end) = self.read(length);
        } else if reply.header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut reply);
        }
        Some(reply)
    }

    fn read_chunks(&mut self, reply: &mut Reply) {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) => reply.end = End::Closed,
                Ok(_) => {
                    let length = usize::from_str_radix(line.trim(), 16).unwrap();
                    let (mut chunk, end) = self.read(length + 2);
                    reply.end = end;
                    chunk.truncate(length);
                    if length == 0 {
                        return;
                    }
                    reply.body.extend(&chunk);
                    reply.chunks.push(chunk);
                }
                Err(error) => reply.end = end_of(&error),
            }
            if reply.end != End::Whole {
                return;
            }
        }
    }

    /// Reads this many bytes, or as many as there are.
    fn read(&mut self, length: usize) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let read = self.0.by_ref().take(length as u64).read_to_end(&mut bytes);
        let end = match read {
            Ok(_) if bytes.len() == length => End::Whole,
            Ok(_) => End::Closed,
            Err(error) => end_of(&error),
        };
        (bytes, end)
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

fn end_of(error: &std::io::Error) -> End {
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    End::Reset
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

//! Tests of the client against a scripted server on a real socket.

mod connections;
mod errors;
mod responses;
mod retries;
mod secrets;
mod streams;
mod tls;

use crate::{
    ApiKey, CallError, CallEvent, ChatCompletion, ChatRequest, Client, ClientConfig, Endpoint,
    RetryPolicy, clock, lock,
};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use http::{HeaderMap, StatusCode};
use leasehold_protocol::Note;
use leasehold_protocol::verdict::{Fate, Kind, Next, Pause, Tally};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

const KEY: &str = "sk-secret-12345678";
const BODY: &str = r#"{"id": "c-1", "created": 1700000000, "model": "m-2024",
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 8}}"#;

/// The server's reaction to a request.
#[derive(Clone)]
enum Reply {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SendAndClose(Vec<u8>),
    /// Sends nothing.
    Hang,
}

fn reply(status: u16, headers: &str, body: &str) -> Reply {
    reply_bytes(status, headers, body.as_bytes())
}

fn reply_bytes(status: u16, headers: &str, body: &[u8]) -> Reply {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n{headers}\r\n");
    Reply::Send([head.as_bytes(), body].concat())
}

fn success() -> Reply {
    reply(200, "x-request-id: r-1\r\n", BODY)
}

/// A server on a free port; it runs until the test process ends.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Sends the n-th reply to the n-th request, and the last reply to all later ones.
    fn start(script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (server.connections.clone(), server.requests.clone());
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (script, requests) = (script.clone(), requests.clone());
                thread::spawn(move || serve(stream.unwrap(), &script, &requests));
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(&self.url())
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        lock(&self.requests).len()
    }
}

fn serve(mut stream: TcpStream, script: &[Reply], requests: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        let number = {
            let mut requests = lock(requests);
            requests.push(request);
            requests.len() - 1
        };
        match &script[number.min(script.len() - 1)] {
            Reply::Send(bytes) => stream.write_all(bytes).unwrap_or_default(),
            Reply::SendAndClose(bytes) => {
                stream.write_all(bytes).unwrap_or_default();
                return;
            }
            Reply::Hang => thread::sleep(Duration::from_secs(60)),
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<String> {
    let mut request = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        request.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.push_str(&String::from_utf8(body).unwrap());
    Some(request)
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::new(url, ApiKey::new(KEY).unwrap()).unwrap()
}

fn client() -> Client {
    Client::new(ClientConfig::default())
}

fn impatient_client() -> Client {
    Client::new(ClientConfig {
        timeout: Duration::from_millis(100),
        ..ClientConfig::default()
    })
}

fn request() -> ChatRequest {
    ChatRequest::user("m", "hello")
}

/// Makes one call to a server with one reply for every request.
fn chat_with(reply: Reply) -> Result<ChatCompletion, CallError> {
    client().chat(&Server::start(vec![reply]).endpoint(), &request())
}

fn quick_retries() -> RetryPolicy {
    RetryPolicy {
        base: Duration::from_millis(1),
        ..RetryPolicy::default()
    }
}

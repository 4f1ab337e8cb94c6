//! Holds the client against a server on a real socket that does what a script says.

use crate::{
    ApiKey, CallError, CallErrorKind, ChatCompletion, ChatRequest, Client, ClientConfig, Endpoint,
    RetryPolicy, clock, lock,
};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

const KEY: &str = "sk-secret-12345678";
const ANSWER: &str = r#"{"id": "c-1", "created": 1700000000, "model": "m-2024",
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 8}}"#;

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    /// Answers with these bytes.
    Send(String),
    /// Answers with these bytes and closes the connection.
    SendAndClose(String),
    /// Never answers.
    Hang,
}

fn reply(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Send(format!(
        "HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    ))
}

fn answer() -> Reply {
    reply(200, "x-request-id: r-1\r\n", ANSWER)
}

/// Serves on a free port until the test process ends.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// The n-th request gets the n-th reply, all further ones the last.
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
            Reply::Send(bytes) => stream.write_all(bytes.as_bytes()).unwrap_or_default(),
            Reply::SendAndClose(bytes) => {
                stream.write_all(bytes.as_bytes()).unwrap_or_default();
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

fn question() -> ChatRequest {
    ChatRequest::user("m", "hello")
}

/// Asks a server that does this with every request.
fn ask(reply: Reply) -> Result<ChatCompletion, CallError> {
    client().chat(&Server::start(vec![reply]).endpoint(), &question())
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        base: Duration::from_millis(1),
        ..RetryPolicy::default()
    }
}

#[test]
fn a_whole_answer_is_packed() {
    let server = Server::start(vec![answer()]);
    let client = client();
    let answer = client.chat(&server.endpoint(), &question()).unwrap();
    assert_eq!((&*answer.content, &*answer.model), ("hi", "m-2024"));
    let tokens = (answer.prompt_tokens, answer.completion_tokens);
    assert_eq!((tokens, answer.total_tokens), ((3, 4), 8));
    assert_eq!(
        (&*answer.request_id, answer.created),
        ("r-1", 1_700_000_000)
    );
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    assert!(answer.latency > Duration::ZERO);
    let stats = client.stats();
    assert_eq!(stats.total_time, answer.latency);
    assert_eq!(
        (stats.calls, stats.failed, stats.clients_created),
        (1, 0, 1)
    );
}

#[test]
fn a_call_says_who_asks_for_what() {
    let server = Server::start(vec![answer()]);
    let answer = client().chat(&server.endpoint(), &question()).unwrap();
    let request = lock(&server.requests)[0].clone();
    assert_eq!(answer.trace_id.len(), 32);
    for line in [
        "POST /v1/chat/completions HTTP/1.1\r\n".to_owned(),
        format!("authorization: Bearer {KEY}\r\n"),
        format!("x-trace-id: {}\r\n", answer.trace_id),
        format!("user-agent: leasehold/{}\r\n", env!("CARGO_PKG_VERSION")),
        "content-type: application/json\r\n".to_owned(),
        r#""messages":[{"role":"user","content":"hello"}],"max_tokens":30720}"#.to_owned(),
    ] {
        assert!(request.contains(&line), "{line} in {request}");
    }
}

#[test]
fn an_answer_that_leaves_things_out_is_completed() {
    let body = r#"{"id": "c-1", "choices": [{"message": {"content": null}}]}"#;
    let answer = ask(reply(200, "", body)).unwrap();
    assert_eq!((&*answer.content, &*answer.model), ("", "m"));
    assert_eq!((&*answer.request_id, answer.total_tokens), ("c-1", 0));
}

#[test]
fn an_answer_in_chunks_is_read() {
    let (start, end) = ANSWER.split_at(40);
    let chunks = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n",
        start.len(),
        end.len()
    );
    let server = Server::start(vec![Reply::Send(chunks)]);
    let client = client();
    for _ in 0..2 {
        let answer = client.chat(&server.endpoint(), &question()).unwrap();
        assert_eq!(answer.content, "hi");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn calls_from_one_thread_share_a_connection() {
    let server = Server::start(vec![answer()]);
    let client = client();
    for _ in 0..50 {
        client.chat(&server.endpoint(), &question()).unwrap();
    }
    assert_eq!((server.connections(), server.requests()), (1, 50));
    let stats = client.stats();
    assert_eq!((stats.clients_created, stats.clients_reused), (1, 49));
}

#[test]
fn calls_from_many_threads_keep_their_connections() {
    const THREADS: usize = 40;
    let server = Server::start(vec![answer()]);
    let client = client();
    let endpoint = server.endpoint();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..10 {
                    client.chat(&endpoint, &question()).unwrap();
                }
            });
        }
    });
    let connections = server.connections();
    assert!(connections <= THREADS, "{connections}");
    assert_eq!(client.stats().clients_created, 1);
}

#[test]
fn a_refusal_leaves_its_connection_usable() {
    let refusal = reply(429, "", r#"{"error": {"message": "slow down"}}"#);
    let server = Server::start(vec![refusal.clone(), refusal, answer()]);
    let client = client();
    for _ in 0..2 {
        assert!(client.chat(&server.endpoint(), &question()).is_err());
    }
    assert!(client.chat(&server.endpoint(), &question()).is_ok());
    assert_eq!(server.connections(), 1);
}

/// Only a lookup starts a thread.
#[test]
fn a_name_is_looked_up_once_for_many_calls() {
    let server = Server::start(vec![answer()]);
    let client = client();
    let endpoint = endpoint(&format!("http://localhost:{}", server.address.port()));
    for _ in 0..200 {
        client.chat(&endpoint, &question()).unwrap();
    }
    assert_eq!(client.stats().name_lookups, 1);
    assert_eq!(server.connections(), 1);
    client.chat(&server.endpoint(), &question()).unwrap();
    assert_eq!(client.stats().name_lookups, 1);
}

#[test]
fn a_refused_connection_was_not_sent_to() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = client().chat(&endpoint(&format!("http://{unused}")), &question());
    let error = error.unwrap_err();
    assert!(
        matches!(error.failure(), CallErrorKind::NotConnected { .. }),
        "{error}"
    );
    assert!(error.is_retryable() && !error.was_sent());
}

#[test]
fn an_unknown_host_was_not_sent_to_and_is_looked_up_again() {
    let client = client();
    for lookups in 1..=2 {
        let error = client.chat(&endpoint("http://nowhere.invalid"), &question());
        let error = error.unwrap_err();
        assert!(
            matches!(error.failure(), CallErrorKind::NotConnected { .. }),
            "{error}"
        );
        assert!(error.is_retryable() && !error.was_sent());
        assert_eq!(client.stats().name_lookups, lookups);
    }
}

#[test]
fn a_host_that_cannot_be_connected_to_is_looked_up_again() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = endpoint(&format!("http://localhost:{}", unused.port()));
    let client = client();
    for lookups in 1..=2 {
        assert!(client.chat(&endpoint, &question()).is_err());
        assert_eq!(client.stats().name_lookups, lookups);
    }
}

#[test]
fn a_handshake_that_fails_was_not_sent() {
    let server = Server::start(vec![Reply::Hang]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream
                .unwrap()
                .write_all(b"HTTP/1.1 400 Bad\r\n\r\n")
                .unwrap();
        }
    });
    let error = client().chat(&endpoint(&format!("https://{plain}")), &question());
    let error = error.unwrap_err();
    assert!(
        matches!(error.failure(), CallErrorKind::NotConnected { .. }),
        "{error}"
    );

    let secure = endpoint(&server.url().replace("http:", "https:"));
    let config = ClientConfig {
        connect_timeout: Duration::from_millis(50),
        ..ClientConfig::default()
    };
    let error = Client::new(config).chat(&secure, &question()).unwrap_err();
    assert!(
        matches!(error.failure(), CallErrorKind::NotConnected { .. }),
        "{error}"
    );
    assert!(!error.was_sent());
}

#[test]
fn a_connection_that_ends_without_an_answer_is_lost() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
    for bytes in [String::new(), "HTTP/1.1 2".to_owned(), cut] {
        let error = ask(Reply::SendAndClose(bytes)).unwrap_err();
        assert!(
            matches!(error.failure(), CallErrorKind::Lost { .. }),
            "{error}"
        );
        assert!(error.is_retryable() && error.was_sent());
    }
}

#[test]
fn a_service_that_never_answers_times_out() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
    for reply in [Reply::Hang, Reply::Send(half)] {
        let server = Server::start(vec![reply]);
        let began = clock::now();
        let error = impatient_client().chat(&server.endpoint(), &question());
        let error = error.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(
            matches!(error.failure(), CallErrorKind::TimedOut { .. }),
            "{error}"
        );
        assert!(error.is_retryable() && error.was_sent());
    }
}

#[test]
fn a_refusal_keeps_what_the_service_said() {
    let body = r#"{"error": {"message": "slow\ndown", "type": "requests", "code": "limit"}}"#;
    let headers = "x-request-id: r-9\r\nretry-after: 2\r\n";
    let error = ask(reply(429, headers, body)).unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.status, &*refusal.message), (429, "slow down"));
    assert_eq!(refusal.code.as_deref(), Some("limit"));
    assert_eq!(refusal.kind.as_deref(), Some("requests"));
    assert_eq!(refusal.request_id.as_deref(), Some("r-9"));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert!(error.is_throttled() && error.is_retryable());
    let shown = error.to_string();
    for part in [
        "http://127.0.0.1",
        "…5678",
        "429",
        "limit",
        "slow down",
        "r-9",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(shown.contains(error.trace_id()));
}

#[test]
fn a_service_says_when_to_come_back() {
    let soon = httpdate::fmt_http_date(clock::wall() + Duration::from_secs(30));
    for (header, least, most) in [
        ("retry-after-ms: 250\r\nretry-after: 9".to_owned(), 250, 250),
        ("Retry-After: 9".to_owned(), 9_000, 9_000),
        (format!("Retry-After: {soon}"), 20_000, 30_000),
    ] {
        let error = ask(reply(429, &format!("{header}\r\n"), "")).unwrap_err();
        let wait = error.retry_after().unwrap().as_millis();
        assert!((least..=most).contains(&wait), "{header}: {wait}");
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(vec![answer()]);
    for status in [301, 302, 307, 308] {
        let location = format!("location: {}/v1\r\n", elsewhere.url());
        let error = ask(reply(status, &location, "moved")).unwrap_err();
        assert_eq!(error.refusal().unwrap().status, status);
        assert!(!error.is_retryable());
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn what_is_no_answer_is_unreadable() {
    for bad in [
        reply(200, "", "<html>"),
        reply(200, "", "{}"),
        reply(204, "", ""),
        reply(200, "", &ANSWER[..50]),
        Reply::SendAndClose("SSH-2.0-OpenSSH\r\n\r\n".to_owned()),
    ] {
        let error = ask(bad).unwrap_err();
        assert!(
            matches!(error.failure(), CallErrorKind::Unreadable { .. }),
            "{error}"
        );
        assert!(!error.is_retryable() && error.was_sent());
    }
}

#[test]
fn an_answer_is_accepted_up_to_its_greatest_length() {
    let server = Server::start(vec![answer()]);
    let limited = |max_answer_bytes| {
        let config = ClientConfig {
            max_answer_bytes,
            ..ClientConfig::default()
        };
        Client::new(config)
    };
    let limit = ANSWER.len() as u64;
    let client = limited(limit);
    for _ in 0..2 {
        assert!(client.chat(&server.endpoint(), &question()).is_ok());
    }
    assert_eq!(server.connections(), 1);
    let client = limited(limit - 1);
    for _ in 0..2 {
        let error = client.chat(&server.endpoint(), &question()).unwrap_err();
        assert_eq!(
            error.failure(),
            &CallErrorKind::TooLarge { limit: limit - 1 }
        );
        assert!(!error.is_retryable() && error.was_sent());
    }
    assert_eq!(server.connections(), 3);
}

#[test]
fn a_long_refusal_is_cut_and_costs_its_connection() {
    let long = "é".repeat(100_000);
    let server = Server::start(vec![reply(500, "", &long)]);
    let client = client();
    for connections in 1..=2 {
        let error = client.chat(&server.endpoint(), &question()).unwrap_err();
        assert!(error.refusal().unwrap().message.chars().count() <= 1_025);
        assert_eq!(server.connections(), connections);
    }
}

#[test]
fn a_request_that_contradicts_itself_is_not_sent() {
    let server = Server::start(vec![answer()]);
    let client = client();
    let mut request = question();
    request.extra.insert("stream".to_owned(), true.into());
    let error = client.chat(&server.endpoint(), &request).unwrap_err();
    assert!(
        matches!(error.failure(), CallErrorKind::Unsendable { .. }),
        "{error}"
    );
    assert!(!error.is_retryable() && !error.was_sent());
    assert_eq!((server.connections(), client.stats().calls), (0, 0));
}

#[test]
fn a_connection_closed_while_idle_is_replaced() {
    let Reply::Send(bytes) = answer() else {
        panic!("an answer is sent");
    };
    let server = Server::start(vec![Reply::SendAndClose(bytes)]);
    let client = client();
    for connections in 1..=3 {
        client.chat(&server.endpoint(), &question()).unwrap();
        assert_eq!(server.connections(), connections);
        // Time for the end of the connection to arrive: one that is noticed only after the request was
        // written is reported as lost.
        thread::sleep(Duration::from_millis(50));
    }
}

/// Were it repeated behind our back, the service would count a call that nobody leased.
#[test]
fn a_request_on_a_reused_connection_is_sent_once() {
    let server = Server::start(vec![answer(), Reply::SendAndClose(String::new())]);
    let client = client();
    client.chat(&server.endpoint(), &question()).unwrap();
    let error = client.chat(&server.endpoint(), &question()).unwrap_err();
    assert!(
        matches!(error.failure(), CallErrorKind::Lost { .. }),
        "{error}"
    );
    assert_eq!((server.requests(), server.connections()), (2, 1));
}

#[test]
fn an_endpoint_beyond_the_bound_closes_the_least_recently_used() {
    let server = Server::start(vec![answer()]);
    let client = Client::new(ClientConfig {
        max_clients: 2,
        ..ClientConfig::default()
    });
    for (key, connections) in [("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4)] {
        let endpoint = Endpoint::new(&server.url(), ApiKey::new(key).unwrap()).unwrap();
        client.chat(&endpoint, &question()).unwrap();
        assert_eq!(server.connections(), connections, "{key}");
    }
    let stats = client.stats();
    let counts = (
        stats.clients_created,
        stats.clients_reused,
        stats.clients_closed,
    );
    assert_eq!(counts, (4, 2, 2));
}

#[test]
fn retries_go_on_until_an_answer_comes_and_wait_as_asked() {
    let server = Server::start(vec![
        reply(429, "retry-after-ms: 120\r\n", ""),
        Reply::SendAndClose(String::new()),
        answer(),
    ]);
    let client = client();
    let began = clock::now();
    let answer = client.chat_with_retries(&server.endpoint(), &question(), &quick());
    assert_eq!(answer.unwrap().content, "hi");
    assert!(began.elapsed() >= Duration::from_millis(120));
    assert_eq!(server.requests(), 3);
    let stats = client.stats();
    assert_eq!((stats.calls, stats.failed), (3, 2));
    let requests = lock(&server.requests);
    let trace = |request: &str| request.split("x-trace-id: ").nth(1).unwrap()[..32].to_owned();
    assert_ne!(trace(&requests[0]), trace(&requests[1]));
}

#[test]
fn retries_end_after_the_third() {
    let server = Server::start(vec![reply(500, "", "")]);
    let error = client().chat_with_retries(&server.endpoint(), &question(), &quick());
    assert_eq!(error.unwrap_err().refusal().unwrap().status, 500);
    assert_eq!((server.requests(), server.connections()), (4, 1));
}

#[test]
fn what_cannot_succeed_is_not_tried_again() {
    let quota = r#"{"error": {"message": "no", "code": "insufficient_quota"}}"#;
    for (status, body) in [(400, ""), (401, ""), (429, quota)] {
        let server = Server::start(vec![reply(status, "", body)]);
        let error = client().chat_with_retries(&server.endpoint(), &question(), &quick());
        assert_eq!(error.unwrap_err().refusal().unwrap().status, status);
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_wait_beyond_the_timeout_is_not_begun() {
    let server = Server::start(vec![reply(429, "retry-after: 60\r\n", "")]);
    let client = Client::new(ClientConfig {
        timeout: Duration::from_secs(20),
        ..ClientConfig::default()
    });
    let began = clock::now();
    let error = client.chat_with_retries(&server.endpoint(), &question(), &quick());
    assert!(error.unwrap_err().is_throttled());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(server.requests(), 1);
}

#[test]
fn all_attempts_together_keep_within_the_timeout() {
    let unavailable = reply(503, "retry-after-ms: 700\r\n", "");
    let server = Server::start(vec![unavailable, Reply::Hang]);
    let client = Client::new(ClientConfig {
        timeout: Duration::from_millis(1_000),
        ..ClientConfig::default()
    });
    let began = clock::now();
    let error = client.chat_with_retries(&server.endpoint(), &question(), &quick());
    let (error, took) = (error.unwrap_err(), began.elapsed());
    assert!(
        matches!(error.failure(), CallErrorKind::TimedOut { .. }),
        "{error}"
    );
    assert!((1_000..1_600).contains(&took.as_millis()), "{took:?}");
    assert_eq!((server.requests(), server.connections()), (2, 1));
}

#[test]
fn no_error_repeats_a_key_that_the_service_echoes() {
    let body = format!(r#"{{"error": {{"message": "bad key {KEY}", "code": "{KEY}"}}}}"#);
    let header = format!("x-request-id: {KEY}\r\n");
    let text = format!("bad key {KEY}");
    for echo in [
        reply(401, &header, &body),
        reply(403, "", &text),
        reply(200, "", &body),
        reply(200, "", &format!(r#""{text}""#)),
    ] {
        let error = ask(echo).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("…5678"), "{shown}");
    }
}

#[test]
fn a_client_shows_no_key() {
    let server = Server::start(vec![answer()]);
    let client = client();
    client.chat(&server.endpoint(), &question()).unwrap();
    let shown = format!("{client:?} {:?}", server.endpoint());
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn extreme_settings_do_no_harm() {
    let server = Server::start(vec![answer()]);
    let client = Client::new(ClientConfig {
        max_clients: 0,
        timeout: Duration::MAX,
        connect_timeout: Duration::MAX,
        max_idle_per_agent: 0,
        max_idle_age: Duration::MAX,
        max_answer_bytes: u64::MAX,
        user_agent: "a\r\nx: y\u{e9}".to_owned(),
    });
    for connections in 1..=2 {
        let answer = client.chat_with_retries(&server.endpoint(), &question(), &quick());
        assert!(answer.is_ok());
        assert_eq!(server.connections(), connections);
    }
    assert!(lock(&server.requests)[0].contains("user-agent: ax: y\r\n"));
}

#[test]
fn a_client_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Client>();
}

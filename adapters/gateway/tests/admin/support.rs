//! A gateway on a free port, backends behind it, and a client written by hand.

use core::net::SocketAddr;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_config::{Given, HealthCheck, PoolSettings, Settings};
use leasehold_core::balance::Policy;
use leasehold_core::health::ProbeConfig;
use leasehold_gateway::{Gateway, OperatorLog, PassedSockets, SettingsSource};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

pub(crate) const TOKEN: &str = "a-token-of-some-length";
pub(crate) const BEARER: (&str, &str) = ("authorization", "Bearer a-token-of-some-length");

/// Starts a backend that answers every request with its address; `/fail` with 500.
pub(crate) fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, address));
        }
    });
    address
}

fn serve(mut stream: TcpStream, address: SocketAddr) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line);
        }
        let status = match lines.first()?.contains(" /fail ") {
            true => "500 Internal Server Error",
            false => "200 OK",
        };
        let body = address.to_string();
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .ok()?;
    }
}

/// Reads settings with a token and one listener, whose requests go to the pool of this name.
fn parsed(name: &str, pool: &str) -> Settings {
    let text = format!(
        "access_log = false\ndrain = \"5s\"\n[admin]\ntoken_file = \"token\"\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\ntrusted_proxies = \"all\"\npool = \"{name}\"\n\
        [pools.{name}]\nkind = \"http\"\n{pool}"
    );
    let inputs = Given::new().with_file("/token", TOKEN);
    Settings::parse(&text, Path::new("/"), &inputs).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns a pool with a breaker that opens after 3 failures.
pub(crate) fn pool(name: &str, policy: Policy, backends: &[SocketAddr]) -> PoolSettings {
    let mut text = format!(
        "policy = \"{policy}\"\nmax_wait = \"5s\"\nmax_waiters = 100\nbreaker = {{ failures = 3, open = \"1min\" }}\n"
    );
    // A file can't have a pool without members; a test can.
    let placeholder = SocketAddr::from(([127, 0, 0, 1], 1));
    for backend in backends.iter().chain([&placeholder]) {
        text += &format!("[[pools.{name}.members]]\nurl = \"http://{backend}\"\n");
    }
    let mut pool = parsed(name, &text).pools.remove(0);
    pool.members.truncate(backends.len());
    pool
}

/// Returns health checks every few milliseconds, none of which a slow machine fails.
pub(crate) fn health() -> HealthCheck {
    let often = Duration::from_millis(20);
    let probes = ProbeConfig::builder(often, often).fall(NonZeroU32::MAX);
    HealthCheck {
        probes: probes.build().expect("sound settings"),
        path: "/health".parse().expect("a path"),
        status: 200..=299,
        body: None,
    }
}

/// Returns settings with a token and one listener, whose requests go to the first pool.
pub(crate) fn settings(pools: Vec<PoolSettings>) -> Settings {
    let any = "members = [{ url = \"http://127.0.0.1:1\" }]";
    Settings {
        pools,
        ..parsed("any", any)
    }
}

/// A gateway that drains at the end of its test.
pub(crate) struct Running {
    gateway: Option<Gateway>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Running {
    pub(crate) fn start(settings: Settings) -> Self {
        Self::of(Gateway::start(settings).expect("sound settings"))
    }

    /// Starts a gateway whose settings are read again from there.
    pub(crate) fn start_from(source: SettingsSource, settings: Settings) -> Self {
        Self::of(Gateway::start_from(source, settings).expect("sound settings"))
    }

    /// Starts a gateway whose settings are read again from there, and whose log is its own.
    pub(crate) fn start_logged(source: SettingsSource, settings: Settings) -> Self {
        let (log, _, _) = OperatorLog::new(&settings.log, std::io::sink());
        let gateway =
            Gateway::start_on(PassedSockets::default(), Some(source), Some(log), settings);
        Self::of(gateway.expect("sound settings"))
    }

    fn of(gateway: Gateway) -> Self {
        let address = gateway.addresses()[0].expect("a TCP listener");
        Self {
            admin: gateway.admin_address().unwrap_or(address),
            address,
            gateway: Some(gateway),
        }
    }

    /// Starts a gateway in front of backends that take turns.
    pub(crate) fn in_front_of(backends: &[SocketAddr]) -> Self {
        Self::start(settings(vec![pool("web", Policy::RoundRobin, backends)]))
    }

    pub(crate) fn reload(&self, settings: Settings) {
        let gateway = self.gateway.as_ref().expect("not drained yet");
        gateway.reload(settings).expect("sound settings");
    }

    pub(crate) fn drain(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.drain();
        }
    }

    /// Sends a request through the gateway.
    pub(crate) fn get(&self, path: &str) -> Answer {
        call(self.address, "GET", path, &[], None)
    }

    /// Reads something from the admin interface.
    pub(crate) fn read(&self, path: &str) -> Value {
        let answer = call(self.admin, "GET", path, &[], None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// Changes something, with the token.
    pub(crate) fn change(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let headers = [BEARER, ("content-type", "application/json")];
        call(self.admin, method, path, &headers, body)
    }

    /// Changes something, which has to be accepted; returns the backend.
    pub(crate) fn changed(&self, method: &str, path: &str, body: Option<&str>) -> Value {
        let answer = self.change(method, path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// The ids of the backends that answer the next requests.
    pub(crate) fn servers(&self, requests: usize) -> Vec<String> {
        (0..requests).map(|_| self.get("/").body).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain();
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The code of a refusal.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        assert!(body["error"]["message"].is_string(), "{body}");
        body["error"]["code"].as_str().expect("a code").to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value)
    }
}

/// Opens a connection and sends a request on it. A header `host` takes the place of the address.
pub(crate) fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> TcpStream {
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        request += &format!("host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        request += &format!("content-length: {}\r\n", body.len());
    }
    request += "\r\n";
    request += body.unwrap_or_default();
    let mut stream = TcpStream::connect(address).expect("the gateway listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// Sends a request and reads its answer.
pub(crate) fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Answer {
    let mut text = String::new();
    let mut stream = open(address, method, path, headers, body);
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no answer to {method} {path}: {text:?}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

//! Gateways for tests, and a client that says exactly what it sends.

use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{Given, Settings};
use leasehold_gateway::Gateway;
use leasehold_testbed::{Backend, BackendConfig};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use tokio::time::Instant;

/// A timeout that no passing test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Repeats a step until it has led to something.
pub(crate) fn repeat_until(what: &str, mut step: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !step() {
        assert!(begun.elapsed() < LONG, "{what}: not within {LONG:?}");
    }
}

/// Repeats a step for a time, and once at least.
pub(crate) fn repeat_for(time: Duration, mut step: impl FnMut()) {
    let begun = Instant::now();
    step();
    while begun.elapsed() < time {
        step();
    }
}

/// Starts backends.
pub(crate) fn backends<const N: usize>() -> [Backend; N] {
    core::array::from_fn(|_| {
        let mut config = BackendConfig::default();
        config.recorded_requests = 10;
        Backend::start(config).expect("a free port")
    })
}

/// A configuration with one pool, whose members are `backends` with these weights.
pub(crate) fn config(pool: &str, listen: &str, backends: &[(SocketAddr, u16)]) -> String {
    let mut text = format!("access_log = false\n[pools.web]\nkind = \"http\"\n{pool}\n");
    for (address, weight) in backends {
        text += &format!("[[pools.web.members]]\nurl = \"http://{address}\"\nweight = {weight}\n");
    }
    text + &format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n{listen}\n"
    )
}

pub(crate) fn settings(text: &str) -> Settings {
    Settings::parse(text, Path::new("/"), &Given::new()).unwrap_or_else(|error| panic!("{error}"))
}

/// A running gateway and its first address.
pub(crate) struct Running {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
}

pub(crate) fn start(text: &str) -> Running {
    let gateway = Gateway::start(settings(text)).unwrap_or_else(|error| panic!("{error}"));
    let address = gateway.addresses()[0].expect("a TCP listener");
    Running { gateway, address }
}

/// Starts a gateway in front of backends of equal weight.
pub(crate) fn start_before(pool: &str, listen: &str, backends: &[Backend]) -> Running {
    let members: Vec<_> = backends
        .iter()
        .map(|backend| (backend.address(), 1))
        .collect();
    start(&config(pool, listen, &members))
}

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let mut found = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("a text")
    }

    /// The backend that gave it.
    pub(crate) fn backend(&self) -> String {
        if let Some(id) = self.header("x-backend") {
            return id.to_owned();
        }
        let (_, rest) = self
            .text()
            .split_once("\"id\":")
            .expect("a backend's answer");
        rest.split('"').nth(1).expect("an id").to_owned()
    }
}

/// A caller's connection.
pub(crate) struct Caller(TcpStream);

impl Caller {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A gateway that has refused the request may have closed already.
        let _ = self.0.write_all(bytes.as_ref());
    }

    /// Reads one byte; `None` at the end.
    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.0.read_exact(&mut byte) {
            Ok(()) => Some(byte[0]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads up to and with a text; what has come if the connection ends before.
    pub(crate) fn read_until(&mut self, end: &str) -> Vec<u8> {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            match self.byte() {
                Some(byte) => read.push(byte),
                None => break,
            }
        }
        read
    }

    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("this many bytes");
        bytes
    }

    /// Reads an answer; `None` if the connection ends before it.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET")
    }

    pub(crate) fn answer_to(&mut self, method: &str) -> Option<Answer> {
        let head = self.read_until("\r\n\r\n");
        if head.is_empty() {
            return None;
        }
        let head = String::from_utf8(head).expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        let length = answer
            .header("content-length")
            .map(|length| length.parse().expect("a length"));
        answer.body = match length {
            _ if method == "HEAD" || status == 304 || status == 204 || status < 200 => Vec::new(),
            Some(length) => self.exactly(length),
            None if answer.header("transfer-encoding").is_some() => self.chunks(),
            None => self.rest(),
        };
        Some(answer)
    }

    /// Reads a chunk; empty at the end, with its trailers.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let line = self.read_until("\r\n");
        let line = str::from_utf8(&line).expect("a size");
        let size = line.split(';').next().unwrap_or_default().trim();
        let size =
            usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{line:?} is no size"));
        if size == 0 {
            loop {
                let trailer = self.read_until("\r\n");
                if matches!(trailer.as_slice(), b"" | b"\r\n") {
                    return trailer;
                }
            }
        }
        let chunk = self.exactly(size);
        self.exactly(2);
        chunk
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk();
            if chunk == b"\r\n" {
                return body;
            }
            body.extend(chunk);
        }
    }

    /// Reads to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        while let Some(byte) = self.byte() {
            rest.push(byte);
        }
        rest
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.0
    }
}

/// Sends one request on a connection of its own.
pub(crate) fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut caller = Caller::connect(address);
    caller.send(request);
    caller.answer().expect("an answer")
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"),
    )
}

/// A request from a client behind a trusted proxy.
pub(crate) fn get_for(address: SocketAddr, client: &str) -> Answer {
    ask(
        address,
        &format!(
            "GET / HTTP/1.1\r\nhost: test\r\nx-forwarded-for: {client}\r\nconnection: close\r\n\r\n"
        ),
    )
}

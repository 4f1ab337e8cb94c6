//! Tests of the backend over real sockets, with a client that only frames HTTP/1.

mod faults;
mod life;
mod paths;
mod record;
mod websocket;

use super::*;
use crate::client::{Client, End, PATIENCE, Reply};

fn start() -> Backend {
    Backend::start(BackendConfig::default()).unwrap()
}

impl Client {
    fn to(backend: &Backend) -> Self {
        Self::connect(backend.address())
    }

    /// Sends a head with these further lines, and a body.
    fn request(&mut self, method: &str, path: &str, lines: &str, body: &str) {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\n{lines}{length}\r\n{body}"
        ));
    }

    fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, "", "");
        self.receive().unwrap()
    }

    fn upload(&mut self, path: &str, body: &str) -> Reply {
        self.request("POST", path, "", body);
        self.receive().unwrap()
    }
}

/// Waits for a state of the backend that the client can't see.
#[track_caller]
fn wait_until(backend: &Backend, condition: impl Fn(&BackendReport) -> bool) {
    assert!(backend.wait(PATIENCE, condition), "{:?}", backend.report());
}

/// The sum of all ends, which is the number of requests.
fn sum(report: &BackendReport) -> u64 {
    report.answered
        + report.refused_429
        + report.refused_503
        + report.faults
        + report.hung_up
        + report.killed
        + report.in_flight
}

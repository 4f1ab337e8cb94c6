//! The settings of a backend.

use super::fault::BackendFaultRule;
use crate::limit::Limit;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

/// Settings of a [`Backend`](super::Backend).
///
/// By default it answers at once, has no limit, records nothing, and listens on a free port of 127.0.0.1.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackendConfig {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Name in `server_info.id` of its answers: `backend-PORT` by default.
    pub id: Option<String>,
    /// Whether `/health` answers 200; 503 otherwise.
    pub is_healthy: bool,
    /// Pause before each answer, except that of `/health`.
    pub delay: Duration,
    /// Maximum numbers of requests in windows; more are refused with 429. Limits on tokens or models are an error.
    pub limits: Vec<Limit>,
    /// Maximum number of requests in flight; more are refused with 503. Websockets count until they are open.
    pub max_concurrent: Option<u32>,
    /// Maximum number of open websockets: 10,000 by default; more are refused with 503.
    pub max_websockets: u64,
    /// Maximum length of a websocket message, in bytes: 16 MiB by default.
    pub max_message: usize,
    /// Most headers of a request; more get 431. By default 100; a number of one's own makes each request slower.
    pub max_headers: Option<usize>,
    /// Faults of some of the requests; none by default.
    pub faults: Vec<BackendFaultRule>,
    /// Pause that slow answers take: 1 s by default.
    pub fault_wait: Duration,
    /// Silence of a stall: 10 min by default.
    pub stall: Duration,
    /// Pause before each byte of a trickle: 2 ms by default. The timer's step is 1 ms.
    pub trickle: Duration,
    /// Seed of the drawn faults.
    pub seed: u64,
    /// Number of requests that are kept, the last ones; 0 by default. All kept are at most 64 MiB.
    pub recorded_requests: usize,
    /// Bytes kept of each body: 64 KiB by default.
    pub recorded_body: usize,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            id: None,
            is_healthy: true,
            delay: Duration::ZERO,
            limits: Vec::new(),
            max_concurrent: None,
            max_websockets: 10_000,
            max_message: 16 << 20,
            max_headers: None,
            faults: Vec::new(),
            fault_wait: Duration::from_secs(1),
            stall: Duration::from_secs(600),
            trickle: Duration::from_millis(2),
            seed: 0,
            recorded_requests: 0,
            recorded_body: 64 << 10,
        }
    }
}

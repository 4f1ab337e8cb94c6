//! Chat completion calls over pooled connections.
//!
//! Invariant: a connection returns to its pool only after its response was read to the end; any other is closed.
//! No lock is held during a call.

use crate::agents::Agents;
use crate::chat::{ChatCompletion, ChatRequest, ErrorBody};
use crate::connect::MarkingConnector;
use crate::endpoint::Endpoint;
use crate::error::{CallError, CallErrorKind, ErrorResponse};
use crate::resolver::CachedResolver;
use crate::retry::{RetryPolicy, retry_after};
use crate::{clock, lock};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io::Read;
use std::sync::Mutex;
use ureq::config::Config;
use ureq::http::header::{ACCEPT, AUTHORIZATION};
use ureq::http::{HeaderMap, HeaderValue};
use ureq::{Agent, Body, Proxy, ProxyProtocol};
use uuid::Uuid;

/// Cap on timeouts, so that they can be added to any clock reading.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Bytes read of an error response. A longer one costs its connection.
const MAX_ERROR_BYTES: u64 = 64 * 1024;
/// Size of each of a connection's two buffers, and limit of a response's headers, in bytes.
///
/// With ureq's default of 128 KiB, 50 agents with 64 idle connections each would hold 800 MiB.
const BUFFER_BYTES: usize = 32 * 1024;

/// Settings of a [`Client`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Maximum number of endpoints with open connections: 50 by default. Zero is taken as one.
    pub max_agents: usize,
    /// Timeout of a call, from the name lookup to the response's last byte: 600 s by default, at most 365 days.
    pub timeout: Duration,
    /// Timeout of the name lookup, and again of connecting with the TLS handshake: 10 s by default.
    pub connect_timeout: Duration,
    /// Maximum number of idle connections to one endpoint: 64 by default.
    pub max_idle_per_agent: usize,
    /// Time that a connection stays idle before it is closed: 60 s by default.
    ///
    /// Keep it below the service's own idle timeout, so that the client closes first.
    pub max_idle_age: Duration,
    /// Maximum length of a response: 64 MiB by default.
    pub max_response_bytes: u64,
    /// Value of the `user-agent` header: `leasehold/<version>` by default.
    ///
    /// Characters other than printable ASCII are left out; an empty value omits the header.
    pub user_agent: String,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            max_agents: 50,
            timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            max_idle_per_agent: 64,
            max_idle_age: Duration::from_secs(60),
            max_response_bytes: 64 * 1024 * 1024,
            user_agent: concat!("leasehold/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A client with pooled connections, shared by all threads. Dropping it closes them.
///
/// It starts a thread only for a name lookup: at most one per host and minute, or one per caller if several miss
/// the cache at once.
///
/// Redirects are not followed, so that no other host receives the key. HTTPS is checked against Mozilla's
/// certificate authorities, not those of the machine. The proxy is the first one set of `ALL_PROXY`,
/// `HTTPS_PROXY` and `HTTP_PROXY`, for both schemes. Hosts in `NO_PROXY` and loopback hosts are called directly;
/// a SOCKS proxy is ignored.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    proxy: Option<Proxy>,
    resolver: CachedResolver,
    agents: Mutex<Agents>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

impl Client {
    /// Creates a client without connections. Reads the proxy from the environment, once.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        let is_http =
            |proxy: &Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
        Self {
            proxy: Proxy::try_from_env().filter(is_http),
            resolver: CachedResolver::default(),
            agents: Mutex::new(Agents::new(config.max_agents)),
            counters: Counters::default(),
            config,
        }
    }

    /// Makes one attempt, for callers that lease a key for each. Blocks for at most the configured timeout.
    ///
    /// # Errors
    /// [`CallError`], if no completion arrived; its methods say what to do.
    pub fn chat(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
    ) -> Result<ChatCompletion, CallError> {
        self.attempt(endpoint, request, None)
    }

    /// Makes up to `1 + policy.max_retries` attempts while the error [`is_retryable`](CallError::is_retryable).
    ///
    /// Each delay is drawn from the policy, plus the wait that the service asks for. All attempts and delays
    /// together block for at most the configured timeout: a delay that would exceed it is not begun.
    ///
    /// The service counts each attempt as a call. Callers with a limit should lease each attempt and use
    /// [`Client::chat`].
    ///
    /// # Errors
    /// The error of the last attempt.
    pub fn chat_with_retries(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
        policy: &RetryPolicy,
    ) -> Result<ChatCompletion, CallError> {
        let deadline = clock::now() + self.timeout();
        let mut backoff = policy.backoff(Uuid::new_v4().as_u64_pair().0);
        let mut result = self.attempt(endpoint, request, None);
        for _ in 0..policy.max_retries {
            let error = match result {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            let asked = error.retry_after().unwrap_or_default();
            let delay = asked.saturating_add(backoff.next_delay());
            let left = deadline.saturating_duration_since(clock::now());
            if delay >= left {
                return Err(error);
            }
            clock::sleep(delay);
            result = self.attempt(endpoint, request, Some(left - delay));
        }
        result
    }

    /// Returns counts so far. Each is exact, but they are not read at one instant.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let agents = lock(&self.agents).counts();
        ClientStats {
            agents_created: agents.created,
            agents_reused: agents.reused,
            agents_closed: agents.closed,
            name_lookups: self.resolver.lookups(),
            calls: self.counters.calls.load(Ordering::Relaxed),
            failed: self.counters.failed.load(Ordering::Relaxed),
            total_time: Duration::from_nanos(self.counters.nanos.load(Ordering::Relaxed)),
        }
    }

    fn attempt(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
        timeout: Option<Duration>,
    ) -> Result<ChatCompletion, CallError> {
        let trace_id = Uuid::new_v4().simple().to_string();
        let body = match request.to_json() {
            Ok(body) => body,
            Err(reason) => {
                let kind = CallErrorKind::InvalidRequest { reason };
                return Err(CallError::new(endpoint, trace_id, kind));
            }
        };
        let began = clock::now();
        let result = self.send(endpoint, &body, &trace_id, timeout);
        let latency = clock::now().saturating_duration_since(began);
        self.counters.count(latency, result.is_ok());
        match result {
            Ok(mut completion) => {
                if completion.model.is_empty() {
                    completion.model.clone_from(&request.model);
                }
                completion.trace_id = trace_id;
                completion.latency = latency;
                Ok(completion)
            }
            Err(kind) => Err(CallError::new(endpoint, trace_id, kind)),
        }
    }

    fn send(
        &self,
        endpoint: &Endpoint,
        body: &[u8],
        trace_id: &str,
        timeout: Option<Duration>,
    ) -> Result<ChatCompletion, CallErrorKind> {
        let bearer = format!("Bearer {}", endpoint.key().expose());
        let mut bearer =
            HeaderValue::try_from(bearer).map_err(|error| CallErrorKind::InvalidRequest {
                reason: error.to_string(),
            })?;
        bearer.set_sensitive(true);
        let request = self
            .agent(endpoint)
            .post(endpoint.chat_url())
            .header(AUTHORIZATION, bearer)
            .header(ACCEPT, "application/json")
            .header("x-trace-id", trace_id)
            .content_type("application/json");
        // Only if needed: a request with a config of its own may have to set TLS up from scratch for a new
        // connection.
        let request = match timeout {
            Some(timeout) => request.config().timeout_global(Some(timeout)).build(),
            None => request,
        };
        let response = request
            .send(body)
            .map_err(|error| CallErrorKind::from_ureq(&error))?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            let status = head.status.as_u16();
            let response = self.error_response(status, &head.headers, &mut body);
            return Err(CallErrorKind::Status(response));
        }
        let limit = self.config.max_response_bytes;
        let bytes = read_up_to(&mut body, limit.saturating_add(1))
            .map_err(|error| CallErrorKind::from_ureq(&error))?;
        if bytes.len() as u64 > limit {
            return Err(CallErrorKind::ResponseTooLarge { limit });
        }
        let mut completion = ChatCompletion::from_json(&bytes)
            .map_err(|reason| CallErrorKind::InvalidResponse { reason })?;
        if let Some(id) = request_id(&head.headers) {
            completion.request_id = id;
        }
        Ok(completion)
    }

    fn error_response(&self, status: u16, headers: &HeaderMap, body: &mut Body) -> ErrorResponse {
        let limit = MAX_ERROR_BYTES.min(self.config.max_response_bytes);
        // A body that can't be read is left out: the status is the more useful part.
        let bytes = read_up_to(body, limit.saturating_add(1)).unwrap_or_default();
        let body = ErrorBody::from_body(&bytes);
        ErrorResponse {
            status,
            code: body.code,
            error_type: body.error_type,
            message: body.message,
            retry_after: retry_after(headers, clock::wall()),
            request_id: request_id(headers),
        }
    }

    fn agent(&self, endpoint: &Endpoint) -> Agent {
        let create = || {
            let connector = MarkingConnector::new(self.resolver.clone());
            Agent::with_parts(
                self.agent_config(endpoint),
                connector,
                self.resolver.clone(),
            )
        };
        let (agent, evicted) = lock(&self.agents).agent_for(endpoint, create);
        drop(evicted);
        agent
    }

    fn agent_config(&self, endpoint: &Endpoint) -> Config {
        let config = &self.config;
        let proxy = if endpoint.is_loopback() {
            None
        } else {
            self.proxy.clone()
        };
        let printable = |character: &char| matches!(character, ' '..='~');
        let user_agent: String = config.user_agent.chars().filter(printable).collect();
        let connect_timeout = config.connect_timeout.min(MAX_TIMEOUT);
        Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .user_agent(user_agent)
            .timeout_global(Some(self.timeout()))
            .timeout_resolve(Some(connect_timeout))
            .timeout_connect(Some(connect_timeout))
            .max_idle_connections(config.max_idle_per_agent)
            .max_idle_connections_per_host(config.max_idle_per_agent)
            .max_idle_age(config.max_idle_age)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_response_header_size(BUFFER_BYTES)
            .build()
    }

    fn timeout(&self) -> Duration {
        self.config.timeout.min(MAX_TIMEOUT)
    }
}

impl Counters {
    fn count(&self, time: Duration, succeeded: bool) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.failed
            .fetch_add(u64::from(!succeeded), Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// Counts of a [`Client`] since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Agents opened; each is the connection pool of one endpoint.
    pub agents_created: u64,
    /// Calls that used an agent already open.
    pub agents_reused: u64,
    /// Agents evicted to make room for another.
    pub agents_closed: u64,
    /// Lookups of names that were not cached.
    pub name_lookups: u64,
    /// Attempts, failed ones included.
    pub calls: u64,
    /// Failed attempts.
    pub failed: u64,
    /// Total duration of all attempts.
    pub total_time: Duration,
}

impl ClientStats {
    /// Mean duration of an attempt; zero before the first.
    #[must_use]
    pub fn mean_time(&self) -> Duration {
        let nanos = self
            .total_time
            .as_nanos()
            .checked_div(u128::from(self.calls));
        Duration::from_nanos(
            nanos
                .and_then(|nanos| u64::try_from(nanos).ok())
                .unwrap_or(0),
        )
    }
}

/// Reads at most `limit` bytes of a body.
///
/// A shorter body is read to its end, which returns the connection to its pool.
fn read_up_to(body: &mut Body, limit: u64) -> Result<Vec<u8>, ureq::Error> {
    let mut bytes = Vec::new();
    body.as_reader().take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("x-request-id")?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ApiKey;

    #[test]
    fn a_loopback_host_is_called_without_the_proxy() {
        let mut client = Client::new(ClientConfig::default());
        client.proxy = Some(Proxy::new("http://proxy:3128").unwrap());
        for (url, through_proxy) in [("http://localhost:1", false), ("https://h", true)] {
            let endpoint = Endpoint::new(url, ApiKey::new("k").unwrap()).unwrap();
            let config = client.agent_config(&endpoint);
            assert_eq!(config.proxy().is_some(), through_proxy, "{url}");
        }
    }

    #[test]
    fn the_mean_of_no_calls_is_zero() {
        let mut stats = ClientStats::default();
        assert_eq!(stats.mean_time(), Duration::ZERO);
        stats.calls = 4;
        stats.total_time = Duration::from_secs(10);
        assert_eq!(stats.mean_time(), Duration::from_millis(2_500));
    }
}

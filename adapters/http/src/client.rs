//! Calls, over pooled connections.
//!
//! Invariant: a connection goes back to its pool only once its answer was read to the end; any other is
//! closed. No lock is held during a call.

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

/// The longest timeout there is; a longer one could not be added to a clock.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// What is read of a refusal. A longer one costs its connection.
const MAX_REFUSAL_BYTES: u64 = 64 * 1024;
/// The size of each connection's two buffers, and the most header that is accepted. ureq's own 128 KiB
/// would hold 800 MiB over 50 agents of 64 idle connections.
const BUFFER_BYTES: usize = 32 * 1024;

/// How a [`Client`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The most endpoints that connections are kept to: 50 by default. Zero is taken as one.
    pub max_clients: usize,
    /// The longest a call takes, from the name lookup to the answer's last byte: 600 s by default, a
    /// year at most.
    pub timeout: Duration,
    /// The longest a name lookup takes, and again the connecting with its TLS handshake: 10 s by default.
    pub connect_timeout: Duration,
    /// The most connections that are kept idle to one endpoint: 64 by default.
    pub max_idle_per_agent: usize,
    /// How long a connection is kept idle: 60 s by default. Best shorter than what the service keeps it.
    pub max_idle_age: Duration,
    /// The longest answer that is accepted: 64 MiB by default.
    pub max_answer_bytes: u64,
    /// What the client calls itself: `leasehold/<version>` by default. Characters other than printable
    /// ASCII are left out; if nothing remains, the header is.
    pub user_agent: String,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            max_clients: 50,
            timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            max_idle_per_agent: 64,
            max_idle_age: Duration::from_secs(60),
            max_answer_bytes: 64 * 1024 * 1024,
            user_agent: concat!("leasehold/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Calls services over connections that it keeps. To be shared by all threads; dropping it closes them.
///
/// It starts no thread but for a name lookup, at most one a minute and host and more only where several
/// callers miss the name at once.
///
/// Redirects are not followed, so that a key is never sent to where it wasn't meant to go. HTTPS is
/// checked against Mozilla's certificate authorities, not the machine's own. A proxy is taken from
/// `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY` (the first that is set, whatever the scheme called) unless
/// `NO_PROXY` names the host; services on this machine are always called directly, and a SOCKS proxy is
/// passed over.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    proxy: Option<Proxy>,
    resolver: CachedResolver,
    agents: Mutex<Agents>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    calls: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

impl Client {
    /// A client without connections yet. Reads the proxy from the environment, once.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        let http =
            |proxy: &Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
        Self {
            proxy: Proxy::try_from_env().filter(http),
            resolver: CachedResolver::default(),
            agents: Mutex::new(Agents::new(config.max_clients)),
            tally: Tally::default(),
            config,
        }
    }

    /// Asks once, for callers that lease a permit for each attempt. Blocks for the configured timeout at
    /// most.
    ///
    /// # Errors
    /// Where no answer came; [`CallError`] says what follows.
    pub fn chat(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
    ) -> Result<ChatCompletion, CallError> {
        self.attempt(endpoint, request, None)
    }

    /// Asks up to `policy.max_retries` more times while [`CallError::is_retryable`], after a delay drawn
    /// from the policy and whatever the service asked for on top. Blocks for the configured timeout at
    /// most, all attempts and delays included: where a delay would go beyond, the error is returned at
    /// once.
    ///
    /// Each attempt is a call that the service counts. Callers under a limit should lease each and use
    /// [`Client::chat`].
    ///
    /// # Errors
    /// The last attempt's.
    pub fn chat_with_retries(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
        policy: &RetryPolicy,
    ) -> Result<ChatCompletion, CallError> {
        let deadline = clock::now() + self.timeout();
        let mut backoff = policy.backoff(Uuid::new_v4().as_u64_pair().0);
        let mut answer = self.attempt(endpoint, request, None);
        for _ in 0..policy.max_retries {
            let error = match answer {
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
            answer = self.attempt(endpoint, request, Some(left - delay));
        }
        answer
    }

    /// What the client has done so far. The figures are each right, but not all of one instant.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let agents = lock(&self.agents).counts();
        ClientStats {
            clients_created: agents.created,
            clients_reused: agents.reused,
            clients_closed: agents.closed,
            name_lookups: self.resolver.lookups(),
            calls: self.tally.calls.load(Ordering::Relaxed),
            failed: self.tally.failed.load(Ordering::Relaxed),
            total_time: Duration::from_nanos(self.tally.nanos.load(Ordering::Relaxed)),
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
                let failure = CallErrorKind::Unsendable { reason };
                return Err(CallError::new(endpoint, trace_id, failure));
            }
        };
        let began = clock::now();
        let answer = self.exchange(endpoint, &body, &trace_id, timeout);
        let latency = clock::now().saturating_duration_since(began);
        self.tally.count(latency, answer.is_ok());
        match answer {
            Ok(answer) if answer.model.is_empty() => Ok(ChatCompletion {
                model: request.model.clone(),
                trace_id,
                latency,
                ..answer
            }),
            Ok(answer) => Ok(ChatCompletion {
                trace_id,
                latency,
                ..answer
            }),
            Err(failure) => Err(CallError::new(endpoint, trace_id, failure)),
        }
    }

    fn exchange(
        &self,
        endpoint: &Endpoint,
        body: &[u8],
        trace_id: &str,
        timeout: Option<Duration>,
    ) -> Result<ChatCompletion, CallErrorKind> {
        let bearer = format!("Bearer {}", endpoint.key().expose());
        let mut bearer =
            HeaderValue::try_from(bearer).map_err(|error| CallErrorKind::Unsendable {
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
        // Only where it must be: with a configuration of its own, a request that needs a new connection
        // may have to set TLS up from scratch.
        let request = match timeout {
            Some(timeout) => request.config().timeout_global(Some(timeout)).build(),
            None => request,
        };
        let response = request
            .send(body)
            .map_err(|error| CallErrorKind::from_ureq(&error))?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            let refusal = self.refusal(head.status.as_u16(), &head.headers, &mut body);
            return Err(CallErrorKind::Refused(refusal));
        }
        let limit = self.config.max_answer_bytes;
        let bytes = read_up_to(&mut body, limit.saturating_add(1))
            .map_err(|error| CallErrorKind::from_ureq(&error))?;
        if bytes.len() as u64 > limit {
            return Err(CallErrorKind::TooLarge { limit });
        }
        let mut answer = ChatCompletion::from_json(&bytes)
            .map_err(|reason| CallErrorKind::Unreadable { reason })?;
        if let Some(id) = request_id(&head.headers) {
            answer.request_id = id;
        }
        Ok(answer)
    }

    fn refusal(&self, status: u16, headers: &HeaderMap, body: &mut Body) -> ErrorResponse {
        let limit = MAX_REFUSAL_BYTES.min(self.config.max_answer_bytes);
        // The status says more than the loss of its explanation.
        let bytes = read_up_to(body, limit.saturating_add(1)).unwrap_or_default();
        let said = ErrorBody::from_body(&bytes);
        ErrorResponse {
            status,
            code: said.code,
            kind: said.kind,
            message: said.message,
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
        let (agent, closed) = lock(&self.agents).choose(endpoint, create);
        drop(closed);
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

impl Tally {
    fn count(&self, time: Duration, succeeded: bool) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.failed
            .fetch_add(u64::from(!succeeded), Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// What a [`Client`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Connection pools that were opened, one an endpoint.
    pub clients_created: u64,
    /// Calls that found their endpoint's connection pool open.
    pub clients_reused: u64,
    /// Connection pools that were closed to make room.
    pub clients_closed: u64,
    /// Names that were looked up for want of a fresh answer.
    pub name_lookups: u64,
    /// Attempts, those that failed included.
    pub calls: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Time taken by all attempts.
    pub total_time: Duration,
}

impl ClientStats {
    /// Time taken by an attempt on average; zero before the first.
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

/// Reads a body, `limit` bytes at most. Where less came, it was read to its end, which is what gives the
/// connection back.
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
    fn a_service_on_this_machine_is_called_without_the_proxy() {
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

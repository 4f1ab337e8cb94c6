//! Calls over pooled connections.
//!
//! Invariant: a connection returns to its pool only after its response was read to the end; any other is closed.
//! No lock is held during a call.

use crate::agents::Agents;
use crate::body::{self, BodyError};
use crate::config::ClientConfig;
use crate::connect::MarkingConnector;
use crate::error::{CallError, verdict_of_body, verdict_of_ureq};
use crate::reply::{CallEvent, ChatCompletion, Reply};
use crate::resolver::CachedResolver;
use crate::retry::RetryPolicy;
use crate::stats::{ClientStats, Counters};
use crate::tls::tls_config;
use crate::{clock, decode, lock};
use core::time::Duration;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use leasehold_protocol::verdict::{Answer, Context, Failure, Kind, Next, Verdict};
use leasehold_protocol::verdict::{read, read_stream, verdict_of_failure};
use leasehold_protocol::{
    Call, ChatRequest, Completion, Endpoint, Note, Rests, is_event_stream, make_streamed,
};
use serde_json::Value;
use std::sync::Mutex;
use ureq::config::Config;
use ureq::{Agent, Body, Proxy, ProxyProtocol};
use uuid::Uuid;

/// Cap on timeouts, so that they can be added to any clock reading.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Bytes read of an error response. A longer one costs its connection.
const MAX_ERROR_BYTES: u64 = 64 * 1024;
/// Longest head of a response, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Size of a connection's input buffer, in bytes: a head that fills it would pass for a lost connection.
///
/// With ureq's default of 128 KiB for each buffer, 50 agents with 64 idle connections each would hold 800 MiB;
/// these two hold 303 MiB.
const INPUT_BYTES: usize = MAX_HEAD_BYTES + 1024;
/// Size of a connection's output buffer, in bytes.
const OUTPUT_BYTES: usize = 32 * 1024;

/// A client with pooled connections, shared by all threads. Dropping it closes them.
///
/// It starts a thread only for a name lookup: at most one per host and minute, or one per caller if several miss
/// the cache at once.
///
/// Redirects are not followed, so that no other host receives the key. HTTPS is checked against Mozilla's
/// certificate authorities, or those of the settings. The proxy is the first one set of `ALL_PROXY`, `HTTPS_PROXY`
/// and `HTTP_PROXY`, for both schemes. Hosts in `NO_PROXY` and loopback hosts are called directly; a SOCKS proxy is
/// ignored.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    proxy: Option<Proxy>,
    resolver: CachedResolver,
    agents: Mutex<Agents>,
    counters: Counters,
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
    /// [`CallError`], if no completion arrived; its verdict says what to do.
    pub fn chat(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
    ) -> Result<ChatCompletion, CallError> {
        let body = chat_body(endpoint, request)?;
        let path = Call::Chat.path();
        let reply = self.send(endpoint, path, &body, &HeaderMap::new())?;
        into_completion(endpoint, reply, &request.model)
    }

    /// Makes one attempt, and calls `on_event` with each part of the answer as it comes.
    ///
    /// # Errors
    /// As [`Client::chat`]. What came before a stream broke is in [`CallError::completion`].
    pub fn chat_stream(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
        on_event: &mut dyn FnMut(CallEvent<'_>),
    ) -> Result<ChatCompletion, CallError> {
        let mut body = chat_body(endpoint, request)?;
        make_streamed(Call::Chat, &mut body);
        let path = Call::Chat.path();
        let reply = self.send_with_events(endpoint, path, &body, &HeaderMap::new(), on_event)?;
        into_completion(endpoint, reply, &request.model)
    }

    /// Makes up to `1 + policy.max_retries` attempts while the error [`is_retryable`](CallError::is_retryable).
    ///
    /// Each delay is drawn from the policy, plus the rest that the verdict asks for. All attempts and delays
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
        let seed = Uuid::new_v4().as_u64_pair().0;
        let (mut backoff, mut rests) = (policy.backoff(seed), Rests::new(seed));
        let body = chat_body(endpoint, request)?;
        let mut timeout = None;
        for retries_left in (0..=policy.max_retries).rev() {
            let path = Call::Chat.path();
            let result = self
                .attempt(
                    endpoint,
                    path,
                    &body,
                    &HeaderMap::new(),
                    timeout,
                    &mut |_| {},
                )
                .and_then(|reply| into_completion(endpoint, reply, &request.model));
            let error = match result {
                Err(error) if retries_left > 0 && error.is_retryable() => error,
                done => return done,
            };
            let rest = rests.after(error.verdict());
            let asked = rest.or(error.retry_after()).unwrap_or_default();
            let delay = asked.saturating_add(backoff.next_delay());
            let left = deadline.saturating_duration_since(clock::now());
            if delay >= left {
                return Err(error);
            }
            clock::sleep(delay);
            timeout = Some(left - delay);
        }
        // The last round of the loop returns.
        let context = context(endpoint, Call::Chat);
        let verdict = verdict_of_failure(Failure::NotSent, "no attempts", &context);
        Err(CallError::new(endpoint, String::new(), verdict, None))
    }

    /// Makes one attempt at any call. `path` is as of [`Endpoint::url_of`]; the headers are added to those of the
    /// settings.
    ///
    /// # Errors
    /// [`CallError`], if no whole answer arrived. An error that the service answers is a [`Reply`]; its verdict says
    /// what it means.
    pub fn send(
        &self,
        endpoint: &Endpoint,
        path: &str,
        body: &Value,
        headers: &HeaderMap,
    ) -> Result<Reply, CallError> {
        self.attempt(endpoint, path, body, headers, None, &mut |_| {})
    }

    /// Makes one attempt at any call, and calls `on_event` as the answer comes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn send_with_events(
        &self,
        endpoint: &Endpoint,
        path: &str,
        body: &Value,
        headers: &HeaderMap,
        on_event: &mut dyn FnMut(CallEvent<'_>),
    ) -> Result<Reply, CallError> {
        self.attempt(endpoint, path, body, headers, None, on_event)
    }

    /// Returns counts so far. Each is exact, but they are not read at one instant.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let agents = lock(&self.agents).counts();
        self.counters.stats(agents, self.resolver.lookups())
    }

    fn attempt(
        &self,
        endpoint: &Endpoint,
        path: &str,
        body: &Value,
        headers: &HeaderMap,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(CallEvent<'_>),
    ) -> Result<Reply, CallError> {
        let trace_id = Uuid::new_v4().simple().to_string();
        let began = clock::now();
        let headers = self.headers(endpoint, path, body, headers, &trace_id);
        let outcome = self.exchange(endpoint, path, body, headers, timeout, on_event);
        let latency = clock::now().saturating_duration_since(began);
        let is_answer = outcome.verdict.kind == Kind::Answer;
        self.counters.count(latency, is_answer);
        let Exchange {
            verdict,
            completion,
            answer,
        } = outcome;
        let Some((status, headers, body)) = answer else {
            return Err(CallError::new(endpoint, trace_id, verdict, completion));
        };
        Ok(Reply {
            status,
            headers,
            body,
            verdict,
            completion,
            trace_id,
            latency,
        })
    }

    /// Builds the headers of a call. Those of the caller replace those of the settings, and the key goes last.
    fn headers(
        &self,
        endpoint: &Endpoint,
        path: &str,
        body: &Value,
        own: &HeaderMap,
        trace_id: &str,
    ) -> HeaderMap {
        let is_stream = body["stream"] == true;
        let (accept, encoding) = if is_stream {
            // A compressor in between would hold events back.
            ("text/event-stream", "identity")
        } else {
            ("application/json", decode::ACCEPTED)
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(encoding));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A trace id is hexadecimal.
        if let Ok(trace_id) = HeaderValue::from_str(trace_id) {
            headers.insert(self.config.trace_header.clone(), trace_id);
        }
        for more in [&self.config.headers, own, &endpoint.auth_headers(path)] {
            for name in more.keys() {
                headers.remove(name);
            }
            for (name, value) in more {
                headers.append(name, value.clone());
            }
        }
        headers
    }

    fn exchange(
        &self,
        endpoint: &Endpoint,
        path: &str,
        body: &Value,
        headers: HeaderMap,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(CallEvent<'_>),
    ) -> Exchange {
        let call = Call::of_path(path);
        let context = context(endpoint, call);
        let url = endpoint.url_of(path, body["model"].as_str().unwrap_or_default());
        let mut request = self.agent(endpoint).post(url);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        // Only if needed: a request with a config of its own may have to set TLS up from scratch for a new
        // connection.
        let request = match timeout {
            Some(timeout) => request.config().timeout_global(Some(timeout)).build(),
            None => request,
        };
        // A value has no map with keys other than texts, which is the only thing that can't be written.
        let bytes = serde_json::to_vec(body).unwrap_or_default();
        let response = match request.send(&bytes[..]) {
            Ok(response) => response,
            Err(error) => return Exchange::failed(verdict_of_ureq(&error, &context), None),
        };
        let (head, mut body) = response.into_parts();
        let (status, headers) = (head.status, head.headers);
        on_event(CallEvent::Arrived {
            status,
            headers: &headers,
        });
        if status.is_success() && is_event_stream(&headers) {
            return self.read_stream(status, headers, &mut body, &context, on_event);
        }
        self.read_whole(status, headers, &mut body, &context)
    }

    fn read_whole(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        body: &mut Body,
        context: &Context<'_>,
    ) -> Exchange {
        let max = self.config.max_response_bytes;
        let limit = if status.is_success() {
            max
        } else {
            MAX_ERROR_BYTES.min(max)
        };
        let mut whole = body::read_whole(context.call, &headers, body, limit);
        // Of an error, the status is the more useful part; of an answer, padding may be too long.
        whole
            .bytes
            .truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let bytes = Some(&whole.bytes[..]);
        let answer = Answer {
            status,
            headers: &headers,
            body: bytes,
        };
        let (verdict, mut completion) = read(&answer, clock::since_epoch(), context);
        if let Some(completion) = &mut completion
            && !whole.is_encoded_as_told
        {
            completion.notes.push(Note::WrongEncoding);
        }
        match whole.error {
            // An answer that is there in full was paid for, however its body ended.
            Some(error)
                if status.is_success()
                    && (verdict.kind != Kind::Answer || context.call == Call::Other) =>
            {
                let completion = completion.filter(|_| !matches!(error, BodyError::TooLong));
                Exchange::failed(verdict_of_body(&error, limit, context), completion)
            }
            _ => Exchange {
                verdict,
                completion,
                answer: Some((status, headers, whole.bytes)),
            },
        }
    }

    fn read_stream(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        body: &mut Body,
        context: &Context<'_>,
        on_event: &mut dyn FnMut(CallEvent<'_>),
    ) -> Exchange {
        let limit = self.config.max_response_bytes;
        let mut on_chunk = |chunk| on_event(CallEvent::Chunk(chunk));
        let (joined, error) = body::read_stream(context.call, &headers, body, limit, &mut on_chunk);
        let (verdict, completion) =
            read_stream(status, &headers, joined, clock::since_epoch(), context);
        // What ended or reported its own error is known, however its connection ended.
        let is_cut = verdict.kind == Kind::CutAnswer;
        let completion = Some(completion);
        match error {
            Some(error) if is_cut => {
                let mut failed = verdict_of_body(&error, limit, context);
                failed.usage = verdict.usage;
                Exchange::failed(failed, completion)
            }
            _ => Exchange {
                verdict,
                completion,
                answer: Some((status, headers, Vec::new())),
            },
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
            .tls_config(tls_config(config.ca.as_ref(), config.insecure_skip_verify))
            .timeout_global(Some(self.timeout()))
            .timeout_resolve(Some(connect_timeout))
            .timeout_connect(Some(connect_timeout))
            .timeout_recv_response(config.first_byte_timeout)
            .max_idle_connections(config.max_idle_per_agent)
            .max_idle_connections_per_host(config.max_idle_per_agent)
            .max_idle_age(config.max_idle_age)
            .input_buffer_size(INPUT_BYTES)
            .output_buffer_size(OUTPUT_BYTES)
            .max_response_header_size(MAX_HEAD_BYTES)
            .build()
    }

    fn timeout(&self) -> Duration {
        self.config.timeout.min(MAX_TIMEOUT)
    }
}

/// The result of an attempt.
struct Exchange {
    verdict: Verdict,
    completion: Option<Completion>,
    /// Status, headers and body, if the answer is whole.
    answer: Option<(StatusCode, HeaderMap, Vec<u8>)>,
}

impl Exchange {
    const fn failed(verdict: Verdict, completion: Option<Completion>) -> Self {
        Self {
            verdict,
            completion,
            answer: None,
        }
    }
}

const fn context(endpoint: &Endpoint, call: Call) -> Context<'_> {
    Context {
        call,
        key: Some(endpoint.key()),
    }
}

fn chat_body(endpoint: &Endpoint, request: &ChatRequest) -> Result<Value, CallError> {
    request.body().map_err(|error| {
        let context = context(endpoint, Call::Chat);
        let verdict = verdict_of_failure(Failure::NotSent, &error.to_string(), &context);
        CallError::new(endpoint, String::new(), verdict, None)
    })
}

/// Returns the completion of a reply, or its error. A model that is not reported is the one of the request.
fn into_completion(
    endpoint: &Endpoint,
    reply: Reply,
    model: &str,
) -> Result<ChatCompletion, CallError> {
    let Reply {
        verdict,
        completion,
        trace_id,
        latency,
        ..
    } = reply;
    match completion {
        Some(mut completion) if verdict.next == Next::Done => {
            if completion.model.is_empty() {
                model.clone_into(&mut completion.model);
            }
            Ok(ChatCompletion {
                completion,
                trace_id,
                latency,
            })
        }
        completion => Err(CallError::new(endpoint, trace_id, verdict, completion)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_protocol::ApiKey;

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
}

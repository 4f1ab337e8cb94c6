//! A server that is compatible with OpenAI and Anthropic: settings, start, report, stop.
//!
//! Invariant: a server that started has settings that make sense, so that no call fails because of them.

mod answer;
mod anthropic;
mod call;
mod chat;
mod config;
mod control;
mod embeddings;
mod error;
mod fault;
mod in_flight;
mod messages;
mod request;
mod resource;
mod responses;
mod route;
mod service;
mod sse;
mod state;
#[cfg(test)]
mod tests;
mod unlimited;

pub use call::{Call, CallStatus, Recording};
pub use config::{ModelRule, OpenAiConfig, Outage, OutageError};
pub use control::Control;
pub use fault::{
    BytesFault, DisguiseFault, Fault, FaultGroup, FaultRule, FaultRuleError, FramingFault,
    KeyFault, OverloadFault, RateLimitFault, RequestFault, ShapeFault, StreamFault, TransportFault,
    UnknownFault,
};

pub(crate) use fault::FaultTimes;

use crate::occurrence::Occurrence;
use crate::report::Report;
use crate::server::Server;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;
use sse::MAX_PIECES;
use state::Upstream;
use std::io;

/// The reason that an [`OpenAi`] server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A window is zero.
    #[error("the window must be above zero")]
    EmptyWindow,
    /// The range of latencies is empty.
    #[error("the shortest latency must not be above the longest")]
    EmptyLatency,
    /// The range of pauses in a stream is empty.
    #[error("the shortest chunk delay must not be above the longest")]
    EmptyChunkDelay,
    /// The range of lengths of an answer is empty.
    #[error("the fewest answer tokens must not be above the most")]
    EmptyAnswer,
    /// An outage does not end after it begins, so that it would never happen.
    #[error("an outage must end after it begins")]
    EmptyOutage,
    /// A wait is too long for the dates that tell it.
    #[error("the wait and the trickle of faults must be at most 100 years")]
    LongWait,
    /// A stream has too many pieces.
    #[error("an answer must have at most {MAX_PIECES} chunks")]
    ManyChunks,
    /// The answers are too long.
    #[error("an answer must have at most {MAX_ANSWER_TOKENS} tokens")]
    LongAnswer,
    /// The status of a fault is not that of an error.
    #[error("the status of a failed call must be 400 to 599, not {0}")]
    NotAnError(u16),
    /// A share is not from 0 to 1.
    #[error("the share of a fault must be 0 to 1, not {0}")]
    Share(f64),
    /// The address can't be listened on, or the thread can't be started.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
}

/// Most tokens of an answer; a call may ask for 128 of them, in memory at once.
const MAX_ANSWER_TOKENS: u64 = 100_000;

/// Longest wait and trickle of a fault: 100 years. Sums with the time since 1970 can't overflow.
const MAX_WAIT: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A running OpenAI-compatible server.
///
/// Routes: `POST /v1/chat/completions`, `/v1/responses` and `/v1/embeddings`, the same under `/openai/v1/` and
/// `/openai/deployments/NAME/` as Azure has them, `POST /v1/messages` as Anthropic has it, `GET /v1/models`, and
/// `GET /testbed/report`, which returns the [`Report`] to anyone. Files, batches, responses and conversations are
/// kept for the key that made them; requests for them are no calls. All other paths get 404.
///
/// A call arrives when its head has been read, and is judged then: 401 for an unknown key, 429 over the limit,
/// 503 (529 for messages) over the concurrency. Then its body is read (413 above 8 MiB, 408 after 30 s) and checked
/// (400, 404), and judged again: 429 over a limit on tokens or of a model. The answer is an echo of the last user
/// message; a word is a token. It is streamed if the call asks for that, and cut at the call's maximum of tokens.
///
/// The server runs on its own thread. Dropping it stops it; calls in flight have up to 5 s to end.
#[derive(Debug)]
pub struct OpenAi {
    server: Server,
    upstream: Arc<Upstream>,
}

impl OpenAi {
    /// Starts the server; the port is open when this returns.
    ///
    /// # Errors
    /// [`StartError`], if the settings make no sense or the address can't be listened on.
    pub fn start(config: OpenAiConfig) -> Result<Self, StartError> {
        check(&config)?;
        let addr = config.listen;
        let upstream = Arc::new(Upstream::new(config));
        let server = Server::start(addr, Arc::clone(&upstream))
            .map_err(|source| StartError::Listen { addr, source })?;
        Ok(Self { server, upstream })
    }

    /// Returns a handle to steer the server with.
    #[must_use]
    pub fn control(&self) -> Control {
        Control {
            upstream: Arc::clone(&self.upstream),
        }
    }

    /// The address that the server listens on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The base URL, such as `http://127.0.0.1:8080`, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.upstream.report()
    }

    /// Stops the server as a drop does, and returns the final counts.
    ///
    /// Its count of open connections is that before the stop, which closes them all.
    pub fn stop(self) -> Report {
        let connections_open = self.control().open_connections();
        let Self { server, upstream } = self;
        drop(server);
        Report {
            connections_open,
            ..upstream.report()
        }
    }
}

fn check(config: &OpenAiConfig) -> Result<(), StartError> {
    let windows = config.limits.iter().map(|limit| limit.window);
    if windows
        .chain([config.window])
        .any(|window| window.is_zero())
    {
        return Err(StartError::EmptyWindow);
    }
    if config.latency.is_empty() {
        return Err(StartError::EmptyLatency);
    }
    if config.chunk_delay.is_empty() {
        return Err(StartError::EmptyChunkDelay);
    }
    if config.answer_tokens.is_empty() {
        return Err(StartError::EmptyAnswer);
    }
    if config.outages.iter().any(|outage| outage.from >= outage.to) {
        return Err(StartError::EmptyOutage);
    }
    if config.fault_wait.max(config.trickle) > MAX_WAIT {
        return Err(StartError::LongWait);
    }
    let chunks = config.chunks.map_or(0, |chunks| chunks.get() as usize);
    if chunks > MAX_PIECES {
        return Err(StartError::ManyChunks);
    }
    if *config.answer_tokens.end() > MAX_ANSWER_TOKENS {
        return Err(StartError::LongAnswer);
    }
    for rule in &config.faults {
        if let Occurrence::Share(share) = rule.occurrence
            && !rule.occurrence.is_valid()
        {
            return Err(StartError::Share(share));
        }
    }
    let of_rules = config.faults.iter().flat_map(|rule| &rule.faults);
    let of_outages = config.outages.iter().map(|outage| &outage.fault);
    for fault in of_rules.chain(of_outages) {
        if let Fault::Status(status) = fault
            && !(400..600).contains(status)
        {
            return Err(StartError::NotAnError(*status));
        }
    }
    Ok(())
}

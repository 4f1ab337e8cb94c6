//! The state of a backend: counts, settings that change while it runs, draws, records.
//!
//! Invariant: each request is counted exactly once at its arrival and once at its end, whatever its caller, a kill or
//! a fault does.

use super::BackendError;
use super::config::BackendConfig;
use super::connection::Connections;
use super::fault::{BackendFault, Dice};
use super::record::{MAX_BYTES, Records, SeenRequest};
use super::report::BackendReport;
use crate::clock::Clock;
use crate::judge::{CallEnd, Judge, JudgeConfig, KeyId, Refusal, Ruling};
use crate::limit::{Limit, LimitUnit};
use crate::openai::FaultTimes;
use crate::watched::Watched;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use std::collections::HashMap;

/// Most paths that are counted by name.
const MAX_PATHS: usize = 1_000;

const MAX_PATH_BYTES: usize = 200;

/// The name that all other paths are counted by.
const OTHER_PATHS: &str = "…";

/// The only key of a backend's judge: it does not tell its callers apart.
const KEY: &str = "all";

/// A backend's settings and state, shared by its connections and its handle.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) id: String,
    /// The id as a header.
    pub(super) name: HeaderValue,
    pub(super) address: SocketAddr,
    /// Beginning of each JSON answer: `{"server_info":{...}`.
    pub(super) info: String,
    pub(super) healthy: Bytes,
    pub(super) unhealthy: Bytes,
    pub(super) times: FaultTimes,
    pub(super) max_message: usize,
    pub(super) max_headers: Option<usize>,
    max_websockets: u64,
    pub(super) recorded_body: usize,
    is_recording: bool,
    clock: Clock,
    state: Watched<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) is_healthy: bool,
    pub(super) delay: Duration,
    pub(super) dice: Dice,
    pub(super) records: Records,
    /// Whether the server is being killed or stopped, or is down.
    pub(super) is_down: bool,
    judge: Option<(Judge, KeyId)>,
    counts: Counts,
    by_path: HashMap<String, u64>,
    by_status: BTreeMap<u16, u64>,
    by_fault: BTreeMap<String, u64>,
    pub(super) connections: Connections,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    answered: u64,
    refused_429: u64,
    refused_503: u64,
    faults: u64,
    hung_up: u64,
    killed: u64,
    in_flight: u64,
    max_in_flight: u64,
    probes: u64,
    websockets_opened: u64,
    websockets_open: u64,
    max_websockets: u64,
    websocket_messages: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    OverLimit,
    Busy,
    Fault,
}

/// A request that was counted, and what is to become of it.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) in_flight: InFlight,
    pub(super) refusal: Option<Refused>,
    pub(super) delay: Duration,
    pub(super) fault: Option<BackendFault>,
    pub(super) number: u64,
}

/// The reason that a request is refused.
#[derive(Debug)]
pub(super) enum Refused {
    OverLimit(Refusal),
    Busy,
}

impl Origin {
    /// # Errors
    /// [`BackendError`], if a setting makes no sense.
    pub(super) fn new(config: BackendConfig, address: SocketAddr) -> Result<Self, BackendError> {
        let makes_no_sense =
            |limit: &&Limit| limit.unit != LimitUnit::Requests || limit.model.is_some();
        if let Some(limit) = config.limits.iter().find(makes_no_sense) {
            return Err(BackendError::Limit(limit.clone()));
        }
        let default_id = || format!("backend-{}", address.port());
        let id = config.id.unwrap_or_else(default_id);
        let name = HeaderValue::from_str(&id).map_err(|_| BackendError::Id(id.clone()))?;
        let info = serde_json::json!({ "id": id, "address": address.to_string() });
        let health =
            |status| Bytes::from(format!("{{\"status\":{status:?},\"server_info\":{info}}}"));
        let is_judged = !config.limits.is_empty() || config.max_concurrent.is_some();
        let judge = JudgeConfig {
            limits: config.limits,
            window: Duration::ZERO,
            max_concurrent: config.max_concurrent,
        };
        let judge = is_judged.then(|| Judge::new(judge, vec![KEY.to_owned()]));
        Ok(Self {
            info: format!("{{\"server_info\":{info}"),
            healthy: health("healthy"),
            unhealthy: health("unhealthy"),
            id,
            name,
            address,
            times: FaultTimes {
                wait: config.fault_wait,
                stall: config.stall,
                trickle: config.trickle,
            },
            max_message: config.max_message,
            max_headers: config.max_headers,
            max_websockets: config.max_websockets,
            is_recording: config.recorded_requests > 0,
            recorded_body: config.recorded_body.min(MAX_BYTES),
            clock: Clock::start(),
            state: Watched::new(State {
                is_healthy: config.is_healthy,
                delay: config.delay,
                dice: Dice::new(config.faults, config.seed),
                records: Records::new(config.recorded_requests),
                is_down: false,
                judge: judge.and_then(|mut judge| {
                    let key = judge.identify(KEY)?;
                    Some((judge, key))
                }),
                counts: Counts::default(),
                by_path: HashMap::new(),
                by_status: BTreeMap::new(),
                by_fault: BTreeMap::new(),
                connections: Connections::default(),
            }),
        })
    }

    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        self.state.change(change)
    }

    pub(super) fn wait(&self, limit: Duration, condition: impl Fn() -> bool) -> bool {
        self.state.wait(limit, condition)
    }

    /// Counts a request whose head was read, and lets the judge rule on it.
    pub(super) fn arrive(self: &Arc<Self>, path: &str) -> Arrival {
        let now = self.clock.nanos();
        self.state.change(|state| {
            let number = state.arrive(path);
            let refusal = state.rule(now);
            let is_judged = state.judge.is_some() && refusal.is_none();
            let fault = state.dice.draw(path);
            Arrival {
                in_flight: InFlight {
                    origin: Arc::clone(self),
                    end: match refusal {
                        None => End::Answered,
                        Some(Refused::OverLimit(_)) => End::OverLimit,
                        Some(Refused::Busy) => End::Busy,
                    },
                    is_judged,
                    status: None,
                    is_finished: false,
                },
                refusal,
                delay: state.delay,
                fault,
                number,
            }
        })
    }

    /// Counts a health check, and returns whether it is to be answered with 200.
    pub(super) fn probe(&self) -> bool {
        self.state.change(|state| {
            state.counts.probes += 1;
            state.is_healthy
        })
    }

    /// Starts the record of a request, if requests are recorded.
    pub(super) fn record(
        self: &Arc<Self>,
        request: impl FnOnce() -> SeenRequest,
    ) -> Option<(Arc<Self>, SeenRequest)> {
        self.is_recording.then(|| (Arc::clone(self), request()))
    }

    /// Counts a websocket as open until the returned guard is dropped; `None` if too many are open.
    pub(super) fn open_websocket(self: &Arc<Self>) -> Option<OpenWebSocket> {
        self.state.change(|state| {
            let counts = &mut state.counts;
            if counts.websockets_open >= self.max_websockets {
                return None;
            }
            counts.websockets_opened += 1;
            counts.websockets_open += 1;
            counts.max_websockets = counts.max_websockets.max(counts.websockets_open);
            Some(OpenWebSocket(Arc::clone(self)))
        })
    }

    pub(super) fn report(&self) -> BackendReport {
        self.state.read(|state| state.report(self))
    }
}

impl State {
    /// Counts an arrival and returns its number.
    fn arrive(&mut self, path: &str) -> u64 {
        let counts = &mut self.counts;
        counts.requests += 1;
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        if let Some(count) = self.by_path.get_mut(path) {
            *count += 1;
        } else {
            let is_named = self.by_path.len() < MAX_PATHS && path.len() <= MAX_PATH_BYTES;
            let name = if is_named { path } else { OTHER_PATHS };
            *self.by_path.entry(name.to_owned()).or_default() += 1;
        }
        counts.requests
    }

    fn rule(&mut self, now: u64) -> Option<Refused> {
        let (judge, key) = self.judge.as_mut()?;
        match judge.arrive(*key, now) {
            Ruling::Admitted => None,
            Ruling::OverLimit(refusal) => {
                // A caller of a backend counts as told at once; its connections are not told apart.
                judge.tell_wait(*key, 0, refusal.wait, now);
                judge.note_read(0);
                Some(Refused::OverLimit(refusal))
            }
            Ruling::Busy => Some(Refused::Busy),
        }
    }

    fn finish(&mut self, request: &InFlight) {
        if let (true, Some((judge, key))) = (request.is_judged, &mut self.judge) {
            judge.finish(*key, CallEnd::Ok);
        }
        if let Some(status) = request.status {
            *self.by_status.entry(status).or_default() += 1;
        }
        let counts = &mut self.counts;
        counts.in_flight -= 1;
        let count = match request.end {
            End::OverLimit => &mut counts.refused_429,
            End::Busy => &mut counts.refused_503,
            End::Fault => &mut counts.faults,
            End::Answered if request.is_finished => &mut counts.answered,
            End::Answered if self.is_down => &mut counts.killed,
            End::Answered => &mut counts.hung_up,
        };
        *count += 1;
    }

    fn report(&self, origin: &Origin) -> BackendReport {
        let counts = self.counts;
        let connections = &self.connections;
        let (bytes_read, bytes_written) = connections.bytes();
        let judge = self.judge.as_ref().map(|(judge, _)| judge);
        BackendReport {
            id: origin.id.clone(),
            address: origin.address,
            requests: counts.requests,
            answered: counts.answered,
            refused_429: counts.refused_429,
            refused_503: counts.refused_503,
            faults: counts.faults,
            hung_up: counts.hung_up,
            killed: counts.killed,
            in_flight: counts.in_flight,
            max_in_flight: counts.max_in_flight,
            probes: counts.probes,
            early: judge.map_or(0, |judge| judge.counts().early),
            limits: judge.map_or_else(Vec::new, Judge::limit_reports),
            by_path: self.by_path.clone().into_iter().collect(),
            by_status: self.by_status.clone(),
            by_fault: self.by_fault.clone(),
            connections_opened: connections.opened(),
            connections_open: connections.open_now(),
            max_connections: connections.most_open(),
            bytes_read,
            bytes_written,
            connections: connections.reports(),
            websockets_opened: counts.websockets_opened,
            websockets_open: counts.websockets_open,
            max_websockets: counts.max_websockets,
            websocket_messages: counts.websocket_messages,
            recorded: self.records.list(),
        }
    }
}

/// A request in flight. If it is dropped before [`finish`](Self::finish), its caller hung up or the server is down.
#[derive(Debug)]
pub(super) struct InFlight {
    origin: Arc<Origin>,
    end: End,
    /// Whether the judge counts it as in flight.
    is_judged: bool,
    status: Option<u16>,
    is_finished: bool,
}

impl InFlight {
    pub(super) const fn note_status(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// Counts the request as refused for want of room.
    pub(super) const fn note_busy(&mut self) {
        self.end = End::Busy;
    }

    /// Counts the request as one that got this fault, however it ends.
    pub(super) fn note_fault(&mut self, fault: BackendFault) {
        self.end = End::Fault;
        self.origin.change(|state| {
            *state.by_fault.entry(fault.to_string()).or_default() += 1;
        });
    }

    /// Ends the request as planned.
    pub(super) fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.origin.change(|state| state.finish(self));
    }
}

/// An open websocket.
#[derive(Debug)]
pub(super) struct OpenWebSocket(Arc<Origin>);

impl OpenWebSocket {
    pub(super) fn note_message(&self) {
        self.0.change(|state| state.counts.websocket_messages += 1);
    }
}

impl Drop for OpenWebSocket {
    fn drop(&mut self) {
        self.0.change(|state| state.counts.websockets_open -= 1);
    }
}

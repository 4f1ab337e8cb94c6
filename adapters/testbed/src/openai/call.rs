//! Records of the calls that arrived, for tests that ask what a caller did.
//!
//! Invariant: at most [`MAX_CALLS`] calls are kept, the first ones.

use super::fault::Fault;
use crate::judge::CallEnd;
use crate::report::masked;
use core::fmt;
use core::time::Duration;
use hyper::body::Bytes;
use hyper::header::HeaderMap;

const MAX_CALLS: usize = 100_000;

/// The parts of each call that a server keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recording {
    /// Nothing but counts.
    #[default]
    Off,
    /// Everything but headers and bodies.
    Calls,
    /// Everything.
    Full,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallStatus {
    /// It is in progress.
    InFlight,
    /// It was answered in full.
    Ok,
    /// It failed on purpose.
    Fault,
    /// It was malformed, too large, or for an unknown model.
    Invalid,
    /// It was over a limit.
    OverLimit,
    /// Too many calls of its key were in flight.
    Busy,
    /// Its key is unknown or missing.
    UnknownKey,
    /// Its caller hung up, or the server stopped.
    Abandoned,
}

impl From<CallEnd> for CallStatus {
    fn from(end: CallEnd) -> Self {
        match end {
            CallEnd::Ok => Self::Ok,
            CallEnd::Fault => Self::Fault,
            CallEnd::Invalid => Self::Invalid,
            CallEnd::OverLimit => Self::OverLimit,
            CallEnd::Abandoned => Self::Abandoned,
        }
    }
}

/// A call that arrived.
#[derive(Clone)]
#[non_exhaustive]
pub struct Call {
    /// The path and query.
    pub path: String,
    /// The key, whole.
    pub key: Option<String>,
    /// The model, if the body could be read.
    pub model: Option<String>,
    /// Whether a stream was asked for.
    pub streamed: bool,
    /// Time of arrival, counted from the server's start.
    pub arrived: Duration,
    /// Time of the end, counted from the server's start: of the last byte handed on, or of the hang-up.
    pub ended: Option<Duration>,
    /// How the call went.
    pub status: CallStatus,
    /// The fault that it got.
    pub fault: Option<Fault>,
    /// Whether the caller closed the connection before the end.
    pub hung_up: bool,
    /// Names and values of the headers, with [`Recording::Full`].
    pub headers: Vec<(String, String)>,
    /// The body, with [`Recording::Full`].
    pub body: Vec<u8>,
}

impl Call {
    /// The value of a header; the first, if there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("path", &self.path)
            .field("key", &self.key.as_deref().map(masked))
            .field("model", &self.model)
            .field("streamed", &self.streamed)
            .field("arrived", &self.arrived)
            .field("ended", &self.ended)
            .field("status", &self.status)
            .field("fault", &self.fault)
            .field("hung_up", &self.hung_up)
            .field("headers", &self.headers.len())
            .field("body", &self.body.len())
            .finish()
    }
}

/// Place of a call in the log, if it is there.
pub(super) type LogIndex = Option<(u64, usize)>;

#[derive(Debug, Default)]
pub(super) struct Log {
    recording: Recording,
    calls: Vec<Call>,
    /// Number of times that the log was cleared: an index of an earlier log points nowhere.
    era: u64,
}

impl Log {
    pub(super) fn new(recording: Recording) -> Self {
        Self {
            recording,
            ..Self::default()
        }
    }

    pub(super) const fn set_recording(&mut self, recording: Recording) {
        self.recording = recording;
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.clone()
    }

    pub(super) fn clear(&mut self) {
        self.calls.clear();
        self.era += 1;
    }

    pub(super) fn open(
        &mut self,
        path: &str,
        key: Option<&str>,
        headers: &HeaderMap,
        arrived: Duration,
    ) -> LogIndex {
        if self.recording == Recording::Off || self.calls.len() >= MAX_CALLS {
            return None;
        }
        let headers = if self.recording == Recording::Full {
            headers
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    (name.as_str().to_owned(), value.into_owned())
                })
                .collect()
        } else {
            Vec::new()
        };
        self.calls.push(Call {
            path: path.to_owned(),
            key: key.map(str::to_owned),
            model: None,
            streamed: false,
            arrived,
            ended: None,
            status: CallStatus::InFlight,
            fault: None,
            hung_up: false,
            headers,
            body: Vec::new(),
        });
        Some((self.era, self.calls.len() - 1))
    }

    pub(super) fn note_body(&mut self, index: LogIndex, body: &Bytes) {
        if self.recording == Recording::Full
            && let Some(call) = self.call(index)
        {
            call.body = body.to_vec();
        }
    }

    pub(super) fn close(&mut self, index: LogIndex, status: CallStatus, now: Duration) {
        if let Some(call) = self.call(index) {
            call.status = status;
            call.ended = Some(now);
        }
    }

    pub(super) fn call(&mut self, index: LogIndex) -> Option<&mut Call> {
        let (era, place) = index?;
        self.calls.get_mut(place).filter(|_| era == self.era)
    }
}

//! A call from its arrival to its end.
//!
//! Invariant: the end of each call is counted exactly once, whatever its caller or the server does.

use super::call::{CallStatus, LogIndex};
use super::request::ApiRequest;
use super::state::{FinishedCall, Upstream};
use crate::judge::{CallEnd, KeyId, Ruling};
use alloc::sync::Arc;
use hyper::body::Bytes;

/// A call in flight. If it is dropped before [`finish`](Self::finish), its caller hung up.
pub(super) struct InFlight {
    upstream: Arc<Upstream>,
    key: KeyId,
    index: LogIndex,
    path: String,
    body: Bytes,
    /// How the call counts if it ends as planned.
    planned: CallEnd,
    /// How it counts if its caller hangs up before.
    cut_short: CallEnd,
    is_finished: bool,
    /// The status of a call that the judge refused, and counted, at its arrival.
    refused: Option<CallStatus>,
}

impl InFlight {
    pub(super) fn new(
        upstream: &Arc<Upstream>,
        key: KeyId,
        index: LogIndex,
        path: &str,
        ruling: &Ruling,
    ) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            key,
            index,
            path: path.to_owned(),
            body: Bytes::new(),
            planned: CallEnd::Abandoned,
            cut_short: CallEnd::Abandoned,
            is_finished: false,
            refused: match ruling {
                Ruling::Admitted => None,
                Ruling::OverLimit(_) => Some(CallStatus::OverLimit),
                Ruling::Busy => Some(CallStatus::Busy),
            },
        }
    }

    pub(super) const fn key(&self) -> KeyId {
        self.key
    }

    pub(super) const fn index(&self) -> LogIndex {
        self.index
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn note_body(&mut self, body: Bytes) {
        self.upstream
            .change(|state| state.log.note_body(self.index, &body));
        self.body = body;
    }

    pub(super) fn note_request(&self, request: &ApiRequest) {
        self.upstream.change(|state| {
            if let Some(call) = state.log.call(self.index) {
                call.model = Some(request.model.clone());
                call.streamed = request.stream.is_some();
            }
        });
    }

    /// Counts the call as ok if it ends as planned, and as abandoned if its caller hangs up.
    pub(super) const fn plan_answer(&mut self) {
        self.planned = CallEnd::Ok;
    }

    /// Sets how the call counts, whether its caller hangs up or not.
    pub(super) const fn count_as(&mut self, end: CallEnd) {
        self.planned = end;
        self.cut_short = end;
    }

    /// Ends the call as planned.
    pub(super) fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = self.upstream.now();
        let end = if self.is_finished {
            self.planned
        } else {
            self.cut_short
        };
        let call = FinishedCall {
            key: self.key,
            index: self.index,
            end,
            refused: self.refused,
            hung_up: !self.is_finished,
            path: &self.path,
            body: &self.body,
        };
        self.upstream.change(|state| state.finish(&call, now));
    }
}

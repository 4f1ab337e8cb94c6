//! An answer on its way to the caller.
//!
//! Invariant: once all of an answer has come, its lease is released, its line is logged and its connection is kept; then its
//! last bytes are written.

use super::After;
use super::answer::{Added, AnswerEnd};
use super::caller::CallerSide;
use super::text::{write_date, write_field, write_fields, write_status};
use super::transport::Answer;
use super::upload::{BodyCut, Upload, Waits};
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::buffers::HEADROOM;
use crate::clock::poll_time;
use crate::proxy::answer::AnswerBody;
use crate::proxy::forward::Answered;
use crate::proxy::framing::SoundBytes;
use crate::record::{End, Record};
use crate::upstream::BackendStream;
use crate::worker::Worker;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use http::header::{CONNECTION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Response};
use leasehold_sync::{Lease, Outcome, Release};
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The end of a chunk.
const CHUNK_END: &[u8] = b"\r\n";
/// The end of a body in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The reasons for which a connection closes after its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing<'a> {
    pub(super) worker: &'a Rc<Worker>,
    /// Whether this answer is the caller's last by what is known from its request.
    pub(super) closes: bool,
}

impl Closing<'_> {
    fn after(&self) -> After {
        match self.closes || self.worker.drain().has_begun() {
            true => After::Close,
            false => After::Next,
        }
    }
}

/// An answer that is passed on.
pub(super) struct Relay<'a, S> {
    caller: &'a CallerSide<S>,
    worker: &'a Rc<Worker>,
    after: After,
    /// `None` once nothing more is read from it.
    stream: Option<BackendStream>,
    /// The rest of the request, while it is sent.
    upload: Option<Upload<'a, S>>,
    body: AnswerEnd,
    is_kept: bool,
    buffer: Option<Vec<u8>>,
    /// The bytes of the buffer that are to be written.
    begin: usize,
    end: usize,
    /// `None` once it is released.
    lease: Option<Lease<Backend>>,
    /// How it is released if all of the body comes.
    release: Release,
    /// Its settings bound the waits.
    pool: Arc<BackendPool>,
    /// `None` once it is logged.
    record: Option<Box<Record>>,
    /// The time from which the present wait counts.
    since: Option<Instant>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Relay<'a, S> {
    /// Begins with what has come; a session that begins has a cookie.
    pub(super) fn new(
        caller: &'a CallerSide<S>,
        closing: Closing<'a>,
        answered: Answered<Box<Answer<'a, S>>>,
        release: Release,
        pool: Arc<BackendPool>,
        mut record: Box<Record>,
        cookie: Option<HeaderValue>,
    ) -> Self {
        let Answered { sent, lease } = answered;
        let mut fields = HeaderMap::new();
        record.tell_limits(&mut fields);
        fields.extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
        let request_id = record.request_id.clone();
        let begin = HEADROOM.saturating_add(sent.head.length);
        let mut relay = Self {
            caller,
            worker: closing.worker,
            after: closing.after(),
            stream: Some(sent.stream),
            upload: sent.upload,
            body: sent.head.body,
            is_kept: sent.head.is_kept,
            buffer: Some(sent.buffer),
            begin,
            end: sent.end,
            lease: Some(lease),
            release,
            pool,
            record: Some(record),
            since: None,
        };
        relay.take(begin, sent.end);
        if relay.stream.is_none() {
            relay.after = caller.after(relay.after);
        }
        let head = sent.head.text.with(&Added {
            request_id: &request_id,
            fields,
            closes: relay.after != After::Next,
        });
        relay.prepend(&head);
        relay.worker.buffers().give_head(head);
        relay
    }

    /// Passes the answer on, to its end or until either side breaks off.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<After> {
        if let (Some(upload), Some(stream)) = (&mut self.upload, &mut self.stream) {
            let before = upload.total();
            let waits = match upload.poll(context, stream) {
                Ok(waits) => waits,
                Err(BodyCut) => return Poll::Ready(After::Close),
            };
            // A backend may wait for the rest of the request, for which the caller has its own time.
            if waits == Waits::Caller || upload.total() > before {
                self.since = None;
            }
            if upload.is_sent() {
                self.upload = None;
            }
        }
        loop {
            while self.begin < self.end {
                let bytes = self.buffer.as_deref().unwrap_or_default();
                let bytes = bytes.get(self.begin..self.end).unwrap_or_default();
                match ready!(self.caller.poll_write(context, bytes)) {
                    Ok(count) => self.begin = self.begin.saturating_add(count),
                    Err(_) => return Poll::Ready(After::Close),
                }
            }
            if let Some(buffer) = self.buffer.take() {
                self.worker.buffers().give(buffer);
            }
            if ready!(self.caller.poll_flush(context)).is_err() {
                return Poll::Ready(After::Close);
            }
            if self.stream.is_none() {
                return Poll::Ready(self.caller.after(self.after));
            }
            ready!(self.poll_read(context));
        }
    }

    /// Reads more of the body into a buffer of its own.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(());
        };
        let mut buffer = self.worker.buffers().take();
        let last = buffer.len().saturating_sub(CHUNK_END.len());
        let mut room = ReadBuf::new(buffer.get_mut(HEADROOM..last).unwrap_or_default());
        let read = Pin::new(stream).poll_read(context, &mut room);
        let count = room.filled().len();
        match read {
            Poll::Pending => {
                self.worker.buffers().give(buffer);
                let since = *self.since.get_or_insert_with(poll_time);
                ready!(
                    self.caller
                        .poll_patience(context, since + self.pool.settings().upstream.body_idle)
                );
                self.cut(End::BackendStalled);
            }
            Poll::Ready(Ok(())) if count > 0 => {
                self.since = None;
                self.buffer = Some(buffer);
                self.take(HEADROOM, HEADROOM.saturating_add(count));
            }
            Poll::Ready(Ok(())) if matches!(self.body, AnswerEnd::UntilClose) => {
                self.buffer = Some(buffer);
                (self.begin, self.end) = (HEADROOM, HEADROOM);
                self.prepend(LAST_CHUNK);
                self.complete();
            }
            Poll::Ready(_) => self.cut(End::BackendBroke),
        }
        Poll::Ready(())
    }

    /// Takes bytes of the body that have come in these places of the buffer.
    fn take(&mut self, begin: usize, end: usize) {
        let bytes = self.buffer.as_deref().unwrap_or_default();
        let bytes = bytes.get(begin..end).unwrap_or_default();
        let all = bytes.len();
        let read = self.body.read(bytes);
        self.begin = begin;
        match read {
            Ok(read) => {
                self.end = begin.saturating_add(read.read);
                // Bytes behind the end were not asked for; a connection with them is not used again.
                self.is_kept &= read.read == all;
                if let Some(record) = &mut self.record {
                    record.count(usize::try_from(read.content).unwrap_or(usize::MAX));
                }
                if matches!(self.body, AnswerEnd::UntilClose) {
                    self.make_chunk();
                }
                if self.body.has_come() {
                    self.complete();
                }
            }
            Err(SoundBytes(sound)) => {
                self.end = begin.saturating_add(sound);
                self.cut(End::BackendBroke);
            }
        }
    }

    /// Makes a chunk of the bytes to be written.
    fn make_chunk(&mut self) {
        let size = self.end.saturating_sub(self.begin);
        if size == 0 {
            return;
        }
        let behind = self.end.saturating_add(CHUNK_END.len());
        match self
            .buffer
            .as_mut()
            .and_then(|buffer| buffer.get_mut(self.end..behind))
        {
            Some(room) => room.copy_from_slice(CHUNK_END),
            // The first bytes, which came with a head, may fill the buffer.
            None => {
                let mut longer = self.buffer.take().unwrap_or_default();
                longer.truncate(self.end);
                longer.extend_from_slice(CHUNK_END);
                self.buffer = Some(longer);
            }
        }
        self.end = behind;
        self.prepend(format!("{size:x}\r\n").as_bytes());
    }

    /// Puts bytes before those to be written.
    fn prepend(&mut self, bytes: &[u8]) {
        let Some(buffer) = &mut self.buffer else {
            return;
        };
        let begin = self.begin.checked_sub(bytes.len());
        match begin.and_then(|begin| Some((begin, buffer.get_mut(begin..self.begin)?))) {
            Some((begin, room)) => {
                room.copy_from_slice(bytes);
                self.begin = begin;
            }
            None => {
                let rest = buffer.get(self.begin..self.end).unwrap_or_default();
                let longer = [bytes, rest].concat();
                (self.begin, self.end) = (0, longer.len());
                self.buffer = Some(longer);
            }
        }
    }

    /// Ends an answer of which all has come.
    fn complete(&mut self) {
        let (stream, lease) = (self.stream.take(), self.lease.take());
        if let (Some(stream), Some(lease)) = (stream, lease) {
            // A backend that has not read all would take the rest for its next request.
            if self.is_kept && self.upload.is_none() {
                let idle = self.worker.idle_streams();
                idle.keep(lease.number(), stream, &self.pool.settings().upstream);
            }
            // A lease that has expired meanwhile was taken back already.
            let _ = lease.release(self.release);
        }
        if let Some(mut record) = self.record.take() {
            record.end = End::Complete;
        }
    }

    /// Ends an answer of which the rest does not come.
    fn cut(&mut self, end: End) {
        self.stream = None;
        self.after = After::Close;
        if let Some(lease) = self.lease.take() {
            let _ = lease.release(Outcome::Failed);
        }
        if let Some(mut record) = self.record.take() {
            record.end = end;
        }
    }
}

/// Answers a request that is not passed on.
pub(super) async fn answer_by_itself<S>(
    caller: &CallerSide<S>,
    closing: Closing<'_>,
    mut response: Response<AnswerBody>,
    mut record: Box<Record>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    record.tell_limits(response.headers_mut());
    let closes = response.headers_mut().remove(CONNECTION).is_some();
    let after = match closing.after() {
        After::Next if !closes => caller.after(After::Next),
        After::Next | After::Close | After::CloseUnread | After::Other => {
            caller.after(After::Close)
        }
    };
    let text = response.body_mut().take_text().unwrap_or_default();
    let mut out = Vec::with_capacity(text.len().saturating_add(HEADROOM));
    let status = response.status();
    write_status(
        &mut out,
        status,
        status.canonical_reason().unwrap_or_default(),
    );
    write_fields(&mut out, response.headers());
    let size = itoa::Buffer::new().format(text.len()).to_owned();
    write_field(&mut out, b"content-length", size.as_bytes());
    write_date(&mut out);
    if after != After::Next {
        write_field(&mut out, b"connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if record.method != Method::HEAD {
        out.extend_from_slice(&text);
        record.count(text.len());
    }
    drop(record);
    let mut rest = &*out;
    while !rest.is_empty() {
        match poll_fn(|context| caller.poll_write(context, rest)).await {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(_) => return After::Close,
        }
    }
    match poll_fn(|context| caller.poll_flush(context)).await {
        Ok(()) => after,
        Err(_) => After::Close,
    }
}

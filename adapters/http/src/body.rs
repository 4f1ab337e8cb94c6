//! Bodies of answers: read whole, or as a stream of events.
//!
//! Invariant: at most the limit is kept of a body, compressed and decompressed, and what came before an error is kept.

use crate::decode::Encodings;
use http::HeaderMap;
use leasehold_protocol::{AnswerStream, Call, Chunk, JoinedStream};
use std::io::Read;
use ureq::Body;

const BUFFER_BYTES: usize = 16 * 1024;

/// The reason that a body was not read to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The connection or the time ended.
    Transport(ureq::Error),
    /// The body is longer than the limit.
    TooLong,
}

/// A body read whole, or up to an error.
#[derive(Debug)]
pub(crate) struct WholeBody {
    pub(crate) bytes: Vec<u8>,
    pub(crate) error: Option<BodyError>,
    /// Whether the body is encoded as its header says.
    pub(crate) is_encoded_as_told: bool,
}

/// Reads a body whole. A shorter body than the limit is read to its end, which returns the connection to its pool.
pub(crate) fn read_whole(
    call: Call,
    headers: &HeaderMap,
    body: &mut Body,
    limit: u64,
) -> WholeBody {
    let mut bytes = Vec::new();
    let read = body
        .as_reader()
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes);
    let mut whole = WholeBody {
        error: read.err().map(|error| BodyError::Transport(error.into())),
        is_encoded_as_told: true,
        bytes,
    };
    let is_too_long = |bytes: &[u8]| bytes.len() as u64 > limit;
    if is_too_long(&whole.bytes) {
        whole.error = Some(BodyError::TooLong);
        return whole;
    }
    let labelled = Encodings::of(headers);
    let encodings = match labelled.clone() {
        // The answer of another call may be a compressed file.
        Some(encodings) if call != Call::Other => Some(encodings.or_unlabelled(&whole.bytes)),
        encodings => encodings,
    };
    whole.is_encoded_as_told = encodings == labelled;
    let decoded = match &encodings {
        Some(encodings) if encodings.is_empty() || whole.bytes.is_empty() => return whole,
        Some(encodings) => encodings.decode(&whole.bytes, limit),
        None => None,
    };
    match decoded {
        Some(bytes) => whole.bytes = bytes,
        None => whole.is_encoded_as_told = false,
    }
    if is_too_long(&whole.bytes) {
        whole.error = Some(BodyError::TooLong);
    }
    whole
}

/// Reads a stream of events to its end, or up to an error.
pub(crate) fn read_stream(
    call: Call,
    headers: &HeaderMap,
    body: &mut Body,
    limit: u64,
    on_chunk: &mut dyn FnMut(Chunk),
) -> (JoinedStream, Option<BodyError>) {
    let max_event = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut stream = AnswerStream::with_max_event(call, max_event);
    let source = body.as_reader();
    let mut reader = match Encodings::of(headers) {
        Some(encodings) => encodings.reader(source),
        None => Box::new(source),
    };
    let mut buffer = [0; BUFFER_BYTES];
    let mut left = limit;
    let error = loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => count,
            Err(error) => break Some(BodyError::Transport(error.into())),
        };
        let fits = u64::try_from(count)
            .ok()
            .and_then(|count| left.checked_sub(count));
        let fed = fits.map(|rest| {
            left = rest;
            stream.feed(&buffer[..count])
        });
        while let Some(chunk) = stream.next_chunk() {
            on_chunk(chunk);
        }
        if !matches!(fed, Some(Ok(()))) {
            break Some(BodyError::TooLong);
        }
    };
    (stream.finish(), error)
}

//! Frames that wait for one caller's socket.
//!
//! Invariant: at most [`MAX_BYTES`] wait. Of previews, progress and counts only the latest waits, so that a slow reader
//! sees fewer of them; one that is too slow for the rest is cut, and told all that matters when it is back.

use crate::lock;
use bytes::Bytes;
use core::sync::atomic::{AtomicBool, Ordering};
use leasehold_protocol::comfyui::{Preview, StatusFrame};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Bytes that wait at most.
const MAX_BYTES: usize = 8 << 20;
/// Bytes of the book-keeping of a frame.
const FRAME: usize = 64;

/// Frames of which only the latest matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Latest {
    Status,
    Progress,
    ProgressState,
    Preview,
}

/// Frames that wait for a socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
    takes_metadata: AtomicBool,
    takes_places: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<(Option<Latest>, Message)>,
    bytes: usize,
    is_cut: bool,
}

/// What a socket has to do next.
pub(super) enum Next {
    Send(Message),
    /// Its reader is too slow.
    Cut,
}

impl Outbox {
    /// Adds a frame that has to arrive.
    pub(super) fn push(&self, text: Utf8Bytes) {
        self.add(None, Message::Text(text));
    }

    /// Adds a frame in place of an earlier one of its kind that still waits.
    pub(super) fn push_latest(&self, kind: Latest, text: Utf8Bytes) {
        self.add(Some(kind), Message::Text(text));
    }

    pub(super) fn push_status(&self, status: &StatusFrame) {
        self.push_latest(Latest::Status, status.text(None).into());
    }

    /// Adds a binary frame that has to arrive.
    pub(super) fn push_binary(&self, frame: Bytes) {
        self.add(None, Message::Binary(frame));
    }

    /// Adds a preview, in the form that the client knows.
    pub(super) fn push_preview(&self, frame: &Bytes) {
        let frame = match (
            self.takes_metadata.load(Ordering::Relaxed),
            Preview::read(frame),
        ) {
            (false, Some(preview)) => preview.plain().into(),
            (true, _) | (false, None) => frame.clone(),
        };
        self.add(Some(Latest::Preview), Message::Binary(frame));
    }

    /// The client knows previews that say of which job they are.
    pub(super) fn take_metadata(&self) {
        self.takes_metadata.store(true, Ordering::Relaxed);
    }

    /// The client knows the gateway's own frames about places in line.
    pub(super) fn take_places(&self) {
        self.takes_places.store(true, Ordering::Relaxed);
    }

    pub(super) fn takes_places(&self) -> bool {
        self.takes_places.load(Ordering::Relaxed)
    }

    /// Waits for the next frame.
    pub(super) async fn next(&self) -> Next {
        loop {
            {
                let mut waiting = lock(&self.waiting);
                if waiting.is_cut {
                    return Next::Cut;
                }
                if let Some((_, frame)) = waiting.frames.pop_front() {
                    waiting.bytes = waiting.bytes.saturating_sub(size(&frame));
                    return Next::Send(frame);
                }
            }
            self.wake.notified().await;
        }
    }

    fn add(&self, kind: Option<Latest>, frame: Message) {
        let mut waiting = lock(&self.waiting);
        let earlier = kind.and_then(|kind| {
            let mut kinds = waiting.frames.iter();
            kinds.position(|(other, _)| *other == Some(kind))
        });
        if let Some((_, earlier)) = earlier.and_then(|at| waiting.frames.remove(at)) {
            waiting.bytes = waiting.bytes.saturating_sub(size(&earlier));
        }
        waiting.bytes = waiting.bytes.saturating_add(size(&frame));
        if waiting.bytes > MAX_BYTES {
            waiting.is_cut = true;
            waiting.frames.clear();
        } else if !waiting.is_cut {
            waiting.frames.push_back((kind, frame));
        }
        drop(waiting);
        self.wake.notify_one();
    }
}

fn size(frame: &Message) -> usize {
    frame.len().saturating_add(FRAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn next(outbox: &Outbox) -> Option<Message> {
        match outbox.next().now_or_never()? {
            Next::Send(frame) => Some(frame),
            Next::Cut => panic!("it was cut"),
        }
    }

    #[test]
    fn of_counts_only_the_latest_waits_and_events_all_do() {
        let outbox = Outbox::default();
        for remaining in 0..1_000 {
            outbox.push_status(&StatusFrame { remaining });
        }
        outbox.push("one".into());
        outbox.push_status(&StatusFrame { remaining: 7 });
        outbox.push("two".into());
        let texts: Vec<_> = core::iter::from_fn(|| next(&outbox)).collect();
        let status = StatusFrame { remaining: 7 }.text(None);
        let expected = ["one".to_owned(), status, "two".to_owned()];
        assert_eq!(texts, expected.map(Message::text));
    }

    #[test]
    fn a_reader_that_is_too_slow_is_cut_and_holds_nothing() {
        let outbox = Outbox::default();
        let preview = Bytes::from(vec![0; 200_000]);
        for _ in 0..1_000 {
            outbox.push_preview(&preview);
        }
        assert!(next(&outbox).is_some(), "previews are thinned");
        let text = Utf8Bytes::from("x".repeat(100_000));
        for _ in 0..100 {
            outbox.push(text.clone());
        }
        assert!(matches!(outbox.next().now_or_never(), Some(Next::Cut)));
        assert_eq!(lock(&outbox.waiting).frames.len(), 0);
    }
}

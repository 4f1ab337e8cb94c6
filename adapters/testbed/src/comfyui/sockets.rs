//! The table of websockets by client id, with the real server's flaw.
//!
//! Invariant: an id has at most one entry. A new connection replaces it, and the end of any connection of the id
//! removes it, also if it belongs to another: that one stays open and hears nothing any more.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

/// Frames that wait for a reader. The channel is bounded by the bytes that the sender counts.
#[derive(Debug)]
pub(super) struct Outbox {
    frames: UnboundedSender<Message>,
    waiting: Arc<AtomicUsize>,
    /// Wakes the connection when the outbox is dropped.
    _is_kept: watch::Sender<()>,
}

/// The other end of an [`Outbox`]. It ends when the server has dropped the websocket.
#[derive(Debug)]
pub(super) struct Inbox {
    frames: UnboundedReceiver<Message>,
    waiting: Arc<AtomicUsize>,
    is_kept: watch::Receiver<()>,
}

impl Inbox {
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.frames.recv().await
    }

    /// Returns once the server has dropped the websocket, also while a frame is being sent.
    pub(super) fn dropped(&self) -> impl Future<Output = ()> + use<> {
        let mut is_kept = self.is_kept.clone();
        // Nothing is ever sent: it ends with the sender.
        async move { while is_kept.changed().await.is_ok() {} }
    }

    /// Counts a frame as handed to the system.
    pub(super) fn sent(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    outbox: Outbox,
    /// Features that the client has.
    flags: Value,
}

/// Websockets by client id.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    table: BTreeMap<String, Entry>,
    /// Outboxes of replaced connections, kept so that these stay open.
    replaced: BTreeMap<u64, Outbox>,
    numbers: BTreeMap<String, u64>,
    last: u64,
    most_bytes: usize,
}

impl Sockets {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            ..Self::default()
        }
    }

    /// Enters a new connection in place of an earlier one of the same id, and returns its number.
    pub(super) fn open(&mut self, client_id: &str) -> (u64, Inbox) {
        let (sender, frames) = unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (keep, is_kept) = watch::channel(());
        let outbox = Outbox {
            frames: sender,
            waiting: Arc::clone(&waiting),
            _is_kept: keep,
        };
        let entry = Entry {
            outbox,
            flags: Value::Null,
        };
        self.last += 1;
        let earlier = self.numbers.insert(client_id.to_owned(), self.last);
        if let (Some(number), Some(entry)) = (earlier, self.table.remove(client_id)) {
            self.replaced.insert(number, entry.outbox);
        }
        self.table.insert(client_id.to_owned(), entry);
        let inbox = Inbox {
            frames,
            waiting,
            is_kept,
        };
        (self.last, inbox)
    }

    /// Cleans up after a connection: removes the id, whichever connection has it now.
    pub(super) fn close(&mut self, client_id: &str, number: u64) {
        self.replaced.remove(&number);
        let current = self.numbers.remove(client_id);
        if let (Some(current), Some(entry)) = (current, self.table.remove(client_id))
            && current != number
        {
            // Open and deaf.
            self.replaced.insert(current, entry.outbox);
        }
    }

    pub(super) fn set_flags(&mut self, client_id: &str, flags: Value) {
        if let Some(entry) = self.table.get_mut(client_id) {
            entry.flags = flags;
        }
    }

    /// Whether the client of this id takes previews with metadata.
    pub(super) fn takes_metadata(&self, client_id: &str) -> bool {
        let entry = self.table.get(client_id);
        entry.is_some_and(|entry| entry.flags["supports_preview_metadata"] == true)
    }

    /// Queues a frame for one id, or for all, and returns how many connections were dropped as too slow.
    pub(super) fn send(&mut self, client_id: Option<&str>, frame: &Message) -> u64 {
        let bytes = frame.len();
        let most = self.most_bytes;
        let mut slow = Vec::new();
        let mut push = |id: &String, entry: &Entry| {
            let Outbox {
                frames, waiting, ..
            } = &entry.outbox;
            if waiting.load(Ordering::Relaxed).saturating_add(bytes) > most {
                slow.push(id.clone());
                return;
            }
            waiting.fetch_add(bytes, Ordering::Relaxed);
            // An error means that the connection is ending.
            let _ = frames.send(frame.clone());
        };
        match client_id {
            None => self.table.iter().for_each(|(id, entry)| push(id, entry)),
            Some(id) => {
                if let Some((id, entry)) = self.table.get_key_value(id) {
                    push(id, entry);
                }
            }
        }
        for id in &slow {
            // Without an outbox the connection ends.
            self.table.remove(id);
            self.numbers.remove(id);
        }
        slow.len() as u64
    }
}

/// A JSON frame.
pub(super) fn event(kind: &str, data: &Value) -> Message {
    Message::text(json!({ "type": kind, "data": data }).to_string())
}

/// A preview without a word about its job: a PNG.
pub(super) fn preview(image: &[u8]) -> Message {
    let head = [1_u32.to_be_bytes(), 2_u32.to_be_bytes()];
    Message::binary([head.concat().as_slice(), image].concat())
}

/// A preview that names its job and node.
pub(super) fn preview_with_metadata(metadata: &Map<String, Value>, image: &[u8]) -> Message {
    let metadata = Value::Object(metadata.clone()).to_string().into_bytes();
    let length = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
    let head = [4_u32.to_be_bytes(), length.to_be_bytes()].concat();
    Message::binary([head.as_slice(), &metadata, image].concat())
}

//! The log of requests: lines gathered by each thread, written by one thread of its own.
//!
//! Invariant: no exchange waits for the log. Where the disk is too slow, lines are dropped and counted.

mod line;

use crate::record::Record;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use leasehold_config::{AccessLog, LogFormat};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes of lines that a thread gathers before it hands them over.
const BUFFER: usize = 32 * 1_024;
/// Buffers that may wait for the disk.
const WAITING: usize = 256;

/// The way to the thread that writes.
#[derive(Debug)]
pub(crate) struct LogQueue {
    sender: SyncSender<Vec<u8>>,
    format: LogFormat,
    status: Arc<LogStatus>,
}

#[derive(Debug, Default)]
struct LogStatus {
    must_reopen: AtomicBool,
    dropped: AtomicU64,
}

impl LogQueue {
    /// Opens the log and starts its thread, which ends once the queue is dropped; `None` where there is no log.
    pub(crate) fn start(settings: &AccessLog) -> io::Result<Option<(Self, JoinHandle<()>)>> {
        let Some(format) = settings.format else {
            return Ok(None);
        };
        let (sender, receiver) = sync_channel(WAITING);
        let status = Arc::new(LogStatus::default());
        let output = Output::open(settings.path.as_deref())?;
        let (told, path) = (Arc::clone(&status), settings.path.clone());
        let writer = thread::Builder::new().name("access-log".to_owned());
        let writer = writer.spawn(move || write_all(output, path.as_deref(), &receiver, &told))?;
        Ok(Some((
            Self {
                sender,
                format,
                status,
            },
            writer,
        )))
    }

    pub(crate) fn format(&self) -> LogFormat {
        self.format
    }

    /// Opens the file anew before the next line, because it was moved away.
    pub(crate) fn reopen(&self) {
        self.status.must_reopen.store(true, Ordering::Relaxed);
    }

    /// Returns how many buffers of lines were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.status.dropped.load(Ordering::Relaxed)
    }
}

/// The lines that a thread has gathered.
#[derive(Debug, Default)]
pub(crate) struct LogBuffer {
    bytes: Vec<u8>,
    dates: line::Dates,
}

impl LogBuffer {
    /// Adds a line.
    pub(crate) fn add(&mut self, queue: &LogQueue, record: &Record, took: Duration) {
        let date = self.dates.of(record.started, took);
        line::write(&mut self.bytes, queue.format, date, record, took);
        if self.bytes.len() >= BUFFER {
            self.flush(queue);
        }
    }

    /// Hands the lines over.
    pub(crate) fn flush(&mut self, queue: &LogQueue) {
        if self.bytes.is_empty() {
            return;
        }
        let bytes = core::mem::replace(&mut self.bytes, Vec::with_capacity(BUFFER));
        if queue.sender.try_send(bytes).is_err() {
            queue.status.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
enum Output {
    File(File),
    Standard(io::Stdout),
}

impl Output {
    fn open(path: Option<&Path>) -> io::Result<Self> {
        match path {
            None => Ok(Self::Standard(io::stdout())),
            Some(path) => OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map(Self::File),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Standard(output) => output.write_all(bytes).and_then(|()| output.flush()),
        }
    }
}

fn write_all(
    mut output: Output,
    path: Option<&Path>,
    lines: &Receiver<Vec<u8>>,
    status: &LogStatus,
) {
    for bytes in lines {
        if status.must_reopen.swap(false, Ordering::Relaxed)
            && let Ok(reopened) = Output::open(path)
        {
            output = reopened;
        }
        if output.write_all(&bytes).is_err() {
            status.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

//! Connections, and what they carried.
//!
//! Invariant: a connection counts as open until its socket is closed, by either side or by a kill.

use super::report::ConnectionReport;
use super::state::Origin;
use crate::server::{Connection, Orders};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;

/// Most connections of a report.
const MAX_CONNECTIONS: usize = 1_000;

/// A connection, counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct BackendConnection {
    origin: Arc<Origin>,
    orders: Orders,
    traffic: Arc<Traffic>,
}

impl BackendConnection {
    /// Counts a connection that was accepted.
    pub(super) fn open(origin: &Arc<Origin>) -> Self {
        Self {
            origin: Arc::clone(origin),
            orders: Orders::default(),
            traffic: origin.change(|state| state.connections.open()),
        }
    }

    /// Number of the connection.
    pub(super) fn number(&self) -> u64 {
        self.traffic.number
    }

    /// Counts a request, and returns its number on the connection.
    pub(super) fn note_request(&self) -> u64 {
        self.traffic.requests.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Connection for BackendConnection {
    fn orders(&self) -> &Orders {
        &self.orders
    }

    fn note_traffic(&self, read: usize, written: usize) {
        let add = |count: &AtomicU64, bytes: usize| {
            if bytes > 0 {
                count.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        };
        add(&self.traffic.read, read);
        add(&self.traffic.written, written);
    }
}

impl Drop for BackendConnection {
    fn drop(&mut self) {
        let number = self.traffic.number;
        self.origin.change(|state| state.connections.close(number));
    }
}

/// Counts of a connection while it is open.
#[derive(Debug)]
struct Traffic {
    number: u64,
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    fn report(&self, is_open: bool) -> ConnectionReport {
        ConnectionReport {
            number: self.number,
            requests: self.requests.load(Ordering::Relaxed),
            bytes_read: self.read.load(Ordering::Relaxed),
            bytes_written: self.written.load(Ordering::Relaxed),
            is_open,
        }
    }
}

/// Counts of all connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    opened: u64,
    most_open: u64,
    open: HashMap<u64, Arc<Traffic>>,
    /// The last closed ones.
    closed: VecDeque<ConnectionReport>,
    /// Bytes of all closed ones.
    read: u64,
    written: u64,
}

impl Connections {
    fn open(&mut self) -> Arc<Traffic> {
        self.opened += 1;
        let traffic = Arc::new(Traffic {
            number: self.opened,
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        self.open.insert(self.opened, Arc::clone(&traffic));
        self.most_open = self.most_open.max(self.open.len() as u64);
        traffic
    }

    fn close(&mut self, number: u64) {
        let Some(traffic) = self.open.remove(&number) else {
            return;
        };
        let report = traffic.report(false);
        self.read += report.bytes_read;
        self.written += report.bytes_written;
        if self.closed.len() == MAX_CONNECTIONS {
            self.closed.pop_front();
        }
        self.closed.push_back(report);
    }

    pub(super) const fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn open_now(&self) -> u64 {
        self.open.len() as u64
    }

    pub(super) const fn most_open(&self) -> u64 {
        self.most_open
    }

    /// Bytes read and written.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let open = self.open.values().map(|traffic| traffic.report(true));
        open.fold((self.read, self.written), |(read, written), traffic| {
            (read + traffic.bytes_read, written + traffic.bytes_written)
        })
    }

    /// The last connections, in the order of their start.
    pub(super) fn reports(&self) -> Vec<ConnectionReport> {
        let open = self.open.values().map(|traffic| traffic.report(true));
        let mut reports: Vec<_> = open.chain(self.closed.iter().cloned()).collect();
        reports.sort_by_key(|connection| connection.number);
        reports.split_off(reports.len().saturating_sub(MAX_CONNECTIONS))
    }
}

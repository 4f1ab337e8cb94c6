//! The report of what a backend saw.

use super::record::SeenRequest;
use crate::report::LimitReport;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::SocketAddr;
use serde::{Serialize, Serializer};

/// Counts of a backend since it started, over all its restarts.
///
/// `requests` is the sum of `answered`, `refused_429`, `refused_503`, `faults`, `hung_up`, `killed` and `in_flight`.
#[derive(Serialize, Clone, Debug)]
#[non_exhaustive]
pub struct BackendReport {
    /// Name in its answers.
    pub id: String,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Requests whose head arrived, except those for `/health` and `/testbed/`.
    pub requests: u64,
    /// Requests answered in full.
    pub answered: u64,
    /// Requests refused as over a limit.
    pub refused_429: u64,
    /// Requests refused because too many were in flight, or too many websockets open.
    pub refused_503: u64,
    /// Requests that got a fault.
    pub faults: u64,
    /// Requests whose caller closed the connection before the end of the answer, or in the body of the request.
    pub hung_up: u64,
    /// Requests that were cut off by a kill or a stop.
    pub killed: u64,
    /// Requests whose answer has not ended.
    pub in_flight: u64,
    /// Most requests in flight at once, refused ones included.
    pub max_in_flight: u64,
    /// Requests for `/health`.
    pub probes: u64,
    /// Requests that arrived while the caller was told to wait.
    pub early: u64,
    /// Counts of each limit, in the order of the configuration.
    pub limits: Vec<LimitReport>,
    /// Requests by path. Beyond 1,000 paths, and those longer than 200 bytes, they count as `…`.
    pub by_path: BTreeMap<String, u64>,
    /// Requests by the status of their answer.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests by the name of their fault.
    pub by_fault: BTreeMap<String, u64>,
    /// Connections accepted.
    pub connections_opened: u64,
    /// Connections that are open. In the report of a stop: those that were open when it began.
    pub connections_open: u64,
    /// Most connections open at once.
    pub max_connections: u64,
    /// Bytes read from all connections, heads included.
    pub bytes_read: u64,
    /// Bytes written to all connections, heads included.
    pub bytes_written: u64,
    /// The last 1,000 connections, in the order of their start.
    pub connections: Vec<ConnectionReport>,
    /// Websockets opened.
    pub websockets_opened: u64,
    /// Websockets that are open.
    pub websockets_open: u64,
    /// Most websockets open at once.
    pub max_websockets: u64,
    /// Websocket messages echoed.
    pub websocket_messages: u64,
    /// The last requests, if they are recorded, in the order of their heads; each is there once its body has ended.
    #[serde(serialize_with = "as_list")]
    pub recorded: Vec<Arc<SeenRequest>>,
}

fn as_list<S: Serializer>(recorded: &[Arc<SeenRequest>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(recorded.iter().map(AsRef::as_ref))
}

/// Counts of a connection.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionReport {
    /// Number of the connection, from 1 on.
    pub number: u64,
    /// Requests whose head arrived, those for `/health` and `/testbed/` included.
    pub requests: u64,
    /// Bytes read, heads included.
    pub bytes_read: u64,
    /// Bytes written, heads included.
    pub bytes_written: u64,
    /// Whether it is open.
    pub is_open: bool,
}

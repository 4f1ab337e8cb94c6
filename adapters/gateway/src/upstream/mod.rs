//! Connections to backends: each thread keeps its own, and sends one request at a time on each.
//!
//! Invariant: a connection is kept only once its answer was read to the end, and a request is sent again only while
//! nothing of it has reached a backend.

mod connect;
mod connection;
mod idle;
mod post;
mod send;
mod tls;

pub(crate) use connect::{BackendStream, ConnectError, connect, connect_stream};
pub(crate) use connection::BackendConnection;
pub(crate) use idle::IdleConnections;
pub(crate) use post::post;
pub(crate) use send::{SendError, Sent, send};
pub(crate) use tls::Tls;

#![doc = include_str!("../README.md")]

mod agents;
mod body;
mod client;
mod clock;
mod config;
mod connect;
mod decode;
mod error;
mod not_connected;
#[cfg(feature = "remote")]
mod remote;
mod reply;
mod resolver;
mod retry;
mod stats;
#[cfg(test)]
mod tests;
mod tls;

pub use client::Client;
pub use config::{ClientConfig, HeaderError};
pub use error::CallError;
#[cfg(feature = "remote")]
pub use leasehold_protocol::lease::{Place, PlaceError};
pub use leasehold_protocol::{
    ApiKey, ApiKeyError, ChatRequest, Chunk, Completion, Endpoint, EndpointError,
};
#[cfg(feature = "remote")]
pub use remote::RemotePool;
pub use reply::{CallEvent, ChatCompletion, Reply};
pub use retry::RetryPolicy;
pub use stats::ClientStats;
pub use tls::{CaBundle, CaError};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, and ignores poison: no code here leaves data half changed between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

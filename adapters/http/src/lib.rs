#![doc = include_str!("../README.md")]

mod agents;
mod chat;
mod client;
mod clock;
mod connect;
mod endpoint;
mod error;
mod not_connected;
mod resolver;
mod retry;
mod secret;
#[cfg(test)]
mod tests;

pub use chat::{ChatCompletion, ChatRequest, Message, Role};
pub use client::{Client, ClientConfig, ClientStats};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{CallError, CallErrorKind, ErrorResponse};
pub use retry::RetryPolicy;
pub use secret::{ApiKey, ApiKeyError};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, and ignores poison: no code here leaves data half changed between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Blocking HTTP clients for upstreams, over ureq.
//!
//! A [`Client`] keeps connections open, one pool an [`Endpoint`] (a URL and an [`ApiKey`]), and makes
//! calls over them. It knows nothing of limits: whoever calls holds a lease, and learns from the
//! [`CallError`] what to tell the pool that granted it.
//!
//! Invariant: a key is shown to the service it belongs to and to nobody else, neither by a redirect nor
//! in a log or an error.
//!
//! ```no_run
//! use leasehold_http::{ApiKey, ChatRequest, Client, ClientConfig, Endpoint};
//!
//! let client = Client::new(ClientConfig::default());
//! let key = ApiKey::new(std::env::var("OPENAI_API_KEY")?)?;
//! let endpoint = Endpoint::new("https://api.openai.com/v1", key)?;
//! match client.chat(&endpoint, &ChatRequest::user("gpt-4o-mini", "Why is the sky blue?")) {
//!     Ok(answer) => println!("{} ({} tokens)", answer.content, answer.total_tokens),
//!     Err(error) if error.is_throttled() => println!("wait for {:?}", error.retry_after()),
//!     Err(error) => println!("{error}"),
//! }
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

mod agents;
mod chat;
mod client;
mod clock;
mod connect;
mod endpoint;
mod error;
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

/// Locks, whatever became of an earlier holder: what is kept under a lock here is whole between any two
/// statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

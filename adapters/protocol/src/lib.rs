#![doc = include_str!("../README.md")]

mod anthropic;
mod asked;
mod backend;
mod call;
mod completion;
mod endpoint;
mod error_body;
mod json;
mod note;
mod openai;
mod page;
mod rate_headers;
mod refusal;
mod relay;
mod rest;
mod retry_after;
mod secret;
mod sse;
mod stream;
#[cfg(test)]
mod testing;
mod tokens;
mod usage;
pub mod verdict;
mod wait;

pub use asked::{Asked, patience};
pub use backend::{BackendHealth, backend_health};
pub use call::Call;
pub use completion::{Choice, Completion};
pub use endpoint::{Auth, Endpoint, EndpointError};
pub use error_body::ErrorBody;
pub use note::Note;
pub use openai::request::{ChatRequest, RequestError, make_streamed};
pub use page::Proxy;
pub use rate_headers::{Counted, LearnedLimit};
pub use refusal::Refusal;
pub use relay::StreamRelay;
pub use rest::{Rest, RestConfig, Rests};
pub use secret::{ApiKey, ApiKeyError, MAX_TEXT, sanitize};
pub use sse::{EventTooLong, SseEvent, SseParser, is_event_stream};
pub use stream::{AnswerStream, Chunk, Delta, JoinedStream};
pub use tokens::{Encoding, count_tokens, estimate_most, estimate_prompt};
pub use usage::Usage;
pub use wait::MAX_WAIT;

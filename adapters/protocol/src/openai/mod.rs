//! The wire types of OpenAI-compatible services.

pub(crate) mod chat;
pub(crate) mod chat_stream;
pub(crate) mod embeddings;
pub(crate) mod request;
pub(crate) mod responses;
pub(crate) mod responses_stream;

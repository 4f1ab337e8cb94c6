//! The wire types of Anthropic.

pub(crate) mod messages;
pub(crate) mod messages_stream;

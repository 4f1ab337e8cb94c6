//! What services say, as `leasehold-protocol` reads it: streams against a plain reader, verdicts against their promises.

pub mod rate_headers;
pub mod sse;
pub mod verdict;

/// The key that no text may show.
const KEY: &str = "sk-secret-12345678";

//! Headers that tell limits and waits.

use super::verdict::{self, Header};
use arbitrary::Arbitrary;

/// Headers of a refusal.
#[derive(Clone, Debug, Arbitrary)]
pub struct Case {
    /// The headers.
    pub headers: Vec<Header>,
    /// Seconds since 1970.
    pub now: u32,
}

/// Judges a refusal with the headers.
///
/// # Panics
/// If a promise is broken; see [`verdict::run`].
pub fn run(case: &Case) {
    for status in [200, 429, 503] {
        verdict::run(&verdict::Case {
            status,
            call: 0,
            headers: case.headers.clone(),
            body: b"{\"choices\": [{\"message\": {}}]}".to_vec(),
            keys_at: Vec::new(),
            now: case.now,
        });
    }
}

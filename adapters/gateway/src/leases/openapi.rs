//! The OpenAPI document of the lease service, as `openapi.json` has it.

use serde_json::Value;

const DOCUMENT: &str = include_str!("openapi.json");

/// Returns the document.
pub(super) fn document() -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document
}

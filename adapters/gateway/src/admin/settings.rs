//! The settings in force, as people see them.
//!
//! Invariant: no secret is shown: of tokens whether they are set, of keys nothing.

use super::stats::algorithm;
use crate::gateway::shown;
use crate::shared::Table;
use serde_json::{Value, json};

/// Returns the settings of a table: those of the configuration file under its own names, and what no file says.
pub(crate) fn view(table: &Table) -> Value {
    let settings = &table.settings;
    let addresses = settings
        .listeners
        .iter()
        .map(|listener| shown(&listener.address));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "addresses": addresses.collect::<Vec<_>>(),
        "algorithm": settings.pools.first().map(|pool| algorithm(pool.policy)),
        "admin": {
            "has_token": settings.admin.token.is_some(),
            "open_on_loopback": settings.admin.open_on_loopback,
        },
        "settings": settings.to_json(),
    })
}

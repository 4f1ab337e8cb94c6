//! The settings in force, as people see them.
//!
//! Invariant: no secret is shown: of tokens whether they are set, of keys nothing.

use super::error::AdminError;
use super::stats::algorithm;
use crate::reload::Reloads;
use crate::shared::{Shared, Table};
use serde_json::{Value, json};

/// Returns the settings of a table: those of the configuration file under its own names, and what no file says, such as
/// what was wrong with a file that was read later.
pub(crate) fn view(table: &Table, reloads: &Reloads) -> Value {
    let settings = &table.settings;
    let addresses = settings
        .listeners
        .iter()
        .map(|listener| listener.address.to_string());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "addresses": addresses.collect::<Vec<_>>(),
        "algorithm": settings.pools.first().map(|pool| algorithm(pool.policy)),
        "admin": {
            "has_token": settings.admin.token.is_some(),
            "open_on_loopback": settings.admin.open_on_loopback,
        },
        "reload": reloads.view(),
        "settings": settings.to_json(),
    })
}

/// Reads the settings again and puts them in force.
pub(crate) fn reload(shared: &Shared) -> Result<(), AdminError> {
    let reloaded = shared.reloads().reload(shared);
    reloaded.map_err(|error| AdminError::conflict("not_reloaded", error))
}

//! A request to the admin interface that is read and not answered, for the fuzzer.

use super::body::{self, Change, NewBackend};
use super::changes::AdminChanges;
use super::error::AdminError;
use super::query::Query;
use super::routes::{self, Call};
use crate::backend::Backend;
use http::Method;

/// Reads a request, and returns its status if it is refused: 500 for one that is accepted and can't be made or kept.
///
/// # Errors
/// The status.
pub fn read_admin_request(method: &str, target: &str, body: &[u8]) -> Result<(), u16> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let method: Method = method.parse().map_err(|_| 400_u16)?;
    let status = |error: AdminError| error.status.as_u16();
    let (route, _) = routes::find(&method, path, true).map_err(status)?;
    Query::read(query, route.parameters).map_err(status)?;
    let Call::Change(kind) = route.call else {
        return Ok(());
    };
    match body::parse(kind, body) {
        Ok(Change::Add(new)) => check(new).ok_or(500),
        Ok(_) => Ok(()),
        Err(_) => Err(400),
    }
}

/// Whether a backend can be made, and comes back from a state file as it was.
fn check(new: NewBackend) -> Option<()> {
    let settings = new.backend.settings(&new.name);
    Backend::new(&settings, leasehold_config::Kind::Http).ok()?;
    let mut changes = AdminChanges::default();
    changes.add("web", &new.name, new.backend);
    let text = serde_json::to_string(&changes).ok()?;
    let read: AdminChanges = serde_json::from_str(&text).ok()?;
    (read == changes).then_some(())
}

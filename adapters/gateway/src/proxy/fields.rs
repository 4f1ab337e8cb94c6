//! The fields of a request's head that every exchange asks for.
//!
//! Invariant: they are found in one walk, since hashing each name would take longer for the few fields of most heads. Of
//! a field that comes twice, the first one counts.

use super::headers::{X_REQUEST_ID, new_request_id};
use http::header::{CONNECTION, HOST, REFERER, UPGRADE, USER_AGENT};
use http::{HeaderMap, HeaderValue};

/// Longest request id that is taken from a caller.
const MAX_ID: usize = 128;

/// What a head has of these fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'h> {
    pub(crate) host: Option<&'h HeaderValue>,
    pub(crate) has_two_hosts: bool,
    pub(crate) has_connection: bool,
    pub(crate) upgrade: Option<&'h HeaderValue>,
    /// The page that led here.
    pub(crate) referrer: Option<&'h HeaderValue>,
    /// The caller's program.
    pub(crate) agent: Option<&'h HeaderValue>,
    /// The caller's name for the request.
    id: Option<&'h HeaderValue>,
}

impl<'h> Fields<'h> {
    /// Finds them. O(fields).
    pub(crate) fn of(headers: &'h HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            let place = match name {
                name if *name == HOST => {
                    fields.has_two_hosts = fields.host.is_some();
                    &mut fields.host
                }
                name if *name == USER_AGENT => &mut fields.agent,
                name if *name == REFERER => &mut fields.referrer,
                name if *name == UPGRADE => &mut fields.upgrade,
                name if *name == CONNECTION => {
                    fields.has_connection = true;
                    continue;
                }
                name if *name == X_REQUEST_ID => &mut fields.id,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        fields
    }

    /// Returns the id by which logs of all sides name a request: the caller's, if it is plain, or a new one.
    pub(crate) fn request_id(&self) -> HeaderValue {
        let is_plain = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            !bytes.is_empty() && bytes.len() <= MAX_ID && bytes.iter().all(u8::is_ascii_graphic)
        };
        let given = self.id.filter(is_plain).cloned();
        given.unwrap_or_else(new_request_id)
    }
}

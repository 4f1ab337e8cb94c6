//! The members of a pool elsewhere, as far as its leases have told of them.
//!
//! Invariant: a member keeps its id, and its payload is made of what was told of it last.

use super::GrantedLease;
use crate::secret::ApiKey;
use leasehold_core::pool::{MemberId, PoolId};
use std::collections::HashMap;
use std::sync::Arc;

/// The identity of pools elsewhere, which no pool of this process has by default.
const ELSEWHERE: PoolId = PoolId::new(u32::MAX);

/// The members of a pool elsewhere, by their names.
///
/// ```
/// use leasehold_protocol::lease::{GrantedLease, RemoteMembers};
///
/// let mut granted: GrantedLease = serde_json::from_str(
///     r#"{"lease": "keys-7", "fence": 7, "member": "a", "url": "https://api.test/v1",
///         "expires_in_ms": 60000, "renew_in_ms": 20000, "waited_ms": 0}"#,
/// )?;
/// let mut members = RemoteMembers::default();
/// let make = |granted: &GrantedLease| granted.url.clone();
/// let (id, payload) = members.of(&granted, make);
/// assert_eq!(*payload, "https://api.test/v1");
/// granted.url = "https://api.test/v2".to_owned();
/// let (again, payload) = members.of(&granted, make);
/// assert_eq!((again, payload.as_str()), (id, "https://api.test/v2"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RemoteMembers<T> {
    known: HashMap<String, Known<T>>,
}

/// A member as it was last told of.
#[derive(Clone, Debug)]
struct Known<T> {
    id: MemberId,
    /// Its URL and its key, with which the payload was made.
    told: (String, Option<ApiKey>),
    payload: Arc<T>,
}

impl<T> RemoteMembers<T> {
    /// Returns a member's id and payload, which is made when the member is first told of, or otherwise than before.
    pub fn of(
        &mut self,
        granted: &GrantedLease,
        make: impl Fn(&GrantedLease) -> T,
    ) -> (MemberId, Arc<T>) {
        let number = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let told = (granted.url.clone(), granted.secret.clone());
        let known = self.known.get(&granted.member);
        if let Some(same) = known.filter(|known| known.told == told) {
            return (same.id, Arc::clone(&same.payload));
        }
        let id = known.map_or(MemberId::elsewhere(ELSEWHERE, number), |known| known.id);
        let payload = Arc::new(make(granted));
        let made = Known {
            id,
            told,
            payload: Arc::clone(&payload),
        };
        self.known.insert(granted.member.clone(), made);
        (id, payload)
    }
}

impl<T> Default for RemoteMembers<T> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
        }
    }
}

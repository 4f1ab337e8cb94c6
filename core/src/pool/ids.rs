//! Names of a pool's parts.
//!
//! Invariant: an id is accepted only by the pool that made it, and only while it means the same thing.

use crate::health;
use crate::util::slab::Handle;
use core::num::NonZeroU32;

/// The identity of a pool, which every id made by it carries.
///
/// Two pools of one process whose ids could be mixed up need different identities; see
/// [`PoolConfigBuilder::id`](super::PoolConfigBuilder::id). A pool that is restored from a snapshot under
/// the same identity tells ids from before the snapshot apart from its own, and refuses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct PoolId(u32);

impl PoolId {
    /// The identity of this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

/// Defines an id: the pool's identity and a handle, private to the pool.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pool: PoolId,
            handle: Handle,
        }

        impl $name {
            pub(super) const fn new(pool: PoolId, handle: Handle) -> Self {
                Self { pool, handle }
            }

            /// The handle, if the id is of this pool.
            pub(super) fn within(self, pool: PoolId) -> Option<Handle> {
                (self.pool == pool).then_some(self.handle)
            }
        }
    };
}

id!(
    /// A member of one pool.
    MemberId
);
id!(
    /// A lease of one pool.
    LeaseId
);
id!(
    /// A queued request of one pool.
    WaiterId
);

impl MemberId {
    /// The member of this number in a pool of another process, whose members are numbered here. A pool of this process
    /// refuses it, unless it has the same identity.
    #[must_use]
    pub const fn elsewhere(pool: PoolId, number: u32) -> Self {
        Self::new(pool, Handle::foreign(number))
    }
}

/// A group of members that share limits, in one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GroupId {
    pool: PoolId,
    /// The index of the group, plus one, so that an `Option` of it takes no more room.
    number: NonZeroU32,
}

impl GroupId {
    pub(super) fn new(pool: PoolId, index: GroupIndex) -> Self {
        let number = NonZeroU32::MIN.saturating_add(index.0);
        Self { pool, number }
    }

    /// The index of the group, if the id is of this pool.
    pub(super) fn within(self, pool: PoolId) -> Option<GroupIndex> {
        let index = self.number.get().saturating_sub(1);
        (self.pool == pool).then_some(GroupIndex(index))
    }
}

/// The index of a group inside its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub(super) struct GroupIndex(pub(super) u32);

/// A probe of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId {
    pub(super) member: MemberId,
    pub(super) probe: health::ProbeNumber,
}

//! Why a member can or can't serve a request, for people.

use core::fmt;
use leasehold_core::pool::{Eligibility, MemberId};
use std::sync::Arc;

/// Whether a member could serve a request, and if not, why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The member.
    pub member: MemberId,
    /// Its name, if it was added under one.
    pub name: Option<Arc<str>>,
    /// The reason.
    pub eligibility: Eligibility,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}: {}", self.eligibility),
            None => write!(f, "{}", self.eligibility),
        }
    }
}

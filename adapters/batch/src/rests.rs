//! Rests of members: how long each rests after an answer, since when and why.

use crate::lock;
use crate::origin::short_reason;
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_protocol::Rests;
use leasehold_protocol::verdict::{Fate, Outcome, Pause, Verdict};
use leasehold_sync::MemberId;
use std::collections::HashMap;
use std::sync::Mutex;

/// Longest rest of a single member whose service is overloaded; an outage of the service has rests of its own.
const OVERLOAD_REST: Duration = Duration::from_secs(4);

/// A member that rests.
#[derive(Clone, Debug)]
pub(crate) struct Resting {
    pub(crate) since: Tick,
    pub(crate) until: Tick,
    pub(crate) reason: String,
}

/// The rests of all members of a run.
pub(crate) struct MemberRests {
    lengths: HashMap<MemberId, Mutex<Rests>>,
    resting: Mutex<HashMap<MemberId, Resting>>,
}

impl MemberRests {
    pub(crate) fn new(members: impl Iterator<Item = MemberId>, seed: u64) -> Self {
        let seeds = (0u64..).map(|number| seed.wrapping_add(number));
        let lengths = members.zip(seeds);
        Self {
            lengths: lengths
                .map(|(id, seed)| (id, Mutex::new(Rests::new(seed))))
                .collect(),
            resting: Mutex::default(),
        }
    }

    /// Counts a verdict; returns how long its member rests, if it does.
    pub(crate) fn after(&self, member: MemberId, verdict: &Verdict, now: Tick) -> Option<Duration> {
        let rests = self.lengths.get(&member);
        let rest = rests.and_then(|rests| rest_after(&mut lock(rests), verdict));
        let mut resting = lock(&self.resting);
        if let Some(rest) = rest {
            let since = resting.get(&member).map_or(now, |known| known.since);
            let entry = Resting {
                since,
                until: now.saturating_add(rest),
                reason: short_reason(verdict),
            };
            resting.insert(member, entry);
        } else if verdict.outcome == Outcome::Ok {
            resting.remove(&member);
        }
        rest
    }

    /// Forgets that a member rests.
    pub(crate) fn end(&self, member: MemberId) {
        lock(&self.resting).remove(&member);
    }

    /// Returns the rest of a member that still lasts.
    pub(crate) fn of(&self, member: MemberId, now: Tick) -> Option<Resting> {
        let resting = lock(&self.resting);
        let rest = resting.get(&member).filter(|rest| rest.until > now);
        rest.cloned()
    }
}

/// Counts a verdict; returns how long a member with these rests is to rest, if it is.
pub(crate) fn rest_after(rests: &mut Rests, verdict: &Verdict) -> Option<Duration> {
    let rest = rests.after(verdict);
    match verdict.fate {
        Fate::Rest(Pause::Overload) => rest.map(|rest| rest.min(OVERLOAD_REST)),
        Fate::Rest(Pause::Told(_) | Pause::Rate) | Fate::Keep | Fate::Reject | Fate::TooSmall => {
            rest
        }
    }
}

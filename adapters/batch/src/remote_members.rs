//! What calls have told of the members of a gateway's pool: rejected keys, wrong URLs and models, outages.
//!
//! Invariant: members are known once they were leased, and their numbers stay. Limits and rests are the gateway's to keep.

use crate::origin::{Heard, Origin, Reaction};
use crate::report::KeySummary;
use crate::rests::rest_after;
use crate::source::Called;
use core::time::Duration;
use leasehold_core::pool::stats::{Histogram, LeaseCounts, MemberStats, QueueStats, Stats};
use leasehold_core::time::Tick;
use leasehold_protocol::verdict::{Fate, Next, Outcome};
use leasehold_protocol::{Endpoint, Rests};
use leasehold_sync::MemberId;
use std::collections::{HashMap, HashSet};

/// Rest of a member whose key is rejected, before it may be leased again.
pub(crate) const REJECTED_REST: Duration = Duration::from_secs(60);

/// The members that were leased so far, and their services.
#[derive(Default)]
pub(crate) struct RemoteMembers {
    members: Vec<Known>,
    numbers: HashMap<MemberId, usize>,
    origins: Vec<Origin>,
    /// The number of each service, by its URL.
    origin_of: HashMap<String, usize>,
    /// The models that services lack, as pairs of model and service.
    lacking: HashSet<(usize, usize)>,
    waited: Histogram,
}

struct Known {
    id: MemberId,
    name: String,
    endpoint: Endpoint,
    origin: usize,
    rests: Rests,
    /// The tick at which its key was rejected last.
    rejected: Option<Tick>,
    counts: LeaseCounts,
}

/// Why a member is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    /// Its key was rejected, and it is leased again after its rest; `is_last` if no other member was leased but such.
    Key { is_last: bool },
    /// Its service lacks the model, or is none.
    Service,
}

/// What follows from a call.
pub(crate) struct Learned {
    pub(crate) heard: Heard,
    /// How long the member is to rest.
    pub(crate) rest: Option<Duration>,
    /// Whether the model was found to be wrong at this service just now.
    pub(crate) is_new_lack: bool,
}

impl RemoteMembers {
    /// Returns the number of a leased member, which is new or may have another endpoint than before.
    pub(crate) fn number(
        &mut self,
        id: MemberId,
        name: &str,
        endpoint: &Endpoint,
        models: usize,
    ) -> usize {
        let known = self.numbers.get(&id).copied();
        if let Some(number) = known.filter(|number| self.members[*number].endpoint == *endpoint) {
            return number;
        }
        let next = self.origins.len();
        let root = endpoint.root().to_owned();
        let origin = *self.origin_of.entry(root).or_insert(next);
        let seed = self.members.len() as u64;
        if origin == next {
            self.origins.push(Origin::new(endpoint.url(), models, seed));
        }
        let member = Known {
            id,
            name: name.to_owned(),
            endpoint: endpoint.clone(),
            origin,
            rests: Rests::new(seed),
            rejected: None,
            counts: LeaseCounts::default(),
        };
        // A member with another key is another one; the one before stays for the report.
        self.members.push(member);
        let number = self.members.len().saturating_sub(1);
        self.numbers.insert(id, number);
        number
    }

    /// Returns why a member that was leased is not to be called for a model.
    pub(crate) fn bar(&self, now: Tick, number: usize, model: usize) -> Option<Bar> {
        let member = &self.members[number];
        if !self.has_model(member.origin, model) {
            return Some(Bar::Service);
        }
        let rejected = member.rejected?;
        // One that was leased before its key was rejected tells nothing of the others.
        let has_rested = now.since(rejected) >= REJECTED_REST / 2;
        let is_last = has_rested && self.current().all(|one| one.rejected.is_some());
        Some(Bar::Key { is_last })
    }

    /// Notes that a rejected member was leased in vain, and rests again.
    pub(crate) fn rests_again(&mut self, now: Tick, number: usize) {
        self.members[number].rejected = Some(now);
    }

    /// Whether a service may have a model.
    fn has_model(&self, origin: usize, model: usize) -> bool {
        !self.origins[origin].is_wrong() && !self.lacking.contains(&(model, origin))
    }

    /// Whether a service may have a model, of those that are known so far.
    pub(crate) fn is_served(&self, model: usize) -> bool {
        (0..self.origins.len()).any(|origin| self.has_model(origin, model))
    }

    /// The members as they were leased last.
    fn current(&self) -> impl Iterator<Item = &Known> {
        let numbers = self.numbers.values();
        numbers.map(|number| &self.members[*number])
    }

    /// Whether a member may serve a model, as far as is known.
    fn can_serve(&self, member: &Known, model: usize) -> bool {
        member.rejected.is_none() && self.has_model(member.origin, model)
    }

    /// Returns the names of members that can't serve a model.
    pub(crate) fn barred(&self, model: usize) -> impl Iterator<Item = &str> {
        let barred = self
            .current()
            .filter(move |one| !self.can_serve(one, model));
        barred.map(|one| &*one.name)
    }

    /// Whether a member is known that can serve a model and is not among those tried.
    pub(crate) fn has_other(&self, tried: &[MemberId], model: usize) -> bool {
        let mut current = self.current();
        current.any(|one| !tried.contains(&one.id) && self.can_serve(one, model))
    }

    /// Returns the names of members.
    pub(crate) fn names(&self, ids: &[MemberId]) -> impl Iterator<Item = &str> {
        let numbers = ids.iter().filter_map(|id| self.numbers.get(id));
        numbers.map(|number| &*self.members[*number].name)
    }

    /// Counts a lease that is called with.
    pub(crate) fn count_lease(&mut self, number: usize, waited: Duration) {
        let granted = &mut self.members[number].counts.granted;
        *granted = granted.saturating_add(1);
        self.waited.record(waited);
    }

    /// Learns from a call.
    pub(crate) fn learn(&mut self, now: Tick, called: &Called<'_>) -> Learned {
        let verdict = called.verdict;
        let member = &mut self.members[called.upstream];
        let origin = &mut self.origins[member.origin];
        let heard = origin.hear(now, called.began, called.model, verdict);
        let own = match heard.next {
            Next::Stop => None,
            Next::Done | Next::RetryAfter { .. } | Next::OtherMember { .. } | Next::GiveUp => {
                rest_after(&mut member.rests, verdict)
            }
        };
        let counted = match verdict.outcome {
            _ if own.is_some() => &mut member.counts.throttled,
            Outcome::Ok => &mut member.counts.ok,
            Outcome::Failed | Outcome::Throttled => &mut member.counts.failed,
            Outcome::Unknown => &mut member.counts.unknown,
            Outcome::NotSent => &mut member.counts.not_sent,
        };
        *counted = counted.saturating_add(1);
        let is_rejected = verdict.fate == Fate::Reject;
        if is_rejected {
            member.rejected = Some(now);
        }
        let (of_origin, is_new_lack) = match heard.reaction {
            Reaction::None | Reaction::WrongUrl => (None, false),
            // The gateway leases the others, each of which tries once and rests too.
            Reaction::RestUntil(until) => (Some(until.since(now)), false),
            Reaction::WrongModel => (None, self.lacking.insert((called.model, member.origin))),
        };
        let rejected = is_rejected.then_some(REJECTED_REST);
        Learned {
            heard,
            rest: own.max(of_origin).max(rejected),
            is_new_lack,
        }
    }

    /// Returns why no service can be called now, and the tick of the next try; `None` if one may be.
    pub(crate) fn pause(&self, now: Tick) -> Option<(String, Tick)> {
        let rejected: Option<Vec<Tick>> = self.current().map(|one| one.rejected).collect();
        if let Some(first) = rejected.and_then(|rejected| rejected.into_iter().min()) {
            let text = "another key, because each that was leased so far is rejected".to_owned();
            return Some((text, first.saturating_add(REJECTED_REST)));
        }
        let mut found: Option<(String, Tick)> = None;
        for origin in self.origins.iter().filter(|origin| !origin.is_wrong()) {
            let outage = origin.outage().filter(|outage| outage.until > now)?;
            if found.as_ref().is_none_or(|(_, next)| outage.until < *next) {
                let text = format!("{}: {}", origin.host(), outage.reason);
                found = Some((text, outage.until));
            }
        }
        found
    }

    /// Returns why every service counts as lost, if none has answered for `limit`.
    pub(crate) fn overdue(&self, now: Tick, limit: Duration) -> Option<Vec<String>> {
        let origins = self.origins.iter().filter(|origin| !origin.is_wrong());
        let reasons: Option<Vec<String>> =
            origins.map(|origin| origin.overdue(now, limit)).collect();
        reasons.filter(|reasons| !reasons.is_empty())
    }

    /// Returns the figures of each key, in the order of their first leases.
    pub(crate) fn keys(&self) -> Vec<KeySummary> {
        let keys = self.members.iter().map(|member| KeySummary {
            rejected: member.rejected.is_some(),
            ..KeySummary::new(&member.endpoint.key().to_string())
        });
        keys.collect()
    }

    /// Returns the figures of the leases of this run.
    pub(crate) fn stats(&self) -> Stats {
        let mut total = LeaseCounts::default();
        for LeaseCounts {
            granted,
            ok,
            failed,
            throttled,
            unknown,
            not_sent,
            expired,
        } in self.members.iter().map(|member| member.counts)
        {
            total.granted = total.granted.saturating_add(granted);
            total.ok = total.ok.saturating_add(ok);
            total.failed = total.failed.saturating_add(failed);
            total.throttled = total.throttled.saturating_add(throttled);
            total.unknown = total.unknown.saturating_add(unknown);
            total.not_sent = total.not_sent.saturating_add(not_sent);
            total.expired = total.expired.saturating_add(expired);
        }
        let members = self.members.iter().map(|member| MemberStats {
            member: member.id,
            counts: member.counts,
            in_flight: 0,
            held: Histogram::new(),
            leased: Duration::ZERO,
            busy: Duration::ZERO,
            max_leases: None,
        });
        Stats {
            sequence: 0,
            total,
            waiting: QueueStats::default(),
            held: Histogram::new(),
            waited: self.waited.clone(),
            members: members.collect(),
            flows: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_core::pool::{Outcome as Ended, PoolId, Release};
    use leasehold_protocol::verdict::{Answer, Context, Verdict, verdict};
    use leasehold_protocol::{ApiKey, Call};

    const MODELS: usize = 2;

    fn at(second: u64) -> Tick {
        Tick::from_nanos(second * 1_000_000_000)
    }

    fn id(number: u32) -> MemberId {
        MemberId::elsewhere(PoolId::new(7), number)
    }

    fn status(code: u16) -> Verdict {
        let headers = http::HeaderMap::new();
        let answer = Answer {
            status: http::StatusCode::from_u16(code).unwrap(),
            headers: &headers,
            body: Some(b"{}"),
        };
        let context = Context {
            call: Call::Chat,
            key: None,
        };
        verdict(&answer, Duration::from_secs(1_800_000_000), &context)
    }

    /// A member with the key of its number, at a service.
    fn leased(members: &mut RemoteMembers, member: u32, key: u32, host: &str) -> usize {
        let key = ApiKey::new(format!("sk-test-{key:04}")).unwrap();
        let endpoint = Endpoint::new(&format!("http://{host}/v1"), key).unwrap();
        members.number(id(member), &format!("m{member}"), &endpoint, MODELS)
    }

    fn call(members: &mut RemoteMembers, upstream: usize, now: Tick, code: u16) -> Learned {
        let verdict = status(code);
        let called = Called {
            began: now,
            model: 0,
            upstream,
            verdict: &verdict,
            text: "",
            release: Release::from(Ended::Failed),
        };
        members.learn(now, &called)
    }

    #[test]
    fn a_rejected_key_is_the_last_one_only_when_it_comes_back_alone() {
        let mut members = RemoteMembers::default();
        let first = leased(&mut members, 1, 1, "a");
        assert_eq!(
            call(&mut members, first, at(1), 401).rest,
            Some(REJECTED_REST)
        );
        // Leases of it that were granted before tell nothing of others.
        let key = |is_last| Some(Bar::Key { is_last });
        assert_eq!(members.bar(at(2), first, 0), key(false));
        assert_eq!(members.bar(at(61), first, 0), key(true));
        assert!(members.pause(at(2)).is_some());
        assert_eq!(members.barred(0).collect::<Vec<_>>(), ["m1"]);
        let second = leased(&mut members, 2, 2, "a");
        assert_eq!(
            members.bar(at(61), first, 0),
            key(false),
            "another was leased"
        );
        assert_eq!(members.bar(at(61), second, 0), None);
        assert!(members.pause(at(61)).is_none());
        // An operator has replaced the key.
        let replaced = leased(&mut members, 1, 3, "a");
        assert_eq!(members.bar(at(62), replaced, 0), None);
        assert_eq!(members.keys().len(), 3);
    }

    #[test]
    fn a_model_is_served_while_one_service_may_have_it() {
        let mut members = RemoteMembers::default();
        let (one, other) = (
            leased(&mut members, 1, 1, "a"),
            leased(&mut members, 2, 2, "b"),
        );
        for _ in 0..3 {
            call(&mut members, one, at(1), 404);
        }
        assert_eq!(members.bar(at(2), one, 0), Some(Bar::Service));
        assert!(members.is_served(0));
        assert!(members.has_other(&[id(1)], 0) && !members.has_other(&[id(2)], 0));
        for _ in 0..3 {
            call(&mut members, other, at(3), 404);
        }
        assert!(
            !members.is_served(0) && !members.is_served(1),
            "the URLs are wrong"
        );
    }
}

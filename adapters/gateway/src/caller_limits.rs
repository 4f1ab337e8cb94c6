//! The limits of a listener: one of all its callers, and one of each client.
//!
//! Invariant: a request that one limit refuses is charged to no other. What callers are told of a limit is read under
//! the lock under which it was asked.

use crate::lock;
use core::net::IpAddr;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_config::ListenerSettings;
use leasehold_core::limit::{Allowance, Cost, LimitSet, LimitSpecs, Quota, Wait};
use leasehold_core::time::Tick;
use leasehold_sync::{KeyRule, KeyedError, KeyedLimiter};
use leasehold_tokio::{RateLimitFields, RateLimitPolicies};
use std::sync::{Arc, Mutex};

/// Clients whose limits are kept at once; an idle one makes room for a new one.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// The class of requests at a listener, where all are alike.
const CLASS: u32 = 0;

/// The limits of a listener that has at least one.
#[derive(Debug)]
pub(crate) struct CallerLimits {
    all: Option<Arc<OfAll>>,
    client: Option<Arc<OfEachClient>>,
    policies: RateLimitPolicies,
}

/// What the limits said to a request.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) answer: Result<(), OverLimit>,
    /// The header fields that tell the caller its limits.
    pub(crate) told: RateLimitFields,
}

/// A limit's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    /// Requests that the limit admits in its window.
    pub(crate) limit: u32,
    /// The time until it admits one more; `None` if that is not known.
    pub(crate) wait: Option<Duration>,
}

impl CallerLimits {
    /// Makes the limits of a listener; `None` if it has none.
    pub(crate) fn new(settings: &ListenerSettings) -> Option<Self> {
        let all = settings.limit.as_ref().map(OfAll::new);
        let client = settings.client_limit.as_ref().map(OfEachClient::new);
        Self::of(all.map(Arc::new), client.map(Arc::new))
    }

    /// Makes the limits of other settings: one that is the same goes on, and one of all callers knows what was used.
    pub(crate) fn replacing(
        old: Option<&Self>,
        before: &ListenerSettings,
        settings: &ListenerSettings,
    ) -> Option<Self> {
        let mut new = Self::new(settings)?;
        let Some(old) = old else {
            return Some(new);
        };
        if settings.client_limit == before.client_limit {
            new.client.clone_from(&old.client);
        }
        if settings.limit == before.limit {
            new.all.clone_from(&old.all);
        } else if let (Some(new), Some(old)) = (&new.all, &old.all) {
            let earlier = lock(&old.limits);
            lock(&new.limits).take_over(Tick::ZERO, &earlier);
        }
        Some(new)
    }

    fn of(all: Option<Arc<OfAll>>, client: Option<Arc<OfEachClient>>) -> Option<Self> {
        if all.is_none() && client.is_none() {
            return None;
        }
        let of_all = all.iter().flat_map(|all| all.allowances.named("all"));
        let of_client = client
            .iter()
            .flat_map(|client| client.allowances.named("client"));
        let policies = RateLimitPolicies::new(of_all.chain(of_client));
        Some(Self {
            policies: policies.expect("the names are good ones"),
            all,
            client,
        })
    }

    /// Takes a request of a client from all limits or none.
    pub(crate) fn admit(&self, client: IpAddr, now: Tick) -> Admission {
        let (mut of_all, mut of_client) = (Vec::new(), Vec::new());
        let answer = self.take(client, now, &mut of_all, &mut of_client);
        Admission {
            answer,
            told: self.policies.tell(of_all.into_iter().chain(of_client)),
        }
    }

    /// Takes a request, and reads the quotas of the limits that were asked.
    fn take(
        &self,
        client: IpAddr,
        now: Tick,
        of_all: &mut Vec<Quota>,
        of_client: &mut Vec<Quota>,
    ) -> Result<(), OverLimit> {
        let mut own = || {
            self.client
                .as_ref()
                .map(|own| own.take(client, now, of_client))
        };
        let Some(all) = &self.all else {
            return own().unwrap_or(Ok(()));
        };
        let mut limits = lock(&all.limits);
        let answer = match limits.earliest(now, CLASS, Cost::REQUEST) {
            Wait::Until(at) if at <= now => own().unwrap_or(Ok(())),
            wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => {
                Err(OverLimit::new(limits.capacity().requests, now, wait))
            }
        };
        if answer.is_ok() {
            // It was found open under the same lock.
            let _ = take(&mut limits, now);
        }
        *of_all = all.allowances.read(&limits, now);
        answer
    }
}

/// The limit of all callers.
#[derive(Debug)]
struct OfAll {
    limits: Mutex<LimitSet>,
    allowances: Allowances,
}

impl OfAll {
    fn new(specs: &LimitSpecs) -> Self {
        Self {
            limits: Mutex::new(specs.limits()),
            allowances: Allowances::of(specs),
        }
    }
}

/// The limit of each client.
#[derive(Debug)]
struct OfEachClient {
    limiter: KeyedLimiter<IpAddr, EachClient>,
    capacity: u32,
    allowances: Allowances,
}

impl OfEachClient {
    fn new(specs: &LimitSpecs) -> Self {
        let limits = specs.limits();
        Self {
            capacity: limits.capacity().requests,
            limiter: KeyedLimiter::new(EachClient(limits), MAX_CLIENTS),
            allowances: Allowances::of(specs),
        }
    }

    fn take(&self, client: IpAddr, now: Tick, quotas: &mut Vec<Quota>) -> Result<(), OverLimit> {
        let read = |limits: &LimitSet| self.allowances.read(limits, now);
        let (admitted, read) = self.limiter.try_acquire_and(now, &client, 1, read);
        *quotas = read.unwrap_or_default();
        admitted.map_err(|refused| match refused {
            KeyedError::AtLimit(wait) => OverLimit::new(self.capacity, now, wait),
            KeyedError::TooManyKeys => OverLimit::new(0, now, Wait::Never),
        })
    }
}

/// What the limits of one setting admit in all, in their order.
#[derive(Debug)]
struct Allowances(Vec<Allowance>);

impl Allowances {
    fn of(specs: &LimitSpecs) -> Self {
        Self(specs.iter().map(Allowance::of_spec).collect())
    }

    /// Names each: `all`, `all-2`, `all-3`.
    fn named(&self, name: &str) -> impl Iterator<Item = (String, Allowance)> {
        self.0.iter().zip(1..).map(move |(allowance, number)| {
            let name = match number {
                1 => name.to_owned(),
                number => format!("{name}-{number}"),
            };
            (name, *allowance)
        })
    }

    /// Reads what the limits of the same setting have left.
    fn read(&self, limits: &LimitSet, now: Tick) -> Vec<Quota> {
        let limiters = limits.limiters(CLASS);
        let each = self.0.iter().zip(limiters);
        each.map(|(allowance, (_, limiter))| allowance.quota(limiter, now))
            .collect()
    }
}

impl OverLimit {
    fn new(limit: u32, now: Tick, wait: Wait) -> Self {
        Self {
            limit,
            wait: match wait {
                Wait::Until(at) => Some(at.since(now)),
                Wait::ForSettlement | Wait::Never => None,
            },
        }
    }
}

/// The same limits for each client.
#[derive(Debug)]
struct EachClient(LimitSet);

impl KeyRule for EachClient {
    type State = LimitSet;

    fn fresh(&self) -> LimitSet {
        self.0.clone()
    }

    fn try_acquire(&self, limits: &mut LimitSet, now: Tick, _: u32) -> Result<(), Wait> {
        take(limits, now)
    }

    fn idle_from(&self, limits: &LimitSet, now: Tick) -> Tick {
        match limits.is_idle(now) {
            true => now,
            false => limits.next_change(now, CLASS).unwrap_or(Tick::MAX),
        }
    }
}

/// Takes a request, which counts from now on: the gateway's own limits protect it and not an upstream.
fn take(limits: &mut LimitSet, now: Tick) -> Result<(), Wait> {
    let booking = limits.try_acquire(now, CLASS, Cost::REQUEST)?;
    limits.settle(now, booking, Cost::REQUEST, Cost::REQUEST);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use leasehold_config::{Given, Settings};
    use proptest::prelude::*;
    use std::path::Path;

    const CLIENT: IpAddr = IpAddr::V4(core::net::Ipv4Addr::LOCALHOST);

    fn limits(all: &str, client: &str) -> CallerLimits {
        let text = format!(
            "[pools.web]\nkind = \"http\"\nmembers = [{{ url = \"http://127.0.0.1:1\" }}]\n\
            [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n\
            limit = \"{all}\"\nclient_limit = \"{client}\"\n"
        );
        let settings =
            Settings::parse(&text, Path::new("/"), &Given::new()).expect("good settings");
        CallerLimits::new(&settings.listeners[0]).expect("it has limits")
    }

    /// The items of `RateLimit`: name, what remains, and the seconds until more does.
    fn told(admission: Admission) -> Vec<(String, u32, Option<u64>)> {
        let mut headers = HeaderMap::new();
        admission.told.add_to(&mut headers);
        let field = headers["ratelimit"].to_str().expect("a text");
        let items = field.split(", ").map(|item| {
            let mut parts = item.split(';');
            let name = parts.next().expect("a name").trim_matches('"');
            let mut number = |key| parts.next().map(|part| part.strip_prefix(key).expect(key));
            let remaining = number("r=").expect("what remains");
            let reset = number("t=").map(|seconds| seconds.parse().expect("seconds"));
            (name.to_owned(), remaining.parse().expect("a count"), reset)
        });
        items.collect()
    }

    #[test]
    fn a_limit_that_was_not_asked_is_not_told() {
        let limits = limits("1/60s", "5/60s");
        let of = |admission: Admission| (admission.answer.is_ok(), told(admission));
        let all = ("all".to_owned(), 0, Some(60));
        let client = ("client".to_owned(), 4, Some(60));
        assert_eq!(
            of(limits.admit(CLIENT, Tick::ZERO)),
            (true, vec![all.clone(), client])
        );
        assert_eq!(of(limits.admit(CLIENT, Tick::ZERO)), (false, vec![all]));
    }

    proptest! {
        #[test]
        fn callers_can_rely_on_what_they_are_told(
            all in "[5-9]/(3|7)s( fixed| gcra burst 2| bucketed 10)?",
            client in "[1-4]/(2|5)s( token bucket| sliding counter)?, 9/60s",
            pauses in proptest::collection::vec(0_u64..3_000, 1..40),
        ) {
            let limits = limits(&all, &client);
            let mut now = Tick::ZERO;
            for pause in pauses {
                now = now.saturating_add(Duration::from_millis(pause));
                let admission = limits.admit(CLIENT, now);
                let is_admitted = admission.answer.is_ok();
                let (wait, items) = (admission.answer.err().and_then(|over| over.wait), told(admission));
                let least = items.iter().map(|(_, remaining, _)| *remaining).min().unwrap_or(0);
                if is_admitted {
                    prop_assert_eq!(items.len(), 3);
                    // As many more are admitted at once, and no other.
                    for number in 0..=least {
                        let next = limits.admit(CLIENT, now);
                        prop_assert_eq!(next.answer.is_ok(), number < least);
                    }
                } else {
                    prop_assert_eq!(least, 0);
                    let (wait, resets) = (wait.expect("it opens again"), items.iter().filter(|item| item.1 == 0));
                    let last = resets.filter_map(|item| item.2).max().expect("one is used up");
                    prop_assert_eq!(last, wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
                }
            }
        }
    }
}

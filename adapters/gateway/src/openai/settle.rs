//! The end of an attempt: what its lease is released with, and what its member learns.
//!
//! Invariant: a call without a reported usage stays booked as it was reserved.

use super::relayed::RelayedBody;
use crate::account::Attempt;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::clock::time_of_day;
use crate::lock;
use crate::operator_log::target;
use crate::trace::AttemptSpan;
use core::time::Duration;
use http::response::Parts;
use leasehold_core::limit::Cost;
use leasehold_protocol::verdict::{Fate, Kind, Pause, Verdict, told_limits};
use leasehold_sync::{MemberId, Outcome, Release};
use leasehold_tokio::{BodyEnd, ClassifyEnd};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// How long a key that the service has rejected is left alone.
const REJECTED: Duration = Duration::from_secs(600);
/// Longest rest of one member of a service that is overloaded.
const OVERLOADED: Duration = Duration::from_secs(4);

/// Settles the lease of an attempt.
#[derive(Debug)]
pub(crate) struct Settle {
    pub(super) pool: Arc<BackendPool>,
    pub(super) backend: Arc<Backend>,
    pub(super) member: MemberId,
    pub(super) reserved: Cost,
    /// What the call spends on it; one that is not told of its end has spent what it may.
    pub(super) attempt: Mutex<Option<Attempt>>,
    /// The span of the attempt, which ends with this, if spans are exported.
    pub(super) span: Mutex<Option<AttemptSpan>>,
}

impl Settle {
    /// Learns the limits that an answer's head tells. They hold from now on, and not from the end of its body on.
    pub(super) fn observe(&self, parts: &Parts) {
        if let Some(span) = &mut *lock(&self.span) {
            span.answered(parts.status);
        }
        for limit in told_limits(&parts.headers, since_1970()) {
            if let Some((unit, left, reset)) = limit.observation() {
                // A leased member can't have been removed.
                let sync = self.pool.pool().blocking();
                let _ = sync.observe(self.member, unit, left, reset);
            }
        }
    }

    /// Counts a verdict, and returns how its lease ends.
    pub(super) fn release(&self, verdict: &Verdict) -> Release {
        if let Some(attempt) = &mut *lock(&self.attempt) {
            match &verdict.usage {
                Some(usage) => attempt.used(usage),
                None if verdict.kind.is_unpaid() => attempt.unused(),
                None => {}
            }
        }
        if let Some(span) = &mut *lock(&self.span) {
            note(span, verdict);
        }
        self.note_key(verdict);
        let rests = self
            .backend
            .service()
            .map(|service| lock(&service.rests).after(verdict));
        let rest = match verdict.fate {
            Fate::Reject => Some(REJECTED),
            Fate::Rest(Pause::Overload) => rests.flatten().map(|rest| rest.min(OVERLOADED)),
            Fate::Rest(Pause::Told(_) | Pause::Rate) | Fate::Keep | Fate::TooSmall => {
                rests.flatten()
            }
        };
        let now = self.pool.pool().blocking().now();
        let outcome = match rest {
            Some(rest) => Outcome::Throttled {
                until: now.saturating_add(rest),
            },
            None => verdict.outcome.of_pool(now),
        };
        Release::from(outcome).cost(verdict.cost(self.reserved))
    }

    /// Notes whether the service takes the key, and tells the operator when that changes.
    fn note_key(&self, verdict: &Verdict) {
        let is_turned_away = match verdict.fate {
            Fate::Reject => true,
            _ if verdict.kind == Kind::Answer => false,
            Fate::Keep | Fate::Rest(_) | Fate::TooSmall => return,
        };
        let Some(service) = self.backend.service() else {
            return;
        };
        if is_turned_away {
            self.backend
                .note_failure(&format_args!("its key is turned away: {verdict}"));
        }
        if !service.note_turned_away(is_turned_away) {
            return;
        }
        let (pool, member) = (&*self.pool.settings().name, self.backend.name());
        match is_turned_away {
            true => {
                let minutes = REJECTED.as_secs() / 60;
                let why =
                    format!("its key is turned away, and left alone for {minutes} min: {verdict}");
                tracing::warn!(target: target::HEALTH, pool, member, "{why}");
            }
            false => tracing::info!(target: target::HEALTH, pool, member, "its key is taken again"),
        }
    }
}

/// Notes what became of an attempt.
fn note(span: &mut AttemptSpan, verdict: &Verdict) {
    if let Some(usage) = &verdict.usage {
        span.used(usage);
    }
    if verdict.kind != Kind::Answer {
        let status = verdict.status.filter(|status| !status.is_success());
        let kind = status.map_or("no_answer".to_owned(), |status| status.as_str().to_owned());
        span.failed(kind, &verdict.message);
    }
}

impl ClassifyEnd<RelayedBody> for Settle {
    fn classify_end(&self, body: &RelayedBody, end: BodyEnd, release: Release) -> Release {
        match (body.verdict(), end) {
            (Some(verdict), _) => self.release(verdict),
            // The caller has left: what it was charged stays.
            (None, BodyEnd::Complete | BodyEnd::Failed | BodyEnd::Abandoned) => release,
        }
    }
}

/// Returns the time since 1970, by which services tell times of day.
pub(super) fn since_1970() -> Duration {
    let since = time_of_day().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, Spending};
    use crate::callers::Callers;
    use http::{HeaderMap, StatusCode};
    use leasehold_config::{Given, Settings};
    use leasehold_protocol::verdict::{Answer, Context, Failure, judge, verdict_of_failure};
    use leasehold_protocol::{Call, Usd};
    use leasehold_sync::{AcquireError, Lease, Request};
    use proptest::prelude::*;
    use std::path::Path;

    /// Leases at once, and tokens in a day.
    const SLOTS: usize = 4;
    const TOKENS: u32 = 1_000_000;
    const RESERVED: u32 = 100;
    const CONTEXT: Context<'_> = Context {
        call: Call::Chat,
        key: None,
    };

    /// How an attempt ends.
    #[derive(Clone, Copy, Debug)]
    enum Ending {
        /// Its caller has left before the answer's head, or after it.
        Left,
        /// It was refused before anything was sent.
        NotSent,
        Failed(Failure),
        /// The service answered, and told this number of tokens or none.
        Answered(u16, Option<u16>),
    }

    fn ending() -> impl Strategy<Value = Ending> {
        let failures = [
            Failure::NotConnected,
            Failure::TimedOut,
            Failure::ConnectionLost,
            Failure::AnswerCut,
            Failure::NotHttp,
        ];
        let statuses = vec![200_u16, 201, 400, 404, 422, 500, 502];
        let ending = prop_oneof![
            Just(Ending::Left),
            Just(Ending::NotSent),
            prop::sample::select(failures.to_vec()).prop_map(Ending::Failed),
            (prop::sample::select(statuses), any::<Option<u16>>())
                .prop_map(|(status, told)| Ending::Answered(status, told)),
        ];
        // A member that rests would hide what it has left.
        ending.prop_filter("the member goes on", |ending| {
            let verdict = verdict_of(*ending, &CONTEXT);
            verdict.is_none_or(|verdict| matches!(verdict.fate, Fate::Keep | Fate::TooSmall))
        })
    }

    fn pool() -> Arc<BackendPool> {
        let text = format!(
            "[pools.keys]\nkind = \"openai\"\n[[pools.keys.members]]\nurl = \"http://127.0.0.1:9/v1\"\nkeys = \"k\"\n\
            limits = \"{TOKENS} tokens/1d, {SLOTS} concurrent\"\n\
            [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n"
        );
        let given = Given::new().with_file("/k", "sk-of-a-test-0001\n");
        let settings = Settings::parse(&text, Path::new("/"), &given).expect("settings");
        let made = BackendPool::new(&settings.pools[0], None, &Callers::default(), false);
        Arc::new(made.expect("a pool"))
    }

    fn verdict_of(ending: Ending, context: &Context<'_>) -> Option<Verdict> {
        let (status, told) = match ending {
            Ending::Left | Ending::NotSent => return None,
            Ending::Failed(failure) => return Some(verdict_of_failure(failure, "", context)),
            Ending::Answered(status, told) => (status, told),
        };
        let usage = told.map(|tokens| format!(", \"usage\": {{\"total_tokens\": {tokens}}}"));
        let usage = usage.unwrap_or_default();
        let body = format!("{{\"choices\": [{{\"message\": {{\"content\": \"a\"}}}}]{usage}}}");
        let answer = Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: &HeaderMap::new(),
            body: Some(body.as_bytes()),
        };
        Some(judge(&answer, since_1970(), context))
    }

    /// Tokens that an attempt has used, as far as is known.
    fn tokens_of(ending: Ending, verdict: Option<&Verdict>) -> u32 {
        match (ending, verdict) {
            (Ending::NotSent, _) => 0,
            (_, Some(verdict)) => {
                let reserved = Cost {
                    requests: 1,
                    tokens: RESERVED,
                };
                verdict.cost(reserved).tokens
            }
            (_, None) => RESERVED,
        }
    }

    fn asked(pool: &BackendPool, tokens: u32) -> Result<Lease<Backend>, AcquireError> {
        let sync = pool.pool().blocking();
        let cost = Cost {
            requests: 1,
            tokens,
        };
        sync.enqueue(Request::new().cost(cost).deadline(sync.now()))?
            .wait()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// However attempts end, and in whatever order, no slot, no token and no money is left set aside.
        #[test]
        fn an_attempt_ends_once_and_gives_back_what_it_has_not_used(
            attempts in prop::collection::vec((any::<bool>(), ending(), 0_usize..SLOTS), 1..40),
        ) {
            let pool = pool();
            let account = Arc::new(Account::default());
            let (mut open, mut used, mut begun) = (Vec::new(), 0_u32, 0);
            let mut end = |(lease, settle, arrives, ending): (Lease<Backend>, Settle, bool, Ending)| {
                if arrives {
                    lease.arrived().expect("it is held");
                }
                let verdict = verdict_of(ending, &CONTEXT);
                used += tokens_of(ending, verdict.as_ref());
                match (ending, verdict) {
                    (Ending::NotSent, _) => lease.release(Outcome::NotSent).expect("it is held"),
                    (_, Some(verdict)) => lease.release(settle.release(&verdict)).expect("it is held"),
                    (_, None) => drop(lease),
                }
            };
            for (arrives, ending, which) in attempts {
                let Ok(lease) = asked(&pool, RESERVED) else {
                    // All slots are taken, and only then.
                    prop_assert_eq!(open.len(), SLOTS);
                    end(open.swap_remove(which));
                    continue;
                };
                begun += 1;
                let spending = Arc::new(Spending::new(&account, Usd::ZERO).expect("no budget"));
                let settle = Settle {
                    pool: Arc::clone(&pool),
                    backend: Arc::clone(lease.payload()),
                    member: lease.member(),
                    reserved: Cost { requests: 1, tokens: RESERVED },
                    span: Mutex::default(),
                    attempt: Mutex::new(Some(spending.attempt("m", None, Usd::ZERO))),
                };
                open.push((lease, settle, arrives, ending));
            }
            open.into_iter().for_each(&mut end);
            let stats = pool.pool().blocking().stats();
            prop_assert_eq!(stats.members[0].in_flight, 0);
            prop_assert_eq!(stats.total.calls() + stats.total.not_sent, begun);
            // What is left of the tokens is all that was not used.
            let left = TOKENS - used;
            prop_assert!(asked(&pool, left + 1).is_err());
            let all = asked(&pool, left);
            prop_assert!(all.is_ok(), "{:?}", all.err());
            prop_assert!(account.used().values().map(|used| used.calls).sum::<u64>() <= begun);
        }
    }
}

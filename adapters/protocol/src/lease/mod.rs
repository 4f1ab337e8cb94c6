//! The wire of the lease service: what workers in any language ask a gateway for, and what it answers.
//!
//! Invariant: times are relative, because the clocks of two machines differ; and a secret is in no `Debug`.

mod asking;
mod holdings;
mod members;
mod pause;
mod place;

pub use asking::{Asking, LeaseFailure};
pub use holdings::{HoldingId, Holdings};
pub use members::RemoteMembers;
pub use place::{Place, PlaceError};

use crate::refusal::Refusal;
use crate::rest::Rests;
use crate::secret::ApiKey;
use core::time::Duration;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{Cause, Outcome, Release};
use leasehold_core::time::Tick;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Leases of one request, or parts of one batch, at most.
pub const MAX_LEASES: usize = 256;
/// The cause of a request that costs more than limits ever admit: no wait helps.
pub const NEVER_FITS: &str = "never_fits";

/// Body of `POST /v1/leases`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// The pool's name; may be left out where the gateway has one pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The kind of call, such as its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The expected cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<LeaseCost>,
    /// Labels that the member must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The job that shares fairly with other jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// 0 is served first, 255 last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Longest wait in milliseconds; the pool's `max_wait` bounds it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read_millis"
    )]
    pub wait_ms: Option<u64>,
    /// A request that comes again with the same key, because its answer was lost, gets the same lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Leases at most: one is waited for, the others are those that are free then. The answer is a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
    /// Members to be left out where another can serve, such as those that have failed the task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<String>,
}

/// Reads a time in milliseconds, which may have a fraction; it is rounded up.
fn read_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let told = Option::<f64>::deserialize(from)?;
    if told.is_some_and(|told| !told.is_finite() || told < 0.0) {
        return Err(serde::de::Error::custom(
            "a time in milliseconds is a number from 0 on",
        ));
    }
    // A float's cast is saturating.
    Ok(told.map(|told| told.ceil() as u64))
}

/// A cost, in the units of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseCost {
    /// Requests; 1 by default.
    #[serde(default = "one")]
    pub requests: u32,
    /// Tokens; none by default.
    #[serde(default)]
    pub tokens: u32,
}

const fn one() -> u32 {
    1
}

impl From<LeaseCost> for Cost {
    fn from(cost: LeaseCost) -> Self {
        let LeaseCost { requests, tokens } = cost;
        Self { requests, tokens }
    }
}

impl From<Cost> for LeaseCost {
    fn from(cost: Cost) -> Self {
        let Cost { requests, tokens } = cost;
        Self { requests, tokens }
    }
}

/// A lease, as its holder is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantedLease {
    /// The lease's id.
    pub lease: String,
    /// A number above that of every lease granted before in this pool, over restarts too.
    pub fence: u64,
    /// The member's name.
    pub member: String,
    /// Where it is.
    pub url: String,
    /// Its key, where the listener may tell it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_secret",
        deserialize_with = "read_secret"
    )]
    pub secret: Option<ApiKey>,
    /// Time until the lease expires: its holder starts no call after that.
    pub expires_in_ms: u64,
    /// Time after which it is to be renewed.
    pub renew_in_ms: u64,
    /// Time in the queue.
    pub waited_ms: u64,
}

fn write_secret<S: Serializer>(secret: &Option<ApiKey>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(ApiKey::expose).serialize(to)
}

fn read_secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ApiKey>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let secret = text.map(ApiKey::new).transpose();
    secret.map_err(serde::de::Error::custom)
}

/// Answer to a request with a count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantedLeases {
    /// The leases; at least one.
    pub leases: Vec<GrantedLease>,
}

/// Body of `POST /v1/leases/{id}/release`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRelease {
    /// How the call ended.
    pub outcome: LeaseOutcome,
    /// The real cost; by default the expected one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<LeaseCost>,
    /// For `throttled`: the time for which the upstream is to be left alone, as it told.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read_millis"
    )]
    pub retry_after_ms: Option<u64>,
    /// The time that the call took.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read_millis"
    )]
    pub latency_ms: Option<u64>,
}

/// How the call under a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseOutcome {
    /// It was answered.
    Ok,
    /// The upstream failed.
    Failed,
    /// The upstream refused it for a limit.
    Throttled,
    /// It was sent, and what came of it is not known.
    Unknown,
    /// It never reached the upstream; nothing is charged.
    NotSent,
}

impl LeaseRelease {
    /// A release without figures.
    #[must_use]
    pub const fn new(outcome: LeaseOutcome) -> Self {
        Self {
            outcome,
            cost: None,
            retry_after_ms: None,
            latency_ms: None,
        }
    }

    /// Words a release for the wire; `now` is the tick that a pause counts from. Of a throttled one without a pause, the
    /// service decides how long the member rests.
    #[must_use]
    pub fn of(release: &Release, now: Tick) -> Self {
        let (outcome, pause) = match release.outcome() {
            Outcome::Ok => (LeaseOutcome::Ok, None),
            Outcome::Failed => (LeaseOutcome::Failed, None),
            Outcome::Throttled { until } => {
                let pause = until.since(now);
                (
                    LeaseOutcome::Throttled,
                    Some(pause).filter(|pause| !pause.is_zero()),
                )
            }
            Outcome::Unknown => (LeaseOutcome::Unknown, None),
            Outcome::NotSent => (LeaseOutcome::NotSent, None),
        };
        Self {
            outcome,
            cost: release.given_cost().map(LeaseCost::from),
            retry_after_ms: pause.map(millis_up),
            latency_ms: release.given_latency().map(millis_up),
        }
    }

    /// Returns the release as a pool takes it, and counts it among the member's rests: one that is throttled, and was not
    /// told for how long, lets the member rest for longer each time.
    #[must_use]
    pub fn to_release(&self, now: Tick, rests: &mut Rests) -> Release {
        let outcome = match self.outcome {
            LeaseOutcome::Ok => {
                rests.answered();
                Outcome::Ok
            }
            LeaseOutcome::Failed => Outcome::Failed,
            LeaseOutcome::Throttled => {
                let told = self.retry_after_ms.map(Duration::from_millis);
                let rest = rests.throttled(told);
                Outcome::Throttled {
                    until: now.saturating_add(rest),
                }
            }
            LeaseOutcome::Unknown => Outcome::Unknown,
            LeaseOutcome::NotSent => Outcome::NotSent,
        };
        let mut release = Release::from(outcome);
        if let Some(cost) = self.cost {
            release = release.cost(cost.into());
        }
        if let Some(latency) = self.latency_ms {
            release = release.latency(Duration::from_millis(latency));
        }
        release
    }
}

/// Returns a time in milliseconds, rounded up.
fn millis_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Returns the time until a lease expires in milliseconds, rounded down, so that its holder never counts on more.
#[must_use]
pub fn millis_left(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedLease {
    /// Time until the lease expires.
    pub expires_in_ms: u64,
    /// Time after which it is to be renewed again.
    pub renew_in_ms: u64,
}

impl RenewedLease {
    /// Tells of a lease that has this time left: to be renewed after a third of it, so that two more tries are possible.
    #[must_use]
    pub fn of(left: Duration) -> Self {
        Self {
            expires_in_ms: millis_left(left),
            renew_in_ms: millis_left(left / 3),
        }
    }
}

/// Body of `POST /v1/batch`: what a worker has to tell of its leases and asks for, in one call. It is done in the order of
/// the fields, each part by itself; requests wait side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseBatch {
    /// Leases whose calls have arrived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrived: Vec<String>,
    /// Leases to renew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renew: Vec<String>,
    /// Leases to end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<BatchedRelease>,
    /// Requests for leases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acquire: Vec<LeaseRequest>,
}

/// A release in a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchedRelease {
    /// The lease's id.
    pub lease: String,
    /// How it ends.
    #[serde(flatten)]
    pub release: LeaseRelease,
}

/// Answer to a batch: of each part a list in the order of the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseBatchAnswer {
    /// Of each lease whose call has arrived.
    pub arrived: Vec<Part<Done>>,
    /// Of each renewal.
    pub renewed: Vec<Part<RenewedLease>>,
    /// Of each release.
    pub released: Vec<Part<Done>>,
    /// Of each request.
    pub acquired: Vec<Part<GrantedLeases>>,
}

/// What came of a part of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part<T> {
    /// It was refused.
    Refused(LeaseError),
    /// It was done.
    Done(T),
}

/// Something is done, of which there is nothing to tell: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Body of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseError {
    /// What happened.
    pub error: LeaseProblem,
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseProblem {
    /// One word, such as `rate_limit_exceeded` or `lease_expired`.
    pub code: String,
    /// The HTTP status, which parts of a batch have for themselves.
    pub status: u16,
    /// What happened, and what to do.
    pub message: String,
    /// What the soonest member waits for, such as `at_limit`; of refused requests for leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The time after which another try may be served, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl LeaseError {
    /// Words a refusal for the wire.
    #[must_use]
    pub fn of(refusal: &Refusal) -> Self {
        Self {
            error: LeaseProblem {
                code: refusal.code.to_owned(),
                status: refusal.status.as_u16(),
                message: refusal.message.clone(),
                cause: refusal.cause.map(|cause| name_of(cause).to_owned()),
                retry_after_ms: refusal.wait.map(millis_up),
            },
        }
    }
}

/// Returns the name of a cause on the wire.
const fn name_of(cause: Cause) -> &'static str {
    match cause {
        Cause::AtLimit { .. } => "at_limit",
        Cause::AwaitingCompletion => "awaiting_completion",
        Cause::FlowAtLimit { .. } => "flow_at_limit",
        Cause::Full => "full",
        Cause::Throttled { .. } => "throttled",
        Cause::Ejected { .. } => "ejected",
        Cause::BreakerOpen { .. } => "breaker_open",
        Cause::BreakerHalfOpen => "breaker_half_open",
        Cause::Unhealthy => "unhealthy",
        Cause::Disabled => "disabled",
        Cause::NeverFits => NEVER_FITS,
        Cause::NoMember => "no_member",
        Cause::BehindOthers => "behind_others",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_have_a_fraction_and_no_sign() {
        for (text, expected) in [
            ("0", Some(0)),
            ("12", Some(12)),
            ("12.25", Some(13)),
            ("1e300", Some(u64::MAX)),
            ("-1", None),
            ("\"1\"", None),
        ] {
            let body = format!("{{\"outcome\": \"ok\", \"latency_ms\": {text}}}");
            let read = serde_json::from_str::<LeaseRelease>(&body);
            assert_eq!(
                read.ok().and_then(|read| read.latency_ms),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_release_is_the_same_after_the_wire() {
        let now = Tick::from_nanos(5_000_000_000);
        let until = now.saturating_add(Duration::from_millis(1_500));
        for outcome in [
            Outcome::Ok,
            Outcome::Failed,
            Outcome::Throttled { until },
            Outcome::Unknown,
            Outcome::NotSent,
        ] {
            let release = Release::from(outcome)
                .cost(Cost {
                    requests: 1,
                    tokens: 7,
                })
                .latency(Duration::from_millis(20));
            let sent = serde_json::to_string(&LeaseRelease::of(&release, now)).expect("JSON");
            let read: LeaseRelease = serde_json::from_str(&sent).expect("JSON");
            assert_eq!(read.to_release(now, &mut Rests::new(7)), release, "{sent}");
        }
    }

    #[test]
    fn a_secret_is_told_and_not_shown() {
        let granted = GrantedLease {
            lease: "keys-1".to_owned(),
            fence: 1,
            member: "a".to_owned(),
            url: "https://api.test/v1".to_owned(),
            secret: ApiKey::new("sk-test-secret-0001").ok(),
            expires_in_ms: 1,
            renew_in_ms: 0,
            waited_ms: 0,
        };
        let sent = serde_json::to_string(&granted).expect("JSON");
        assert!(sent.contains("sk-test-secret-0001"));
        assert!(!format!("{granted:?}").contains("secret-0001"));
        assert_eq!(
            serde_json::from_str::<GrantedLease>(&sent).ok(),
            Some(granted)
        );
    }
}

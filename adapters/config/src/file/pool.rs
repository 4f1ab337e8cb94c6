//! Tables of pools and their members.
//!
//! Invariant: a default that depends on nothing else is the one of the settings.

use super::{
    BreakerTable, ComfyuiTable, CookieName, FilePath, HealthTable, Line, Name, OutlierTable, Share,
    SlowStartTable, Text, Timeout, Url,
};
use crate::settings::{
    Affinity, AffinityKey, Kind, MemberAddresses, MemberSettings, PoolSettings, RetrySettings,
    UpstreamBounds,
};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::affinity::DEFAULT_TTL;
use leasehold_core::balance::Policy;
use leasehold_core::limit::LimitSpecs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A pool of members among which requests are shared out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolTable {
    /// What its members are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) kind: Option<Text<Kind>>,
    /// How a member is chosen; by default `round_robin` for http, `least_used` for openai, `least_queue` for comfyui.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Text<Policy>>,
    /// How long a request may wait for a member; by default 30 s, and 24 h for comfyui.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_wait: Option<Text<Duration>>,
    /// How many requests may wait at once.
    #[serde(default = "max_waiters")]
    pub(crate) max_waiters: u32,
    /// Limits of the pool as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Text<LimitSpecs>>,
    /// When a member that fails is left alone (circuit breaker); without it, never; with these defaults for comfyui.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) breaker: Option<BreakerTable>,
    /// Requests that check whether a member is up; without it, none are made; with these defaults for comfyui.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<HealthTable>,
    /// When a member that fails more often than others is left out; without it, never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outlier: Option<OutlierTable>,
    /// The share of healthy members below which health is not looked at; 0% is never.
    #[serde(default = "panic_threshold")]
    pub(crate) panic_threshold: Text<Share>,
    /// How a member that is new or back is eased in; without it, at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow_start: Option<SlowStartTable>,
    /// Keeps a client with its member; without it, each request is on its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) affinity: Option<AffinityTable>,
    /// Repeats of requests that failed.
    #[serde(default)]
    pub(crate) retry: RetryTable,
    /// Bounds on the way to a member.
    #[serde(default)]
    pub(crate) upstream: UpstreamTable,
    /// What holds for ComfyUI servers alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) comfyui: Option<ComfyuiTable>,
    /// The members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(required)]
    pub(crate) members: Vec<MemberTable>,
}

const fn max_waiters() -> u32 {
    PoolSettings::MAX_WAITERS
}

const fn panic_threshold() -> Text<Share> {
    Text(Share(0))
}

/// Keeps a client with its member, by a cookie or by its address.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AffinityTable {
    /// The name of a cookie, which the gateway sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cookie: Option<Text<CookieName>>,
    /// `true` tells clients apart by their address.
    pub(crate) address: bool,
    /// How long a client that is away is remembered.
    pub(crate) ttl: Text<Timeout>,
    /// How many clients are remembered; beyond that, the one that is away the longest is forgotten.
    pub(crate) capacity: NonZeroU32,
}

impl Default for AffinityTable {
    fn default() -> Self {
        Self {
            cookie: None,
            address: false,
            ttl: Text(Timeout(DEFAULT_TTL)),
            capacity: Affinity::CAPACITY,
        }
    }
}

impl AffinityTable {
    /// Returns `None` unless there is either a cookie or the address.
    pub(crate) fn build(self) -> Option<Affinity> {
        let by = match (self.cookie, self.address) {
            (Some(Text(CookieName(name))), false) => AffinityKey::Cookie(name),
            (None, true) => AffinityKey::Address,
            (Some(_), true) | (None, false) => return None,
        };
        Some(Affinity {
            by,
            ttl: self.ttl.0.0,
            capacity: self.capacity,
        })
    }

    pub(crate) fn of(affinity: &Affinity) -> Self {
        let cookie = match &affinity.by {
            AffinityKey::Cookie(name) => Some(Text(CookieName(name.clone()))),
            AffinityKey::Address => None,
        };
        Self {
            address: cookie.is_none(),
            cookie,
            ttl: Text(Timeout(affinity.ttl)),
            capacity: affinity.capacity,
        }
    }
}

/// Repeats of requests that failed and may be sent again.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryTable {
    /// Attempts of a request in all; 1 repeats none.
    pub(crate) attempts: NonZeroU32,
    /// Repeats as a share of all requests.
    pub(crate) budget: Text<Share>,
    /// Repeats that may be made beyond that share.
    pub(crate) reserve: u32,
}

impl Default for RetryTable {
    fn default() -> Self {
        Self::of(RetrySettings::default())
    }
}

impl RetryTable {
    pub(crate) fn build(&self) -> RetrySettings {
        RetrySettings {
            attempts: self.attempts,
            budget_permille: self.budget.0.0,
            reserve: self.reserve,
        }
    }

    pub(crate) fn of(retry: RetrySettings) -> Self {
        Self {
            attempts: retry.attempts,
            budget: Text(Share(retry.budget_permille)),
            reserve: retry.reserve,
        }
    }
}

/// Bounds on the way to a member.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpstreamTable {
    /// Until a connection is made, TLS included.
    pub(crate) connect: Text<Timeout>,
    /// From the request's end to the answer's headers; by default 30 s, and 10 min for openai.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_header: Option<Text<Timeout>>,
    /// Between two pieces of the answer's body; by default 1 min, and 10 min for openai.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_idle: Option<Text<Timeout>>,
    /// How long an unused connection is kept.
    pub(crate) keep_alive: Text<Duration>,
    /// Unused connections kept for a member, by each core.
    pub(crate) max_idle: u32,
}

impl Default for UpstreamTable {
    fn default() -> Self {
        let mut table = Self::of(UpstreamBounds::default());
        // These depend on the kind of the pool.
        (table.response_header, table.body_idle) = (None, None);
        table
    }
}

impl UpstreamTable {
    pub(crate) fn build(&self, kind: Kind) -> UpstreamBounds {
        let default = UpstreamBounds::of(kind);
        let given = |time: Option<Text<Timeout>>, default| time.map_or(default, |time| time.0.0);
        UpstreamBounds {
            connect: self.connect.0.0,
            response_header: given(self.response_header, default.response_header),
            body_idle: given(self.body_idle, default.body_idle),
            keep_alive: self.keep_alive.0,
            max_idle: self.max_idle,
        }
    }

    pub(crate) fn of(bounds: UpstreamBounds) -> Self {
        Self {
            connect: Text(Timeout(bounds.connect)),
            response_header: Some(Text(Timeout(bounds.response_header))),
            body_idle: Some(Text(Timeout(bounds.body_idle))),
            keep_alive: Text(bounds.keep_alive),
            max_idle: bounds.max_idle,
        }
    }
}

/// A member of a pool, or a member for each key of a service.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberTable {
    /// Its name; by default the URL's host and port. Further keys and members of a default name get `-2`, `-3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Text<Name>>,
    /// Where it is: `http://HOST:PORT`, with a base path for openai and comfyui. Not needed if each key has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<Text<Url>>,
    /// A file of keys (openai): a member for each. A line is `KEY [url=URL] [group=NAME] [limit=LIMITS]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<Text<FilePath>>,
    /// A variable of the environment that has the keys, separated by commas or spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keys_env: Option<Text<Name>>,
    /// A program and its arguments, run without a shell, that writes keys as a file of keys has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keys_command: Option<Vec<Text<Line>>>,
    /// Its share of requests under policies that weigh; 0 gets none.
    #[serde(default = "weight")]
    pub(crate) weight: u16,
    /// Its tier; members of a higher tier are used only when none of a lower one can serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = 0))]
    pub(crate) tier: Option<u8>,
    /// What it can do, such as the models it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<Text<Line>>,
    /// Its limits, or those of its group; for several keys, of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Text<LimitSpecs>>,
    /// Members of one group share one set of limits, so each of them has the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Text<Line>>,
    /// Requests at once; without it, any number. For comfyui, `comfyui.prefetch` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<NonZeroU32>,
    /// `true` makes each address of the name in its URL a member, as DNS tells (http); otherwise it is one member.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) each_address: bool,
    /// Where it is, such as `berlin` (comfyui): callers of the same zone come to it first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<Text<Name>>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

const fn weight() -> u16 {
    1
}

impl MemberTable {
    pub(crate) fn of(member: &MemberSettings) -> Self {
        let labels = member.labels.iter();
        Self {
            name: Some(Text(Name(member.name.clone()))),
            url: Some(Text(Url(member.url.clone()))),
            keys: None,
            keys_env: None,
            keys_command: None,
            weight: member.weight,
            tier: Some(member.tier),
            labels: labels.map(|label| Text(Line(label.clone()))).collect(),
            limits: member.limits.clone().map(Text),
            group: member.group.clone().map(|group| Text(Line(group))),
            max_connections: member.max_connections,
            each_address: member.addresses == MemberAddresses::Each,
            zone: member.zone.clone().map(|zone| Text(Name(zone))),
        }
    }
}

//! The header fields `RateLimit-Policy` and `RateLimit`, which tell callers their limits.
//!
//! They are those of draft-ietf-httpapi-ratelimit-headers-11 (May 2026), where `q` is the quota, `w` its window, `r`
//! what remains, and `t` the time for which no more does. Seconds are whole and rounded up, so that `t` never ends
//! after `Retry-After`.
//!
//! Invariant: each value is printable ASCII, because names are checked when they are given.

use crate::refusal::whole_seconds;
use core::fmt::Write as _;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use leasehold_core::limit::{Allowance, Quota};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The bound on a policy's name, in bytes.
const MAX_NAME: usize = 64;

/// Why a policy can't have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyNameError {
    /// The name is empty or too long.
    #[error("a policy's name must have 1 to {MAX_NAME} characters")]
    Length,
    /// The name has a character that the header's text can't hold.
    #[error("a policy's name must be printable ASCII without quotes and backslashes")]
    Character,
}

/// The limits that hold for one request, as the fields `RateLimit-Policy` and `RateLimit` tell them.
///
/// ```
/// use http::HeaderMap;
/// use leasehold_tokio::RateLimitPolicies;
/// use leasehold_tokio::limit::{Allowance, Limit, LimitSpec};
/// use leasehold_tokio::Tick;
///
/// let spec: LimitSpec = "3/60s from grant".parse()?;
/// let (allowance, mut limiter) = (Allowance::of_spec(&spec), spec.limiter()?);
/// let policies = RateLimitPolicies::new([("client", allowance)])?;
/// limiter.try_acquire(Tick::ZERO, 1).unwrap();
/// let mut headers = HeaderMap::new();
/// policies.tell([allowance.quota(&limiter, Tick::ZERO)]).add_to(&mut headers);
/// assert_eq!(headers["ratelimit-policy"], r#""client";q=3;w=60"#);
/// assert_eq!(headers["ratelimit"], r#""client";r=2;t=60"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitPolicies {
    names: Vec<String>,
    field: HeaderValue,
}

/// Both fields of one response.
#[derive(Clone, Debug)]
pub struct RateLimitFields {
    policy: HeaderValue,
    limit: HeaderValue,
}

impl RateLimitPolicies {
    /// Takes the limits in the order in which they are told, each under a name of its own.
    ///
    /// # Errors
    /// A name is empty, has more than 64 characters, or some that are not printable ASCII, quotes or backslashes.
    pub fn new<N: AsRef<str>>(
        policies: impl IntoIterator<Item = (N, Allowance)>,
    ) -> Result<Self, PolicyNameError> {
        let mut names = Vec::new();
        let mut field = String::new();
        for (name, allowance) in policies {
            let name = name.as_ref();
            check(name)?;
            write_policy(&mut field, name, &allowance);
            names.push(name.to_owned());
        }
        Ok(Self {
            names,
            field: value(field),
        })
    }

    /// Takes a single limit, under the name `default`.
    pub(crate) fn unnamed(allowance: Allowance) -> Self {
        let policies = Self::new([("default", allowance)]);
        policies.expect("the name is a good one")
    }

    /// Forms the fields of a response, with the quotas of these policies in their order.
    ///
    /// Quotas at the end may be missing, where a request was refused before their limits were asked. Without any there is
    /// no field `RateLimit`.
    #[must_use]
    pub fn tell(&self, quotas: impl IntoIterator<Item = Quota>) -> RateLimitFields {
        let mut field = String::new();
        for (name, quota) in self.names.iter().zip(quotas) {
            write_quota(&mut field, name, &quota);
        }
        RateLimitFields {
            policy: self.field.clone(),
            limit: value(field),
        }
    }
}

impl RateLimitFields {
    /// Adds both to a response. Both are lists, so that those of another server or layer stay.
    pub fn add_to(self, headers: &mut HeaderMap) {
        headers.append(RATE_LIMIT_POLICY, self.policy);
        if !self.limit.is_empty() {
            headers.append(RATE_LIMIT, self.limit);
        }
    }
}

fn check(name: &str) -> Result<(), PolicyNameError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(PolicyNameError::Length);
    }
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    match name.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(PolicyNameError::Character),
    }
}

/// Adds a policy such as `"all";q=100;w=60` to a list.
fn write_policy(field: &mut String, name: &str, allowance: &Allowance) {
    let unit = match allowance.is_concurrency {
        true => r#";qu="concurrent-requests""#,
        false => "",
    };
    write_item(
        field,
        format_args!("\"{name}\";q={}{unit}", allowance.limit),
    );
    if let Some(window) = allowance.window {
        write_to(field, format_args!(";w={}", whole_seconds(window)));
    }
}

/// Adds what is left, such as `"all";r=99;t=12`, to a list.
fn write_quota(field: &mut String, name: &str, quota: &Quota) {
    write_item(field, format_args!("\"{name}\";r={}", quota.remaining));
    if let Some(reset) = quota.reset {
        write_to(field, format_args!(";t={}", whole_seconds(reset)));
    }
}

fn write_item(field: &mut String, item: core::fmt::Arguments<'_>) {
    if !field.is_empty() {
        field.push_str(", ");
    }
    write_to(field, item);
}

fn write_to(field: &mut String, text: core::fmt::Arguments<'_>) {
    // A string takes all.
    let _ = field.write_fmt(text);
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and a checked name are printable")
}

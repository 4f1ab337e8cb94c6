//! Alerts: the conditions that an operator wants to be told of, and how.
//!
//! Invariant: settings show the host of a webhook alone; the rest of its URL often holds a secret.

use crate::file::{Url, Value};
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use http::Uri;
use leasehold_core::health::AlertConfig;
use leasehold_protocol::{Secret, Usd};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A condition that an operator is told of.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertSettings {
    /// Its name in messages, logs and counts.
    pub name: String,
    /// The condition.
    pub when: AlertWhen,
    /// The times that it must hold or be absent.
    pub times: AlertConfig,
    /// The span in which requests and money are counted.
    pub over: Duration,
    /// The names of the pools that are watched; empty for all.
    pub pools: Vec<String>,
    /// Labels of its messages, besides its own.
    pub labels: BTreeMap<String, String>,
    /// Where messages are posted to.
    pub webhook: Option<Webhook>,
    /// The program that is run with each message on its standard input, and its arguments; empty for none.
    pub command: Vec<String>,
}

impl AlertSettings {
    /// Makes an alert of a condition in any pool, which only the log and the admin interface tell of.
    ///
    /// ```
    /// use leasehold_config::AlertSettings;
    ///
    /// let alert = AlertSettings::new("queue > 100".parse()?);
    /// assert_eq!(alert.name, "queue > 100");
    /// # Ok::<(), leasehold_config::ParseAlertError>(())
    /// ```
    #[must_use]
    pub fn new(when: AlertWhen) -> Self {
        Self {
            name: when.to_string(),
            when,
            times: AlertConfig {
                hold: Duration::ZERO,
                clear: Self::CLEAR,
                repeat: None,
            },
            over: when.default_span(),
            pools: Vec::new(),
            labels: BTreeMap::new(),
            webhook: None,
            command: Vec::new(),
        }
    }

    /// The time that a condition must be absent, unless the file says otherwise.
    pub const CLEAR: Duration = Duration::from_secs(30);
}

/// A condition, as `queue > 100` in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertWhen {
    /// `member down`: a member is to serve, and does not.
    MemberDown,
    /// `pool down`: no member of a pool serves.
    PoolDown,
    /// `breaker open`: the breaker of a member is open.
    BreakerOpen,
    /// `limit exhausted`: the limits of a member that serves admit nothing.
    LimitExhausted,
    /// `jobs lost`: jobs of a pool of ComfyUI servers were lost with their server.
    JobsLost,
    /// `queue > 100`: more requests wait for a pool.
    Queue(u32),
    /// `wait p99 > 5s`: of the requests to a pool, those beyond a share have waited for longer.
    Wait {
        /// The share in permille.
        quantile: u16,
        /// The wait.
        above: Duration,
    },
    /// `errors > 5%`: a greater share of the requests to a pool has failed, in permille.
    Errors(u16),
    /// `spend > 20 USD`: all callers together have spent more.
    Spend(Usd),
    /// `caller spend > 5 USD`: a caller has spent more.
    CallerSpend(Usd),
}

impl AlertWhen {
    /// The span in which requests and money are counted, unless the file says otherwise.
    #[must_use]
    pub const fn default_span(self) -> Duration {
        match self {
            Self::Spend(_) | Self::CallerSpend(_) => Duration::from_secs(24 * 60 * 60),
            Self::MemberDown
            | Self::PoolDown
            | Self::BreakerOpen
            | Self::LimitExhausted
            | Self::JobsLost
            | Self::Queue(_)
            | Self::Wait { .. }
            | Self::Errors(_) => Duration::from_secs(5 * 60),
        }
    }

    /// Whether it is of what happens within a span of time.
    #[must_use]
    pub const fn has_span(self) -> bool {
        matches!(
            self,
            Self::JobsLost
                | Self::Wait { .. }
                | Self::Errors(_)
                | Self::Spend(_)
                | Self::CallerSpend(_)
        )
    }

    /// Whether it is of a pool, and not of callers, whose money is counted over all pools.
    #[must_use]
    pub const fn is_of_pools(self) -> bool {
        !matches!(self, Self::Spend(_) | Self::CallerSpend(_))
    }
}

/// A text is no condition of an alert.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseAlertError(String);

impl FromStr for AlertWhen {
    type Err = ParseAlertError;

    fn from_str(text: &str) -> Result<Self, ParseAlertError> {
        Self::read(text).map_err(|misread| ParseAlertError(misread.problem))
    }
}

/// As a configuration file has it.
impl fmt::Display for AlertWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// The URL that messages are posted to, and the file that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The file.
    pub file: PathBuf,
    url: Secret,
    host: String,
}

impl Webhook {
    /// Reads a URL from the text of a file, whose first line it is.
    ///
    /// # Errors
    /// What is wrong; the text is not repeated.
    pub(crate) fn of_file(text: &str, file: PathBuf) -> Result<Self, &'static str> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let url = lines.next().ok_or("it is empty; write the URL into it")?;
        if lines.next().is_some() {
            return Err("it has more than one line; write the URL alone into it");
        }
        let wrong = "it has no URL, such as https://hooks.example.com/services/abc";
        let parsed: Uri = url.parse().map_err(|_| wrong)?;
        let (scheme, authority) = parsed.scheme_str().zip(parsed.authority()).ok_or(wrong)?;
        if authority.as_str().contains('@') {
            return Err("the URL has a password; use a token in its path or query");
        }
        let host = format!("{scheme}://{authority}");
        Url::read(&host).map_err(|_| wrong)?;
        Ok(Self {
            file,
            url: Secret::new(url),
            host,
        })
    }

    /// Returns the whole URL, for a request only.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.expose()
    }
}

/// The host, without the path that may hold a secret.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)
    }
}

//! The tables of alerts.
//!
//! Invariant: a default is the one of the settings.

use super::value::{Misread, Value};
use super::{FilePath, Line, Share, Text, Timeout};
use crate::alert::{AlertSettings, AlertWhen};
use core::time::Duration;
use leasehold_core::health::AlertConfig;
use leasehold_protocol::Usd;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A condition of which receivers are told when it begins and when it is over.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertTable {
    /// The condition, such as `member down` or `queue > 100`; the README of the gateway has all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) when: Option<Text<AlertWhen>>,
    /// Its name in messages; by default, the condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Text<Line>>,
    /// The time that the condition must hold before it is told.
    #[serde(rename = "for", default = "hold")]
    pub(crate) hold: Text<Duration>,
    /// The time that the condition must be absent before it is told that it is over.
    #[serde(default = "clear")]
    pub(crate) clear: Text<Duration>,
    /// The pause after which it is told again, as long as it holds; without it, it is told once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repeat: Option<Text<Timeout>>,
    /// The span in which waits, errors, lost jobs and money are counted; by default `1d` for money, `5min` for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) over: Option<Text<Timeout>>,
    /// The names of the pools that are watched; without them, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pools: Vec<String>,
    /// Labels of its messages, such as `severity = "critical"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = { "type": "string", "format": "label", "examples": ["severity"] }))]
    pub(crate) labels: BTreeMap<String, Text<Line>>,
    /// A file with the URL that messages are posted to, in the form of Prometheus' Alertmanager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webhook_file: Option<Text<FilePath>>,
    /// A program and its arguments, which gets messages on its standard input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<Text<Line>>,
}

const fn hold() -> Text<Duration> {
    Text(Duration::ZERO)
}

const fn clear() -> Text<Duration> {
    Text(AlertSettings::CLEAR)
}

impl AlertTable {
    pub(crate) fn of(alert: &AlertSettings) -> Self {
        let command = alert.command.iter().cloned();
        let labels = alert.labels.iter();
        let labels = labels.map(|(name, text)| (name.clone(), Text(Line(text.clone()))));
        let file = alert.webhook.as_ref().map(|webhook| &webhook.file);
        Self {
            when: Some(Text(alert.when)),
            name: Some(Text(Line(alert.name.clone()))),
            hold: Text(alert.times.hold),
            clear: Text(alert.times.clear),
            repeat: alert.times.repeat.map(|pause| Text(Timeout(pause))),
            over: alert.when.has_span().then_some(Text(Timeout(alert.over))),
            pools: alert.pools.clone(),
            labels: labels.collect(),
            webhook_file: file.map(|file| Text(FilePath(file.clone()))),
            command: command.map(|text| Text(Line(text))).collect(),
        }
    }

    /// Returns the settings, without a webhook; `None` without what the schema requires.
    pub(crate) fn build(self) -> Option<AlertSettings> {
        let alert = AlertSettings::new(self.when?.0);
        Some(AlertSettings {
            name: self.name.map_or(alert.name, |name| name.0.0),
            times: AlertConfig {
                hold: self.hold.0,
                clear: self.clear.0,
                repeat: self.repeat.map(|pause| pause.0.0),
            },
            over: self.over.map_or(alert.over, |span| span.0.0),
            pools: self.pools,
            labels: self
                .labels
                .into_iter()
                .map(|(name, text)| (name, text.0.0))
                .collect(),
            command: self.command.into_iter().map(|text| text.0.0).collect(),
            ..alert
        })
    }
}

/// The name of a label of messages.
pub(crate) struct Label(String);

/// The labels that messages have anyway.
const OWN: [&str; 5] = ["alertname", "instance", "pool", "member", "caller"];

impl Value for Label {
    const FORMAT: &'static str = "label";
    const EXAMPLE: &'static str = "severity";

    fn read(text: &str) -> Result<Self, Misread> {
        // As Prometheus has them.
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = text
            .bytes()
            .next()
            .is_some_and(|byte| !byte.is_ascii_digit());
        if !begins || !text.bytes().all(is_word) || OWN.contains(&text) {
            let own = OWN.join(", ");
            return Err(Misread::new(format!(
                "must be letters, digits and _, and none that messages have anyway: {own}"
            )));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// The conditions without a bound, by their words.
const PLAIN: [(&str, AlertWhen); 5] = [
    ("member down", AlertWhen::MemberDown),
    ("pool down", AlertWhen::PoolDown),
    ("breaker open", AlertWhen::BreakerOpen),
    ("limit exhausted", AlertWhen::LimitExhausted),
    ("jobs lost", AlertWhen::JobsLost),
];

impl Value for AlertWhen {
    const FORMAT: &'static str = "alert condition";
    const EXAMPLE: &'static str = "queue > 100";

    fn read(text: &str) -> Result<Self, Misread> {
        let Some((figure, bound)) = text.split_once('>') else {
            let mut plain = PLAIN.into_iter();
            let found = plain.find(|(words, _)| is_words(text, words));
            return found.map(|(_, when)| when).ok_or_else(unknown);
        };
        let at = figure.len().saturating_add(1);
        let of_bound = |misread: Misread| Misread { at, ..misread };
        let bound = bound.trim_ascii();
        if is_words(figure, "queue") {
            let wrong = || Misread::new("must be a number of requests, such as queue > 100");
            let bound = bound.parse().map_err(|_| of_bound(wrong()))?;
            Ok(Self::Queue(bound))
        } else if is_words(figure, "errors") {
            let Share(permille) = Share::read(bound).map_err(of_bound)?;
            Ok(Self::Errors(permille))
        } else if is_words(figure, "spend") {
            Usd::read(bound).map(Self::Spend).map_err(of_bound)
        } else if is_words(figure, "caller spend") {
            Usd::read(bound).map(Self::CallerSpend).map_err(of_bound)
        } else if let Some(quantile) = figure.trim_ascii().strip_prefix("wait") {
            let quantile = quantile_of(quantile.trim_ascii()).ok_or_else(|| {
                Misread::new("must name a quantile of the waits, such as wait p99 > 5s")
            })?;
            let above = Duration::read(bound).map_err(of_bound)?;
            Ok(Self::Wait { quantile, above })
        } else {
            Err(unknown())
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Queue(bound) => format!("queue > {bound}"),
            Self::Wait { quantile, above } => {
                let quantile = Share(*quantile).show();
                let quantile = quantile.trim_end_matches('%');
                format!("wait p{quantile} > {}", above.show())
            }
            Self::Errors(permille) => format!("errors > {}", Share(*permille).show()),
            Self::Spend(bound) => format!("spend > {bound}"),
            Self::CallerSpend(bound) => format!("caller spend > {bound}"),
            Self::MemberDown
            | Self::PoolDown
            | Self::BreakerOpen
            | Self::LimitExhausted
            | Self::JobsLost => {
                let mut plain = PLAIN.iter();
                let found = plain.find(|(_, when)| when == self);
                found
                    .map(|(words, _)| (*words).to_owned())
                    .unwrap_or_default()
            }
        }
    }
}

/// Whether a text is these words, with any space between them.
fn is_words(text: &str, words: &str) -> bool {
    text.split_ascii_whitespace().eq(words.split(' '))
}

/// Reads a quantile such as `p99` or `p99.9`, in permille; `p0` is none.
fn quantile_of(text: &str) -> Option<u16> {
    let percent = text.strip_prefix('p')?;
    let Share(permille) = Share::read(&format!("{percent}%")).ok()?;
    (permille > 0).then_some(permille)
}

fn unknown() -> Misread {
    let plain = PLAIN.map(|(words, _)| words).join(", ");
    Misread::new(format!(
        "must be one of {plain}, queue > 100, wait p99 > 5s, errors > 5%, spend > 20 USD, caller spend > 5 USD"
    ))
}

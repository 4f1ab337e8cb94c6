//! Messages of alerts, and their form for receivers.
//!
//! Invariant: the form is that of version 4 of the webhooks of Prometheus' Alertmanager, so that what takes its messages
//! takes these; `text` is added, which chats show.

use super::snapshot::Subject;
use data_encoding::HEXLOWER;
use leasehold_config::{Address, Settings};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The end of an alert that lasts, as Alertmanager has it.
const NOT_ENDED: &str = "0001-01-01T00:00:00Z";

/// A change of an alert of one subject, or its state.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(super) subject: Subject,
    pub(super) summary: String,
    /// The begin, in milliseconds since 1970.
    pub(super) since: u64,
    /// The end of an alert that is over.
    pub(super) until: Option<u64>,
}

impl Message {
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some()
    }

    /// Returns it as subscribers to events see it.
    pub(crate) fn event(&self, alert: &str) -> Value {
        let mut event = self.subject.view();
        let change = if self.is_over() {
            "alert_over"
        } else {
            "alert"
        };
        event["change"] = change.into();
        event["alert"] = alert.into();
        event["text"] = self.summary.as_str().into();
        event["since"] = self.since.into();
        event
    }

    fn view(&self, common: &BTreeMap<String, String>) -> Value {
        let mut labels = common.clone();
        labels.extend(
            self.subject
                .labels()
                .map(|(label, name)| (label.to_owned(), name.to_owned())),
        );
        let labels = json!(labels);
        let fingerprint = Sha256::digest(labels.to_string());
        json!({
            "status": if self.is_over() { "resolved" } else { "firing" },
            "labels": labels,
            "annotations": {"summary": self.summary},
            "startsAt": date(self.since),
            "endsAt": self.until.map_or_else(|| NOT_ENDED.to_owned(), date),
            "generatorURL": "",
            "fingerprint": HEXLOWER.encode(&fingerprint[..8]),
        })
    }
}

/// Returns messages of an alert as one body, whose text has those that are new.
///
/// `cut` others are left out; `is_firing` tells whether any of all of them is active.
pub(super) fn body<'a>(
    labels: &BTreeMap<String, String>,
    messages: impl Iterator<Item = (&'a Message, bool)> + Clone,
    cut: u64,
    is_firing: bool,
) -> Value {
    let new = messages.clone().filter(|(_, is_new)| *is_new);
    let instance = labels
        .get("instance")
        .map(String::as_str)
        .unwrap_or_default();
    let lines = new.map(|(message, _)| {
        let sign = if message.is_over() { "OK" } else { "ALERT" };
        format!("[{sign}] {instance}: {}", escaped(&message.summary))
    });
    let views: Vec<Value> = messages.map(|(message, _)| message.view(labels)).collect();
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{}", json!(labels)),
        "truncatedAlerts": cut,
        "status": if is_firing { "firing" } else { "resolved" },
        "receiver": "leasehold",
        "groupLabels": labels,
        "commonLabels": common(&views, "labels"),
        "commonAnnotations": common(&views, "annotations"),
        "externalURL": "",
        "alerts": views,
        "text": lines.collect::<Vec<_>>().join("\n"),
    })
}

/// Returns those entries of a field that all alerts have, with the same value.
fn common(alerts: &[Value], field: &str) -> Value {
    let mut maps = alerts.iter().filter_map(|alert| alert[field].as_object());
    let mut common = maps.next().cloned().unwrap_or_default();
    for map in maps {
        common.retain(|name, value| map.get(name) == Some(value));
    }
    common.into()
}

/// Writes a text that chats don't read as markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Returns the label that tells this gateway from others: the machine's name, and the port of the first listener.
pub(super) fn instance(settings: &Settings) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "leasehold",
        host => host,
    };
    match settings.listeners.first().map(|listener| &listener.address) {
        Some(Address::Tcp(address)) if address.port() != 0 => format!("{host}:{}", address.port()),
        _ => host.to_owned(),
    }
}

/// Writes a time in milliseconds since 1970.
fn date(millis: u64) -> String {
    let date = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    let text = date.ok().and_then(|date| date.format(&Rfc3339).ok());
    // Only a clock beyond the year 9999 is not told.
    text.unwrap_or_else(|| NOT_ENDED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(member: &str, until: Option<u64>) -> Message {
        Message {
            subject: Subject {
                pool: Some("web".to_owned()),
                member: Some(member.to_owned()),
                ..Subject::default()
            },
            summary: format!("{member} is <down>"),
            since: 1_700_000_000_250,
            until,
        }
    }

    fn labels() -> BTreeMap<String, String> {
        let labels = [
            ("alertname", "no \"web\""),
            ("instance", "host:80"),
            ("severity", "page"),
        ];
        labels
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn a_body_is_as_alertmanager_has_it() {
        let messages = [
            message("a", None),
            message("b", Some(1_700_000_060_000)),
            message("c", None),
        ];
        let rows = messages.iter().zip([true, true, false]);
        let body = body(&labels(), rows, 3, true);
        assert_eq!(
            (&body["version"], &body["status"]),
            (&json!("4"), &json!("firing"))
        );
        assert_eq!(body["groupKey"], format!("{{}}:{}", json!(labels())));
        assert_eq!(body["truncatedAlerts"], 3);
        let mut common = labels();
        common.insert("pool".to_owned(), "web".to_owned());
        assert_eq!(body["commonLabels"], json!(common));
        assert_eq!(body["commonAnnotations"], json!({}));
        let text = "[ALERT] host:80: a is &lt;down&gt;\n[OK] host:80: b is &lt;down&gt;";
        assert_eq!(body["text"], text);
        let [first, second] = [&body["alerts"][0], &body["alerts"][1]];
        let expected = json!({
            "alertname": "no \"web\"", "instance": "host:80", "member": "a", "pool": "web", "severity": "page",
        });
        assert_eq!(first["labels"], expected);
        assert_eq!(
            (&first["status"], &first["endsAt"]),
            (&json!("firing"), &json!(NOT_ENDED))
        );
        assert_eq!(first["startsAt"], "2023-11-14T22:13:20.25Z");
        assert_eq!(second["endsAt"], "2023-11-14T22:14:20Z");
        assert_ne!(first["fingerprint"], second["fingerprint"]);
        let over = message("a", Some(1));
        let body = super::body(&labels(), [(&over, true)].into_iter(), 0, false);
        assert_eq!(body["commonLabels"], expected);
        assert_eq!(body["commonAnnotations"]["summary"], "a is <down>");
        assert_eq!(
            (&body["status"], &body["alerts"][0]["fingerprint"]),
            (&json!("resolved"), &first["fingerprint"])
        );
    }
}

//! Messages of alerts, and their form for receivers.
//!
//! Invariant: the form is that of version 4 of the webhooks of Prometheus' Alertmanager, so that what takes its messages
//! takes these; `text` is added, which chats show.

use super::looks::Subject;
use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The end of an alert that lasts, as Alertmanager has it.
const NOT_ENDED: &str = "0001-01-01T00:00:00Z";

/// That an alert of a subject begins, lasts or is over.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(super) subject: Subject,
    pub(super) words: String,
    /// Times are in milliseconds since 1970.
    pub(super) since: u64,
    /// The end of an alert that is over.
    pub(super) until: Option<u64>,
    pub(super) made: u64,
}

impl Message {
    pub(crate) fn words(&self) -> &str {
        &self.words
    }

    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some()
    }

    pub(crate) fn pool(&self) -> Option<&str> {
        self.subject.pool.as_deref()
    }

    pub(crate) fn member(&self) -> Option<&str> {
        self.subject.member.as_deref()
    }

    fn status(&self) -> &'static str {
        match self.until {
            None => "firing",
            Some(_) => "resolved",
        }
    }

    fn view(&self, alert: &str) -> Value {
        let labels = labels(alert, &self.subject);
        let named = Value::Object(labels.clone()).to_string();
        let fingerprint = Sha256::digest(named);
        json!({
            "status": self.status(),
            "labels": labels,
            "annotations": {"summary": self.words},
            "startsAt": date(self.since),
            "endsAt": self.until.map_or_else(|| NOT_ENDED.to_owned(), date),
            "generatorURL": "",
            "fingerprint": HEXLOWER.encode(&fingerprint[..8]),
        })
    }
}

/// Returns messages of an alert as one body; `dropped` others before them were lost.
pub(super) fn body(alert: &str, messages: &[Message], dropped: u64) -> Value {
    let is_firing = messages.iter().any(|message| !message.is_over());
    let lines = messages.iter().map(|message| {
        let sign = if message.is_over() { "OK" } else { "ALERT" };
        format!("[{sign}] {}", message.words)
    });
    let mut common = messages
        .iter()
        .map(|message| labels(alert, &message.subject));
    let mut same = common.next().unwrap_or_default();
    for other in common {
        same.retain(|name, value| other.get(name) == Some(value));
    }
    let views = messages.iter().map(|message| message.view(alert));
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname={alert:?}}}"),
        "truncatedAlerts": dropped,
        "status": if is_firing { "firing" } else { "resolved" },
        "receiver": "leasehold",
        "groupLabels": {"alertname": alert},
        "commonLabels": same,
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": views.collect::<Vec<_>>(),
        "text": lines.collect::<Vec<_>>().join("\n"),
    })
}

fn labels(alert: &str, subject: &Subject) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert("alertname".to_owned(), alert.into());
    let names = [
        ("pool", &subject.pool),
        ("member", &subject.member),
        ("caller", &subject.caller),
    ];
    for (label, name) in names {
        if let Some(name) = name {
            labels.insert(label.to_owned(), name.as_str().into());
        }
    }
    labels
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
                caller: None,
            },
            words: format!("{member} is down"),
            since: 1_700_000_000_250,
            until,
            made: 0,
        }
    }

    #[test]
    fn a_body_is_as_alertmanager_has_it() {
        let messages = [message("a", None), message("b", Some(1_700_000_060_000))];
        let body = body("no \"web\"", &messages, 3);
        assert_eq!(
            (&body["version"], &body["status"]),
            (&json!("4"), &json!("firing"))
        );
        assert_eq!(body["groupKey"], "{}:{alertname=\"no \\\"web\\\"\"}");
        assert_eq!(body["truncatedAlerts"], 3);
        let common = json!({"alertname": "no \"web\"", "pool": "web"});
        assert_eq!(body["commonLabels"], common);
        assert_eq!(body["text"], "[ALERT] a is down\n[OK] b is down");
        let [first, second] = [&body["alerts"][0], &body["alerts"][1]];
        assert_eq!(first["labels"]["member"], "a");
        assert_eq!(
            (&first["status"], &first["endsAt"]),
            (&json!("firing"), &json!(NOT_ENDED))
        );
        assert_eq!(first["startsAt"], "2023-11-14T22:13:20.25Z");
        assert_eq!(second["endsAt"], "2023-11-14T22:14:20Z");
        assert_ne!(first["fingerprint"], second["fingerprint"]);
        let over = [message("a", Some(1))];
        assert_eq!(super::body("x", &over, 0)["status"], "resolved");
    }
}

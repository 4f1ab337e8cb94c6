//! The bodies of changes, read without any state of the gateway.
//!
//! Invariant: a change that is read can be made, unless the pool's state forbids it. A body with a field that is
//! unknown, missing or out of range is refused, and the message names the field.

use super::routes::Kind;
use core::fmt;
use core::net::IpAddr;
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;
use http::Uri;
use leasehold_config::MemberSettings;
use leasehold_core::limit::{LimitSpecs, ParseLimitError};
use leasehold_core::time::parse_span;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::Serializer;
use serde_json::{Map, Value};

/// How long a breaker is opened, if the body does not say.
const OPEN: Duration = Duration::from_secs(30);
/// How long a breaker is opened at most: a year.
const MAX_OPEN: Duration = Duration::from_secs(365 * 86_400);
/// Characters of a backend's name.
const MAX_NAME: usize = 255;

/// A change of the backends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Add(NewBackend),
    Disable,
    Enable,
    Drain,
    Weight(u16),
    /// Sets its limits; `None` for none.
    Limits(Option<LimitSpecs>),
    /// Opens the breaker for a time, or closes it.
    Breaker(Option<Duration>),
    Remove,
}

/// A backend to be added.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewBackend {
    pub(crate) name: String,
    /// The pool that the body names.
    pub(crate) pool: Option<String>,
    pub(crate) backend: AddedBackend,
}

/// A backend that was added, as the state file keeps it under its name.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddedBackend {
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    url: Uri,
    weight: u16,
    tier: u8,
    max_connections: Option<NonZeroU32>,
}

impl AddedBackend {
    /// Returns the settings of a member of this name.
    pub(crate) fn settings(&self, name: &str) -> MemberSettings {
        MemberSettings {
            weight: self.weight,
            tier: self.tier,
            max_connections: self.max_connections,
            ..MemberSettings::new(name.to_owned(), self.url.clone())
        }
    }
}

/// Reads the body that switches full reports on or off.
pub(crate) fn verbose(body: &[u8]) -> Result<bool, String> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    let fields = body
        .as_object()
        .map(|fields| (fields.len(), fields.get("verbose")));
    match fields {
        Some((1, Some(Value::Bool(verbose)))) => Ok(*verbose),
        Some(_) | None => {
            Err("the body has to be {\"verbose\": true} or {\"verbose\": false}".to_owned())
        }
    }
}

/// Reads the body of a kind of change; the error says what is wrong with it.
pub(crate) fn parse(kind: Kind, body: &[u8]) -> Result<Change, String> {
    let mut fields = Fields::read(kind, body)?;
    let change = match kind {
        Kind::Add => Change::Add(new_backend(&mut fields)?),
        Kind::Disable => Change::Disable,
        Kind::Enable => Change::Enable,
        Kind::Drain => Change::Drain,
        Kind::Weight => {
            let weight = fields.number("weight", 0..=u16::MAX.into())?;
            Change::Weight(narrow(required("weight", weight)?))
        }
        Kind::Limits => {
            let text = required("limit", fields.text("limit")?)?;
            Change::Limits(match text.trim() {
                "" => None,
                text => Some(limits(text)?),
            })
        }
        Kind::Breaker => Change::Breaker(breaker(&mut fields)?),
        Kind::Remove => Change::Remove,
    };
    fields.end()?;
    Ok(change)
}

fn new_backend(fields: &mut Fields) -> Result<NewBackend, String> {
    let host = required("host", fields.text("host")?)?;
    let port = fields.number("port", 1..=u16::MAX.into())?;
    let port = required("port", port)?;
    let authority = authority(&host, port)?;
    let url = Uri::builder()
        .scheme("http")
        .authority(authority.as_str())
        .path_and_query("/")
        .build();
    let weight = fields.number("weight", 0..=u16::MAX.into())?.unwrap_or(1);
    let tier = fields.number("tier", 0..=u8::MAX.into())?.unwrap_or(0);
    let max = fields.number("max_connections", 1..=u32::MAX.into())?;
    let name = fields.text("name")?.unwrap_or(authority);
    check_name(&name)?;
    Ok(NewBackend {
        name,
        pool: fields.text("pool")?,
        backend: AddedBackend {
            url: url.map_err(|_| bad_host(&host))?,
            weight: narrow(weight),
            tier: narrow(tier),
            max_connections: max.and_then(|max| NonZeroU32::new(narrow(max))),
        },
    })
}

/// Returns host and port as a URL has them; the host is a name of letters, digits, `-`, `_` and `.`, or an address.
pub(crate) fn authority(host: &str, port: u64) -> Result<String, String> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
        return match address {
            IpAddr::V4(address) => Ok(format!("{address}:{port}")),
            IpAddr::V6(address) => Ok(format!("[{address}]:{port}")),
        };
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_name = host.len() <= 253
        && host.bytes().all(is_plain)
        && labels.clone().all(|label| (1..=63).contains(&label.len()));
    match is_name {
        true => Ok(format!("{host}:{port}")),
        false => Err(bad_host(host)),
    }
}

fn bad_host(host: &str) -> String {
    format!("host must be a name or an address, without scheme, port or path, not {host:?}")
}

/// Checks a name that is to stand in paths and logs.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = (1..=MAX_NAME).contains(&name.chars().count())
        && !name.chars().any(char::is_control)
        && ![".", ".."].contains(&name);
    match is_plain {
        true => Ok(()),
        false => Err(format!(
            "name must have 1 to {MAX_NAME} characters, none of control, and not be . or .."
        )),
    }
}

fn limits(text: &str) -> Result<LimitSpecs, String> {
    let parsed: Result<_, ParseLimitError> = text.parse();
    parsed.map_err(|error| format!("limit: {error}"))
}

fn breaker(fields: &mut Fields) -> Result<Option<Duration>, String> {
    let state = required("state", fields.text("state")?)?;
    let time = fields.text("for")?;
    match (state.as_str(), time) {
        ("closed", None) => Ok(None),
        ("closed", Some(_)) => Err("a breaker that is closed has no \"for\"".to_owned()),
        ("open", None) => Ok(Some(OPEN)),
        ("open", Some(text)) => match span(&text) {
            Some(time) => Ok(Some(time.min(MAX_OPEN))),
            None => Err(format!(
                "for must be a number and ms, s, min, h or d, such as 30s, not {text:?}"
            )),
        },
        _ => Err(format!("state must be open or closed, not {state:?}")),
    }
}

/// Reads a time above 0, of up to nine digits and a unit.
fn span(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let is_plain = (1..=9).contains(&digits)
        && !number.starts_with('0')
        && ["ms", "s", "min", "h", "d"].contains(&unit);
    // Nothing but its length can be wrong by now.
    is_plain.then(|| parse_span(text).unwrap_or(MAX_OPEN))
}

/// The fields of an object that were not read yet.
struct Fields {
    known: &'static [&'static str],
    left: Map<String, Value>,
}

impl Fields {
    /// Reads an object; no bytes at all are an object without fields.
    fn read(kind: Kind, body: &[u8]) -> Result<Self, String> {
        let known: &[_] = match kind {
            Kind::Add => &[
                "host",
                "port",
                "weight",
                "pool",
                "name",
                "tier",
                "max_connections",
            ],
            Kind::Weight => &["weight"],
            Kind::Limits => &["limit"],
            Kind::Breaker => &["state", "for"],
            Kind::Disable | Kind::Enable | Kind::Drain | Kind::Remove => &[],
        };
        let value = match body.trim_ascii() {
            b"" => Ok(Value::Object(Map::new())),
            body => serde_json::from_slice(body),
        };
        match value {
            Ok(Value::Object(left)) => Ok(Self { known, left }),
            Ok(other) => Err(format!(
                "the body must be a JSON object, not {}",
                kind_of(&other)
            )),
            Err(error) => Err(format!("the body is no JSON: {error}")),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.left.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("{name} must be a text, not {}", kind_of(&other))),
        }
    }

    fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, String> {
        let Some(value) = self.left.remove(name) else {
            return Ok(None);
        };
        match whole(&value).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let number = value.as_number().map(ToString::to_string);
                let given = number.unwrap_or_else(|| kind_of(&value).to_owned());
                let (least, most) = (range.start(), range.end());
                Err(format!(
                    "{name} must be a whole number from {least} to {most}, not {given}"
                ))
            }
        }
    }

    fn end(self) -> Result<(), String> {
        let Some(name) = self.left.keys().next() else {
            return Ok(());
        };
        Err(match self.known.is_empty() {
            true => format!("unknown field {name:?}; this call has none"),
            false => format!("unknown field {name:?}; known: {}", self.known.join(", ")),
        })
    }
}

fn required<T>(name: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("{name} is missing"))
}

/// Returns a whole number; `80.0` is one as well, in JSON Schema's words.
fn whole(value: &Value) -> Option<u64> {
    let of_fraction = |number: f64| {
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_whole.then_some(number as u64)
    };
    value
        .as_u64()
        .or_else(|| value.as_f64().and_then(of_fraction))
}

/// Converts a number that was found in the range of the type.
fn narrow<T: TryFrom<u64> + Default>(number: u64) -> T {
    T::try_from(number).unwrap_or_default()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn from_text<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(body: &str) -> Result<NewBackend, String> {
        let change = parse(Kind::Add, body.as_bytes())?;
        let Change::Add(new) = change else {
            panic!("{change:?}");
        };
        Ok(new)
    }

    #[test]
    fn a_backend_is_named_by_host_and_port_unless_it_has_a_name() {
        for (body, name, url) in [
            (
                r#"{"host":"localhost","port":8004}"#,
                "localhost:8004",
                "http://localhost:8004/",
            ),
            (
                r#"{"host":"::1","port":80}"#,
                "[::1]:80",
                "http://[::1]:80/",
            ),
            (
                r#"{"host":"[::1]","port":80}"#,
                "[::1]:80",
                "http://[::1]:80/",
            ),
            (
                r#"{"host":"a_b.test.","port":1,"name":"x y/z"}"#,
                "x y/z",
                "http://a_b.test.:1/",
            ),
        ] {
            let new = added(body).unwrap();
            assert_eq!(new.name, name);
            let settings = new.backend.settings(&new.name);
            assert_eq!(settings.url.to_string(), url);
            assert_eq!((settings.weight, settings.tier), (1, 0));
        }
        let full = r#"{"host":"a","port":65535,"weight":7,"pool":"web","name":"n","tier":2,"max_connections":9}"#;
        let new = added(full).unwrap();
        let settings = new.backend.settings("n");
        assert_eq!((settings.weight, settings.tier), (7, 2));
        assert_eq!(settings.max_connections, NonZeroU32::new(9));
        assert_eq!(new.pool.as_deref(), Some("web"));
    }

    #[test]
    fn a_wrong_body_is_refused_with_the_field() {
        for (kind, body, told) in [
            (Kind::Add, "", "host is missing"),
            (Kind::Add, "[]", "must be a JSON object, not a list"),
            (Kind::Add, "{", "no JSON"),
            (Kind::Add, r#"{"host":"a"}"#, "port is missing"),
            (
                Kind::Add,
                r#"{"host":"a","port":0}"#,
                "port must be a whole number from 1 to 65535, not 0",
            ),
            (Kind::Add, r#"{"host":"a","port":65536}"#, "not 65536"),
            (Kind::Add, r#"{"host":"a","port":"80"}"#, "not a text"),
            (Kind::Add, r#"{"host":"a","port":80.5}"#, "not 80.5"),
            (Kind::Add, r#"{"host":1,"port":80}"#, "host must be a text"),
            (
                Kind::Add,
                r#"{"host":"a","port":80,"weight":-1}"#,
                "weight must",
            ),
            (
                Kind::Add,
                r#"{"host":"a","port":80,"wieght":1}"#,
                "unknown field \"wieght\"",
            ),
            (
                Kind::Add,
                r#"{"host":"a","port":80,"name":".."}"#,
                "name must",
            ),
            (
                Kind::Add,
                r#"{"host":"a","port":80,"name":"a\nb"}"#,
                "name must",
            ),
            (Kind::Weight, r#"{"weight":-0.5}"#, "not -0.5"),
            (Kind::Weight, "{}", "weight is missing"),
            (Kind::Weight, r#"{"weight":65536}"#, "weight must"),
            (Kind::Breaker, r#"{"state":"ajar"}"#, "open or closed"),
            (
                Kind::Breaker,
                r#"{"state":"closed","for":"1s"}"#,
                "no \"for\"",
            ),
            (Kind::Breaker, r#"{"state":"open","for":"0s"}"#, "for must"),
            (
                Kind::Breaker,
                r#"{"state":"open","for":"2 lightyears"}"#,
                "for must",
            ),
            (Kind::Disable, r#"{"a":1}"#, "this call has none"),
        ] {
            let error = parse(kind, body.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{body}: {error}");
        }
        for host in [
            "", "a b", "http://a", "a:80", "a/b", "me@a", "a..b", "a%62", "ä", "[::1", ".",
        ] {
            let body = serde_json::json!({"host": host, "port": 80}).to_string();
            assert!(added(&body).unwrap_err().contains("host must"), "{host}");
        }
    }

    #[test]
    fn changes_without_arguments_need_no_body() {
        for (kind, change) in [
            (Kind::Disable, Change::Disable),
            (Kind::Enable, Change::Enable),
            (Kind::Drain, Change::Drain),
            (Kind::Remove, Change::Remove),
        ] {
            assert_eq!(parse(kind, b""), Ok(change.clone()));
            assert_eq!(parse(kind, b" {} "), Ok(change));
        }
        let open = parse(Kind::Breaker, br#"{"state":"open","for":"5min"}"#);
        assert_eq!(open, Ok(Change::Breaker(Some(Duration::from_secs(300)))));
        let long = parse(Kind::Breaker, br#"{"state":"open","for":"999999999d"}"#);
        assert_eq!(long, Ok(Change::Breaker(Some(MAX_OPEN))));
        let closed = parse(Kind::Breaker, br#"{"state":"closed"}"#);
        assert_eq!(closed, Ok(Change::Breaker(None)));
    }
}

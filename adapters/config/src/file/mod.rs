//! The tables of the configuration file, as types for serde.
//!
//! Invariant: what a table's documentation says is the description in the schema and in the reference of the README.
//! A table of the settings is shown as a table of the file that is read back as the same settings.

mod alert;
mod caller;
mod comfyui;
mod health;
mod listen;
mod log;
mod otlp;
mod pool;
mod value;
mod values;

pub(crate) use alert::{AlertTable, Label};
pub(crate) use caller::{CallerTable, PriceTable};
pub(crate) use comfyui::ComfyuiTable;
pub(crate) use health::{BreakerTable, HealthTable, OutlierTable, SlowStartTable};
pub(crate) use listen::{BoundsTable, FallbackTable, ListenTable, RouteTable, TrustedProxiesValue};
pub(crate) use log::{LogTable, Target};
pub(crate) use otlp::OtlpTable;
pub(crate) use pool::{AffinityTable, MemberTable, PoolTable, RetryTable, UpstreamTable};
pub(crate) use value::{Text, Value};
pub(crate) use values::{
    CookieName, FilePath, HostName, Line, Name, PathPrefix, READERS, Share, Timeout, Url,
};

use crate::settings::{AccessLog, Address, AfterCrash, LogFormat};
use core::fmt;
use core::time::Duration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Settings of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "leasehold.toml")]
pub(crate) struct ConfigFile {
    /// Further files, as paths or patterns such as `pools/*.toml`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) include: Vec<Text<FilePath>>,
    /// The file that keeps limits and changes over a restart; without it, nothing is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<Text<FilePath>>,
    /// The limits after a crash of the machine: `closed` takes them as used up, `trust` as the file has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "closed"))]
    pub(crate) after_crash: Option<Text<AfterCrash>>,
    /// How long requests in flight may take to end after SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "30s"))]
    pub(crate) drain: Option<Text<Duration>>,
    /// The log of requests; `false` writes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_log: Option<AccessLogValue>,
    /// The log for the operator, on standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<LogTable>,
    /// Traces and metrics for a collector of OpenTelemetry; without it, none are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otlp: Option<OtlpTable>,
    /// The admin interface under `/lb/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admin: Option<AdminTable>,
    /// The pools, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) pools: BTreeMap<String, PoolTable>,
    /// The addresses that callers reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listen: Vec<ListenTable>,
    /// The conditions that are told of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) alert: Vec<AlertTable>,
    /// The callers of listeners of services; without any, a listener has its token alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) caller: Vec<CallerTable>,
    /// What a million tokens cost, by models: `[price."gpt-4o*"]`. Of several that fit a model, the longest is taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) price: BTreeMap<String, PriceTable>,
}

/// The admin interface under `/lb/`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminTable {
    /// A listener of its own; without it, this machine can read `/lb/` on each listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<Text<Address>>,
    /// The file of the token that changes need, and callers on other machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<Text<FilePath>>,
}

/// The log of requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccessLogTable {
    /// The form of a line.
    pub(crate) format: Text<LogFormat>,
    /// The file; without it, standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Text<FilePath>>,
}

impl Default for AccessLogTable {
    fn default() -> Self {
        Self {
            format: Text(LogFormat::Combined),
            path: None,
        }
    }
}

/// `access_log`: a switch, or a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AccessLogValue {
    Switch(bool),
    Table(AccessLogTable),
}

impl AccessLogValue {
    pub(crate) fn of(settings: &AccessLog) -> Self {
        settings.format.map_or(Self::Switch(false), |format| {
            let path = settings.path.clone().map(|path| Text(FilePath(path)));
            let format = Text(format);
            Self::Table(AccessLogTable { format, path })
        })
    }
}

impl<'de> Deserialize<'de> for AccessLogValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = AccessLogValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table")
            }

            fn visit_bool<E>(self, switch: bool) -> Result<AccessLogValue, E> {
                Ok(AccessLogValue::Switch(switch))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AccessLogValue, A::Error> {
                let table = AccessLogTable::deserialize(MapAccessDeserializer::new(map));
                table.map(AccessLogValue::Table)
            }
        }

        // No untagged enum: serde would lose what is wrong inside.
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for AccessLogValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Switch(switch) => switch.serialize(serializer),
            Self::Table(table) => table.serialize(serializer),
        }
    }
}

impl JsonSchema for AccessLogValue {
    fn schema_name() -> Cow<'static, str> {
        "AccessLogValue".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<AccessLogTable>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, table] })
    }
}

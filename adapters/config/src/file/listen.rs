//! Tables of listeners.
//!
//! Invariant: a default that depends on nothing else is the one of the settings.

use super::{FilePath, HostName, Line, Name, PathPrefix, Text, Timeout};
use crate::callers::ModelPattern;
use crate::network::Network;
use crate::settings::{Address, ListenerBounds, OnDisconnect, Serve, TrustedProxies};
use core::fmt;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::LimitSpecs;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An address that callers reach.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenTable {
    /// An IP address and a port, or `unix:/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) address: Option<Text<Address>>,
    /// What it speaks; `leases` serves every pool, each under its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) serve: Option<Text<Serve>>,
    /// The pool of requests that no route fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
    /// Pools by host and path; the first route that fits is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) route: Vec<RouteTable>,
    /// The file of a token that callers need. Without it, `leases` is on a loopback address or a socket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<Text<FilePath>>,
    /// The peers whose `X-Forwarded-For` is believed: networks, or `"all"`, and then any client can pose as another.
    #[serde(default, skip_serializing_if = "TrustedProxiesValue::is_none")]
    pub(crate) trusted_proxies: TrustedProxiesValue,
    /// A limit on all requests together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Text<LimitSpecs>>,
    /// A limit on the requests of each client address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_limit: Option<Text<LimitSpecs>>,
    /// Whether a stream whose caller waits long for a key begins, and is kept open by comments (openai); `true` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep_alive: Option<bool>,
    /// What becomes of a call whose caller has left (openai): `cancel` ends it at once, `drain` hears its answer out, so
    /// that its usage is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "cancel"))]
    pub(crate) on_disconnect: Option<Text<OnDisconnect>>,
    /// How long a lease lives from its grant or last renewal (leases). Its holder starts no call after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "1m"))]
    pub(crate) lease_ttl: Option<Text<Duration>>,
    /// The zones of callers by their networks (comfyui): `{ "10.1.0.0/16" = "berlin" }`; the smallest network counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = { "type": "string", "format": "network", "examples": ["10.0.0.0/8"] }))]
    pub(crate) zones: BTreeMap<String, Text<Name>>,
    /// Bounds on what callers may do.
    #[serde(default)]
    pub(crate) bounds: BoundsTable,
}

/// Requests that go to one pool.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteTable {
    /// The host they name, without a port; without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<Text<HostName>>,
    /// The begin of their path, by whole segments.
    #[serde(default = "any_path")]
    pub(crate) path: Text<PathPrefix>,
    /// The models they ask for (openai); without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<Text<ModelPattern>>,
    /// The name of their pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) pool: Option<String>,
    /// The name that the model has there, in place of the one that was asked for.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub(crate) rename: Option<Text<Line>>,
    /// Where a call goes that the pool can't serve in time, or that has failed there; in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) fallbacks: Vec<FallbackTable>,
}

/// A pool for calls that another one does not serve.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FallbackTable {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) pool: Option<String>,
    /// The name that the model has there.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub(crate) rename: Option<Text<Line>>,
}

fn any_path() -> Text<PathPrefix> {
    Text(PathPrefix("/".to_owned()))
}

/// Bounds on what callers may do.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BoundsTable {
    /// Until a request's headers are there.
    pub(crate) header_read: Text<Timeout>,
    /// Between two pieces of a request's body.
    pub(crate) body_idle: Text<Timeout>,
    /// Between two requests of a connection.
    pub(crate) keep_alive: Text<Timeout>,
    /// Bytes of a request's head.
    #[schemars(range(min = 8_192, max = 16_777_216))]
    pub(crate) max_header_bytes: u32,
    /// Fields of a request's head.
    #[schemars(range(min = 1, max = 65_535))]
    pub(crate) max_headers: u16,
    /// Bytes of a request's body, at most 1 PiB; without it, any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_125_899_906_842_624_u64))]
    pub(crate) max_body: Option<u64>,
    /// Connections in all.
    pub(crate) max_connections: NonZeroU32,
    /// Connections of one client address.
    pub(crate) max_client_connections: NonZeroU32,
    /// Requests of one connection; without it, any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_requests: Option<NonZeroU32>,
}

impl Default for BoundsTable {
    fn default() -> Self {
        Self::of(ListenerBounds::default())
    }
}

impl BoundsTable {
    pub(crate) fn build(&self) -> ListenerBounds {
        ListenerBounds {
            header_read: self.header_read.0.0,
            body_idle: self.body_idle.0.0,
            keep_alive: self.keep_alive.0.0,
            max_header_bytes: self.max_header_bytes,
            max_headers: self.max_headers,
            max_body: self.max_body,
            max_connections: self.max_connections,
            max_client_connections: self.max_client_connections,
            max_requests: self.max_requests,
        }
    }

    pub(crate) fn of(bounds: ListenerBounds) -> Self {
        let timeout = |span: Duration| Text(Timeout(span));
        Self {
            header_read: timeout(bounds.header_read),
            body_idle: timeout(bounds.body_idle),
            keep_alive: timeout(bounds.keep_alive),
            max_header_bytes: bounds.max_header_bytes,
            max_headers: bounds.max_headers,
            max_body: bounds.max_body,
            max_connections: bounds.max_connections,
            max_client_connections: bounds.max_client_connections,
            max_requests: bounds.max_requests,
        }
    }
}

/// `trusted_proxies`: `"all"`, or a list of networks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TrustedProxiesValue(pub(crate) TrustedProxies);

/// The word for any peer.
const ALL: &str = "all";

impl TrustedProxiesValue {
    fn is_none(&self) -> bool {
        self.0 == TrustedProxies::None
    }
}

impl<'de> Deserialize<'de> for TrustedProxiesValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = TrustedProxies;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of networks or \"all\"")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<TrustedProxies, E> {
                match word {
                    ALL => Ok(TrustedProxies::All),
                    _ => Err(E::custom("must be a list of networks or \"all\"")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TrustedProxies, A::Error> {
                let list = Vec::<Text<Network>>::deserialize(SeqAccessDeserializer::new(list))?;
                if list.is_empty() {
                    return Ok(TrustedProxies::None);
                }
                let networks = list.into_iter().map(|network| network.0);
                Ok(TrustedProxies::Networks(networks.collect()))
            }
        }

        deserializer.deserialize_any(Either).map(Self)
    }
}

impl Serialize for TrustedProxiesValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            TrustedProxies::All => serializer.serialize_str(ALL),
            TrustedProxies::None => serializer.collect_seq::<[Text<Network>; 0]>([]),
            TrustedProxies::Networks(networks) => {
                serializer.collect_seq(networks.iter().copied().map(Text))
            }
        }
    }
}

impl JsonSchema for TrustedProxiesValue {
    fn schema_name() -> Cow<'static, str> {
        "TrustedProxiesValue".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let network = generator.subschema_for::<Text<Network>>();
        json_schema!({
            "anyOf": [{ "type": "array", "items": network }, { "type": "string", "enum": [ALL] }],
        })
    }
}

//! The settings in force, as people see them.
//!
//! Invariant: no secret is shown: of tokens whether they are set, of keys nothing.

use super::backends::shown_url;
use super::stats::algorithm;
use crate::gateway::shown;
use crate::shared::Table;
use core::time::Duration;
use leasehold_config::{
    AffinityKey, AfterCrash, Kind, ListenerSettings, LogFormat, PoolSettings, Route, Serve,
    Settings, TrustedProxies,
};
use leasehold_core::limit::LimitSpecs;
use leasehold_core::time::DisplaySpan;
use serde_json::{Value, json};

/// Returns the settings of a table.
pub(crate) fn view(table: &Table) -> Value {
    let Settings {
        state,
        admin,
        access_log,
        drain,
        pools,
        listeners,
    } = &table.settings;
    let addresses = |listener: &ListenerSettings| shown(&listener.address);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "addresses": listeners.iter().map(addresses).collect::<Vec<_>>(),
        "algorithm": pools.first().map(|pool| algorithm(pool.policy)),
        "drain": span(*drain),
        "access_log": access_log.format.map(|format| json!({
            "format": match format {
                LogFormat::Common => "common",
                LogFormat::Combined => "combined",
                LogFormat::Json => "json",
            },
            "path": access_log.path,
        })),
        "state": state.as_ref().map(|state| json!({
            "path": state.path,
            "after_crash": match state.after_crash {
                AfterCrash::Closed => "closed",
                AfterCrash::Trust => "trust",
            },
        })),
        "admin": {
            "listen": admin.listen.as_ref().map(shown),
            "has_token": admin.token.is_some(),
            "open_on_loopback": admin.open_on_loopback,
        },
        "pools": pools.iter().map(pool).collect::<Vec<_>>(),
        "listeners": listeners.iter().map(|one| listener(one, pools)).collect::<Vec<_>>(),
    })
}

fn span(time: Duration) -> String {
    DisplaySpan(time).to_string()
}

fn limits(limits: &Option<LimitSpecs>) -> Option<String> {
    limits.as_ref().map(ToString::to_string)
}

fn pool(settings: &PoolSettings) -> Value {
    let members = settings.members.iter().map(|member| {
        json!({
            "name": member.name,
            "url": shown_url(&member.url),
            "has_key": member.key.is_some(),
            "weight": member.weight,
            "tier": member.tier,
            "labels": member.labels,
            "limits": limits(&member.limits),
            "group": member.group,
            "max_connections": member.max_connections,
        })
    });
    json!({
        "name": settings.name,
        "kind": match settings.kind {
            Kind::Http => "http",
            Kind::Openai => "openai",
            Kind::Comfyui => "comfyui",
        },
        "policy": settings.policy.name(),
        "max_wait": span(settings.max_wait),
        "max_waiters": settings.max_waiters,
        "limits": limits(&settings.limits),
        "breaker": settings.breaker.is_some(),
        "health": settings.health.as_ref().map(|health| json!({
            "path": health.path.as_str(),
            "timeout": span(health.probes.timeout()),
            "status": [health.status.start(), health.status.end()],
            "body": health.body,
        })),
        "outlier": settings.outlier.is_some(),
        "slow_start": settings.slow_start.is_some(),
        "affinity": settings.affinity.as_ref().map(|affinity| json!({
            "by": match &affinity.by {
                AffinityKey::Cookie(name) => format!("cookie {name}"),
                AffinityKey::Address => "address".to_owned(),
            },
            "ttl": span(affinity.ttl),
            "capacity": affinity.capacity,
        })),
        "retry": {
            "attempts": settings.retry.attempts,
            "budget_permille": settings.retry.budget_permille,
            "reserve": settings.retry.reserve,
        },
        "upstream": {
            "connect": span(settings.upstream.connect),
            "response_header": span(settings.upstream.response_header),
            "body_idle": span(settings.upstream.body_idle),
            "keep_alive": span(settings.upstream.keep_alive),
            "max_idle": settings.upstream.max_idle,
        },
        "members": members.collect::<Vec<_>>(),
    })
}

fn listener(settings: &ListenerSettings, pools: &[PoolSettings]) -> Value {
    let route = |route: &Route| {
        json!({
            "host": route.host,
            "path": route.path,
            "pool": pools.get(route.pool).map(|pool| &pool.name),
        })
    };
    let bounds = settings.bounds;
    json!({
        "address": shown(&settings.address),
        "serve": match settings.serve {
            Serve::Http => "http",
            Serve::Openai => "openai",
            Serve::Comfyui => "comfyui",
            Serve::Leases => "leases",
        },
        "routes": settings.routes.iter().map(route).collect::<Vec<_>>(),
        "has_token": settings.token.is_some(),
        "trusted_proxies": match &settings.forwarded {
            TrustedProxies::None => json!([]),
            TrustedProxies::Networks(networks) => {
                let text = networks.iter().map(|one| format!("{}/{}", one.address, one.prefix));
                text.collect()
            }
            TrustedProxies::All => json!("all"),
        },
        "limit": limits(&settings.limit),
        "client_limit": limits(&settings.client_limit),
        "bounds": {
            "header_read": span(bounds.header_read),
            "body_idle": span(bounds.body_idle),
            "keep_alive": span(bounds.keep_alive),
            "max_header_bytes": bounds.max_header_bytes,
            "max_headers": bounds.max_headers,
            "max_body": bounds.max_body,
            "max_connections": bounds.max_connections,
            "max_client_connections": bounds.max_client_connections,
            "max_requests": bounds.max_requests,
        },
    })
}

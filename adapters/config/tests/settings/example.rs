//! The example, and what a small file leaves to the defaults.

use crate::{SMALL, read};
use core::time::Duration;
use leasehold_config::{
    AccessLog, Address, AffinityKey, Kind, ListenerBounds, LogFormat, Serve, TrustedProxies, schema,
};
use leasehold_core::balance::Policy;
use std::path::{Path, PathBuf};

const EXAMPLE: &str = include_str!("../../examples/leasehold.toml");

#[test]
fn a_small_file_gets_the_defaults() {
    let settings = read(SMALL).unwrap();
    let pool = settings.pool("web").unwrap();
    assert_eq!(
        (pool.policy, pool.max_wait),
        (Policy::RoundRobin, Duration::from_secs(30))
    );
    assert!(pool.breaker.is_none() && pool.health.is_none());
    assert_eq!(pool.members[0].name, "h:1");
    let listener = &settings.listeners[0];
    assert_eq!(listener.serve, Serve::Http);
    assert_eq!(listener.bounds, ListenerBounds::default());
    assert_eq!(listener.forwarded, TrustedProxies::None);
    assert_eq!(settings.access_log, AccessLog::default());
    assert!(!settings.admin.open_on_loopback);
}

#[test]
fn the_example_means_what_it_says() {
    let settings = read(EXAMPLE).unwrap();
    assert_eq!(
        settings.state.as_ref().unwrap().path,
        PathBuf::from("/etc/leasehold.state")
    );
    assert_eq!(settings.access_log.format, Some(LogFormat::Json));
    assert_eq!(
        settings.access_log.path.as_deref(),
        Some(Path::new("/var/log/leasehold/access.log"))
    );
    let names: Vec<_> = settings
        .pools
        .iter()
        .map(|pool| (pool.name.as_str(), pool.kind))
        .collect();
    assert_eq!(
        names,
        [
            ("web", Kind::Http),
            ("keys", Kind::Openai),
            ("images", Kind::Comfyui)
        ]
    );
    let web = &settings.pools[0];
    assert_eq!(web.policy, Policy::WeightedRoundRobin);
    assert_eq!(
        web.affinity.as_ref().unwrap().by,
        AffinityKey::Cookie("backend".to_owned())
    );
    assert!(web.outlier.is_some() && web.slow_start.is_some());
    let keys: Vec<_> = settings.pools[1]
        .members
        .iter()
        .map(|it| {
            let key = it.key.as_ref().unwrap().to_string();
            (
                it.name.as_str(),
                key,
                it.group.as_deref(),
                it.limits.as_ref().map_or(0, |it| it.len()),
            )
        })
        .collect();
    assert_eq!(
        keys,
        [
            ("acme", "…1111".to_owned(), Some("account-a"), 3),
            ("acme-2", "…2222".to_owned(), Some("account-b"), 1),
            ("other", "…3333".to_owned(), None, 0),
            ("other-2", "…4444".to_owned(), None, 0),
        ]
    );
    assert_eq!(settings.listeners[0].routes.len(), 2);
    assert_eq!(
        settings.listeners[3].address,
        Address::Unix("/etc/leases.sock".into())
    );
    assert!(settings.listeners[3].token.is_some());
    let route = &settings.listeners[1].routes[0];
    assert!(route.model.as_ref().unwrap().fits("fast"));
    assert_eq!(route.targets[0].rename.as_deref(), Some("gpt-4o-mini"));
    assert_eq!(route.targets[1].rename.as_deref(), Some("gpt-4o"));
    let caller = &settings.callers[0];
    assert!(caller.key.to_string().starts_with("06d94a7b"));
    assert_eq!(caller.budget.unwrap().window, Duration::from_secs(86_400));
    assert_eq!(settings.prices[0].price.output.to_string(), "10 USD");
}

#[test]
fn the_example_shows_every_key_and_is_valid_by_the_schema() {
    let value: serde_json::Value = toml::from_str(EXAMPLE).unwrap();
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|it| it.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let missing = not_shown(&schema(), &value, String::new());
    assert_eq!(missing, ["pools.members.keys_command"]);
}

/// Returns the keys of the schema that a file does not have; of a map or list, those that none of its values has.
fn not_shown(schema: &serde_json::Value, value: &serde_json::Value, path: String) -> Vec<String> {
    let tables: Vec<&serde_json::Value> = match value.as_array() {
        Some(items) => items.iter().collect(),
        None => vec![value],
    };
    not_shown_in(schema, &tables, &path)
}

fn not_shown_in(
    schema: &serde_json::Value,
    tables: &[&serde_json::Value],
    path: &str,
) -> Vec<String> {
    let schema = schema.get("items").unwrap_or(schema);
    let schema = schema.pointer("/anyOf/1").unwrap_or(schema);
    let mut missing = Vec::new();
    if let Some(values) = schema
        .get("additionalProperties")
        .filter(|it| it.is_object())
    {
        let tables: Vec<_> = tables
            .iter()
            .filter_map(|table| table.as_object())
            .flat_map(|table| table.values())
            .collect();
        return not_shown_in(values, &tables, path);
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let mut values = Vec::new();
        for value in tables.iter().filter_map(|table| table.get(key)) {
            match value.as_array() {
                Some(items) => values.extend(items),
                None => values.push(value),
            }
        }
        if values.is_empty() {
            missing.push(path);
        } else {
            missing.extend(not_shown_in(property, &values, &path));
        }
    }
    missing
}

//! Changes made through the admin interface that outlive a reload and a restart.
//!
//! Invariant: they are kept by the names of pools and backends, and hold for a backend whether the configuration
//! file or the admin interface has added it. Breakers that an operator has opened or closed are not kept.

use super::body::AddedBackend;
use crate::backend_pool::BackendPool;
use core::time::Duration;
use leasehold_config::PoolSettings;
use leasehold_core::limit::LimitSpecs;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// The changes, by pool. As JSON it is what a state file keeps.
///
/// After a restart or reload, [`overlay`](Self::overlay) makes the settings of each pool what they are to be, and
/// [`hold`](Self::hold) then disables and drains its members.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdminChanges {
    pools: BTreeMap<String, PoolChanges>,
}

/// The changes of one pool, by names of backends.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PoolChanges {
    added: BTreeMap<String, AddedBackend>,
    /// Backends of the configuration file that were removed; one that was added again is in `added` as well.
    removed: BTreeSet<String>,
    held: BTreeMap<String, Held>,
    weights: BTreeMap<String, u16>,
    limits: BTreeMap<String, Limits>,
}

/// Limits of a backend, as a configuration has them; none is the empty text.
#[derive(Clone, Debug, Default, PartialEq)]
struct Limits(Option<LimitSpecs>);

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.as_ref().map(ToString::to_string);
        serializer.serialize_str(&text.unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let limits = (!text.is_empty()).then(|| text.parse());
        let limits = limits.transpose();
        limits.map(Self).map_err(D::Error::custom)
    }
}

/// Why a backend is sent no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Held {
    Disabled,
    Draining,
}

impl AdminChanges {
    pub(crate) fn add(&mut self, pool: &str, name: &str, backend: AddedBackend) {
        let changes = self.of(pool);
        changes.forget(name);
        changes.added.insert(name.to_owned(), backend);
    }

    /// Records a removal; `is_configured` tells whether the configuration file has the backend.
    pub(crate) fn remove(&mut self, pool: &str, name: &str, is_configured: bool) {
        let changes = self.of(pool);
        changes.forget(name);
        changes.added.remove(name);
        if is_configured {
            changes.removed.insert(name.to_owned());
        }
    }

    /// Records that a backend is disabled or draining; `None` if it is enabled.
    pub(crate) fn set_held(&mut self, pool: &str, name: &str, held: Option<Held>) {
        let changes = self.of(pool);
        match held {
            Some(held) => changes.held.insert(name.to_owned(), held),
            None => changes.held.remove(name),
        };
    }

    pub(crate) fn set_weight(&mut self, pool: &str, name: &str, weight: u16) {
        self.of(pool).weights.insert(name.to_owned(), weight);
    }

    pub(crate) fn set_limits(&mut self, pool: &str, name: &str, limits: Option<LimitSpecs>) {
        let limits = Limits(limits);
        self.of(pool).limits.insert(name.to_owned(), limits);
    }

    /// Returns the longest window of all limits that were set; zero if none were.
    pub(crate) fn longest_window(&self) -> Duration {
        let limits = self.pools.values().flat_map(|pool| pool.limits.values());
        let windows = limits.filter_map(|limits| limits.0.as_ref().map(LimitSpecs::longest_window));
        windows.max().unwrap_or_default()
    }

    /// Returns the settings of a pool with its members changed as the operator has changed them.
    ///
    /// A backend that was added under a name which the configuration file has by now is the file's.
    pub(crate) fn overlay(&self, settings: &PoolSettings) -> PoolSettings {
        let mut settings = settings.clone();
        let Some(changes) = self.pools.get(&settings.name) else {
            return settings;
        };
        let members = &mut settings.members;
        members.retain(|member| !changes.removed.contains(&member.name));
        for (name, backend) in &changes.added {
            if !members.iter().any(|member| member.name == *name) {
                members.push(backend.settings(name));
            }
        }
        for member in members {
            if let Some(weight) = changes.weights.get(&member.name) {
                member.weight = *weight;
            }
            if let Some(Limits(limits)) = changes.limits.get(&member.name) {
                member.limits.clone_from(limits);
            }
        }
        settings
    }

    /// Disables and drains the members of a pool that are to be; names that it lacks are passed over.
    pub(crate) fn hold(&self, pool: &BackendPool) {
        self.hold_where(pool, |_| true);
    }

    fn hold_where(&self, pool: &BackendPool, is_meant: impl Fn(&str) -> bool) {
        let sync = pool.pool().blocking();
        let changes = self.pools.get(&pool.settings().name);
        for (name, held) in changes.into_iter().flat_map(|changes| &changes.held) {
            let Some(member) = sync.member(name).filter(|_| is_meant(name)) else {
                continue;
            };
            // A member that was removed since needs neither.
            let _ = match held {
                Held::Disabled => sync.disable(member),
                Held::Draining => sync.drain(member),
            };
        }
    }

    /// Disables and drains those members of a pool that an earlier one of its name had not.
    pub(crate) fn hold_made(&self, pool: &BackendPool, before: &BackendPool) {
        let had = |name: &str| before.settings().members.iter().any(|one| one.name == name);
        self.hold_where(pool, |name| !had(name));
    }

    fn of(&mut self, pool: &str) -> &mut PoolChanges {
        self.pools.entry(pool.to_owned()).or_default()
    }
}

impl PoolChanges {
    fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.weights.remove(name);
        self.limits.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::{Change, parse};
    use super::super::routes::Kind;
    use super::*;
    use crate::callers::Callers;
    use leasehold_config::{Given, Settings};
    use leasehold_sync::MemberStatus;
    use std::path::Path;

    fn backend(body: &str) -> (String, AddedBackend) {
        let parsed = parse(Kind::Add, body.as_bytes());
        let Ok(Change::Add(new)) = parsed else {
            panic!("{parsed:?}");
        };
        (new.name, new.backend)
    }

    fn pool() -> PoolSettings {
        let members =
            [8_001, 8_002, 8_003].map(|port| format!("{{ url = \"http://127.0.0.1:{port}\" }},"));
        let text = format!(
            "[pools.web]\nkind = \"http\"\nmembers = [{}]\n\
            [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"",
            members.concat()
        );
        Settings::parse(&text, Path::new("/"), &Given::new())
            .unwrap()
            .pools
            .remove(0)
    }

    fn members(changes: &AdminChanges) -> Vec<(String, u16)> {
        let members = changes.overlay(&pool()).members.into_iter();
        members.map(|member| (member.name, member.weight)).collect()
    }

    #[test]
    fn changes_are_the_same_after_a_restart() {
        let mut changes = AdminChanges::default();
        let body = r#"{"host":"::1","port":80,"weight":3,"max_connections":2}"#;
        let (name, added) = backend(body);
        changes.add("web", &name, added);
        changes.remove("web", "127.0.0.1:8001", true);
        changes.set_weight("web", "127.0.0.1:8002", 9);
        changes.set_limits("web", "127.0.0.1:8002", "3/min".parse().ok());
        changes.set_limits("web", "127.0.0.1:8003", None);
        changes.set_held("web", "127.0.0.1:8002", Some(Held::Draining));
        changes.set_held("web", &name, Some(Held::Disabled));
        let text = serde_json::to_string(&changes).unwrap();
        let changes: AdminChanges = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&changes).unwrap(), text);
        let expected = [
            ("127.0.0.1:8002", 9),
            ("127.0.0.1:8003", 1),
            ("[::1]:80", 3),
        ];
        assert_eq!(
            members(&changes),
            expected.map(|(name, weight)| (name.to_owned(), weight))
        );
        assert_eq!(changes.longest_window(), Duration::from_secs(60));
        let limits = changes.overlay(&pool()).members.into_iter();
        let limits = limits.map(|member| member.limits.map(|limits| limits.to_string()));
        let limits: Vec<_> = limits.collect();
        assert_eq!(limits, [Some("3/1min".to_owned()), None, None]);
        let pool =
            BackendPool::new(&changes.overlay(&pool()), None, &Callers::default(), false).unwrap();
        changes.hold(&pool);
        let conditions = pool.conditions().into_iter();
        let status: Vec<_> = conditions.map(|(_, _, one)| one.status).collect();
        assert_eq!(
            status,
            [
                MemberStatus::Draining,
                MemberStatus::Enabled,
                MemberStatus::Disabled
            ]
        );
    }

    #[test]
    fn a_change_that_is_undone_leaves_nothing() {
        let mut changes = AdminChanges::default();
        let (name, added) = backend(r#"{"host":"a","port":80}"#);
        changes.add("web", &name, added);
        changes.set_weight("web", &name, 5);
        changes.set_limits("web", &name, "1/s".parse().ok());
        changes.set_held("web", &name, Some(Held::Disabled));
        changes.remove("web", &name, false);
        assert_eq!(members(&changes), members(&AdminChanges::default()));
        assert_eq!(changes.pools["web"], PoolChanges::default());
    }

    #[test]
    fn a_backend_of_the_file_that_was_removed_and_added_again_is_as_it_was_added() {
        let mut changes = AdminChanges::default();
        changes.set_held("web", "127.0.0.1:8001", Some(Held::Disabled));
        changes.remove("web", "127.0.0.1:8001", true);
        let (name, added) = backend(r#"{"host":"127.0.0.1","port":8001,"weight":4}"#);
        changes.add("web", &name, added);
        assert_eq!(members(&changes)[2], (name, 4));
        assert!(changes.pools["web"].held.is_empty());
    }

    #[test]
    fn an_unknown_field_of_a_state_file_is_refused() {
        for text in [
            r#"{"pools":{"web":{"disabled":["a"]}}}"#,
            r#"{"pools":{"web":{"added":{"a":{"url":"not a url","weight":1,"tier":0,"max_connections":null}}}}}"#,
            r#"{"pools":{"web":{"held":{"a":"gone"}}}}"#,
        ] {
            assert!(
                serde_json::from_str::<AdminChanges>(text).is_err(),
                "{text}"
            );
        }
    }
}

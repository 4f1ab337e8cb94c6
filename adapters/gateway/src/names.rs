//! Members that are made from the addresses of a name, as DNS tells of them.
//!
//! Invariant: a pool has a member for each address that its names are known to have, and no other. Which addresses are
//! known, and when a name is looked up again, is decided in [`Addresses`].

mod resolver;

use crate::addresses::{Addresses, Found, News};
use crate::admin::Told;
use crate::clock::now;
use crate::lock;
use crate::operator_log::target;
use crate::shared::Shared;
use core::net::{IpAddr, SocketAddr};
use core::pin::Pin;
use core::time::Duration;
use leasehold_config::{MemberAddresses, MemberSettings, PoolSettings, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::{io, thread};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// How long the start of a gateway waits for names at most.
const AT_START: Duration = Duration::from_secs(5);

/// The result of a look-up: addresses with their lifetime, or why there are none.
pub type LookedUp = Result<(Vec<IpAddr>, Option<Duration>), String>;

/// Looks a name up.
pub type LookUp =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = LookedUp> + Send>> + Send + Sync>;

/// The names from whose addresses members are made.
pub(crate) struct Names {
    look_up: LookUp,
    known: Mutex<BTreeMap<String, Addresses>>,
}

impl Names {
    /// Makes names that are looked up as the system is set up.
    pub(crate) fn of_system() -> Self {
        Self::of(Arc::new(|host| Box::pin(resolver::look_up(host))))
    }

    pub(crate) fn of(look_up: LookUp) -> Self {
        Self {
            look_up,
            known: Mutex::default(),
        }
    }

    /// Puts a member for each known address in the place of those that stand for a name.
    pub(crate) fn expand(&self, pool: &PoolSettings) -> PoolSettings {
        let known = lock(&self.known);
        let members = pool.members.iter().flat_map(|member| {
            let Some(host) = host_of(member) else {
                return vec![member.clone()];
            };
            let addresses = known.get(host).map(Addresses::known).unwrap_or_default();
            addresses
                .iter()
                .map(|address| at(member, address.ip()))
                .collect()
        });
        PoolSettings {
            members: members.collect(),
            ..pool.clone()
        }
    }

    /// Looks up the names of settings before they are in force; those that take too long come later.
    pub(crate) fn look_up_first(&self, settings: &Settings) -> io::Result<()> {
        let hosts = hosts_of(settings);
        if hosts.is_empty() {
            return Ok(());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // A caller's own runtime must not be blocked by another on its thread.
        thread::scope(|scope| {
            let looking_up = scope.spawn(|| {
                runtime.block_on(async {
                    // Each result is kept as it comes.
                    let _ = timeout(AT_START, self.look_up_due(&hosts)).await;
                });
            });
            // Names that a panic has left out come later too.
            let _ = looking_up.join();
        });
        Ok(())
    }

    /// When the first of these names is due.
    fn next_due(&self, hosts: &BTreeSet<String>) -> Option<Instant> {
        let known = lock(&self.known);
        let due = |host| known.get(host).and_then(Addresses::due);
        hosts.iter().map(|host| due(host).unwrap_or_else(now)).min()
    }

    /// Looks up those of the names that are due; tells whether the addresses of one have changed.
    async fn look_up_due(&self, hosts: &BTreeSet<String>) -> bool {
        let at = now();
        let is_due = |host: &&String| {
            let known = lock(&self.known);
            let due = known.get(*host).and_then(Addresses::due);
            due.is_none_or(|due| due <= at)
        };
        let mut running = JoinSet::new();
        for host in hosts.iter().filter(is_due).cloned() {
            let looked_up = (self.look_up)(host.clone());
            running.spawn(async move { (host, looked_up.await) });
        }
        let mut has_changed = false;
        while let Some(done) = running.join_next().await {
            // A look-up that has panicked is due again.
            if let Ok((host, looked_up)) = done {
                has_changed |= self.finish(&host, looked_up);
            }
        }
        has_changed
    }

    /// Takes a result, and tells the operator once of failures; returns whether the addresses have changed.
    fn finish(&self, host: &str, looked_up: LookedUp) -> bool {
        let (found, error) = match looked_up {
            Ok((addresses, ttl)) => (found(addresses, ttl), None),
            Err(error) => (Found::default(), Some(error)),
        };
        let mut known = lock(&self.known);
        let addresses = known.entry(host.to_owned()).or_default();
        let before = addresses.known().to_vec();
        let is_first = addresses.due().is_none();
        let news = addresses.finish(now(), &found);
        let error = error.unwrap_or_else(|| "it has no address".to_owned());
        match news {
            Some(News::Lost) => tracing::warn!(
                target: target::NAMES,
                "{host} can't be looked up: {error}; its addresses known before are used"
            ),
            Some(News::Back) => {
                tracing::info!(target: target::NAMES, "{host} can be looked up again");
            }
            None if is_first && found.addresses.is_empty() => tracing::warn!(
                target: target::NAMES,
                "{host} can't be looked up: {error}; its pool has no member of it until it is found"
            ),
            None => {}
        }
        addresses.known() != before
    }
}

impl core::fmt::Debug for Names {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Names")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

/// Keeps the pools in step with the names of the settings that are in force.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut tables = shared.tables();
    let mut is_behind = false;
    loop {
        let hosts = hosts_of(&tables.borrow_and_update().settings);
        let due = async {
            match shared.names().next_due(&hosts) {
                Some(due) => sleep_until(due).await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            changed = tables.changed() => if changed.is_err() {
                return;
            },
            () = due => {
                is_behind |= shared.names().look_up_due(&hosts).await;
                // What could not be followed is tried again after the next look-up.
                is_behind = is_behind && !follow(&shared);
            }
        }
    }
}

/// Adds the members of new addresses, and removes those of addresses that are gone once their requests have ended.
/// Returns whether that could be done.
fn follow(shared: &Shared) -> bool {
    let before = shared.table();
    if let Err(error) = shared.follow_names() {
        tracing::error!(target: target::NAMES, "new addresses of names are not used yet: {error}");
        return false;
    }
    let after = shared.table();
    for pool in after.pools() {
        let name = &pool.settings().name;
        let members = |settings: &PoolSettings| -> BTreeSet<String> {
            let made = settings.members.iter().filter(|member| is_made(member));
            made.map(|member| member.name.clone()).collect()
        };
        let old = before.pool_named(name).map(|pool| members(pool.settings()));
        let (old, new) = (old.unwrap_or_default(), members(pool.settings()));
        let added = new.difference(&old).map(|member| (member, Told::Added));
        let removed = old.difference(&new).map(|member| (member, Told::Removed));
        for (member, told) in added.chain(removed) {
            tracing::info!(
                target: target::NAMES,
                pool = &**name,
                member = &**member,
                "{told} by DNS"
            );
            shared.events().tell(pool, member, told);
        }
    }
    true
}

/// Whether a member was made from an address of a name.
pub(crate) fn is_made(member: &MemberSettings) -> bool {
    matches!(member.addresses, MemberAddresses::One(_))
}

/// Makes a member for one address: `app@10.0.0.1`.
fn at(member: &MemberSettings, address: IpAddr) -> MemberSettings {
    MemberSettings {
        name: format!("{}@{address}", member.name),
        addresses: MemberAddresses::One(address),
        ..member.clone()
    }
}

/// The name from whose addresses members are made, if they are.
fn host_of(member: &MemberSettings) -> Option<&str> {
    match member.addresses {
        MemberAddresses::Each => member.url.host(),
        MemberAddresses::Any | MemberAddresses::One(_) => None,
    }
}

fn hosts_of(settings: &Settings) -> BTreeSet<String> {
    let members = settings.pools.iter().flat_map(|pool| &pool.members);
    members.filter_map(host_of).map(str::to_owned).collect()
}

/// Puts addresses in an order that does not depend on the answer's, without duplicates.
fn found(addresses: Vec<IpAddr>, ttl: Option<Duration>) -> Found {
    let addresses = BTreeSet::from_iter(addresses);
    let addresses = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, 0));
    Found {
        addresses: addresses.collect(),
        ttl,
    }
}

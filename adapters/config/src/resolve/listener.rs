//! Joins a listener's table to its settings.
//!
//! Invariant: a listener without mistakes names pools of its kind, and each of its routes can be reached.

use super::Resolver;
use crate::error::{Problem, nearest};
use crate::file::{ListenTable, RouteTable, Text, Value};
use crate::settings::{Address, Kind, ListenerSettings, Route, RouteTarget, Serve};
use crate::source::{At, Source};
use leasehold_core::limit::{LimitSpec, LimitSpecs};

impl Resolver<'_> {
    /// Makes a listener; `None` if it has no address.
    pub(super) fn listener(
        &mut self,
        source: &Source,
        at: &At<'_>,
        table: ListenTable,
        has_callers: bool,
    ) -> Option<ListenerSettings> {
        // The schema requires both.
        let (address, serve) = (&table.address.as_ref()?.0, table.serve?.0);
        let address = self.address(source, &at.key("address"), address);
        let token = self.token(source, &at.key("token_file"), table.token_file.as_ref());
        let kind = match serve {
            Serve::Http => Some(Kind::Http),
            Serve::Openai => Some(Kind::Openai),
            Serve::Comfyui => Some(Kind::Comfyui),
            Serve::Leases => None,
        };
        self.no_other_kind(source, at, &table, serve);
        let routes = match kind {
            Some(kind) => self.routes(source, at, kind, table.pool, table.route),
            None => self.no_routes(source, at, &table),
        };
        let spends = match serve {
            Serve::Http | Serve::Comfyui => None,
            Serve::Openai => Some("keys"),
            Serve::Leases => Some("leases"),
        };
        let is_open = table.token_file.is_none() && !has_callers;
        if let Some(what) = spends.filter(|_| is_open && !is_local(&address)) {
            let problem = format!(
                "{what} on an address that others reach need a token; \
                 add token_file = \"{what}.token\" or [[caller]] tables, or listen at 127.0.0.1"
            );
            self.wrong(source, &at.key("address"), Problem::Invalid(problem));
        }
        let has_no_tokens = matches!(serve, Serve::Http | Serve::Comfyui);
        let (limit, client_limit) = (at.key("limit"), at.key("client_limit"));
        self.no_concurrency(source, &limit, table.limit.as_ref());
        self.no_concurrency(source, &client_limit, table.client_limit.as_ref());
        Some(ListenerSettings {
            address,
            serve,
            routes,
            token,
            bounds: table.bounds.build(),
            forwarded: table.trusted_proxies.0,
            limit: self.limits(source, &limit, table.limit, has_no_tokens),
            client_limit: self.limits(source, &client_limit, table.client_limit, has_no_tokens),
            keep_alive: table.keep_alive.unwrap_or(true),
            on_disconnect: table.on_disconnect.map(|it| it.0).unwrap_or_default(),
            lease_ttl: table
                .lease_ttl
                .map_or(ListenerSettings::LEASE_TTL, |it| it.0),
            zones: self.zones(source, &at.key("zones"), table.zones),
        })
    }

    /// Refuses keys that are for listeners of another kind.
    fn no_other_kind(&mut self, source: &Source, at: &At<'_>, table: &ListenTable, serve: Serve) {
        for (key, is_there, (kind, name)) in [
            (
                "keep_alive",
                table.keep_alive.is_some(),
                (Serve::Openai, "openai"),
            ),
            (
                "on_disconnect",
                table.on_disconnect.is_some(),
                (Serve::Openai, "openai"),
            ),
            (
                "lease_ttl",
                table.lease_ttl.is_some(),
                (Serve::Leases, "leases"),
            ),
            (
                "zones",
                !table.zones.is_empty(),
                (Serve::Comfyui, "comfyui"),
            ),
        ] {
            if is_there && serve != kind {
                let problem = format!("only listeners of {name} have this; remove it");
                self.wrong(source, &at.key(key), Problem::Invalid(problem));
            }
        }
    }

    /// Refuses limits that would never refuse a request, because at a listener each counts as ended at once.
    fn no_concurrency(&mut self, source: &Source, at: &At<'_>, limits: Option<&Text<LimitSpecs>>) {
        let is_concurrency = |limit: &LimitSpec| matches!(limit, LimitSpec::Concurrent(_));
        if limits.is_some_and(|Text(limits)| limits.iter().any(is_concurrency)) {
            let problem = "a listener has no limit on requests at once; limit them at the pool or its members, or \
                 limit connections by bounds.max_connections";
            self.wrong(source, at, Problem::Invalid(problem.to_owned()));
        }
    }

    fn no_routes(&mut self, source: &Source, at: &At<'_>, table: &ListenTable) -> Vec<Route> {
        for (key, is_there) in [
            ("pool", table.pool.is_some()),
            ("route", !table.route.is_empty()),
        ] {
            if is_there {
                let problem = "leases serves every pool, each under its name; remove this";
                self.wrong(source, &at.key(key), Problem::Invalid(problem.to_owned()));
            }
        }
        Vec::new()
    }

    fn routes(
        &mut self,
        source: &Source,
        at: &At<'_>,
        kind: Kind,
        pool: Option<String>,
        tables: Vec<RouteTable>,
    ) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        if pool.is_none() && tables.is_empty() {
            let example = "pool = \"NAME\", or [[listen.route]] tables".to_owned();
            self.wrong(source, &at.key("pool"), Problem::Missing(example));
        }
        for (index, table) in tables.into_iter().enumerate() {
            let list = at.key("route");
            let at = list.item(index);
            self.no_models(source, &at, &table, kind);
            let mut targets = vec![RouteTarget {
                pool: self.pool_index(source, &at.key("pool"), kind, table.pool),
                rename: table.rename.map(|name| name.0.0),
            }];
            let list = at.key("fallbacks");
            for (index, table) in table.fallbacks.into_iter().enumerate() {
                let at = list.item(index);
                targets.push(RouteTarget {
                    pool: self.pool_index(source, &at.key("pool"), kind, table.pool),
                    rename: table.rename.map(|name| name.0.0),
                });
            }
            let route = Route {
                host: table.host.map(|host| host.0.0),
                path: table.path.0.0,
                model: table.model.map(|model| model.0),
                targets,
            };
            self.reached(source, &at, &routes, &route);
            routes.push(route);
        }
        if pool.is_some() {
            let at = at.key("pool");
            let route = Route::new(None, "/", self.pool_index(source, &at, kind, pool));
            self.reached(source, &at, &routes, &route);
            routes.push(route);
        }
        routes
    }

    /// Refuses models in routes of requests that have none.
    fn no_models(&mut self, source: &Source, at: &At<'_>, table: &RouteTable, kind: Kind) {
        if kind == Kind::Openai {
            return;
        }
        for (key, is_there) in [
            ("model", table.model.is_some()),
            ("as", table.rename.is_some()),
            ("fallbacks", !table.fallbacks.is_empty()),
        ] {
            if is_there {
                let problem = "only listeners of openai route by models; remove this";
                self.wrong(source, &at.key(key), Problem::Invalid(problem.to_owned()));
            }
        }
    }

    /// Reports a route that an earlier one leaves nothing to.
    fn reached(&mut self, source: &Source, at: &At<'_>, earlier: &[Route], route: &Route) {
        if let Some(index) = earlier.iter().position(|earlier| covers(earlier, route)) {
            let number = index.saturating_add(1);
            let problem = format!(
                "no request gets here: route {number} fits them all; put it behind this one"
            );
            self.wrong(source, at, Problem::Invalid(problem));
        }
    }

    /// Finds a pool of a kind by its name.
    fn pool_index(
        &mut self,
        source: &Source,
        at: &At<'_>,
        kind: Kind,
        name: Option<String>,
    ) -> usize {
        // The schema requires the name of a route's pool.
        let name = name.unwrap_or_default();
        let found = self.pools.iter().position(|pool| pool.name == name);
        let problem = match found {
            Some(index) if self.pools[index].kind == kind => return index,
            Some(index) => {
                let pool = &self.pools[index];
                let (is, needs) = (pool.kind.show(), kind.show());
                let place = &pool.place;
                format!(
                    "the pool at {place} is of kind {is}; this listener needs one of kind {needs}"
                )
            }
            None => self.no_such_pool(&name),
        };
        self.wrong(source, at, Problem::Invalid(problem));
        0
    }

    /// Says that there is no pool of a name, and which was probably meant.
    pub(super) fn no_such_pool(&self, name: &str) -> String {
        let names = self.pools.iter().map(|pool| pool.name.as_str());
        match nearest(name, names.clone()) {
            Some(nearest) => format!("there is no such pool; did you mean {nearest}?"),
            None => {
                let names: Vec<&str> = names.collect();
                format!("there is no such pool; there are: {}", names.join(", "))
            }
        }
    }
}

/// Whether a route fits all requests that another one does.
fn covers(route: &Route, other: &Route) -> bool {
    let fits_host = route.host.is_none() || route.host == other.host;
    let fits_model = route.model.is_none() || route.model == other.model;
    let rest = other.path.strip_prefix(route.path.trim_end_matches('/'));
    fits_host && fits_model && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_local(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Address::Unix(_) => true,
    }
}

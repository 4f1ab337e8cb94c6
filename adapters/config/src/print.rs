//! Settings as the text of a configuration file.
//!
//! Invariant: no key or token is in the text, but the last four characters of keys in comments. Without those
//! secrets, the text is read back as the same settings.

use crate::callers::{CallerSettings, ModelPrice};
use crate::file::{
    AccessLogValue, AdminTable, AffinityTable, AlertTable, BoundsTable, BreakerTable, CallerTable,
    ComfyuiTable, ConfigFile, FallbackTable, FilePath, HealthTable, HostName, Line, ListenTable,
    LogTable, MemberTable, Name, OtlpTable, OutlierTable, PathPrefix, PoolTable, PriceTable,
    RetryTable, RouteTable, Share, SlowStartTable, Text, TrustedProxiesValue, UpstreamTable,
};
use crate::settings::{
    AdminSettings, Kind, ListenerSettings, MemberSettings, PoolSettings, Route, RouteTarget, Serve,
    Settings,
};
use crate::substitute::escape;
use crate::token::Token;
use serde::Serialize;
use std::path::Path;
use toml::{Table, Value};

impl Settings {
    /// Writes the settings as a configuration file, defaults included.
    ///
    /// Keys are shown by their last four characters in comments, so the members of a service are read back without
    /// a key. Tokens are not shown; the files that they were read from are named.
    ///
    /// ```
    /// use leasehold_config::{Flags, Settings};
    ///
    /// let text = Settings::from_flags(Flags::default())?.to_toml();
    /// assert!(text.contains("url = \"http://localhost:8002/\"\nweight = 2"));
    /// # Ok::<(), leasehold_config::FlagsError>(())
    /// ```
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut page = Page(String::new());
        let state = self.state.as_ref();
        let top = ConfigFile {
            state: state.map(|state| Text(FilePath(state.path.clone()))),
            after_crash: state.map(|state| Text(state.after_crash)),
            drain: Some(Text(self.drain)),
            access_log: Some(AccessLogValue::of(&self.access_log)),
            ..ConfigFile::default()
        };
        page.keys(&top);
        page.header("[log]");
        page.keys(&LogTable::of(&self.log));
        if let Some(otlp) = &self.otlp {
            page.header("[otlp]");
            page.keys(&OtlpTable::of(otlp));
        }
        if self.admin != AdminSettings::default() {
            self.admin.write(&mut page);
        }
        for pool in &self.pools {
            pool.write(&mut page);
        }
        for listener in &self.listeners {
            listener.write(&mut page, &self.pools);
        }
        for alert in &self.alerts {
            page.header("[[alert]]");
            page.keys(&AlertTable::of(alert));
        }
        for caller in &self.callers {
            caller.write(&mut page);
        }
        for ModelPrice { models, price } in &self.prices {
            let models = Value::from(models.as_str());
            page.header(&format!("[price.{models}]"));
            page.keys(&PriceTable::of(*price));
        }
        page.0
    }

    /// Returns the settings as [`to_toml`](Self::to_toml) writes them, without its comments.
    ///
    /// ```
    /// use leasehold_config::{Flags, Settings};
    ///
    /// let settings = Settings::from_flags(Flags::default())?.to_json();
    /// assert_eq!(settings["pools"]["default"]["members"][1]["weight"], 2);
    /// # Ok::<(), leasehold_config::FlagsError>(())
    /// ```
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        // It is read back by a property test.
        toml::from_str(&self.to_toml()).unwrap_or_default()
    }
}

/// A text that grows.
struct Page(String);

impl Page {
    fn header(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(header);
        self.0.push('\n');
    }

    fn comment(&mut self, comment: &str) {
        self.0.push_str("# ");
        self.0.push_str(comment);
        self.0.push('\n');
    }

    /// Writes the fields of a table, each on a line.
    fn keys(&mut self, table: &impl Serialize) {
        match Table::try_from(table) {
            Ok(table) => {
                for (key, mut value) in table {
                    escape_all(&mut value);
                    self.0.push_str(&format!("{key} = {value}\n"));
                }
            }
            // Only a number that TOML can't count, which no file has.
            Err(error) => self.comment(&error.to_string()),
        }
    }

    fn secret(&mut self, token: Option<&Token>) {
        if token.is_some_and(|token| token.file().is_none()) {
            self.comment("a token is set");
        }
    }
}

/// Doubles the dollars of all strings of a value.
fn escape_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = escape(text),
        Value::Array(items) => items.iter_mut().for_each(escape_all),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| escape_all(value)),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

fn file_of(token: Option<&Token>) -> Option<Text<FilePath>> {
    let file: Option<&Path> = token.and_then(Token::file);
    file.map(|file| Text(FilePath(file.to_owned())))
}

impl CallerSettings {
    /// Writes the caller as a table of a configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut page = Page(String::new());
        self.write(&mut page);
        page.0
    }

    fn write(&self, page: &mut Page) {
        page.header("[[caller]]");
        page.keys(&CallerTable::of(self));
    }
}

impl AdminSettings {
    fn write(&self, page: &mut Page) {
        page.header("[admin]");
        if self.open_on_loopback {
            page.comment("started from flags: this machine may change things without a token");
        }
        page.secret(self.token.as_ref());
        page.keys(&AdminTable {
            listen: self.listen.clone().map(Text),
            token_file: file_of(self.token.as_ref()),
        });
    }
}

impl PoolSettings {
    fn write(&self, page: &mut Page) {
        page.header(&format!("[pools.{}]", self.name));
        page.keys(&PoolTable {
            kind: Some(Text(self.kind)),
            policy: Some(Text(self.policy)),
            max_wait: Some(Text(self.max_wait)),
            max_waiters: self.max_waiters,
            limits: self.limits.clone().map(Text),
            breaker: self.breaker.as_ref().map(BreakerTable::of),
            health: self.health.as_ref().map(HealthTable::of),
            outlier: self.outlier.as_ref().map(OutlierTable::of),
            panic_threshold: Text(Share(self.panic_threshold.permille())),
            slow_start: self.slow_start.as_ref().map(SlowStartTable::of),
            affinity: self.affinity.as_ref().map(AffinityTable::of),
            retry: RetryTable::of(self.retry),
            upstream: UpstreamTable::of(self.upstream),
            comfyui: (self.kind == Kind::Comfyui).then(|| ComfyuiTable::of(self.comfyui)),
            members: Vec::new(),
        });
        // The order of the members says their tiers then.
        let is_ordered = self.kind == Kind::Comfyui && !self.comfyui.queue_weight;
        for member in &self.members {
            member.write(page, &self.name, is_ordered);
        }
    }
}

impl MemberSettings {
    fn write(&self, page: &mut Page, pool: &str, is_ordered: bool) {
        page.header(&format!("[[pools.{pool}.members]]"));
        if let Some(key) = &self.key {
            page.comment(&format!("key {key}"));
        }
        let mut table = MemberTable::of(self);
        table.tier = table.tier.filter(|_| !is_ordered);
        page.keys(&table);
    }
}

impl ListenerSettings {
    fn write(&self, page: &mut Page, pools: &[PoolSettings]) {
        page.header("[[listen]]");
        page.secret(self.token.as_ref());
        let name = |target: &RouteTarget| pools.get(target.pool).map(|pool| pool.name.clone());
        let rename = |target: &RouteTarget| target.rename.clone().map(|name| Text(Line(name)));
        let fallback = |target: &RouteTarget| FallbackTable {
            pool: name(target),
            rename: rename(target),
        };
        // The last route of all requests is the listener's own pool.
        let (pool, routes) = match self.routes.split_last() {
            Some((last, routes)) if *last == Route::new(None, "/", last.pool().unwrap_or(0)) => {
                (last.targets.first().and_then(name), routes)
            }
            Some(_) | None => (None, &self.routes[..]),
        };
        let route = routes.iter().map(|route| RouteTable {
            host: route.host.clone().map(|host| Text(HostName(host))),
            path: Text(PathPrefix(route.path.clone())),
            model: route.model.clone().map(Text),
            pool: route.targets.first().and_then(name),
            rename: route.targets.first().and_then(rename),
            fallbacks: route.targets.iter().skip(1).map(fallback).collect(),
        });
        page.keys(&ListenTable {
            address: Some(Text(self.address.clone())),
            serve: Some(Text(self.serve)),
            pool: pool.filter(|_| self.serve != Serve::Leases),
            route: route.collect(),
            token_file: file_of(self.token.as_ref()),
            trusted_proxies: TrustedProxiesValue(self.forwarded.clone()),
            limit: self.limit.clone().map(Text),
            client_limit: self.client_limit.clone().map(Text),
            keep_alive: (self.serve == Serve::Openai).then_some(self.keep_alive),
            on_disconnect: (self.serve == Serve::Openai).then_some(Text(self.on_disconnect)),
            lease_ttl: (self.serve == Serve::Leases).then_some(Text(self.lease_ttl)),
            zones: self
                .zones
                .iter()
                .map(|(network, zone)| (network.to_string(), Text(Name(zone.clone()))))
                .collect(),
            bounds: BoundsTable::of(self.bounds),
        });
    }
}

//! Joins the tables of members to settings: keys, URLs and names.
//!
//! Invariant: the members of a pool have different names, and no two have the same URL and key.

use super::{Names, Resolver};
use crate::error::{Place, Problem};
use crate::file::{MemberTable, Text, Url, Value};
use crate::keys::{Key, KeysError, shown};
use crate::settings::{Kind, MemberAddresses, MemberSettings};
use crate::source::{At, Source};
use core::net::IpAddr;
use http::Uri;
use leasehold_core::limit::LimitSpecs;
use leasehold_protocol::ApiKey;
use std::collections::HashMap;

/// A member with the index of its table.
type Indexed = (usize, MemberSettings);

impl Resolver<'_> {
    /// Makes the members of a pool.
    pub(super) fn members(
        &mut self,
        source: &Source,
        at: &At<'_>,
        kind: Kind,
        tables: Vec<MemberTable>,
    ) -> Vec<Indexed> {
        let mut names = self.given_names(source, at, &tables);
        let mut counts = HashMap::new();
        let mut keys: HashMap<(String, ApiKey), Place> = HashMap::new();
        let mut members = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            let at = at.item(index);
            let limits = self.limits(
                source,
                &at.key("limits"),
                table.limits.clone(),
                kind != Kind::Openai,
            );
            let place = source.place_at(&at);
            for (number, key) in self.keys(source, &at, kind, &table).into_iter().enumerate() {
                let Some(url) = self.url(source, &at, kind, &table, key.as_ref()) else {
                    continue;
                };
                if table.each_address {
                    self.check_each_address(source, &at.key("each_address"), kind, &url);
                }
                let name = match &table.name {
                    Some(Text(name)) if number == 0 => name.0.clone(),
                    Some(Text(name)) => free_name(&name.0, &mut names, &mut counts, &place),
                    None => free_name(&host_and_port(&url), &mut names, &mut counts, &place),
                };
                if let Some(key) = &key
                    && let Some(first) =
                        keys.insert((url.to_string(), key.key.clone()), place.clone())
                {
                    let problem = format!(
                        "the key {} is the same as at {first}; give it once",
                        key.key
                    );
                    self.wrong(source, &at, Problem::Invalid(problem));
                }
                members.push((index, member(name, url, key, limits.clone(), &table)));
            }
        }
        members
    }

    /// Refuses addresses of their own where there is no name, or no pool that makes members of them.
    fn check_each_address(&mut self, source: &Source, at: &At<'_>, kind: Kind, url: &Uri) {
        let host = url.host().unwrap_or_default();
        let problem = if kind != Kind::Http {
            "only members of an http pool can be made from the addresses of a name"
        } else if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            "the URL has an address and no name; remove this"
        } else {
            return;
        };
        self.wrong(source, at, Problem::Invalid(problem.to_owned()));
    }

    /// Returns the names that members are given.
    fn given_names(&mut self, source: &Source, at: &At<'_>, tables: &[MemberTable]) -> Names {
        let mut names = Names::new();
        for (index, table) in tables.iter().enumerate() {
            let Some(Text(name)) = &table.name else {
                continue;
            };
            let item = at.item(index);
            let at = item.key("name");
            if let Some(first) = names.get(&name.0) {
                let problem = Problem::Duplicate(first.clone(), "name it otherwise");
                self.wrong(source, &at, problem);
            }
            names.insert(name.0.clone(), source.place_at(&at));
        }
        names
    }

    /// Returns the keys of a member, or a `None` for a member without.
    fn keys(
        &mut self,
        source: &Source,
        at: &At<'_>,
        kind: Kind,
        table: &MemberTable,
    ) -> Vec<Option<Key>> {
        let named = [
            ("keys", table.keys.is_some()),
            ("keys_env", table.keys_env.is_some()),
            ("keys_command", table.keys_command.is_some()),
        ];
        let mut sources = named.iter().filter(|(_, is_there)| *is_there);
        let Some((key, _)) = sources.next() else {
            return vec![None];
        };
        let at = at.key(key);
        let read = if kind != Kind::Openai {
            Err("only members of an openai pool have keys".to_owned())
        } else if sources.next().is_some() {
            Err("give one of keys, keys_env and keys_command".to_owned())
        } else {
            self.read_keys(source, table)
        };
        match read {
            Ok(keys) => keys.into_iter().map(Some).collect(),
            Err(problem) => {
                self.wrong(source, &at, Problem::Invalid(problem));
                Vec::new()
            }
        }
    }

    fn read_keys(&self, source: &Source, table: &MemberTable) -> Result<Vec<Key>, String> {
        let told = |error: KeysError| error.to_string();
        if let Some(Text(path)) = &table.keys {
            let (name, text) = self.file(source, path);
            let text = text.map_err(|error| {
                let advice = "give a file with one key per line, or a variable with keys_env";
                format!("cannot read the keys in {name}: {error}; {advice}")
            })?;
            return Key::of_text(&text, &name).map_err(told);
        }
        if let Some(Text(variable)) = &table.keys_env {
            let value = self.inputs.variable(&variable.0)?.ok_or_else(|| {
                let name = shown(&variable.0);
                format!(
                    "the environment variable {name} is not set; set it, or give a file with keys"
                )
            })?;
            return Key::of_words(&value, shown(&variable.0)).map_err(told);
        }
        let command = table.keys_command.iter().flatten();
        let command: Vec<&str> = command.map(|word| word.0.0.as_str()).collect();
        let program = command.first().copied().unwrap_or_default();
        let output = self.inputs.output(&command);
        let output = output.map_err(|error| format!("cannot get keys from {program}: {error}"))?;
        Key::of_text(&output, program).map_err(told)
    }

    /// Returns the URL of a member: its key's own, or that of the table.
    fn url(
        &mut self,
        source: &Source,
        at: &At<'_>,
        kind: Kind,
        table: &MemberTable,
        key: Option<&Key>,
    ) -> Option<Uri> {
        let at = at.key("url");
        let own = key.and_then(|key| Some((key, key.url.as_deref()?)));
        let url = match (own, &table.url) {
            (Some((key, url)), _) => Url::read(url).map_err(|misread| {
                Problem::Invalid(format!("{}: url=: {}", key.place, misread.problem))
            }),
            (None, Some(Text(url))) => Ok(url.clone()),
            (None, None) => Err(Problem::Missing(
                "url = \"http://127.0.0.1:8001\"".to_owned(),
            )),
        };
        let problem = match url {
            Ok(Url(url)) => match misfit(kind, &url) {
                Some(problem) => Problem::Invalid(problem.to_owned()),
                None => return Some(url),
            },
            Err(problem) => problem,
        };
        self.wrong(source, &at, problem);
        None
    }
}

fn member(
    name: String,
    url: Uri,
    key: Option<Key>,
    limits: Option<LimitSpecs>,
    table: &MemberTable,
) -> MemberSettings {
    let (key, group, own_limits) = match key {
        Some(key) => (Some(key.key), key.group, key.limits),
        None => (None, None, None),
    };
    let labels = table.labels.iter().map(|label| label.0.0.clone());
    MemberSettings {
        name,
        url,
        key,
        weight: table.weight,
        tier: table.tier.unwrap_or(0),
        labels: labels.collect(),
        limits: own_limits.or(limits),
        group: group.or_else(|| table.group.as_ref().map(|group| group.0.0.clone())),
        max_connections: table.max_connections,
        addresses: match table.each_address {
            true => MemberAddresses::Each,
            false => MemberAddresses::Any,
        },
        zone: table.zone.as_ref().map(|zone| zone.0.0.clone()),
    }
}

/// Returns what of a URL can't be in a pool of a kind.
fn misfit(kind: Kind, url: &Uri) -> Option<&'static str> {
    match kind {
        Kind::Http if url.path() != "/" || url.query().is_some() => {
            Some("the URL of an HTTP server has no path; requests keep their own")
        }
        Kind::Comfyui if url.query().is_some() => Some("the URL of a ComfyUI server has no ?"),
        Kind::Http | Kind::Openai | Kind::Comfyui => None,
    }
}

fn host_and_port(url: &Uri) -> String {
    let host = url.host().unwrap_or_default().to_ascii_lowercase();
    let default = if url.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    format!("{host}:{}", url.port_u16().unwrap_or(default))
}

/// Takes a name, or the first of `NAME-2`, `NAME-3` that is free.
fn free_name(
    base: &str,
    names: &mut Names,
    counts: &mut HashMap<String, u32>,
    place: &Place,
) -> String {
    let count = counts.entry(base.to_owned()).or_insert(0);
    loop {
        *count = count.saturating_add(1);
        let name = if *count == 1 {
            base.to_owned()
        } else {
            format!("{base}-{count}")
        };
        if !names.contains_key(&name) {
            names.insert(name.clone(), place.clone());
            return name;
        }
    }
}

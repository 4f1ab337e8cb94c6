//! What holds for ComfyUI alone: its table, its members and the zones of its callers.
//!
//! Invariant: a server is a member once, and no network has two zones.

use super::Resolver;
use crate::error::Problem;
use crate::file::{ComfyuiTable, MemberTable, Name, Text, Url, Value};
use crate::network::Network;
use crate::settings::{ComfyuiSettings, Kind, MemberSettings};
use crate::source::{At, Source};
use core::cmp::Reverse;
use http::Uri;
use std::collections::{BTreeMap, HashMap};

impl Resolver<'_> {
    /// Takes the table of a pool, which only those of ComfyUI servers have.
    pub(super) fn comfyui(
        &mut self,
        source: &Source,
        at: &At<'_>,
        kind: Kind,
        table: Option<ComfyuiTable>,
    ) -> ComfyuiSettings {
        let Some(table) = table else {
            return ComfyuiSettings::default();
        };
        let at = at.key("comfyui");
        if kind != Kind::Comfyui {
            let problem = "only pools of kind comfyui have this; remove it";
            self.wrong(source, &at, Problem::Invalid(problem.to_owned()));
        }
        let settings = table.build();
        for (key, time) in [
            ("lost_after", settings.lost_after),
            ("stalled_after", settings.stalled_after),
            ("idle_after", settings.idle_after),
        ] {
            if time <= settings.poll {
                let (time, poll) = (time.show(), settings.poll.show());
                let problem = format!(
                    "is {time} and must be longer than poll ({poll}), or servers that are well are given up"
                );
                self.wrong(source, &at.key(key), Problem::Invalid(problem));
            }
        }
        settings
    }

    /// Checks what of a member depends on whether it is a ComfyUI server.
    pub(super) fn check_servers(
        &mut self,
        source: &Source,
        at: &At<'_>,
        kind: Kind,
        comfyui: ComfyuiSettings,
        tables: &[MemberTable],
    ) {
        let mut servers: HashMap<&Uri, At<'_>> = HashMap::new();
        for (index, table) in tables.iter().enumerate() {
            let item = at.item(index);
            if kind != Kind::Comfyui {
                if table.zone.is_some() {
                    let problem = "only members of a comfyui pool have a zone; remove it";
                    let at = item.key("zone");
                    self.wrong(source, &at, Problem::Invalid(problem.to_owned()));
                }
                continue;
            }
            if table.max_connections.is_some() {
                let problem = "a ComfyUI server has one job and as many more as the pool's comfyui.prefetch says; \
                     remove this, and set that";
                let at = item.key("max_connections");
                self.wrong(source, &at, Problem::Invalid(problem.to_owned()));
            }
            if table.tier.is_some() && !comfyui.queue_weight {
                let problem = "with queue_weight = false the order of the members says their tiers; \
                     remove this, and put the members in order";
                let at = item.key("tier");
                self.wrong(source, &at, Problem::Invalid(problem.to_owned()));
            }
            let Some(Text(Url(url))) = &table.url else {
                continue;
            };
            if let Some(first) = servers.get(url) {
                let first = source.place_at(first);
                let problem = Problem::Duplicate(first, "give each server once");
                self.wrong(source, &item.key("url"), problem);
            }
            servers.entry(url).or_insert(at.item(index));
        }
    }

    /// Takes the zones of callers, and puts the smallest network first.
    pub(super) fn zones(
        &mut self,
        source: &Source,
        at: &At<'_>,
        zones: BTreeMap<String, Text<Name>>,
    ) -> Vec<(Network, String)> {
        let mut found: Vec<(Network, String)> = Vec::new();
        for (text, Text(Name(zone))) in zones {
            let problem = match Network::read(&text) {
                Ok(network) => match found.iter().find(|(other, _)| other.is_same(network)) {
                    Some((first, _)) => format!("is the same network as {first}; give it once"),
                    None => {
                        found.push((network, zone));
                        continue;
                    }
                },
                Err(misread) => misread.problem,
            };
            self.wrong(source, &at.key(&text), Problem::Invalid(problem));
        }
        found.sort_by_key(|(network, _)| (Reverse(network.prefix), network.address));
        found
    }
}

/// Sets tiers and weights as the switches say: members of an order, or the first alone.
pub(crate) fn set_shares<'m>(
    comfyui: ComfyuiSettings,
    members: impl Iterator<Item = &'m mut MemberSettings>,
) {
    for (index, member) in members.enumerate() {
        if !comfyui.queue_weight {
            // Beyond the 256th they share the last tier.
            member.tier = u8::try_from(index).unwrap_or(u8::MAX);
        }
        if !comfyui.failover && index > 0 {
            member.weight = 0;
        }
    }
}

//! Labels of a pool's members: the models that they serve, and the sets of members that requests are restricted to.
//!
//! Invariant: a member has the label of each set that it is in, whatever a reload changes of it.

use super::BackendPool;
use crate::lock;
use leasehold_config::{Kind, MemberSettings};
use leasehold_core::pool::Labels;
use leasehold_sync::MemberUpdate;

/// The label of members that serve the models which no label names.
const OTHER_MODELS: &str = "*";

/// Sets of members that requests of a pool may be restricted to.
const MAX_MEMBER_SETS: usize = 64;

/// No member serves a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoSuchModel;

impl BackendPool {
    /// Returns the labels of a member. One of services without any has all that others have, and that of other models.
    pub(super) fn labels_of(&self, settings: &MemberSettings) -> Vec<String> {
        if self.settings.kind != Kind::Openai || !settings.labels.is_empty() {
            let sets = lock(&self.live.sets);
            let sets = sets.iter().filter(|set| set.contains(&settings.name));
            let sets = sets.map(|set| label_of_set(set));
            return settings.labels.iter().cloned().chain(sets).collect();
        }
        let members = self.settings.members.iter();
        let mut labels: Vec<String> = members.flat_map(|one| one.labels.clone()).collect();
        labels.sort_unstable();
        labels.dedup();
        if !labels.is_empty() {
            labels.push(OTHER_MODELS.to_owned());
        }
        labels
    }

    /// Returns the labels that a call with this model needs, if it needs any; one that names no model needs none.
    ///
    /// # Errors
    /// No member serves the model.
    pub(crate) fn labels_for(&self, model: &str) -> Result<Option<Labels>, NoSuchModel> {
        let members = &self.settings.members;
        if model.is_empty() || members.iter().all(|member| member.labels.is_empty()) {
            return Ok(None);
        }
        let is_named = members
            .iter()
            .any(|member| member.labels.iter().any(|one| one == model));
        let serves_others = members.iter().any(|member| member.labels.is_empty());
        let label = match (is_named, serves_others) {
            (true, _) => model,
            (false, true) => OTHER_MODELS,
            (false, false) => return Err(NoSuchModel),
        };
        // All of these have names by now.
        self.live
            .pool
            .labels(&[label])
            .map(Some)
            .map_err(|_| NoSuchModel)
    }

    /// Returns a label that these members alone have; `None` if too many such sets are in use.
    pub(crate) fn labels_of_set(&self, names: &[String]) -> Option<Labels> {
        let mut set = names.to_vec();
        set.sort_unstable();
        let is_new = {
            let mut sets = lock(&self.live.sets);
            if !sets.contains(&set) && sets.len() >= MAX_MEMBER_SETS {
                return None;
            }
            sets.insert(set.clone())
        };
        if is_new {
            let sync = self.live.pool.blocking();
            let members = self.settings.members.iter();
            for member in members.filter(|member| set.contains(&member.name)) {
                let labels = self.live.pool.labels(self.labels_of(member)).ok()?;
                if let Some(id) = sync.member(&member.name) {
                    // One that was removed meanwhile serves nothing.
                    let _ = sync.update(id, MemberUpdate::new().labels(labels));
                }
            }
        }
        self.live.pool.labels([label_of_set(&set)]).ok()
    }
}

/// The label of the members of a set.
fn label_of_set(names: &[String]) -> String {
    format!("only {}", names.join(" "))
}

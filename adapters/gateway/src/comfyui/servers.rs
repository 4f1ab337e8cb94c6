//! What is known of the servers of a pool.
//!
//! Invariant: a server keeps its number as long as the process lives, whatever a reload does.

use bytes::Bytes;
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{NodeInfo, Prompt, ServerId};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Things that a server was found without, which are remembered.
const MAX_LACKS: usize = 1_000;

/// Jobs that a server has lost, of which it is told when it is back.
const MAX_COPIES: usize = 1_000;

/// The servers of a pool, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Servers {
    all: Vec<ServerState>,
}

/// What is known of a server.
#[derive(Debug, Default)]
pub(super) struct ServerState {
    pub(super) name: String,
    /// The gateway's client id there.
    pub(super) client_id: String,
    /// Jobs that it runs or that wait there, as it told last.
    pub(super) remaining: Option<u32>,
    /// Since when its websocket is open.
    pub(super) connected: Option<Tick>,
    /// Why its websocket is not open.
    pub(super) trouble: Option<String>,
    /// What it can run; `None` before it was asked.
    pub(super) nodes: Option<Arc<NodeInfo>>,
    /// Its description of nodes.
    pub(super) object_info: Option<Bytes>,
    pub(super) system_stats: Option<Value>,
    /// Its features, as its websocket tells them.
    pub(super) features: Option<Value>,
    /// When its `system_stats` came.
    pub(super) checked: Option<u64>,
    /// What it was found without.
    lacks: BTreeSet<String>,
    /// Jobs that were lost there, and may still be in its queue.
    copies: Vec<String>,
    /// What uploaded files are called there.
    pub(super) uploads: HashMap<String, String>,
}

impl Servers {
    /// Returns the number of a server, which is new if it was not known.
    pub(super) fn number(&mut self, name: &str) -> ServerId {
        if let Some(known) = self.id_of(name) {
            return known;
        }
        self.all.push(ServerState {
            name: name.to_owned(),
            ..ServerState::default()
        });
        ServerId::try_from(self.all.len().saturating_sub(1)).unwrap_or(ServerId::MAX)
    }

    pub(super) fn get(&self, id: ServerId) -> Option<&ServerState> {
        self.all.get(usize::try_from(id).ok()?)
    }

    pub(super) fn get_mut(&mut self, id: ServerId) -> Option<&mut ServerState> {
        self.all.get_mut(usize::try_from(id).ok()?)
    }

    /// Forgets what is known of a server, which is no longer one of the pool's.
    pub(super) fn forget(&mut self, id: ServerId) {
        if let Some(server) = self.get_mut(id) {
            *server = ServerState {
                name: core::mem::take(&mut server.name),
                ..ServerState::default()
            };
        }
    }

    pub(super) fn named(&self, name: &str) -> Option<&ServerState> {
        self.all.iter().find(|server| server.name == name)
    }

    /// The number of a server that is known.
    pub(super) fn id_of(&self, name: &str) -> Option<ServerId> {
        let found = self.all.iter().position(|server| server.name == name)?;
        ServerId::try_from(found).ok()
    }

    pub(super) fn name(&self, id: ServerId) -> Option<String> {
        self.get(id).map(|server| server.name.clone())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ServerId, &ServerState)> {
        (0..).zip(&self.all)
    }
}

impl ServerState {
    /// Remembers what the server was found without.
    pub(super) fn learn_lacks(&mut self, lacks: Vec<String>) {
        if self.lacks.len() < MAX_LACKS {
            self.lacks.extend(lacks);
        }
    }

    /// Remembers a job that may still be in its queue, though it is done elsewhere.
    pub(super) fn note_copy(&mut self, id: &str) {
        if self.copies.len() < MAX_COPIES {
            self.copies.push(id.to_owned());
        }
    }

    /// Whether jobs may still be in its queue that are done elsewhere.
    pub(super) fn has_copies(&self) -> bool {
        !self.copies.is_empty()
    }

    /// The jobs that may still be in its queue, though they are done elsewhere.
    pub(super) fn take_copies(&mut self) -> Vec<String> {
        core::mem::take(&mut self.copies)
    }

    /// Takes a new description of its nodes, which may have all that it lacked.
    pub(super) fn learn_nodes(&mut self, nodes: NodeInfo, text: Bytes) {
        self.nodes = Some(Arc::new(nodes));
        self.object_info = Some(text);
        self.lacks.clear();
    }

    /// Whether it may have all that a prompt needs.
    pub(super) fn may_run(&self, prompt: &Prompt) -> bool {
        let lacks_by_list = self
            .nodes
            .as_ref()
            .is_some_and(|nodes| !nodes.lacks(prompt).is_empty());
        !lacks_by_list && (self.lacks.is_empty() || self.lacks.is_disjoint(&prompt.needs()))
    }

    /// Whether it may have all that an output of a prompt needs.
    pub(super) fn may_run_part(&self, prompt: &Prompt) -> bool {
        let nodes = self.nodes.as_ref();
        nodes.is_none_or(|nodes| {
            nodes.refusal(prompt).is_none() && nodes.value_refusal(prompt).is_none()
        })
    }
}

//! The open ureq agents, one connection pool for each endpoint.
//!
//! Invariant: at most `max` agents are open; a new one evicts the least recently used. A call in flight on a
//! closed agent runs to its end; then its connection closes.

use leasehold_protocol::Endpoint;
use std::collections::HashMap;
use ureq::Agent;

#[derive(Debug)]
pub(crate) struct Agents {
    max: usize,
    open: HashMap<Endpoint, OpenAgent>,
    uses: u64,
    counts: AgentCounts,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AgentCounts {
    pub(crate) created: u64,
    pub(crate) reused: u64,
    pub(crate) closed: u64,
}

#[derive(Debug)]
struct OpenAgent {
    agent: Agent,
    last_use: u64,
}

impl Agents {
    /// An empty set with room for `max` agents; zero is taken as one.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            open: HashMap::new(),
            uses: 0,
            counts: AgentCounts::default(),
        }
    }

    pub(crate) const fn counts(&self) -> AgentCounts {
        self.counts
    }

    /// Returns the endpoint's agent, and the agent evicted to make room for it.
    ///
    /// Dropping the evicted agent closes sockets, so drop it after unlocking. Costs O(`max`) with an eviction,
    /// else O(1).
    pub(crate) fn agent_for(
        &mut self,
        endpoint: &Endpoint,
        create: impl FnOnce() -> Agent,
    ) -> (Agent, Option<Agent>) {
        self.uses += 1;
        if let Some(open) = self.open.get_mut(endpoint) {
            open.last_use = self.uses;
            self.counts.reused += 1;
            return (open.agent.clone(), None);
        }
        let evicted = if self.open.len() < self.max {
            None
        } else {
            self.evict_least_recently_used()
        };
        let agent = create();
        self.counts.created += 1;
        let open = OpenAgent {
            agent: agent.clone(),
            last_use: self.uses,
        };
        self.open.insert(endpoint.clone(), open);
        (agent, evicted)
    }

    fn evict_least_recently_used(&mut self) -> Option<Agent> {
        let oldest = self.open.iter().min_by_key(|(_, open)| open.last_use);
        let endpoint = oldest.map(|(endpoint, _)| endpoint.clone())?;
        let open = self.open.remove(&endpoint)?;
        self.counts.closed += 1;
        Some(open.agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ApiKey;

    fn endpoint(number: u32) -> Endpoint {
        let key = ApiKey::new(format!("sk-secret-{number:08}")).unwrap();
        Endpoint::new("http://127.0.0.1:9", key).unwrap()
    }

    #[test]
    fn the_least_recently_used_agent_is_evicted() {
        let mut agents = Agents::new(2);
        for (number, evicts, created, reused) in [
            (1, false, 1, 0),
            (2, false, 2, 0),
            (1, false, 2, 1),
            (3, true, 3, 1),
            (1, false, 3, 2),
            (2, true, 4, 2),
            (1, false, 4, 3),
            (3, true, 5, 3),
        ] {
            let (_, evicted) = agents.agent_for(&endpoint(number), Agent::new_with_defaults);
            let counts = agents.counts();
            assert_eq!(evicted.is_some(), evicts);
            assert_eq!((counts.created, counts.reused), (created, reused));
            assert_eq!(counts.closed, counts.created - agents.open.len() as u64);
            assert!(agents.open.len() <= 2);
        }
    }
}

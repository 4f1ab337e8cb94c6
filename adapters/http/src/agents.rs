//! Which connection pools are kept open.
//!
//! Invariant: at most `max` agents are open, one an endpoint; the least recently used makes room. A call
//! under way on a closed agent runs to its end, and its connection is closed then.

use crate::endpoint::Endpoint;
use std::collections::HashMap;
use ureq::Agent;

/// The open agents and what became of the others.
#[derive(Debug)]
pub(crate) struct Agents {
    max: usize,
    open: HashMap<Endpoint, Slot>,
    uses: u64,
    counts: AgentCounts,
}

/// How many agents there were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AgentCounts {
    pub(crate) created: u64,
    pub(crate) reused: u64,
    pub(crate) closed: u64,
}

#[derive(Debug)]
struct Slot {
    agent: Agent,
    last_use: u64,
}

impl Agents {
    /// No agents yet, and never more than `max`; zero is taken as one.
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

    /// The endpoint's agent, and the one that was closed to make room for it: dropping that closes
    /// sockets, which is better done without a lock. Costs O(`max`) when room is made, else O(1).
    pub(crate) fn choose(
        &mut self,
        endpoint: &Endpoint,
        create: impl FnOnce() -> Agent,
    ) -> (Agent, Option<Agent>) {
        self.uses += 1;
        if let Some(slot) = self.open.get_mut(endpoint) {
            slot.last_use = self.uses;
            self.counts.reused += 1;
            return (slot.agent.clone(), None);
        }
        let closed = if self.open.len() < self.max {
            None
        } else {
            self.close_least_recently_used()
        };
        let agent = create();
        self.counts.created += 1;
        let slot = Slot {
            agent: agent.clone(),
            last_use: self.uses,
        };
        self.open.insert(endpoint.clone(), slot);
        (agent, closed)
    }

    fn close_least_recently_used(&mut self) -> Option<Agent> {
        let least = self.open.iter().min_by_key(|(_, slot)| slot.last_use);
        let endpoint = least.map(|(endpoint, _)| endpoint.clone())?;
        let slot = self.open.remove(&endpoint)?;
        self.counts.closed += 1;
        Some(slot.agent)
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
    fn the_least_recently_used_agent_makes_room() {
        let mut agents = Agents::new(2);
        for (number, closes, created, reused) in [
            (1, false, 1, 0),
            (2, false, 2, 0),
            (1, false, 2, 1),
            (3, true, 3, 1),
            (1, false, 3, 2),
            (2, true, 4, 2),
            (1, false, 4, 3),
            (3, true, 5, 3),
        ] {
            let (_, closed) = agents.choose(&endpoint(number), Agent::new_with_defaults);
            let counts = agents.counts();
            assert_eq!(closed.is_some(), closes);
            assert_eq!((counts.created, counts.reused), (created, reused));
            assert_eq!(counts.closed, counts.created - agents.open.len() as u64);
            assert!(agents.open.len() <= 2);
        }
    }
}

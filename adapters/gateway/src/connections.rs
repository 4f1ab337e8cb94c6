//! The callers' connections that are open, in all and by client address.
//!
//! Invariant: a connection is counted from its admission to its end, and never more are open than the bounds allow.

use crate::lock;
use core::net::IpAddr;
use core::num::NonZeroU32;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The open connections of one listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    total: u32,
    by_client: HashMap<IpAddr, u32>,
}

/// A connection that is counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    connections: Connections,
    client: Option<IpAddr>,
}

impl Connections {
    /// Counts a connection; `None` if there are as many as may be, in all or of its client.
    pub(crate) fn admit(
        &self,
        client: Option<IpAddr>,
        max: NonZeroU32,
        max_client: NonZeroU32,
    ) -> Option<Counted> {
        let mut open = lock(&self.0);
        if open.total >= max.get() {
            return None;
        }
        if let Some(client) = client {
            let count = open.by_client.entry(client).or_default();
            if *count >= max_client.get() {
                return None;
            }
            *count = count.saturating_add(1);
        }
        open.total = open.total.saturating_add(1);
        Some(Counted {
            connections: self.clone(),
            client,
        })
    }

    /// Returns how many are open.
    pub(crate) fn total(&self) -> u32 {
        lock(&self.0).total
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = lock(&self.connections.0);
        open.total = open.total.saturating_sub(1);
        if let Some(client) = self.client
            && let Some(count) = open.by_client.get_mut(&client)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_client.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_in_all_and_by_client() {
        let connections = Connections::default();
        let [max, max_client] = [3, 2].map(|max| NonZeroU32::new(max).unwrap());
        let admit =
            |client: &str| connections.admit(Some(client.parse().unwrap()), max, max_client);
        let (one, two) = (admit("10.0.0.1"), admit("10.0.0.1"));
        assert!(one.is_some() && two.is_some());
        assert!(admit("10.0.0.1").is_none());
        let three = admit("10.0.0.2");
        assert!(three.is_some() && admit("10.0.0.3").is_none());
        drop(one);
        assert!(admit("10.0.0.1").is_some());
        drop((two, three));
        assert_eq!(connections.total(), 0);
        assert!(lock(&connections.0).by_client.is_empty());
    }
}

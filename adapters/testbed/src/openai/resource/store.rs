//! The memory of resources, each for the key that made it.
//!
//! Invariant: at most [`MAX_KEPT`] resources of at most [`MAX_BYTES`] in all; the oldest are forgotten first.

use crate::judge::KeyId;
use alloc::collections::VecDeque;
use hyper::body::Bytes;
use std::collections::HashMap;

const MAX_KEPT: usize = 4_096;

/// Most bytes of all bodies and contents.
const MAX_BYTES: usize = 64 << 20;

/// A resource as its key sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::openai) struct Resource {
    pub(in crate::openai) owner: KeyId,
    /// Its JSON.
    pub(in crate::openai) body: Bytes,
    /// The bytes of a file.
    pub(in crate::openai) content: Bytes,
}

impl Resource {
    const fn len(&self) -> usize {
        self.body.len() + self.content.len()
    }
}

/// Resources by id.
#[derive(Debug, Default)]
pub(in crate::openai) struct Resources {
    kept: HashMap<String, Resource>,
    /// Their ids, the oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl Resources {
    pub(in crate::openai) fn insert(&mut self, id: String, resource: Resource) {
        self.bytes += resource.len();
        self.order.push_back(id.clone());
        self.kept.insert(id, resource);
        while self.kept.len() > MAX_KEPT || self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.forget(&oldest);
        }
    }

    /// Returns a resource, if this key made it.
    pub(in crate::openai) fn get(&self, owner: KeyId, id: &str) -> Option<&Resource> {
        self.kept.get(id).filter(|kept| kept.owner == owner)
    }

    /// Forgets a resource, if this key made it, and returns whether it did.
    pub(in crate::openai) fn remove(&mut self, owner: KeyId, id: &str) -> bool {
        if self.get(owner, id).is_none() {
            return false;
        }
        self.order.retain(|known| known != id);
        self.forget(id);
        true
    }

    fn forget(&mut self, id: &str) {
        let len = self.kept.remove(id).map_or(0, |resource| resource.len());
        self.bytes -= len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Judge, JudgeConfig};
    use core::time::Duration;

    fn keys() -> [KeyId; 2] {
        let config = JudgeConfig {
            limits: Vec::new(),
            window: Duration::from_secs(60),
            max_concurrent: None,
        };
        let mut judge = Judge::new(config, Vec::new());
        ["one", "two"].map(|key| judge.identify(key).unwrap())
    }

    fn resource(owner: KeyId, bytes: usize) -> Resource {
        Resource {
            owner,
            body: Bytes::from_static(b"{}"),
            content: vec![0; bytes].into(),
        }
    }

    #[test]
    fn a_resource_is_there_only_for_its_key() {
        let [one, two] = keys();
        let mut resources = Resources::default();
        resources.insert("file-1".to_owned(), resource(one, 1));
        assert!(resources.get(one, "file-1").is_some());
        assert!(resources.get(two, "file-1").is_none());
        assert!(!resources.remove(two, "file-1"));
        assert!(resources.remove(one, "file-1"));
        assert!(!resources.remove(one, "file-1"));
        assert_eq!((resources.bytes, resources.order.len()), (0, 0));
    }

    #[test]
    fn the_oldest_are_forgotten_above_a_number_and_above_a_size() {
        let [one, _] = keys();
        let mut resources = Resources::default();
        for number in 0..=MAX_KEPT {
            resources.insert(number.to_string(), resource(one, 1));
        }
        assert!(resources.get(one, "0").is_none());
        assert!(resources.get(one, "1").is_some());
        resources.insert("large".to_owned(), resource(one, MAX_BYTES - 2));
        assert_eq!((resources.kept.len(), resources.order.len()), (1, 1));
        assert_eq!(resources.bytes, MAX_BYTES);
        assert!(resources.get(one, "large").is_some());
    }
}

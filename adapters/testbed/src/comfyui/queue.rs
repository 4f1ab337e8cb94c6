//! The queue: a heap of prompts, one running, and the history.
//!
//! Invariant: the list of pending prompts is a binary heap by number, then by id; it is shown as it is, unsorted.

use core::cmp::Ordering;
use serde_json::{Map, Number, Value, json};

/// Most entries of the history; the oldest is evicted.
const MAX_HISTORY: usize = 10_000;

/// A queued prompt.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Lower runs first; an integer if the server counted it.
    pub(super) number: Number,
    pub(super) id: String,
    pub(super) prompt: Map<String, Value>,
    /// Without the keys of the user's accounts.
    pub(super) extra_data: Map<String, Value>,
    /// Outputs that passed the validation.
    pub(super) outputs: Vec<String>,
}

impl Item {
    /// The five elements that callers see.
    pub(super) fn to_json(&self) -> Value {
        json!([
            self.number,
            self.id,
            self.prompt,
            self.extra_data,
            self.outputs
        ])
    }

    pub(super) fn client_id(&self) -> Option<&str> {
        let client_id = self.extra_data.get("client_id")?.as_str();
        client_id.filter(|client_id| !client_id.is_empty())
    }

    fn order(&self, other: &Self) -> Ordering {
        let number = |item: &Self| item.number.as_f64().unwrap_or(f64::MAX);
        number(self)
            .total_cmp(&number(other))
            .then_with(|| self.id.cmp(&other.id))
    }
}

/// Pending prompts in heap order.
#[derive(Debug, Default)]
pub(super) struct Pending(Vec<Item>);

/// Two prompts with equal numbers and ids were compared, which raises in the real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incomparable;

impl Pending {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.0
    }

    /// Adds a prompt. It stays in the queue also if it can't be compared with another.
    pub(super) fn push(&mut self, item: Item) -> Result<(), Incomparable> {
        self.0.push(item);
        let mut at = self.0.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            match self.0[at].order(&self.0[parent]) {
                Ordering::Less => self.0.swap(at, parent),
                Ordering::Equal => return Err(Incomparable),
                Ordering::Greater => break,
            }
            at = parent;
        }
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.0.swap_remove(0);
        self.sift_down(0);
        Some(item)
    }

    /// Removes the first prompt with this id; one that was posted twice stays there once.
    pub(super) fn remove(&mut self, id: &str) -> Option<Item> {
        let at = self.0.iter().position(|item| item.id == id)?;
        let item = self.0.remove(at);
        for at in (0..self.0.len() / 2).rev() {
            self.sift_down(at);
        }
        Some(item)
    }

    pub(super) fn clear(&mut self) -> Vec<Item> {
        core::mem::take(&mut self.0)
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let children = [2 * at + 1, 2 * at + 2];
            let children = children.into_iter().filter(|child| *child < self.0.len());
            let least = children.min_by(|a, b| self.0[*a].order(&self.0[*b]));
            match least {
                Some(child) if self.0[child].order(&self.0[at]).is_lt() => {
                    self.0.swap(at, child);
                    at = child;
                }
                Some(_) | None => return,
            }
        }
    }
}

/// Ended prompts by id, in the order of their end.
#[derive(Debug, Default)]
pub(super) struct History(Map<String, Value>);

impl History {
    /// Adds an entry; a later one of the same id takes the place of the earlier.
    pub(super) fn insert(&mut self, id: &str, entry: Value) {
        if self.0.len() >= MAX_HISTORY
            && !self.0.contains_key(id)
            && let Some(oldest) = self.0.keys().next().cloned()
        {
            self.0.shift_remove(&oldest);
        }
        self.0.insert(id.to_owned(), entry);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Value> {
        self.0.get(id)
    }

    pub(super) fn entries(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Some entries from an offset on; without an offset the newest.
    pub(super) fn page(&self, max_items: Option<i64>, offset: Option<i64>) -> Value {
        let length = i64::try_from(self.0.len()).unwrap_or(i64::MAX);
        let from = match (offset, max_items) {
            (Some(offset), _) if offset >= 0 => offset,
            (_, Some(most)) => length.saturating_sub(most),
            (_, None) => 0,
        };
        // The real server counts after it has added an entry: at least one is there.
        let most = max_items.map_or(usize::MAX, |most| usize::try_from(most.max(1)).unwrap_or(1));
        let from = usize::try_from(from.max(0)).unwrap_or(usize::MAX);
        let entries = self.0.iter().skip(from).take(most);
        Value::Object(
            entries
                .map(|(id, entry)| (id.clone(), entry.clone()))
                .collect(),
        )
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.0.shift_remove(id);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: i64, id: &str) -> Item {
        Item {
            number: number.into(),
            id: id.to_owned(),
            prompt: Map::new(),
            extra_data: Map::new(),
            outputs: Vec::new(),
        }
    }

    #[test]
    fn prompts_leave_the_heap_by_number_then_by_id() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let mut pending = Pending::default();
            let mut sorted = Vec::new();
            for index in 0..rng.usize(1..30) {
                let (number, id) = (rng.i64(-5..5), format!("{index:02}"));
                pending.push(item(number, &id)).unwrap();
                sorted.push((number, id));
            }
            let removed = sorted.swap_remove(rng.usize(..sorted.len()));
            assert_eq!(pending.remove(&removed.1).unwrap().id, removed.1);
            sorted.sort();
            for (number, id) in sorted {
                let first = pending.pop().unwrap();
                assert_eq!((first.number.as_i64(), first.id), (Some(number), id));
            }
            assert!(pending.pop().is_none());
        }
    }

    #[test]
    fn equal_number_and_id_cannot_be_compared_and_stay_queued() {
        let mut pending = Pending::default();
        pending.push(item(1, "a")).unwrap();
        assert_eq!(pending.push(item(1, "a")), Err(Incomparable));
        assert_eq!(pending.len(), 2);
        assert!(pending.remove("a").is_some());
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn a_page_of_the_history_is_the_newest_or_from_an_offset() {
        let mut history = History::default();
        for id in ["a", "b", "c"] {
            history.insert(id, json!(1));
        }
        history.insert("a", json!(2));
        assert_eq!(history.page(None, None), json!({"a": 2, "b": 1, "c": 1}));
        assert_eq!(history.page(Some(2), None), json!({"b": 1, "c": 1}));
        assert_eq!(history.page(Some(1), Some(0)), json!({"a": 2}));
        assert_eq!(history.page(None, Some(2)), json!({"c": 1}));
        for number in 0..10_000 {
            history.insert(&number.to_string(), json!(0));
        }
        assert_eq!(history.entries().len(), 10_000);
        assert!(history.get("a").is_none() && history.get("0").is_some());
    }
}

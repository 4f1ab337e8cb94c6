//! The answer of `GET /queue`: which jobs a server runs, and which wait there.

use serde_json::Value;

/// Jobs of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    /// Those that run: one at most, as far as is known.
    pub running: Vec<QueueItem>,
    /// Those that wait, in no order.
    pub pending: Vec<QueueItem>,
}

/// A job in a server's queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueItem {
    /// Its number: lower ones go first.
    pub number: f64,
    /// Its id.
    pub id: String,
}

impl Queue {
    /// Reads the answer; `None` if it is another.
    #[must_use]
    pub fn read(answer: &Value) -> Option<Self> {
        Some(Self {
            running: items(&answer["queue_running"])?,
            pending: items(&answer["queue_pending"])?,
        })
    }

    /// How many jobs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len().saturating_add(self.pending.len())
    }

    /// Whether there is no job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of all jobs.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let all = self.running.iter().chain(&self.pending);
        all.map(|item| item.id.as_str())
    }
}

fn items(list: &Value) -> Option<Vec<QueueItem>> {
    let items = list.as_array()?.iter().filter_map(|item| {
        Some(QueueItem {
            number: item[0].as_f64().unwrap_or_default(),
            id: item[1].as_str()?.to_owned(),
        })
    });
    Some(items.collect())
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn jobs_that_run_and_wait_are_read_in_the_order_of_the_answer() {
        let answer = json!({
            "queue_running": [[3, "r", {"1": {}}, {"client_id": "c"}, ["9"]]],
            "queue_pending": [[5.5, "b", {}, {}, []], [-4, "a", {}, {"create_time": 1760000000000_u64}, []]],
        });
        let queue = Queue::read(&answer).unwrap();
        assert_eq!(queue.ids().collect::<Vec<_>>(), ["r", "b", "a"]);
        assert_eq!((queue.len(), queue.running[0].number), (3, 3.0));
        let numbers: Vec<f64> = queue.pending.iter().map(|item| item.number).collect();
        assert_eq!(numbers, [5.5, -4.0]);
    }

    #[test]
    fn an_empty_queue_is_one_and_another_answer_is_none() {
        let empty = json!({"queue_running": [], "queue_pending": []});
        assert!(Queue::read(&empty).unwrap().is_empty());
        for answer in [
            json!({}),
            json!([]),
            json!({"queue_running": []}),
            json!({"error": "no"}),
        ] {
            assert_eq!(Queue::read(&answer), None, "{answer}");
        }
    }
}

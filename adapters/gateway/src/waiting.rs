//! Requests that wait for a member, which an operator may cancel.
//!
//! Invariant: a request that gets a member at once costs nothing here; one that waits has an entry until it waits no more.

use crate::lock;
use crate::state::unix_millis;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;
use http::StatusCode;
use leasehold_protocol::Refusal;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// The answer to a request that was cancelled.
pub(crate) const CANCELLED_TEXT: &str = "an operator has cancelled the request while it waited";

/// Characters of a request that are kept.
const MAX_TEXT: usize = 300;

/// The requests of all pools that wait now, by the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct WaitingRequests(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    waiting: BTreeMap<u64, Entry>,
}

/// A request that waits, in words.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) pool: String,
    /// The method and the path, or what else it asks for.
    pub(crate) request: String,
    /// The address that it came from, if there is one.
    pub(crate) client: Option<String>,
    /// The name of its caller, if it has a key of its own.
    pub(crate) caller: Option<String>,
}

#[derive(Debug)]
struct Entry {
    waiter: Waiter,
    since: u64,
    cancelled: Arc<Notify>,
}

/// The entry of a request, which is gone when the request waits no more.
struct Place<'a> {
    requests: &'a WaitingRequests,
    number: u64,
    cancelled: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.requests.0).waiting.remove(&self.number);
    }
}

/// Refuses a request that was cancelled.
pub(crate) fn cancelled() -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        Refusal::CANCELLED,
        CANCELLED_TEXT,
    )
}

impl WaitingRequests {
    /// Asks for a lease once, and waits for the outcome; `None` if an operator cancels the request before.
    pub(crate) async fn outcome<F: Future + Unpin>(
        &self,
        ask: impl Fn() -> F,
        waiter: impl FnOnce() -> Waiter,
    ) -> Option<F::Output> {
        // Only a request that waits is kept, and boxed, so that the caller's future stays small.
        let at_once = poll_fn(|context| {
            let mut asking = ask();
            Poll::Ready(match Pin::new(&mut asking).poll(context) {
                Poll::Ready(outcome) => Ok(outcome),
                Poll::Pending => Err(Box::new(asking)),
            })
        });
        match at_once.await {
            Ok(outcome) => Some(outcome),
            Err(asking) => Box::pin(self.wait(asking, waiter())).await,
        }
    }

    async fn wait<F: Future + Unpin>(&self, asking: F, waiter: Waiter) -> Option<F::Output> {
        let place = self.enter(waiter);
        tokio::select! {
            biased;
            // One that is granted meanwhile gives its lease back.
            () = place.cancelled.notified() => None,
            outcome = asking => Some(outcome),
        }
    }

    fn enter(&self, waiter: Waiter) -> Place<'_> {
        let cancelled = Arc::new(Notify::new());
        let entry = Entry {
            waiter: Waiter {
                request: waiter.request.chars().take(MAX_TEXT).collect(),
                ..waiter
            },
            since: unix_millis(),
            cancelled: Arc::clone(&cancelled),
        };
        let mut entries = lock(&self.0);
        let number = entries.next;
        entries.next = number.wrapping_add(1);
        entries.waiting.insert(number, entry);
        Place {
            requests: self,
            number,
            cancelled,
        }
    }

    /// Cancels a request, and returns it in words; `None` if it waits no more.
    pub(crate) fn cancel(&self, id: &str) -> Option<String> {
        let number: u64 = id.parse().ok()?;
        let mut entries = lock(&self.0);
        let Entry {
            waiter, cancelled, ..
        } = entries.waiting.remove(&number)?;
        cancelled.notify_one();
        Some(format!("{} of pool {}", waiter.request, waiter.pool))
    }

    /// Returns how many wait in a pool or in all, and those that came first of them.
    pub(crate) fn list(&self, pool: Option<&str>, most: usize) -> (usize, Vec<Value>) {
        let entries = lock(&self.0);
        let is_meant = |entry: &&Entry| pool.is_none_or(|pool| entry.waiter.pool == pool);
        let count = entries.waiting.values().filter(is_meant).count();
        let rows = entries.waiting.iter().filter(|(_, entry)| is_meant(entry));
        let rows = rows.take(most).map(|(number, entry)| {
            let mut row = entry.view();
            row["id"] = number.to_string().into();
            row
        });
        (count, rows.collect())
    }

    /// Returns those that have waited for longer than a time, by their ids; the first of them alone.
    pub(crate) fn longer_than(&self, time: Duration, most: usize) -> Value {
        let latest = unix_millis().saturating_sub(time.as_millis() as u64);
        let entries = lock(&self.0);
        // Later ones have waited for less.
        let old = entries
            .waiting
            .iter()
            .take_while(|(_, entry)| entry.since <= latest);
        let rows = old.take(most).map(|(number, entry)| {
            let mut row = entry.view();
            if let Some(row) = row.as_object_mut() {
                row.retain(|_, value| !value.is_null());
            }
            (number.to_string(), row)
        });
        Value::Object(rows.collect::<Map<_, _>>())
    }
}

impl Entry {
    fn view(&self) -> Value {
        json!({
            "pool": self.waiter.pool,
            "request": self.waiter.request,
            "client": self.waiter.client,
            "caller": self.waiter.caller,
            "since": self.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::future::{pending, ready};
    use futures_util::FutureExt;

    fn waiter() -> Waiter {
        Waiter {
            pool: "web".to_owned(),
            request: "GET /".to_owned(),
            client: None,
            caller: None,
        }
    }

    #[test]
    fn one_that_waits_is_listed_until_it_is_cancelled_or_gives_up() {
        let requests = WaitingRequests::default();
        let at_once = requests.outcome(|| ready(7), || panic!("it does not wait"));
        assert_eq!(at_once.now_or_never(), Some(Some(7)));
        let mut first = Box::pin(requests.outcome(pending::<()>, waiter));
        let mut second = Box::pin(requests.outcome(pending::<()>, waiter));
        for waiting in [&mut first, &mut second] {
            assert_eq!(waiting.as_mut().now_or_never(), None);
        }
        assert_eq!(requests.list(None, 9).0, 2);
        assert_eq!(requests.list(Some("api"), 9), (0, vec![]));
        let (count, rows) = requests.list(Some("web"), 1);
        assert_eq!((count, rows.len(), &rows[0]["id"]), (2, 1, &json!("0")));
        assert_eq!(requests.cancel("0").as_deref(), Some("GET / of pool web"));
        assert_eq!((requests.cancel("0"), requests.cancel("x")), (None, None));
        assert_eq!(first.as_mut().now_or_never(), Some(None));
        assert_eq!(second.as_mut().now_or_never(), None);
        drop(second);
        assert_eq!(requests.list(None, 9).0, 0);
    }
}

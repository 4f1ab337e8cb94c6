//! The leases that a client holds of a pool elsewhere: until when it may count on them, and what it has to tell of them.
//!
//! Invariant: no lease counts as held at a tick at which the service may have taken it back, however long messages take;
//! and an end is told until it was heard or can't matter any more.

use super::pause::Pause;
use super::{
    BatchedRelease, GrantedLease, LeaseBatch, LeaseBatchAnswer, LeaseRelease, MAX_LEASES, Part,
    RenewedLease,
};
use core::time::Duration;
use leasehold_core::time::Tick;
use std::collections::{BTreeMap, VecDeque};

/// The longest pause after the service could not be reached.
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// A lease among those that a client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldingId(u64);

/// The client's side of leases, on a clock of its own.
///
/// It is driven like the machines of the core: after each command, and at the tick of
/// [`poll_timeout`](Self::poll_timeout), [`next_batch`](Self::next_batch) tells what is to be sent. One batch is under way
/// at a time.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::time::Tick;
/// use leasehold_protocol::lease::{Holdings, LeaseOutcome, LeaseRelease};
///
/// let granted = r#"{"lease": "keys-7", "fence": 7, "member": "a", "url": "https://api.test/v1",
///     "expires_in_ms": 60000, "renew_in_ms": 20000, "waited_ms": 0}"#;
/// let second = |seconds: u64| Tick::ZERO.saturating_add(Duration::from_secs(seconds));
/// let mut holdings = Holdings::default();
/// let lease = holdings.add(second(0), &serde_json::from_str(granted)?);
/// assert_eq!(holdings.poll_timeout(), Some(second(20)));
/// assert_eq!(holdings.next_batch(second(20)).expect("it is due").renew, ["keys-7"]);
/// assert!(holdings.left(second(59), lease).is_some());
/// assert!(holdings.left(second(60), lease).is_none());
/// holdings.release(lease, LeaseRelease::new(LeaseOutcome::Ok));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    held: BTreeMap<HoldingId, Holding>,
    last: u64,
    arrived: VecDeque<String>,
    /// Ends, with the ticks after which they can't matter.
    released: VecDeque<(BatchedRelease, Tick)>,
    /// What was sent and is not answered yet.
    sent: Option<Sent>,
    /// Nothing is sent before this tick, because the service could not be reached.
    paused_until: Option<Tick>,
    pause: Pause,
}

#[derive(Clone, Debug)]
struct Holding {
    id: String,
    expires: Tick,
    renew_at: Tick,
}

#[derive(Clone, Debug)]
struct Sent {
    at: Tick,
    batch: LeaseBatch,
    /// Of each release, the tick after which it can't matter.
    until: Vec<Tick>,
}

impl Holdings {
    /// Adds a lease that was granted to a request sent at this tick.
    ///
    /// The service granted it no earlier than the request's wait after that, so that it expires no earlier than told from
    /// then on.
    pub fn add(&mut self, asked_at: Tick, granted: &GrantedLease) -> HoldingId {
        let granted_at = asked_at.saturating_add(Duration::from_millis(granted.waited_ms));
        self.last = self.last.saturating_add(1);
        let id = HoldingId(self.last);
        let holding = Holding {
            id: granted.lease.clone(),
            expires: after(granted_at, granted.expires_in_ms),
            renew_at: after(granted_at, granted.renew_in_ms),
        };
        self.held.insert(id, holding);
        id
    }

    /// Returns how long a lease may be counted on; `None` if no longer: its holder starts no call then.
    #[must_use]
    pub fn left(&self, now: Tick, lease: HoldingId) -> Option<Duration> {
        let holding = self.held.get(&lease)?;
        Some(holding.expires.since(now)).filter(|left| !left.is_zero())
    }

    /// Tells the service that the call of a lease has arrived.
    pub fn arrived(&mut self, lease: HoldingId) {
        if let Some(holding) = self.held.get(&lease) {
            self.arrived.push_back(holding.id.clone());
        }
    }

    /// Ends a lease. One that has expired is told of too, since the service may know better.
    pub fn release(&mut self, lease: HoldingId, release: LeaseRelease) {
        if let Some(holding) = self.held.remove(&lease) {
            let lease = holding.id;
            let told = BatchedRelease { lease, release };
            self.released.push_back((told, holding.expires));
        }
    }

    /// Returns what is to be sent now, if there is anything; it is under way until [`answered`](Self::answered) or
    /// [`failed`](Self::failed).
    pub fn next_batch(&mut self, now: Tick) -> Option<LeaseBatch> {
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        if is_paused || self.sent.is_some() {
            return None;
        }
        self.drop_late(now);
        // One that has expired can't be renewed.
        let expired = self.held.values_mut().filter(|one| one.expires <= now);
        expired.for_each(|one| one.renew_at = one.expires);
        let mut batch = LeaseBatch::default();
        let room = |batch: &LeaseBatch| {
            let parts = [batch.arrived.len(), batch.renew.len(), batch.release.len()];
            MAX_LEASES.saturating_sub(parts.iter().sum())
        };
        let renewed = self.held.values().filter(|one| one.renew_at <= now);
        let renewed = renewed.filter(|one| one.renew_at < one.expires);
        batch.renew = renewed.take(MAX_LEASES).map(|one| one.id.clone()).collect();
        let arrived = self.arrived.len().min(room(&batch));
        batch.arrived = self.arrived.drain(..arrived).collect();
        let released = self.released.len().min(room(&batch));
        let (released, until) = self.released.drain(..released).unzip();
        batch.release = released;
        let is_empty =
            batch.arrived.is_empty() && batch.renew.is_empty() && batch.release.is_empty();
        if is_empty {
            return None;
        }
        self.sent = Some(Sent {
            at: now,
            batch: batch.clone(),
            until,
        });
        Some(batch)
    }

    /// Hears the answer to the batch under way.
    pub fn answered(&mut self, answer: &LeaseBatchAnswer) {
        (self.paused_until, self.pause) = (None, Pause::default());
        let Some(Sent { at, batch, .. }) = self.sent.take() else {
            return;
        };
        for (id, part) in batch.renew.iter().zip(&answer.renewed) {
            let mut held = self.held.values_mut();
            let Some(holding) = held.find(|holding| holding.id == *id) else {
                continue;
            };
            match part {
                Part::Done(RenewedLease {
                    expires_in_ms,
                    renew_in_ms,
                }) => {
                    holding.expires = after(at, *expires_in_ms);
                    holding.renew_at = after(at, *renew_in_ms);
                }
                // It was taken back, by an operator perhaps.
                Part::Refused(refused) if refused.error.status == 410 => holding.expires = at,
                // The state could not be written, for one: it is asked again before the lease expires.
                Part::Refused(_) => holding.renew_at = at.saturating_add(LAST_PAUSE),
            }
        }
    }

    /// Hears that the batch under way has failed, and that the service may not have heard it.
    pub fn failed(&mut self, now: Tick) {
        self.paused_until = Some(now.saturating_add(self.pause.next(LAST_PAUSE)));
        let Some(Sent { batch, until, .. }) = self.sent.take() else {
            return;
        };
        // Told twice, neither does harm: the second is answered by 410.
        for arrived in batch.arrived.into_iter().rev() {
            self.arrived.push_front(arrived);
        }
        for told in batch.release.into_iter().zip(until).rev() {
            self.released.push_front(told);
        }
    }

    /// The tick at which [`next_batch`](Self::next_batch) has something to be sent; `None` for never, if no command follows.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        if self.sent.is_some() {
            return None;
        }
        let is_waiting = !self.arrived.is_empty() || !self.released.is_empty();
        let renewals = self.held.values().filter(|one| one.renew_at < one.expires);
        let renewal = renewals.map(|one| one.renew_at).min();
        let due = is_waiting.then_some(Tick::ZERO).or(renewal)?;
        Some(self.paused_until.map_or(due, |until| until.max(due)))
    }

    /// Whether something is still to be told, renewals aside.
    #[must_use]
    pub fn is_telling(&self) -> bool {
        let is_sent = |sent: &Sent| sent.batch.arrived.len().max(sent.batch.release.len()) > 0;
        !self.arrived.is_empty()
            || !self.released.is_empty()
            || self.sent.as_ref().is_some_and(is_sent)
    }

    /// Whether all has been told and no lease is held.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.sent.is_none() && !self.is_telling()
    }

    /// Drops what can't matter any more: ends of leases that the service has taken back.
    fn drop_late(&mut self, now: Tick) {
        // For a while longer than they may be counted on: the service's clock may be behind by the time of a message.
        let is_late = |until: &Tick| until.saturating_add(LAST_PAUSE.saturating_mul(30)) <= now;
        self.released.retain(|(_, until)| !is_late(until));
        if self.held.is_empty() && self.released.is_empty() {
            self.arrived.clear();
        }
    }
}

fn after(tick: Tick, millis: u64) -> Tick {
    tick.saturating_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::super::{Done, LeaseError, LeaseOutcome, LeaseProblem};
    use super::*;
    use proptest::prelude::*;

    fn tick(millis: u64) -> Tick {
        after(Tick::ZERO, millis)
    }

    fn granted(id: u64, expires_in_ms: u64, waited_ms: u64) -> GrantedLease {
        GrantedLease {
            lease: format!("keys-{id}"),
            fence: id,
            member: "a".to_owned(),
            url: "https://api.test/v1".to_owned(),
            secret: None,
            expires_in_ms,
            renew_in_ms: expires_in_ms / 3,
            waited_ms,
        }
    }

    fn gone() -> LeaseError {
        LeaseError {
            error: LeaseProblem {
                code: "lease_expired".to_owned(),
                status: 410,
                message: String::new(),
                cause: None,
                retry_after_ms: None,
            },
        }
    }

    #[test]
    fn an_end_is_told_again_until_it_was_heard() {
        let mut holdings = Holdings::default();
        let lease = holdings.add(tick(0), &granted(1, 60_000, 0));
        holdings.arrived(lease);
        holdings.release(lease, LeaseRelease::new(LeaseOutcome::Ok));
        let first = holdings.next_batch(tick(10)).expect("something to tell");
        assert_eq!((first.arrived.len(), first.release.len()), (1, 1));
        assert_eq!(holdings.poll_timeout(), None, "one batch is under way");
        holdings.failed(tick(20));
        assert_eq!(holdings.poll_timeout(), Some(tick(70)));
        assert_eq!(holdings.next_batch(tick(69)), None);
        assert_eq!(holdings.next_batch(tick(70)), Some(first));
        holdings.answered(&LeaseBatchAnswer::default());
        assert!(holdings.is_idle());
    }

    #[test]
    fn a_lease_that_was_taken_back_is_not_counted_on() {
        let mut holdings = Holdings::default();
        let lease = holdings.add(tick(0), &granted(1, 60_000, 0));
        assert!(holdings.next_batch(tick(20_000)).is_some());
        let renewed = vec![Part::Refused(gone())];
        holdings.answered(&LeaseBatchAnswer {
            renewed,
            ..LeaseBatchAnswer::default()
        });
        assert_eq!(holdings.left(tick(20_000), lease), None);
        assert_eq!(holdings.poll_timeout(), None);
    }

    /// A step of a client and its service, whose messages take time or are lost.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A request, with the milliseconds to the service, in its queue and back.
        Acquire {
            there: u64,
            wait: u64,
            back: u64,
        },
        Release(usize),
        /// Sends what is due; the messages take this long, or one of them is lost.
        Send {
            there: u64,
            back: u64,
            is_lost: bool,
        },
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let time = || 0_u64..300;
        prop_oneof![
            (time(), time(), time()).prop_map(|(there, wait, back)| Step::Acquire {
                there,
                wait,
                back
            }),
            any::<usize>().prop_map(Step::Release),
            (time(), time(), prop::bool::weighted(0.3)).prop_map(|(there, back, is_lost)| {
                Step::Send {
                    there,
                    back,
                    is_lost,
                }
            }),
            (0_u64..1_500).prop_map(Step::Advance),
        ]
    }

    const TTL: u64 = 1_000;

    proptest! {
        /// However long messages take, the client counts on no lease that the service has taken back, and each end that it
        /// tells reaches the service unless the lease has expired there.
        #[test]
        fn the_client_never_counts_on_more_than_the_service(steps in prop::collection::vec(step(), 1..60)) {
            let mut now = 0;
            let mut holdings = Holdings::default();
            // By the service: when each lease expires; `None` once it has ended.
            let mut service: BTreeMap<String, Option<u64>> = BTreeMap::new();
            let mut held: Vec<(HoldingId, String)> = Vec::new();
            let mut ended: Vec<String> = Vec::new();
            for step in steps {
                match step {
                    Step::Acquire { there, wait, back } => {
                        let asked = now;
                        let at = now + there + wait;
                        now = at + back;
                        let number = service.len() as u64;
                        service.insert(format!("keys-{number}"), Some(at + TTL));
                        let id = holdings.add(tick(asked), &granted(number, TTL, wait));
                        held.push((id, format!("keys-{number}")));
                    }
                    Step::Release(which) => {
                        if let Some(at) = which.checked_rem(held.len()) {
                            let (id, name) = held.swap_remove(at);
                            holdings.release(id, LeaseRelease::new(LeaseOutcome::Ok));
                            ended.push(name);
                        }
                    }
                    Step::Send { there, back, is_lost } => {
                        let Some(batch) = holdings.next_batch(tick(now)) else {
                            continue;
                        };
                        let at = now + there;
                        now = at + back;
                        if is_lost {
                            holdings.failed(tick(now));
                            continue;
                        }
                        let renewed = batch.renew.iter().map(|id| match service.get_mut(id) {
                            Some(Some(expires)) if *expires > at => {
                                *expires = at + TTL;
                                Part::Done(RenewedLease { expires_in_ms: TTL, renew_in_ms: TTL / 3 })
                            }
                            _ => Part::Refused(gone()),
                        });
                        let renewed = renewed.collect();
                        for told in &batch.release {
                            service.insert(told.lease.clone(), None);
                        }
                        holdings.answered(&LeaseBatchAnswer {
                            renewed,
                            released: vec![Part::Done(Done {}); batch.release.len()],
                            ..LeaseBatchAnswer::default()
                        });
                    }
                    Step::Advance(millis) => now += millis,
                }
                for (id, name) in &held {
                    if holdings.left(tick(now), *id).is_some() {
                        let expires = service[name].expect("it was not released");
                        prop_assert!(now < expires, "{} at {}: expires {}", name, now, expires);
                    }
                }
            }
            // In the end, with a service that is there, all ends are told.
            while let Some(due) = holdings.poll_timeout().filter(|due| *due <= tick(now + 5_000)) {
                now = now.max(due.as_nanos() / 1_000_000);
                let batch = holdings.next_batch(tick(now));
                prop_assert!(batch.is_some() || holdings.poll_timeout() != Some(due), "it would be asked for ever");
                if let Some(batch) = batch {
                    for told in &batch.release {
                        service.insert(told.lease.clone(), None);
                    }
                    let renewed = vec![Part::Refused(gone()); batch.renew.len()];
                    holdings.answered(&LeaseBatchAnswer { renewed, ..LeaseBatchAnswer::default() });
                }
            }
            for name in ended {
                let left = service[&name];
                prop_assert!(left.is_none_or(|expires| expires < now), "{} was not told", name);
            }
        }
    }
}

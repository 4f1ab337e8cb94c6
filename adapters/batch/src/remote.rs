//! Leases of a pool that a gateway keeps (`serve = "leases"`), for a batch that has no keys of its own.
//!
//! Invariant: limits, fairness and rests are the gateway's. While it can't be asked, tasks wait, and the run ends once that
//! lasts for `give_up_after`.

use crate::batch::Batch;
use crate::clock::{time_of_day, wall_clock};
use crate::error::BatchError;
use crate::lock;
use crate::origin::{Reaction, gave_up};
use crate::queue::Task;
use crate::remote_members::{Bar, Learned, REJECTED_REST, RemoteMembers};
use crate::source::{
    CallPlan, Called, Granted, KeyState, NoLease, OTHER_MEMBER_WAIT, Source, SourceReport, Step,
};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use leasehold_core::limit::Cost;
use leasehold_core::time::Tick;
use leasehold_http::{Place, RemotePool};
use leasehold_protocol::Endpoint;
use leasehold_protocol::lease::{
    GrantedLease, LeaseFailure, LeaseProblem, LeaseRequest, MAX_LEASES, NEVER_FITS,
};
use leasehold_protocol::verdict::Fate;
use leasehold_sync::{Clock, Lease, MemberId, Outcome};
use std::sync::{Arc, Mutex};
use std::thread;

/// Longest wait that is asked for at once: a run that is stopped ends no later than that.
const SLICE: Duration = Duration::from_secs(2);
/// Pause of a worker whose leased member can't serve its task.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A member as the gateway tells of it.
pub(crate) struct Leased {
    name: String,
    /// Where it is called, or why it can't be.
    endpoint: Result<Endpoint, String>,
}

impl Leased {
    fn of(granted: &GrantedLease) -> Self {
        let name = granted.member.clone();
        let endpoint = match &granted.secret {
            Some(key) => Endpoint::new(&granted.url, key.clone())
                .map_err(|error| format!("its member {name} can't be called: {error}")),
            None => Err(format!(
                "it tells no key of its member {name}: its lease listener needs token_file or [[caller]], and the batch \
                 that token (--pool-token-file FILE or LEASEHOLD_TOKEN)"
            )),
        };
        Self { name, endpoint }
    }
}

/// A gateway's pool, as the leases and calls of a run have found it.
pub(crate) struct Remote<'a> {
    batch: &'a Batch,
    pool: RemotePool<Leased>,
    /// The gateway's address.
    url: String,
    clock: Clock,
    members: Mutex<RemoteMembers>,
    /// Since when the gateway grants nothing, and why; `None` while it does.
    trouble: Mutex<Option<(Tick, String)>>,
    /// The most tokens that the pool's limits are known to admit.
    token_cap: AtomicU32,
    /// By model: whether no member can serve it any more.
    unserved: Vec<AtomicBool>,
    stopped: Mutex<Vec<String>>,
    is_over: AtomicBool,
    is_closed: Arc<AtomicBool>,
    /// Whether every key that was leased is rejected.
    is_keyless: AtomicBool,
    /// The error that rejected the latest key.
    key_error: Mutex<Option<String>>,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(batch: &'a Batch, place: &Place) -> Result<Self, BatchError> {
        let pool = RemotePool::new(place.clone(), Leased::of);
        let models = batch.models.iter();
        Ok(Self {
            batch,
            pool: pool.map_err(BatchError::Thread)?,
            url: place.url(),
            clock: wall_clock(),
            members: Mutex::default(),
            trouble: Mutex::new(None),
            token_cap: AtomicU32::new(u32::MAX),
            unserved: models.map(|_| AtomicBool::new(false)).collect(),
            stopped: Mutex::default(),
            is_over: AtomicBool::new(false),
            is_closed: Arc::new(AtomicBool::new(false)),
            is_keyless: AtomicBool::new(false),
            key_error: Mutex::new(None),
        })
    }

    /// Asks for a member that can serve the task's model, and perhaps has not failed the task.
    fn request(&self, task: &Task, cost: Cost, avoids_tried: bool) -> LeaseRequest {
        let members = lock(&self.members);
        let tried = if avoids_tried { &task.tried[..] } else { &[] };
        let avoid = members.names(tried).chain(members.barred(task.model));
        LeaseRequest {
            class: Some(self.batch.models[task.model].clone()),
            cost: Some(cost.into()),
            avoid: avoid.take(MAX_LEASES).map(str::to_owned).collect(),
            ..LeaseRequest::default()
        }
    }

    /// Takes a lease to call with; `None` if its member is not to be called, and another may be free later.
    fn admit(
        &self,
        lease: Lease<Leased>,
        task: &Task,
        avoids_tried: bool,
    ) -> Result<Option<Granted<Leased>>, NoLease> {
        *lock(&self.trouble) = None;
        let endpoint = match &lease.endpoint {
            Ok(endpoint) => endpoint.clone(),
            Err(problem) => {
                self.stop(format!("stopped: the gateway at {}: {problem}", self.url));
                return give_back(lease, Err(NoLease::Closed));
            }
        };
        if self.is_closed.load(Ordering::SeqCst) {
            return give_back(lease, Err(NoLease::Closed));
        }
        let (id, now) = (lease.member(), self.now());
        let mut members = lock(&self.members);
        let models = self.batch.models.len();
        let upstream = members.number(id, &lease.name, &endpoint, models);
        let has_failed = avoids_tried && task.tried.contains(&id);
        match members.bar(now, upstream, task.model) {
            None if self.is_unserved(task.model) => {
                return give_back(lease, Err(NoLease::Again));
            }
            None if has_failed && members.has_other(&task.tried, task.model) => {
                return give_back(lease, Ok(None));
            }
            None => {}
            Some(Bar::Service) => return give_back(lease, Ok(None)),
            Some(Bar::Key { is_last }) => {
                members.rests_again(now, upstream);
                drop(members);
                // One that has expired is leased again at once, and comes here again.
                let _ = lease.release_throttled(REJECTED_REST);
                if is_last {
                    self.is_keyless.store(true, Ordering::SeqCst);
                    self.close();
                }
                return Ok(None);
            }
        }
        // It may have expired on its way, after which its member is leased to others.
        if lease.renew().is_err() {
            return Ok(None);
        }
        members.count_lease(upstream, lease.waited());
        drop(members);
        Ok(Some(Granted {
            lease,
            upstream,
            endpoint,
        }))
    }

    /// Sees to a request that was not granted; returns the cost with which it is to be asked again.
    fn refused(&self, failure: LeaseFailure, task: &Task, cost: Cost) -> Result<Cost, NoLease> {
        let problem = match failure {
            LeaseFailure::Refused(problem) => problem,
            LeaseFailure::Unreachable(_) => {
                self.note_trouble(failure.to_string());
                return Ok(cost);
            }
        };
        if problem.cause.as_deref() == Some(NEVER_FITS) {
            return self.reserve_less(problem, cost);
        }
        match problem.status {
            429 => *lock(&self.trouble) = None,
            500.. => self.note_trouble(problem.message),
            404 if problem.code == "no_member" => {
                let name = &self.batch.models[task.model];
                self.unserve(
                    task.model,
                    format!("stopped model {name}: {}", problem.message),
                );
                return Err(NoLease::Again);
            }
            status => {
                let advice = match status {
                    401 | 403 => "; give its token by --pool-token-file FILE or LEASEHOLD_TOKEN",
                    _ => "; check --pool",
                };
                let (url, message) = (&self.url, problem.message);
                self.stop(format!("stopped: the gateway at {url}: {message}{advice}"));
                return Err(NoLease::Closed);
            }
        }
        Ok(cost)
    }

    /// Halves the tokens of a request that no limit ever admits, for this task and those after it: what a call may use at
    /// most is more than limits admit where they are small.
    fn reserve_less(&self, problem: LeaseProblem, cost: Cost) -> Result<Cost, NoLease> {
        let tokens = cost.tokens / 2;
        if tokens == 0 {
            return Err(NoLease::NeverFits(problem.message));
        }
        self.token_cap.fetch_min(tokens, Ordering::SeqCst);
        Ok(Cost { tokens, ..cost })
    }

    fn note_trouble(&self, reason: String) {
        let now = self.now();
        let mut trouble = lock(&self.trouble);
        let since = trouble.as_ref().map_or(now, |(since, _)| *since);
        *trouble = Some((since, reason));
    }

    /// Takes a model for one that no member serves; the run is over once all are.
    fn unserve(&self, model: usize, reason: String) {
        if !self.unserved[model].swap(true, Ordering::SeqCst) {
            lock(&self.stopped).push(reason);
        }
        if self.unserved.iter().all(|it| it.load(Ordering::SeqCst)) {
            self.close();
        }
    }

    /// Ends the run, for the first reason that is told.
    fn stop(&self, reason: String) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            lock(&self.stopped).push(reason);
        }
        self.close();
    }

    fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Draws the consequences of a service that is wrong, or lacks a model.
    fn react(&self, learned: &Learned, called: &Called<'_>) {
        let name = &self.batch.models[called.model];
        let reason = match learned.heard.reaction {
            Reaction::WrongUrl => format!("stopped: {}", called.text),
            Reaction::WrongModel if learned.is_new_lack => {
                format!("stopped model {name}: {}", called.text)
            }
            Reaction::None | Reaction::RestUntil(_) | Reaction::WrongModel => return,
        };
        lock(&self.stopped).push(reason);
        let members = lock(&self.members);
        for (model, unserved) in self.unserved.iter().enumerate() {
            unserved.fetch_or(!members.is_served(model), Ordering::SeqCst);
        }
        drop(members);
        if self.unserved.iter().all(|it| it.load(Ordering::SeqCst)) {
            self.close();
        }
    }
}

impl Source for Remote<'_> {
    type Member = Leased;

    fn now(&self) -> Tick {
        self.clock.now()
    }

    fn lease(&self, task: &Task, cost: Cost) -> Result<Granted<Leased>, NoLease> {
        let began = self.now();
        let mut cost = cost;
        // Until a lease is granted, the run is closed, or the gateway was in trouble for too long, which the watch ends.
        loop {
            if self.is_closed.load(Ordering::SeqCst) {
                return Err(NoLease::Closed);
            }
            if self.is_unserved(task.model) {
                return Err(NoLease::Again);
            }
            let asked_at = self.now();
            cost.tokens = cost.tokens.min(self.token_cap.load(Ordering::SeqCst));
            let avoids_tried = asked_at.since(began) < OTHER_MEMBER_WAIT;
            let request = self.request(task, cost, avoids_tried);
            let failure = match self.pool.acquire(request, Some(SLICE)) {
                Ok(lease) => match self.admit(lease, task, avoids_tried)? {
                    Some(granted) => return Ok(granted),
                    None => {
                        thread::sleep(ASK_AGAIN);
                        continue;
                    }
                },
                Err(failure) => failure,
            };
            let tokens = cost.tokens;
            cost = self.refused(failure, task, cost)?;
            if cost.tokens == tokens {
                // A request that was refused at once is not asked again at once.
                thread::sleep(SLICE.saturating_sub(self.now().since(asked_at)));
            }
        }
    }

    fn conclude(&self, lease: Lease<Leased>, called: Called<'_>) -> Step {
        let learned = lock(&self.members).learn(self.now(), &called);
        // The gateway has taken back one that has expired, and charges it in full.
        let _ = match learned.rest {
            Some(rest) => lease.release_throttled(rest),
            None => lease.release(called.release),
        };
        self.react(&learned, &called);
        if called.verdict.fate == Fate::Reject {
            *lock(&self.key_error) = Some(called.text.to_owned());
        }
        Step {
            next: learned.heard.next,
            is_up: learned.heard.is_up,
            rests: learned.rest.is_some(),
        }
    }

    fn has_untried(&self, task: &Task) -> bool {
        // Not all members may be known here: one that the gateway was asked to avoid is leased where it has no other.
        let is_again = |(latest, before): (_, &[MemberId])| before.contains(latest);
        !task.tried.split_last().is_some_and(is_again)
            || lock(&self.members).has_other(&task.tried, task.model)
    }

    fn token_cap(&self, _model: usize) -> Option<u32> {
        Some(self.token_cap.load(Ordering::SeqCst))
    }

    fn write_charges(&self) -> Result<(), BatchError> {
        // The gateway keeps them.
        Ok(())
    }

    fn is_unserved(&self, model: usize) -> bool {
        self.unserved[model].load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn last_key_error(&self) -> Option<String> {
        let error = lock(&self.key_error).clone();
        error.filter(|_| self.is_keyless.load(Ordering::SeqCst))
    }

    fn pause(&self, now: Tick) -> Option<(String, Tick)> {
        if let Some((since, reason)) = &*lock(&self.trouble) {
            let (url, since) = (&self.url, time_of_day(*since));
            let text = format!("the gateway at {url}: {reason} since {since}");
            return Some((text, now.saturating_add(SLICE)));
        }
        lock(&self.members).pause(now)
    }

    fn give_up(&self, now: Tick) {
        let limit = self.batch.give_up_after;
        if let Some((since, reason)) = &*lock(&self.trouble)
            && now.since(*since) >= limit
        {
            let reason = format!("the gateway at {}: {reason}", self.url);
            self.stop(gave_up("a lease", limit, &[reason]));
            return;
        }
        let overdue = lock(&self.members).overdue(now, limit);
        if let Some(reasons) = overdue {
            self.stop(gave_up("an answer", limit, &reasons));
        }
    }

    fn outlook(&self, _: &[usize], _: CallPlan) -> Option<Duration> {
        // The limits are the gateway's, and shared with others.
        None
    }

    fn keys_now(&self) -> Vec<KeyState> {
        // Which of them is free is known to the gateway: `GET /v1/pools/NAME` tells.
        Vec::new()
    }

    fn closer(&self) -> Box<dyn Fn() + Send + 'static> {
        let is_closed = Arc::clone(&self.is_closed);
        Box::new(move || is_closed.store(true, Ordering::SeqCst))
    }

    fn report(&self) -> SourceReport {
        let members = lock(&self.members);
        SourceReport {
            stopped: lock(&self.stopped).clone(),
            keys: members.keys(),
            pool: members.stats(),
        }
    }
}

/// Gives a lease back that nothing was sent with.
fn give_back<T>(lease: Lease<Leased>, then: T) -> T {
    // One that has expired meanwhile was taken back already.
    let _ = lease.release(Outcome::NotSent);
    then
}

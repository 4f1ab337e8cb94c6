//! The gateway's lease service against the pool's oracle: workers that ask over the wire, renew, release, hang up and
//! lose answers, in virtual time. A tick is a second.
//!
//! Invariant: after every step and at every tick, each call has the answer that the oracle gives, and calls that wait are
//! those that wait in the oracle.

use super::case::{Ask, Choice, End, MemberSetup, Op, Watch};
use super::commands::pick;
use super::oracle::{Answer, OracleEvent, OracleGrant};
use super::{Case as PoolCase, Pair};
use crate::limits;
use arbitrary::Arbitrary;
use core::fmt::Write as _;
use core::time::Duration;
use leasehold_config::{Given, Settings};
use leasehold_gateway::{LeaseAnswer, LeaseCalls};
use proptest_derive::Arbitrary as Strategy;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

const TICK: Duration = Duration::from_secs(1);

/// A pool and what workers do.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Whether the policy is least used; first in, first out otherwise.
    pub least_used: bool,
    /// Ticks until a lease expires, modulo 64 and at least 1.
    pub ttl: u8,
    /// The bound on waiters, less one, modulo 4.
    pub max_waiters: u8,
    /// At most three are taken, and one at least.
    pub members: Vec<Server>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// A member.
#[derive(Clone, Copy, Debug, Default, Arbitrary, Strategy)]
pub struct Server {
    /// The bound on leases at once, modulo 4; 0 for none.
    pub max_leases: u8,
    /// Its limit, which is an exact log.
    pub limit: Option<limits::Setup>,
}

/// A step of the workers. Numbers of leases and waiters include those that have ended.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Step {
    /// Asks for a lease, and waits for some ticks, modulo 64.
    #[proptest(weight = 10)]
    Acquire {
        /// Ticks at most.
        wait: u8,
        /// One of two.
        priority: bool,
        /// One of three.
        flow: u8,
        /// One of four idempotency keys, if below 64.
        key: u8,
    },
    /// Asks for as many leases as are free, modulo 4 and at least 1.
    #[proptest(weight = 3)]
    AcquireSeveral(u8),
    /// Asks for a lease whose answer is lost.
    #[proptest(weight = 2)]
    LoseAnswer,
    /// Releases one of the latest 16 leases.
    #[proptest(weight = 10)]
    Release(u8, End),
    /// Tells that the call of one has arrived.
    #[proptest(weight = 3)]
    Arrive(u8),
    /// Renews one.
    #[proptest(weight = 3)]
    Renew(u8),
    /// Hangs up one of the latest 16 calls that wait.
    #[proptest(weight = 2)]
    HangUp(u8),
    /// Lets at most 15 ticks pass.
    #[proptest(weight = 6)]
    Advance(u8),
}

impl Case {
    fn servers(&self) -> Vec<Server> {
        match self.members.get(..3).unwrap_or(&self.members) {
            [] => vec![Server::default()],
            servers => servers.to_vec(),
        }
    }

    fn ttl(&self) -> u8 {
        (self.ttl % 64).max(1)
    }

    fn max_waiters(&self) -> u8 {
        self.max_waiters % 4 + 1
    }

    fn pool(&self) -> PoolCase {
        let member = |server: Server| MemberSetup {
            max_leases: server.max_leases,
            limit: server.limit(),
            tokens: None,
            weight: 1,
            tier: u8::MAX,
            labels: 0,
            group: u8::MAX,
        };
        PoolCase {
            policy: match self.least_used {
                true => Choice::LeastUsed,
                false => Choice::Fifo,
            },
            ttl: 0,
            max_waiters: self.max_waiters(),
            max_lanes: 5,
            each_flow: None,
            share_by_tokens: false,
            shared: None,
            groups: [None; 2],
            watch: Watch {
                breaker: None,
                health: None,
                outlier: None,
                panic: 0,
                slow_start: None,
                affinity: None,
            },
            members: self.servers().into_iter().map(member).collect(),
            ops: Vec::new(),
        }
    }

    fn settings(&self) -> Settings {
        let policy = if self.least_used {
            "least_used"
        } else {
            "fifo"
        };
        let (ttl, max_waiters) = (self.ttl(), self.max_waiters());
        let mut text = format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"leases\"\nlease_ttl = \"{ttl}s\"\n\
            [pools.p]\nkind = \"http\"\npolicy = \"{policy}\"\nmax_wait = \"1h\"\nmax_waiters = {max_waiters}\n"
        );
        for (name, server) in self.servers().into_iter().enumerate() {
            let _ = write!(
                text,
                "[[pools.p.members]]\nname = \"{name}\"\nurl = \"http://{name}.test\"\n"
            );
            if !server.max_leases.is_multiple_of(4) {
                let _ = writeln!(text, "max_connections = {}", server.max_leases % 4);
            }
            if let Some(limit) = server.limit() {
                let _ = writeln!(text, "limits = \"{}\"", text_of(limit));
            }
        }
        let read = Settings::parse(&text, Path::new("/"), &Given::new());
        read.unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

impl Server {
    fn limit(self) -> Option<limits::Setup> {
        let kind = limits::Kind::Log;
        self.limit.map(|limit| limits::Setup { kind, ..limit })
    }
}

/// The limit of an oracle as a text, a tick being a second.
fn text_of(limit: limits::Setup) -> String {
    let units = (limit.limit % 6).max(1);
    let from = match limit.anchor() {
        leasehold_core::limit::Anchor::Grant => " from grant",
        leasehold_core::limit::Anchor::Completion => "",
    };
    format!("{units}/{}s{from}", limit.window().as_nanos())
}

/// Holds the service to the oracle.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.expect("it needs no system resource");
    let workers = Workers {
        pair: Pair::new(&case.pool()),
        now: 0,
        ttl: case.ttl(),
        calls: Rc::new(runtime.block_on(async {
            LeaseCalls::new(case.settings()).unwrap_or_else(|error| panic!("{error}"))
        })),
        leases: Vec::new(),
        waiting: BTreeMap::new(),
        keys: BTreeMap::new(),
        fence: 0,
    };
    let all = async move {
        let mut workers = workers;
        let calls = Rc::clone(&workers.calls);
        spawn_local(async move { calls.watch().await });
        settle().await;
        for step in &case.steps {
            workers.step(*step).await;
        }
    };
    LocalSet::new().block_on(&runtime, all);
}

/// A call that is made, with its idempotency key.
struct Made {
    call: JoinHandle<LeaseAnswer>,
    key: Option<u8>,
}

struct Workers {
    pair: Pair,
    now: u64,
    ttl: u8,
    calls: Rc<LeaseCalls>,
    /// The id of each lease of the oracle; `None` where its answer was lost.
    leases: Vec<Option<String>>,
    /// The calls that wait, by the oracle's names.
    waiting: BTreeMap<usize, Made>,
    /// The lease of each idempotency key.
    keys: BTreeMap<u8, usize>,
    /// The highest fence until the present step.
    fence: u64,
}

impl Workers {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Acquire {
                wait,
                priority,
                flow,
                key,
            } => {
                let key = Some(key % 4).filter(|_| key < 64);
                let key = key.filter(|key| self.waiting.values().all(|one| one.key != Some(*key)));
                let ask = self.ask(wait, priority, flow);
                self.acquire(ask, key).await;
            }
            Step::AcquireSeveral(count) => self.acquire_several((count % 4).max(1)).await,
            Step::LoseAnswer => self.lose_answer().await,
            Step::Release(which, end) => self.release(which, end).await,
            Step::Arrive(which) => {
                if let Some((lease, is_held)) = self.lease(which) {
                    self.pair.arrive(self.now, which);
                    let (status, _) = self.tell(&lease, "arrived", json!({})).await;
                    assert_eq!(status, if is_held { 200 } else { 410 });
                }
            }
            Step::Renew(which) => {
                if let Some((lease, is_held)) = self.lease(which) {
                    self.pair.renew(self.now, which);
                    let (status, answer) = self.tell(&lease, "renew", json!({})).await;
                    assert_eq!(status, if is_held { 200 } else { 410 });
                    let expires = is_held.then(|| u64::from(self.ttl) * 1_000);
                    assert_eq!(answer["expires_in_ms"].as_u64(), expires);
                }
            }
            Step::HangUp(which) => {
                let names: Vec<_> = self.waiting.keys().copied().collect();
                if let Some(at) = pick(which, names.len())
                    && let Some(Made { call, .. }) = self.waiting.remove(&names[at])
                {
                    call.abort();
                    settle().await;
                    let back = self.pair.waiters.len() - 1 - names[at];
                    if let Ok(back @ ..16) = u8::try_from(back) {
                        self.pair.cancel(self.now, back);
                    }
                }
            }
            Step::Advance(ticks) => {
                for _ in 0..ticks % 16 {
                    tokio::time::advance(TICK).await;
                    self.now += 1;
                    self.pair.apply(Op::HandleTimeout, self.now);
                    self.agree().await;
                }
            }
        }
        self.agree().await;
    }

    fn ask(&self, wait: u8, priority: bool, flow: u8) -> Ask {
        Ask {
            deadline: Some(wait % 64),
            class: 0,
            tokens: u8::MAX,
            priority,
            flow: flow % 3,
            labels: u8::MAX,
            key: u8::MAX,
            session: u8::MAX,
            pin: u8::MAX,
            ttl: Some(self.ttl),
        }
    }

    async fn acquire(&mut self, ask: Ask, key: Option<u8>) {
        let mut asked = json!({
            "priority": ask.priority(),
            "flow": ask.flow().to_string(),
            "wait_ms": u64::from(ask.deadline.unwrap_or_default()) * 1_000,
        });
        if let Some(key) = key {
            asked["idempotency_key"] = json!(key.to_string());
        }
        let call = self.post("/v1/leases", asked);
        settle().await;
        let held = key.and_then(|key| self.keys.get(&key)).copied();
        if let Some(held) = held.filter(|held| self.pair.oracle.leases[*held].live) {
            let (status, answer) = read(call.await);
            assert_eq!(
                (status, answer["lease"].as_str()),
                (200, self.leases[held].as_deref())
            );
            return;
        }
        match self.pair.acquire(self.now, ask) {
            Answer::Granted(grant) => self.granted(&[grant], read(call.await), key),
            Answer::Waiting(waiter) => {
                self.waiting.insert(waiter, Made { call, key });
            }
            Answer::Refused(_) => refused(read(call.await)),
        }
    }

    async fn acquire_several(&mut self, count: u8) {
        let ask = self.ask(0, true, 0);
        let asked = json!({"flow": "0", "priority": ask.priority(), "wait_ms": 0, "count": count});
        let answer = read(self.post("/v1/leases", asked).await);
        let mut grants = Vec::new();
        for _ in 0..count {
            match self.pair.acquire(self.now, ask) {
                Answer::Granted(grant) => grants.push(grant),
                Answer::Refused(_) => break,
                Answer::Waiting(_) => panic!("it does not wait"),
            }
        }
        match grants.is_empty() {
            true => refused(answer),
            false => self.granted(&grants, answer, None),
        }
    }

    async fn lose_answer(&mut self) {
        let ask = self.ask(0, false, 1);
        let asked = json!({"flow": "1", "priority": ask.priority(), "wait_ms": 0});
        let answer = self.post("/v1/leases", asked).await;
        match self.pair.acquire(self.now, ask) {
            Answer::Granted(_) => {
                self.leases.push(None);
                self.pair.release(self.now, 0, End::NotSent, None, None);
                drop(answer);
            }
            Answer::Refused(_) => refused(read(answer)),
            Answer::Waiting(_) => panic!("it does not wait"),
        }
    }

    async fn release(&mut self, which: u8, end: End) {
        let Some((lease, is_held)) = self.lease(which) else {
            return;
        };
        let (outcome, pause, end) = match end {
            End::Ok => ("ok", None, end),
            End::Failed => ("failed", None, end),
            End::Throttled(pause) => {
                let pause = 1 + pause % 63;
                ("throttled", Some(pause), End::Throttled(pause))
            }
            End::NotSent => ("not_sent", None, end),
            End::Unknown => ("unknown", None, end),
        };
        let mut told = json!({"outcome": outcome});
        if let Some(pause) = pause {
            told["retry_after_ms"] = json!(u64::from(pause) * 1_000);
        }
        self.pair.release(self.now, which, end, None, None);
        let (status, _) = self.tell(&lease, "release", told).await;
        assert_eq!(status, if is_held { 200 } else { 410 });
    }

    /// The id of one of the latest leases, and whether it is held.
    fn lease(&self, which: u8) -> Option<(String, bool)> {
        let at = pick(which, self.leases.len())?;
        let id = self.leases[at].clone()?;
        Some((id, self.pair.oracle.leases[at].live))
    }

    async fn tell(&self, lease: &str, what: &str, told: Value) -> (u16, Value) {
        read(self.post(&format!("/v1/leases/{lease}/{what}"), told).await)
    }

    fn post(&self, path: &str, body: Value) -> JoinHandle<LeaseAnswer> {
        let (calls, path) = (Rc::clone(&self.calls), path.to_owned());
        spawn_local(async move { calls.post(&path, body.to_string().into_bytes()).await })
    }

    /// Checks what a holder is told of its leases.
    fn granted(&mut self, grants: &[OracleGrant], answer: (u16, Value), key: Option<u8>) {
        let (status, answer) = answer;
        assert_eq!(status, 200, "{answer}");
        let one = [answer.clone()];
        let told = answer["leases"].as_array().map_or(&one[..], |many| many);
        assert_eq!(told.len(), grants.len(), "{answer}");
        for (grant, told) in grants.iter().zip(told) {
            assert_eq!(told["member"].as_str(), Some(&*grant.member.to_string()));
            assert_eq!(told["waited_ms"].as_u64(), Some(grant.waited * 1_000));
            let expires = grant.expires.map(|at| (at - self.now) * 1_000);
            assert_eq!(told["expires_in_ms"].as_u64(), expires);
            assert!(told["fence"].as_u64() > Some(self.fence), "fences grow");
            let id = told["lease"].as_str().map(str::to_owned);
            assert!(id.is_some() && !self.leases.contains(&id), "{answer}");
            assert_eq!(grant.lease, self.leases.len(), "grants come in order");
            self.leases.push(id);
            if let Some(key) = key {
                self.keys.insert(key, grant.lease);
            }
        }
    }

    /// Compares what has become of the calls that wait.
    async fn agree(&mut self) {
        settle().await;
        self.pair.compare();
        for event in core::mem::take(&mut self.pair.agreed) {
            match event {
                OracleEvent::Granted(waiter, grant) => {
                    let Made { call, key } = self.waiting.remove(&waiter).expect("it waits");
                    assert!(call.is_finished(), "{grant:?} is told");
                    self.granted(&[grant], read(call.await), key);
                }
                OracleEvent::TimedOut(waiter) => {
                    let made = self.waiting.remove(&waiter).expect("it waits");
                    refused(read(made.call.await));
                }
                OracleEvent::Expired(_) => {}
                OracleEvent::Closed(_)
                | OracleEvent::PinnedMemberRemoved(_)
                | OracleEvent::Drained(_)
                | OracleEvent::Removed(_)
                | OracleEvent::Probe(_)
                | OracleEvent::Changed(..) => panic!("workers cause no {event:?}"),
            }
        }
        assert!(self.waiting.values().all(|made| !made.call.is_finished()));
        let ids = self.leases.iter().flatten();
        let fences = ids.filter_map(|id| id.rsplit_once('-')?.1.parse().ok());
        self.fence = fences.max().unwrap_or_default();
    }
}

/// Lets all that can happen now happen.
async fn settle() {
    for _ in 0..3 {
        yield_now().await;
    }
}

/// Gives a worker its answer.
fn read(answer: Result<LeaseAnswer, tokio::task::JoinError>) -> (u16, Value) {
    let answer = answer.unwrap_or_else(|error| panic!("the call: {error}"));
    let (status, body) = answer.delivered();
    let body = serde_json::from_slice(&body);
    (status, body.expect("answers are JSON"))
}

fn refused((status, answer): (u16, Value)) {
    assert!(matches!(status, 429 | 503), "{status} {answer}");
    assert!(answer["error"]["message"].is_string(), "{answer}");
}

//! Pool, client and testbed together over real sockets, checked by what the servers saw.

mod faults;

use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::pool::{Member, Outcome, PoolConfig};
use leasehold_http::{ApiKey, ChatRequest, Client, ClientConfig, Endpoint};
use leasehold_sync::SyncPool;
use leasehold_testbed::{OpenAi, OpenAiConfig};
use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;

/// Timeout of a lease; longer than any of these tests takes.
const LEASE_TIMEOUT: Duration = Duration::from_secs(60);

fn endpoint(server: &OpenAi, key: &str) -> Endpoint {
    let key = ApiKey::new(key).expect("the key can be sent");
    Endpoint::new(&server.url(), key).expect("a testbed has a URL")
}

/// Runs `tasks` tasks through a pool, and returns the number that got their own answer.
fn run_tasks(pool: &SyncPool<Endpoint>, client: &Client, workers: usize, tasks: usize) -> usize {
    let next = AtomicUsize::new(0);
    let answered = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let task = next.fetch_add(1, Ordering::Relaxed);
                    if task >= tasks {
                        return;
                    }
                    let lease = pool
                        .acquire_timeout(LEASE_TIMEOUT)
                        .expect("a lease in time");
                    let request = ChatRequest::user("m", format!("task {task}"));
                    let answer = client.chat(&lease, &request).expect("an answer");
                    lease
                        .release(Outcome::Ok)
                        .expect("leases don't expire here");
                    if answer.content().ends_with(&format!("task {task}")) {
                        answered.lock().expect("no worker panics").insert(task);
                    }
                }
            });
        }
    });
    answered.into_inner().expect("no worker panics").len()
}

/// Starts servers that take one call at a time, and a pool of them.
fn serial_servers(
    count: usize,
    latency: RangeInclusive<Duration>,
) -> (Vec<OpenAi>, SyncPool<Endpoint>) {
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    let servers = (0..count).map(|_| {
        let mut config = OpenAiConfig::default();
        config.latency = latency.clone();
        config.max_concurrent = Some(1);
        let server = OpenAi::start(config).expect("a free port");
        let member = Member::new(endpoint(&server, "sk-testbed")).max_leases(NonZeroU32::MIN);
        pool.add(member).expect("a small pool takes members");
        server
    });
    (servers.collect(), pool)
}

#[test]
fn six_workers_on_two_endpoints_lose_no_task() {
    let latency = Duration::from_millis(5)..=Duration::from_millis(40);
    let (servers, pool) = serial_servers(2, latency);
    let done = run_tasks(&pool, &Client::new(ClientConfig::default()), 6, 30);
    let reports: Vec<_> = servers.into_iter().map(OpenAi::stop).collect();
    let rejected: u64 = reports.iter().map(|report| report.rejected_503).sum();
    println!("2 endpoints, 6 workers: {done} of 30, {rejected} rejected");
    assert_eq!((done, rejected), (30, 0));
    assert!(reports.iter().all(|report| report.max_concurrent == 1));
    assert_eq!(pool.stats().total.failed, 0);
}

#[test]
fn four_endpoints_serve_five_of_twenty_tasks_each() {
    let latency = Duration::from_millis(100)..=Duration::from_millis(100);
    let (servers, pool) = serial_servers(4, latency);
    let done = run_tasks(&pool, &Client::new(ClientConfig::default()), 8, 20);
    let calls: Vec<_> = servers.into_iter().map(|server| server.stop().ok).collect();
    let stats = pool.stats();
    println!("4 endpoints: {calls:?}, variance {:.2}", stats.variance());
    assert_eq!((done, calls), (20, vec![5, 5, 5, 5]));
    assert!(stats.variance() < f64::EPSILON && stats.balance_score() > 1.0 - f64::EPSILON);
}

/// Checks answers, connections and shares of 4 keys on one server, called by many threads.
///
/// `reuse` is the least share of calls that use an open agent.
fn check_pooled_calls(calls: usize, threads: usize, reuse: f64) {
    let keys: Vec<_> = (0..4)
        .map(|number| format!("sk-testbed-{number}"))
        .collect();
    let mut config = OpenAiConfig::default();
    config.keys.clone_from(&keys);
    config.latency = Duration::from_millis(1)..=Duration::from_millis(10);
    let server = OpenAi::start(config).expect("a free port");
    let pool = SyncPool::new(PoolConfig::new(Policy::LeastUsed));
    for key in &keys {
        let member = Member::new(endpoint(&server, key));
        pool.add(member).expect("a small pool takes members");
    }
    let client = Client::new(ClientConfig::default());
    let done = run_tasks(&pool, &client, threads, calls);
    let (report, stats) = (server.stop(), client.stats());
    let reused = stats.agents_reused as f64 / stats.calls as f64;
    println!(
        "{calls} calls, {threads} threads, 4 keys: {done} ok, {} connections opened (at most {}), \
         agent reuse {:.0} %, calls per key {:?}",
        report.connections_opened,
        threads * keys.len(),
        reused * 100.0,
        report
            .per_key
            .iter()
            .map(|key| key.calls)
            .collect::<Vec<_>>(),
    );
    assert_eq!(
        (done, report.ok, report.calls),
        (calls, calls as u64, calls as u64)
    );
    assert!(report.connections_opened <= (threads * keys.len()) as u64);
    assert!(reused >= reuse, "{reused}");
    assert!(
        report
            .per_key
            .iter()
            .all(|key| key.calls == calls as u64 / 4)
    );
}

#[test]
fn a_hundred_calls_on_twenty_threads_are_all_answered() {
    check_pooled_calls(100, 20, 0.96);
}

#[test]
fn two_hundred_calls_on_fifty_threads_are_all_answered() {
    check_pooled_calls(200, 50, 0.98);
}

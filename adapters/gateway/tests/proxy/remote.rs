//! Leases for tasks of tokio: the client of the feature `remote` against the real service.

use crate::leases::{TOKEN, end, lease, start, started, text_of, view};
use crate::support::{LONG, repeat_until};
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_protocol::ApiKey;
use leasehold_tokio::{GrantedLease, LeaseFailure, LeaseRequest, Outcome, RemotePlace, RemotePool};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::task::{JoinSet, spawn_blocking, yield_now};
use tokio::time::timeout;

fn place_of(address: SocketAddr, name: &str) -> RemotePlace {
    let token = ApiKey::new(TOKEN).expect("a token");
    let place = format!("http://{address}/v1/pools/{name}");
    RemotePlace::new(&place, Some(token)).expect("a place")
}

/// A time that what needs no timeout does not take.
const SOON: Duration = Duration::from_secs(5);

/// A pool whose payloads are the names of members.
fn pool_of(address: SocketAddr, name: &str) -> RemotePool<String> {
    let pool = RemotePool::new(place_of(address, name), |granted| granted.member.clone());
    pool.expect("it is plain HTTP")
}

fn any() -> LeaseRequest {
    LeaseRequest::default()
}

/// Lets tasks run until the service shows these figures of a pool.
async fn shown(address: SocketAddr, pool: &'static str, figures: &[(&'static str, u64)]) {
    let figures = figures.to_vec();
    let shows = move || {
        let view = view(address, pool);
        let mut figures = figures.iter();
        figures.all(|(figure, count)| view.pointer(figure) == Some(&json!(count)))
    };
    let waited = spawn_blocking(|| repeat_until("the figures", shows));
    waited.await.expect("they are shown");
}

/// Polls a future until another is ready, and panics if it is ready itself.
async fn while_pending(pending: impl Future, other: impl Future) {
    tokio::select! {
        biased;
        _ = pending => panic!("it was ready"),
        _ = other => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tasks_lease_within_limits_and_all_ends_are_heard() {
    const EACH: u64 = 5;
    let running = start("2 concurrent", "");
    let pool = pool_of(running.address, "keys");
    let used: Arc<Mutex<HashMap<_, u32>>> = Arc::default();
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (pool, used) = (pool.clone(), Arc::clone(&used));
        tasks.spawn(async move {
            for _ in 0..EACH {
                let lease = pool.acquire(any(), Some(LONG)).await.unwrap();
                let member = (lease.member(), lease.payload().clone());
                {
                    let mut used = used.lock().unwrap();
                    let count = used.entry(member.clone()).or_default();
                    *count += 1;
                    assert!(*count <= 2, "{member:?}");
                }
                yield_now().await;
                *used.lock().unwrap().get_mut(&member).unwrap() -= 1;
                lease.release(Outcome::Ok).unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(used.lock().unwrap().len(), 2);
    pool.flush().await;
    let seen = view(running.address, "keys");
    let ended = |figure: &str| {
        let members = seen["members"].as_array().unwrap().iter();
        members
            .map(|one| one[figure].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((&seen["held"], &seen["waiting"]), (&json!(0), &json!(0)));
    assert_eq!([ended("ok"), ended("granted")], [20 * EACH; 2]);
}

#[tokio::test]
async fn the_way_a_lease_ends_is_heard_even_when_its_pool_is_gone() {
    let running = start("1 concurrent", "");
    let pool = pool_of(running.address, "gpu");
    for outcome in [Outcome::Failed, Outcome::NotSent, Outcome::Ok] {
        let lease = pool.acquire(any(), Some(LONG)).await.unwrap();
        lease.arrived().unwrap();
        lease.release(outcome).unwrap();
    }
    let last = pool.acquire(any(), Some(LONG)).await.unwrap();
    drop(pool);
    drop(last);
    let figures = [
        ("/held", 0),
        ("/members/0/failed", 1),
        ("/members/0/not_sent", 1),
        ("/members/0/ok", 1),
        ("/members/0/unknown", 1),
    ];
    shown(running.address, "gpu", &figures).await;
}

#[tokio::test]
async fn a_lease_is_renewed_as_long_as_it_is_held() {
    const TTL: Duration = Duration::from_millis(400);
    let running = start("1 concurrent", "lease_ttl = \"400ms\"");
    let pool = pool_of(running.address, "gpu");
    let lease = pool.acquire(any(), Some(LONG)).await.unwrap();
    tokio::time::sleep(TTL * 3).await;
    let left = lease.renew().unwrap().unwrap();
    assert!(left <= TTL, "{left:?}");
    let refused = pool.acquire(any(), Some(Duration::ZERO)).await;
    assert!(matches!(refused, Err(LeaseFailure::Refused(why)) if why.status == 429));
    assert_eq!(lease.release(Outcome::Ok), Ok(()));
    pool.flush().await;
    let seen = view(running.address, "gpu");
    assert_eq!(
        (&seen["held"], &seen["members"][0]["expired"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn a_request_that_is_dropped_waits_no_longer() {
    let running = start("1 concurrent", "");
    let pool = pool_of(running.address, "gpu");
    let held = pool.acquire(any(), None).await.unwrap();
    for _ in 0..3 {
        let waits = shown(running.address, "gpu", &[("/waiting", 1)]);
        while_pending(pool.acquire(any(), None), waits).await;
        // Well before the client stops listening for an answer that was on its way.
        let waits_not = shown(running.address, "gpu", &[("/waiting", 0)]);
        assert!(timeout(SOON, waits_not).await.is_ok());
    }
    held.release(Outcome::Ok).unwrap();
    let next = pool.acquire(any(), Some(LONG)).await.unwrap();
    drop(next);
    pool.flush().await;
    assert_eq!(view(running.address, "gpu")["held"], 0);
}

#[tokio::test]
async fn a_grant_to_a_request_that_is_dropped_is_given_back_as_not_sent() {
    let running = start("1 concurrent", "");
    let address = running.address;
    let pool = pool_of(address, "gpu");
    for round in 0..10 {
        let held = spawn_blocking(move || lease(address, &json!({"pool": "gpu"})));
        let held: Value = held.await.unwrap();
        let mut acquire = Box::pin(pool.acquire(any(), None));
        while_pending(&mut acquire, shown(address, "gpu", &[("/waiting", 1)])).await;
        assert_eq!(end(address, &held, "ok"), 200);
        let granted = [("/waiting", 0), ("/held", 1)];
        shown(address, "gpu", &granted).await;
        drop(acquire);
        let given_back = [("/held", 0), ("/members/0/not_sent", round + 1)];
        shown(address, "gpu", &given_back).await;
    }
    assert_eq!(view(address, "gpu")["members"][0]["ok"], 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_requests_outlive_a_restart_of_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let state = format!("state = \"{}\"\n", folder.path().join("state").display());
    let text = state + &text_of("1 concurrent", "token_file = \"/token\"");
    let running = started(&text);
    let address = running.address;
    let pool = pool_of(address, "gpu");
    let held = pool.acquire(any(), Some(LONG)).await.unwrap();
    let fence = held.fence();
    let waits = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire(any(), Some(LONG)).await }
    });
    shown(address, "gpu", &[("/waiting", 1)]).await;
    let ended = spawn_blocking(|| running.gateway.drain());
    ended.await.unwrap();
    assert!(held.renew().is_ok());
    held.release(Outcome::Ok).unwrap();
    let text = text.replace("127.0.0.1:0", &address.to_string());
    let running = started(&text);
    pool.flush().await;
    let next = waits.await.unwrap().unwrap();
    assert!(next.fence() > fence);
    next.release(Outcome::Ok).unwrap();
    pool.flush().await;
    let seen = view(running.address, "gpu");
    assert_eq!((&seen["held"], &seen["waiting"]), (&json!(0), &json!(0)));
}

#[test]
fn threads_lease_as_tasks_do() {
    let running = start("1 concurrent", "lease_ttl = \"400ms\"");
    let place = place_of(running.address, "keys");
    let make = |granted: &GrantedLease| granted.secret.clone().unwrap();
    let pool = leasehold_http::RemotePool::new(place, make).unwrap();
    let [first, second] = [(); 2].map(|()| pool.acquire(any(), Some(LONG)).unwrap());
    assert_ne!(first.payload(), second.payload());
    let refused = pool.acquire(any(), Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(refused, LeaseFailure::Refused(why) if why.status == 429));
    std::thread::sleep(Duration::from_millis(1_200));
    for lease in [first, second] {
        assert_eq!(lease.release(Outcome::Ok), Ok(()));
    }
    assert!(pool.flush(LONG));
    assert_eq!(view(running.address, "keys")["held"], 0);
}

#[tokio::test]
async fn what_no_wait_mends_is_told_at_once() {
    let running = start("1 concurrent", "");
    let wrong = ApiKey::new("a-wrong-token").unwrap();
    let place = RemotePlace::new(&format!("http://{}", running.address), Some(wrong)).unwrap();
    let pool = RemotePool::new(place, |_| ()).unwrap();
    let refused = pool.acquire(any(), Some(LONG)).await;
    assert!(matches!(refused, Err(LeaseFailure::Refused(why)) if why.status == 401));
    let secure = RemotePlace::new("https://gateway.test", None).unwrap();
    let refused = RemotePool::new(secure, |_| ()).unwrap_err();
    assert!(refused.to_string().contains("no TLS"), "{refused}");
}

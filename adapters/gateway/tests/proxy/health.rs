//! What the health of backends makes of the traffic, as the configuration sets it; judged by what backends saw.

use crate::support::{
    Caller, Running, backends, config, get, repeat_for, repeat_until, start, start_before,
};
use core::time::Duration;
use leasehold_testbed::{Backend, BackendFault, BackendFaultRule};

/// Sends requests one by one, and returns their statuses.
fn ask(running: &Running, count: usize) -> Vec<u16> {
    let mut caller = Caller::connect(running.address);
    let answers = (0..count).map(|_| {
        caller.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        caller.answer().expect("an answer").status
    });
    answers.collect()
}

fn seen(backends: &[Backend]) -> Vec<u64> {
    let seen = backends.iter().map(|backend| backend.report().requests);
    seen.collect()
}

/// Sends requests until a backend has had one more than before.
fn ask_until_served(running: &Running, backend: &Backend) {
    let before = backend.report().requests;
    repeat_until("it gets a request", || {
        ask(running, 4);
        backend.report().requests > before
    });
}

/// Sends requests until none of the last ones went to a backend.
fn ask_until_left_out(running: &Running, backend: &Backend) {
    repeat_until("it gets no request", || {
        let before = backend.report().requests;
        ask(running, 12);
        backend.report().requests == before
    });
}

/// How many requests each backend has seen since then.
fn shares(before: &[u64], backends: &[Backend]) -> Vec<u64> {
    let after = seen(backends).into_iter();
    after
        .zip(before)
        .map(|(after, before)| after - before)
        .collect()
}

fn fail(backend: &Backend, is_failing: bool) {
    let rules = match is_failing {
        true => vec![BackendFaultRule::new(BackendFault::Status(500))],
        false => Vec::new(),
    };
    backend.set_faults(rules);
}

const OUTLIER: &str = "interval = \"100ms\", eject = \"3s\", max_eject = \"3s\", min_members = 2, \
    min_requests = 3, failure_rate = \"50%\", max_ejected = \"40%\"";

#[test]
fn an_outlier_gets_no_request_for_its_time_and_then_some_again() {
    let backends = backends::<3>();
    let pool = format!("policy = \"round_robin\"\noutlier = {{ {OUTLIER} }}");
    let running = start_before(&pool, "", &backends);
    fail(&backends[0], true);
    ask_until_left_out(&running, &backends[0]);
    fail(&backends[0], false);
    // All go to the others, in turn, as long as it is left out.
    let before = seen(&backends);
    assert_eq!(ask(&running, 20), [200; 20]);
    assert_eq!(shares(&before, &backends), [0, 10, 10]);
    ask_until_served(&running, &backends[0]);
}

#[test]
fn no_more_backends_are_ejected_than_the_settings_allow() {
    let backends = backends::<5>();
    let pool = format!(
        "policy = \"round_robin\"\noutlier = {{ {} }}",
        OUTLIER
            .replace("\"3s\"", "\"60s\"")
            .replace("min_members = 2", "min_members = 5")
    );
    let running = start_before(&pool, "", &backends);
    for backend in &backends[..4] {
        fail(backend, true);
    }
    // Two of five are 40 %; the third and the fourth that fail stay.
    let left_out = || {
        let before = seen(&backends);
        ask(&running, 20);
        let shares = shares(&before, &backends);
        shares.into_iter().filter(|share| *share == 0).count()
    };
    repeat_until("two are left out", || left_out() == 2);
    // Five sweeps later it is the same.
    repeat_for(Duration::from_millis(500), || assert_eq!(left_out(), 2));
}

#[test]
fn a_backend_that_is_back_is_eased_in() {
    let mut backends = backends::<2>();
    let pool = "policy = \"weighted_round_robin\"\nretry = { attempts = 2, budget = \"100%\" }\n\
        breaker = { failures = 1, open = \"100ms\" }\nslow_start = { duration = \"3s\", steps = 10 }";
    let running = start_before(pool, "", &backends);
    // Both are new; after the time of a slow start both have their full weight.
    repeat_for(Duration::from_secs(3), || {
        assert_eq!(ask(&running, 20), [200; 20]);
    });
    let before = seen(&backends);
    assert_eq!(ask(&running, 20), [200; 20]);
    assert_eq!(shares(&before, &backends), [10, 10]);
    backends[0].kill().unwrap();
    assert_eq!(ask(&running, 4), [200; 4]);
    backends[0].restart().unwrap();
    ask_until_served(&running, &backends[0]);
    let before = seen(&backends);
    assert_eq!(ask(&running, 22), [200; 22]);
    // A tenth of the weight is 2 of 22, half of it would be 7.
    let eased = shares(&before, &backends)[0];
    assert!(eased <= 8, "{eased} of 22");
}

#[test]
fn a_slow_start_ends_at_the_full_share() {
    let backends = backends::<2>();
    let addresses: Vec<_> = backends
        .iter()
        .map(|backend| (backend.address(), 1))
        .collect();
    let health = "health = { path = \"/health\", interval = \"50ms\", healthy_after = 1, unhealthy_after = 3 }\n\
        slow_start = { duration = \"200ms\", steps = 2 }\npolicy = \"weighted_round_robin\"";
    let running = start(&config(health, "", &addresses));
    backends[0].set_healthy(false);
    ask_until_left_out(&running, &backends[0]);
    backends[0].set_healthy(true);
    ask_until_served(&running, &backends[0]);
    repeat_until("it has its full share", || {
        let before = seen(&backends);
        assert_eq!(ask(&running, 20), [200; 20]);
        shares(&before, &backends) == [10, 10]
    });
}

#[test]
fn below_the_panic_threshold_all_backends_get_requests_whatever_their_health() {
    let backends = backends::<4>();
    let health = "policy = \"round_robin\"\nmax_wait = \"100ms\"\npanic_threshold = \"50%\"\n\
        health = { path = \"/health\", interval = \"50ms\", healthy_after = 1, unhealthy_after = 3 }";
    let running = start_before(health, "", &backends);
    // Two of four are enough: half is not below half.
    for backend in &backends[..2] {
        backend.set_healthy(false);
    }
    ask_until_left_out(&running, &backends[0]);
    ask_until_left_out(&running, &backends[1]);
    let before = seen(&backends);
    assert_eq!(ask(&running, 20), [200; 20]);
    assert_eq!(shares(&before, &backends), [0, 0, 10, 10]);
    // One of four is not: health is not looked at, and each gets its share.
    backends[2].set_healthy(false);
    ask_until_served(&running, &backends[0]);
    let before = seen(&backends);
    assert_eq!(ask(&running, 20), [200; 20]);
    assert_eq!(shares(&before, &backends), [5, 5, 5, 5]);
    // With two of four the sick ones are left alone again.
    backends[2].set_healthy(true);
    ask_until_left_out(&running, &backends[0]);
    assert_eq!(get(running.address, "/").status, 200);
}

#[test]
fn without_a_panic_threshold_no_sick_backend_gets_a_request() {
    let backends = backends::<2>();
    let health = "max_wait = \"50ms\"\n\
        health = { path = \"/health\", interval = \"50ms\", healthy_after = 1, unhealthy_after = 3 }";
    let running = start_before(health, "", &backends);
    for backend in &backends {
        backend.set_healthy(false);
    }
    repeat_until("all are down", || get(running.address, "/").status == 503);
    let before = seen(&backends);
    assert_eq!(ask(&running, 3), [503; 3]);
    assert_eq!(seen(&backends), before);
}

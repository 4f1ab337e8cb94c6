//! Which backend a request goes to.

use crate::support::{Caller, backends, config, get, get_for, start, start_before};
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

const TRUST_ALL: &str = "trusted_proxies = \"all\"";

fn counts(answers: impl IntoIterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for backend in answers {
        *counts.entry(backend).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_takes_turns() {
    let backends = backends::<3>();
    let running = start_before("policy = \"round_robin\"", "", &backends);
    let mut caller = Caller::connect(running.address);
    let answers = (0..30).map(|_| {
        caller.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        caller.answer().unwrap().backend()
    });
    let counts = counts(answers);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    running.gateway.drain();
    let seen: Vec<_> = backends
        .into_iter()
        .map(|backend| backend.stop().requests)
        .collect();
    assert_eq!(seen, [10, 10, 10]);
}

#[test]
fn weights_of_1_2_1_give_5_10_5_of_20() {
    let backends = backends::<3>();
    let members: Vec<_> = backends
        .iter()
        .map(|backend| backend.address())
        .zip([1, 2, 1])
        .collect();
    let running = start(&config("policy = \"weighted_round_robin\"", "", &members));
    for _ in 0..20 {
        assert_eq!(get(running.address, "/").status, 200);
    }
    let seen: Vec<_> = backends
        .into_iter()
        .map(|backend| backend.stop().requests)
        .collect();
    assert_eq!(seen, [5, 10, 5]);
}

#[test]
fn ip_hash_keeps_a_client_at_its_backend_over_a_restart() {
    let backends = backends::<3>();
    let chosen = || -> Vec<String> {
        let running = start_before("policy = \"ip_hash\"", TRUST_ALL, &backends);
        let clients = (0..40).map(|number| format!("192.0.2.{number}"));
        let chosen = clients.map(|client| {
            let first = get_for(running.address, &client).backend();
            for _ in 0..3 {
                assert_eq!(get_for(running.address, &client).backend(), first);
            }
            first
        });
        let chosen = chosen.collect();
        running.gateway.drain();
        chosen
    };
    let first = chosen();
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{first:?}");
    assert_eq!(chosen(), first);
}

#[test]
fn a_stranger_cannot_choose_its_backend_by_a_header() {
    let backends = backends::<3>();
    let running = start_before("policy = \"ip_hash\"", "", &backends);
    let chosen =
        (0..20).map(|number| get_for(running.address, &format!("192.0.2.{number}")).backend());
    assert_eq!(chosen.collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn least_connections_avoids_a_slow_backend() {
    let backends = backends::<3>();
    let running = start_before("policy = \"least_connections\"", "", &backends);
    backends[0].set_delay(core::time::Duration::from_secs(600));
    thread::scope(|scope| {
        // Held by the slow backend until the gateway ends; two others at once never make it a tie.
        let mut held = Caller::connect(running.address);
        held.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert!(backends[0].wait(crate::support::LONG, |report| report.in_flight == 1));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    (0..10)
                        .map(|_| get(running.address, "/").status)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for worker in workers {
            assert_eq!(worker.join().unwrap(), [200; 10]);
        }
    });
    let seen: Vec<_> = backends
        .iter()
        .map(|backend| backend.report().requests)
        .collect();
    assert_eq!(seen[0], 1, "{seen:?}");
    assert_eq!(seen[1] + seen[2], 20);
}

#[test]
fn a_cookie_keeps_a_client_at_its_backend() {
    let backends = backends::<3>();
    let running = start_before(
        "policy = \"round_robin\"\naffinity = { cookie = \"lb\" }",
        "",
        &backends,
    );
    let first = get(running.address, "/");
    let cookie = first
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    for _ in 0..6 {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: test\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n"
        );
        let again = crate::support::ask(running.address, &request);
        assert_eq!(again.backend(), first.backend());
        assert_eq!(again.header("set-cookie"), None);
    }
}

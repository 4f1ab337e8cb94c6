//! Other settings while requests are served, and the end of a gateway.

use crate::support::{Caller, LONG, backends, config, get, settings, start};
use std::thread;

#[test]
fn a_reload_adds_changes_and_removes_backends_and_fails_no_request() {
    let backends = backends::<3>();
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    let text = |policy: &str, members: &[(usize, u16)]| {
        let members: Vec<_> = members
            .iter()
            .map(|(index, weight)| (addresses[*index], *weight))
            .collect();
        config(&format!("policy = \"{policy}\""), "", &members)
    };
    let running = start(&text("weighted_round_robin", &[(0, 1), (1, 1)]));
    let port = running.address.to_string();
    let reload = |text: String| {
        running
            .gateway
            .reload(settings(&text))
            .map_err(|error| error.to_string())
    };
    let counts = |requests: u32| -> Vec<u64> {
        let before: Vec<_> = backends
            .iter()
            .map(|backend| backend.report().requests)
            .collect();
        for _ in 0..requests {
            assert_eq!(get(running.address, "/").status, 200);
        }
        backends
            .iter()
            .zip(before)
            .map(|(backend, before)| backend.report().requests - before)
            .collect()
    };
    assert_eq!(counts(4), [2, 2, 0]);
    // The port that was chosen is not named in the settings, which still ask for any.
    assert!(!text("fifo", &[]).contains(&port));
    thread::scope(|scope| {
        let held = scope.spawn(|| get(running.address, "/slow?ms=300").status);
        assert!(
            backends
                .iter()
                .any(|backend| backend.wait(LONG, |report| report.in_flight > 0))
        );
        reload(text("weighted_round_robin", &[(1, 2), (2, 1)])).unwrap();
        assert_eq!(counts(6)[0], 0);
        assert_eq!(held.join().unwrap(), 200);
    });
    reload(text("round_robin", &[(0, 1), (1, 1), (2, 1)])).unwrap();
    assert_eq!(counts(30), [10, 10, 10]);
    let elsewhere = text("round_robin", &[(0, 1)]).replace("127.0.0.1:0", "127.0.0.1:1");
    let error = reload(elsewhere).unwrap_err();
    assert!(error.contains("restart"), "{error}");
    assert_eq!(counts(3), [1, 1, 1]);
}

#[test]
fn limits_that_were_used_stay_used_over_a_reload() {
    let backends = backends::<1>();
    let text = |policy: &str| {
        let pool = format!("policy = \"{policy}\"\nmax_wait = \"0s\"");
        config(&pool, "", &[(backends[0].address(), 1)]).replace("weight = 1", "limits = \"3/60s\"")
    };
    let running = start(&text("fifo"));
    assert_eq!(get(running.address, "/").status, 200);
    running
        .gateway
        .reload(settings(&text("least_used")))
        .unwrap();
    for status in [200, 200, 429] {
        assert_eq!(get(running.address, "/").status, status);
    }
}

#[test]
fn other_limits_know_what_was_used() {
    let backends = backends::<1>();
    let text = |pool: &str, member: &str| {
        let pool = format!("policy = \"fifo\"\nmax_wait = \"0s\"\n{pool}");
        config(&pool, "", &[(backends[0].address(), 1)]).replace("weight = 1", member)
    };
    let running = start(&text("", "limits = \"3/60s\""));
    let statuses = |expected: &[u16]| {
        let asked = expected.iter().map(|_| get(running.address, "/").status);
        assert_eq!(asked.collect::<Vec<_>>(), expected);
    };
    statuses(&[200, 200, 200, 429]);
    for (pool, member, expected) in [
        ("", "weight = 2\nlimits = \"3/60s\"", &[429][..]),
        ("", "limits = \"4/60s\"", &[200, 429]),
        ("", "limits = \"2/60s, 9 concurrent\"", &[429]),
        // The pool's first limits know of nothing.
        ("limits = \"2/60s\"", "weight = 1", &[200, 200, 429]),
        ("limits = \"3/60s\"", "weight = 1", &[200, 429]),
        ("", "weight = 1", &[200]),
    ] {
        running
            .gateway
            .reload(settings(&text(pool, member)))
            .unwrap();
        statuses(expected);
    }
}

#[test]
fn a_gateway_that_drains_ends_what_it_has_begun() {
    let backends = backends::<1>();
    let running = start(&config("", "", &[(backends[0].address(), 1)]));
    let mut caller = Caller::connect(running.address);
    caller.send("GET /slow?ms=300 HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(backends[0].wait(LONG, |report| report.in_flight == 1));
    let mut idle = Caller::connect(running.address);
    let address = running.address;
    let draining = thread::spawn(move || running.gateway.drain());
    assert_eq!(caller.answer().unwrap().status, 200);
    assert_eq!(caller.rest(), b"");
    assert_eq!(idle.rest(), b"");
    draining.join().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn limits_hold_over_a_restart() {
    let backends = backends::<2>();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("leasehold.state");
    let members = [(backends[0].address(), 1), (backends[1].address(), 1)];
    let text =
        config("max_wait = \"0s\"", "", &members).replace("weight = 1", "limits = \"2/60s\"");
    let text = format!("state = \"{}\"\n{text}", state.display());
    for statuses in [[200, 200, 200], [200, 429, 429]] {
        let running = start(&text);
        for status in statuses {
            assert_eq!(get(running.address, "/").status, status);
        }
        let second = leasehold_gateway::Gateway::start(settings(&text))
            .unwrap_err()
            .to_string();
        assert!(second.contains("is used by another gateway"), "{second}");
        running.gateway.drain();
    }
    for backend in backends {
        assert_eq!(backend.stop().requests, 2);
    }
}

#[test]
fn a_request_that_waits_goes_on_in_the_pool_of_a_reload_and_within_its_limits() {
    let backends = backends::<1>();
    let text = |policy: &str| {
        let pool = format!("policy = \"{policy}\"\nmax_wait = \"30s\"");
        config(&pool, "", &[(backends[0].address(), 1)]).replace("weight = 1", "limits = \"1/1s\"")
    };
    let running = start(&text("fifo"));
    thread::scope(|scope| {
        assert_eq!(get(running.address, "/").status, 200);
        let waiting: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| get(running.address, "/").status))
            .collect();
        for policy in ["least_used", "round_robin"] {
            running.gateway.reload(settings(&text(policy))).unwrap();
        }
        for one in waiting {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    let report = backends[0].report();
    let arrivals: Vec<_> = report
        .recorded
        .iter()
        .map(|request| request.number)
        .collect();
    assert_eq!(arrivals, [1, 2, 3, 4]);
}

#[test]
fn limits_count_as_used_up_after_a_reboot_unless_the_file_is_to_be_trusted() {
    let backends = backends::<2>();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("leasehold.state");
    let members = [(backends[0].address(), 1), (backends[1].address(), 1)];
    // Limits of a member, of a group and of the pool.
    for limits in [
        "weight = 1\nlimits = \"5/60s\"",
        "weight = 1\nlimits = \"5/60s\"\ngroup = \"a\"",
        "weight = 1",
    ] {
        let pool = match limits {
            "weight = 1" => "max_wait = \"0s\"\nlimits = \"5/60s\"",
            _ => "max_wait = \"0s\"",
        };
        let text = config(pool, "", &members).replace("weight = 1", limits);
        for (after_crash, status) in [("closed", 429), ("trust", 200)] {
            std::fs::write(
                &state,
                "{\"header\":{\"leasehold\":1,\"boot\":\"another\"}}\n",
            )
            .unwrap();
            let text = format!(
                "state = \"{}\"\nafter_crash = \"{after_crash}\"\n{text}",
                state.display()
            );
            let running = start(&text);
            assert_eq!(
                get(running.address, "/").status,
                status,
                "{limits}, {after_crash}"
            );
            running.gateway.drain();
        }
    }
}

//! Servers that die, forget, stall and lie: every job has one end.

use crate::http::{LONG, repeat_until};
use crate::support::{QUICK, Socket, block_on, servers, sleeping, start, start_with, taking};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_testbed::ComfyFault;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

#[test]
fn jobs_of_a_server_that_is_killed_are_done_elsewhere_once() {
    let mut world = start(servers([taking(10), taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let ids: Vec<String> = (0..12)
        .map(|_| caller.queue(&sleeping("me", 0.2)))
        .collect();
    let first = &world.servers[0];
    assert!(first.wait(LONG, |report| report.running.is_some()
        && report.pending > 0));
    let report = first.report();
    let running = report.running.clone();
    world.servers[0].kill().expect("it was up");
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    for (id, starts) in world.starts() {
        let most = if Some(&id) == running.as_ref() { 2 } else { 1 };
        assert!(starts <= most, "{id} was begun {starts} times");
    }
}

#[test]
fn jobs_of_a_server_that_comes_back_empty_are_done_again_at_once() {
    let mut world = start(servers([taking(10), taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let ids: Vec<String> = (0..8).map(|_| caller.queue(&sleeping("me", 0.3))).collect();
    assert!(
        world.servers[0].wait(LONG, |report| report.running.is_some()
            && report.pending > 0)
    );
    world.servers[0].restart().expect("its port");
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    assert!(world.starts().values().all(|starts| *starts <= 2));
}

#[test]
fn jobs_of_a_server_that_stalls_are_done_elsewhere_and_end_once() {
    let world = start(servers([taking(10), taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let ids: Vec<String> = (0..6).map(|_| caller.queue(&sleeping("me", 0.2))).collect();
    assert!(world.servers[0].wait(LONG, |report| report.running.is_some()));
    world.servers[0].set_stalled(true);
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    world.servers[0].set_stalled(false);
    // What it still had is taken from it.
    assert!(
        world.servers[0].wait(LONG, |report| report.running.is_none()
            && report.pending == 0)
    );
    let report = world.servers[0].report();
    assert!(report.dequeued + report.interrupted > 0, "{report:?}");
    let more: Vec<String> = (0..4).map(|_| caller.queue(&sleeping("me", 0.1))).collect();
    assert!(caller.all_ended(&more).iter().all(|end| end == "success"));
}

#[test]
fn a_dead_worker_is_found_by_its_lack_of_progress() {
    let world = start(servers([taking(10), taking(10)]), QUICK(), "");
    world.servers[0].kill_worker();
    let caller = world.caller("one");
    let ids: Vec<String> = (0..6).map(|_| caller.queue(&sleeping("me", 0.1))).collect();
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    assert!(world.starts().values().all(|starts| *starts <= 1));
}

/// What stands before a server, which passes nothing on from some time on.
fn hanging(server: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let hangs = Arc::new(AtomicBool::new(false));
    let is_hung = Arc::clone(&hangs);
    let copy = |mut from: TcpStream, mut to: TcpStream, is_hung: Arc<AtomicBool>| {
        let mut bytes = [0; 4_096];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            if !is_hung.load(Ordering::Relaxed) && to.write_all(&bytes[..read]).is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(server).expect("the server listens");
            let (near_too, far_too) = (near.try_clone(), far.try_clone());
            let (there, back) = (Arc::clone(&is_hung), Arc::clone(&is_hung));
            thread::spawn(move || copy(near, far, there));
            thread::spawn(move || {
                copy(
                    far_too.expect("a handle"),
                    near_too.expect("a handle"),
                    back,
                )
            });
        }
    });
    (address, hangs)
}

#[test]
fn a_server_that_hangs_is_silent_however_long_its_answers_are_waited_for() {
    let all = servers([taking(10), taking(10)]);
    let (address, hangs) = hanging(all[0].address());
    let mut settings = QUICK();
    settings.poll = Duration::from_secs(1);
    let world = start_with(all, settings, "", |settings| {
        let pool = &mut settings.pools[0];
        pool.members[0].url = format!("http://{address}").parse().expect("a URL");
        pool.upstream.response_header = LONG * 3;
    });
    let caller = world.caller("one");
    let ids = [(); 2].map(|()| caller.queue(&sleeping("me", 4.0)));
    repeat_until("both run, as the gateway knows", || {
        let status = |id| caller.get_json(&format!("/lb/comfyui/jobs/{id}"))["status"].clone();
        ids.iter().all(|id| status(id) == "running")
    });
    hangs.store(true, Ordering::Relaxed);
    // Well before the first answer is given up.
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
}

#[test]
fn a_submission_without_an_answer_is_looked_for_before_it_is_sent_again() {
    for fault in [
        ComfyFault::AcceptReset,
        ComfyFault::AcceptSilence,
        ComfyFault::AcceptError,
        ComfyFault::Reset,
        ComfyFault::Error,
    ] {
        let world = start(servers([taking(10), taking(10)]), QUICK(), "");
        for server in &world.servers {
            server.fail_prompts(2, fault);
        }
        let caller = world.caller("one");
        let ids: Vec<String> = (0..6).map(|_| caller.queue(&sleeping("me", 0.1))).collect();
        let ends = caller.all_ended(&ids);
        assert!(
            ends.iter().all(|end| end == "success"),
            "{fault:?} {ends:?}"
        );
        let starts = world.starts();
        assert!(
            starts.values().all(|starts| *starts == 1),
            "{fault:?} {starts:?}"
        );
    }
}

#[test]
fn a_job_that_breaks_each_server_is_refused_in_the_end() {
    let world = start(servers([taking(10)]), QUICK(), "");
    world.servers[0].fail_prompts(8, ComfyFault::Error);
    let caller = world.caller("one");
    let id = caller.queue(&sleeping("me", 0.1));
    let entry = caller.ended(&id);
    let error = &entry["status"]["messages"][0][1];
    assert_eq!(error["exception_type"], "JobRefused", "{entry}");
    let message = error["exception_message"].as_str().expect("a message");
    assert!(message.contains("status 500"), "{message}");
    // Nor is the server left out for it.
    let next = caller.queue(&sleeping("me", 0.1));
    assert_eq!(caller.all_ended(&[next]), ["success"]);
    assert_eq!(world.accepted(), [1]);
}

#[test]
fn a_silent_websocket_costs_no_job_its_end() {
    let world = start(servers([taking(10)]), QUICK(), "");
    world.servers[0].set_silent(true);
    let caller = world.caller("one");
    block_on(async {
        let mut socket = Socket::open(world.address, "me").await;
        let id = caller.queue(&sleeping("me", 0.2));
        let kinds = socket.until_over(&id).await;
        assert!(kinds.contains(&"execution_success".to_owned()), "{kinds:?}");
    });
}

#[test]
fn a_restarted_gateway_finds_its_jobs_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = format!("state = {:?}\n", directory.path().join("state"));
    let mut world = start(servers([taking(10), taking(10)]), QUICK(), &state);
    let mut caller = world.caller("one");
    let mut ids: Vec<String> = (0..20)
        .map(|_| caller.queue(&sleeping("me", 0.1)))
        .collect();
    let done = ids[0].clone();
    caller.ended(&done);
    for _ in 0..3 {
        world.restart_gateway();
        caller = world.caller("one");
        ids.push(caller.queue(&sleeping("me", 0.1)));
        std::thread::sleep(Duration::from_millis(50));
    }
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    let starts = world.starts();
    assert!(ids.iter().all(|id| starts[id] == 1), "{starts:?}");
    repeat_until("the queue is empty", || {
        caller.get_json("/prompt")["exec_info"]["queue_remaining"] == 0
    });
}

#[test]
fn a_worker_that_dies_in_the_middle_of_a_job_holds_no_other_up() {
    let mut times = QUICK();
    times.stalled_after = Duration::from_millis(1_500);
    let world = start(servers([taking(10), taking(10)]), times, "");
    let caller = world.caller("one");
    let ids: Vec<String> = (0..6).map(|_| caller.queue(&sleeping("me", 0.3))).collect();
    let first = &world.servers[0];
    assert!(first.wait(LONG, |report| report.running.is_some()
        && report.pending > 0));
    first.kill_worker();
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    let twice = world
        .starts()
        .values()
        .filter(|starts| **starts > 1)
        .count();
    assert!(twice <= 1, "only the job that ran");
}

#[test]
fn an_outage_of_all_servers_holds_no_lease_and_loses_no_job() {
    let mut world = start(servers([taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let ids: Vec<String> = (0..5).map(|_| caller.queue(&sleeping("me", 0.3))).collect();
    let first = &world.servers[0];
    assert!(first.wait(LONG, |report| report.running.is_some()
        && report.pending > 0));
    world.servers[0].kill().expect("it was up");
    // Longer than the time after which its jobs are lost, twice over.
    std::thread::sleep(QUICK().lost_after * 2 + Duration::from_secs(1));
    world.servers[0].restart().expect("its port");
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
}

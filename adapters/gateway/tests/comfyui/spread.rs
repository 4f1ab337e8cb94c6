//! How jobs are spread over servers.

use crate::http::{LONG, repeat_until};
use crate::support::{QUICK, servers, sleeping, start, start_with, taking};

#[test]
fn a_hundred_jobs_differ_by_one_at_most_over_four_servers() {
    let world = start(servers([(); 4].map(|()| taking(20))), QUICK(), "");
    let caller = world.caller("one");
    let ids: Vec<String> = (0..100)
        .map(|_| caller.queue(&sleeping("me", 0.03)))
        .collect();
    let mut widest = 0;
    repeat_until("all jobs", || {
        let accepted = world.accepted();
        let (least, most) = (
            accepted.iter().min().unwrap(),
            accepted.iter().max().unwrap(),
        );
        widest = widest.max(most - least);
        accepted.iter().sum::<u64>() == 100
    });
    assert!(
        caller
            .all_ended(&ids)
            .iter()
            .all(|status| status == "success")
    );
    let most = world
        .servers
        .iter()
        .map(|server| server.report().max_queued)
        .max();
    assert!(most <= Some(2), "one runs and one is ready: {most:?}");
    assert!(widest <= 3, "{widest}, {:?}", world.accepted());
    assert!(world.starts().values().all(|starts| *starts == 1));
}

#[test]
fn a_reload_changes_how_many_jobs_wait_at_a_server() {
    let mut world = start(servers([taking(10)]), QUICK(), "");
    world.reload(|comfyui| comfyui.prefetch = 4);
    let caller = world.caller("one");
    let ids: Vec<String> = (0..8).map(|_| caller.queue(&sleeping("me", 0.3))).collect();
    let server = &world.servers[0];
    assert!(
        server.wait(LONG, |report| report.pending == 4),
        "4 wait there"
    );
    assert!(caller.all_ended(&ids).iter().all(|end| end == "success"));
    assert_eq!(world.servers[0].report().max_queued, 5);
}

#[test]
fn a_caller_gets_a_server_of_its_zone_while_one_is_free() {
    let configs = [taking(10), taking(10), taking(10)];
    let world = start_with(servers(configs), QUICK(), "", |settings| {
        let zones = ["berlin", "paris", "paris"];
        for (member, zone) in settings.pools[0].members.iter_mut().zip(zones) {
            member.zone = Some(zone.to_owned());
        }
    });
    let caller = world.caller("one");
    let body = sleeping("me", 0.05).to_string();
    for done in 1..=6 {
        let headers = "x-leasehold-zone: berlin\r\n";
        let answer = caller.post_bytes("/prompt", "application/json", body.as_bytes(), headers);
        assert_eq!(answer.status, 200);
        repeat_until("it is done", || {
            caller.get_json("/history").as_object().unwrap().len() == done
        });
    }
    assert_eq!(world.accepted(), [6, 0, 0]);
    // More than the zone has room for go elsewhere.
    for _ in 0..12 {
        let headers = "x-leasehold-zone: berlin\r\n";
        caller.post_bytes("/prompt", "application/json", body.as_bytes(), headers);
    }
    repeat_until("all are done", || {
        caller.get_json("/history").as_object().unwrap().len() == 18
    });
    let accepted = world.accepted();
    assert!(accepted[1] > 0 && accepted[2] > 0, "{accepted:?}");
}

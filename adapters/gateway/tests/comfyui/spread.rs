//! How jobs are spread over servers.

use crate::http::repeat_until;
use crate::support::{QUICK, servers, sleeping, start, taking};

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

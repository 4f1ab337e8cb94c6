//! Shares of flows that all wait: by requests and by tokens, by weight, and of a caller beside a greedy one.

use crate::settings::{count, tick};
use core::num::NonZeroU16;
use leasehold_core::balance::Policy;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{
    Acquired, Event, FlowConfig, LeaseId, Member, Outcome, Pool, PoolConfig, Request, ShareBy,
    WaiterId,
};
use leasehold_core::time::Tick;
use std::collections::{BTreeMap, VecDeque};

/// A flow: its weight, the tokens of each of its requests, and how many it queues.
#[derive(Clone, Copy)]
pub(crate) struct Queued {
    pub(crate) weight: u16,
    pub(crate) tokens: u32,
    pub(crate) requests: u32,
}

/// Queues all requests of each flow in turn, and then serves `grants` of them on members that serve one at a time.
/// Returns the flow of each grant.
pub(crate) fn serve(
    share_by: ShareBy,
    members: u32,
    flows: &[Queued],
    grants: usize,
) -> Vec<usize> {
    let config = PoolConfig::builder(Policy::Fifo).share_by(share_by);
    let mut pool = Pool::new(config.build().expect("it is in range"));
    let mut held: VecDeque<LeaseId> = VecDeque::new();
    for _ in 0..members {
        let added = pool.add(Tick::ZERO, Member::new(()).max_leases(count(1)));
        added.expect("there is room");
        if let Ok(Acquired::Granted(grant)) = pool.acquire(Tick::ZERO, Request::new()) {
            held.push_back(grant.lease);
        }
    }
    let mut waiters: BTreeMap<WaiterId, usize> = BTreeMap::new();
    for (name, flow) in flows.iter().enumerate() {
        let number = name as u64 + 1;
        let weight = NonZeroU16::new(flow.weight).expect("it has one");
        pool.set_flow(Tick::ZERO, number, &FlowConfig::new().weight(weight));
        for _ in 0..flow.requests {
            let cost = Cost {
                requests: 1,
                tokens: flow.tokens,
            };
            let request = Request::new().flow(number).cost(cost);
            match pool.acquire(Tick::ZERO, request) {
                Ok(Acquired::Waiting(waiter)) => drop(waiters.insert(waiter, name)),
                answer => panic!("all members are busy: {answer:?}"),
            }
        }
    }
    let mut served = Vec::new();
    let mut now = 0;
    while served.len() < grants {
        now += 1;
        let lease = held.pop_front().expect("all members are busy");
        pool.release(tick(now), lease, Outcome::Ok)
            .expect("it is held");
        while let Some(event) = pool.poll_event() {
            if let Event::Granted { waiter, grant } = event {
                served.push(waiters[&waiter]);
                held.push_back(grant.lease);
            }
        }
    }
    served
}

#[test]
fn a_greedy_caller_delays_another_by_at_most_one_call_a_member() {
    let (members, greedy, modest) = (4, 10_000, 10);
    let plain = |requests| Queued {
        weight: 1,
        tokens: 0,
        requests,
    };
    let flows = [plain(greedy), plain(modest)];
    let served = serve(ShareBy::Requests, members, &flows, 200);
    let turns = served.iter().enumerate().filter(|(_, flow)| **flow == 1);
    let turns: Vec<usize> = turns.map(|(at, _)| at).collect();
    assert_eq!(turns.len(), modest as usize);
    let mut before = None;
    for turn in turns {
        let others = before.map_or(turn, |before| turn - before - 1);
        assert!(
            others <= members as usize,
            "{others} calls of the greedy one went ahead"
        );
        before = Some(turn);
    }
}

/// The share of the second of two flows of weights 1 and 3, in permille of what both were served.
fn share_of_three(share_by: ShareBy, tokens: [u32; 2]) -> u64 {
    let [one, three] = [(1, tokens[0]), (3, tokens[1])].map(|(weight, tokens)| Queued {
        weight,
        tokens,
        requests: 20_000,
    });
    let served = serve(share_by, 4, &[one, three], 10_000);
    let units = |flow: usize| {
        let calls = served.iter().filter(|one| **one == flow).count() as u64;
        calls
            * match share_by {
                ShareBy::Requests => 1,
                ShareBy::Tokens => u64::from(tokens[flow].max(1)),
            }
    };
    1_000 * units(1) / (units(0) + units(1))
}

#[test]
fn weights_of_one_and_three_are_served_one_to_three_by_requests_and_by_tokens() {
    for tokens in [[0, 0], [1_010, 101], [101, 1_010], [1, 4_000]] {
        for share_by in [ShareBy::Requests, ShareBy::Tokens] {
            let share = share_of_three(share_by, tokens);
            assert!(
                (735..=765).contains(&share),
                "{share} of 1,000 for {tokens:?}"
            );
        }
    }
}

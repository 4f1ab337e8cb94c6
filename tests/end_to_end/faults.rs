//! What the client makes of each fault of the testbed: waits that are told, and odd answers that were paid for.

use crate::endpoint;
use core::time::Duration;
use http::HeaderMap;
use leasehold_http::{ChatRequest, Client, ClientConfig, Endpoint};
use leasehold_protocol::verdict::{Fate, Kind, Pause, Verdict};
use leasehold_protocol::{Call, Rests, make_streamed};
use leasehold_testbed::{Fault, FaultGroup, FaultRule, OpenAi, OpenAiConfig, RateLimitFault};
use std::thread;

/// A wait that is no whole number of seconds, so that rounding shows.
const WAIT: Duration = Duration::from_millis(1_300);

/// Starts a server that answers every call with a fault.
fn server(fault: Fault) -> OpenAi {
    let mut config = OpenAiConfig::default();
    config.faults = vec![FaultRule::new(fault)];
    config.fault_wait = WAIT;
    config.trickle = Duration::ZERO;
    OpenAi::start(config).expect("a free port")
}

fn call(client: &Client, endpoint: &Endpoint, is_streamed: bool) -> Verdict {
    let body = ChatRequest::user("m", "task").body();
    let mut body = body.expect("no field is given twice");
    if is_streamed {
        make_streamed(Call::Chat, &mut body);
    }
    match client.send(endpoint, Call::Chat.path(), &body, &HeaderMap::new()) {
        Ok(reply) => reply.verdict,
        Err(error) => error.verdict().clone(),
    }
}

/// Runs a check of each fault on a thread of its own; returns what the checks say.
fn check_all(
    faults: Vec<Fault>,
    check: impl Fn(Fault) -> Result<(), String> + Sync,
) -> Vec<String> {
    let check = &check;
    thread::scope(|scope| {
        let threads: Vec<_> = faults
            .into_iter()
            .map(|fault| {
                scope.spawn(move || check(fault).map_err(|error| format!("{fault}: {error}")))
            })
            .collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().expect("no check panics"));
        results.filter_map(Result::err).collect()
    })
}

#[test]
fn a_wait_that_is_told_in_any_dialect_is_kept_to() {
    let rows = FaultGroup::RateLimit.faults();
    let faults = rows.into_iter().map(|(fault, _, _)| fault).collect();
    let errors = check_all(faults, |fault| {
        let server = server(fault);
        let (client, endpoint) = (
            Client::new(ClientConfig::default()),
            endpoint(&server, "sk-testbed"),
        );
        let first = call(&client, &endpoint, false);
        let rest = Rests::new(7).after(&first).ok_or("the key does not rest")?;
        thread::sleep(rest);
        let _ = call(&client, &endpoint, false);
        let report = server.stop();
        if report.early > 0 {
            return Err(format!("the key rested for {rest:?} only: {first:?}"));
        }
        let Fault::RateLimit(dialect) = fault else {
            return Err("it is no rate limit".to_owned());
        };
        match (tells_wait(dialect), first.fate) {
            // Whole seconds are rounded up, twice for a date.
            (true, Fate::Rest(Pause::Told(told)))
                if (WAIT..WAIT + Duration::from_secs(2)).contains(&told) =>
            {
                Ok(())
            }
            (false, Fate::Rest(Pause::Rate)) => Ok(()),
            (_, fate) => Err(format!("{fate:?}")),
        }
    });
    assert!(errors.is_empty(), "{errors:#?}");
}

const fn tells_wait(dialect: RateLimitFault) -> bool {
    !matches!(
        dialect,
        RateLimitFault::Zero
            | RateLimitFault::Garbage
            | RateLimitFault::Untold
            | RateLimitFault::Text
            | RateLimitFault::Html
            | RateLimitFault::ShouldRetry
    )
}

#[test]
fn every_odd_answer_that_was_paid_for_is_read() {
    let faults = Fault::all().into_iter().filter(|fault| fault.is_answered());
    let errors = check_all(faults.collect(), |fault| {
        let server = server(fault);
        let client = Client::new(ClientConfig::default());
        let is_streamed = matches!(fault, Fault::Framing(_));
        let verdict = call(&client, &endpoint(&server, "sk-testbed"), is_streamed);
        let report = server.stop();
        if report.ok != 1 || report.by_fault.len() != 1 {
            return Err(format!("the testbed counts {} answers", report.ok));
        }
        if verdict.kind != Kind::Answer {
            return Err(format!("{:?}: {verdict}", verdict.kind));
        }
        Ok(())
    });
    assert!(errors.is_empty(), "{errors:#?}");
}

//! Services by URL: outages that are waited out, and URLs and models that turn out wrong.
//!
//! Invariant: an outage begins after [`OUTAGE_AFTER`] failures in a row, and ends with the first answer to a call made
//! in it. A URL or model is taken for wrong only before its first answer.

use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_page::words;
use leasehold_protocol::verdict::{Fate, Kind, Next, Outcome, Pause, Scope, Verdict};
use leasehold_protocol::{Rest, RestConfig};
use std::collections::HashSet;

/// Failures in a row, over all keys, by which a service counts as down.
const OUTAGE_AFTER: u32 = 5;
/// Failures for which a refused connection counts: it leaves little doubt.
const NO_CONNECTION: u32 = 3;
/// Longest time between two tries in an outage for which the service names no wait.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Answers in a row by which a URL or a model counts as wrong.
const STRIKES: u32 = 3;

/// What is known of a service.
#[derive(Debug)]
pub(crate) struct Origin {
    host: String,
    rest: Rest,
    failures: u32,
    /// The tick of the last answer.
    last_answer: Option<Tick>,
    /// The tick of the first failure since the last answer.
    bad_since: Option<Tick>,
    outage: Option<Outage>,
    strikes: u32,
    /// Models that were answered here.
    answered: HashSet<usize>,
    model_strikes: Vec<u32>,
    is_wrong: bool,
}

/// A service that is down.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    pub(crate) since: Tick,
    /// The tick of the next try.
    pub(crate) until: Tick,
    /// The tick at which the latest rest began.
    round: Tick,
    pub(crate) reason: String,
}

/// What follows from a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Nothing for the service as a whole.
    None,
    /// No member of the service is to be used until this tick.
    RestUntil(Tick),
    /// The URL is wrong.
    WrongUrl,
    /// The service does not have the model.
    WrongModel,
}

/// What a service and a task make of a verdict.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) reaction: Reaction,
    /// The outage that the call has ended.
    pub(crate) ended: Option<Outage>,
    pub(crate) next: Next,
    /// Whether the service answered another call since this one began.
    pub(crate) is_up: bool,
}

impl Origin {
    pub(crate) fn new(url: &str, models: usize, seed: u64) -> Self {
        let mut config = RestConfig::PATIENCE;
        config.cap = LONGEST_REST;
        let (_, rest) = url.split_once("://").unwrap_or(("", url));
        Self {
            host: rest.split('/').next().unwrap_or(rest).to_owned(),
            rest: Rest::new(config, seed),
            failures: 0,
            last_answer: None,
            bad_since: None,
            outage: None,
            strikes: 0,
            answered: HashSet::new(),
            model_strikes: vec![0; models],
            is_wrong: false,
        }
    }

    /// The host with its port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    pub(crate) const fn is_wrong(&self) -> bool {
        self.is_wrong
    }

    /// Whether a call of the model was answered here.
    pub(crate) fn has_answered(&self, model: usize) -> bool {
        self.answered.contains(&model)
    }

    /// Whether the service has answered anything since a tick.
    pub(crate) fn answered_since(&self, tick: Tick) -> bool {
        self.last_answer.is_some_and(|last| last >= tick)
    }

    /// Returns why the service counts as lost, if it has not answered for `limit`.
    pub(crate) fn overdue(&self, now: Tick, limit: Duration) -> Option<String> {
        let since = self.bad_since?;
        let outage = self.outage.as_ref()?;
        (now.since(since) >= limit).then(|| format!("{}: {}", self.host, outage.reason))
    }

    /// Counts the verdict of a call that began at `began`.
    pub(crate) fn hear(
        &mut self,
        now: Tick,
        began: Tick,
        model: usize,
        verdict: &Verdict,
    ) -> Heard {
        let next = verdict.next_after_success(self.has_answered(model));
        let is_alive = verdict.outcome == Outcome::Ok || verdict.kind.scope() == Scope::Key;
        let (reaction, ended) = if is_alive {
            let ended = self.answer(now, began, model, verdict.kind);
            (Reaction::None, ended)
        } else {
            (self.failure(now, began, model, verdict), None)
        };
        Heard {
            reaction,
            ended,
            next,
            is_up: self.answered_since(began),
        }
    }

    /// Counts an answer to a call that began at `began`, also one that refuses the request; returns the outage that it
    /// ends.
    pub(crate) fn answer(
        &mut self,
        now: Tick,
        began: Tick,
        model: usize,
        kind: Kind,
    ) -> Option<Outage> {
        let outage = self.outage.as_ref();
        if outage.is_some_and(|outage| began < outage.since) {
            // The call was under way when the outage began: it tells nothing of its end.
            return None;
        }
        self.last_answer = Some(now);
        self.bad_since = None;
        self.failures = 0;
        if kind == Kind::Answer {
            self.answered.insert(model);
        }
        self.rest.success();
        self.outage.take()
    }

    /// Counts a failed call that began at `began`.
    pub(crate) fn failure(
        &mut self,
        now: Tick,
        began: Tick,
        model: usize,
        verdict: &Verdict,
    ) -> Reaction {
        if verdict.next_after_success(self.has_answered(model)) == Next::Stop {
            return self.strike(model, verdict.kind);
        }
        let concerns_all = matches!(verdict.kind.scope(), Scope::Endpoint | Scope::Run);
        if !concerns_all || self.answered_since(began) {
            return Reaction::None;
        }
        let weight = if verdict.kind == Kind::NotConnected {
            NO_CONNECTION
        } else {
            1
        };
        self.failures = self.failures.saturating_add(weight);
        let since = *self.bad_since.get_or_insert(now);
        let known = self.outage.as_ref();
        if known.is_some_and(|outage| began < outage.round) {
            // The call was under way when the latest rest began: it tells nothing new.
            return Reaction::None;
        }
        let told = match verdict.fate {
            Fate::Rest(Pause::Told(wait)) => Some(wait),
            Fate::Rest(Pause::Rate | Pause::Overload)
            | Fate::Keep
            | Fate::Reject
            | Fate::TooSmall => None,
        };
        if known.is_none() && self.failures < OUTAGE_AFTER {
            return Reaction::None;
        }
        let rest = match told {
            Some(wait) => self.rest.told(wait),
            None => self.rest.untold(),
        };
        let until = now.saturating_add(rest);
        self.outage = Some(Outage {
            since,
            until,
            round: now,
            reason: short_reason(verdict),
        });
        Reaction::RestUntil(until)
    }

    /// Counts an answer by which the URL or the model is wrong.
    fn strike(&mut self, model: usize, kind: Kind) -> Reaction {
        let is_url = kind != Kind::WrongModel && self.answered.is_empty();
        let strikes = match self.model_strikes.get_mut(model) {
            Some(strikes) if !is_url => strikes,
            Some(_) | None => &mut self.strikes,
        };
        *strikes = strikes.saturating_add(1);
        // Once is enough: calls that were under way say the same.
        if *strikes != STRIKES {
            return Reaction::None;
        }
        self.is_wrong |= is_url;
        if is_url {
            Reaction::WrongUrl
        } else {
            Reaction::WrongModel
        }
    }
}

/// Words the end of a run that went without something for too long.
pub(crate) fn gave_up(without: &str, limit: Duration, reasons: &[String]) -> String {
    let (limit, reasons) = (words(limit), reasons.join("; "));
    format!("gave up after {limit} without {without} (--give-up-after): {reasons}")
}

/// Returns the head of a verdict's message: the status and the error's name, where there is a status.
pub(crate) fn short_reason(verdict: &Verdict) -> String {
    let text = verdict.to_string();
    match text.split_once(": ") {
        Some((head, _)) if verdict.status.is_some() => head.to_owned(),
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_protocol::Call;
    use leasehold_protocol::verdict::{Answer, Context, Failure, verdict, verdict_of_failure};

    const CONTEXT: Context<'_> = Context {
        call: Call::Chat,
        key: None,
    };

    fn at(second: u64) -> Tick {
        Tick::from_nanos(second * 1_000_000_000)
    }

    fn status(code: u16) -> Verdict {
        let headers = http::HeaderMap::new();
        let answer = Answer {
            status: http::StatusCode::from_u16(code).unwrap(),
            headers: &headers,
            body: Some(b"{}"),
        };
        verdict(&answer, Duration::from_secs(1_800_000_000), &CONTEXT)
    }

    #[test]
    fn an_outage_begins_after_failures_in_a_row_and_ends_with_an_answer() {
        let mut origin = Origin::new("https://api.example.com/v1", 1, 7);
        assert_eq!(origin.host(), "api.example.com");
        for second in 1..5 {
            let reaction = origin.failure(at(second), at(second), 0, &status(503));
            assert_eq!(reaction, Reaction::None);
        }
        let Reaction::RestUntil(until) = origin.failure(at(5), at(5), 0, &status(503)) else {
            panic!("the fifth failure in a row is an outage");
        };
        assert!(at(6) <= until && until <= at(10), "{until:?}");
        assert_eq!(origin.outage().unwrap().since, at(1));
        assert!(origin.answer(at(6), at(0), 0, Kind::Answer).is_none());
        // A call that began before tells nothing new.
        let late = origin.failure(at(6), at(3), 0, &status(503));
        assert_eq!(late, Reaction::None);
        let again = origin.failure(at(11), at(10), 0, &status(503));
        assert!(matches!(again, Reaction::RestUntil(_)));
        assert!(origin.answer(at(12), at(11), 0, Kind::Answer).is_some());
        assert!(origin.outage().is_none() && origin.bad_since.is_none());
    }

    #[test]
    fn a_url_is_wrong_after_three_strikes_and_never_after_an_answer() {
        let mut origin = Origin::new("http://h/v1", 2, 7);
        let not_found = status(404);
        assert_eq!(origin.failure(at(1), at(1), 0, &not_found), Reaction::None);
        assert_eq!(origin.failure(at(1), at(1), 1, &not_found), Reaction::None);
        let third = origin.failure(at(1), at(1), 0, &not_found);
        assert_eq!(third, Reaction::WrongUrl);

        let mut origin = Origin::new("http://h/v1", 2, 7);
        origin.answer(at(1), at(1), 0, Kind::Answer);
        for _ in 0..10 {
            let reaction = origin.failure(at(2), at(2), 0, &not_found);
            let waits = matches!(reaction, Reaction::None | Reaction::RestUntil(_));
            assert!(waits, "after an answer it is an outage");
        }
        for expected in [Reaction::None, Reaction::None, Reaction::WrongModel] {
            assert_eq!(origin.failure(at(2), at(2), 1, &not_found), expected);
        }
    }

    #[test]
    fn a_host_that_refuses_connections_is_an_outage() {
        let mut origin = Origin::new("http://h/v1", 1, 7);
        let refused = verdict_of_failure(Failure::NotConnected, "refused", &CONTEXT);
        let reactions = (0..5).map(|_| origin.failure(at(1), at(1), 0, &refused));
        assert!(matches!(reactions.last(), Some(Reaction::RestUntil(_))));
    }
}

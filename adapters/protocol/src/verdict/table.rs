//! The table of verdicts.
//!
//! Invariant: every status with every sign has a row, and so has every failure. The first row that fits decides.

use super::Failure;
use super::kind::{Fate, Kind, Next, Outcome, Pause, Tally};
use super::sign::Sign;
use core::fmt::Write;
use core::time::Duration;
use http::StatusCode;

/// A row: what has to be the case, and what follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    when: When,
    pub(super) kind: Kind,
    pub(super) outcome: Outcome,
    pub(super) step: Step,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug)]
enum When {
    /// A status in one of the ranges, and a body with the sign; [`Sign::Other`] fits any body.
    Status(&'static [(u16, u16)], Sign),
    /// No whole answer.
    Failure(Failure),
}

/// The next step of a task, without its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    Retry(Tally),
    OtherMember(Tally),
    GiveUp,
    Stop,
}

const fn row(
    ranges: &'static [(u16, u16)],
    sign: Sign,
    kind: Kind,
    outcome: Outcome,
    step: Step,
    fate: Fate,
) -> Row {
    let when = When::Status(ranges, sign);
    Row {
        when,
        kind,
        outcome,
        step,
        fate,
    }
}

const fn failure(failure: Failure, kind: Kind, outcome: Outcome, step: Step, fate: Fate) -> Row {
    let when = When::Failure(failure);
    Row {
        when,
        kind,
        outcome,
        step,
        fate,
    }
}

const SUCCESS: &[(u16, u16)] = &[(200, 299)];
const ERRORS: &[(u16, u16)] = &[(400, 599)];
const RATE: Fate = Fate::Rest(Pause::Rate);
const PATIENCE: Fate = Fate::Rest(Pause::Overload);
const RETRY: Step = Step::Retry(Tally::Attempt);
const RETRY_IF_UP: Step = Step::Retry(Tally::AttemptUnlessOutage);
const WAIT: Step = Step::Retry(Tally::Free);
const OTHER: Step = Step::OtherMember(Tally::Attempt);
const OTHER_FREE: Step = Step::OtherMember(Tally::Free);

/// The row for a status that no other row fits: the last one with a status.
const ANY: Row = row(
    &[(0, u16::MAX)],
    Sign::Other,
    Kind::NotHttp,
    Outcome::Failed,
    RETRY,
    Fate::Keep,
);

/// The meaning of every status, and of every failure.
#[rustfmt::skip] // One row a line, so that it reads as a table.
pub(super) static TABLE: &[Row] = &[
    row(SUCCESS, Sign::Answer, Kind::Answer, Outcome::Ok, Step::Done, Fate::Keep),
    row(SUCCESS, Sign::Empty, Kind::EmptyAnswer, Outcome::Failed, RETRY, Fate::Keep),
    row(SUCCESS, Sign::Cut, Kind::CutAnswer, Outcome::Failed, RETRY, Fate::Keep),
    row(SUCCESS, Sign::Untyped, Kind::UntypedAnswer, Outcome::Ok, Step::GiveUp, Fate::Keep),
    row(SUCCESS, Sign::Page, Kind::ProxyPage, Outcome::Failed, WAIT, PATIENCE),
    row(ERRORS, Sign::Quota, Kind::QuotaUsedUp, Outcome::Failed, OTHER_FREE, Fate::Reject),
    row(&[(400, 401), (403, 403)], Sign::Key, Kind::KeyRejected, Outcome::Failed, OTHER_FREE, Fate::Reject),
    row(&[(400, 400), (413, 413), (429, 429)], Sign::TooLarge, Kind::TooLarge, Outcome::Ok, OTHER, Fate::TooSmall),
    row(&[(429, 429), (500, 599)], Sign::Overload, Kind::Overloaded, Outcome::Failed, WAIT, PATIENCE),
    row(ERRORS, Sign::Rate, Kind::RateLimited, Outcome::Throttled, WAIT, RATE),
    row(&[(400, 400), (404, 404)], Sign::Model, Kind::WrongModel, Outcome::Unknown, Step::Stop, Fate::Keep),
    row(&[(400, 499)], Sign::Context, Kind::PromptTooLong, Outcome::Ok, Step::GiveUp, Fate::Keep),
    row(&[(400, 499)], Sign::Policy, Kind::Blocked, Outcome::Ok, Step::GiveUp, Fate::Keep),
    row(&[(401, 401)], Sign::Other, Kind::KeyRejected, Outcome::Failed, OTHER_FREE, Fate::Reject),
    row(&[(402, 402)], Sign::Other, Kind::QuotaUsedUp, Outcome::Failed, OTHER_FREE, Fate::Reject),
    row(&[(403, 403)], Sign::Other, Kind::Forbidden, Outcome::Unknown, OTHER, Fate::Keep),
    row(&[(404, 405), (407, 407), (410, 410), (501, 501)], Sign::Other, Kind::WrongUrl, Outcome::Unknown, Step::Stop, Fate::Keep),
    row(&[(408, 409), (425, 425), (499, 499)], Sign::Other, Kind::Transient, Outcome::Failed, RETRY, Fate::Keep),
    row(&[(429, 429)], Sign::Other, Kind::RateLimited, Outcome::Throttled, WAIT, RATE),
    row(&[(400, 499)], Sign::Other, Kind::BadRequest, Outcome::Ok, Step::GiveUp, Fate::Keep),
    row(&[(502, 502), (504, 504), (524, 524)], Sign::Other, Kind::BadGateway, Outcome::Failed, RETRY_IF_UP, PATIENCE),
    row(&[(503, 503), (520, 530)], Sign::Other, Kind::Overloaded, Outcome::Failed, WAIT, PATIENCE),
    row(&[(500, 599)], Sign::Other, Kind::ServerError, Outcome::Failed, RETRY, Fate::Keep),
    row(&[(300, 399)], Sign::Other, Kind::Redirected, Outcome::Unknown, Step::Stop, Fate::Keep),
    ANY,
    failure(Failure::NotSent, Kind::NotSent, Outcome::NotSent, Step::GiveUp, Fate::Keep),
    failure(Failure::HostNotFound, Kind::HostNotFound, Outcome::Failed, Step::Stop, PATIENCE),
    failure(Failure::TlsFailed, Kind::TlsFailed, Outcome::Failed, Step::Stop, PATIENCE),
    failure(Failure::NotConnected, Kind::NotConnected, Outcome::Failed, WAIT, PATIENCE),
    failure(Failure::TimedOut, Kind::TimedOut, Outcome::Failed, RETRY, Fate::Keep),
    failure(Failure::ConnectionLost, Kind::ConnectionLost, Outcome::Failed, RETRY_IF_UP, Fate::Keep),
    failure(Failure::AnswerCut, Kind::CutAnswer, Outcome::Failed, RETRY, Fate::Keep),
    failure(Failure::NotHttp, Kind::NotHttp, Outcome::Failed, Step::Stop, PATIENCE),
    failure(Failure::AnswerTooLong, Kind::AnswerTooLong, Outcome::Ok, Step::GiveUp, Fate::Keep),
    failure(Failure::Abandoned, Kind::Abandoned, Outcome::Unknown, Step::GiveUp, Fate::Keep),
];

/// Whether a status means success, so that the body decides.
pub(super) fn is_success(status: StatusCode) -> bool {
    contains(SUCCESS, status.as_u16())
}

fn contains(ranges: &[(u16, u16)], status: u16) -> bool {
    ranges
        .iter()
        .any(|(from, to)| (*from..=*to).contains(&status))
}

impl Row {
    /// Returns the row of a status and a sign.
    pub(super) fn of_status(status: u16, sign: Sign) -> &'static Self {
        let fits = |row: &&Self| match row.when {
            When::Status(ranges, said) => {
                contains(ranges, status) && (said == sign || said == Sign::Other)
            }
            When::Failure(_) => false,
        };
        TABLE.iter().find(fits).unwrap_or(&ANY)
    }

    /// Returns the row of a failure.
    pub(super) fn of_failure(failure: Failure) -> &'static Self {
        let fits = |row: &&Self| match row.when {
            When::Status(..) => false,
            When::Failure(named) => named == failure,
        };
        TABLE.iter().find(fits).unwrap_or(&ANY)
    }
}

impl Step {
    pub(super) const fn next(self, wait: Duration) -> Next {
        match self {
            Self::Done => Next::Done,
            Self::Retry(tally) => Next::RetryAfter { wait, tally },
            Self::OtherMember(tally) => Next::OtherMember { tally },
            Self::GiveUp => Next::GiveUp,
            Self::Stop => Next::Stop,
        }
    }

    /// Applies `x-should-retry`: the service's word on another attempt with the same key.
    pub(super) const fn overruled(self, kind: Kind, should_retry: Option<bool>) -> Self {
        match (self, should_retry) {
            (Self::GiveUp, Some(true)) if !matches!(kind, Kind::UntypedAnswer) => RETRY,
            (Self::Retry(_), Some(false)) => Self::OtherMember(Tally::Attempt),
            (step, _) => step,
        }
    }
}

/// Renders the table as markdown; the README holds the same text.
#[must_use]
pub fn table_markdown() -> String {
    let mut text = String::from(
        "| status or failure | the body says | kind | pool | task | key |\n|---|---|---|---|---|---|\n",
    );
    for row in TABLE {
        let (when, sign) = match row.when {
            When::Status(ranges, sign) => (ranges_text(ranges), sign.to_string()),
            When::Failure(failure) => (failure_text(failure).to_owned(), "–".to_owned()),
        };
        // Writing to a string never fails.
        let _ = writeln!(
            text,
            "| {when} | {sign} | `{:?}` | {} | {} | {} |",
            row.kind,
            outcome_text(row.outcome),
            step_text(row.step),
            fate_text(row.fate),
        );
    }
    text
}

fn ranges_text(ranges: &[(u16, u16)]) -> String {
    let texts = ranges.iter().map(|(from, to)| match (from, to) {
        (0, _) => "any other".to_owned(),
        (from, to) if from == to => from.to_string(),
        (from, to) if from + 1 == *to => format!("{from}, {to}"),
        (from, to) => format!("{from}–{to}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

const fn failure_text(failure: Failure) -> &'static str {
    match failure {
        Failure::NotSent => "request can't be sent",
        Failure::HostNotFound => "host name unknown",
        Failure::TlsFailed => "no secure connection",
        Failure::NotConnected => "no connection in time",
        Failure::TimedOut => "no answer in time",
        Failure::ConnectionLost => "connection lost before the answer",
        Failure::AnswerCut => "connection or time ended within the answer",
        Failure::NotHttp => "answer is not HTTP",
        Failure::AnswerTooLong => "answer longer than accepted",
        Failure::Abandoned => "caller gave up after sending",
    }
}

const fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Failed => "failed",
        Outcome::Throttled => "throttled",
        Outcome::Unknown => "unknown",
        Outcome::NotSent => "not sent",
    }
}

const fn step_text(step: Step) -> &'static str {
    match step {
        Step::Done => "done",
        Step::Retry(Tally::Attempt) => "retry",
        Step::Retry(Tally::Free) => "wait and retry, not counted",
        Step::Retry(Tally::AttemptUnlessOutage) => "retry, not counted in an outage",
        Step::OtherMember(Tally::Attempt) => "other member",
        Step::OtherMember(Tally::Free | Tally::AttemptUnlessOutage) => "other member, not counted",
        Step::GiveUp => "give up",
        Step::Stop => "stop the run",
    }
}

const fn fate_text(fate: Fate) -> &'static str {
    match fate {
        Fate::Keep => "keep",
        Fate::Rest(Pause::Rate | Pause::Told(_)) => "rest",
        Fate::Rest(Pause::Overload) => "rest, with patience",
        Fate::Reject => "reject",
        Fate::TooSmall => "too small for this request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_is_that_of_the_code() {
        let readme = include_str!("../../README.md");
        let table = table_markdown();
        assert!(
            readme.contains(&table),
            "put this table into README.md:\n{table}"
        );
    }

    #[test]
    fn every_failure_has_its_own_row() {
        for failure in [
            Failure::NotSent,
            Failure::HostNotFound,
            Failure::TlsFailed,
            Failure::NotConnected,
            Failure::TimedOut,
            Failure::ConnectionLost,
            Failure::AnswerCut,
            Failure::NotHttp,
            Failure::AnswerTooLong,
            Failure::Abandoned,
        ] {
            let row = Row::of_failure(failure);
            assert!(matches!(row.when, When::Failure(named) if named == failure));
        }
    }

    #[test]
    fn every_row_is_reached_and_the_last_one_takes_the_rest() {
        let mut reached = vec![false; TABLE.len()];
        let signs = [
            Sign::Answer,
            Sign::Empty,
            Sign::Cut,
            Sign::Untyped,
            Sign::Page,
            Sign::Quota,
            Sign::Key,
            Sign::TooLarge,
            Sign::Overload,
            Sign::Rate,
            Sign::Model,
            Sign::Context,
            Sign::Policy,
            Sign::Other,
        ];
        for status in 0..1_000 {
            for sign in signs {
                let row = Row::of_status(status, sign);
                let index = TABLE.iter().position(|it| core::ptr::eq(it, row));
                if let Some(index) = index {
                    reached[index] = true;
                }
            }
        }
        for (row, reached) in TABLE.iter().zip(reached) {
            let by_status = matches!(row.when, When::Status(..));
            assert_eq!(reached, by_status, "{row:?}");
        }
    }

    #[test]
    fn the_services_word_overrules_the_table() {
        for (step, word, expected) in [
            (Step::GiveUp, Some(true), RETRY),
            (Step::GiveUp, Some(false), Step::GiveUp),
            (WAIT, Some(false), Step::OtherMember(Tally::Attempt)),
            (WAIT, Some(true), WAIT),
            (RETRY, None, RETRY),
            (Step::Stop, Some(true), Step::Stop),
            (Step::Done, Some(false), Step::Done),
        ] {
            assert_eq!(step.overruled(Kind::BadRequest, word), expected);
        }
        assert_eq!(
            Step::GiveUp.overruled(Kind::UntypedAnswer, Some(true)),
            Step::GiveUp
        );
    }
}

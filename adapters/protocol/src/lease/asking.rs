//! A request for a lease on its way through failures and refusals, until it is granted or there is no more time.
//!
//! Invariant: a request whose answer was lost comes again under the same key, so that it never holds two leases; and none is
//! given up while its time lasts and the reason may pass.

use super::pause::Pause;
use super::{LeaseProblem, LeaseRequest, NEVER_FITS};
use core::time::Duration;
use leasehold_core::time::Tick;

/// The longest wait that is asked for at once, where the client waits without end.
const LONGEST: Duration = Duration::from_secs(300);
/// How much longer than that an answer may take.
const GRACE: Duration = Duration::from_secs(10);
/// The longest pause after the service could not be reached.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseFailure {
    /// The service has refused the request.
    #[error("{}", .0.message)]
    Refused(LeaseProblem),
    /// The service could not be asked, or gave another answer than it should.
    #[error("the lease service can't be asked: {0}")]
    Unreachable(String),
}

impl LeaseFailure {
    /// Whether another try may have a lease, whatever is asked.
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused(problem) => {
                let never = problem.cause.as_deref() == Some(NEVER_FITS);
                !never && (problem.status == 429 || problem.status >= 500)
            }
            Self::Unreachable(_) => true,
        }
    }
}

/// A request that is asked until it is granted.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::time::Tick;
/// use leasehold_protocol::lease::{Asking, LeaseFailure, LeaseRequest};
///
/// let second = |seconds: u64| Tick::ZERO.saturating_add(Duration::from_secs(seconds));
/// let request = LeaseRequest::default();
/// let mut asking = Asking::new(request, "a unique key", Some(Duration::from_secs(60)), second(0));
/// assert_eq!(asking.request(second(0)).wait_ms, Some(60_000));
/// let lost = LeaseFailure::Unreachable("connection refused".to_owned());
/// let again = asking.after(lost.clone(), second(10))?;
/// assert!(again > second(10) && again < second(11));
/// assert_eq!(asking.after(lost.clone(), second(60)), Err(lost));
/// # Ok::<(), LeaseFailure>(())
/// ```
#[derive(Clone, Debug)]
pub struct Asking {
    request: LeaseRequest,
    until: Option<Tick>,
    pause: Pause,
}

impl Asking {
    /// Makes a request under a key that no other request has, for a wait of this long or without end.
    #[must_use]
    pub fn new(
        mut request: LeaseRequest,
        key: impl Into<String>,
        wait: Option<Duration>,
        now: Tick,
    ) -> Self {
        request.idempotency_key.get_or_insert_with(|| key.into());
        Self {
            request,
            until: wait.map(|wait| now.saturating_add(wait)),
            pause: Pause::default(),
        }
    }

    /// Returns what is to be sent now.
    #[must_use]
    pub fn request(&self, now: Tick) -> LeaseRequest {
        LeaseRequest {
            wait_ms: Some(super::millis_left(self.wait(now))),
            ..self.request.clone()
        }
    }

    /// How long the answer may take.
    #[must_use]
    pub fn timeout(&self, now: Tick) -> Duration {
        self.wait(now).saturating_add(GRACE)
    }

    fn wait(&self, now: Tick) -> Duration {
        self.until.map_or(LONGEST, |until| until.since(now))
    }

    /// Hears of a failure; returns the tick at which the request is to be sent again.
    ///
    /// # Errors
    /// The failure, where no time is left or the reason does not pass.
    pub fn after(&mut self, failure: LeaseFailure, now: Tick) -> Result<Tick, LeaseFailure> {
        let pause = self.pause.next(LAST_PAUSE);
        let told = match &failure {
            LeaseFailure::Refused(problem) => problem.retry_after_ms.map(Duration::from_millis),
            LeaseFailure::Unreachable(_) => None,
        };
        let again = now.saturating_add(told.unwrap_or_default().max(pause));
        let is_in_time = self.until.is_none_or(|until| again < until);
        match failure.may_pass() && is_in_time {
            true => Ok(again),
            false => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, retry_after_ms: Option<u64>) -> LeaseFailure {
        LeaseFailure::Refused(LeaseProblem {
            code: "a_code".to_owned(),
            status,
            message: "why".to_owned(),
            cause: None,
            retry_after_ms,
        })
    }

    #[test]
    fn what_may_pass_is_asked_again_while_there_is_time() {
        let tick = |millis| Tick::ZERO.saturating_add(Duration::from_millis(millis));
        for (failure, wait, again) in [
            (problem(429, Some(700)), Some(1_000), Some(700)),
            (problem(429, Some(700)), Some(600), None),
            (problem(429, None), None, Some(50)),
            (problem(503, Some(10)), Some(1_000), Some(50)),
            (problem(401, None), None, None),
            (problem(404, Some(10)), None, None),
            (
                LeaseFailure::Unreachable(String::new()),
                Some(1_000),
                Some(50),
            ),
        ] {
            let wait = wait.map(Duration::from_millis);
            let mut asking = Asking::new(LeaseRequest::default(), "key", wait, tick(0));
            let after = asking.after(failure.clone(), tick(0));
            assert_eq!(after.ok(), again.map(tick), "{failure:?} {wait:?}");
        }
    }

    #[test]
    fn a_request_that_never_fits_is_not_asked_again() {
        let LeaseFailure::Refused(mut problem) = problem(429, None) else {
            panic!("it is refused");
        };
        problem.cause = Some(NEVER_FITS.to_owned());
        let mut asking = Asking::new(LeaseRequest::default(), "key", None, Tick::ZERO);
        let refused = LeaseFailure::Refused(problem);
        assert_eq!(asking.after(refused.clone(), Tick::ZERO), Err(refused));
    }

    #[test]
    fn pauses_grow_to_a_second() {
        let mut asking = Asking::new(LeaseRequest::default(), "key", None, Tick::ZERO);
        let lost = || LeaseFailure::Unreachable(String::new());
        let pauses = (0..7).map(|_| {
            asking
                .after(lost(), Tick::ZERO)
                .map(|at| at.since(Tick::ZERO))
        });
        let pauses: Vec<_> = pauses
            .map(|pause| pause.map(|it| it.as_millis()).ok())
            .collect();
        let expected = [50, 100, 200, 400, 800, 1_000, 1_000];
        assert_eq!(pauses, expected.map(Some));
        assert_eq!(
            asking.request(Tick::ZERO).idempotency_key.as_deref(),
            Some("key")
        );
    }
}

//! The words of a verdict.

use core::fmt;
use core::time::Duration;
use leasehold_core::pool;
use leasehold_core::time::Tick;

/// What happened to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The service answered.
    Answer,
    /// The service answered with nothing.
    EmptyAnswer,
    /// The answer ends early.
    CutAnswer,
    /// The service answered with something that is not the answer to this call.
    UntypedAnswer,
    /// A proxy in between answered with a page.
    ProxyPage,
    /// A rate limit of the key is used up.
    RateLimited,
    /// The request is larger than a limit of the key.
    TooLarge,
    /// The key's quota or credit is used up.
    QuotaUsedUp,
    /// The service does not accept the key.
    KeyRejected,
    /// The key may not make this call.
    Forbidden,
    /// The request is against the service's rules.
    Blocked,
    /// The prompt is longer than the model takes.
    PromptTooLong,
    /// The request is wrong.
    BadRequest,
    /// The model is unknown.
    WrongModel,
    /// The URL is wrong.
    WrongUrl,
    /// The URL has moved.
    Redirected,
    /// The service, or a server before it, has too much to do or is down.
    Overloaded,
    /// A server before the service had no answer from it.
    BadGateway,
    /// The service failed.
    ServerError,
    /// The service asks for another attempt.
    Transient,
    /// The request can't be sent.
    NotSent,
    /// The host's name is unknown.
    HostNotFound,
    /// The connection is not secure.
    TlsFailed,
    /// No connection was made.
    NotConnected,
    /// The answer did not begin in time.
    TimedOut,
    /// The connection ended before the answer began.
    ConnectionLost,
    /// The answer is not HTTP.
    NotHttp,
    /// The answer is longer than the caller accepts.
    AnswerTooLong,
    /// The caller gave up.
    Abandoned,
}

/// The part that an event concerns, and so which other calls will meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Only this task.
    Task,
    /// Every call with the key.
    Key,
    /// Every call to the endpoint, with any key.
    Endpoint,
    /// Every call of the run.
    Run,
}

impl Kind {
    /// Returns the part that the event concerns.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Answer
            | Self::EmptyAnswer
            | Self::CutAnswer
            | Self::UntypedAnswer
            | Self::TooLarge
            | Self::Blocked
            | Self::PromptTooLong
            | Self::BadRequest
            | Self::Transient
            | Self::NotSent
            | Self::AnswerTooLong
            | Self::Abandoned => Scope::Task,
            Self::RateLimited | Self::QuotaUsedUp | Self::KeyRejected | Self::Forbidden => {
                Scope::Key
            }
            Self::ProxyPage
            | Self::Overloaded
            | Self::BadGateway
            | Self::ServerError
            | Self::NotConnected
            | Self::TimedOut
            | Self::ConnectionLost => Scope::Endpoint,
            Self::WrongModel
            | Self::WrongUrl
            | Self::Redirected
            | Self::HostNotFound
            | Self::TlsFailed
            | Self::NotHttp => Scope::Run,
        }
    }

    /// Whether the service may have seen the call; false only if no byte of it was sent.
    #[must_use]
    pub const fn was_sent(self) -> bool {
        !matches!(
            self,
            Self::NotSent | Self::HostNotFound | Self::TlsFailed | Self::NotConnected
        )
    }

    /// Whether the service has made no answer, and so counts no tokens and no money for it.
    #[must_use]
    pub const fn is_unpaid(self) -> bool {
        !self.was_sent()
            || matches!(
                self,
                Self::RateLimited
                    | Self::TooLarge
                    | Self::QuotaUsedUp
                    | Self::KeyRejected
                    | Self::Forbidden
                    | Self::Blocked
                    | Self::PromptTooLong
                    | Self::BadRequest
                    | Self::WrongModel
                    | Self::WrongUrl
                    | Self::Redirected
                    | Self::Overloaded
            )
    }

    /// Returns what an operator can do, where it is known.
    pub(super) const fn advice(self) -> Option<&'static str> {
        match self {
            Self::WrongModel => Some("check the name of the model"),
            Self::WrongUrl => Some("check the URL, and whether it ends in /v1"),
            Self::Redirected => Some("use the new address as the URL"),
            Self::Answer
            | Self::EmptyAnswer
            | Self::CutAnswer
            | Self::UntypedAnswer
            | Self::ProxyPage
            | Self::RateLimited
            | Self::TooLarge
            | Self::QuotaUsedUp
            | Self::KeyRejected
            | Self::Forbidden
            | Self::Blocked
            | Self::PromptTooLong
            | Self::BadRequest
            | Self::Overloaded
            | Self::BadGateway
            | Self::ServerError
            | Self::Transient
            | Self::NotSent
            | Self::HostNotFound
            | Self::TlsFailed
            | Self::NotConnected
            | Self::TimedOut
            | Self::ConnectionLost
            | Self::NotHttp
            | Self::AnswerTooLong
            | Self::Abandoned => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "answered",
            Self::EmptyAnswer => "the answer is empty",
            Self::CutAnswer => "the answer ends early",
            Self::UntypedAnswer => "the answer does not have the expected shape",
            Self::ProxyPage => "a proxy answered with a page",
            Self::RateLimited => "rate limited",
            Self::TooLarge => "the request is larger than the limit",
            Self::QuotaUsedUp => "the quota is used up",
            Self::KeyRejected => "the key is not accepted",
            Self::Forbidden => "forbidden",
            Self::Blocked => "against the rules of the service",
            Self::PromptTooLong => "the prompt is too long",
            Self::BadRequest => "bad request",
            Self::WrongModel => "unknown model",
            Self::WrongUrl => "nothing is at this URL",
            Self::Redirected => "redirected",
            Self::Overloaded => "overloaded",
            Self::BadGateway => "bad gateway",
            Self::ServerError => "server error",
            Self::Transient => "to be tried again",
            Self::NotSent => "invalid request",
            Self::HostNotFound => "no such host",
            Self::TlsFailed => "no secure connection",
            Self::NotConnected => "no connection",
            Self::TimedOut => "timed out",
            Self::ConnectionLost => "connection lost",
            Self::NotHttp => "not an HTTP answer",
            Self::AnswerTooLong => "the answer is too long",
            Self::Abandoned => "given up",
        })
    }
}

/// The outcome to release a lease with; the names are those of [`pool::Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The service served the call.
    Ok,
    /// The call failed through no fault of its own.
    Failed,
    /// The service turned the call away, and the member must rest.
    Throttled,
    /// Nothing is learnt about the member.
    Unknown,
    /// Nothing was sent.
    NotSent,
}

impl Outcome {
    /// Returns the outcome for a pool; `until` is the end of the rest, if the key rests.
    #[must_use]
    pub const fn of_pool(self, until: Tick) -> pool::Outcome {
        match self {
            Self::Ok => pool::Outcome::Ok,
            Self::Failed => pool::Outcome::Failed,
            Self::Throttled => pool::Outcome::Throttled { until },
            Self::Unknown => pool::Outcome::Unknown,
            Self::NotSent => pool::Outcome::NotSent,
        }
    }
}

/// Whether a try is one of the attempts that a task has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tally {
    /// It is.
    Attempt,
    /// It is not: no number of them ends a task.
    Free,
    /// It is, unless no other call to the endpoint was answered in the meantime: then it is an outage.
    AttemptUnlessOutage,
}

/// The next step of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The task has its answer.
    Done,
    /// Another try, on any member, after the task's own backoff.
    RetryAfter {
        /// The least delay; zero while a resting key delays the task already.
        wait: Duration,
        /// Whether the failed try is one of the task's attempts.
        tally: Tally,
    },
    /// Another try at once, on a member that was not tried yet.
    ///
    /// Where there is none, the task is given up.
    OtherMember {
        /// Whether the failed try is one of the task's attempts.
        tally: Tally,
    },
    /// No other try can succeed.
    GiveUp,
    /// No try of any task can succeed: the URL or the model is wrong. See
    /// [`Verdict::next_after_success`](super::Verdict::next_after_success) for a run that got answers before.
    Stop,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Keep,
    /// It rests.
    Rest(Pause),
    /// It is taken out of use until an operator acts.
    Reject,
    /// It goes on, but can't serve this request.
    TooSmall,
}

/// How long a key rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// As long as the service asks for.
    Told(Duration),
    /// The service did not say: a [`Rest`](crate::Rest) for rate limits decides.
    Rate,
    /// The service did not say: a [`Rest`](crate::Rest) with patience decides.
    Overload,
}

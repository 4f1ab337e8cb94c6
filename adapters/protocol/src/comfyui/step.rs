//! What a job asks its owner for, and what it is told.

/// A server, by the number that the gateway has given it.
pub type ServerId = u32;

/// What a server has answered to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// It has the job.
    Accepted,
    /// Nothing was sent: no connection was made.
    Unsent,
    /// No answer came, or none that says whether it has the job.
    Unsure,
    /// It answered with an error of its own: it has the job or not, and a job that breaks each server is given up.
    Faulted,
    /// It lacks what the job needs; another server may have it.
    RefusedHere,
    /// The job itself is wrong.
    RefusedEverywhere,
}

/// What a look at a server's queue, and then at its history, has shown of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It runs.
    Running,
    /// It waits there.
    Waiting {
        /// Whether the server runs no job, or none that goes on.
        is_idle: bool,
    },
    /// It has ended.
    Ended(Ended),
    /// It is in neither.
    Absent,
    /// The server gave no answer, or none that can be read.
    NoAnswer,
}

/// How a server says that a job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All its outputs are there.
    Succeeded,
    /// A node failed.
    Failed,
    /// It was interrupted.
    Interrupted,
}

/// The only end of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A server's history has it.
    OnServer(ServerId, Ended),
    /// No server takes it.
    Refused,
    /// Its caller has taken it back.
    Cancelled,
    /// It was lost with its server, more often than it may be done again.
    Lost(Loss),
}

/// Why a job is no longer on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The server knows nothing of it: it was restarted.
    Forgotten,
    /// The server gave no sign.
    Silent,
    /// The server runs nothing.
    DeadWorker,
    /// The job made no progress.
    Stalled,
}

/// What is to be done for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waits in line for a server, those of [`Job::refused_by`](super::Job::refused_by) and [`Job::lost_at`](super::Job::lost_at) last of all.
    Acquire,
    /// Submits it to the server that was granted. It waits for the answer without end: no answer is
    /// [`Submission::Unsure`].
    Submit(ServerId),
    /// Looks for it in the server's queue, and then in its history. A look still under way when the job leaves the
    /// server is given up.
    Look(ServerId),
    /// Takes it out of the server's queue, and interrupts it if it runs. This has no answer, and may be done at the
    /// begin of the next look.
    Withdraw(ServerId),
    /// Gives the server's lease back and tells its caller.
    Finish(End),
}

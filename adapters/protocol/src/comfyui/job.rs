//! One job, from its acceptance to its only end, whatever its servers do.
//!
//! Invariant: a job ends once. It is submitted to a second server only after the first was found without it, or has
//! given no sign for the configured time.

use super::placed::{Found, Next, Placed};
use super::step::{End, Look, Loss, ServerId, Step, Submission};
use core::time::Duration;
use leasehold_core::time::{Tick, earliest};

/// The pause after a submission that was not sent, doubled with each up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The delay of its owner from which on the job's clock stands still.
const LATE: Duration = Duration::from_millis(500);
/// Submissions that servers may answer with errors of their own, before the job is refused; they last about 10 s.
const MAX_FAULTS: u32 = 8;

/// Times and bounds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobConfig {
    /// The pause between two looks at a server from which no event comes; several go into `lost_after`.
    pub poll: Duration,
    /// How long a server may give no sign before the job is lost there.
    pub lost_after: Duration,
    /// How long a running job may make no progress before it is taken from its server.
    pub stalled_after: Duration,
    /// How long a server may run nothing while the job waits there, before its worker is taken for dead.
    pub idle_after: Duration,
    /// How often a job that was lost with its server is done again elsewhere.
    pub redo: u32,
}

/// One job.
///
/// Its owner carries out each [`poll_step`](Self::poll_step), until there is none, after each call, and answers it. An
/// answer for a server that no longer has the job is ignored. Time that runs backwards is clamped.
///
/// Its clock stands still while the owner is later than [`poll_timeout`](Self::poll_timeout) by half a second or more:
/// a machine that was asleep has not heard its servers, which says nothing of them.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::time::Tick;
/// use leasehold_protocol::comfyui::{End, Ended, Job, JobConfig, Look, Step, Submission};
///
/// let mut job = Job::new(JobConfig::default());
/// let now = Tick::from_nanos(0);
/// assert_eq!(job.poll_step(now), Some(Step::Acquire));
/// job.granted(now, 7);
/// assert_eq!(job.poll_step(now), Some(Step::Submit(7)));
/// job.answered(now, 7, Submission::Accepted);
/// job.look_soon(now, 7);
/// assert_eq!(job.poll_step(now), Some(Step::Look(7)));
/// job.looked(now, 7, Look::Ended(Ended::Succeeded));
/// assert_eq!(job.poll_step(now), Some(Step::Finish(End::OnServer(7, Ended::Succeeded))));
/// assert_eq!(job.poll_step(now), None);
/// ```
#[derive(Clone, Debug)]
pub struct Job {
    config: JobConfig,
    state: State,
    /// The latest tick that it was told: time that runs backwards is clamped.
    latest: Tick,
    /// The time for which its clock stood still; ticks of `state` are of that clock.
    stood: Duration,
    is_cancelled: bool,
    refused_by: Vec<ServerId>,
    lost_at: Vec<(ServerId, Loss)>,
    unsent: u32,
    faults: u32,
}

#[derive(Clone, Debug)]
enum State {
    /// Waits for a server, from a tick on.
    Waiting {
        from: Tick,
        is_asked: bool,
    },
    Submitting {
        server: ServerId,
        is_asked: bool,
        /// Whether an event came before the answer.
        has_news: bool,
    },
    Placed(Placed),
    Ended {
        end: End,
        is_told: bool,
    },
}

impl Default for JobConfig {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            lost_after: Duration::from_secs(30),
            stalled_after: Duration::from_secs(900),
            idle_after: Duration::from_secs(20),
            redo: 1,
        }
    }
}

impl JobConfig {
    /// The same for a job that an earlier process has lost this often.
    #[must_use]
    pub fn after_losses(self, lost: u32) -> Self {
        let redo = self.redo.saturating_sub(lost);
        Self { redo, ..self }
    }
}

impl Job {
    /// Makes a job that waits for a server.
    #[must_use]
    pub fn new(config: JobConfig) -> Self {
        Self {
            config,
            state: State::Waiting {
                from: Tick::from_nanos(0),
                is_asked: false,
            },
            latest: Tick::ZERO,
            stood: Duration::ZERO,
            is_cancelled: false,
            refused_by: Vec::new(),
            lost_at: Vec::new(),
            unsent: 0,
            faults: 0,
        }
    }

    /// Makes a job that an earlier process had submitted to a server, whose answer it may not have heard.
    #[must_use]
    pub fn placed(config: JobConfig, now: Tick, server: ServerId) -> Self {
        let mut job = Self::new(config);
        job.latest = now;
        job.state = State::Placed(Placed::new(now, server, true));
        job.look_soon(now, server);
        job
    }

    /// Servers that lack what the job needs.
    #[must_use]
    pub fn refused_by(&self) -> &[ServerId] {
        &self.refused_by
    }

    /// Servers that have lost the job, with the reasons.
    #[must_use]
    pub fn lost_at(&self) -> &[(ServerId, Loss)] {
        &self.lost_at
    }

    /// The server that has the job, or may have it.
    #[must_use]
    pub fn server(&self) -> Option<ServerId> {
        match &self.state {
            State::Submitting { server, .. } => Some(*server),
            State::Placed(placed) => Some(placed.server),
            State::Waiting { .. } | State::Ended { .. } => None,
        }
    }

    /// Whether it is being submitted, and its server has not answered yet.
    #[must_use]
    pub fn is_on_its_way(&self) -> bool {
        matches!(self.state, State::Submitting { .. })
    }

    /// Whether its server runs it, as far as is known.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match &self.state {
            State::Placed(placed) => placed.is_running,
            State::Waiting { .. } | State::Submitting { .. } | State::Ended { .. } => false,
        }
    }

    /// Its end, once it has one.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        match self.state {
            State::Ended { end, .. } => Some(end),
            State::Waiting { .. } | State::Submitting { .. } | State::Placed(_) => None,
        }
    }

    /// A server was granted: the job holds a lease of it.
    pub fn granted(&mut self, now: Tick, server: ServerId) {
        let now = self.clamp(now);
        if let State::Waiting { is_asked: true, .. } = self.state {
            // It may still have the job, which must not run there twice.
            if self.has_lost(server) {
                let placed = Placed::check(now, server).after(&self.lost_at);
                self.state = State::Placed(placed);
            } else {
                self.submit(server);
            }
        }
    }

    /// No server that may have what it needs is left, or the line takes no more.
    pub fn none_left(&mut self) {
        if let State::Waiting { .. } = self.state {
            self.finish(match self.lost_at.last() {
                Some((_, loss)) if self.refused_by.is_empty() => End::Lost(*loss),
                Some(_) | None => End::Refused,
            });
        }
    }

    /// A server has answered its submission.
    pub fn answered(&mut self, now: Tick, server: ServerId, answer: Submission) {
        let State::Submitting {
            server: asked,
            has_news,
            ..
        } = self.state
        else {
            return;
        };
        if asked != server {
            return;
        }
        let now = self.clamp(now);
        match answer {
            Submission::Accepted | Submission::Unsure | Submission::Faulted => {
                if answer == Submission::Faulted {
                    self.faults = self.faults.saturating_add(1);
                }
                let is_sure = answer == Submission::Accepted;
                let placed = Placed::new(now, server, is_sure);
                let mut placed = placed.after(&self.lost_at);
                if self.is_cancelled {
                    placed.cancel(now);
                } else if !is_sure || has_news {
                    placed.look_at(now);
                }
                self.state = State::Placed(placed);
            }
            // It was granted again, so that no other is left.
            Submission::RefusedHere if self.refused_by.contains(&server) => {
                self.finish(End::Refused);
            }
            Submission::RefusedHere => {
                self.refused_by.push(server);
                self.wait(now);
            }
            Submission::RefusedEverywhere => self.finish(End::Refused),
            Submission::Unsent => self.wait_longer(now),
        }
    }

    /// An event of the server shows that the job runs there and goes on.
    pub fn progressed(&mut self, now: Tick, server: ServerId) {
        let now = self.clamp(now);
        if let Some(placed) = self.told_by(server) {
            placed.progressed(now);
        }
    }

    /// Something may have happened to the job: an event of its end, or a connection that was lost.
    pub fn look_soon(&mut self, now: Tick, server: ServerId) {
        let now = self.clamp(now);
        if let Some(placed) = self.told_by(server) {
            placed.look_at(now);
        }
    }

    /// A look at a server has shown this.
    pub fn looked(&mut self, now: Tick, server: ServerId, look: Look) {
        let now = self.clamp(now);
        if let State::Placed(placed) = &mut self.state
            && placed.server == server
        {
            let found = placed.looked(now, &self.config, look);
            self.settle(now, server, found);
        }
    }

    /// The caller takes the job back. One that runs is interrupted; the server then says how it ended.
    pub fn cancel(&mut self, now: Tick) {
        let now = self.clamp(now);
        self.is_cancelled = true;
        match &mut self.state {
            State::Waiting { .. }
            | State::Submitting {
                is_asked: false, ..
            } => self.finish(End::Cancelled),
            State::Placed(placed) => placed.cancel(now),
            State::Submitting { .. } | State::Ended { .. } => {}
        }
    }

    /// Applies what is due by now; early or repeated calls have no effect.
    pub fn handle_timeout(&mut self, now: Tick) {
        let now = self.clamp(now);
        if let State::Placed(placed) = &mut self.state {
            let (server, found) = (placed.server, placed.handle_timeout(now, &self.config));
            self.settle(now, server, found);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_step`](Self::poll_step) is due; `None` means never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let due = match &self.state {
            State::Waiting {
                from,
                is_asked: false,
            } => Some(*from),
            State::Placed(placed) => {
                earliest(placed.next_call(), placed.lost_at_latest(&self.config))
            }
            State::Waiting { .. } | State::Submitting { .. } | State::Ended { .. } => None,
        };
        due.map(|due| due.saturating_add(self.stood))
    }

    /// Returns what is to be done now, each once.
    #[must_use]
    pub fn poll_step(&mut self, now: Tick) -> Option<Step> {
        let now = self.clamp(now);
        match &mut self.state {
            State::Waiting { from, is_asked } => (!*is_asked && *from <= now).then(|| {
                *is_asked = true;
                Step::Acquire
            }),
            State::Submitting {
                server, is_asked, ..
            } => (!*is_asked).then(|| {
                *is_asked = true;
                Step::Submit(*server)
            }),
            State::Placed(placed) => match placed.next(now, &self.config) {
                Some(Next::Look) => Some(Step::Look(placed.server)),
                Some(Next::Withdraw) => Some(Step::Withdraw(placed.server)),
                None => None,
            },
            State::Ended { end, is_told } => (!*is_told).then(|| {
                *is_told = true;
                Step::Finish(*end)
            }),
        }
    }

    fn settle(&mut self, now: Tick, server: ServerId, found: Found) {
        match found {
            Found::Nothing => {}
            Found::Ended(ended) => self.finish(End::OnServer(server, ended)),
            // It was never there, so that nothing is done twice.
            Found::Gone if self.is_check() && !self.is_cancelled => self.submit(server),
            Found::Gone if self.faults >= MAX_FAULTS && !self.is_cancelled => {
                self.finish(End::Refused);
            }
            Found::Gone => self.wait_longer(now),
            Found::Lost(_) if self.is_cancelled => self.finish(End::Cancelled),
            // Nothing was submitted since it was lost there.
            Found::Lost(_) if self.is_unsure_check() => self.wait(now),
            Found::Lost(loss) => {
                let times = u32::try_from(self.lost_at.len()).unwrap_or(u32::MAX);
                self.lost_at.push((server, loss));
                if times < self.config.redo {
                    self.wait(now);
                } else {
                    self.finish(End::Lost(loss));
                }
            }
        }
    }

    /// Returns the job's stay at a server that has an event of it; the answer to its submission may come later.
    fn told_by(&mut self, server: ServerId) -> Option<&mut Placed> {
        match &mut self.state {
            State::Placed(placed) if placed.server == server => Some(placed),
            State::Submitting {
                server: to,
                has_news,
                ..
            } => {
                *has_news |= *to == server;
                None
            }
            State::Waiting { .. } | State::Placed(_) | State::Ended { .. } => None,
        }
    }

    fn has_lost(&self, server: ServerId) -> bool {
        self.lost_at.iter().any(|(at, _)| *at == server)
    }

    fn is_check(&self) -> bool {
        matches!(&self.state, State::Placed(placed) if placed.is_check)
    }

    fn is_unsure_check(&self) -> bool {
        matches!(&self.state, State::Placed(placed) if placed.is_check && !placed.is_sure)
    }

    /// Returns the job's own time, which neither runs backwards nor goes on while its owner does not come.
    fn clamp(&mut self, now: Tick) -> Tick {
        self.latest = self.latest.max(now);
        let late = self.poll_timeout().map(|due| self.latest.since(due));
        if let Some(late) = late.filter(|late| *late >= LATE) {
            self.stood = self.stood.saturating_add(late);
        }
        let began = Tick::ZERO.saturating_add(self.stood);
        Tick::ZERO.saturating_add(self.latest.since(began))
    }

    fn submit(&mut self, server: ServerId) {
        self.state = State::Submitting {
            server,
            is_asked: false,
            has_news: false,
        };
    }

    /// Waits in line again after a pause, which grows with each submission that came to nothing.
    fn wait_longer(&mut self, now: Tick) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.unsent.min(7));
        self.unsent = self.unsent.saturating_add(1);
        self.wait(now.saturating_add(pause.min(LONGEST_PAUSE)));
    }

    fn wait(&mut self, from: Tick) {
        if self.is_cancelled {
            self.finish(End::Cancelled);
            return;
        }
        self.state = State::Waiting {
            from,
            is_asked: false,
        };
    }

    fn finish(&mut self, end: End) {
        if !matches!(self.state, State::Ended { .. }) {
            self.state = State::Ended {
                end,
                is_told: false,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::Ended;
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    /// A job that a server was granted for, and asked to be submitted to it.
    fn submitting() -> Job {
        let mut job = Job::new(JobConfig::default());
        assert_eq!(job.poll_step(at(0)), Some(Step::Acquire));
        job.granted(at(0), 1);
        assert_eq!(job.poll_step(at(0)), Some(Step::Submit(1)));
        job
    }

    /// Answers the look that is due.
    fn look(job: &mut Job, millis: u64, server: ServerId, look: Look) {
        assert_eq!(job.poll_step(at(millis)), Some(Step::Look(server)));
        job.looked(at(millis), server, look);
    }

    /// Lets a server be silent until it has lost the job, and returns when that is.
    fn silence(job: &mut Job, server: ServerId) -> Tick {
        loop {
            let due = job.poll_timeout().expect("a look or the loss");
            job.handle_timeout(due);
            if !job.lost_at().is_empty() {
                return due;
            }
            if job.poll_step(due) == Some(Step::Look(server)) {
                job.looked(due, server, Look::NoAnswer);
            }
        }
    }

    #[test]
    fn a_job_is_told_its_end_once_and_asks_for_nothing_after_it() {
        let mut job = submitting();
        job.answered(at(0), 1, Submission::RefusedEverywhere);
        assert_eq!(job.poll_step(at(0)), Some(Step::Finish(End::Refused)));
        job.cancel(at(1));
        job.looked(at(1), 1, Look::Ended(Ended::Succeeded));
        assert_eq!((job.poll_step(at(1)), job.poll_timeout()), (None, None));
        assert_eq!(job.end(), Some(End::Refused));
    }

    #[test]
    fn a_job_taken_back_before_it_is_submitted_is_never_submitted() {
        let mut job = Job::new(JobConfig::default());
        assert_eq!(job.poll_step(at(0)), Some(Step::Acquire));
        job.granted(at(0), 1);
        job.cancel(at(0));
        assert_eq!(job.poll_step(at(0)), Some(Step::Finish(End::Cancelled)));
        assert_eq!(job.poll_step(at(0)), None);
    }

    #[test]
    fn a_job_taken_back_while_its_submission_is_on_its_way_is_withdrawn_once_it_has_arrived() {
        let mut job = submitting();
        job.cancel(at(0));
        job.answered(at(0), 1, Submission::Unsure);
        assert_eq!(job.poll_step(at(0)), Some(Step::Withdraw(1)));
        look(&mut job, 0, 1, Look::Absent);
        look(&mut job, 500, 1, Look::Waiting { is_idle: false });
        assert_eq!(job.poll_step(at(500)), Some(Step::Withdraw(1)));
        look(&mut job, 2_500, 1, Look::Absent);
        look(&mut job, 3_000, 1, Look::Absent);
        assert_eq!(job.poll_step(at(3_000)), Some(Step::Finish(End::Cancelled)));
    }

    #[test]
    fn a_job_that_never_arrived_is_submitted_again_and_is_no_loss() {
        let mut job = submitting();
        job.answered(at(0), 1, Submission::Unsure);
        look(&mut job, 0, 1, Look::Absent);
        look(&mut job, 500, 1, Look::Absent);
        assert_eq!(job.poll_timeout(), Some(at(550)), "after a pause");
        assert_eq!(job.poll_step(at(550)), Some(Step::Acquire));
        assert_eq!(job.lost_at(), []);
    }

    #[test]
    fn a_job_that_breaks_each_server_is_refused_in_the_end() {
        let mut job = submitting();
        let mut now = 0;
        for fault in 1..=8 {
            job.answered(at(now), 1, Submission::Faulted);
            look(&mut job, now, 1, Look::Absent);
            look(&mut job, now + 500, 1, Look::Absent);
            if fault < 8 {
                now = job.poll_timeout().unwrap().as_nanos() / 1_000_000;
                assert_eq!(job.poll_step(at(now)), Some(Step::Acquire), "{fault}");
                job.granted(at(now), 1);
                assert_eq!(job.poll_step(at(now)), Some(Step::Submit(1)));
            }
        }
        assert_eq!((job.end(), now), (Some(End::Refused), 9_850));
    }

    #[test]
    fn an_owner_that_slept_takes_no_server_for_silent() {
        let mut job = submitting();
        job.answered(at(0), 1, Submission::Accepted);
        look(&mut job, 500, 1, Look::Running);
        // Asleep for an hour before a look, and for another one during it.
        job.handle_timeout(at(3_600_000));
        assert_eq!(job.poll_step(at(3_600_000)), Some(Step::Look(1)));
        job.looked(at(7_200_000), 1, Look::NoAnswer);
        assert_eq!(job.lost_at(), []);
        look(&mut job, 7_202_000, 1, Look::Running);
        // It hears nothing, though it listens.
        for silent in 1..15 {
            look(&mut job, 7_202_000 + silent * 2_000, 1, Look::NoAnswer);
        }
        assert_eq!(job.lost_at(), []);
        look(&mut job, 7_202_000 + 30_000, 1, Look::NoAnswer);
        assert_eq!(job.lost_at(), [(1, Loss::Silent)]);
    }

    #[test]
    fn a_job_lost_once_is_done_elsewhere_and_lost_twice_has_failed() {
        let mut job = submitting();
        job.answered(at(0), 1, Submission::Accepted);
        assert_eq!(silence(&mut job, 1), at(30_000));
        assert_eq!(job.poll_step(at(30_000)), Some(Step::Acquire));
        job.granted(at(30_000), 2);
        assert_eq!(job.poll_step(at(30_000)), Some(Step::Submit(2)));
        job.answered(at(30_000), 2, Submission::Accepted);
        look(&mut job, 30_500, 2, Look::Absent);
        look(&mut job, 31_000, 2, Look::Absent);
        let end = End::Lost(Loss::Forgotten);
        assert_eq!(job.poll_step(at(31_000)), Some(Step::Finish(end)));
        assert_eq!(job.lost_at(), [(1, Loss::Silent), (2, Loss::Forgotten)]);
    }

    #[test]
    fn a_server_that_was_silent_is_looked_at_before_the_job_is_submitted_there_again() {
        let mut job = submitting();
        job.answered(at(0), 1, Submission::Accepted);
        assert_eq!(silence(&mut job, 1), at(30_000));
        assert_eq!(job.poll_step(at(30_000)), Some(Step::Acquire));
        job.granted(at(30_000), 1);
        let mut gone = job.clone();
        look(&mut job, 30_000, 1, Look::Running);
        assert!(
            job.is_running(),
            "it is there, so that it does not run twice"
        );
        look(&mut gone, 30_000, 1, Look::Absent);
        look(&mut gone, 30_500, 1, Look::Absent);
        assert_eq!(gone.poll_step(at(30_500)), Some(Step::Submit(1)));
    }

    #[test]
    fn a_server_that_refuses_twice_is_the_last_that_is_left() {
        let mut job = submitting();
        job.answered(at(0), 1, Submission::RefusedHere);
        assert_eq!(job.refused_by(), [1]);
        assert_eq!(job.poll_step(at(0)), Some(Step::Acquire));
        job.granted(at(0), 1);
        assert_eq!(job.poll_step(at(0)), Some(Step::Submit(1)));
        job.answered(at(0), 1, Submission::RefusedHere);
        assert_eq!(job.end(), Some(End::Refused));
    }

    #[test]
    fn an_event_that_comes_before_the_answer_leads_to_a_look_at_once() {
        let mut job = submitting();
        job.look_soon(at(0), 1);
        job.answered(at(0), 1, Submission::Accepted);
        assert_eq!(job.poll_step(at(0)), Some(Step::Look(1)));
    }
}

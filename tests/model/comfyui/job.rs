//! A job and a world of servers, held to the promises of `leasehold_protocol::comfyui::Job`.
//!
//! The world knows where copies of the job really are. The oracle knows what the job was
//! told, and when it has to do what.

use super::oracle::Oracle;
use super::world::{CONFIRM, MS, World};
use arbitrary::Arbitrary;
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{
    End, Ended, Job, JobConfig, Look, Loss, ServerId, Step, Submission,
};
use proptest_derive::Arbitrary as Strategy;

/// A world and what happens in it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Servers and times.
    pub setup: Setup,
    /// Operations in order.
    pub ops: Vec<Op>,
}

/// Servers and times, each a small number of steps.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// Servers: one plus this modulo 3.
    pub servers: u8,
    /// How often the job may be done again, modulo 3.
    pub redo: u8,
    /// Pause between looks: one plus this modulo 8, in 250 ms.
    pub poll: u8,
    /// Silence after which it is lost: three plus this modulo 8, in seconds.
    pub lost_after: u8,
    /// Time without progress after which it is withdrawn: two plus this modulo 16, in seconds.
    pub stalled_after: u8,
    /// Time of an idle server after which it is withdrawn: one plus this modulo 8, in 500 ms.
    pub idle_after: u8,
    /// Length of the job: this modulo 16, in 500 ms.
    pub length: u8,
    /// Time from an interrupt to its effect, modulo 8, in 250 ms.
    pub lag: u8,
    /// Whether it is a job of an earlier process, submitted to the first server.
    pub is_placed: bool,
}

/// One operation.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Grants a server to a job that waits for one: the new ones first, then those that have lost it.
    #[proptest(weight = 8)]
    Grant(u8),
    /// Tells a job that waits that no server is left.
    NoneLeft,
    /// Settles the submission that is under way.
    #[proptest(weight = 8)]
    Submit(Delivery),
    /// The server reads the first half of a look: its queue.
    #[proptest(weight = 3)]
    ReadQueue,
    /// Answers the look that is under way, or loses it.
    #[proptest(weight = 12)]
    AnswerLook {
        /// Whether the answer is lost: this modulo 8 is zero.
        lost: u8,
    },
    /// An event of a server that has begun the job, maybe late or twice.
    #[proptest(weight = 4)]
    Event {
        /// The server.
        server: u8,
        /// Whether it tells of an end and not of progress.
        is_over: bool,
    },
    /// The caller takes the job back.
    Cancel,
    /// Something happens to a server.
    #[proptest(weight = 6)]
    Fault(u8, Fault),
    /// The gateway is killed and started again.
    RestartGateway(Delivery),
    /// Advances the clock by this many times 16 ms.
    #[proptest(weight = 8)]
    Advance(u8),
    /// Advances the clock to the next timeout, or to one nanosecond before it.
    #[proptest(weight = 10)]
    ToTheDeadline(bool),
    /// Shows a clock that is behind by this many times 64 ms, until it is advanced.
    Back(u8),
    /// Advances the clock by this many times 16 ms.
    Leap(u16),
    /// Advances the clock to this many nanoseconds before the last tick.
    #[proptest(weight = 1)]
    ToTheEnd(u8),
}

/// What becomes of a submission.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Delivery {
    /// It is received and answered.
    #[proptest(weight = 6)]
    Answered,
    /// It is received, and the answer is lost.
    AnswerLost,
    /// It is received, and answered with an error of the server's own.
    Broken,
    /// It is received after its answer was given up, by less than the pause between two looks.
    Late(u8),
    /// It is never received, which nothing says.
    Lost,
    /// No connection is made.
    Unsent,
}

/// What happens to a server.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Fault {
    /// It gives no answer from now on.
    Silence,
    /// It answers again.
    #[proptest(weight = 3)]
    Return,
    /// It is started again, and has forgotten all.
    Restart,
    /// Its worker runs nothing from now on.
    KillWorker,
    /// It refuses the job from now on: as one that lacks something, as one for which the job is wrong, as one that the
    /// job breaks, or no longer.
    Refuse(u8),
    /// It runs a job of another client for this many times 64 ms.
    Busy(u8),
    /// Another client interrupts what runs.
    Interrupt,
    /// The job fails there, if it runs.
    Fail,
}

impl Setup {
    /// Returns the number of servers.
    #[must_use]
    pub fn servers(self) -> u32 {
        u32::from(self.servers % 3) + 1
    }

    pub(super) fn config(self) -> JobConfig {
        let steps = |number: u8, step: u64| Duration::from_nanos(u64::from(number) * step * MS);
        JobConfig {
            poll: steps(self.poll % 8 + 1, 250),
            lost_after: steps(self.lost_after % 8 + 3, 1_000),
            stalled_after: steps(self.stalled_after % 16 + 2, 1_000),
            idle_after: steps(self.idle_after % 8 + 1, 500),
            redo: u32::from(self.redo % 3),
        }
    }

    pub(super) fn length(self) -> u64 {
        u64::from(self.length % 16) * 500 * MS
    }

    pub(super) fn lag(self) -> u64 {
        u64::from(self.lag % 8) * 250 * MS
    }

    /// The time in which a job ends once servers answer.
    fn bound(self) -> u64 {
        let config = self.config();
        let once = config.lost_after * 2 + config.stalled_after + config.idle_after;
        let once = once + config.poll * 4 + Duration::from_secs(10);
        // A job of another client takes 17 s at most.
        let once = once.as_nanos() as u64 + self.length() * 3 + self.lag() + 17_000 * MS;
        once * u64::from(config.redo + 2)
    }
}

/// A look under way.
#[derive(Clone, Copy, Debug)]
struct Looking {
    server: ServerId,
    /// What the queue has shown, once it was read.
    queue: Option<Look>,
}

/// A run of a case.
#[derive(Debug)]
struct Run {
    setup: Setup,
    job: Job,
    world: World,
    oracle: Oracle,
    now: u64,
    /// How far the clock that the job is shown is behind.
    behind: u64,
    is_acquiring: bool,
    submitting: Option<ServerId>,
    looking: Option<Looking>,
    losses_before: u32,
}

/// Runs a case.
///
/// # Panics
/// If the job breaks a promise.
pub fn run(case: &Case) {
    let mut run = Run::new(case.setup);
    run.carry_out();
    for op in &case.ops {
        run.apply(*op);
        run.carry_out();
        run.check_deadline();
    }
    run.finish();
}

impl Run {
    fn new(setup: Setup) -> Self {
        let config = setup.config();
        let mut world = World::new(setup);
        let mut oracle = Oracle::new(config);
        let job = if setup.is_placed {
            world.receive(0, 0);
            oracle.restarted(0, Some(0), 0);
            Job::placed(config, Tick::ZERO, 0)
        } else {
            Job::new(config)
        };
        Self {
            setup,
            job,
            world,
            oracle,
            now: 0,
            behind: 0,
            is_acquiring: false,
            submitting: None,
            looking: None,
            losses_before: 0,
        }
    }

    fn shown(&self) -> Tick {
        Tick::from_nanos(self.now.saturating_sub(self.behind))
    }

    fn advance_to(&mut self, to: u64) {
        self.behind = 0;
        self.now = self.now.max(to);
        self.world.advance_to(self.now);
        self.job.handle_timeout(self.shown());
        self.oracle.time_passed(self.now);
    }

    fn apply(&mut self, op: Op) {
        let server_of = |number: u8| u32::from(number) % self.setup.servers();
        match op {
            Op::Grant(which) => {
                self.grant(which);
                // Sometimes before the job is submitted.
                if which % 16 == 14 {
                    self.cancel();
                }
            }
            Op::NoneLeft => self.none_left(),
            Op::Submit(delivery) => self.settle_submission(delivery),
            Op::ReadQueue => self.read_queue(),
            Op::AnswerLook { lost } => self.answer_look(lost % 8 == 0),
            Op::Event { server, is_over } => self.event(server_of(server), is_over),
            Op::Cancel => self.cancel(),
            Op::Fault(server, fault) => {
                let server = server_of(server);
                self.world.fault(self.now, server, fault);
            }
            Op::RestartGateway(delivery) => self.restart_gateway(delivery),
            Op::Advance(steps) => {
                self.advance_to(self.now.saturating_add(u64::from(steps) * 16 * MS))
            }
            Op::ToTheDeadline(before) => {
                if let Some(due) = self.job.poll_timeout() {
                    self.advance_to(due.as_nanos().saturating_sub(before.into()));
                }
            }
            Op::Back(steps) => self.behind = u64::from(steps) * 64 * MS,
            Op::Leap(steps) => self.advance_to(self.now.saturating_add(u64::from(steps) * 16 * MS)),
            Op::ToTheEnd(left) => self.advance_to(u64::MAX - u64::from(left)),
        }
    }

    /// Grants a server as the job asks for: those that lack something never, those that have lost it last.
    fn grant(&mut self, which: u8) {
        if !self.is_acquiring {
            return;
        }
        let refused = |server: &u32| self.job.refused_by().contains(server);
        let lost = |server: &u32| self.job.lost_at().iter().any(|(at, _)| at == server);
        let left: Vec<u32> = (0..self.setup.servers())
            .filter(|it| !refused(it))
            .collect();
        // Sometimes one that refused it, since there is no other.
        let left = match which % 8 {
            7 => (0..self.setup.servers()).collect(),
            _ => left,
        };
        let new: Vec<u32> = left.iter().copied().filter(|it| !lost(it)).collect();
        let best = if new.is_empty() { &left } else { &new };
        if best.is_empty() {
            self.none_left();
            return;
        }
        let server = best[usize::from(which) % best.len()];
        self.is_acquiring = false;
        // A look of the job's last stay there is given up.
        self.looking = self.looking.filter(|look| look.server != server);
        self.job.granted(self.shown(), server);
        self.oracle.granted(self.now, server);
    }

    fn none_left(&mut self) {
        if self.is_acquiring {
            self.is_acquiring = false;
            self.job.none_left();
            self.oracle.none_left();
        }
    }

    fn settle_submission(&mut self, delivery: Delivery) {
        let Some(server) = self.submitting.take() else {
            return;
        };
        let answer = self.world.deliver(self.now, server, delivery);
        self.job.answered(self.shown(), server, answer);
        self.oracle.answered(self.now, server, answer);
    }

    fn read_queue(&mut self) {
        if let Some(looking) = &mut self.looking
            && looking.queue.is_none()
        {
            looking.queue = Some(self.world.queue(looking.server));
        }
    }

    fn answer_look(&mut self, is_lost: bool) {
        self.read_queue();
        let Some(looking) = self.looking.take() else {
            // An answer to no look changes nothing.
            if let Some(server) = self.job.server() {
                self.job.looked(self.shown(), server, Look::Absent);
                self.job
                    .looked(self.shown(), server, Look::Ended(Ended::Failed));
            }
            return;
        };
        let look = match looking.queue {
            Some(queue) if !is_lost => self.world.history_after(looking.server, queue),
            Some(_) | None => Look::NoAnswer,
        };
        if self.job.server() == Some(looking.server) {
            self.job.looked(self.shown(), looking.server, look);
            self.oracle.looked(self.now, look);
        } else {
            // It is of a server that no longer has the job.
            self.job.looked(self.shown(), looking.server, look);
        }
    }

    fn event(&mut self, server: ServerId, is_over: bool) {
        if !self.world.has_begun(server) {
            return;
        }
        if is_over {
            self.job.look_soon(self.shown(), server);
        } else {
            self.job.progressed(self.shown(), server);
        }
        self.oracle.event(self.now, server, is_over);
    }

    /// Kills the gateway, whose journal knows the server, the losses and the caller's wish.
    fn restart_gateway(&mut self, delivery: Delivery) {
        self.behind = 0;
        if let Some(server) = self.submitting.take() {
            // The answer finds no reader.
            let _ = self.world.deliver(self.now, server, delivery);
        }
        if self.job.end().is_some() {
            return;
        }
        (self.is_acquiring, self.looking) = (false, None);
        let server = self.job.server();
        let losses = u32::try_from(self.job.lost_at().len()).expect("few losses");
        self.losses_before += losses;
        let config = self.setup.config().after_losses(self.losses_before);
        self.job = match server {
            Some(server) => Job::placed(config, self.shown(), server),
            None => Job::new(config),
        };
        self.oracle.restarted(self.now, server, self.losses_before);
        if self.oracle.is_cancelled {
            self.cancel();
        }
    }

    fn cancel(&mut self) {
        self.job.cancel(self.shown());
        self.oracle.cancelled(self.now);
    }

    /// Carries out the steps that are due.
    fn carry_out(&mut self) {
        self.oracle.time_passed(self.now);
        self.job.handle_timeout(self.shown());
        self.job.handle_timeout(self.shown());
        let mut steps = 0;
        while let Some(step) = self.job.poll_step(self.shown()) {
            self.oracle.step(self.now, step);
            match step {
                Step::Acquire => self.is_acquiring = true,
                Step::Submit(server) => {
                    self.world.check_submission(&self.oracle);
                    self.submitting = Some(server);
                }
                Step::Look(server) => {
                    self.looking = Some(Looking {
                        server,
                        queue: None,
                    });
                }
                Step::Withdraw(server) => self.world.withdraw(self.now, server),
                Step::Finish(end) => self.check_end(end),
            }
            steps += 1;
            assert!(steps < 8, "{step:?} again and again: {:?}", self.job);
        }
        self.oracle.compare(&self.job);
    }

    fn check_end(&self, end: End) {
        assert_eq!(self.job.end(), Some(end));
        if end == End::Cancelled {
            self.world.check_withdrawn(&self.oracle);
        }
    }

    /// Checks that nothing is done before the next timeout, and something at it.
    fn check_deadline(&self) {
        let Some(due) = self.job.poll_timeout() else {
            return;
        };
        if due.as_nanos() > self.now {
            let mut early = self.job.clone();
            let before = Tick::from_nanos(due.as_nanos() - 1);
            early.handle_timeout(before);
            assert_eq!(early.poll_step(before), None, "before {due:?}");
            assert_eq!(early.poll_timeout(), Some(due), "no effect before {due:?}");
        }
        let due = due.max(self.shown());
        if due == Tick::MAX {
            return;
        }
        let mut late = self.job.clone();
        late.handle_timeout(due);
        // During a look it may have to come only to show that it can hear.
        let is_done = late.poll_step(due).is_some() || self.looking.is_some();
        let is_later = late.poll_timeout() != Some(due);
        assert!(is_done && is_later, "at {due:?}: {late:?}");
    }

    /// Lets all servers answer, and checks that the job ends.
    fn finish(&mut self) {
        let end = self.now.saturating_add(self.setup.bound());
        if end == u64::MAX {
            return;
        }
        for server in 0..self.setup.servers() {
            self.world.heal(self.now, server);
        }
        for _ in 0..10_000 {
            self.carry_out();
            self.grant(0);
            self.settle_submission(Delivery::Answered);
            self.answer_look(false);
            self.carry_out();
            if self.job.end().is_some() {
                break;
            }
            let due = self.job.poll_timeout();
            let next = due.map_or(self.now, Tick::as_nanos);
            let next = self
                .world
                .next_change(self.now)
                .map_or(next, |at| at.min(next));
            if self.looking.is_none() && !self.is_acquiring && self.submitting.is_none() {
                assert!(due.is_some(), "it waits for nothing: {:?}", self.job);
                self.advance_to(next);
            }
            assert!(
                self.now <= end,
                "no end in {:?}: {:?}",
                self.setup.bound(),
                self.job
            );
        }
        assert!(self.job.end().is_some(), "no end: {:?}", self.job);
        self.advance_to(end);
        assert_eq!(self.job.poll_step(self.shown()), None);
        assert_eq!(self.job.poll_timeout(), None);
        self.world.check_runs(&self.oracle);
    }
}

/// The pause that the last two looks have to be apart.
pub(super) const PAUSE: u64 = CONFIRM;

/// Names of losses in which a copy may go on, so that the job runs twice.
pub(super) fn may_run_twice(loss: Loss) -> bool {
    match loss {
        Loss::Forgotten => false,
        Loss::Silent | Loss::DeadWorker | Loss::Stalled => true,
    }
}

/// Whether an answer leaves the job with the server, as far as is known.
pub(super) fn may_have(answer: Submission) -> bool {
    match answer {
        Submission::Accepted | Submission::Unsure | Submission::Faulted => true,
        Submission::Unsent | Submission::RefusedHere | Submission::RefusedEverywhere => false,
    }
}

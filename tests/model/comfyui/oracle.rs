//! What a job was told, kept as a log, and what follows from it.
//!
//! Each answer is computed anew from the log of the job's stay at its server.

use super::job::{PAUSE, may_have, may_run_twice};
use super::world::MS;
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{
    End, Ended, Job, JobConfig, Look, Loss, ServerId, Step, Submission,
};

/// Errors of servers after which a job that no server has is refused.
const MAX_FAULTS: u32 = 8;

/// Where the job has to be, by all that it was told.
#[derive(Debug)]
pub(super) struct Oracle {
    config: JobConfig,
    state: State,
    pub(super) is_cancelled: bool,
    /// Whether the job left a server that may go on with it.
    pub(super) may_run_twice: bool,
    refused_by: Vec<ServerId>,
    lost_at: Vec<(ServerId, Loss)>,
    /// Losses that the journal has of it.
    losses_before: u32,
    /// Submissions that came to nothing.
    fruitless: u32,
    /// Submissions that a server answered with an error of its own.
    faults: u32,
    /// How long the owner slept over what was due; ticks of the state leave that time out.
    slept: u64,
}

#[derive(Debug)]
enum State {
    Waiting {
        from: u64,
        is_asked: bool,
    },
    Submitting {
        server: ServerId,
        is_asked: bool,
        has_news: bool,
    },
    Placed(Stay),
    Ended {
        end: End,
        is_told: bool,
    },
}

/// The job's stay at a server.
#[derive(Debug)]
struct Stay {
    server: ServerId,
    began: u64,
    /// Whether the server has said at once that it has the job.
    is_accepted: bool,
    /// Whether it is submitted only if looks find the server without it.
    is_check: bool,
    /// Whether it was withdrawn there before.
    was_withdrawn: bool,
    told: Vec<Told>,
    /// When the look under way was asked for.
    asked: Option<u64>,
    /// By when the owner has to come during a look.
    comes: u64,
    leaves: Option<(Loss, u64)>,
    must_withdraw: bool,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Progress(u64),
    /// When a look was answered, and what it has shown.
    Look(u64, Look),
    /// Another look is wanted.
    Wish(u64),
    /// A look is asked for.
    Asked,
}

impl Stay {
    fn new(began: u64, server: ServerId, is_accepted: bool) -> Self {
        Self {
            server,
            began,
            is_accepted,
            is_check: false,
            was_withdrawn: false,
            told: Vec::new(),
            asked: None,
            comes: 0,
            leaves: None,
            must_withdraw: false,
        }
    }

    /// Ticks of signs that the server has the job.
    fn signs(&self) -> impl Iterator<Item = u64> {
        self.told.iter().filter_map(|told| match *told {
            Told::Progress(at) | Told::Look(at, Look::Running | Look::Waiting { .. }) => Some(at),
            Told::Look(..) | Told::Wish(_) | Told::Asked => None,
        })
    }

    fn is_sure(&self) -> bool {
        self.is_accepted || self.signs().next().is_some()
    }

    /// When the job last went on; one that waits is not expected to.
    fn progress(&self) -> u64 {
        let all = self.told.iter().filter_map(|told| match *told {
            Told::Progress(at) | Told::Look(at, Look::Waiting { .. }) => Some(at),
            Told::Look(..) | Told::Wish(_) | Told::Asked => None,
        });
        all.max().unwrap_or(self.began)
    }

    /// The first of the looks that found the server without it, since the last sign.
    fn absent_since(told: &[Told]) -> Option<u64> {
        let mut since = None;
        for told in told {
            match *told {
                Told::Progress(_) | Told::Look(_, Look::Running | Look::Waiting { .. }) => {
                    since = None;
                }
                Told::Look(at, Look::Absent) => since = since.or(Some(at)),
                Told::Look(_, Look::NoAnswer | Look::Ended(_)) | Told::Wish(_) | Told::Asked => {}
            }
        }
        since
    }

    fn idle_since(&self) -> Option<u64> {
        let mut since = None;
        for told in &self.told {
            match *told {
                Told::Progress(_)
                | Told::Look(_, Look::Running | Look::Waiting { is_idle: false }) => since = None,
                Told::Look(at, Look::Waiting { is_idle: true }) => since = since.or(Some(at)),
                Told::Look(_, Look::Absent | Look::NoAnswer | Look::Ended(_))
                | Told::Wish(_)
                | Told::Asked => {}
            }
        }
        since
    }

    /// When the next look is due, unless one is under way.
    fn next_look(&self, config: &JobConfig) -> Option<u64> {
        if self.asked.is_some() {
            return None;
        }
        let is_look = |told: &Told| matches!(told, Told::Look(..));
        let last = self.told.iter().rposition(is_look);
        let (answered, pause) = match last.map(|last| (self.told[last], &self.told[..=last])) {
            Some((Told::Look(at, _), told)) if Self::absent_since(told).is_none() => {
                (at, nanos(config.poll))
            }
            Some((Told::Look(at, _), _)) => (at, PAUSE),
            Some((Told::Progress(_) | Told::Wish(_) | Told::Asked, _)) | None => {
                (self.began, PAUSE)
            }
        };
        let wish = self.wishes().map(|at| at.max(answered)).min();
        let due = answered.saturating_add(pause);
        Some(wish.map_or(due, |wish| wish.min(due)))
    }

    /// Ticks of wishes since the last look that was answered was asked for.
    fn wishes(&self) -> impl Iterator<Item = u64> {
        let is_asked = |told: &Told| matches!(told, Told::Asked);
        let asked = self.told.iter().rposition(is_asked).unwrap_or(0);
        self.told[asked..].iter().filter_map(|told| match *told {
            Told::Wish(at) => Some(at),
            Told::Progress(_) | Told::Look(..) | Told::Asked => None,
        })
    }

    fn lost_at(&self, config: &JobConfig) -> u64 {
        let sign = self.signs().max().unwrap_or(self.began);
        let since = self.leaves.map_or(sign, |(_, since)| since);
        since.saturating_add(nanos(config.lost_after))
    }

    /// Why the job is to leave, by the last look that has shown it.
    fn stall(&self, config: &JobConfig, now: u64) -> Option<Loss> {
        let idles = |since: u64| now - since >= nanos(config.idle_after);
        if self.idle_since().is_some_and(idles) {
            Some(Loss::DeadWorker)
        } else if now - self.progress() >= nanos(config.stalled_after) {
            Some(Loss::Stalled)
        } else {
            None
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Oracle {
    pub(super) fn new(config: JobConfig) -> Self {
        Self {
            config,
            state: State::Waiting {
                from: 0,
                is_asked: false,
            },
            is_cancelled: false,
            may_run_twice: false,
            refused_by: Vec::new(),
            lost_at: Vec::new(),
            losses_before: 0,
            fruitless: 0,
            faults: 0,
            slept: 0,
        }
    }

    /// The gateway was started again, and knows of the job what its journal has.
    pub(super) fn restarted(&mut self, now: u64, server: Option<ServerId>, losses: u32) {
        self.refused_by.clear();
        self.lost_at.clear();
        (self.fruitless, self.faults, self.slept) = (0, 0, 0);
        self.losses_before = losses;
        self.state = match server {
            None => State::Waiting {
                from: 0,
                is_asked: false,
            },
            Some(server) => {
                let mut stay = Stay::new(now, server, true);
                stay.told.push(Told::Wish(now));
                State::Placed(stay)
            }
        };
    }

    pub(super) fn granted(&mut self, now: u64, server: ServerId) {
        let now = now - self.slept;
        // The job may have been taken back meanwhile.
        if !matches!(self.state, State::Waiting { is_asked: true, .. }) {
            return;
        }
        if self.lost_at.iter().any(|(at, _)| *at == server) {
            let mut stay = Stay::new(now, server, false);
            stay.is_check = true;
            stay.was_withdrawn = self.was_withdrawn(server);
            stay.told.push(Told::Wish(now));
            self.state = State::Placed(stay);
        } else {
            self.submit(server);
        }
    }

    fn was_withdrawn(&self, server: ServerId) -> bool {
        let all = [Loss::Stalled, Loss::DeadWorker].map(|loss| (server, loss));
        all.iter().any(|one| self.lost_at.contains(one))
    }

    fn submit(&mut self, server: ServerId) {
        self.state = State::Submitting {
            server,
            is_asked: false,
            has_news: false,
        };
    }

    pub(super) fn none_left(&mut self) {
        if !matches!(self.state, State::Waiting { .. }) {
            return;
        }
        self.end(match self.lost_at.last() {
            Some((_, loss)) if self.refused_by.is_empty() => End::Lost(*loss),
            Some(_) | None => End::Refused,
        });
    }

    pub(super) fn answered(&mut self, now: u64, server: ServerId, answer: Submission) {
        let now = now - self.slept;
        let State::Submitting { has_news, .. } = self.state else {
            panic!("it submits nothing: {:?}", self.state);
        };
        if may_have(answer) {
            let mut stay = Stay::new(now, server, answer == Submission::Accepted);
            stay.was_withdrawn = self.was_withdrawn(server);
            self.faults += u32::from(answer == Submission::Faulted);
            if has_news || answer != Submission::Accepted || self.is_cancelled {
                stay.told.push(Told::Wish(now));
            }
            stay.must_withdraw = self.is_cancelled;
            self.state = State::Placed(stay);
            return;
        }
        if answer == Submission::Unsent {
            return self.wait_longer(now);
        }
        let again = self.refused_by.contains(&server);
        if answer == Submission::RefusedEverywhere || again {
            return self.end(End::Refused);
        }
        self.refused_by.push(server);
        self.wait(now);
    }

    pub(super) fn event(&mut self, now: u64, server: ServerId, is_over: bool) {
        let now = now - self.slept;
        match &mut self.state {
            State::Placed(stay) if stay.server == server => {
                stay.told.push(match is_over {
                    true => Told::Wish(now),
                    false => Told::Progress(now),
                });
            }
            State::Submitting {
                server: to,
                has_news,
                ..
            } if *to == server => *has_news = true,
            State::Waiting { .. }
            | State::Submitting { .. }
            | State::Placed(_)
            | State::Ended { .. } => {}
        }
    }

    pub(super) fn looked(&mut self, now: u64, look: Look) {
        let now = now - self.slept;
        let (config, is_cancelled) = (self.config, self.is_cancelled);
        let State::Placed(stay) = &mut self.state else {
            panic!("it is nowhere: {:?}", self.state);
        };
        let asked = stay.asked.take().expect("a look is under way");
        let look = match look {
            // That is how its server's worker obeyed when the job was taken from it before.
            Look::Ended(Ended::Interrupted)
                if stay.was_withdrawn && stay.leaves.is_none() && !stay.is_sure() =>
            {
                Look::Absent
            }
            Look::Running
            | Look::Waiting { .. }
            | Look::Ended(_)
            | Look::Absent
            | Look::NoAnswer => look,
        };
        stay.told.push(Told::Look(now, look));
        match look {
            Look::NoAnswer => {}
            Look::Running | Look::Waiting { .. } => {
                let stall = stay.stall(&config, now);
                match (stay.leaves, stall) {
                    (None, Some(loss)) => {
                        stay.leaves = Some((loss, now));
                        stay.told.push(Told::Wish(now));
                        stay.must_withdraw = true;
                    }
                    (Some(_), _) => stay.must_withdraw = true,
                    (None, None) => stay.must_withdraw |= is_cancelled,
                }
            }
            Look::Ended(ended) => match (stay.leaves, ended) {
                (Some((loss, _)), Ended::Interrupted) => self.lost(now, loss),
                (_, Ended::Succeeded | Ended::Failed | Ended::Interrupted) => {
                    let server = stay.server;
                    self.end(End::OnServer(server, ended));
                }
            },
            Look::Absent => {
                let since = Stay::absent_since(&stay.told).expect("it is absent");
                if asked.saturating_sub(since) >= PAUSE {
                    self.absent(now);
                }
            }
        }
        self.lose_if_silent(now);
    }

    /// Two looks a pause apart have found the server without it.
    fn absent(&mut self, now: u64) {
        let State::Placed(stay) = &self.state else {
            return;
        };
        match (stay.leaves, stay.is_sure()) {
            (Some((loss, _)), _) => self.lost(now, loss),
            (None, true) => self.lost(now, Loss::Forgotten),
            (None, false) if stay.is_check && !self.is_cancelled => self.submit(stay.server),
            (None, false) if self.faults >= MAX_FAULTS && !self.is_cancelled => {
                self.end(End::Refused);
            }
            (None, false) => self.wait_longer(now),
        }
    }

    /// The owner comes, maybe later than it was to.
    pub(super) fn time_passed(&mut self, now: u64) {
        if let Some(late) = self.due().and_then(|due| now.checked_sub(due))
            && late >= PAUSE
        {
            self.slept += late;
        }
        let now = now - self.slept;
        let beat = nanos(self.config.poll).max(PAUSE);
        if let State::Placed(stay) = &mut self.state
            && stay.comes <= now
        {
            stay.comes = now.saturating_add(beat);
        }
        self.lose_if_silent(now);
    }

    /// When the owner has to come.
    fn due(&self) -> Option<u64> {
        let due = match &self.state {
            State::Waiting { from, is_asked } => (!is_asked).then_some(*from),
            State::Placed(stay) => {
                let look = stay.next_look(&self.config).unwrap_or(stay.comes);
                Some(look.min(stay.lost_at(&self.config)))
            }
            State::Submitting { .. } | State::Ended { .. } => None,
        };
        due.map(|due| due.saturating_add(self.slept))
    }

    fn lose_if_silent(&mut self, now: u64) {
        if let State::Placed(stay) = &self.state
            && stay.lost_at(&self.config) <= now
        {
            let loss = stay.leaves.map_or(Loss::Silent, |(loss, _)| loss);
            self.lost(now, loss);
        }
    }

    pub(super) fn cancelled(&mut self, now: u64) {
        let now = now - self.slept;
        self.is_cancelled = true;
        match &mut self.state {
            State::Waiting { .. }
            | State::Submitting {
                is_asked: false, ..
            } => {
                self.end(End::Cancelled);
            }
            State::Placed(stay) => {
                stay.must_withdraw = true;
                stay.told.push(Told::Wish(now));
            }
            State::Submitting { .. } | State::Ended { .. } => {}
        }
    }

    fn lost(&mut self, now: u64, loss: Loss) {
        self.may_run_twice |= may_run_twice(loss);
        let State::Placed(stay) = &self.state else {
            return;
        };
        if self.is_cancelled {
            return self.end(End::Cancelled);
        }
        if stay.is_check && !stay.is_sure() {
            return self.wait(now);
        }
        self.lost_at.push((stay.server, loss));
        let times = u32::try_from(self.lost_at.len()).expect("few losses");
        if times + self.losses_before > self.config.redo.max(self.losses_before) {
            self.end(End::Lost(loss));
        } else {
            self.wait(now);
        }
    }

    fn wait_longer(&mut self, now: u64) {
        let pause = (50_u64 << self.fruitless.min(20)).min(5_000);
        self.fruitless += 1;
        self.wait(now.saturating_add(pause * MS));
    }

    fn wait(&mut self, from: u64) {
        if self.is_cancelled {
            return self.end(End::Cancelled);
        }
        self.state = State::Waiting {
            from,
            is_asked: false,
        };
    }

    fn end(&mut self, end: End) {
        self.state = State::Ended {
            end,
            is_told: false,
        };
    }

    /// Checks a step, and notes that it was asked for.
    pub(super) fn step(&mut self, now: u64, step: Step) {
        let now = now - self.slept;
        let context = format!("{step:?} at {now}: {self:?}");
        let (config, is_cancelled) = (self.config, self.is_cancelled);
        match (step, &mut self.state) {
            (Step::Acquire, State::Waiting { from, is_asked }) => {
                assert!(*from <= now && !*is_asked && !is_cancelled, "{context}");
                *is_asked = true;
            }
            (
                Step::Submit(to),
                State::Submitting {
                    server, is_asked, ..
                },
            ) => {
                assert!(to == *server && !*is_asked && !is_cancelled, "{context}");
                *is_asked = true;
            }
            (Step::Look(at), State::Placed(stay)) => {
                let is_due = stay.next_look(&config).is_some_and(|due| due <= now);
                assert!(
                    at == stay.server && is_due && !stay.must_withdraw,
                    "{context}"
                );
                stay.asked = Some(now);
                stay.comes = now.saturating_add(nanos(config.poll).max(PAUSE));
                stay.told.push(Told::Asked);
            }
            (Step::Withdraw(at), State::Placed(stay)) => {
                assert!(at == stay.server && stay.must_withdraw, "{context}");
                stay.must_withdraw = false;
            }
            (Step::Finish(told), State::Ended { end, is_told }) => {
                assert!(told == *end && !*is_told, "{context}");
                *is_told = true;
            }
            (
                Step::Acquire
                | Step::Submit(_)
                | Step::Look(_)
                | Step::Withdraw(_)
                | Step::Finish(_),
                _,
            ) => panic!("{context}"),
        }
    }

    /// Compares the job, all of whose steps were carried out.
    pub(super) fn compare(&self, job: &Job) {
        let context = || format!("{self:?}\n{job:?}");
        assert_eq!(job.refused_by(), self.refused_by, "{}", context());
        assert_eq!(job.lost_at(), self.lost_at, "{}", context());
        let (server, end) = match &self.state {
            State::Waiting { .. } => (None, None),
            State::Submitting {
                server, is_asked, ..
            } => {
                assert!(*is_asked, "{}", context());
                (Some(*server), None)
            }
            State::Placed(stay) => {
                assert!(!stay.must_withdraw, "{}", context());
                (Some(stay.server), None)
            }
            State::Ended { end, is_told } => {
                assert!(*is_told, "{}", context());
                (None, Some(*end))
            }
        };
        let due = self.due();
        assert_eq!(job.server(), server, "{}", context());
        assert_eq!(job.poll_timeout().map(Tick::as_nanos), due, "{}", context());
        assert_eq!(job.end(), end, "{}", context());
    }
}

//! A few servers, and where copies of one job really are.

use super::job::{Delivery, Fault, Setup};
use super::oracle::Oracle;
use leasehold_protocol::comfyui::{Ended, Look, ServerId, Submission};

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;

/// The time within which a submission arrives after its answer was given up.
pub(super) const CONFIRM: u64 = 500 * MS;

/// Servers and what is on its way to them.
#[derive(Debug)]
pub(super) struct World {
    servers: Vec<Server>,
    /// Submissions that arrive later.
    late: Vec<(u64, ServerId)>,
    now: u64,
    length: u64,
    lag: u64,
    /// How often the job has run to its end.
    runs: u32,
    was_restarted: bool,
}

#[derive(Clone, Debug, Default)]
struct Server {
    is_silent: bool,
    is_dead: bool,
    refuses: Option<Submission>,
    /// Copies that wait, by when they arrived.
    pending: Vec<u64>,
    running: Option<Running>,
    /// When the job of another client is done.
    busy_until: u64,
    history: Option<Ended>,
    has_begun: bool,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    until: u64,
    ends: Ended,
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let count = usize::try_from(setup.servers()).expect("few servers");
        Self {
            servers: vec![Server::default(); count],
            late: Vec::new(),
            now: 0,
            length: setup.length(),
            lag: setup.lag(),
            runs: 0,
            was_restarted: false,
        }
    }

    fn server(&mut self, server: ServerId) -> &mut Server {
        &mut self.servers[server as usize]
    }

    pub(super) fn receive(&mut self, now: u64, server: ServerId) {
        self.server(server).pending.push(now);
        self.advance_to(now);
    }

    pub(super) fn has_begun(&self, server: ServerId) -> bool {
        self.servers[server as usize].has_begun
    }

    /// Carries out a submission; returns what the gateway hears.
    pub(super) fn deliver(&mut self, now: u64, server: ServerId, delivery: Delivery) -> Submission {
        let to = self.server(server);
        if to.is_silent {
            return match delivery {
                Delivery::Unsent => Submission::Unsent,
                Delivery::Answered
                | Delivery::AnswerLost
                | Delivery::Broken
                | Delivery::Late(_)
                | Delivery::Lost => Submission::Unsure,
            };
        }
        let refuses = to.refuses;
        match (delivery, refuses) {
            (Delivery::Unsent, _) => Submission::Unsent,
            (Delivery::Lost, _) | (Delivery::AnswerLost | Delivery::Late(_), Some(_)) => {
                Submission::Unsure
            }
            (Delivery::Answered | Delivery::Broken, Some(refusal)) => refusal,
            (Delivery::Answered, None) => {
                self.receive(now, server);
                Submission::Accepted
            }
            (Delivery::Broken, None) => {
                self.receive(now, server);
                Submission::Faulted
            }
            (Delivery::AnswerLost, None) => {
                self.receive(now, server);
                Submission::Unsure
            }
            (Delivery::Late(steps), None) => {
                let after = u64::from(steps) * CONFIRM / 256;
                self.late.push((now.saturating_add(after), server));
                self.advance_to(now);
                Submission::Unsure
            }
        }
    }

    pub(super) fn fault(&mut self, now: u64, server: ServerId, fault: Fault) {
        let to = self.server(server);
        match fault {
            Fault::Silence => to.is_silent = true,
            Fault::Return => to.is_silent = false,
            Fault::Restart => {
                let refuses = to.refuses;
                *to = Server {
                    refuses,
                    has_begun: to.has_begun,
                    ..Server::default()
                };
                self.was_restarted = true;
            }
            Fault::KillWorker => to.is_dead = true,
            Fault::Refuse(how) => {
                to.refuses = match how % 5 {
                    0 => Some(Submission::RefusedHere),
                    1 => Some(Submission::RefusedEverywhere),
                    2 => Some(Submission::Faulted),
                    _ => None,
                }
            }
            Fault::Busy(steps) => {
                to.busy_until = now.saturating_add(u64::from(steps) * 64 * MS);
            }
            Fault::Interrupt => to.end_now(now, Ended::Interrupted),
            Fault::Fail => to.end_now(now, Ended::Failed),
        }
        self.advance_to(now);
    }

    /// Lets a server answer and work from now on. One whose worker is dead is started again.
    pub(super) fn heal(&mut self, now: u64, server: ServerId) {
        if self.server(server).is_dead {
            self.fault(now, server, Fault::Restart);
        }
        self.fault(now, server, Fault::Return);
    }

    /// Takes the copies out of a server's queue, and interrupts one that runs.
    pub(super) fn withdraw(&mut self, now: u64, server: ServerId) {
        let lag = self.lag;
        let to = self.server(server);
        if to.is_silent {
            return;
        }
        // ComfyUI removes the first of this id alone.
        if !to.pending.is_empty() {
            to.pending.remove(0);
        }
        if let Some(running) = &mut to.running {
            let at = now.saturating_add(lag);
            if at < running.until {
                *running = Running {
                    until: at,
                    ends: Ended::Interrupted,
                };
            }
        }
        self.advance_to(now);
    }

    /// What a server's queue shows.
    pub(super) fn queue(&self, server: ServerId) -> Look {
        let server = &self.servers[server as usize];
        if server.is_silent {
            Look::NoAnswer
        } else if server.running.is_some() {
            Look::Running
        } else if server.pending.is_empty() {
            Look::Absent
        } else {
            let is_idle = server.is_dead || server.busy_until <= self.now;
            Look::Waiting { is_idle }
        }
    }

    /// What a look shows, after what the queue has shown.
    pub(super) fn history_after(&self, server: ServerId, queue: Look) -> Look {
        let server = &self.servers[server as usize];
        match (queue, server.history) {
            (Look::Absent, _) if server.is_silent => Look::NoAnswer,
            (Look::Absent, Some(ended)) => Look::Ended(ended),
            (Look::Absent, None) => Look::Absent,
            (Look::Running | Look::Waiting { .. } | Look::NoAnswer | Look::Ended(_), _) => queue,
        }
    }

    pub(super) fn advance_to(&mut self, now: u64) {
        self.now = self.now.max(now);
        let now = self.now;
        let arrived: Vec<(u64, ServerId)> = self
            .late
            .iter()
            .copied()
            .filter(|(at, _)| *at <= now)
            .collect();
        self.late.retain(|(at, _)| *at > now);
        for (at, server) in arrived {
            let to = self.server(server);
            if !to.is_silent && to.refuses.is_none() {
                to.pending.push(at);
            }
        }
        let length = self.length;
        for server in &mut self.servers {
            self.runs += server.work(now, length);
        }
    }

    /// When something happens by itself.
    pub(super) fn next_change(&self, now: u64) -> Option<u64> {
        let ends = self.servers.iter().filter(|it| !it.is_dead);
        let ends = ends.flat_map(|it| [it.running.map(|it| it.until), Some(it.busy_until)]);
        let late = self.late.iter().map(|(at, _)| *at);
        ends.flatten().chain(late).filter(|at| *at > now).min()
    }

    /// Checks that no copy is left when the job is submitted anew, unless one may run twice.
    pub(super) fn check_submission(&self, oracle: &Oracle) {
        if oracle.may_run_twice {
            return;
        }
        self.check_no_copy();
        let has_ended = |it: &Server| matches!(it.history, Some(Ended::Succeeded | Ended::Failed));
        assert!(
            !self.servers.iter().any(has_ended),
            "it has ended: {self:?}"
        );
    }

    /// Checks that a job that was taken back is nowhere, unless its server could not be told.
    pub(super) fn check_withdrawn(&self, oracle: &Oracle) {
        if !oracle.may_run_twice {
            self.check_no_copy();
        }
    }

    fn check_no_copy(&self) {
        assert!(self.late.is_empty(), "a copy is on its way: {self:?}");
        let has_it = |it: &Server| !it.pending.is_empty() || it.running.is_some();
        assert!(!self.servers.iter().any(has_it), "a copy is left: {self:?}");
    }

    /// Checks that the job ran at most once, unless it may run twice.
    pub(super) fn check_runs(&self, oracle: &Oracle) {
        if !oracle.may_run_twice && !self.was_restarted {
            assert!(self.runs <= 1, "it ran {} times: {self:?}", self.runs);
        }
    }
}

impl Server {
    /// Ends what runs.
    fn end_now(&mut self, now: u64, ends: Ended) {
        if let Some(running) = &mut self.running {
            running.ends = ends;
            running.until = running.until.min(now);
        }
    }

    /// Works until a time; returns how often the job ran to its end.
    fn work(&mut self, now: u64, length: u64) -> u32 {
        let mut runs = 0;
        while !self.is_dead {
            if let Some(running) = self.running {
                if running.until > now {
                    break;
                }
                self.history = Some(running.ends);
                runs += u32::from(running.ends != Ended::Interrupted);
                self.running = None;
                self.busy_until = self.busy_until.max(running.until);
            }
            let Some(first) = self.pending.first().copied() else {
                break;
            };
            let begins = first.max(self.busy_until);
            if begins > now {
                break;
            }
            self.pending.remove(0);
            self.has_begun = true;
            self.running = Some(Running {
                until: begins.saturating_add(length),
                ends: Ended::Succeeded,
            });
        }
        runs
    }
}

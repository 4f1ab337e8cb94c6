//! The servers, their queues and what happens to them.

use super::dispatch::{Dispatcher, Sent};
use super::{Case, Design};
use crate::schedule::{Nanos, SEC, Schedule};
use std::collections::VecDeque;

/// The time between polls of the earlier design.
const POLL: Nanos = 30 * SEC;

#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) arrival: Nanos,
    pub(super) class: u32,
    /// The time that it takes on a server of factor 1.
    pub(super) work: Nanos,
}

/// A time in which a server is dead; its jobs are lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) server: usize,
    pub(super) from: Nanos,
    pub(super) to: Nanos,
}

#[derive(Debug)]
pub(super) struct Server {
    factor: u64,
    pub(super) is_up: bool,
    /// Its jobs; the first one runs.
    pub(super) queue: VecDeque<usize>,
    /// A number of the running job, so that the end of a lost one is told apart.
    run: u64,
}

/// How a run of a case went.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) makespan: Nanos,
    /// From the arrival to the begin of the run that ended.
    pub(super) mean_wait: Nanos,
    pub(super) p99_wait: Nanos,
    /// From the arrival to the end.
    pub(super) mean_total: Nanos,
    /// The most by which the depths of live servers differed.
    pub(super) spread: usize,
    pub(super) done: usize,
    /// Jobs given to servers, those that were lost included.
    pub(super) sent: usize,
    ends: Vec<Nanos>,
}

impl Figures {
    /// The jobs that ended after a tick.
    pub(super) fn ends_after(&self, tick: Nanos) -> usize {
        self.ends.iter().filter(|end| **end > tick).count()
    }
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Arrival(usize),
    End { server: usize, run: u64 },
    Poll,
    Death(usize),
    Return(usize),
}

pub(super) struct World<'a> {
    case: &'a Case,
    schedule: Schedule<Happening>,
    servers: Vec<Server>,
    dispatcher: Dispatcher,
    runs: u64,
    begun: Vec<Nanos>,
    ends: Vec<Option<Nanos>>,
    stall: Option<(usize, Nanos)>,
    spread: usize,
    sent: usize,
}

impl<'a> World<'a> {
    pub(super) fn new(case: &'a Case, design: Design) -> Self {
        let mut schedule = Schedule::new();
        if design == Design::Polled {
            schedule.add(0, Happening::Poll);
        }
        for (job, one) in case.jobs.iter().enumerate() {
            schedule.add(one.arrival, Happening::Arrival(job));
        }
        if let Some(outage) = case.outage {
            schedule.add(outage.from, Happening::Death(outage.server));
            schedule.add(outage.to, Happening::Return(outage.server));
        }
        let server = |factor: &u64| Server {
            factor: *factor,
            is_up: true,
            queue: VecDeque::new(),
            run: 0,
        };
        Self {
            case,
            schedule,
            servers: case.factors.iter().map(server).collect(),
            dispatcher: Dispatcher::new(design, case.factors.len()),
            runs: 0,
            begun: vec![0; case.jobs.len()],
            ends: vec![None; case.jobs.len()],
            stall: None,
            spread: 0,
            sent: 0,
        }
    }

    /// Makes the jobs that a server begins from a tick on take a thousand times as long.
    pub(super) fn stall(&mut self, server: usize, from: Nanos) {
        self.stall = Some((server, from));
    }

    pub(super) fn play(mut self) -> Figures {
        while self.ends.contains(&None) {
            let timer = self.dispatcher.poll_timeout();
            let event = self.schedule.next_at();
            match (timer, event) {
                (Some(timer), event) if event.is_none_or(|event| timer < event) => {
                    self.send(timer, Dispatcher::handle_timeout);
                }
                (_, Some(_)) => {
                    let (now, event) = self.schedule.pop().expect("there is one");
                    self.happen(now, event);
                }
                (_, None) => panic!("jobs are lost"),
            }
            self.measure();
        }
        self.figures()
    }

    /// Lets the dispatcher do something, and gives servers the jobs that it sends.
    fn send(&mut self, now: Nanos, act: impl FnOnce(&mut Dispatcher, Nanos) -> Vec<Sent>) {
        for Sent { server, job } in act(&mut self.dispatcher, now) {
            self.sent += 1;
            let known = &mut self.servers[server];
            assert!(known.is_up, "a dead server gets no job");
            known.queue.push_back(job);
            if known.queue.len() == 1 {
                self.begin(now, server);
            }
        }
    }

    fn begin(&mut self, now: Nanos, server: usize) {
        let Some(job) = self.servers[server].queue.front().copied() else {
            return;
        };
        self.runs += 1;
        self.servers[server].run = self.runs;
        self.begun[job] = now;
        let is_stalled = self
            .stall
            .is_some_and(|(one, from)| one == server && now >= from);
        let slower = if is_stalled { 1_000 } else { 1 };
        let took = self.case.jobs[job].work * self.servers[server].factor * slower;
        let run = self.runs;
        self.schedule
            .add(now + took, Happening::End { server, run });
    }

    fn happen(&mut self, now: Nanos, event: Happening) {
        let up: Vec<bool> = self.servers.iter().map(|server| server.is_up).collect();
        match event {
            Happening::Arrival(job) => {
                let class = self.case.jobs[job].class;
                self.send(now, |it, now| it.arrive(now, job, class, &up));
            }
            Happening::End { server, run } => {
                if self.servers[server].run != run || !self.servers[server].is_up {
                    return;
                }
                let job = self.servers[server].queue.pop_front();
                let job = job.expect("it ran");
                assert_eq!(self.ends[job].replace(now), None, "a job ends once");
                self.begin(now, server);
                self.send(now, |it, now| it.end(now, job));
            }
            Happening::Poll => {
                let depths = self
                    .servers
                    .iter()
                    .map(|server| server.is_up.then_some(server.queue.len()));
                let depths = depths.collect();
                self.send(now, |it, _| it.poll(depths, &up));
                self.schedule.add(now + POLL, Happening::Poll);
            }
            Happening::Death(server) => {
                self.servers[server].is_up = false;
                let up: Vec<bool> = self.servers.iter().map(|server| server.is_up).collect();
                let lost = core::mem::take(&mut self.servers[server].queue);
                let classes: Vec<_> = lost.iter().map(|job| self.case.jobs[*job].class).collect();
                let lost: Vec<_> = lost.into_iter().zip(classes).collect();
                self.send(now, |it, now| it.lose(now, server, lost, &up));
            }
            Happening::Return(server) => {
                self.servers[server].is_up = true;
                self.send(now, |it, now| it.welcome(now, server));
            }
        }
    }

    fn measure(&mut self) {
        let up = self.servers.iter().filter(|server| server.is_up);
        let depths: Vec<usize> = up.map(|server| server.queue.len()).collect();
        if let (Some(least), Some(most)) = (depths.iter().min(), depths.iter().max()) {
            self.spread = self.spread.max(most - least);
        }
    }

    fn figures(self) -> Figures {
        let jobs = self.case.jobs.iter();
        let mut waits: Vec<Nanos> = jobs
            .zip(&self.begun)
            .map(|(job, at)| at - job.arrival)
            .collect();
        waits.sort_unstable();
        let ends: Vec<Nanos> = self.ends.into_iter().flatten().collect();
        let arrivals = self.case.jobs.iter().map(|job| job.arrival);
        let totals = ends.iter().zip(arrivals).map(|(end, at)| end - at);
        Figures {
            mean_total: totals.sum::<Nanos>() / ends.len() as Nanos,
            makespan: ends.iter().copied().max().unwrap_or(0),
            mean_wait: waits.iter().sum::<Nanos>() / waits.len() as Nanos,
            p99_wait: waits[waits.len() * 99 / 100],
            spread: self.spread,
            done: ends.len(),
            sent: self.sent,
            ends,
        }
    }
}

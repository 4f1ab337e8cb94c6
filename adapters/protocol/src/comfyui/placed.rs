//! A job on a server: when it is looked at, and when it is taken for lost there.
//!
//! Invariant: a job is lost only if two looks, a pause apart, find the server without it, or if no sign of it came for
//! the configured time.

use super::job::JobConfig;
use super::step::{Ended, Look, Loss, ServerId};
use core::time::Duration;
use leasehold_core::time::Tick;

/// The shortest pause between two looks that find nothing: a submission may still be on its way.
const CONFIRM: Duration = Duration::from_millis(500);

/// A job on a server.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) server: ServerId,
    pub(super) is_running: bool,
    /// Whether it is submitted only once looks have found the server without it.
    pub(super) is_check: bool,
    /// Whether it was withdrawn from the server before, so that an interruption in the history may be of that time.
    was_withdrawn: bool,
    /// Whether the server has said that it has the job.
    pub(super) is_sure: bool,
    /// When the server was last heard of the job.
    sign: Tick,
    /// When the job last went on.
    progress: Tick,
    /// Since when looks find the server without it.
    absent: Option<Tick>,
    /// Since when it waits while the server runs nothing.
    idle: Option<Tick>,
    /// Why and since when it is taken from the server, if it is; the caller's wish is no reason of these.
    leaves: Option<(Loss, Tick)>,
    must_withdraw: bool,
    /// Whether the caller has taken it back.
    is_cancelled: bool,
    /// `None` while a look is under way.
    look: Option<Tick>,
    /// When the look under way was asked for.
    asked: Tick,
    /// By when the owner has to come again during a look, which shows that it can hear the answer.
    comes: Tick,
    /// Whether another look is due after the one under way.
    looks_again: bool,
}

/// What follows from a look or from time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// The server says how it ended.
    Ended(Ended),
    /// It was never there.
    Gone,
    /// It was there, and is no longer.
    Lost(Loss),
}

/// What is to be done at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Look,
    Withdraw,
}

impl Placed {
    pub(super) fn new(now: Tick, server: ServerId, is_sure: bool) -> Self {
        Self {
            server,
            is_running: false,
            is_check: false,
            was_withdrawn: false,
            is_sure,
            sign: now,
            progress: now,
            absent: None,
            idle: None,
            leaves: None,
            must_withdraw: false,
            is_cancelled: false,
            look: Some(now.saturating_add(CONFIRM)),
            asked: now,
            comes: now,
            looks_again: false,
        }
    }

    /// A job that is back at a server that has lost it, and may still have it.
    pub(super) fn check(now: Tick, server: ServerId) -> Self {
        Self {
            is_check: true,
            look: Some(now),
            ..Self::new(now, server, false)
        }
    }

    /// Adds what the server has lost before.
    pub(super) fn after(mut self, lost_at: &[(ServerId, Loss)]) -> Self {
        let is_withdrawal = |loss| match loss {
            Loss::DeadWorker | Loss::Stalled => true,
            Loss::Forgotten | Loss::Silent => false,
        };
        let mut losses = lost_at.iter().filter(|(at, _)| *at == self.server);
        self.was_withdrawn = losses.any(|(_, loss)| is_withdrawal(*loss));
        self
    }

    pub(super) fn progressed(&mut self, now: Tick) {
        self.is_sure = true;
        self.is_running = true;
        self.sign = self.sign.max(now);
        self.progress = self.progress.max(now);
        self.absent = None;
        self.idle = None;
    }

    pub(super) fn look_at(&mut self, at: Tick) {
        match &mut self.look {
            Some(look) => *look = at.min(*look),
            None => self.looks_again = true,
        }
    }

    /// Takes it back from the server, as its caller wishes.
    pub(super) fn cancel(&mut self, now: Tick) {
        self.is_cancelled = true;
        self.must_withdraw = true;
        self.look_at(now);
    }

    /// When the owner has to come next, for a look or during one.
    pub(super) fn next_call(&self) -> Option<Tick> {
        self.look.or(Some(self.comes))
    }

    /// When the job is lost if no sign comes.
    pub(super) fn lost_at_latest(&self, config: &JobConfig) -> Option<Tick> {
        let since = self.leaves.map_or(self.sign, |(_, since)| since);
        Some(since.saturating_add(config.lost_after))
    }

    pub(super) fn next(&mut self, now: Tick, config: &JobConfig) -> Option<Next> {
        if self.must_withdraw {
            self.must_withdraw = false;
            return Some(Next::Withdraw);
        }
        let is_due = self.look.is_some_and(|look| look <= now);
        is_due.then(|| {
            self.look = None;
            self.asked = now;
            self.comes = now.saturating_add(config.poll.max(CONFIRM));
            Next::Look
        })
    }

    pub(super) fn handle_timeout(&mut self, now: Tick, config: &JobConfig) -> Found {
        if self.comes <= now {
            self.comes = now.saturating_add(config.poll.max(CONFIRM));
        }
        let is_over = |since: Tick| since.saturating_add(config.lost_after) <= now;
        match self.leaves {
            // A worker that is dead does not obey: the job stays there, and goes on nowhere.
            Some((loss, since)) if is_over(since) => Found::Lost(loss),
            None if is_over(self.sign) => Found::Lost(Loss::Silent),
            Some(_) | None => Found::Nothing,
        }
    }

    pub(super) fn looked(&mut self, now: Tick, config: &JobConfig, look: Look) -> Found {
        // The answer to no look says nothing of the present.
        if self.look.is_some() {
            return Found::Nothing;
        }
        let found = self.judge(now, config, look);
        let pause = match self.absent {
            Some(_) => CONFIRM,
            None => config.poll,
        };
        self.look = Some(match core::mem::take(&mut self.looks_again) {
            true => now,
            false => now.saturating_add(pause),
        });
        found
    }

    fn judge(&mut self, now: Tick, config: &JobConfig, look: Look) -> Found {
        match look {
            Look::NoAnswer => {}
            Look::Ended(ended) => return self.has_ended(now, ended),
            Look::Absent => return self.is_absent(now),
            Look::Running => {
                self.is_running = true;
                self.idle = None;
                self.is_there(now, config);
            }
            Look::Waiting { is_idle } => {
                self.is_running = false;
                self.progress = self.progress.max(now);
                self.idle = is_idle.then(|| self.idle.unwrap_or(now));
                self.is_there(now, config);
            }
        }
        self.handle_timeout(now, config)
    }

    /// A look has shown it there: it is withdrawn if it makes no progress, and again if it was to be withdrawn.
    fn is_there(&mut self, now: Tick, config: &JobConfig) {
        self.is_sure = true;
        self.absent = None;
        self.sign = self.sign.max(now);
        let idles = |since| now.since(since) >= config.idle_after;
        let loss = if self.idle.is_some_and(idles) {
            Some(Loss::DeadWorker)
        } else if now.since(self.progress) >= config.stalled_after {
            Some(Loss::Stalled)
        } else {
            None
        };
        match (self.leaves, loss) {
            (None, Some(loss)) => {
                self.leaves = Some((loss, now));
                self.must_withdraw = true;
                self.looks_again = true;
            }
            // The submission was still on its way when it was withdrawn, or the server heard nothing.
            (Some(_), _) => self.must_withdraw = true,
            (None, None) => self.must_withdraw |= self.is_cancelled,
        }
    }

    fn has_ended(&mut self, now: Tick, ended: Ended) -> Found {
        match (ended, self.leaves) {
            // One that was taken from the server was interrupted for that.
            (Ended::Interrupted, Some((loss, _))) => Found::Lost(loss),
            // So was one that the server had before, and this one has not begun.
            (Ended::Interrupted, None) if self.was_withdrawn && !self.is_sure => {
                self.is_absent(now)
            }
            (Ended::Succeeded | Ended::Failed | Ended::Interrupted, _) => Found::Ended(ended),
        }
    }

    fn is_absent(&mut self, now: Tick) -> Found {
        let since = *self.absent.get_or_insert(now);
        // The answer may be slow: what it shows is as old as the question.
        if self.asked.since(since) < CONFIRM {
            return Found::Nothing;
        }
        match (self.leaves, self.is_sure) {
            (Some((loss, _)), _) => Found::Lost(loss),
            (None, true) => Found::Lost(Loss::Forgotten),
            (None, false) => Found::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    fn look(placed: &mut Placed, asked: u64, answered: u64, look: Look) -> Found {
        assert_eq!(
            placed.next(at(asked), &JobConfig::default()),
            Some(Next::Look)
        );
        placed.looked(at(answered), &JobConfig::default(), look)
    }

    #[test]
    fn two_looks_that_find_nothing_are_a_pause_apart_however_slow_their_answers_are() {
        let mut placed = Placed::new(at(0), 1, false);
        placed.look_at(at(0));
        assert_eq!(look(&mut placed, 0, 0, Look::Absent), Found::Nothing);
        placed.look_at(at(100));
        assert_eq!(look(&mut placed, 100, 700, Look::Absent), Found::Nothing);
        assert_eq!(look(&mut placed, 1_200, 1_200, Look::Absent), Found::Gone);
    }

    #[test]
    fn an_answer_to_no_look_changes_nothing() {
        let mut placed = Placed::new(at(0), 1, true);
        let found = placed.looked(at(0), &JobConfig::default(), Look::Ended(Ended::Failed));
        assert_eq!((found, placed.next_call()), (Found::Nothing, Some(at(500))));
    }

    #[test]
    fn a_wish_during_a_look_leads_to_another_one_at_once() {
        let mut placed = Placed::new(at(0), 1, true);
        assert_eq!(
            placed.next(at(500), &JobConfig::default()),
            Some(Next::Look)
        );
        placed.look_at(at(600));
        assert_eq!(placed.next_call(), Some(at(2_500)), "to hear the answer");
        placed.looked(at(700), &JobConfig::default(), Look::Running);
        assert_eq!(placed.next_call(), Some(at(700)));
    }

    #[test]
    fn silence_is_a_loss_at_its_deadline_exactly_even_while_a_look_is_under_way() {
        let config = JobConfig::default();
        let mut placed = Placed::new(at(0), 1, true);
        placed.progressed(at(1_000));
        assert_eq!(
            placed.next(at(1_000), &JobConfig::default()),
            Some(Next::Look)
        );
        assert_eq!(placed.lost_at_latest(&config), Some(at(31_000)));
        let early = Tick::from_nanos(at(31_000).as_nanos() - 1);
        assert_eq!(placed.handle_timeout(early, &config), Found::Nothing);
        let found = placed.handle_timeout(at(31_000), &config);
        assert_eq!(found, Found::Lost(Loss::Silent));
    }

    #[test]
    fn a_job_that_waits_at_an_idle_server_is_withdrawn_from_its_dead_worker() {
        let idle = Look::Waiting { is_idle: true };
        let mut placed = Placed::new(at(0), 1, true);
        look(&mut placed, 500, 500, idle);
        assert_eq!(look(&mut placed, 20_500, 20_500, idle), Found::Nothing);
        assert_eq!(
            placed.next(at(20_500), &JobConfig::default()),
            Some(Next::Withdraw)
        );
        look(&mut placed, 20_500, 20_500, Look::Absent);
        let found = look(&mut placed, 21_000, 21_000, Look::Absent);
        assert_eq!(found, Found::Lost(Loss::DeadWorker));
    }

    /// A job that made no progress, and was withdrawn at 901 s.
    fn stalled() -> Placed {
        let mut placed = Placed::new(at(0), 1, true);
        placed.progressed(at(1_000));
        assert_eq!(
            look(&mut placed, 901_000, 901_000, Look::Running),
            Found::Nothing
        );
        assert_eq!(
            placed.next(at(901_000), &JobConfig::default()),
            Some(Next::Withdraw)
        );
        placed
    }

    #[test]
    fn a_stalled_job_that_succeeds_before_it_is_interrupted_has_succeeded() {
        for (ended, found) in [
            (Ended::Succeeded, Found::Ended(Ended::Succeeded)),
            (Ended::Failed, Found::Ended(Ended::Failed)),
            (Ended::Interrupted, Found::Lost(Loss::Stalled)),
        ] {
            let mut placed = stalled();
            assert_eq!(
                look(&mut placed, 901_000, 901_000, Look::Ended(ended)),
                found
            );
        }
    }

    #[test]
    fn a_stalled_job_that_does_not_obey_is_lost_after_the_time_of_silence() {
        let mut placed = stalled();
        assert_eq!(
            look(&mut placed, 901_000, 930_000, Look::Running),
            Found::Nothing
        );
        assert_eq!(
            placed.next(at(930_000), &JobConfig::default()),
            Some(Next::Withdraw)
        );
        let found = placed.handle_timeout(at(931_000), &JobConfig::default());
        assert_eq!(found, Found::Lost(Loss::Stalled));
    }

    #[test]
    fn an_interruption_of_an_earlier_stay_is_not_that_of_the_job() {
        let mut placed = Placed::check(at(0), 1).after(&[(1, Loss::Stalled)]);
        let interrupted = Look::Ended(Ended::Interrupted);
        assert_eq!(look(&mut placed, 0, 0, interrupted), Found::Nothing);
        assert_eq!(look(&mut placed, 500, 500, interrupted), Found::Gone);
        let mut placed = Placed::check(at(0), 1).after(&[(1, Loss::Silent)]);
        let found = look(&mut placed, 0, 0, interrupted);
        assert_eq!(
            found,
            Found::Ended(Ended::Interrupted),
            "it was never withdrawn"
        );
    }
}

//! ComfyUI servers behind one pool, beside the earlier design: least queue by a poll each 30 s.
//!
//! A server does one job at a time, in order of arrival. Under the pool it holds a job that runs and at most one that
//! waits (`max_leases` of 2), and nothing is known of its speed at first. The earlier design sends each job at once to
//! the server with the smallest depth as polled up to 30 s ago, and the server queues it.
//!
//! The optimum of `n` equal jobs on servers that take `s_i` each is the least `T` with `sum floor(T / s_i) >= n`. For
//! other jobs it is bounded from below by `max(work / sum (1 / f_i), longest * min f_i)`, where a job of work `w` takes
//! `w * f_i` on server `i`.

mod dispatch;
mod servers;

use crate::Seed;
use crate::schedule::{MS, Nanos, SEC};
use fastrand::Rng;
use servers::{Figures, Job, Outage, World};

/// The time that a job of mean work takes on the fastest server.
const UNIT: Nanos = 10 * SEC;

/// How jobs come to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Design {
    /// The pool, by expected completion.
    Pool,
    /// The least depth of a poll each 30 s.
    Polled,
}

/// Servers by their time factor, and the jobs for them.
#[derive(Clone, Debug)]
struct Case {
    factors: Vec<u64>,
    jobs: Vec<Job>,
    outage: Option<Outage>,
}

impl Case {
    fn at_once(factors: &[u64], works: impl IntoIterator<Item = (u32, Nanos)>) -> Self {
        let job = |(class, work)| Job {
            arrival: 0,
            class,
            work,
        };
        Self {
            factors: factors.to_vec(),
            jobs: works.into_iter().map(job).collect(),
            outage: None,
        }
    }

    fn equal(factors: &[u64], count: usize) -> Self {
        Self::at_once(factors, vec![(0, UNIT); count])
    }

    /// Jobs of three classes: half, once and twice the mean work.
    fn mixed(factors: &[u64], count: usize, rng: &mut Rng) -> Self {
        let works = (0..count).map(|_| match rng.u32(..3) {
            0 => (0, UNIT / 2),
            1 => (1, UNIT),
            _ => (2, UNIT * 2),
        });
        Self::at_once(factors, works.collect::<Vec<_>>())
    }

    /// Jobs of one class, of half to one and a half times the mean work.
    fn random(factors: &[u64], count: usize, rng: &mut Rng) -> Self {
        let works = (0..count).map(|_| (0, rng.u64(UNIT / 2..UNIT / 2 * 3)));
        Self::at_once(factors, works.collect::<Vec<_>>())
    }

    /// An hour of random jobs that arrive by chance, at 80 % of what the servers can do.
    fn poisson(factors: &[u64], rng: &mut Rng) -> Self {
        let per_unit: f64 = factors.iter().map(|factor| 1.0 / *factor as f64).sum();
        let mean_gap = UNIT as f64 / (0.8 * per_unit);
        let mut case = Self::at_once(factors, []);
        let mut arrival = 0;
        loop {
            arrival += (-(1.0 - rng.f64()).ln() * mean_gap) as Nanos;
            if arrival >= 3_600 * SEC {
                return case;
            }
            case.jobs.push(Job {
                arrival,
                class: 0,
                work: rng.u64(UNIT / 2..UNIT / 2 * 3),
            });
        }
    }

    /// The least makespan of equal jobs that all arrive at 0.
    fn optimum(&self) -> Nanos {
        let work = self.jobs[0].work;
        assert!(
            self.jobs
                .iter()
                .all(|job| job.work == work && job.arrival == 0)
        );
        let done = |time: Nanos| -> u64 {
            let each = self.factors.iter().map(|factor| time / (work * factor));
            each.sum()
        };
        // It is the end of a job on some server.
        let ends = self.factors.iter().flat_map(|factor| {
            let counts = 1..=self.jobs.len() as u64;
            counts.map(move |count| count * work * factor)
        });
        let enough = ends.filter(|time| done(*time) >= self.jobs.len() as u64);
        enough.min().expect("there is a server")
    }

    /// A lower bound on the makespan of any jobs that arrive at 0.
    fn bound(&self) -> Nanos {
        let work: u64 = self.jobs.iter().map(|job| job.work).sum();
        let rate: f64 = self.factors.iter().map(|factor| 1.0 / *factor as f64).sum();
        let longest = self.jobs.iter().map(|job| job.work).max().unwrap_or(0);
        let fastest = self.factors.iter().min().expect("there is a server");
        (longest * fastest).max((work as f64 / rate) as Nanos)
    }

    fn play(&self, design: Design) -> Figures {
        World::new(self, design).play()
    }

    /// Plays both designs, and prints a line for each.
    fn compare(&self, name: &str, optimum: Nanos) -> [Figures; 2] {
        [Design::Pool, Design::Polled].map(|design| {
            let figures = self.play(design);
            let seconds = |span: Nanos| span as f64 / SEC as f64;
            println!(
                "{name:<32} {:<7} makespan {:>7.1} s of {:>7.1} s, wait mean {:>6.1} s, p99 {:>6.1} s, total {:>6.1} s, \
                 depths differ by {:>3}, sent {:>3} times",
                format!("{design:?}"),
                seconds(figures.makespan),
                seconds(optimum),
                seconds(figures.mean_wait),
                seconds(figures.p99_wait),
                seconds(figures.mean_total),
                figures.spread,
                figures.sent,
            );
            assert_eq!(figures.done, self.jobs.len(), "every job ends once");
            figures
        })
    }
}

/// Whether a makespan is within a tenth of another.
fn is_near(makespan: Nanos, optimum: Nanos) -> bool {
    makespan * 10 <= optimum * 11
}

#[test]
fn a_hundred_jobs_at_once_spread_evenly_over_equal_servers() {
    let case = Case::equal(&[1; 4], 100);
    let [pool, polled] = case.compare("100 at once, 4 equal", case.optimum());
    assert_eq!(pool.makespan, case.optimum());
    assert!(pool.spread <= 1, "{pool:?}");
    assert!(polled.spread >= 100 && polled.makespan > pool.makespan);
}

#[test]
fn a_hundred_equal_jobs_on_unequal_servers_end_within_a_tenth_of_the_optimum() {
    // Of equal depths the earlier design takes the first, so that the order counts there.
    for factors in [[4, 2, 1], [1, 2, 4]] {
        let case = Case::equal(&factors, 100);
        let name = format!("100 at once, {factors:?}");
        let [pool, polled] = case.compare(&name, case.optimum());
        assert!(is_near(pool.makespan, case.optimum()), "{pool:?}");
        assert!(polled.makespan > pool.makespan && polled.mean_wait > pool.mean_wait);
    }
}

#[test]
fn few_jobs_on_unequal_servers_whose_speeds_are_known_end_at_the_optimum() {
    // The first thirty show the speeds; they end before the others come.
    for count in 1..30 {
        let mut case = Case::equal(&[4, 2, 1], 30);
        let alone = Case::equal(&[4, 2, 1], count);
        let start = 1_000 * SEC;
        let later = alone.jobs.iter().map(|job| Job {
            arrival: start,
            ..*job
        });
        case.jobs.extend(later);
        let makespan = case.play(Design::Pool).makespan - start;
        assert!(makespan <= alone.optimum(), "{count} jobs: {makespan}");
    }
}

#[test]
fn jobs_of_mixed_classes_end_within_a_tenth_of_the_bound() {
    for seed in 1..=8 {
        let seed = Seed::new(seed);
        let case = Case::mixed(&[4, 2, 1], 100, &mut Rng::with_seed(seed.0));
        let name = format!("100 mixed, 1:2:4, seed {}", seed.0);
        let [pool, polled] = case.compare(&name, case.bound());
        assert!(is_near(pool.makespan, case.bound()), "{pool:?}");
        assert!(polled.makespan > pool.makespan);
    }
}

#[test]
fn jobs_of_random_times_end_within_a_tenth_of_the_bound() {
    for seed in 1..=8 {
        let seed = Seed::new(seed);
        let case = Case::random(&[4, 2, 1], 100, &mut Rng::with_seed(seed.0));
        let name = format!("100 random, 1:2:4, seed {}", seed.0);
        let [pool, polled] = case.compare(&name, case.bound());
        assert!(is_near(pool.makespan, case.bound()), "{pool:?}");
        assert!(polled.makespan > pool.makespan);
    }
}

#[test]
fn an_hour_at_four_fifths_of_the_load_waits_less_than_by_polls() {
    for factors in [&[1, 1, 1, 1][..], &[4, 2, 1]] {
        let seed = Seed::new(1);
        let case = Case::poisson(factors, &mut Rng::with_seed(seed.0));
        let name = format!("an hour at 80 %, {factors:?}");
        let [pool, polled] = case.compare(&name, 3_600 * SEC);
        assert!(pool.mean_wait * 2 < polled.mean_wait, "{pool:?} {polled:?}");
        assert!(pool.p99_wait < polled.p99_wait, "{pool:?} {polled:?}");
        assert!(pool.mean_total < polled.mean_total, "{pool:?} {polled:?}");
    }
}

#[test]
fn a_server_that_dies_loses_two_jobs_at_most_and_comes_back() {
    let outage = |server| Outage {
        server,
        from: 100 * SEC + 500 * MS,
        to: 300 * SEC,
    };
    for (name, server) in [("fastest", 2), ("slowest", 0)] {
        let mut case = Case::equal(&[4, 2, 1], 100);
        case.outage = Some(outage(server));
        let name = format!("100 at once, 1:2:4, {name} dies");
        // What the server could have done meanwhile is left to the others.
        let lost = 200 / (10 * case.factors[server]);
        let optimum = Case::equal(&[4, 2, 1], 100 + lost as usize).optimum();
        let [pool, polled] = case.compare(&name, optimum);
        assert!(pool.sent <= 102, "{pool:?}");
        assert!(is_near(pool.makespan, optimum), "{pool:?}");
        assert!(polled.makespan > pool.makespan, "{polled:?}");
    }
}

#[test]
fn a_server_that_stalls_holds_up_no_job_but_its_own() {
    let mut case = Case::equal(&[4, 2, 1], 60);
    // Its jobs take a thousand times as long from then on.
    let start = 200 * SEC;
    case.jobs.truncate(20);
    let late = (0..8).map(|_| Job {
        arrival: start,
        class: 0,
        work: UNIT,
    });
    case.jobs.extend(late);
    let mut world = World::new(&case, Design::Pool);
    world.stall(2, start);
    let figures = world.play();
    let free = case.jobs.len() - figures.ends_after(start + 200 * SEC);
    // At most the two that it was given before it was seen to stall.
    assert!(free >= case.jobs.len() - 2, "{figures:?}");
}

//! Draws `spread.svg`: the load of eight members under four policies on the same trace, in which one member is
//! slow for a while. Virtual time and one seed, so that the picture is the same on every machine.

use core::cmp::Reverse;
use core::fmt::Write;
use core::time::Duration;
use fastrand::Rng;
use leasehold_core::balance::{Availability, Balancer, HalfLife, MemberLoad, PeakEwma, Policy};
use leasehold_core::time::Tick;
use std::collections::BinaryHeap;
use std::path::Path;
use std::{fs, io};

const MEMBERS: usize = 8;
/// Member whose calls take [`SLOWDOWN`] times as long in the middle third of the time.
const SLOW: usize = 2;
const SLOWDOWN: u64 = 10;
const MILLIS: u64 = 1_000_000;
const END: u64 = 30_000 * MILLIS;
/// Nanoseconds for each point of a line.
const STEP: u64 = 300 * MILLIS;
const STEPS: usize = (END / STEP) as usize;
/// Leases at the top of a panel.
const TOP: f64 = 32.0;
const SEED: u64 = 7;

/// Returns the arrival of each call and its time of service on a member that isn't slow, in nanoseconds.
fn trace() -> Vec<(u64, u64)> {
    let mut random = Rng::with_seed(SEED);
    let mut exponential = |mean: u64| (-random.f64().max(1e-9).ln() * mean as f64) as u64;
    let mut now = 0;
    let mut calls = Vec::new();
    while now < END {
        now += exponential(5 * MILLIS / 2);
        calls.push((now, 5 * MILLIS + exponential(45 * MILLIS)));
    }
    calls
}

/// Returns the mean number of leases held on each member in each step, and the 99th percentile of latency.
fn play(policy: Policy, calls: &[(u64, u64)]) -> (Vec<[f64; MEMBERS]>, Duration) {
    let mut balancer = Balancer::new(policy, SEED);
    let half_life = policy.half_life().unwrap_or_default();
    let mut latencies = [PeakEwma::new(half_life, Tick::ZERO); MEMBERS];
    let mut loads = [MemberLoad::default(); MEMBERS];
    let mut held = vec![[0.0; MEMBERS]; STEPS];
    let mut took = Vec::new();
    let mut running: BinaryHeap<Reverse<(u64, u64, usize)>> = BinaryHeap::new();
    for (id, load) in (0u32..).zip(&loads) {
        balancer.insert(id, id.into(), 1);
        balancer.update(id, load, Availability::Ready);
    }
    let mut sequence = 0;
    let mut update = |balancer: &mut Balancer, id: usize, load: &mut MemberLoad| {
        sequence += 1;
        load.last_used_seq = sequence;
        balancer.update(id as u32, load, Availability::Ready);
    };
    for &(now, service) in calls {
        while let Some(&Reverse((end, began, id))) = running.peek()
            && end <= now
        {
            running.pop();
            latencies[id].observe(Tick::from_nanos(end), Duration::from_nanos(end - began));
            loads[id].latency = latencies[id].key();
            loads[id].load -= 1;
            update(&mut balancer, id, &mut loads[id]);
        }
        let Some(id) = balancer.choose(None) else {
            continue;
        };
        balancer.chosen(id);
        let id = id as usize;
        loads[id].load += 1;
        update(&mut balancer, id, &mut loads[id]);
        let slow = id == SLOW && (END / 3..END / 3 * 2).contains(&now);
        let service = service * if slow { SLOWDOWN } else { 1 };
        took.push(service);
        running.push(Reverse((now + service, now, id)));
        for (step, means) in held.iter_mut().enumerate().skip((now / STEP) as usize) {
            let from = now.max(step as u64 * STEP);
            let to = (now + service).min((step as u64 + 1) * STEP);
            if to <= from {
                break;
            }
            means[id] += (to - from) as f64 / STEP as f64;
        }
    }
    took.sort_unstable();
    (held, Duration::from_nanos(took[took.len() * 99 / 100]))
}

/// Name of a policy, and what [`play`] returned for it.
type Panel<'a> = (&'a str, Vec<[f64; MEMBERS]>, Duration);

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 150.0;

fn draw(panels: &[Panel<'_>]) -> String {
    let mut svg = String::from(concat!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 470" role="img" "#,
        r#"font-family="system-ui, sans-serif" font-size="12">"#,
        "\n<title>Leases held on each of eight members over 30 seconds, under four policies</title>\n",
        "<style>svg{color:#24292f;background:#fff}text{fill:currentColor}.t{font-weight:600;font-size:14px}",
        ".g{stroke:currentColor;stroke-opacity:.15}.a{fill:currentColor;fill-opacity:.06}",
        ".m{fill:none;stroke:#57606a;stroke-opacity:.55}.s{fill:none;stroke:#bc4c00;stroke-width:2}",
        "@media(prefers-color-scheme:dark){svg{color:#e6edf3;background:#0d1117}",
        ".m{stroke:#9da7b3}.s{stroke:#ff9b50}}</style>\n",
    ));
    for (at, panel) in panels.iter().enumerate() {
        let (left, top) = (
            40.0 + (at % 2) as f64 * 410.0,
            40.0 + (at / 2) as f64 * 215.0,
        );
        // Writing to a string never fails.
        let _ = draw_panel(&mut svg, left, top, panel);
    }
    svg.push_str(concat!(
        r#"<text x="40" y="455">Leases held on each of eight members. One of them (coloured) takes ten times "#,
        "as long while shaded.</text>\n</svg>\n",
    ));
    svg
}

fn draw_panel(
    svg: &mut String,
    left: f64,
    top: f64,
    (name, held, slowest): &Panel<'_>,
) -> core::fmt::Result {
    let x = |step: f64| step / STEPS as f64 * WIDTH;
    let y = |leases: f64| HEIGHT - leases.min(TOP) / TOP * HEIGHT;
    write!(
        svg,
        "<g transform=\"translate({left} {top})\"><text class=\"t\" y=\"-10\">{name}</text>\
         <text x=\"{WIDTH}\" y=\"-10\" text-anchor=\"end\">99 of 100 calls within {} ms</text>\
         <rect class=\"a\" x=\"{}\" width=\"{}\" height=\"{HEIGHT}\"/>",
        slowest.as_millis(),
        WIDTH / 3.0,
        WIDTH / 3.0,
    )?;
    for leases in [0, 8, 16, 24, 32] {
        let y = y(f64::from(leases));
        write!(
            svg,
            "<path class=\"g\" d=\"M0 {y}h{WIDTH}\"/>\
             <text x=\"-8\" y=\"{}\" text-anchor=\"end\">{leases}</text>",
            y + 4.0
        )?;
    }
    for seconds in [0, 10, 20, 30] {
        write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{seconds} s</text>",
            f64::from(seconds) / 30.0 * WIDTH,
            HEIGHT + 16.0
        )?;
    }
    for id in (0..MEMBERS).filter(|id| *id != SLOW).chain([SLOW]) {
        let class = if id == SLOW { "s" } else { "m" };
        write!(svg, "<path class=\"{class}\" d=\"M")?;
        for (step, means) in held.iter().enumerate() {
            write!(svg, "{:.0} {:.1} ", x(step as f64 + 0.5), y(means[id]))?;
        }
        svg.push_str("\"/>");
    }
    svg.push_str("</g>\n");
    Ok(())
}

fn main() -> io::Result<()> {
    let half_life = HalfLife::new(Duration::from_secs(1)).map_err(io::Error::other)?;
    let calls = trace();
    let panels = [
        ("Round robin", Policy::RoundRobin),
        ("Power of two choices", Policy::PowerOfTwoChoices),
        ("Least connections", Policy::LeastConnections),
        ("Peak EWMA", Policy::PeakEwma(half_life)),
    ]
    .map(|(name, policy)| {
        let (held, slowest) = play(policy, &calls);
        (name, held, slowest)
    });
    for (name, held, slowest) in &panels {
        let most = held.iter().map(|means| means[SLOW]).fold(0.0, f64::max);
        println!(
            "{name}: up to {most:.1} held on the slow one, {slowest:?} at the 99th percentile"
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spread.svg");
    fs::write(&path, draw(&panels))?;
    println!("{}", path.display());
    Ok(())
}

//! The memory of a batch, as the system counts it.
#![cfg(target_os = "linux")]

use super::*;

/// Runs a job on one key, with prompts of this length; returns the most memory it used and the size of its output, both
/// in KiB.
fn run(testbed: &Testbed, items: usize, words: usize) -> (u64, u64) {
    let job = Job::new(0, 1);
    let prompt = "word ".repeat(words);
    let items = (0..items).map(|id| json!({"id": id, "prompt": prompt, "x": [id]}));
    job.write("items.jsonl", items);
    let arguments = ["--workers", "2", "--quiet", "--state", "none"];
    let mut process = job
        .command(&testbed.url, &arguments)
        .stderr(Stdio::null())
        .spawn()
        .expect("the command runs");
    let status = format!("/proc/{}/status", process.id());
    let mut peak = 0;
    while process.try_wait().expect("it can be asked").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(size.unwrap_or(0));
        thread::sleep(core::time::Duration::from_millis(1));
    }
    let output = fs::metadata(job.path("out.jsonl")).expect("the output is there");
    (peak, output.len() / 1024)
}

#[test]
fn answers_stay_on_disk() {
    let testbed = Testbed::start(&["--keys", "1", "--answer-tokens", "4000..4000"]);
    let (small, _) = run(&testbed, 50, 1);
    let (large, size) = run(&testbed, 1_000, 1);
    let growth = large.saturating_sub(small);
    assert!(size > 20_000, "{size} KiB of answers show nothing");
    assert!(growth < size / 4, "{growth} KiB for {size} KiB of answers");
}

#[test]
fn items_stay_on_disk() {
    let testbed = Testbed::start(&["--keys", "1"]);
    let (small, _) = run(&testbed, 50, 2_000);
    let (large, size) = run(&testbed, 1_500, 2_000);
    let growth = large.saturating_sub(small);
    assert!(
        size > 40_000,
        "{size} KiB of items and answers show nothing"
    );
    assert!(
        growth < size / 8,
        "{growth} KiB for {size} KiB of items and answers"
    );
}

//! Batches that are killed or interrupted, and run again.

use super::*;

#[test]
fn a_killed_batch_resumes_without_losing_an_answer() {
    let job = Job::new(40, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "20ms"]);
    let mut process = job
        .command(&testbed.url, &["--workers", "4", "--quiet"])
        .spawn()
        .expect("the command runs");
    job.wait_for_answers(&mut process, 20);
    process.kill().expect("it can be killed");
    process.wait().expect("it ends");
    let kept = line_count(&job.journal());
    assert!((20..80).contains(&kept), "{kept}");

    assert_eq!(job.run(&testbed.url, &[]).status.code(), Some(0));
    assert_eq!(job.answers(), 80);
    assert!(!job.journal().exists());
    let calls = testbed.stop()["ok"].as_u64().expect("a count");
    assert!(
        (80..=84).contains(&calls),
        "{calls} calls for 80 tasks on 4 threads"
    );
}

#[test]
fn an_interrupted_batch_writes_its_answers_and_resumes() {
    let job = Job::new(40, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "20ms"]);
    let mut process = job
        .command(&testbed.url, &["--workers", "4", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    job.wait_for_answers(&mut process, 20);
    send_signal(&process, "INT");
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("the summary is JSON");
    let done = summary["ok"].as_u64().expect("a count") as usize;
    assert_eq!(summary["unfinished"], 80 - done);
    assert_eq!((job.results().len(), job.answers()), (40, done));
    let shown = text(&output.stderr);
    assert!(
        shown.contains("run the same command again to continue"),
        "{shown}"
    );

    assert_eq!(job.run(&testbed.url, &[]).status.code(), Some(0));
    assert_eq!(
        (job.answers(), testbed.stop()["calls"].as_u64()),
        (80, Some(80))
    );
}

#[test]
fn an_interrupt_works_with_a_closed_standard_error() {
    let job = Job::new(40, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "20ms"]);
    let mut process = job
        .command(&testbed.url, &["--workers", "4"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    job.wait_for_answers(&mut process, 10);
    drop(process.stderr.take());
    send_signal(&process, "INT");
    assert_eq!(process.wait().expect("it ends").code(), Some(1));
    assert!(job.answers() < 80);
}

#[test]
fn a_doubled_signal_still_writes_the_answers() {
    let job = Job::new(40, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "100ms"]);
    let mut process = job
        .command(&testbed.url, &["--workers", "4", "--quiet"])
        .spawn()
        .expect("the command runs");
    job.wait_for_answers(&mut process, 10);
    // As GNU `timeout` does: one to the process, one to its group.
    send_signal(&process, "TERM");
    send_signal(&process, "TERM");
    assert_eq!(process.wait().expect("it ends").code(), Some(1));
    assert!((10..80).contains(&job.answers()));
    assert!(!job.journal().exists());
}

#[test]
fn a_closed_standard_output_costs_no_answer() {
    let job = Job::new(2, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    let mut process = job
        .command(&testbed.url, &["--json", "--quiet"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command runs");
    drop(process.stdout.take());
    assert_eq!(process.wait().expect("it ends").code(), Some(0));
    assert_eq!(job.answers(), 4);
}

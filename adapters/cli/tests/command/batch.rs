//! Batches that run to their end: limits, retries, rejected keys.

use super::*;

#[test]
fn a_batch_stays_within_the_limits_that_the_server_counts() {
    let job = Job::new(40, 10);
    let testbed = Testbed::start(&["--keys", "10", "--limit", "3/1s", "--latency", "5ms..20ms"]);
    let output = job.run(&testbed.url, &["--limit", "3/1s", "--json"]);
    let report = testbed.stop();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("the summary is JSON");
    assert_eq!(
        (&summary["tasks"], &summary["ok"]),
        (&json!(80), &json!(80))
    );
    assert_eq!((job.results().len(), job.answers()), (40, 80));
    assert_eq!(report["calls"], 80);
    assert_eq!(report["rejected_429"], 0);
    assert_eq!(report["max_in_window"], 3);
    assert!(!job.journal().exists());
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert!(!shown.contains("sk-testbed"), "{shown}");
}

#[test]
fn a_limit_may_name_calls_tokens_and_concurrency_at_once() {
    for (limit, most) in [
        ("2 concurrent, 100/1s from grant", 2),
        ("60 tokens/50ms", 1),
    ] {
        let job = Job::new(8, 1);
        let testbed = Testbed::start(&["--keys", "1", "--latency", "10ms..20ms"]);
        let arguments = ["--workers", "4", "--max-tokens", "50", "--limit", limit];
        let output = job.run(&testbed.url, &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report = testbed.stop();
        assert_eq!(report["max_concurrent"], most, "{limit}");
    }
}

#[test]
fn a_task_with_an_answer_in_the_output_is_not_run_again() {
    let job = Job::new(5, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    assert_eq!(job.run(&testbed.url, &[]).status.code(), Some(0));
    let output = job.run(&testbed.url, &["--model", "c"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stderr);
    assert!(shown.contains("15 tasks in"), "{shown}");
    assert!(shown.contains("5 answered, 10 answered before;"), "{shown}");
    assert!(
        job.results()
            .iter()
            .all(|result| result["output_pred"]["c"].is_object())
    );
    assert_eq!(job.answers(), 10);
    assert_eq!(testbed.stop()["calls"], 15);
}

#[test]
fn temporary_failures_are_retried_and_permanent_ones_reported() {
    let job = Job::new(10, 2);
    let testbed = Testbed::start(&["--keys", "2", "--fail-every", "5", "--fail-with", "503"]);
    let output = job.run(&testbed.url, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 20);
    drop(testbed);

    let job = Job::new(3, 1);
    let testbed = Testbed::start(&["--keys", "1", "--fail-every", "1", "--fail-with", "400"]);
    let output = job.run(&testbed.url, &[]);
    assert_eq!(output.status.code(), Some(1));
    let results = job.results();
    let reason = results[0]["output_error"]["a"].as_str().expect("a reason");
    let shown = text(&output.stderr);
    assert!(shown.contains("first failure: item "), "{shown}");
    for message in [reason, &shown] {
        assert!(message.contains("400"), "{message}");
        assert!(!message.contains("sk-testbed"), "{message}");
    }
    assert_eq!(testbed.stop()["calls"], 6);
}

#[test]
fn a_limit_set_too_high_delays_tasks_but_loses_none() {
    let job = Job::new(6, 2);
    let testbed = Testbed::start(&["--keys", "2", "--limit", "2/300ms"]);
    let output = job.run(&testbed.url, &["--limit", "6/300ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 12);
    assert!(testbed.stop()["rejected_429"].as_u64() > Some(0));
}

#[test]
fn a_rejected_key_is_taken_out_of_use_and_reported() {
    let job = Job::new(10, 3);
    let testbed = Testbed::start(&["--keys", "2", "--latency", "5ms"]);
    let output = job.run(&testbed.url, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 20);
    assert!(text(&output.stderr).contains("the service rejects the key …0003"));

    job.write("keys.txt", ["sk-unknown-9999"]);
    fs::remove_file(job.path("out.jsonl")).expect("it was written");
    let output = job.run(&testbed.url, &[]);
    assert_eq!(output.status.code(), Some(1));
    let results = job.results();
    let reasons = results
        .iter()
        .map(|result| result["output_error"]["a"].as_str());
    assert!(
        reasons
            .clone()
            .flatten()
            .any(|reason| reason.contains("no usable key is left"))
    );
    assert_eq!(reasons.flatten().count(), 10);
}

#[test]
fn a_forbidden_prompt_does_not_take_its_key_out_of_use() {
    let job = Job::new(10, 4);
    let testbed = Testbed::start(&["--keys", "4", "--fail-every", "7", "--fail-with", "403"]);
    let output = job.run(&testbed.url, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 20);
    assert!(!text(&output.stderr).contains("rejects the key"));
}

#[test]
fn an_unreachable_server_costs_no_earlier_answer() {
    let job = Job::new(2, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    assert_eq!(job.run(&testbed.url, &[]).status.code(), Some(0));
    let url = testbed.url.clone();
    drop(testbed);
    let output = job.run(&url, &["--model", "c", "--give-up-after", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(job.answers(), 4);
    let results = job.results();
    // A task that was not called before the batch gave up has no error of its own.
    let mut reasons = results
        .iter()
        .filter_map(|it| it["output_error"]["c"].as_str());
    let reason = reasons.next().expect("a reason");
    assert!(
        reason.contains(&url) && reason.contains("no connection: Connection refused"),
        "{reason}"
    );
}

#[test]
fn keys_may_come_from_the_environment() {
    let job = Job::new(1, 1);
    let testbed = Testbed::start(&["--keys", "2"]);
    let run = |keys: Option<&str>| {
        let mut command = job.batch();
        command.arg("-i").arg(job.path("items.jsonl"));
        command.arg("-o").arg(job.path("out.jsonl"));
        command.args(["--url", &testbed.url, "--model", "a"]);
        command.args(["--keys-env", "SOME_KEYS"]);
        if let Some(keys) = keys {
            command.env("SOME_KEYS", keys);
        }
        command.output().expect("the command runs")
    };
    for (keys, problem) in [
        (None, "SOME_KEYS is not set"),
        (Some(" , "), "SOME_KEYS has no keys"),
    ] {
        let output = run(keys);
        assert_eq!(output.status.code(), Some(2));
        let shown = text(&output.stderr);
        assert!(shown.contains(problem), "{shown}");
    }
    let output = run(Some("sk-testbed-0001, sk-testbed-0002"));
    assert_eq!(output.status.code(), Some(0));
}

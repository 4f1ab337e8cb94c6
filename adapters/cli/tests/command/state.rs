//! Limits over several runs, and services that are down or wrong.

use super::*;
use core::time::Duration;
use leasehold_testbed::{Fault, OpenAi, OpenAiConfig};

#[test]
fn two_batches_in_a_row_stay_within_the_limit_together() {
    let job = Job::new(4, 2);
    let testbed = Testbed::start(&["--keys", "2", "--limit", "4/1s", "--latency", "5ms..20ms"]);
    assert_eq!(
        job.run(&testbed.url, &["--limit", "4/1s"]).status.code(),
        Some(0)
    );
    fs::remove_file(job.path("out.jsonl")).expect("it was written");
    assert_eq!(
        job.run(&testbed.url, &["--limit", "4/1s"]).status.code(),
        Some(0)
    );
    let report = testbed.stop();
    assert_eq!(
        (&report["ok"], &report["rejected_429"]),
        (&json!(16), &json!(0))
    );
    assert_eq!(report["max_in_window"], 4);
}

#[test]
fn kills_and_resumes_stay_within_the_limit_and_repeat_only_calls_in_flight() {
    let job = Job::new(30, 3);
    let testbed = Testbed::start(&[
        "--keys",
        "3",
        "--limit",
        "5/300ms",
        "--latency",
        "10ms..40ms",
    ]);
    let arguments = ["--limit", "5/300ms", "--workers", "3", "--quiet"];
    for kill in 1..=5 {
        let mut process = job
            .command(&testbed.url, &arguments)
            .spawn()
            .expect("the command runs");
        job.wait_for_answers(&mut process, kill * 7);
        process.kill().expect("it can be killed");
        process.wait().expect("it ends");
    }
    assert_eq!(job.run(&testbed.url, &arguments).status.code(), Some(0));
    assert_eq!(job.answers(), 60);
    let report = testbed.stop();
    assert_eq!(report["rejected_429"], 0);
    let calls = report["calls"].as_u64().expect("a count");
    assert!(calls <= 60 + 5 * 3, "{calls} calls");
}

#[test]
fn a_second_run_on_the_same_keys_is_refused() {
    let job = Job::new(4, 1);
    let testbed = Testbed::start(&["--keys", "1", "--latency", "300ms"]);
    let mut first = job
        .command(&testbed.url, &["--limit", "100/60s", "--quiet"])
        .spawn()
        .expect("the command runs");
    job.wait_for_answers(&mut first, 1);
    let other = job.path("other.jsonl").display().to_string();
    let mut second = job.batch();
    second
        .arg("-i")
        .arg(job.path("items.jsonl"))
        .args(["-o", &other]);
    second.arg("--keys").arg(job.path("keys.txt"));
    second.args(["--model", "a", "--url", &testbed.url, "--limit", "100/60s"]);
    let output = second.output().expect("the command runs");
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    let pid = format!("process {}", first.id());
    assert!(
        shown.contains(&pid) && shown.contains("leasehold gateway"),
        "{shown}"
    );
    assert!(!fs::exists(&other).expect("it can be looked for"));
    assert!(!shown.contains("sk-testbed"), "{shown}");
    assert!(first.wait().expect("it ends").success());
}

#[test]
fn an_outage_is_waited_out() {
    let job = Job::new(20, 2);
    let server = OpenAi::start(OpenAiConfig::default()).expect("the server starts");
    let control = server.control();
    control.begin_outage(Fault::Status(503));
    let process = job
        .command(&server.url(), &[])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    assert!(control.wait(Duration::from_secs(60), |it| it.report().calls >= 6));
    control.end_outage();
    let output = process.wait_with_output().expect("it ends");
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(job.answers(), 40);
    assert!(shown.contains("40 answered"), "{shown}");
    let report = server.report();
    assert!(report.calls < 60, "{} calls in an outage", report.calls);
}

#[test]
fn a_run_gives_up_on_an_outage_that_lasts_too_long() {
    let job = Job::new(20, 2);
    let server = OpenAi::start(OpenAiConfig::default()).expect("the server starts");
    server.control().begin_outage(Fault::Status(503));
    let output = job.run(&server.url(), &["--give-up-after", "3s"]);
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("gave up after 3 s without an answer"),
        "{shown}"
    );
    assert!(
        shown.contains("503") && shown.contains("not done"),
        "{shown}"
    );
    let told = job
        .results()
        .iter()
        .any(|it| it["output_error"]["a"].is_string());
    assert!(told, "a task that was tried has its last error");
}

#[test]
fn a_wrong_url_or_model_stops_after_a_few_calls() {
    let job = Job::new(1_000, 10);
    let server = OpenAi::start(OpenAiConfig::default()).expect("the server starts");
    let not_found: Fault = "404".parse().expect("a status is a fault");
    server.control().begin_outage(not_found);
    let output = job.run(&server.url(), &[]);
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("stopped: ") && shown.contains("check the URL"),
        "{shown}"
    );
    assert!(shown.contains("not done"), "{shown}");
    let calls = server.report().calls;
    assert!(calls <= 10, "{calls} calls");

    let mut config = OpenAiConfig::default();
    config.models = vec!["a".to_owned()];
    let server = OpenAi::start(config).expect("the server starts");
    let job = Job::new(20, 2);
    let output = job.run(&server.url(), &[]);
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("stopped model b: ") && shown.contains("check the name"),
        "{shown}"
    );
    assert_eq!(job.answers(), 20, "the other model goes on");
}

#[test]
fn a_task_goes_to_a_key_that_has_not_failed_it() {
    let mut config = OpenAiConfig::default();
    config.faults = vec!["403@key=0001".parse().expect("a rule")];
    let server = OpenAi::start(config).expect("the server starts");
    let job = Job::new(3, 0);
    // The key that fails is free at once, the other one only after its window.
    job.write(
        "keys.txt",
        ["sk-testbed-0001", "sk-testbed-0002 limit=1/300ms"],
    );
    let output = job.run(&server.url(), &["--workers", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 6);
    let calls = server.report().calls;
    assert!(calls <= 12, "{calls} calls: each key is asked once a task");
}

#[test]
fn a_model_that_no_service_has_holds_up_no_other() {
    let server = || {
        let mut config = OpenAiConfig::default();
        config.models = vec!["a".to_owned()];
        OpenAi::start(config).expect("the server starts")
    };
    let (one, other) = (server(), server());
    let job = Job::new(12, 2);
    let arguments = ["--url", &other.url(), "--limit", "2/200ms"];
    let output = job.run(&one.url(), &arguments);
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("stopped model b: "), "{shown}");
    assert_eq!(job.answers(), 12, "the other model goes on");
}

#[test]
fn no_number_of_refusals_ends_a_task() {
    let job = Job::new(3, 1);
    let testbed = Testbed::start(&[
        "--keys",
        "1",
        "--fault",
        "rate-limit=first:4",
        "--fault-wait",
        "10ms",
    ]);
    let output = job.run(&testbed.url, &["--workers", "1", "--tries", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 6);
    drop(testbed);
}

#[test]
fn limits_count_for_models_groups_and_urls() {
    let limits = ["--limit", "a=2/400ms", "--limit", "100/min", "--json"];
    let job = Job::new(6, 1);
    let testbed = Testbed::start(&["--keys", "1", "--limit", "a=2/400ms"]);
    let output = job.run(&testbed.url, &limits);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = testbed.stop();
    assert_eq!(
        (&report["ok"], &report["rejected_429"]),
        (&json!(12), &json!(0))
    );

    // Two keys of one account share its limit, so that the second takes as long as the first.
    let job = Job::new(6, 0);
    let testbed = Testbed::start(&["--keys", "2"]);
    let line = |key: u32| {
        format!(
            "KEY_{key}=sk-testbed-000{key} url={} group=g limit=6/300ms",
            testbed.url
        )
    };
    job.write("keys.txt", [line(1), line(2)]);
    let mut command = job.batch();
    command
        .arg("-i")
        .arg(job.path("items.jsonl"))
        .arg("-o")
        .arg(job.path("out.jsonl"));
    command.arg("--keys").arg(job.path("keys.txt"));
    let output = command
        .args(["--model", "a", "--model", "b", "--json"])
        .output();
    let output = output.expect("the command runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(summary["elapsed_s"].as_f64() >= Some(0.3), "{summary}");
    let report = testbed.stop();
    let calls = report["per_key"].as_array().expect("a list").iter();
    let calls: Vec<_> = calls.map(|key| key["calls"].as_u64()).collect();
    assert_eq!(calls, [Some(6), Some(6)]);
}

#[test]
fn faults_of_every_kind_lose_no_task() {
    let mut config = OpenAiConfig::default();
    config.faults = vec!["any=20%".parse().expect("a rule")];
    config.seed = 1;
    config.fault_wait = Duration::from_millis(50);
    config.stall = Duration::from_secs(2);
    let server = OpenAi::start(config).expect("the server starts");
    let job = Job::new(100, 20);
    let output = job.run(&server.url(), &["--timeout", "1s", "--json"]);
    let summary: Value = serde_json::from_slice(&output.stdout).expect("the summary is JSON");
    assert_eq!(summary["unfinished"], 0, "{}", text(&output.stderr));
    let results = job.results();
    let ids: BTreeSet<_> = results.iter().map(|it| it["id"].to_string()).collect();
    assert_eq!((results.len(), ids.len()), (100, 100));
    for result in &results {
        for model in ["a", "b"] {
            let (answer, error) = (
                &result["output_pred"][model],
                &result["output_error"][model],
            );
            assert!(answer.is_object() != error.is_string(), "{result}");
        }
    }
    let control = server.control();
    assert!(control.wait(Duration::from_secs(10), |it| it.open_connections() == 0));
    let by_fault = server.report().by_fault;
    assert!(by_fault.len() > 10, "too few kinds: {by_fault:?}");
}

//! The command as its users meet it: real processes, real files, real kills.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use tempfile::TempDir;

fn leasehold() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.env_remove("LEASEHOLD_KEYS");
    command
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {}", process.id())])
        .status();
    assert!(sent.expect("there is a shell").success());
}

/// A testbed in a process of its own.
struct Testbed {
    process: Child,
    output: BufReader<ChildStdout>,
    url: String,
}

impl Testbed {
    fn start(arguments: &[&str]) -> Self {
        let mut process = leasehold()
            .args(["testbed", "openai"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the testbed starts");
        let stdout = process.stdout.take().expect("its output is piped");
        let mut output = BufReader::new(stdout);
        let mut line = String::new();
        output
            .read_line(&mut line)
            .expect("it says where it listens");
        let url = line.trim().strip_prefix("listening on ").expect(&line);
        Self {
            url: url.to_owned(),
            process,
            output,
        }
    }

    /// Interrupts it, and reads what it saw.
    fn stop(mut self) -> Value {
        signal(&self.process, "INT");
        let mut report = String::new();
        self.output.read_to_string(&mut report).expect("it reports");
        assert!(self.process.wait().expect("it ends").success());
        serde_json::from_str(&report).expect("the report is JSON")
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with items and keys, and the batch over them.
struct Job {
    folder: TempDir,
}

impl Job {
    fn new(items: usize, keys: usize) -> Self {
        let job = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        let items =
            (0..items).map(|id| json!({"id": id, "prompt": format!("item {id}"), "x": [id]}));
        job.write("items.jsonl", items);
        let keys = (1..=keys).map(|number| format!("sk-testbed-{number:04}"));
        job.write("keys.txt", keys);
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, lines: impl Iterator<Item = impl ToString>) {
        let lines: Vec<_> = lines.map(|line| line.to_string() + "\n").collect();
        fs::write(self.path(name), lines.concat()).expect("a temporary file can be written");
    }

    fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = leasehold();
        command.arg("batch").arg("-i").arg(self.path("items.jsonl"));
        command.arg("-o").arg(self.path("out.jsonl"));
        command.arg("--keys").arg(self.path("keys.txt"));
        command.args(["--url", url, "--model", "a", "--model", "b"]);
        command.args(arguments);
        command
    }

    fn run(&self, url: &str, arguments: &[&str]) -> Output {
        let output = self.command(url, arguments).output();
        output.expect("the command runs")
    }

    fn results(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("out.jsonl")).expect("there is an output");
        let lines = text.lines().map(serde_json::from_str);
        lines.map(|line| line.expect("each line is JSON")).collect()
    }

    /// How many tasks have an answer to their own question.
    fn answers(&self) -> usize {
        let results = self.results();
        let ids: BTreeSet<_> = results
            .iter()
            .map(|result| result["id"].to_string())
            .collect();
        assert_eq!(ids.len(), results.len(), "an item is there twice");
        let answered = |result: &Value, model: &str| {
            let content = result["output_pred"][model]["content"].as_str();
            let prompt = result["prompt"].as_str().expect("the prompt is kept");
            assert_eq!(result["x"], json!([result["id"]]), "other fields are kept");
            content.is_some_and(|content| content.ends_with(prompt))
        };
        let tasks = results
            .iter()
            .flat_map(|result| [answered(result, "a"), answered(result, "b")]);
        tasks.filter(|answered| *answered).count()
    }

    fn journal(&self) -> PathBuf {
        self.path("out.jsonl.journal")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[test]
fn a_batch_keeps_the_limits_of_a_server_started_by_itself() {
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
fn answers_that_are_there_are_not_asked_for_again() {
    let job = Job::new(5, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    assert_eq!(job.run(&testbed.url, &[]).status.code(), Some(0));
    assert_eq!(
        job.run(&testbed.url, &["--model", "c"]).status.code(),
        Some(0)
    );
    assert!(
        job.results()
            .iter()
            .all(|result| result["output_pred"]["c"].is_object())
    );
    assert_eq!(job.answers(), 10);
    assert_eq!(testbed.stop()["calls"], 15);
}

#[test]
fn a_batch_that_is_killed_goes_on_where_it_was() {
    let job = Job::new(40, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "20ms"]);
    let mut process = job
        .command(&testbed.url, &["--workers", "4", "--quiet"])
        .spawn()
        .expect("the command runs");
    while lines(&job.journal()) < 20 {
        assert!(process.try_wait().expect("it can be asked").is_none());
        thread::yield_now();
    }
    process.kill().expect("it can be killed");
    process.wait().expect("it ends");
    let kept = lines(&job.journal());
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
fn an_interrupted_batch_writes_what_it_has() {
    let job = Job::new(40, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "20ms"]);
    let process = job
        .command(&testbed.url, &["--workers", "4", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    while lines(&job.journal()) < 20 {
        thread::yield_now();
    }
    signal(&process, "INT");
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("the summary is JSON");
    let done = summary["ok"].as_u64().expect("a count") as usize;
    assert_eq!(summary["unfinished"], 80 - done);
    assert_eq!((job.results().len(), job.answers()), (40, done));
    assert!(text(&output.stderr).contains("run the same command again to go on"));

    assert_eq!(job.run(&testbed.url, &[]).status.code(), Some(0));
    assert_eq!(
        (job.answers(), testbed.stop()["calls"].as_u64()),
        (80, Some(80))
    );
}

#[test]
fn failures_that_pass_are_tried_again_and_others_reported() {
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
    assert!(
        reason.contains("400") && !reason.contains("sk-testbed"),
        "{reason}"
    );
    assert_eq!(testbed.stop()["calls"], 6);
}

#[test]
fn a_limit_that_is_lower_upstream_loses_nothing() {
    let job = Job::new(6, 2);
    let testbed = Testbed::start(&["--keys", "2", "--limit", "2/300ms"]);
    let output = job.run(&testbed.url, &["--limit", "6/300ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 12);
    assert!(testbed.stop()["rejected_429"].as_u64() > Some(0));
}

#[test]
fn a_key_that_is_refused_is_left_out_and_named() {
    let job = Job::new(10, 3);
    let testbed = Testbed::start(&["--keys", "2", "--latency", "5ms"]);
    let output = job.run(&testbed.url, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 20);
    assert!(text(&output.stderr).contains("the service refuses the key …0003"));

    job.write("keys.txt", ["sk-unknown-9999"].iter());
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
fn an_upstream_that_is_not_there_costs_nothing_that_was_done() {
    let job = Job::new(2, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    assert_eq!(job.run(&testbed.url, &[]).status.code(), Some(0));
    let url = testbed.url.clone();
    drop(testbed);
    let output = job.run(&url, &["--model", "c", "--tries", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(job.answers(), 4);
    let results = job.results();
    let reason = results[0]["output_error"]["c"].as_str().expect("a reason");
    assert!(
        reason.contains(&url) && reason.contains("no connection"),
        "{reason}"
    );
}

#[test]
fn what_is_asked_for_wrongly_is_said_clearly_and_changes_nothing() {
    let job = Job::new(2, 1);
    fs::write(
        job.path("out.jsonl"),
        "{\"id\":0,\"output_pred\":{\"a\":1}}\n",
    )
    .expect("a file");
    job.write("bad.jsonl", ["{\"id\":1,\"prompt\":\"x\"}", "{oops"].iter());
    job.write("none.txt", ["# no key"].iter());
    fs::create_dir(job.path("folder")).expect("a folder");
    let path = |name: &str| job.path(name).display().to_string();
    let cases: [(&[&str], i32, &[&str]); 11] = [
        (
            &["-i", &path("bad.jsonl")],
            2,
            &["bad.jsonl:2:", "not JSON"],
        ),
        (
            &["-i", &path("absent.jsonl")],
            2,
            &["cannot read", "absent.jsonl"],
        ),
        (
            &["--keys", &path("absent.txt")],
            2,
            &["cannot read the keys", "absent.txt", "--keys-env"],
        ),
        (
            &["--keys", &path("none.txt")],
            2,
            &["none.txt:1", "there is no key"],
        ),
        (
            &["--limit", "3/0s"],
            2,
            &[
                "--limit",
                "at character 3, \"0s\": the window must be above zero",
            ],
        ),
        (
            &["--url", "ftp://127.0.0.1"],
            2,
            &["--url", "http:// or https://"],
        ),
        (
            &["-o", &path("absent/out.jsonl")],
            1,
            &["cannot write", "absent/out.jsonl"],
        ),
        (
            &["-o", &path("folder")],
            2,
            &["folder", "not a regular file"],
        ),
        (&["-o", &path("bad.jsonl")], 2, &["bad.jsonl:2", "not JSON"]),
        (
            &["--timeout", "0s"],
            2,
            &["--timeout", "no call could end in that time"],
        ),
        (
            &[
                "--url",
                "http://127.0.0.1:1",
                "--url",
                "http://127.0.0.1:1/v1",
            ],
            2,
            &["given twice"],
        ),
    ];
    for (arguments, code, words) in cases {
        let mut base = vec!["-i", "-o", "--keys", "--url", "--limit"];
        base.retain(|flag| flag != &arguments[0]);
        let mut command = leasehold();
        command.args(["batch", "--model", "a"]).args(arguments);
        for flag in base {
            let value = match flag {
                "-i" => path("items.jsonl"),
                "-o" => path("out.jsonl"),
                "--keys" => path("keys.txt"),
                "--url" => "http://127.0.0.1:1".to_owned(),
                _ => "3/60s".to_owned(),
            };
            command.args([flag, &value]);
        }
        let output = command.output().expect("the command runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(
                said.contains(word),
                "{arguments:?}: {word} is not in {said}"
            );
        }
        assert!(!said.contains("sk-testbed"), "{said}");
    }
    let output = fs::read_to_string(job.path("out.jsonl")).expect("it is there");
    assert_eq!(output, "{\"id\":0,\"output_pred\":{\"a\":1}}\n");
    assert!(!job.journal().exists());
}

#[test]
fn an_interrupt_is_heard_though_nobody_listens_to_it() {
    let job = Job::new(40, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "20ms"]);
    let mut process = job
        .command(&testbed.url, &["--workers", "4"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    while lines(&job.journal()) < 10 {
        thread::yield_now();
    }
    drop(process.stderr.take());
    signal(&process, "INT");
    assert_eq!(process.wait().expect("it ends").code(), Some(1));
    assert!(job.answers() < 80);
}

#[test]
fn a_prompt_that_is_forbidden_condemns_no_key() {
    let job = Job::new(10, 4);
    let testbed = Testbed::start(&["--keys", "4", "--fail-every", "7", "--fail-with", "403"]);
    let output = job.run(&testbed.url, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 20);
    assert!(!text(&output.stderr).contains("refuses the key"));
}

#[test]
fn keys_come_from_the_environment_too() {
    let job = Job::new(1, 1);
    let testbed = Testbed::start(&["--keys", "2"]);
    let run = |keys: Option<&str>| {
        let mut command = leasehold();
        command.arg("batch").arg("-i").arg(job.path("items.jsonl"));
        command.arg("-o").arg(job.path("out.jsonl"));
        command.args([
            "--url",
            &testbed.url,
            "--model",
            "a",
            "--keys-env",
            "SOME_KEYS",
        ]);
        if let Some(keys) = keys {
            command.env("SOME_KEYS", keys);
        }
        command.output().expect("the command runs")
    };
    let missing = run(None);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("SOME_KEYS is not set"));
    assert_eq!(
        run(Some("sk-testbed-0001, sk-testbed-0002")).status.code(),
        Some(0)
    );
}

//! Tests of the `leasehold` command with real processes, files and signals.

mod backends;
mod batch;
mod callers;
mod changes;
mod clients;
mod comfyui;
mod doctor;
mod errors;
mod gateway;
mod habits;
mod interrupt;
mod lease;
mod log;
mod memory;
mod pages;
mod plan;
mod pool;
mod requests;
mod service;
mod stages;
mod state;
mod testbed;

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

fn send_signal(process: &Child, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {}", process.id())])
        .status();
    assert!(sent.expect("there is a shell").success());
}

/// Interrupts a process, which ends in order, and returns the rest of its output.
fn interrupt(process: &mut Child, output: &mut impl Read) -> String {
    send_signal(process, "INT");
    let mut rest = String::new();
    output
        .read_to_string(&mut rest)
        .expect("it prints its report");
    assert!(process.wait().expect("it ends").success());
    rest
}

/// Starts a command, and returns what it prints; its errors go to `errors`.
fn start(command: &[&str], arguments: &[&str], errors: Stdio) -> (Child, BufReader<ChildStdout>) {
    let mut process = leasehold()
        .args(command)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .expect("it starts");
    let stdout = process.stdout.take().expect("its output is piped");
    (process, BufReader::new(stdout))
}

/// A test server in its own process.
struct Testbed {
    process: Child,
    output: BufReader<ChildStdout>,
    url: String,
}

impl Testbed {
    fn start(arguments: &[&str]) -> Self {
        let (process, mut output) = start(&["testbed", "openai"], arguments, Stdio::inherit());
        let mut line = String::new();
        output.read_line(&mut line).expect("it prints its address");
        let url = line.trim().strip_prefix("listening on ").expect(&line);
        Self {
            url: url.to_owned(),
            process,
            output,
        }
    }

    /// Interrupts the server and returns its report.
    fn stop(mut self) -> Value {
        let report = interrupt(&mut self.process, &mut self.output);
        serde_json::from_str(&report).expect("the report is JSON")
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // After `stop` the process has ended already, and this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with items and keys, and the batch command for them.
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

    fn write(&self, name: &str, lines: impl IntoIterator<Item = impl ToString>) {
        let lines = lines.into_iter().map(|line| line.to_string() + "\n");
        let text: String = lines.collect();
        fs::write(self.path(name), text).expect("a temporary file can be written");
    }

    /// The bare command, with a state of its own.
    fn batch(&self) -> Command {
        let mut command = leasehold();
        command
            .env("XDG_STATE_HOME", self.path("state"))
            .arg("batch");
        command
    }

    fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = self.batch();
        command.arg("-i").arg(self.path("items.jsonl"));
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
        let text = fs::read_to_string(self.path("out.jsonl")).expect("the output exists");
        let lines = text.lines().map(serde_json::from_str);
        lines.map(|line| line.expect("each line is JSON")).collect()
    }

    /// Counts the tasks with an answer to their own prompt, and checks that no other field was lost.
    fn answers(&self) -> usize {
        let results = self.results();
        let ids: BTreeSet<_> = results
            .iter()
            .map(|result| result["id"].to_string())
            .collect();
        assert_eq!(ids.len(), results.len(), "an item is in the output twice");
        let has_answer = |result: &Value, model: &str| {
            let content = result["output_pred"][model]["content"].as_str();
            let prompt = result["prompt"].as_str().expect("the prompt is kept");
            assert_eq!(result["x"], json!([result["id"]]), "other fields are kept");
            content.is_some_and(|content| content.ends_with(prompt))
        };
        let tasks = results
            .iter()
            .flat_map(|result| [has_answer(result, "a"), has_answer(result, "b")]);
        tasks.filter(|has_answer| *has_answer).count()
    }

    /// Waits until the journal has `count` lines, for as long as the process runs.
    fn wait_for_answers(&self, process: &mut Child, count: usize) {
        while line_count(&self.journal()) < count {
            let ended = process.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended before {count} answers");
            thread::yield_now();
        }
    }

    fn journal(&self) -> PathBuf {
        self.path("out.jsonl.journal")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn line_count(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

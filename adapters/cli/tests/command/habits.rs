//! What users of similar tools are used to: halting, logs of jobs, bad lines, order, signals, reports.

use super::*;
use std::os::unix::fs::MetadataExt;

#[test]
fn a_batch_halts_when_enough_tasks_have_failed() {
    let job = Job::new(200, 1);
    let testbed = Testbed::start(&["--keys", "1", "--fault", "400", "--latency", "2ms"]);
    let output = job.run(
        &testbed.url,
        &["--halt", "soon,fail=5", "--workers", "2", "--json"],
    );
    assert_eq!(output.status.code(), Some(1));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let failed = summary["failed"].as_u64().expect("a count");
    assert!((5..=7).contains(&failed), "{summary}");
    assert_eq!(summary["unfinished"].as_u64(), Some(400 - failed));
    assert!(text(&output.stderr).contains("--halt soon,fail=5"));
    let wrong = job.run(&testbed.url, &["--halt", "now,fail=1"]);
    assert!(text(&wrong.stderr).contains("write soon"));
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn only_failed_tasks_are_tried_again_if_asked() {
    let job = Job::new(4, 1);
    let broken = Testbed::start(&["--keys", "1", "--fault", "400"]);
    let some = job.run(&broken.url, &["--shard", "1/2"]);
    assert_eq!(some.status.code(), Some(1));
    assert_eq!(broken.stop()["calls"], 4);
    let testbed = Testbed::start(&["--keys", "1"]);
    let again = job.run(&testbed.url, &["--retry-failed"]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert_eq!(
        (job.answers(), testbed.stop()["calls"].as_u64()),
        (4, Some(4))
    );
}

#[test]
fn the_log_of_jobs_has_a_line_for_each_call() {
    let job = Job::new(3, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    let log = job.path("jobs.tsv");
    let output = job.run(&testbed.url, &["--joblog", &log.display().to_string()]);
    assert_eq!(output.status.code(), Some(0));
    let log = fs::read_to_string(&log).expect("the log");
    let mut lines = log.lines();
    let head = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand";
    assert_eq!(lines.next(), Some(head));
    let mut numbers: Vec<usize> = Vec::new();
    for line in lines {
        let fields: Vec<_> = line.split('\t').collect();
        assert_eq!((fields.len(), fields[6]), (9, "0"), "{line}");
        assert!(fields[2].parse::<f64>().expect("a time") > 1.7e9, "{line}");
        numbers.push(fields[0].parse().expect("a number"));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    for (flag, file) in [("--joblog", "out.jsonl"), ("--report", "items.jsonl")] {
        let file = job.path(file).display().to_string();
        let before = fs::read(&file).expect("it is there");
        let refused = job.run(&testbed.url, &[flag, &file]);
        assert!(
            text(&refused.stderr).contains("choose another file"),
            "{flag}"
        );
        assert_eq!(refused.status.code(), Some(2));
        assert_eq!(fs::read(&file).expect("it is there"), before);
    }
}

#[test]
fn bad_lines_are_left_out_and_all_of_them_told() {
    let job = Job::new(0, 1);
    let lines = [
        "{\"id\":1,\"prompt\":\"p\",\"x\":[1]}",
        "oops",
        "{\"id\":2}",
        "{\"id\":1,\"prompt\":\"again\"}",
        "{\"id\":3,\"prompt\":\"p\",\"x\":[3]}",
    ];
    job.write("items.jsonl", lines);
    let testbed = Testbed::start(&["--keys", "1"]);
    let refused = job.run(&testbed.url, &[]);
    assert_eq!(refused.status.code(), Some(2));
    let output = job.run(&testbed.url, &["--skip-bad-lines"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stderr);
    for place in [
        "items.jsonl:2: not JSON",
        "items.jsonl:3: the item has no",
        "items.jsonl:4: the id",
    ] {
        assert!(shown.contains(place), "{place}: {shown}");
    }
    assert!(
        shown.contains("3 lines are left out; 2 items are read"),
        "{shown}"
    );
    assert_eq!(job.answers(), 4);
}

#[test]
fn lines_come_as_items_end_and_in_order_if_asked() {
    let job = Job::new(40, 8);
    let testbed = Testbed::start(&["--keys", "8", "--latency", "5ms..60ms"]);
    let mut process = job
        .command(&testbed.url, &["--workers", "8", "--quiet"])
        .spawn()
        .expect("the command runs");
    let output = job.path("out.jsonl");
    // The first lines are there while the batch runs, and more are only added.
    let inode = loop {
        assert!(process.try_wait().expect("it can be asked").is_none());
        if line_count(&output) >= 5 {
            break fs::metadata(&output).expect("it is there").ino();
        }
        thread::yield_now();
    };
    let early = fs::read_to_string(&output).expect("it is there");
    assert!(process.wait().expect("it ends").success());
    assert_ne!(fs::metadata(&output).expect("it is there").ino(), inode);
    let lines: Vec<Value> = early
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).expect("each line is whole"))
        .collect();
    let results = job.results();
    assert!(lines.iter().all(|line| results.contains(line)));
    assert!(
        results
            .iter()
            .map(|result| result["id"].as_u64())
            .is_sorted()
    );

    for (flags, ordered) in [(&["--keep-order"][..], true), (&[][..], false)] {
        let mut command = job.batch();
        command.arg("-i").arg(job.path("items.jsonl"));
        command.arg("--keys").arg(job.path("keys.txt"));
        command.args([
            "-o",
            "-",
            "--url",
            &testbed.url,
            "--model",
            "a",
            "--workers",
            "8",
            "-q",
        ]);
        let output = command.args(flags).output().expect("it runs");
        let ids = text(&output.stdout);
        let ids: Vec<u64> = ids
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).expect("JSON")["id"]
                    .as_u64()
                    .expect("a number")
            })
            .collect();
        assert_eq!((ids.len(), ids.is_sorted()), (40, ordered), "{ids:?}");
    }
}

/// Waits for a line of a process's standard error.
fn wait_for(errors: &mut impl BufRead, words: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(words) {
        let read = errors.read_line(&mut seen).expect("it can be read");
        assert!(read > 0, "it ended without {words:?}: {seen}");
    }
    seen
}

#[test]
fn signals_print_the_status_and_change_the_number_of_workers() {
    let job = Job::new(60, 10);
    job.write("workers", ["1"]);
    let testbed = Testbed::start(&["--keys", "10", "--latency", "50ms"]);
    let workers = job.path("workers").display().to_string();
    let mut process = job
        .command(&testbed.url, &["--workers", &workers, "--limit", "100/60s"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut errors = BufReader::new(process.stderr.take().expect("it is piped"));
    job.wait_for_answers(&mut process, 3);
    send_signal(&process, "USR1");
    let status = wait_for(&mut errors, "limits ");
    assert!(status.contains("processing  1 in flight"), "{status}");
    assert!(status.contains("limits      100/1min"), "{status}");
    job.write("workers", ["10"]);
    send_signal(&process, "HUP");
    wait_for(&mut errors, "10 workers from now on");
    let mut rest = String::new();
    errors.read_to_string(&mut rest).expect("it can be read");
    assert!(process.wait().expect("it ends").success(), "{rest}");
    assert_eq!(job.answers(), 120);
    // One worker alone would take 6 s.
    let seconds = rest
        .split("120 tasks in ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let seconds: f64 = seconds.and_then(|text| text.parse().ok()).expect("a time");
    assert!(seconds < 4.0, "{rest}");
}

#[test]
fn tokens_cost_and_a_page_are_told_at_the_end() {
    let job = Job::new(5, 2);
    let testbed = Testbed::start(&["--keys", "2"]);
    let page = job.path("report.html").display().to_string();
    let flags = ["--price", "1000000,2000000", "--report", &page, "--json"];
    let output = job.run(&testbed.url, &flags);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let tokens = |kind: &str| summary["tokens"][kind].as_f64().expect("a count");
    let cost = tokens("prompt") + 2.0 * tokens("completion");
    assert!(cost > 0.0 && (summary["cost"].as_f64().expect("a cost") - cost).abs() < 1e-6);
    assert_eq!(
        summary["per_key"][0]["ok"].as_u64(),
        summary["per_key"][0]["calls"].as_u64()
    );
    let page = fs::read_to_string(page).expect("the page");
    assert!(page.contains("</html>") && page.contains("0002"), "{page}");
    assert!(!page.contains("sk-testbed"), "no key is told");
}

#[test]
fn a_reader_that_leaves_ends_the_batch() {
    let job = Job::new(200, 2);
    let testbed = Testbed::start(&["--keys", "2", "--latency", "5ms"]);
    let mut command = job.batch();
    command.arg("-i").arg(job.path("items.jsonl"));
    command.arg("--keys").arg(job.path("keys.txt"));
    command.args(["-o", "-", "--url", &testbed.url, "--model", "a", "-q"]);
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut lines = BufReader::new(process.stdout.take().expect("it is piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    drop(lines);
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write standard output"));
    let calls = testbed.stop()["calls"].as_u64().expect("a count");
    assert!(calls < 100, "{calls} calls for a reader that has left");
}

#[test]
fn a_pipe_with_a_name_is_refused_as_an_output() {
    let job = Job::new(2, 1);
    let made = Command::new("mkfifo").arg(job.path("out.jsonl")).status();
    assert!(made.expect("there is a mkfifo").success());
    let output = job.run("http://127.0.0.1:1/v1", &[]);
    assert!(text(&output.stderr).contains("not a regular file"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn leases_of_earlier_runs_are_not_counted_again() {
    let job = Job::new(4, 2);
    // All four calls are in flight at once, so that both keys get two.
    let testbed = Testbed::start(&["--keys", "2", "--latency", "200ms"]);
    for shard in ["1/2", "2/2"] {
        let output = job.run(
            &testbed.url,
            &["--limit", "50/60s", "--shard", shard, "--json"],
        );
        let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let leases = |kind: &str| summary["leases"][kind].as_u64().expect("a count");
        assert_eq!(leases("at_once") + leases("after_waiting"), 4, "{summary}");
        assert_eq!(summary["retries"], 0);
        let calls = summary["per_key"].as_array().expect("a list").iter();
        let calls: u64 = calls
            .map(|key| key["calls"].as_u64().expect("a count"))
            .sum();
        assert_eq!(
            (calls, &summary["balance_score"]),
            (4, &json!(1.0)),
            "{summary}"
        );
    }
}

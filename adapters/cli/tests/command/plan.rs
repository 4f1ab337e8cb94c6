//! Plans: what is read, what is told, and that a run then takes as long.

use super::*;

/// Runs a plan, and returns its figures.
fn plan(arguments: &[&str]) -> Value {
    let output = leasehold()
        .arg("plan")
        .args(arguments)
        .arg("--json")
        .output();
    let output = output.expect("it runs");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    serde_json::from_slice(&output.stdout).expect("the figures are JSON")
}

/// Runs a plan that can't be made, and returns its error.
fn refused(arguments: &[&str]) -> String {
    let output = leasehold().arg("plan").args(arguments).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    text(&output.stderr)
}

fn written(folder: &TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a temporary file can be written");
    path.display().to_string()
}

#[test]
fn flags_give_finish_rate_cost_and_the_limit_that_binds() {
    // 30 calls at once and 30 more every 60 s from the end of the first ones.
    let figures = plan(&[
        "--keys",
        "10",
        "--limit",
        "3/60s",
        "--calls",
        "150",
        "--tokens",
        "1200,300",
        "--models",
        "2",
        "--call-time",
        "4s",
        "--workers",
        "64",
        "--price",
        "1,2",
    ]);
    assert_eq!(
        (&figures["served"], &figures["calls"]),
        (&json!(150), &json!(150))
    );
    assert_eq!(figures["finish_s"], 4.0 * 64.0 + 4.0);
    assert_eq!(figures["prompt_tokens"], 180_000);
    let cost = figures["cost"].as_f64().expect("there are prices");
    assert!((cost - 0.27).abs() < 1e-9, "{cost}");
    assert_eq!(figures["held_back_by"], "3/1min of each key or server");
    assert_eq!(figures["compare"][0]["change"], "1 more key or server");
    let more = figures["compare"][0]["finish_s"].as_f64();
    assert!(more <= figures["finish_s"].as_f64());
}

#[test]
fn a_table_and_a_page_are_for_people() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("plan.html");
    let mut command = leasehold();
    command.args(["plan", "--keys", "2", "--limit", "3/60s", "--calls", "20"]);
    command.args([
        "--compare",
        "policy=least_used",
        "--compare",
        "limiter=fixed,paced",
    ]);
    let output = command.arg("--report").arg(&page).output();
    let output = output.expect("it runs");
    let (shown, told) = (text(&output.stdout), text(&output.stderr));
    for part in [
        "20 served",
        "held back by   3/1min",
        "without 4 calls at once in all",
        "limiter paced",
        "policy least_used",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(
        told.contains("a call is taken to last 1s; say otherwise by --call-time"),
        "{told}"
    );
    let page = fs::read_to_string(page).expect("the page is written");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for part in [
        "<svg",
        "limiter paced",
        "prefers-color-scheme: dark",
        "default-src 'none'",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http://", "https://", "<script", "<link", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_pool_of_a_configuration_file_is_planned_for_with_a_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = "[pools.web]\nkind = \"http\"\npolicy = \"round_robin\"\n\
        [[pools.web.members]]\nurl = \"http://127.0.0.1:8001\"\n\
        [[pools.web.members]]\nurl = \"http://127.0.0.1:8002\"\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n";
    let config = written(&folder, "leasehold.toml", config);
    let line = |port: u32, time: &str| {
        format!(
            "::1 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 1 \"-\" \"-\" id 127.0.0.1:{port} {time} ok\n"
        )
    };
    let log = format!(
        "started\n{}{}",
        line(8001, "0.010").repeat(30),
        line(8002, "0.100").repeat(30)
    );
    let log = written(&folder, "access.log", &log);
    let arguments = ["--config", &config, "--trace", &log, "--workers", "2"];
    let compared = ["--compare", "policy=least_connections,fifo"];
    let figures = plan(&[&arguments[..], &compared[..]].concat());
    assert_eq!(figures["served"], 60);
    assert_eq!(
        figures["per_member"],
        json!({"127.0.0.1:8001": 30, "127.0.0.1:8002": 30})
    );
    // One worker stays with each server: the fast one does most of the work.
    let least = figures["compare"][0]["finish_s"].as_f64().expect("a time");
    assert!(least < 0.7, "{figures}");
    let output = leasehold()
        .arg("plan")
        .args(arguments)
        .output()
        .expect("it runs");
    let told = text(&output.stderr);
    assert!(told.contains("1 of 61 lines are left out"), "{told}");
    assert!(told.contains("access.log:1: started"), "{told}");
    assert!(!told.contains("--call-time"), "{told}");
}

#[test]
fn items_are_planned_with_the_tokens_that_they_have() {
    let job = Job::new(10, 2);
    let items = job.path("items.jsonl").display().to_string();
    let keys = job.path("keys.txt").display().to_string();
    let arguments = [
        "-i", &items, "--keys", &keys, "--model", "a", "--model", "b",
    ];
    let figures = plan(
        &[
            &arguments[..],
            &[
                "--tokens",
                "0,5",
                "--limit",
                "b=2/1s",
                "--call-time",
                "10ms",
            ],
        ]
        .concat(),
    );
    assert_eq!(figures["served"], 20);
    assert_eq!(figures["completion_tokens"], 100);
    assert!(figures["prompt_tokens"].as_u64() > Some(20), "{figures}");
    let most = plan(&[&arguments[..], &["--max-tokens", "7"]].concat());
    assert_eq!(most["completion_tokens"], 140);
    assert_eq!(figures["held_back_by"], "b=2/1s");
    assert!(!figures.to_string().contains("sk-testbed"), "{figures}");
}

#[test]
fn an_error_names_the_flag_or_the_file_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = written(&folder, "none.log", "hello\nworld\n");
    let one = ["--keys", "1", "--calls", "1"];
    for (arguments, part) in [
        (
            &["--calls", "5"][..],
            "--keys COUNT, --keys FILE or --config FILE",
        ),
        (&["--keys", "0", "--calls", "5"], "must be at least 1"),
        (
            &["--keys", "missing.txt", "--calls", "5"],
            "cannot read the keys in missing.txt",
        ),
        (&["--keys", "1"], "--calls <COUNT>"),
        (&["--keys", "1", "--calls", "6000000"], "at most 5,000,000"),
        (
            &["--keys", "1", "--trace", "gone.log"],
            "--trace: cannot read gone.log",
        ),
        (
            &["--keys", "1", "--trace", &log],
            "has no line that tells of a request",
        ),
        (&["--keys", "1", "-i", "gone.jsonl"], "gone.jsonl"),
        (&["--config", "gone.toml", "--calls", "5"], "gone.toml"),
        (
            &[&one[..], &["--limit", "m=3/60s"]].concat(),
            "the model is not called",
        ),
        (
            &[&one[..], &["--limit", "3/60"]].concat(),
            "a limit is written like",
        ),
        (
            &[&one[..], &["--tokens", "12"]].concat(),
            "such as 1200,300",
        ),
        (
            &[&one[..], &["--compare", "policy=x"]].concat(),
            "unknown policy; expected one of",
        ),
        (
            &[&one[..], &["--models", "20000"]].concat(),
            "at most 10000 models",
        ),
        (&[&one[..], &["--report", "/nowhere/x.html"]].concat(), ""),
    ] {
        if part.is_empty() {
            let output = leasehold().arg("plan").args(arguments).output();
            let output = output.expect("it runs");
            assert_eq!(output.status.code(), Some(1));
            assert!(text(&output.stderr).contains("--report: cannot write /nowhere/x.html"));
            continue;
        }
        let told = refused(arguments);
        assert!(told.contains(part), "{arguments:?}: {told}");
    }
}

#[test]
fn a_dry_run_sends_nothing_and_leaves_no_file() {
    let job = Job::new(10, 2);
    let testbed = Testbed::start(&["--keys", "2"]);
    let output = job.run(&testbed.url, &["--limit", "2/60s", "--dry-run=500ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.contains("20 served"), "{shown}");
    // Four calls at once and four more every minute.
    assert!(shown.contains("finish         4 min 2 s"), "{shown}");
    let told = text(&output.stderr);
    assert!(
        told.contains("calls of earlier runs are not counted"),
        "{told}"
    );
    assert_eq!(testbed.stop()["calls"], 0);
    for name in ["out.jsonl", "out.jsonl.journal", "state"] {
        assert!(!job.path(name).exists(), "{name}");
    }
}

/// Runs a batch and its dry run, and compares their times.
fn assert_predicted(job: &Job, server: &[&str], limit: &str, workers: &str, call_time: &str) {
    let testbed = Testbed::start(server);
    let limits = ["--limit", limit, "--workers", workers, "--json"];
    let dry = format!("--dry-run={call_time}");
    let planned = job.run(&testbed.url, &[&limits[..], &[&dry]].concat());
    let planned: Value = serde_json::from_slice(&planned.stdout).expect("figures");
    let output = job.run(&testbed.url, &limits);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    let (planned, real) = (planned["finish_s"].as_f64(), summary["elapsed_s"].as_f64());
    let (planned, real) = (planned.expect("a time"), real.expect("a time"));
    // A loaded machine adds to every window; `benches/plan/run` holds a quiet one to 3 %.
    assert!(
        (real / planned - 1.0).abs() < 0.1,
        "planned {planned} s, took {real} s"
    );
}

#[test]
fn a_dry_run_foretells_the_run() {
    let server = |keys: &'static str| ["--keys", keys, "--latency", "10ms..40ms"];
    assert_predicted(&Job::new(30, 4), &server("4"), "3/1s", "8", "10ms..40ms");
}

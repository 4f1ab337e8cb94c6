//! Batches over the pool of a gateway (`serve = "leases"`), and shards of one input.

use super::gateway::Gateway;
use super::*;
use core::time::Duration;
use leasehold_testbed::{Fault, OpenAi, OpenAiConfig};
use std::net::TcpListener;

const TOKEN: &str = "a-token-of-some-length";
const WITH_TOKEN: &str = "token_file = \"token\"";

/// A gateway that leases the keys of a job, with its settings in the job's folder.
struct Pool<'j> {
    job: &'j Job,
    gateway: Option<Gateway>,
}

impl<'j> Pool<'j> {
    /// Starts one for the keys of `service`. `member` and `listen` are lines of their tables.
    fn start(job: &'j Job, service: &str, member: &str, listen: &str) -> Self {
        // Free until the gateway takes it, and again in between when it restarts.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.expect("a free port").port();
        job.write("token", [TOKEN]);
        job.write(
            "gateway.toml",
            [format!(
                "state = \"gateway.state\"\naccess_log = false\n[pools.keys]\nkind = \"openai\"\npolicy = \"fifo\"\n\
                 [[pools.keys.members]]\nurl = \"{service}\"\nkeys = \"keys.txt\"\n{member}\n\
                 [[listen]]\naddress = \"127.0.0.1:{port}\"\nserve = \"leases\"\n{listen}"
            )],
        );
        let mut pool = Self { job, gateway: None };
        pool.restart();
        pool
    }

    fn restart(&mut self) {
        let settings = self.job.path("gateway.toml").display().to_string();
        self.gateway = Some(Gateway::start(&["--config", &settings]));
    }

    fn url(&self) -> String {
        let gateway = self.gateway.as_ref().expect("it runs");
        format!("http://{}/v1/pools/keys", gateway.address)
    }

    fn end(&mut self) {
        self.gateway.take().expect("it runs").end();
    }

    fn kill(&mut self) {
        let mut gateway = self.gateway.take().expect("it runs");
        gateway.process.kill().expect("it can be killed");
        gateway.process.wait().expect("it ends");
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            let _ = gateway.process.kill();
            let _ = gateway.process.wait();
        }
    }
}

/// The command for a job's items through the models a and b.
fn batch(job: &Job, output: &str, arguments: &[&str]) -> Command {
    let mut command = job.batch();
    command.env_remove("LEASEHOLD_TOKEN");
    command.arg("-i").arg(job.path("items.jsonl"));
    command.arg("-o").arg(job.path(output));
    command.args(["--model", "a", "--model", "b"]);
    command.args(arguments);
    command
}

/// The same over a pool, with its token.
fn leasing(job: &Job, pool: &str, arguments: &[&str]) -> Command {
    let mut command = batch(job, "out.jsonl", arguments);
    command.args(["--pool", pool]).env("LEASEHOLD_TOKEN", TOKEN);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the command runs")
}

/// The ids of the items in an output, all of whose tasks have their answers.
fn answered(job: &Job, output: &str) -> BTreeSet<u64> {
    let text = fs::read_to_string(job.path(output)).expect("the output exists");
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        let answers = line["output_pred"].as_object().expect("answers");
        assert_eq!(answers.len(), 2, "{line}");
        line["id"].as_u64().expect("an id")
    });
    lines.collect()
}

#[test]
fn a_batch_over_a_pool_stays_within_the_limits_of_the_gateway() {
    let job = Job::new(20, 4);
    let testbed = Testbed::start(&["--keys", "4", "--limit", "3/1s", "--latency", "5ms..20ms"]);
    let pool = Pool::start(&job, &testbed.url, "limits = \"3/1s\"", WITH_TOKEN);
    let token = job.path("token").display().to_string();
    let mut command = batch(&job, "out.jsonl", &["--pool-token-file", &token, "--json"]);
    let output = run(command.args(["--pool", &pool.url()]));
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let summary: Value = serde_json::from_slice(&output.stdout).expect("the summary is JSON");
    assert_eq!((&summary["ok"], job.answers()), (&json!(40), 40));
    let report = testbed.stop();
    let counts = ["calls", "rejected_429", "max_in_window"].map(|name| report[name].as_u64());
    assert_eq!(counts, [Some(40), Some(0), Some(3)]);
    let calls = summary["per_key"].as_array().expect("a list").iter();
    let calls: u64 = calls.filter_map(|key| key["calls"].as_u64()).sum();
    assert_eq!(calls, 40, "{summary}");
    assert!(
        !shown.contains("sk-testbed") && !shown.contains(TOKEN),
        "{shown}"
    );
    assert!(!job.journal().exists());
}

#[test]
fn two_shards_at_once_share_the_limit_exactly() {
    let job = Job::new(21, 3);
    let testbed = Testbed::start(&["--keys", "3", "--limit", "3/1s", "--latency", "5ms..20ms"]);
    let pool = Pool::start(&job, &testbed.url, "limits = \"3/1s\"", WITH_TOKEN);
    let shards = [("one.jsonl", "1/2"), ("two.jsonl", "2/2")];
    let processes = shards.map(|(output, shard)| {
        let mut command = batch(&job, output, &["--pool", &pool.url(), "--shard", shard]);
        command.env("LEASEHOLD_TOKEN", TOKEN).stderr(Stdio::piped());
        command.spawn().expect("the command runs")
    });
    for process in processes {
        let output = process.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let [one, two] = shards.map(|(output, _)| answered(&job, output));
    assert_eq!(one, (0..21).step_by(2).collect());
    assert_eq!(two, (1..21).step_by(2).collect());
    let report = testbed.stop();
    let counts = ["calls", "rejected_429", "max_in_window"].map(|name| report[name].as_u64());
    assert_eq!(counts, [Some(42), Some(0), Some(3)]);
}

#[test]
fn a_restart_and_a_kill_of_the_gateway_lose_nothing() {
    let job = Job::new(30, 3);
    let testbed = Testbed::start(&["--keys", "3", "--limit", "4/1s", "--latency", "20ms..60ms"]);
    let mut pool = Pool::start(&job, &testbed.url, "limits = \"4/1s\"", WITH_TOKEN);
    let mut process = leasing(&job, &pool.url(), &["--workers", "6"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    job.wait_for_answers(&mut process, 10);
    pool.end();
    pool.restart();
    job.wait_for_answers(&mut process, 25);
    pool.kill();
    pool.restart();
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 60);
    let report = testbed.stop();
    let counts = ["calls", "rejected_429"].map(|name| report[name].as_u64());
    assert_eq!(counts, [Some(60), Some(0)]);
}

#[test]
fn an_interrupted_batch_over_a_pool_resumes() {
    let job = Job::new(30, 2);
    let testbed = Testbed::start(&["--keys", "2", "--limit", "5/1s"]);
    let pool = Pool::start(&job, &testbed.url, "limits = \"5/1s\"", WITH_TOKEN);
    let mut process = leasing(&job, &pool.url(), &["--quiet"])
        .spawn()
        .expect("the command runs");
    job.wait_for_answers(&mut process, 12);
    send_signal(&process, "INT");
    assert_eq!(process.wait().expect("it ends").code(), Some(1));
    let done = job.answers();
    assert!((12..60).contains(&done), "{done}");
    let output = run(&mut leasing(&job, &pool.url(), &[]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 60);
    let report = testbed.stop();
    let counts = ["calls", "rejected_429"].map(|name| report[name].as_u64());
    assert_eq!(counts, [Some(60), Some(0)]);
}

#[test]
fn a_gateway_that_is_away_too_long_ends_the_run_and_costs_nothing() {
    let job = Job::new(4, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    let mut pool = Pool::start(&job, &testbed.url, "", WITH_TOKEN);
    let url = pool.url();
    assert_eq!(run(&mut leasing(&job, &url, &[])).status.code(), Some(0));
    pool.end();
    let arguments = ["--model", "c", "--give-up-after", "1s"];
    let output = run(&mut leasing(&job, &url, &arguments));
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    for part in [
        "waiting for the gateway at http://",
        "gave up after 1 s without a lease (--give-up-after): the gateway at http://",
        "8 answered before, 4 not done",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    assert_eq!(job.answers(), 8);
    pool.restart();
    let output = run(&mut leasing(&job, &url, &arguments));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(testbed.stop()["calls"], 12);
}

#[test]
fn a_pool_that_can_not_be_leased_of_is_told_with_what_to_do() {
    let job = Job::new(3, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    let pool = Pool::start(&job, &testbed.url, "", WITH_TOKEN);
    let url = pool.url();
    let told = |command: &mut Command, code: i32, part: &str| {
        let output = run(command);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains(part), "no {part:?} in {shown}");
        assert!(!shown.contains("another-token"), "{shown}");
    };
    let mut without = batch(&job, "out.jsonl", &["--pool", &url]);
    told(
        &mut without,
        1,
        "give its token by --pool-token-file FILE or LEASEHOLD_TOKEN",
    );
    let mut wrong = leasing(&job, &url, &[]);
    wrong.env("LEASEHOLD_TOKEN", "another-token-than-its-own");
    told(&mut wrong, 1, "the gateway does not know this key");
    let other = url.replace("/keys", "/none");
    told(
        &mut leasing(&job, &other, &[]),
        1,
        "there is no pool \"none\"",
    );
    drop(pool);
    let open = Pool::start(&job, &testbed.url, "", "");
    let mut open_to_all = batch(&job, "out.jsonl", &["--pool", &open.url()]);
    told(
        &mut open_to_all,
        1,
        "its lease listener needs token_file or [[caller]]",
    );
    let mut place = leasing(&job, "127.0.0.1:8090", &[]);
    told(
        &mut place,
        2,
        "write http://HOST:PORT or http://HOST:PORT/v1/pools/NAME",
    );
    for flag in [
        ["--url", "http://h"],
        ["--keys", "f"],
        ["--limit", "3/1s"],
        ["--state", "none"],
    ] {
        let mut both = leasing(&job, &url, &flag);
        told(&mut both, 2, "cannot be used with");
    }
    told(
        &mut batch(&job, "out.jsonl", &["--shard", "5/4"]),
        2,
        "such as 1/4",
    );
    assert_eq!(testbed.stop()["calls"], 0);
}

#[test]
fn a_wrong_model_or_url_stops_a_batch_over_a_pool() {
    let job = Job::new(40, 2);
    let mut config = OpenAiConfig::default();
    config.models = vec!["a".to_owned()];
    let server = OpenAi::start(config).expect("the server starts");
    // The service says so, or the gateway by itself.
    for (member, words) in [
        ("", "check the name"),
        ("labels = [\"a\"]", "no member of this pool"),
    ] {
        let _ = fs::remove_file(job.path("out.jsonl"));
        let pool = Pool::start(&job, &server.url(), member, WITH_TOKEN);
        let output = run(&mut leasing(&job, &pool.url(), &[]));
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(
            shown.contains("stopped model b: ") && shown.contains(words),
            "{shown}"
        );
        assert_eq!(job.answers(), 40, "the other model goes on");
    }
    let calls = server.report().calls;
    assert!(calls <= 80 + 20, "{calls} calls");

    fs::remove_file(job.path("out.jsonl")).expect("it was written");
    let server = OpenAi::start(OpenAiConfig::default()).expect("the server starts");
    let not_found: Fault = "404".parse().expect("a status is a fault");
    server.control().begin_outage(not_found);
    let pool = Pool::start(&job, &server.url(), "", WITH_TOKEN);
    let output = run(&mut leasing(&job, &pool.url(), &[]));
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("stopped: ") && shown.contains("check the URL"),
        "{shown}"
    );
    let calls = server.report().calls;
    assert!(calls <= 10, "{calls} calls");
}

#[test]
fn tasks_of_a_member_that_fails_them_go_to_others() {
    // The third key is unknown to the service, and the first may not make these calls.
    let mut config = OpenAiConfig::default();
    config.keys = ["sk-testbed-0001", "sk-testbed-0002"]
        .map(str::to_owned)
        .to_vec();
    config.faults = vec!["403@key=0001".parse().expect("a rule")];
    let server = OpenAi::start(config).expect("the server starts");
    let job = Job::new(10, 3);
    let pool = Pool::start(&job, &server.url(), "", WITH_TOKEN);
    let output = run(&mut leasing(&job, &pool.url(), &["--workers", "2"]));
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(job.answers(), 20);
    assert!(
        shown.contains("the service rejects the key …0003"),
        "{shown}"
    );
}

#[test]
fn a_task_waits_for_a_member_that_has_not_failed_it() {
    let mut config = OpenAiConfig::default();
    config.faults = vec!["403@key=0001".parse().expect("a rule")];
    let server = OpenAi::start(config).expect("the server starts");
    let job = Job::new(3, 0);
    // The key that fails is free at once, the other one only after its window.
    job.write(
        "keys.txt",
        ["sk-testbed-0001", "sk-testbed-0002 limit=1/300ms"],
    );
    let pool = Pool::start(&job, &server.url(), "", WITH_TOKEN);
    let output = run(&mut leasing(&job, &pool.url(), &["--workers", "1"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 6);
    let calls = server.report().calls;
    assert!(calls <= 12, "{calls} calls: each key is asked once a task");
}

#[test]
fn an_outage_is_waited_out_over_a_pool() {
    let job = Job::new(10, 2);
    let server = OpenAi::start(OpenAiConfig::default()).expect("the server starts");
    let pool = Pool::start(&job, &server.url(), "", WITH_TOKEN);
    let control = server.control();
    control.begin_outage(Fault::Status(503));
    let process = leasing(&job, &pool.url(), &[])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    assert!(control.wait(Duration::from_secs(60), |it| it.report().calls >= 4));
    control.end_outage();
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 20);
    let calls = server.report().calls;
    assert!(calls < 40, "{calls} calls in an outage");
}

#[test]
fn a_request_is_reserved_within_the_token_limits_of_a_pool() {
    let job = Job::new(4, 1);
    let testbed = Testbed::start(&["--keys", "1", "--latency", "5ms"]);
    let pool = Pool::start(
        &job,
        &testbed.url,
        "limits = \"60 tokens/50ms\"",
        WITH_TOKEN,
    );
    let output = run(&mut leasing(&job, &pool.url(), &["--max-tokens", "50"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(job.answers(), 8);
    assert_eq!(testbed.stop()["calls"], 8);
}

#[test]
fn a_shard_has_its_own_items_and_resumes() {
    let job = Job::new(10, 1);
    let testbed = Testbed::start(&["--keys", "1"]);
    let keys = job.path("keys.txt").display().to_string();
    let shard = |output: &str, shard: &str| {
        let arguments = ["--url", &testbed.url, "--keys", &keys, "--shard", shard];
        let output = run(&mut batch(&job, output, &arguments));
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{shown}");
        shown
    };
    shard("one.jsonl", "1/3");
    shard("three.jsonl", "3/3");
    assert_eq!(answered(&job, "one.jsonl"), [0, 3, 6, 9].into());
    assert_eq!(answered(&job, "three.jsonl"), [2, 5, 8].into());
    let again = shard("one.jsonl", "1/3");
    assert!(again.contains("8 answered before"), "{again}");
    shard("none.jsonl", "11/11");
    assert_eq!(answered(&job, "none.jsonl"), [].into());
    assert_eq!(testbed.stop()["calls"], 14);
}

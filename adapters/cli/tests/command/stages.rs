//! Reviews of answers, results that are joined, and streamed answers.

use super::*;

/// The prompt that a review of an answer has.
const REVIEW: &str = "Is {{ answer }} of {{ model }} right for item {{ id }}?";

fn with_reviews(job: &Job, stage: &str) -> Vec<String> {
    job.write("review.txt", [REVIEW]);
    let path = job.path("review.txt").display().to_string();
    let flags = [
        "--stage",
        stage,
        "--review-template",
        &path,
        "--review-model",
        "r",
    ];
    flags.map(str::to_owned).to_vec()
}

fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(|flag| &**flag).collect()
}

/// Whether each item of a file has both answers and a review of each.
fn is_reviewed(results: &[Value]) -> bool {
    results.iter().all(|result| {
        ["a", "b"].iter().all(|model| {
            let content = &result["output_review"][model]["r"]["content"];
            let (id, prompt) = (&result["id"], result["prompt"].as_str().unwrap_or_default());
            let expected = format!(
                "echo from r: Is echo from {model}: {prompt} of {model} right for item {id}?"
            );
            content.as_str().is_some_and(|text| text.trim() == expected)
        })
    })
}

/// Runs a command to its end, after it was killed each time that its journal has grown by this number of lines.
fn run_with_kills(job: &Job, mut command: impl FnMut() -> Command, every: usize, kills: usize) {
    let mut lines = 0;
    for _ in 0..kills {
        let mut process = command().spawn().expect("the command runs");
        lines += every;
        job.wait_for_answers(&mut process, lines);
        process.kill().expect("it can be killed");
        process.wait().expect("it ends");
        lines = line_count(&job.journal());
    }
    let output = command().output().expect("the command runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn each_answer_is_reviewed_whatever_is_killed_meanwhile() {
    let job = Job::new(30, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "10ms"]);
    let flags = with_reviews(&job, "check-and-review");
    let mut flags = strs(&flags);
    flags.extend(["--workers", "4", "--quiet"]);
    run_with_kills(&job, || job.command(&testbed.url, &flags), 25, 4);
    assert_eq!(job.answers(), 60);
    assert!(is_reviewed(&job.results()), "{:?}", job.results());
    let calls = testbed.stop()["ok"].as_u64().expect("a count");
    assert!((120..=136).contains(&calls), "{calls} calls for 120 tasks");
}

#[test]
fn stages_run_one_after_the_other_each_killed_and_resumed() {
    let job = Job::new(30, 4);
    let testbed = Testbed::start(&["--keys", "4", "--latency", "10ms"]);
    let quiet = ["--workers", "4", "--quiet"];
    run_with_kills(&job, || job.command(&testbed.url, &quiet), 15, 2);
    assert_eq!(job.answers(), 60);
    fs::rename(job.path("out.jsonl"), job.path("checked.jsonl")).expect("it is there");

    // The checked items are the input, and the plain ones with the checked ones joined are the same.
    let flags = with_reviews(&job, "review");
    let checked = job.path("checked.jsonl").display().to_string();
    let review = |input: &str, more: &[&str]| {
        let mut command = job.batch();
        command.arg("-i").arg(job.path(input));
        command.arg("-o").arg(job.path("out.jsonl"));
        command.arg("--keys").arg(job.path("keys.txt"));
        command.args(["--url", &testbed.url, "--model", "a", "--model", "b"]);
        command.args(&flags).args(quiet).args(more);
        command
    };
    run_with_kills(&job, || review("checked.jsonl", &[]), 15, 2);
    let of_checked = job.results();
    assert!(is_reviewed(&of_checked), "{of_checked:?}");
    fs::remove_file(job.path("out.jsonl")).expect("it is there");
    run_with_kills(&job, || review("items.jsonl", &["--join", &checked]), 15, 2);
    assert!(is_reviewed(&job.results()), "{:?}", job.results());
    assert_eq!(job.answers(), 60);
    let calls = testbed.stop()["ok"].as_u64().expect("a count");
    assert!((180..=204).contains(&calls), "{calls} calls for 180 tasks");
}

#[test]
fn an_answer_that_is_not_there_is_not_reviewed() {
    let job = Job::new(2, 1);
    let testbed = Testbed::start(&["--keys", "1", "--model", "a", "--model", "r"]);
    let flags = with_reviews(&job, "check-and-review");
    let output = job.run(&testbed.url, &strs(&flags));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let results = job.results();
    assert_eq!(results.len(), 2);
    for result in &results {
        assert!(
            result["output_review"]["a"]["r"]["content"].is_string(),
            "{result}"
        );
        assert!(result["output_review"].get("b").is_none(), "{result}");
    }
    // A template that fits no answer fails the reviews, in every run.
    job.write("review.txt", ["{{ check.none }}"]);
    for _ in 0..2 {
        let misfit = job.run(&testbed.url, &strs(&flags));
        assert_eq!(misfit.status.code(), Some(1), "{}", text(&misfit.stderr));
    }
    job.write("review.txt", ["Is {{ answr }} right?"]);
    let misspelt = job.run(&testbed.url, &strs(&flags));
    assert!(text(&misspelt.stderr).contains("no field `answr`"));
    assert_eq!(misspelt.status.code(), Some(2));
    let alone = job.run(&testbed.url, &["--review-model", "r"]);
    assert!(text(&alone.stderr).contains("--stage review"));
    assert_eq!(alone.status.code(), Some(2));
}

#[test]
fn streamed_answers_equal_whole_ones() {
    let job = Job::new(12, 2);
    let testbed = Testbed::start(&["--keys", "2"]);
    let run = |flags: &[&str]| {
        let output = job.run(&testbed.url, flags);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let mut results = job.results();
        for answer in results.iter_mut().flat_map(|result| {
            let answers = result["output_pred"].as_object_mut().expect("an object");
            answers.values_mut()
        }) {
            let answer = answer.as_object_mut().expect("an object");
            for own in ["trace_id", "request_id", "created"] {
                answer.remove(own);
            }
        }
        results
    };
    let whole = run(&[]);
    fs::remove_file(job.path("out.jsonl")).expect("it is there");
    let streamed = run(&["--stream"]);
    assert_eq!(streamed, whole);
    // The request's hash is the same, so that nothing is asked again.
    let again = job.run(&testbed.url, &[]);
    assert!(
        text(&again.stderr).contains("24 answered before"),
        "{}",
        text(&again.stderr)
    );
    let report = testbed.stop();
    assert_eq!(report["calls"], 48);
}

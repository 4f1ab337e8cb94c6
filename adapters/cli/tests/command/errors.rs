//! Wrong arguments and files: the message, the exit code, and that nothing is changed.

use super::*;

const OLD_OUTPUT: &str = "{\"id\":0,\"output_pred\":{\"a\":1}}\n";

/// Runs a batch that is correct except for `arguments`, and checks its exit code and message.
#[track_caller]
fn assert_error(job: &Job, arguments: &[&str], code: i32, words: &[&str]) {
    fs::write(job.path("out.jsonl"), OLD_OUTPUT).expect("a file");
    let path = |name: &str| job.path(name).display().to_string();
    let mut command = job.batch();
    command.args(["--model", "a"]).args(arguments);
    for (flag, value) in [
        ("-i", path("items.jsonl")),
        ("-o", path("out.jsonl")),
        ("--keys", path("keys.txt")),
        ("--url", "http://127.0.0.1:1".to_owned()),
        ("--limit", "3/60s".to_owned()),
    ] {
        if arguments.first() != Some(&flag) {
            command.args([flag, &value]);
        }
    }
    let output = command.output().expect("the command runs");
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {shown}");
    for word in words {
        assert!(shown.contains(word), "{arguments:?}: no {word} in {shown}");
    }
    assert!(!shown.contains("sk-testbed"), "{shown}");
    let output = fs::read_to_string(job.path("out.jsonl")).expect("it exists");
    assert_eq!(output, OLD_OUTPUT);
    assert!(!job.journal().exists());
}

#[test]
fn a_bad_file_is_reported_with_its_name_and_line() {
    let job = Job::new(2, 1);
    job.write("bad.jsonl", ["{\"id\":1,\"prompt\":\"x\"}", "{oops"]);
    job.write("none.txt", ["# no key"]);
    job.write("twice.txt", ["sk-testbed-0001", "sk-testbed-0001"]);
    job.write("template.j2", ["Is it {{ missing }}?"]);
    fs::create_dir(job.path("folder")).expect("a folder");
    let path = |name: &str| job.path(name).display().to_string();
    let cases: [(&[&str], i32, &[&str]); 9] = [
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
            &["cannot read the keys in", "absent.txt", "--keys-env"],
        ),
        (&["--keys", &path("none.txt")], 2, &["none.txt has no keys"]),
        (
            &["--keys", &path("twice.txt")],
            2,
            &["twice.txt:2: the key …0001 is the same as", "twice.txt:1"],
        ),
        (
            &["--template", &path("template.j2")],
            2,
            &[
                "items.jsonl:1: template",
                "template.j2:1",
                "no field `missing`",
            ],
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
    ];
    for (arguments, code, words) in cases {
        assert_error(&job, arguments, code, words);
    }
}

#[test]
fn a_bad_flag_is_reported_with_its_name_and_what_to_write() {
    let job = Job::new(2, 1);
    let cases: [(&[&str], &[&str]); 7] = [
        (
            &["--limit", "3/0s"],
            &[
                "--limit",
                "at character 3, \"0s\": the window must be above zero",
            ],
        ),
        (
            &["--url", "ftp://127.0.0.1"],
            &["--url", "http:// or https://"],
        ),
        (&["--timeout", "0s"], &["--timeout", "must be above zero"]),
        (&["--tries", "0"], &["--tries", "must be at least 1"]),
        (
            &["--max-tokens", "x"],
            &["--max-tokens", "must be a whole number"],
        ),
        (&["--model", "a"], &["--model a is given twice"]),
        (
            &[
                "--url",
                "http://127.0.0.1:1",
                "--url",
                "http://127.0.0.1:1/v1",
            ],
            &["the key …0001 is given twice for http://127.0.0.1:1/v1"],
        ),
    ];
    for (arguments, words) in cases {
        assert_error(&job, arguments, 2, words);
    }
}

#[test]
fn a_bad_testbed_flag_is_reported_with_what_to_write() {
    let cases: [(&[&str], &str); 12] = [
        (
            &["--latency", "80ms..20ms"],
            "write the shorter duration first",
        ),
        (&["--keys", "0"], "--keys: the number must be 1 to 9999"),
        (&["--keys", "absent.txt"], "or a number of keys"),
        (&["--host", "nowhere"], "must be an IP address"),
        (
            &["--fail-every", "2", "--fail-with", "200"],
            "must be a status from 400 to 599",
        ),
        (&["--limit", "3/0s"], "\"3/0s\" is not a limit; write it as"),
        (
            &["--fault", "nothing"],
            "no fault \"nothing\"; `--fault list`",
        ),
        (&["--fault", "reset=7"], "\"7\" is not a share; write it as"),
        (&["--fault", "reset@x=7"], "write @key=TAIL or @model=NAME"),
        (
            &["--outage", "70..10"],
            "is not an outage; write it as 10..70",
        ),
        (
            &["--answer-tokens", "9..1"],
            "write the smaller number first",
        ),
        (&["--max-output", "m=0"], "must be at least 1"),
    ];
    for (arguments, words) in cases {
        let output = leasehold()
            .args(["testbed", "openai"])
            .args(arguments)
            .output();
        let output = output.expect("the command runs");
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {shown}");
        assert!(shown.contains(words), "{arguments:?}: {shown}");
    }
}

#[test]
fn help_is_printed_for_every_command() {
    for command in [
        &["--help"][..],
        &["demo", "--help"],
        &["batch", "--help"],
        &["testbed", "openai", "--help"],
        &["gateway", "--help"],
        &["key", "new", "--help"],
    ] {
        let output = leasehold().args(command).output();
        let output = output.expect("the command runs");
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("Usage: leasehold"));
    }
    let bare = leasehold().output().expect("the command runs");
    assert_eq!(bare.status.code(), Some(2));
    assert!(text(&bare.stderr).contains("Usage: leasehold <COMMAND>"));
}

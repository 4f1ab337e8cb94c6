//! Manual pages, completions and units: that the tools which read them find nothing wrong.

use super::*;
use std::process::Output;

/// Runs a tool; `None` if it is missing, which only a machine of CI may not be.
fn run(tool: &mut Command) -> Option<Output> {
    let output = tool.output();
    if let Err(error) = &output {
        let is_gate = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!is_gate, "{tool:?} can't be run: {error}");
        eprintln!("{tool:?} can't be run, so that nothing is checked: {error}");
    }
    output.ok()
}

/// Runs a tool that is to find nothing.
fn check(tool: &mut Command) {
    let Some(output) = run(tool) else {
        return;
    };
    let said = text(&output.stdout) + &text(&output.stderr);
    // systemd before 253 keeps the type that is written before it.
    let known = "Failed to parse service type, ignoring: notify-reload";
    let said: Vec<_> = said.lines().filter(|line| !line.ends_with(known)).collect();
    assert!(
        output.status.success() && said.is_empty(),
        "{tool:?}: {said:#?}"
    );
}

/// The names of all commands with subcommands, as their help lists them: `leasehold`, `leasehold-batch`, ..
fn commands() -> Vec<String> {
    let mut waiting = vec![Vec::new()];
    let mut found = Vec::new();
    while let Some(words) = waiting.pop() {
        let help = leasehold()
            .args(&words)
            .arg("-h")
            .output()
            .expect("it runs");
        let help = text(&help.stdout);
        let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
        for line in listed.lines().take_while(|line| line.starts_with("  ")) {
            let Some(name) = line
                .strip_prefix("  ")
                .and_then(|line| line.split(' ').next())
            else {
                continue;
            };
            if !matches!(name, "" | "help") {
                waiting.push([&words[..], &[name.to_owned()]].concat());
            }
        }
        found.push([&["leasehold".to_owned()], &words[..]].concat().join("-"));
    }
    found
}

/// Writes all manual pages into a folder.
fn pages(folder: &Path) {
    let made = leasehold().arg("man").arg("--out").arg(folder).output();
    let made = made.expect("it runs");
    assert!(made.status.success(), "{}", text(&made.stderr));
}

#[test]
fn each_command_has_a_manual_page_without_mistakes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    pages(folder.path());
    let commands = commands();
    assert!(
        commands.contains(&"leasehold-testbed-openai".to_owned()),
        "{commands:?}"
    );
    let written = fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(written, commands.len());
    for command in commands {
        let page = folder.path().join(format!("{command}.1"));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(text.contains(".SH SYNOPSIS"), "{text}");
        check(
            Command::new("mandoc")
                .args(["-T", "lint", "-W", "error"])
                .arg(&page),
        );
        check(
            Command::new("man")
                .args(["--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"])
                .arg(&page)
                .stdout(Stdio::null()),
        );
    }
    let printed = leasehold().arg("man").output().expect("it runs");
    assert!(text(&printed.stdout).contains("leasehold\\-gateway(1)"));
}

#[test]
fn completions_are_read_by_their_shells() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (shell, flag) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let made = leasehold().args(["completions", shell]).output();
        let made = made.expect("it runs");
        assert!(made.status.success(), "{}", text(&made.stderr));
        let script = text(&made.stdout);
        for part in ["gateway", "doctor", "check-config"] {
            assert!(script.contains(part), "{shell}: {part}");
        }
        let path = folder.path().join(shell);
        fs::write(&path, script).expect("it can be written");
        check(Command::new(shell).arg(flag).arg(&path));
    }
    let refused = leasehold().args(["completions", "sh"]).output();
    assert_eq!(refused.expect("it runs").status.code(), Some(2));
}

#[test]
fn systemd_finds_the_units_right_and_hardened() {
    let ops = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../gateway/ops/systemd"
    ));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    pages(&path("man/man1"));
    for unit in ["leasehold.service", "leasehold.socket"] {
        let text = fs::read_to_string(ops.join(unit)).expect(unit);
        let text = text.replace("/usr/local/bin/leasehold", env!("CARGO_BIN_EXE_leasehold"));
        fs::write(path(unit), text).expect("it can be written");
    }
    let service = path("leasehold.service");
    // It looks for the page that the unit names.
    check(
        Command::new("systemd-analyze")
            .env("MANPATH", path("man"))
            .arg("verify")
            .args([&service, &path("leasehold.socket")]),
    );
    // In tenths of its scale; the README says below 1.5.
    let judged = ["security", "--offline=true", "--no-pager", "--threshold=15"];
    if let Some(output) = run(Command::new("systemd-analyze").args(judged).arg(&service)) {
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
}

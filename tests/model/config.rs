//! Configuration files: no text does harm, and settings that are shown are read back as the same.

use leasehold_config::{ConfigError, Given, Settings};
use std::path::Path;

/// Part of every secret that the inputs have.
const SECRET: &str = "5ecre7";

/// The most bytes of a mistake's message: a list of all keys of a table, or a part of a text and the words around it.
const LONGEST_MESSAGE: usize = 1_000;

/// The longest text of which every mistake is looked at.
const LONGEST_TEXT: usize = 10_000;

/// Reads a text and checks the answer.
///
/// # Panics
/// If a place is not in the text, a secret is shown, or settings are not read back as the same.
pub fn run(text: &str) {
    // What is wrong with the text is no concern of a fuzzer.
    let _ = accept(text);
}

/// Reads a text as [`run`] does.
///
/// # Errors
/// If the text is refused.
///
/// # Panics
/// As [`run`].
pub fn accept(text: &str) -> Result<(), ConfigError> {
    match read(text) {
        Ok(settings) => {
            check(settings);
            Ok(())
        }
        Err(error) => {
            if text.len() <= LONGEST_TEXT {
                refused(text, &error);
            }
            Err(error)
        }
    }
}

/// Shows settings and reads them back.
///
/// # Panics
/// If a secret is shown, or the settings are not the same.
pub fn check(mut settings: Settings) {
    let shown = settings.to_toml();
    assert!(!shown.contains(SECRET), "{shown}");
    let again = read(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(again, settings_without_secrets(&mut settings), "{shown}");
    let without_comments = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("# "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    // A table that had nothing but a comment is gone.
    let (shown, again) = (without_comments(&shown), without_comments(&again.to_toml()));
    assert!(shown == again || shown.contains(&"[admin]".to_owned()));
}

fn settings_without_secrets(settings: &mut Settings) -> Settings {
    settings.admin.open_on_loopback = false;
    let members = settings.pools.iter_mut().flat_map(|pool| &mut pool.members);
    members.for_each(|member| member.key = None);
    settings.clone()
}

fn read(text: &str) -> Result<Settings, ConfigError> {
    let token = format!("{SECRET}{SECRET}{SECRET}\n");
    let keys = format!("sk-{SECRET}-1\nsk-{SECRET}-2 url=http://other/v1 group=g limit=3/60s\n");
    let inputs = Given::new()
        .with_variable("HOST", "127.0.0.1")
        .with_variable("EMPTY", "")
        .with_variable("KEYS", format!("sk-{SECRET}-3,sk-{SECRET}-4"))
        .with_file("/etc/token", token)
        .with_file("/etc/keys", keys)
        .with_file("/etc/url", format!("https://hooks.test/{SECRET}\n"))
        .with_file("/etc/headers", format!("x-key: {SECRET}\n"))
        .with_file("/etc/a.toml", "include = [\"*.toml\"]\n")
        .with_file(
            "/etc/b.toml",
            "drain = \"1s\"\n[pools.b]\nkind = \"http\"\nmembers = [{ url = \"http://b\" }]\n",
        );
    Settings::parse(text, Path::new("/etc"), &inputs)
}

fn refused(text: &str, error: &ConfigError) {
    assert!(!error.mistakes().is_empty());
    for mistake in error.mistakes() {
        let message = mistake.problem.to_string();
        assert!(!message.contains(SECRET), "{message}");
        assert!(message.len() <= LONGEST_MESSAGE + text.len(), "{message}");
        let (line, column) = mistake.place.position.expect("a place in a file");
        if mistake.place.file == Path::new("leasehold.toml") {
            let lines: Vec<&str> = text.split('\n').collect();
            let line = lines.get(line - 1).expect("a line of the text");
            assert!(column <= line.chars().count() + 1, "{mistake}");
        }
    }
    assert_eq!(
        error.to_string().lines().count(),
        error.mistakes().len(),
        "{error}"
    );
}

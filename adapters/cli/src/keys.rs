//! API keys, read from a file or the environment.
//!
//! Invariant: no key is a command line argument, where other users could see it, and no error shows more of a key
//! than its last four characters.

use crate::CliError;
use leasehold_http::ApiKey;
use std::collections::HashMap;
use std::env::{self, VarError};
use std::fs;
use std::path::Path;

/// Reads a file with one key per line, without blank lines and lines that start with `#`.
///
/// An error of the file ends with `advice`.
pub(crate) fn from_file(path: &Path, advice: &str) -> Result<Vec<ApiKey>, CliError> {
    let text = fs::read_to_string(path).map_err(|error| {
        let name = path.to_string_lossy();
        let name = shown(&name);
        CliError::usage(format!("cannot read the keys in {name}: {error}; {advice}"))
    })?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let file = path.display().to_string();
    read(keys, &file, |line| format!("{file}:{line}"))
}

pub(crate) fn from_environment(name: &str) -> Result<Vec<ApiKey>, CliError> {
    let text = env::var(name).map_err(|error| {
        let problem = match error {
            VarError::NotPresent => "is not set",
            VarError::NotUnicode(_) => "is not valid UTF-8",
        };
        let name = shown(name);
        CliError::usage(format!(
            "no API keys: the environment variable {name} {problem}; set it, or give a file with --keys"
        ))
    })?;
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    let keys = (1..).zip(words.filter(|word| !word.is_empty()));
    let variable = format!("the environment variable {name}");
    read(keys, &variable, |number| format!("key {number} in {name}"))
}

/// Returns the name of a file or variable, hidden if it looks like a key given by mistake.
fn shown(name: &str) -> &str {
    let is_name = name.contains(['/', '.']) || !name.contains('-') || name.len() < 12;
    if is_name {
        name
    } else {
        "<hidden: looks like a key>"
    }
}

fn read<'a>(
    texts: impl Iterator<Item = (usize, &'a str)>,
    source: &str,
    place: impl Fn(usize) -> String,
) -> Result<Vec<ApiKey>, CliError> {
    let mut keys = Vec::new();
    let mut seen = HashMap::new();
    for (number, text) in texts {
        let key = ApiKey::new(text)
            .map_err(|error| CliError::usage(format!("{}: {error}", place(number))))?;
        if let Some(first) = seen.insert(key.clone(), number) {
            let (here, there) = (place(number), place(first));
            return Err(CliError::usage(format!(
                "{here}: the key {key} is the same as {there}; remove one of them"
            )));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(CliError::usage(format!("{source} has no keys")));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> Result<Vec<ApiKey>, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("it can be written");
        let path = file.path().display().to_string();
        from_file(file.path(), "").map_err(|error| error.message.replace(&path, "F"))
    }

    #[test]
    fn keys_are_read_line_by_line() {
        let keys = file("# ours\n sk-aaaaaaaaaa \n\nsk-bbbbbbbbbb\r\n").unwrap();
        let keys: Vec<_> = keys.iter().map(ApiKey::expose).collect();
        assert_eq!(keys, ["sk-aaaaaaaaaa", "sk-bbbbbbbbbb"]);
    }

    #[test]
    fn a_key_given_in_place_of_a_file_name_is_not_shown() {
        for source in ["sk-proj-REALSECRET123456", "sk-REALSECRET123456"] {
            let from_file = from_file(Path::new(source), "").unwrap_err().message;
            let from_environment = from_environment(source).unwrap_err().message;
            assert!(!from_file.contains("REAL") && !from_environment.contains("REAL"));
        }
        let error = from_file(Path::new("absent.txt"), "").unwrap_err();
        assert!(error.message.contains("absent.txt"));
    }

    #[test]
    fn a_bad_key_is_reported_by_its_line_and_never_shown() {
        assert_eq!(file("#\n").unwrap_err(), "F has no keys");
        let twice = file("sk-secret-1234\nx\nsk-secret-1234\n").unwrap_err();
        assert!(
            twice.starts_with("F:3: the key …1234 is the same as F:1"),
            "{twice}"
        );
        let spaced = file("sk-secret with-space\n").unwrap_err();
        assert!(
            spaced.starts_with("F:1:") && !spaced.contains("secret"),
            "{spaced}"
        );
    }
}

//! API keys, from a file or the environment and never from the command line, where others see them.

use crate::CliError;
use leasehold_http::ApiKey;
use std::collections::HashMap;
use std::env::{self, VarError};
use std::fs;
use std::path::Path;

/// Reads a key a line; blank lines and those that begin with `#` are passed over.
pub(crate) fn from_file(path: &Path) -> Result<Vec<ApiKey>, CliError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| {
        let name = name(&path.to_string_lossy());
        CliError::usage(format!(
            "cannot read the keys in {name}: {error}; give a file with a key a line, or put the keys \
             into an environment variable and name it with --keys-env"
        ))
    })?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    read(keys, |line| format!("{}:{line}", path.display()))
}

/// Reads keys that stand between commas or white space.
pub(crate) fn from_environment(name: &str) -> Result<Vec<ApiKey>, CliError> {
    let text = env::var(name).map_err(|error| {
        let problem = match error {
            VarError::NotPresent => "is not set",
            VarError::NotUnicode(_) => "is not text",
        };
        let name = self::name(name);
        CliError::usage(format!(
            "the environment variable {name} {problem}; put the keys into it, or name a file of keys \
             with --keys"
        ))
    })?;
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    let keys = (1..).zip(words.filter(|word| !word.is_empty()));
    read(keys, |number| format!("key {number} in {name}"))
}

/// What a source of keys is called, unless that is a key itself, given by mistake.
fn name(source: &str) -> String {
    let named = source.contains(['/', '.']) || !source.contains('-') || source.len() < 12;
    if named {
        source.to_owned()
    } else {
        "what looks like a key, which would be seen on the command line".to_owned()
    }
}

fn read<'a>(
    texts: impl Iterator<Item = (usize, &'a str)>,
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
                "{here}: the key {key} is the same as {there}; its limit would be counted twice"
            )));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        let source = place(1);
        return Err(CliError::usage(format!("{source}: there is no key")));
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
        from_file(file.path()).map_err(|failure| failure.message.replace(&path, "F"))
    }

    #[test]
    fn keys_are_read_line_by_line() {
        let keys = file("# ours\n sk-aaaaaaaaaa \n\nsk-bbbbbbbbbb\r\n").unwrap();
        let keys: Vec<_> = keys.iter().map(ApiKey::expose).collect();
        assert_eq!(keys, ["sk-aaaaaaaaaa", "sk-bbbbbbbbbb"]);
    }

    #[test]
    fn a_key_in_place_of_a_file_is_not_repeated() {
        for source in ["sk-proj-REALSECRET123456", "sk-REALSECRET123456"] {
            let from_file = from_file(Path::new(source)).unwrap_err().message;
            let from_environment = from_environment(source).unwrap_err().message;
            assert!(!from_file.contains("REAL") && !from_environment.contains("REAL"));
        }
        assert!(
            from_file(Path::new("absent.txt"))
                .unwrap_err()
                .message
                .contains("absent.txt")
        );
    }

    #[test]
    fn bad_keys_are_named_by_line_and_never_shown() {
        assert_eq!(file("#\n").unwrap_err(), "F:1: there is no key");
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

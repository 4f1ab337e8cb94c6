//! API keys, read from a file, the environment or a command's output.
//!
//! Invariant: no error shows more of a key than its last four characters, and no key is read twice for a URL.

use leasehold_core::limit::LimitSpecs;
use leasehold_protocol::ApiKey;
use std::collections::HashMap;
use std::env::{self, VarError};
use std::fs;
use std::path::Path;

/// A key with what its line says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub key: ApiKey,
    /// The only URL that it is for.
    pub url: Option<String>,
    /// The account whose limits it shares.
    pub group: Option<String>,
    /// The limits of the key, or of its group.
    pub limits: Option<LimitSpecs>,
    /// The place of the key, for messages.
    pub place: String,
}

/// Why keys can't be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeysError(String);

impl Key {
    /// Reads a file of keys, as [`Key::of_text`] does. An error of the file ends with `advice`.
    ///
    /// # Errors
    /// If the file can't be read, is not UTF-8, or is wrong at a line, which the error names.
    pub fn of_file(path: &Path, advice: &str) -> Result<Vec<Self>, KeysError> {
        let file = path.display().to_string();
        let bytes = fs::read(path).map_err(|error| {
            let name = shown(&file);
            KeysError(format!("cannot read the keys in {name}: {error}; {advice}"))
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|_| KeysError(format!("{file}: not UTF-8; save it as a plain text file")))?;
        Self::of_text(&text, &file)
    }

    /// Reads keys from a variable of the environment, where commas or white space separate them.
    ///
    /// # Errors
    /// If the variable is not set or not UTF-8, or has a wrong key, whose number the error names.
    pub fn of_environment(name: &str) -> Result<Vec<Self>, KeysError> {
        let text = env::var(name).map_err(|error| {
            let problem = match error {
                VarError::NotPresent => "is not set",
                VarError::NotUnicode(_) => "is not valid UTF-8",
            };
            let name = shown(name);
            KeysError(format!(
                "no API keys: the environment variable {name} {problem}; set it, or give a file with --keys"
            ))
        })?;
        Self::of_words(&text, name)
    }

    /// Reads a key a line from the text of `source`.
    ///
    /// A line is `KEY [url=URL] [group=NAME] [limit=LIMITS]`; a value with spaces is quoted. Also understood are
    /// `NAME=KEY`, `export NAME=KEY`, quoted keys, keys separated by commas, comments from `#` on, and a byte order
    /// mark.
    ///
    /// ```
    /// use leasehold_config::Key;
    ///
    /// let keys = Key::of_text("sk-secret-12345678 group=acme limit=3/60s # ours", "keys.txt")?;
    /// assert_eq!(keys[0].group.as_deref(), Some("acme"));
    /// let error = Key::of_text("sk-secret-12345678 limt=3/60s", "keys.txt").unwrap_err();
    /// assert!(error.to_string().starts_with("keys.txt:1: there is no setting limt="));
    /// # Ok::<(), leasehold_config::KeysError>(())
    /// ```
    ///
    /// # Errors
    /// If there are no keys, or a line is wrong, which the error names.
    pub fn of_text(text: &str, source: &str) -> Result<Vec<Self>, KeysError> {
        let text = text.trim_start_matches('\u{feff}');
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{source}:{number}");
            let read = read_line(line, &place);
            keys.extend(read.map_err(|problem| KeysError(format!("{place}: {problem}")))?);
        }
        checked(keys, source)
    }

    /// Reads keys from the value of a variable, where commas or white space separate them.
    ///
    /// # Errors
    /// If there are no keys, or one is wrong, whose number the error names.
    pub fn of_words(text: &str, variable: &str) -> Result<Vec<Self>, KeysError> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace());
        let mut keys = Vec::new();
        for (number, word) in (1..).zip(words.filter(|word| !word.is_empty())) {
            let place = format!("key {number} in {variable}");
            let read = bare(word, &place);
            keys.push(read.map_err(|problem| KeysError(format!("{place}: {problem}")))?);
        }
        checked(keys, &format!("the environment variable {variable}"))
    }
}

/// Returns the name of a file or variable, hidden if it looks like a key given by mistake.
pub(crate) fn shown(name: &str) -> &str {
    let is_name = name.contains(['/', '.']) || !name.contains('-') || name.len() < 12;
    if is_name {
        name
    } else {
        "<hidden: looks like a key>"
    }
}

/// Returns whether the name of a file looks like a secret given by mistake, so that it must not be shown.
pub(crate) fn is_secret(file: &str) -> bool {
    !file.contains(['/', '.']) && file.len() >= 12
}

/// Reads one line; empty for a blank one or a comment.
fn read_line(line: &str, place: &str) -> Result<Vec<Key>, String> {
    let line = line.trim();
    if line.starts_with(['{', '[']) {
        return Err("this looks like JSON; write one key per line".to_owned());
    }
    let words = words(line)?;
    let mut words = words.iter().map(String::as_str).peekable();
    words.next_if_eq(&"export");
    let mut keys = Vec::new();
    let (mut url, mut group, mut limits) = (None, None, None);
    for word in words {
        match word.split_once('=') {
            Some(("url", value)) => url = Some(value.to_owned()),
            Some(("group", value)) if !value.is_empty() => group = Some(value.to_owned()),
            Some(("limit", value)) => {
                let parsed = value.parse();
                limits = Some(parsed.map_err(|error| format!("limit={value}: {error}"))?);
            }
            _ if keys.is_empty() => {
                let parts = word.split(',').filter(|part| !part.is_empty());
                for part in parts {
                    keys.push(bare(part, place)?);
                }
            }
            Some((name, _)) if !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase()) => {
                return Err(format!(
                    "there is no setting {name}=; a line is KEY [url=URL] [group=NAME] [limit=LIMITS]"
                ));
            }
            _ => {
                let problem = "a second word; write one key per line, and quote values with spaces, \
                     such as limit=\"3/60s, 2 concurrent\"";
                return Err(problem.to_owned());
            }
        }
    }
    if keys.is_empty() && (url.is_some() || group.is_some() || limits.is_some()) {
        return Err("the line has settings and no key before them".to_owned());
    }
    for key in &mut keys {
        key.url.clone_from(&url);
        key.group.clone_from(&group);
        key.limits.clone_from(&limits);
    }
    Ok(keys)
}

/// Splits a line at spaces outside quotes, which are dropped, up to a comment.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c == '#' && word.is_none() => break,
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// Reads a key, without the `NAME=` before it and quotes around it.
fn bare(text: &str, place: &str) -> Result<Key, String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let key = match text.split_once('=') {
        Some((name, key)) if is_name(name) => key,
        Some(_) | None => text,
    };
    let key = ApiKey::new(key.trim_matches(['"', '\''])).map_err(|error| error.to_string())?;
    Ok(Key {
        key,
        url: None,
        group: None,
        limits: None,
        place: place.to_owned(),
    })
}

/// Checks that there are keys, and none twice for a URL.
fn checked(keys: Vec<Key>, source: &str) -> Result<Vec<Key>, KeysError> {
    let mut seen = HashMap::new();
    for key in &keys {
        let (here, shown) = (&key.place, &key.key);
        if let Some(there) = seen.insert((&key.key, &key.url), here) {
            return Err(KeysError(format!(
                "{here}: the key {shown} is the same as {there}; remove one of them"
            )));
        }
    }
    if keys.is_empty() {
        return Err(KeysError(format!("{source} has no keys")));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &[u8]) -> Result<Vec<Key>, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text).expect("it can be written");
        let path = file.path().display().to_string();
        Key::of_file(file.path(), "").map_err(|error| error.0.replace(&path, "F"))
    }

    fn keys(text: &str) -> Vec<String> {
        let keys = read(text.as_bytes()).unwrap();
        keys.iter().map(|it| it.key.expose().to_owned()).collect()
    }

    #[test]
    fn keys_are_read_line_by_line() {
        let text = "# ours\n sk-aaaaaaaaaa \n\nsk-bbbbbbbbbb # spare\r\n";
        assert_eq!(keys(text), ["sk-aaaaaaaaaa", "sk-bbbbbbbbbb"]);
    }

    #[test]
    fn keys_of_other_files_are_understood() {
        let dotenv = "\u{feff}OPENAI_API_KEY=\"sk-a-1\"\nexport KEY_2='sk-b-2'\n'sk-c-3'\n";
        assert_eq!(keys(dotenv), ["sk-a-1", "sk-b-2", "sk-c-3"]);
        assert_eq!(keys("sk-a-1,sk-b-2, \n"), ["sk-a-1", "sk-b-2"]);
        // Some keys end in an equals sign.
        assert_eq!(keys("c2VjcmV0LWtleQ==\n"), ["c2VjcmV0LWtleQ=="]);
        assert!(read(b"[\"sk-a\"]").unwrap_err().contains("looks like JSON"));
        assert!(read(b"sk-\xff").unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn a_line_may_bind_a_key_and_limit_it() {
        let text = "sk-a-1 url=http://h/v1 group=acme limit=\"3/60s, 2 concurrent\"\nsk-b-2";
        let keys = read(text.as_bytes()).unwrap();
        assert_eq!(keys[0].url.as_deref(), Some("http://h/v1"));
        assert_eq!(keys[0].group.as_deref(), Some("acme"));
        assert_eq!(keys[0].limits.as_ref().map(|it| it.len()), Some(2));
        assert!(keys[1].url.is_none() && keys[1].limits.is_none());
        let error = |text: &str| read(text.as_bytes()).unwrap_err();
        assert!(error("sk-a-1 weight=2").contains("F:1: there is no setting weight="));
        assert!(error("sk-a-1 limit=3").contains("F:1: limit=3:"));
        assert!(error("sk-a-1 url=\"x").contains("a quote is not closed"));
        assert!(error("group=a").contains("no key before them"));
    }

    #[test]
    fn a_key_given_in_place_of_a_file_name_is_not_shown() {
        for source in ["sk-proj-REALSECRET123456", "sk-REALSECRET123456"] {
            let from_file = Key::of_file(Path::new(source), "").unwrap_err().0;
            let from_environment = Key::of_environment(source).unwrap_err().0;
            assert!(!from_file.contains("REAL") && !from_environment.contains("REAL"));
        }
        let error = Key::of_file(Path::new("absent.txt"), "").unwrap_err();
        assert!(error.0.contains("absent.txt"));
    }

    #[test]
    fn a_bad_key_is_reported_by_its_line_and_never_shown() {
        assert_eq!(read(b"#\n").unwrap_err(), "F has no keys");
        let twice = read(b"sk-secret-1234\nx\nsk-secret-1234\n").unwrap_err();
        assert!(
            twice.starts_with("F:3: the key …1234 is the same as F:1"),
            "{twice}"
        );
        let spaced = read(b"sk-secret with-space\n").unwrap_err();
        assert!(
            spaced.starts_with("F:1:") && !spaced.contains("secret"),
            "{spaced}"
        );
    }
}

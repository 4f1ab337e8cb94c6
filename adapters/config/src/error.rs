//! Mistakes in a configuration: place, key, problem and suggestion.
//!
//! Invariant: an error has at least one mistake, and no message repeats a text that may hold a secret.

use core::fmt;
use std::path::PathBuf;

/// All mistakes that were found in a configuration; each is shown on a line of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Never empty.
    mistakes: Vec<Mistake>,
}

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is.
    pub place: Place,
    /// The key, such as `pools.web.policy`; empty if there is none.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line and column in characters, from 1; `None` for the whole file.
    pub position: Option<(usize, usize)>,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A file can't be read, or a command gave no output.
    #[error("{0}")]
    Unreadable(String),
    /// A file is included twice, or includes itself.
    #[error("the file is read already, at {0}; include a file once")]
    IncludedTwice(Place),
    /// There are more files than [`MAX_FILES`](crate::MAX_FILES).
    #[error("there may be at most {} files", crate::MAX_FILES)]
    TooManyFiles,
    /// The text is not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// A `$` begins no variable.
    #[error("a variable is written ${{NAME}} or ${{NAME:-default}}, and a dollar $$")]
    Variable,
    /// A variable of the environment is not set.
    #[error("the environment variable {0} is not set; set it, or write ${{{0}:-default}}")]
    UnsetVariable(String),
    /// No key of this name can be here.
    #[error("there is no such key; {}", meant(nearest.as_deref(), known))]
    UnknownKey {
        /// The key that was probably meant.
        nearest: Option<String>,
        /// All keys that can be here.
        known: Vec<String>,
    },
    /// A value of another type is needed.
    #[error("must be {expected}, not {found}")]
    WrongType {
        /// The type, with an example.
        expected: String,
        /// The type of the value.
        found: &'static str,
    },
    /// A number is out of range.
    #[error("must be from {least} to {most}")]
    OutOfRange {
        /// The least number.
        least: i128,
        /// The greatest number.
        most: i128,
    },
    /// A text is not one of a few words.
    #[error("there is no such value; {}", meant(nearest.as_deref(), known))]
    UnknownWord {
        /// The word that was probably meant.
        nearest: Option<String>,
        /// All words that can be here.
        known: Vec<String>,
    },
    /// A key is missing.
    #[error("is missing; add {0}")]
    Missing(String),
    /// A name, address or key is there twice.
    #[error("is the same as at {0}; {1}")]
    Duplicate(Place, &'static str),
    /// A value can't be what it is, by itself or beside others; the text says what to do.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    pub(crate) fn one(mistake: Mistake) -> Self {
        Self {
            mistakes: vec![mistake],
        }
    }

    /// Returns the mistakes, in the order in which they were found.
    #[must_use]
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{mistake}")?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigError {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { "" } else { ": " };
        let text = format!("{}{key}{}: {}", self.place, self.key, self.problem);
        // A name or path may have a line break in it, or what a terminal obeys.
        f.write_str(&text.replace(char::is_control, " "))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.display().fmt(f)?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// Mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    mistakes: Vec<Mistake>,
    /// Mistakes found, those beyond the bound included.
    count: usize,
}

/// The bound on mistakes that are told at once.
const MAX_MISTAKES: usize = 100;

impl Report {
    pub(crate) fn add(&mut self, mistake: Mistake) {
        self.count = self.count.saturating_add(1);
        if self.mistakes.len() < MAX_MISTAKES {
            self.mistakes.push(mistake);
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Returns the error if there are mistakes.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        if self.mistakes.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError {
                mistakes: self.mistakes,
            })
        }
    }
}

/// Returns the word of a list that a misspelt one probably stands for.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let spelled = |word: &str| word.to_ascii_lowercase().replace('-', "_");
    let word = spelled(word);
    let allowed = (word.chars().count() / 3).max(1);
    let distances = known
        .into_iter()
        .map(|other| (strsim::osa_distance(&word, &spelled(other)), other));
    let (distance, other) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= allowed).then_some(other)
}

fn meant(nearest: Option<&str>, known: &[String]) -> String {
    match (nearest, known) {
        (Some(nearest), _) => format!("did you mean {nearest}?"),
        (None, []) => "none can be here".to_owned(),
        (None, [only]) => format!("it must be {only}"),
        (None, [first @ .., last]) => format!("it must be {} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["policy", "max_wait", "max_waiters", "kind"];
        for (word, expected) in [
            ("polcy", Some("policy")),
            ("plociy", Some("policy")),
            ("max-wait", Some("max_wait")),
            ("Kind", Some("kind")),
            ("max_waiter", Some("max_waiters")),
            ("listen", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn every_mistake_is_shown_on_a_line() {
        let mistake = |key: &str| Mistake {
            place: Place {
                file: "a.toml".into(),
                position: Some((3, 1)),
            },
            key: key.to_owned(),
            problem: Problem::UnsetVariable("HOME".to_owned()),
        };
        let mut report = Report::default();
        report.add(mistake("state"));
        report.add(mistake(""));
        let problem = "the environment variable HOME is not set; set it, or write ${HOME:-default}";
        assert_eq!(
            report.checked().unwrap_err().to_string(),
            format!("a.toml:3:1: state: {problem}\na.toml:3:1: {problem}")
        );
    }
}

//! Tokens that callers present.
//!
//! Invariant: a token that was read is long, fits into a header, and is no known default; `Debug` never shows it.

use core::fmt;
use leasehold_protocol::Secret;
use std::path::{Path, PathBuf};

/// A secret that callers present. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: Secret,
    /// The file that it was read from.
    file: Option<PathBuf>,
}

/// The reason that a text is no token. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text is empty.
    #[error("the token is empty; write one with: (umask 77; openssl rand -hex 32 > FILE)")]
    Empty,
    /// The token can be guessed.
    #[error(
        "the token is a well-known default; write one with: (umask 77; openssl rand -hex 32 > FILE)"
    )]
    Default,
    /// The token is shorter than [`Token::MIN_LEN`].
    #[error(
        "the token is shorter than {} bytes; write one with: (umask 77; openssl rand -hex 32 > FILE)",
        Token::MIN_LEN
    )]
    TooShort,
    /// The token is longer than [`Token::MAX_LEN`].
    #[error("the token is longer than {} bytes", Token::MAX_LEN)]
    TooLong,
    /// The token has a character that can't be in a header.
    #[error("the token has a space or another character that is not visible ASCII")]
    NotVisibleAscii,
}

impl Token {
    /// The least length in bytes.
    pub const MIN_LEN: usize = 16;
    /// The greatest length in bytes.
    pub const MAX_LEN: usize = 4_096;

    /// Takes a token as it is.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self {
            secret: Secret::new(token),
            file: None,
        }
    }

    /// Reads a token from the text of a file, without the white space around it.
    ///
    /// # Errors
    /// [`TokenError`] if it could be guessed or does not fit into a header.
    pub fn of_file(text: &str, file: &Path) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if is_default(text) {
            return Err(TokenError::Default);
        }
        if text.len() < Self::MIN_LEN {
            return Err(TokenError::TooShort);
        }
        if text.len() > Self::MAX_LEN {
            return Err(TokenError::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::NotVisibleAscii);
        }
        Ok(Self {
            secret: Secret::new(text),
            file: Some(file.to_owned()),
        })
    }

    /// Returns the secret itself, for comparison alone.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.secret.expose()
    }

    /// Returns the file that the token was read from.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Words of which defaults are made.
pub(crate) const DEFAULTS: [&str; 14] = [
    "admin",
    "changeit",
    "changeme",
    "default",
    "demo",
    "example",
    "insert",
    "leasehold",
    "password",
    "replaceme",
    "secret",
    "test",
    "token",
    "your",
];

/// Whether a token is made of words of defaults, or of one character or a row of digits.
///
/// `change-me-please-1234` has a word that is none of those, and is taken.
fn is_default(token: &str) -> bool {
    let mut rest: String = token
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    for word in DEFAULTS {
        rest = rest.replace(word, "");
    }
    let first = rest.chars().next();
    let is_one_character = rest.chars().all(|c| Some(c) == first);
    let is_row = "0123456789".repeat(3).contains(&rest)
        || "1234567890".repeat(3).contains(&rest)
        || "abcdefghijklmnopqrstuvwxyz".contains(&rest);
    is_one_character || is_row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_could_be_guessed_is_refused() {
        let read = |text: &str| {
            Token::of_file(text, Path::new("t")).map(|token| token.secret.expose().to_owned())
        };
        for text in [
            "changeme",
            "admin",
            "Change-Me-Change-Me",
            "your-secret-token",
            "aaaaaaaaaaaaaaaaaaaa",
            "12345678901234567890",
            "admin-token-123456",
            "----------------",
        ] {
            assert_eq!(read(text), Err(TokenError::Default), "{text}");
        }
        assert_eq!(read(" \n"), Err(TokenError::Empty));
        assert_eq!(read("0f9a8b7c6d5e4f3"), Err(TokenError::TooShort));
        assert_eq!(read("0f9a8b7c 6d5e4f3a"), Err(TokenError::NotVisibleAscii));
        assert_eq!(read(&"0f9a8b7c".repeat(513)), Err(TokenError::TooLong));
        assert_eq!(
            read(" 0f9a8b7c6d5e4f3a\r\n").as_deref(),
            Ok("0f9a8b7c6d5e4f3a")
        );
    }

    #[test]
    fn debug_does_not_show_a_token() {
        assert_eq!(format!("{:?}", Token::new("0f9a8b7c6d5e4f3a")), "Token(..)");
    }
}

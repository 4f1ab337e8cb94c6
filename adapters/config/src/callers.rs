//! Callers of listeners of services: their keys, what they may use, and what it costs.
//!
//! Invariant: a caller's key is never here, only its hash.

use crate::file::{Name, Value};
use core::fmt;
use core::num::NonZeroU16;
use core::str::FromStr;
use core::time::Duration;
use glob::Pattern;
use leasehold_core::limit::LimitSpecs;
use leasehold_protocol::{Price, Usd};
use sha2::{Digest, Sha256};

/// A caller with a key of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct CallerSettings {
    /// Its name in errors, logs and counts.
    pub name: String,
    /// The hash of its key.
    pub key: KeyHash,
    /// Its limits in each pool.
    pub limits: Option<LimitSpecs>,
    /// The models that it may ask for; empty for all.
    pub models: Vec<ModelPattern>,
    /// Its place in line, 0 (first) to 255.
    pub priority: u8,
    /// Its share of the keys while it and others wait.
    pub weight: NonZeroU16,
    /// What it may spend.
    pub budget: Option<MoneyBudget>,
}

/// A text is no name of a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a caller {0}")]
pub struct ParseCallerNameError(String);

impl CallerSettings {
    /// Makes a caller without limits, a budget and a list of models.
    ///
    /// ```
    /// use leasehold_config::{CallerSettings, KeyHash};
    ///
    /// let caller = CallerSettings::new("alice", KeyHash::of(b"lh-key-of-alice"))?;
    /// assert!(caller.to_toml().starts_with("[[caller]]\nname = \"alice\"\nkey_sha256 = \""));
    /// # Ok::<(), leasehold_config::ParseCallerNameError>(())
    /// ```
    ///
    /// # Errors
    /// [`ParseCallerNameError`] for a name with spaces or slashes, an empty or a very long one.
    pub fn new(name: &str, key: KeyHash) -> Result<Self, ParseCallerNameError> {
        let name = Name::read(name).map_err(|misread| ParseCallerNameError(misread.problem))?;
        Ok(Self {
            name: name.0,
            key,
            limits: None,
            models: Vec::new(),
            priority: Self::PRIORITY,
            weight: NonZeroU16::MIN,
            budget: None,
        })
    }

    /// The place in line of a caller, unless the file says otherwise.
    pub const PRIORITY: u8 = 128;
}

/// The SHA-256 of a caller's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

/// A text is no hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hexadecimal digits, as `leasehold key new` writes them")]
pub struct ParseKeyHashError;

impl KeyHash {
    /// Returns the hash of a key.
    ///
    /// ```
    /// use leasehold_config::KeyHash;
    ///
    /// let hash = KeyHash::of(b"lh-key-of-a-caller");
    /// assert_eq!(hash.to_string().parse(), Ok(hash));
    /// ```
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl FromStr for KeyHash {
    type Err = ParseKeyHashError;

    fn from_str(text: &str) -> Result<Self, ParseKeyHashError> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseKeyHashError);
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            let digits =
                text.get(index.saturating_mul(2)..index.saturating_mul(2).saturating_add(2));
            let digits = digits.ok_or(ParseKeyHashError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseKeyHashError)?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

/// A name of models, in which `*` stands for any text: `gpt-4o*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPattern(Pattern);

/// A text is no pattern of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the name of a model, in which * stands for any text, such as gpt-4o*")]
pub struct ParseModelPatternError;

impl ModelPattern {
    /// Whether it stands for a model.
    ///
    /// ```
    /// use leasehold_config::ModelPattern;
    ///
    /// let pattern: ModelPattern = "openai/gpt-4o*".parse()?;
    /// assert!(pattern.fits("openai/gpt-4o-mini") && !pattern.fits("openai/o3"));
    /// # Ok::<(), leasehold_config::ParseModelPatternError>(())
    /// ```
    #[must_use]
    pub fn fits(&self, model: &str) -> bool {
        self.0.matches(model)
    }

    /// Returns the text of the pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it stands for one model alone.
    #[must_use]
    pub fn is_one(&self) -> bool {
        !self.as_str().contains('*')
    }
}

impl FromStr for ModelPattern {
    type Err = ParseModelPatternError;

    fn from_str(text: &str) -> Result<Self, ParseModelPatternError> {
        // Of the signs that patterns of files have, models need one alone.
        if text.is_empty() || text.contains(['?', '[', ']']) || text.contains("**") {
            return Err(ParseModelPatternError);
        }
        Pattern::new(text)
            .map(Self)
            .map_err(|_| ParseModelPatternError)
    }
}

/// What a caller may spend in each window, which begins at a whole multiple of its length since 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoneyBudget {
    /// The amount, above zero.
    pub amount: Usd,
    /// The length of the window.
    pub window: Duration,
}

/// The price of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPrice {
    /// The models.
    pub models: ModelPattern,
    /// Their price.
    pub price: Price,
}

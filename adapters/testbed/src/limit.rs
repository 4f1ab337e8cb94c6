//! Limits of a key, and their text: `3/60s, 40000 tokens/min`, `gpt-4o=500/min`.

use crate::text::parse_window;
use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

/// The unit that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitUnit {
    /// One for each call.
    Requests,
    /// Prompt and completion tokens, as the answer's usage tells them.
    Tokens,
}

impl LimitUnit {
    /// The unit's name, as in the text of a limit.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// A maximum of requests or tokens of each key in any window.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// Calls that count; those of every model by default.
    pub model: Option<String>,
    /// The unit.
    pub unit: LimitUnit,
    /// Most units admitted in any window.
    pub amount: NonZeroU64,
    /// The window. What arrived at `t` does not count any more at `t + window`.
    pub window: Duration,
}

impl Limit {
    /// A limit on the calls of every model.
    #[must_use]
    pub const fn new(unit: LimitUnit, amount: NonZeroU64, window: Duration) -> Self {
        Self {
            model: None,
            unit,
            amount,
            window,
        }
    }

    /// Restricts the limit to the calls of one model.
    #[must_use]
    pub fn of_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Parses `[MODEL=]AMOUNT [requests|tokens]/WINDOW[, ...]`.
    ///
    /// # Errors
    /// [`LimitError`], with the part that can't be read.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, LimitError> {
        // No limit has an equals sign, and a model's name may have one.
        let (model, list) = match text.rsplit_once('=') {
            Some((model, list)) => (Some(model.trim()), list),
            None => (None, text),
        };
        if model == Some("") {
            return Err(LimitError(text.to_owned()));
        }
        list.split(',')
            .map(|item| {
                let limit = Self::parse(item).ok_or_else(|| LimitError(item.trim().to_owned()))?;
                Ok(match model {
                    Some(model) => limit.of_model(model),
                    None => limit,
                })
            })
            .collect()
    }

    /// Whether the limit counts calls of `model`.
    pub(crate) fn counts(&self, model: &str) -> bool {
        self.model.as_deref().is_none_or(|only| only == model)
    }

    /// Whether the limit can be checked before the body of a call is read.
    pub(crate) const fn needs_body(&self) -> bool {
        match self.unit {
            LimitUnit::Requests => self.model.is_some(),
            LimitUnit::Tokens => true,
        }
    }

    fn parse(item: &str) -> Option<Self> {
        let (amount, window) = item.split_once('/')?;
        let amount = amount.trim();
        let unit = amount.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
        let digits = amount[..amount.len() - unit.len()].replace('_', "");
        let unit = match unit.trim() {
            "" | "request" | "requests" | "call" | "calls" => LimitUnit::Requests,
            "token" | "tokens" => LimitUnit::Tokens,
            _ => return None,
        };
        let window = parse_window(window).filter(|window| !window.is_zero())?;
        Some(Self::new(unit, digits.parse().ok()?, window))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(model) = &self.model {
            write!(f, "{model}=")?;
        }
        let (amount, unit) = (self.amount, self.unit.name());
        write!(f, "{amount} {unit}/{:?}", self.window)
    }
}

/// The part of a limit's text that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a limit; write it as 3/60s, 40000 tokens/min or MODEL=500/min")]
pub struct LimitError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_units_windows_and_models() {
        let shown = |text| {
            let limits = Limit::parse_list(text).unwrap();
            let limits: Vec<_> = limits.iter().map(ToString::to_string).collect();
            limits.join(", ")
        };
        assert_eq!(shown("3/60s"), "3 requests/60s");
        assert_eq!(
            shown("3 calls/300ms, 40_000 tokens/min"),
            "3 requests/300ms, 40000 tokens/60s"
        );
        assert_eq!(
            shown("gpt-4o=500/min, 9 tokens / 2 h"),
            "gpt-4o=500 requests/60s, gpt-4o=9 tokens/7200s"
        );
        assert_eq!(shown("a=b=3/s"), "a=b=3 requests/1s");
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_named() {
        for text in [
            "",
            "3",
            "0/60s",
            "3/0s",
            "3 apples/s",
            "x/60s",
            "3/60s,",
            "3/week",
            "=3/60s",
        ] {
            let error = Limit::parse_list(text).unwrap_err();
            assert!(error.to_string().contains("is not a limit"), "{text}");
        }
        assert!(
            Limit::parse_list("3/s, 5/x")
                .unwrap_err()
                .to_string()
                .starts_with("\"5/x\"")
        );
    }
}

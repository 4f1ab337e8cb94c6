//! Amounts of money, and the prices of tokens.
//!
//! Invariant: an amount is a whole number of billionths of a dollar; a cost is rounded up, so that a sum of costs is
//! never below what was spent.

use crate::usage::Usage;
use core::fmt;
use core::ops::Add;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Billionths of a dollar in a dollar.
const NANOS: u64 = 1_000_000_000;
/// Digits after the point of an amount in dollars.
const DIGITS: usize = 9;
/// Tokens that a price is for.
const PRICED: u128 = 1_000_000;

/// An amount of US dollars, from 0 to 18 thousand million. Sums stop at the largest.
///
/// ```
/// use leasehold_protocol::Usd;
///
/// let amount: Usd = "2.50 USD".parse()?;
/// assert_eq!(amount.nanos(), 2_500_000_000);
/// assert_eq!(amount.to_string(), "2.5 USD");
/// # Ok::<(), leasehold_protocol::ParseUsdError>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Usd(u64);

/// A text is no amount of dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an amount of dollars with at most {DIGITS} digits after the point, such as \"2.50 USD\""
)]
pub struct ParseUsdError;

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Makes an amount of billionths of a dollar.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the amount in billionths of a dollar.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Returns the difference to a smaller amount; nothing to a greater one.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns the amount in dollars, to show it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "it is only shown")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl FromStr for Usd {
    type Err = ParseUsdError;

    fn from_str(text: &str) -> Result<Self, ParseUsdError> {
        let number = text.strip_suffix("USD").ok_or(ParseUsdError)?.trim_ascii();
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > DIGITS {
            return Err(ParseUsdError);
        }
        let whole: u64 = whole.parse().map_err(|_| ParseUsdError)?;
        let part: u64 = format!("{part:0<DIGITS$}")
            .parse()
            .map_err(|_| ParseUsdError)?;
        let nanos = whole
            .checked_mul(NANOS)
            .and_then(|whole| whole.checked_add(part));
        nanos.map(Self).ok_or(ParseUsdError)
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:0DIGITS$}", self.0 / NANOS, self.0 % NANOS);
        write!(
            f,
            "{} USD",
            text.trim_end_matches('0').trim_end_matches('.')
        )
    }
}

/// What a million tokens of a model cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Of the prompt.
    pub input: Usd,
    /// Of the part of the prompt that the service had in its cache.
    pub cached_input: Usd,
    /// Of the completion, reasoning included.
    pub output: Usd,
}

impl Price {
    /// Returns what a call has cost, of which the service told the usage. Tokens that are told as a sum alone cost
    /// as much as the dearer kind.
    ///
    /// ```
    /// use leasehold_protocol::{Price, Usage};
    /// use serde_json::json;
    ///
    /// let usd = |text: &str| text.parse().unwrap();
    /// let price = Price { input: usd("2.50 USD"), cached_input: usd("1.25 USD"), output: usd("10 USD") };
    /// let usage = json!({
    ///     "prompt_tokens": 1_000, "prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens": 100,
    /// });
    /// assert_eq!(price.of(&Usage::read(&usage).unwrap()), usd("0.003 USD"));
    /// ```
    #[must_use]
    pub fn of(&self, usage: &Usage) -> Usd {
        let (Some(prompt), Some(completion)) = (usage.prompt_tokens, usage.completion_tokens)
        else {
            let known = usage
                .prompt_tokens
                .unwrap_or(0)
                .max(usage.completion_tokens.unwrap_or(0));
            let total = usage.total_tokens.unwrap_or(known);
            return match usage.prompt_tokens {
                // What has a prompt alone, such as an embedding, has no completion.
                Some(prompt) if prompt == total => cost([(prompt, self.input)]),
                Some(_) | None => cost([(total, self.input.max(self.output))]),
            };
        };
        let cached = usage.cached_tokens.unwrap_or(0).min(prompt);
        cost([
            (prompt.saturating_sub(cached), self.input),
            (cached, self.cached_input),
            (completion, self.output),
        ])
    }

    /// Returns the most that a call may cost.
    #[must_use]
    pub fn most(&self, prompt: u32, completion: u32) -> Usd {
        cost([
            (prompt.into(), self.input.max(self.cached_input)),
            (completion.into(), self.output),
        ])
    }
}

/// Adds up tokens at their prices.
fn cost<const N: usize>(parts: [(u64, Usd); N]) -> Usd {
    let parts = parts.map(|(tokens, price)| u128::from(tokens).saturating_mul(price.0.into()));
    let sum = parts.into_iter().fold(0_u128, u128::saturating_add);
    Usd(u64::try_from(sum.div_ceil(PRICED)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_text_that_is_no_amount_is_refused() {
        for text in [
            "",
            "USD",
            "5",
            "-1 USD",
            ".5 USD",
            "5. USD",
            "1e3 USD",
            "5 EUR",
            "0.0000000001 USD",
            "18446744074 USD",
        ] {
            assert_eq!(text.parse::<Usd>(), Err(ParseUsdError), "{text}");
        }
        assert_eq!("5USD".parse(), Ok(Usd(5 * NANOS)));
    }

    #[test]
    fn tokens_without_a_kind_cost_as_much_as_the_dearer_one() {
        let price = Price {
            input: Usd(1_000_000),
            cached_input: Usd(500_000),
            output: Usd(4_000_000),
        };
        for (usage, nanos) in [
            (json!({"total_tokens": 10}), 40),
            (json!({"prompt_tokens": 10, "total_tokens": 10}), 10),
            (json!({"prompt_tokens": 10}), 10),
            (json!({"completion_tokens": 10}), 40),
            (json!({"prompt_tokens": 10, "completion_tokens": 1}), 14),
            (
                json!({"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 1}),
                11,
            ),
        ] {
            let read = Usage::read(&usage).unwrap();
            assert_eq!(price.of(&read), Usd(nanos), "{usage}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_is_read_as_it_is_shown(nanos in any::<u64>()) {
            prop_assert_eq!(Usd(nanos).to_string().parse(), Ok(Usd(nanos)));
        }

        /// What is reserved for a call covers it, if it uses no more tokens than were expected.
        #[test]
        fn the_most_of_a_call_is_no_less_than_its_cost(
            prices in any::<(u32, u32, u32)>(),
            tokens in any::<(u32, u32)>(),
            used in any::<(u32, u32, u32)>(),
        ) {
            let usd = |nanos: u32| Usd(nanos.into());
            let price = Price {
                input: usd(prices.0),
                cached_input: usd(prices.1),
                output: usd(prices.2),
            };
            let usage = Usage {
                prompt_tokens: Some(used.0.min(tokens.0).into()),
                completion_tokens: Some(used.1.min(tokens.1).into()),
                cached_tokens: Some(used.2.into()),
                ..Usage::default()
            };
            prop_assert!(price.of(&usage) <= price.most(tokens.0, tokens.1));
        }
    }
}

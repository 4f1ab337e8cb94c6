//! Tokens of calls, and what they cost.

use core::iter::Sum;
use core::str::FromStr;

/// Tokens of one call or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens of prompts.
    pub prompt: u64,
    /// Tokens of completions.
    pub completion: u64,
}

impl Tokens {
    /// Both together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl Sum for Tokens {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            prompt: sum.prompt.saturating_add(one.prompt),
            completion: sum.completion.saturating_add(one.completion),
        })
    }
}

/// A text that is no count of tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write the tokens of a call in and out, such as 1200,300")]
pub struct ParseTokensError;

impl FromStr for Tokens {
    type Err = ParseTokensError;

    fn from_str(text: &str) -> Result<Self, ParseTokensError> {
        let (prompt, completion) = text.split_once(',').ok_or(ParseTokensError)?;
        // A lease counts tokens in 32 bits.
        let count = |text: &str| text.trim().parse::<u32>().map_err(|_| ParseTokensError);
        Ok(Self {
            prompt: count(prompt)?.into(),
            completion: count(completion)?.into(),
        })
    }
}

/// Prices of a million tokens, in any currency.
///
/// ```
/// use leasehold_plan::{Prices, Tokens};
///
/// let prices: Prices = "0.15,0.60".parse()?;
/// let tokens = Tokens { prompt: 2_000_000, completion: 500_000 };
/// assert!((prices.of(tokens) - 0.60).abs() < 1e-9);
/// # Ok::<(), leasehold_plan::ParsePricesError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// A million tokens of prompts.
    pub prompt: f64,
    /// A million tokens of completions.
    pub completion: f64,
}

/// A text that is no prices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write the prices of a million tokens in and out, such as 0.15,0.60")]
pub struct ParsePricesError;

impl Prices {
    /// The cost of some tokens.
    #[must_use]
    pub fn of(self, tokens: Tokens) -> f64 {
        let of = |tokens: u64, price: f64| tokens as f64 / 1e6 * price;
        of(tokens.prompt, self.prompt) + of(tokens.completion, self.completion)
    }
}

impl FromStr for Prices {
    type Err = ParsePricesError;

    fn from_str(text: &str) -> Result<Self, ParsePricesError> {
        let (prompt, completion) = text.split_once(',').ok_or(ParsePricesError)?;
        let price = |text: &str| {
            let price: f64 = text.trim().parse().map_err(|_| ParsePricesError)?;
            let is_price = price.is_finite() && price >= 0.0;
            is_price.then_some(price).ok_or(ParsePricesError)
        };
        Ok(Self {
            prompt: price(prompt)?,
            completion: price(completion)?,
        })
    }
}

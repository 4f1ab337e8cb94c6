//! Which of the calls a rule applies to.
//!
//! Invariant: the shares of the rules that match a call add up, as the call has one draw for all of them.

use core::num::NonZeroU32;

/// Which of a rule's calls get its fault.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Occurrence {
    /// This share of the calls, 0 to 1, drawn from the seed.
    Share(f64),
    /// The first calls, this many.
    First(u32),
    /// All calls after this many.
    After(u32),
    /// One call in this many, beginning with the last of the first round.
    Every(NonZeroU32),
}

impl Occurrence {
    /// Parses a share such as `0.2` or `20%`, or `first:3`, `after:3`, `every:3`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some((kind, number)) = text.split_once(':') {
            let count = number.parse().ok()?;
            return match kind {
                "first" => Some(Self::First(count)),
                "after" => Some(Self::After(count)),
                "every" => NonZeroU32::new(count).map(Self::Every),
                _ => None,
            };
        }
        let (number, scale) = match text.strip_suffix('%') {
            Some(number) => (number, 0.01),
            None => (text, 1.0),
        };
        let share = number.trim().parse::<f64>().ok()? * scale;
        let occurrence = Self::Share(share);
        occurrence.is_valid().then_some(occurrence)
    }

    /// Whether a share is from 0 to 1.
    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Share(share) => (0.0..=1.0).contains(&share),
            Self::First(_) | Self::After(_) | Self::Every(_) => true,
        }
    }

    /// Whether the rule fires for its call number `seen`, from 1 on. A share is taken from what is left of `draw`.
    pub(crate) fn fires(self, seen: u32, draw: &mut f64) -> bool {
        match self {
            Self::Share(share) => {
                *draw -= share;
                *draw < 0.0
            }
            Self::First(count) => seen <= count,
            Self::After(count) => seen > count,
            Self::Every(count) => seen.is_multiple_of(count.get()),
        }
    }
}

//! Limits as text: `3/60s, 40000 tokens/min, 2 concurrent`.
//!
//! Invariant: a shown value is read back as the same one, every [`LimitSpecs`] can be built, and no text panics.
//!
//! ```text
//! limits    = limit { "," limit }                      at most 16, no duplicates
//! limit     = count [ unit ] "/" window [ algorithm ] [ anchor ]
//!           | count "concurrent"
//! unit      = "request" | "requests" | "token" | "tokens"
//! window    = [ number ] ( "d" | "h" | "min" | "m" | "s" | "ms" | "us" | "ns" )
//! algorithm = "exact" | "bucketed" number | "sliding" "counter" | "fixed" | "paced"
//!           | ( "token" "bucket" | "gcra" ) [ "burst" number ]
//! anchor    = "from" ( "completion" | "grant" )        after exact and bucketed only
//! ```
//! Defaults are requests, `exact`, `from completion`, and a burst of the whole limit. Algorithm and anchor may change
//! places. Numbers are whole and may have `_` between digits; words are read in any case; ASCII whitespace may stand
//! between any two of these. Windows are read by [`parse_span`](crate::time::parse_span).

mod error;
mod parse;

pub use error::{LimitSpecsError, ParseLimitError, ParseLimitErrorKind};

use super::admission::{Anchor, LimitConfigError};
use super::bucketed_window::BucketedWindow;
use super::concurrency::Concurrency;
use super::cost::Unit;
use super::fixed_window::FixedWindow;
use super::gcra::Gcra;
use super::limiter::Limiter;
use super::pacing::Pacing;
use super::rate::Rate;
use super::set::LimitSet;
use super::sliding_counter::SlidingCounter;
use super::sliding_log::SlidingLog;
use super::token_bucket::TokenBucket;
use crate::time::DisplaySpan;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;
use core::ops::Deref;
use core::time::Duration;

/// The algorithm of a rate limit, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `exact`: a [`SlidingLog`].
    Exact {
        /// The event windows count from.
        anchor: Anchor,
    },
    /// `bucketed 6`: a [`BucketedWindow`].
    Bucketed {
        /// Buckets per window; the window must be a multiple of as many nanoseconds.
        buckets: NonZeroU32,
        /// The event windows count from.
        anchor: Anchor,
    },
    /// `sliding counter`: a [`SlidingCounter`].
    SlidingCounter,
    /// `fixed`: a [`FixedWindow`].
    Fixed,
    /// `token bucket burst 20`: a [`TokenBucket`].
    TokenBucket {
        /// Tokens kept.
        burst: NonZeroU32,
    },
    /// `gcra burst 20`: a [`Gcra`].
    Gcra {
        /// Units admitted early.
        burst: NonZeroU32,
    },
    /// `paced`: a [`Pacing`].
    Paced,
}

impl Default for Algorithm {
    /// The exact window from completion, which an upstream never sees exceeded.
    fn default() -> Self {
        Self::Exact {
            anchor: Anchor::default(),
        }
    }
}

impl Algorithm {
    /// Shows the words after the window. Defaults are omitted; `limit` is the default burst.
    fn show(self, limit: NonZeroU32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, number, anchor) = match self {
            Self::Exact { anchor } => ("", None, anchor),
            Self::Bucketed { buckets, anchor } => (" bucketed", Some((" ", buckets)), anchor),
            Self::SlidingCounter => (" sliding counter", None, Anchor::default()),
            Self::Fixed => (" fixed", None, Anchor::default()),
            Self::TokenBucket { burst } => (
                " token bucket",
                Some((" burst ", burst)).filter(|_| burst != limit),
                Anchor::default(),
            ),
            Self::Gcra { burst } => (
                " gcra",
                Some((" burst ", burst)).filter(|_| burst != limit),
                Anchor::default(),
            ),
            Self::Paced => (" paced", None, Anchor::default()),
        };
        f.write_str(words)?;
        if let Some((word, number)) = number {
            write!(f, "{word}{number}")?;
        }
        match anchor {
            Anchor::Grant => f.write_str(" from grant"),
            Anchor::Completion => Ok(()),
        }
    }
}

/// One limit, as text such as `3/60s`, `500/min token bucket burst 20` or `2 concurrent`.
///
/// ```
/// use leasehold_core::limit::{LimitSpec, Limiter};
///
/// let spec: LimitSpec = "40_000 tokens / min Bucketed 6".parse()?;
/// assert_eq!(spec.to_string(), "40000 tokens/1min bucketed 6");
/// assert!(matches!(spec.limiter(), Ok(Limiter::BucketedWindow(_))));
/// # Ok::<(), leasehold_core::limit::ParseLimitError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSpec {
    /// A count of units per window.
    Rate {
        /// The unit counted.
        unit: Unit,
        /// Units and window.
        rate: Rate,
        /// The algorithm that counts them.
        algorithm: Algorithm,
    },
    /// A count of requests in flight.
    Concurrent(NonZeroU32),
}

impl LimitSpec {
    /// The unit that the limiter counts.
    #[must_use]
    pub fn unit(&self) -> Unit {
        match self {
            Self::Rate { unit, .. } => *unit,
            Self::Concurrent(_) => Unit::Requests,
        }
    }

    /// Builds the limiter.
    ///
    /// # Errors
    /// [`LimitConfigError`] as the algorithm states it. A spec read from text can always be built.
    pub fn limiter(&self) -> Result<Limiter, LimitConfigError> {
        let (Rate { limit, window }, algorithm) = match self {
            Self::Rate {
                rate, algorithm, ..
            } => (*rate, *algorithm),
            Self::Concurrent(count) => return Ok(Concurrency::new(*count).into()),
        };
        Ok(match algorithm {
            Algorithm::Exact { anchor } => SlidingLog::new(limit, window, anchor)?.into(),
            Algorithm::Bucketed { buckets, anchor } => {
                BucketedWindow::new(limit, window, buckets, anchor)?.into()
            }
            Algorithm::SlidingCounter => SlidingCounter::new(limit, window)?.into(),
            Algorithm::Fixed => FixedWindow::new(limit, window)?.into(),
            Algorithm::TokenBucket { burst } => TokenBucket::new(limit, window, burst)?.into(),
            Algorithm::Gcra { burst } => Gcra::new(limit, window, burst)?.into(),
            Algorithm::Paced => Pacing::new(limit, window)?.into(),
        })
    }

    /// Whether both have the same unit, window and algorithm, or both count requests in flight.
    ///
    /// Limits of one unit and window with different algorithms bound different things, such as `60/min, 60/min paced`,
    /// and hold together.
    fn is_duplicate_of(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Rate {
                    unit,
                    rate,
                    algorithm,
                },
                Self::Rate {
                    unit: other_unit,
                    rate: other_rate,
                    algorithm: other_algorithm,
                },
            ) => {
                let same =
                    core::mem::discriminant(algorithm) == core::mem::discriminant(other_algorithm);
                unit == other_unit && rate.window == other_rate.window && same
            }
            (Self::Concurrent(_), Self::Concurrent(_)) => true,
            (Self::Rate { .. }, Self::Concurrent(_)) | (Self::Concurrent(_), Self::Rate { .. }) => {
                false
            }
        }
    }
}

impl fmt::Display for LimitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate {
                unit,
                rate,
                algorithm,
            } => {
                match unit {
                    Unit::Requests => rate.fmt(f)?,
                    Unit::Tokens => {
                        write!(f, "{} {unit}/{}", rate.limit, DisplaySpan(rate.window))?;
                    }
                }
                algorithm.show(rate.limit, f)
            }
            Self::Concurrent(count) => write!(f, "{count} concurrent"),
        }
    }
}

/// One to [`MAX`](Self::MAX) limits that hold together, none of them a duplicate.
///
/// Two limits with the same unit, window and algorithm are duplicates, as are two counts of requests in flight.
///
/// ```
/// use leasehold_core::limit::LimitSpecs;
///
/// let specs: LimitSpecs = "3/min, 40000 tokens/min from grant, 2 concurrent".parse()?;
/// assert_eq!(specs.len(), 3);
/// assert_eq!(specs.to_string(), "3/1min, 40000 tokens/1min from grant, 2 concurrent");
/// let limits = specs.limits();
/// assert!(!limits.is_empty());
///
/// let error = "3/min, 5 apples/min".parse::<LimitSpecs>().unwrap_err();
/// assert_eq!(error.at, 9);
/// assert_eq!(
///     error.to_string(),
///     "at character 10, \"apples\": the unit must be requests, tokens or concurrent; \
///      a limit is written like 3/60s, 40000 tokens/min bucketed 6 or 2 concurrent",
/// );
/// # Ok::<(), leasehold_core::limit::ParseLimitError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSpecs {
    specs: Vec<LimitSpec>,
    /// The unused limiter of each spec.
    limiters: Vec<Limiter>,
}

impl LimitSpecs {
    /// The most limits that hold together.
    pub const MAX: usize = error::MAX_SPECS;

    /// Joins limits that were not read from text.
    ///
    /// # Errors
    /// [`LimitSpecsError`] if there are none or too many, or one is a duplicate or can't be built.
    pub fn new(specs: Vec<LimitSpec>) -> Result<Self, LimitSpecsError> {
        if specs.is_empty() {
            return Err(LimitSpecsError::Empty);
        }
        let mut all = Self::none();
        for spec in specs {
            all.push(spec)?;
        }
        Ok(all)
    }

    /// Returns the longest window of a rate; zero if there is none.
    #[must_use]
    pub fn longest_window(&self) -> Duration {
        let windows = self.specs.iter().map(|spec| match spec {
            LimitSpec::Rate { rate, .. } => rate.window,
            LimitSpec::Concurrent(_) => Duration::ZERO,
        });
        windows.max().unwrap_or_default()
    }

    /// Builds the limit set, with all limits shared by all classes.
    ///
    /// For limits of each class, see [`LimitSet::with_all_each_class`].
    #[must_use]
    pub fn limits(&self) -> LimitSet {
        LimitSet::new().with_all(self)
    }

    /// New limiters with the units they count.
    pub(super) fn limiters(&self) -> impl Iterator<Item = (Unit, Limiter)> {
        let units = self.specs.iter().map(LimitSpec::unit);
        units.zip(self.limiters.iter().cloned())
    }

    fn none() -> Self {
        Self {
            specs: Vec::new(),
            limiters: Vec::new(),
        }
    }

    fn push(&mut self, spec: LimitSpec) -> Result<(), LimitSpecsError> {
        let index = self.specs.len();
        if index == Self::MAX {
            return Err(LimitSpecsError::TooMany);
        }
        let limiter = spec.limiter();
        let limiter = limiter.map_err(|error| LimitSpecsError::Config { index, error })?;
        if self
            .specs
            .iter()
            .any(|earlier| spec.is_duplicate_of(earlier))
        {
            return Err(LimitSpecsError::Duplicate { index });
        }
        self.specs.push(spec);
        self.limiters.push(limiter);
        Ok(())
    }
}

impl Deref for LimitSpecs {
    type Target = [LimitSpec];

    fn deref(&self) -> &[LimitSpec] {
        &self.specs
    }
}

impl fmt::Display for LimitSpecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, spec) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{spec}")?;
        }
        Ok(())
    }
}

impl LimitSet {
    /// Adds limits read from text, shared by all classes.
    #[must_use]
    pub fn with_all(self, specs: &LimitSpecs) -> Self {
        let limiters = specs.limiters();
        limiters.fold(self, |set, (unit, limit)| set.push(unit, false, limit))
    }

    /// Adds limits read from text that are counted for each class.
    ///
    /// ```
    /// use leasehold_core::limit::{LimitSet, LimitSpecs};
    ///
    /// let key: LimitSpecs = "2 concurrent".parse()?;
    /// let model: LimitSpecs = "3/60s, 40000 tokens/min".parse()?;
    /// let limits = LimitSet::new().with_all(&key).with_all_each_class(&model);
    /// # Ok::<(), leasehold_core::limit::ParseLimitError>(())
    /// ```
    #[must_use]
    pub fn with_all_each_class(self, specs: &LimitSpecs) -> Self {
        let limiters = specs.limiters();
        limiters.fold(self, |set, (unit, limit)| set.push(unit, true, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Cost, Wait};
    use crate::time::Tick;
    use alloc::string::ToString;
    use alloc::vec;
    use core::time::Duration;

    fn count(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    fn rate(unit: Unit, limit: u32, window: Duration) -> LimitSpec {
        let limit = count(limit);
        LimitSpec::Rate {
            unit,
            rate: Rate { limit, window },
            algorithm: Algorithm::default(),
        }
    }

    #[test]
    fn each_form_of_a_count_and_a_window_is_read() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        for (text, spec) in [
            ("3/60s", rate(Unit::Requests, 3, minute)),
            ("500/min", rate(Unit::Requests, 500, minute)),
            ("500/m", rate(Unit::Requests, 500, minute)),
            ("3 requests/60s", rate(Unit::Requests, 3, minute)),
            ("1 request/s", rate(Unit::Requests, 1, second)),
            ("1 token/s", rate(Unit::Tokens, 1, second)),
            ("40000 tokens/min", rate(Unit::Tokens, 40_000, minute)),
            ("40_000tokens/1_000ms", rate(Unit::Tokens, 40_000, second)),
            ("\t4 ToKeNs\n/ 60 S\r\n", rate(Unit::Tokens, 4, minute)),
            ("1/MIN", rate(Unit::Requests, 1, minute)),
            ("4294967295/s", rate(Unit::Requests, u32::MAX, second)),
            (
                "1/18446744073709551615ns",
                rate(Unit::Requests, 1, Duration::from_nanos(u64::MAX)),
            ),
            ("2 concurrent", LimitSpec::Concurrent(count(2))),
            ("1  CONCURRENT ", LimitSpec::Concurrent(NonZeroU32::MIN)),
        ] {
            assert_eq!(text.parse(), Ok(spec), "{text:?}");
            let specs = text.parse::<LimitSpecs>();
            assert_eq!(specs.as_deref(), Ok(&[spec][..]), "{text:?}");
        }
    }

    #[test]
    fn a_text_selects_algorithm_and_anchor() {
        use Anchor::{Completion, Grant};
        let six = count(6);
        for (words, algorithm, shown) in [
            ("", Algorithm::Exact { anchor: Completion }, ""),
            (
                "exact from completion",
                Algorithm::Exact { anchor: Completion },
                "",
            ),
            (
                "from grant",
                Algorithm::Exact { anchor: Grant },
                " from grant",
            ),
            (
                "bucketed 6",
                Algorithm::Bucketed {
                    buckets: six,
                    anchor: Completion,
                },
                " bucketed 6",
            ),
            (
                "FROM Grant\t bucketed 0_6",
                Algorithm::Bucketed {
                    buckets: six,
                    anchor: Grant,
                },
                " bucketed 6 from grant",
            ),
            (
                "sliding  counter",
                Algorithm::SlidingCounter,
                " sliding counter",
            ),
            ("fixed", Algorithm::Fixed, " fixed"),
            (
                "token bucket burst 6",
                Algorithm::TokenBucket { burst: six },
                " token bucket burst 6",
            ),
            (
                "token bucket",
                Algorithm::TokenBucket { burst: count(9) },
                " token bucket",
            ),
            (
                "gcra burst 6",
                Algorithm::Gcra { burst: six },
                " gcra burst 6",
            ),
            ("gcra burst 9", Algorithm::Gcra { burst: count(9) }, " gcra"),
            ("paced", Algorithm::Paced, " paced"),
        ] {
            let text = alloc::format!("9/60s {words}");
            let read = text.parse::<LimitSpec>().unwrap();
            let LimitSpec::Rate {
                algorithm: read_algorithm,
                ..
            } = read
            else {
                panic!("{text:?}");
            };
            assert_eq!(read_algorithm, algorithm, "{text:?}");
            assert_eq!(read.to_string(), alloc::format!("9/1min{shown}"));
        }
    }

    #[test]
    fn several_are_read_in_their_order_and_shown_in_one_form() {
        let specs: LimitSpecs = " 3 requests / min,40_000 TOKENS/60s , 2 concurrent"
            .parse()
            .unwrap();
        let shown = "3/1min, 40000 tokens/1min, 2 concurrent";
        assert_eq!(specs.to_string(), shown);
        assert_eq!(shown.parse(), Ok(specs));
    }

    #[test]
    fn the_limits_of_a_text_all_hold() {
        let specs: LimitSpecs = "3/10s from grant, 100 tokens/10s fixed, 2 concurrent"
            .parse()
            .unwrap();
        let mut limits = specs.limits();
        let cost = |tokens| Cost {
            requests: 1,
            tokens,
        };
        let (start, later) = (Tick::ZERO, Tick::from_nanos(10_000_000_000));
        let first = limits.try_acquire(start, 0, cost(60)).unwrap();
        let tokens = limits.try_acquire(start, 0, cost(60));
        assert_eq!(tokens, Err(Wait::Until(later)));
        limits.try_acquire(start, 1, cost(40)).unwrap();
        let concurrent = limits.try_acquire(start, 0, cost(0));
        assert_eq!(concurrent, Err(Wait::ForSettlement));
        limits.settle(start, first, cost(60), cost(60));
        limits.try_acquire(start, 0, cost(0)).unwrap();
        assert_eq!(limits.available(start, 0).requests, 0);
    }

    #[test]
    fn limits_of_each_class_are_counted_apart() {
        let specs: LimitSpecs = "1/10s".parse().unwrap();
        let mut limits = LimitSet::new().with_all_each_class(&specs);
        assert!(limits.try_acquire(Tick::ZERO, 0, Cost::REQUEST).is_ok());
        assert!(limits.try_acquire(Tick::ZERO, 0, Cost::REQUEST).is_err());
        assert!(limits.try_acquire(Tick::ZERO, 1, Cost::REQUEST).is_ok());
    }

    #[test]
    fn only_limits_of_one_unit_window_and_algorithm_are_duplicates() {
        for text in [
            "60/min, 60/min paced",
            "9/min, 9/min token bucket, 9/min gcra",
            "9/min, 9 tokens/min, 9/s",
        ] {
            assert!(text.parse::<LimitSpecs>().is_ok(), "{text}");
        }
        for text in [
            "3/min, 3/60s from grant",
            "9/min bucketed 6, 8/min bucketed 5",
            "9/min gcra burst 1, 9/min gcra",
        ] {
            let error = text.parse::<LimitSpecs>().unwrap_err();
            assert_eq!(error.kind, ParseLimitErrorKind::Duplicate, "{text}");
        }
    }

    #[test]
    fn specs_that_no_text_can_say_are_refused() {
        let spec = |window| rate(Unit::Tokens, 1, window);
        let (one, none) = (Duration::from_secs(1), Duration::ZERO);
        let config = |error| Err(LimitSpecsError::Config { index: 0, error });
        assert_eq!(LimitSpecs::new(vec![]), Err(LimitSpecsError::Empty));
        let each = (1..=17).map(Duration::from_secs).map(spec).collect();
        assert_eq!(LimitSpecs::new(each), Err(LimitSpecsError::TooMany));
        assert_eq!(
            LimitSpecs::new(vec![spec(none)]),
            config(LimitConfigError::EmptyWindow)
        );
        assert_eq!(
            LimitSpecs::new(vec![spec(Duration::MAX)]),
            config(LimitConfigError::WindowTooLong)
        );
        assert_eq!(
            LimitSpecs::new(vec![spec(one); 2]),
            Err(LimitSpecsError::Duplicate { index: 1 })
        );
        assert!(LimitSpecs::new(vec![spec(one), rate(Unit::Requests, 1, one)]).is_ok());
    }
}

//! A latency as people write it: `50ms`, or `20ms..80ms` to have it drawn from a range.

use core::ops::RangeInclusive;
use core::time::Duration;
use leasehold_core::time::parse_span;

/// Reads a span, or a range of two.
pub(crate) fn parse_latency(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let (shortest, longest) = text.split_once("..").unwrap_or((text, text));
    let span = |text: &str| parse_span(text).map_err(|error| format!("{text:?}: {error}"));
    let (shortest, longest) = (span(shortest)?, span(longest)?);
    if shortest > longest {
        return Err(format!("{text:?} ends before it begins"));
    }
    Ok(shortest..=longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_a_span_or_a_range() {
        let ms = Duration::from_millis;
        assert_eq!(parse_latency("50ms"), Ok(ms(50)..=ms(50)));
        assert_eq!(parse_latency("20ms..1s"), Ok(ms(20)..=ms(1_000)));
        for wrong in ["", "50", "..", "80ms..20ms", "1ms..2ms..3ms"] {
            assert!(parse_latency(wrong).is_err(), "{wrong}");
        }
    }
}

//! Whole numbers as people write them: digits, with single underscores between them.

/// Why a text is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberError {
    /// There are no digits, something other than digits, or a misplaced underscore.
    Malformed,
    /// The number is above [`u64::MAX`].
    TooLarge,
}

/// The length in bytes of the digits and underscores at the start of a text.
pub(crate) fn number_length(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len())
}

/// Reads a whole number such as `3` or `40_000`.
pub(crate) fn parse_number(text: &str) -> Result<u64, NumberError> {
    if text.split('_').any(str::is_empty) {
        return Err(NumberError::Malformed);
    }
    let mut sum = 0_u64;
    for digit in text.chars().filter(|c| *c != '_') {
        let digit = digit.to_digit(10).ok_or(NumberError::Malformed)?;
        sum = sum
            .checked_mul(10)
            .and_then(|sum| sum.checked_add(digit.into()))
            .ok_or(NumberError::TooLarge)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_underscores_may_stand_between_digits() {
        assert_eq!(parse_number("40_000"), Ok(40_000));
        assert_eq!(parse_number("18446744073709551615"), Ok(u64::MAX));
        for text in ["", "_", "_3", "3_", "4__0", "3x", "-3", "１"] {
            assert_eq!(parse_number(text), Err(NumberError::Malformed), "{text:?}");
        }
        let too_large = parse_number("18446744073709551616");
        assert_eq!(too_large, Err(NumberError::TooLarge));
    }
}

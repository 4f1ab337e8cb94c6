//! Fixed-point binary logarithms and powers, equal on every machine.
//!
//! Invariant: both functions are monotone.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "shifts and sums whose widths are counted beside them"
)]

/// Fraction bits of [`fine_log2`].
pub(super) const FINE: u32 = 48;
/// Fraction bits of [`log2`].
pub(super) const COARSE: u32 = 18;
const STEPS: usize = 256;
const MANTISSA: u32 = 55;

/// Returns log2 of `x.max(1)` with [`COARSE`] fraction bits, too low by at most 7 * 2^-20.
pub(super) fn log2(x: u64) -> u64 {
    fine_log2(x) >> (FINE - COARSE)
}

/// Returns log2 of `x.max(1)` with [`FINE`] fraction bits, too low by at most 3 * 2^-20.
///
/// Interpolates linearly between 257 values. Its distance from 64 is off by at most 1 part in 500.
pub(super) fn fine_log2(x: u64) -> u64 {
    let x = x.max(1);
    let zeros = x.leading_zeros();
    let mantissa = (x << zeros) & (u64::MAX >> 1);
    let step = (mantissa >> MANTISSA) as usize;
    let rest = mantissa & ((1 << MANTISSA) - 1);
    let (from, to) = (LOGS[step], LOGS[step + 1]);
    // A product of 41 and 55 bits.
    let between = (u128::from(to - from) * u128::from(rest)) >> MANTISSA;
    (u64::from(63 - zeros) << FINE) + from + between as u64
}

/// Binary logarithms of 1 + n/256, a bit at a time by repeated squaring.
const LOGS: [u64; STEPS + 1] = {
    let mut logs = [0; STEPS + 1];
    let mut step = 0;
    while step < STEPS {
        let mut mantissa = (1u64 << 63) + ((step as u64) << MANTISSA);
        let mut bit = 0;
        while bit < FINE {
            let square = (mantissa as u128) * (mantissa as u128);
            let carry = (square >> 127) as u64;
            mantissa = (square >> (63 + carry)) as u64;
            logs[step] = logs[step] << 1 | carry;
            bit += 1;
        }
        step += 1;
    }
    logs[STEPS] = 1 << FINE;
    logs
};

/// Returns `value * 2^(-elapsed / half_life)`, off by at most 1 part in 2^18 and 19.
pub(super) fn decay(value: u64, elapsed: u64, half_life: u64) -> u64 {
    let whole = elapsed / half_life.max(1);
    if whole >= u64::from(u64::BITS) {
        return 0;
    }
    let rest = u128::from(elapsed % half_life.max(1)) << COARSE;
    let rest = rest / u128::from(half_life.max(1));
    let mut value = value >> whole;
    for (bit, root) in (0..COARSE).rev().zip(ROOTS) {
        if rest >> bit & 1 == 1 {
            value = ((u128::from(value) * u128::from(root)) >> 64) as u64;
        }
    }
    value
}

/// Powers 2^(-1/2), 2^(-1/4), ... in units of 2^-64.
const ROOTS: [u64; COARSE as usize] = {
    let mut roots = [0; COARSE as usize];
    let mut root = 1u128 << 63;
    let mut at = 0;
    while at < roots.len() {
        root = (root << 64).isqrt();
        roots[at] = root as u64;
        at += 1;
    }
    roots
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_monotone_and_within_the_stated_error() {
        let mut last = 0;
        for exponent in 0..64u32 {
            for step in 0..2_000u64 {
                let x = (1u64 << exponent) + ((u128::from(step) << exponent) / 2_000) as u64;
                let log = fine_log2(x);
                assert!(log >= last, "{x}");
                last = log;
                let error = (x as f64).log2() - log as f64 / (1u64 << FINE) as f64;
                assert!((-1e-9..3.0 / 1_048_576.0).contains(&error), "{x}: {error}");
                let error = (x as f64).log2() - log2(x) as f64 / f64::from(1u32 << COARSE);
                assert!((-1e-9..7.0 / 1_048_576.0).contains(&error), "{x}: {error}");
            }
        }
        for small in [1u64, 1 << 20, 1 << 40, 1 << 55, 1 << 60, 1 << 62] {
            let from_64 = ((64u64 << FINE) - fine_log2(u64::MAX - small)) as f64;
            let exact = -(1.0 - (small + 1) as f64 / 2f64.powi(64)).log2() * 2f64.powi(48);
            assert!((from_64 - exact).abs() <= exact / 500.0 + 2.0, "{small}");
        }
        assert_eq!(log2(0), 0);
    }

    #[test]
    fn a_value_halves_in_each_half_life() {
        assert_eq!(decay(1 << 40, 0, 7), 1 << 40);
        assert_eq!(decay(1 << 40, 7, 7), 1 << 39);
        assert_eq!(decay(u64::MAX, 64 * 7, 7), 0);
        let mut last = u64::MAX;
        for elapsed in 0..20_000u64 {
            let value = decay(u64::MAX, elapsed, 1_000);
            assert!(value <= last);
            last = value;
            let exact = 2f64.powi(64) * (-(elapsed as f64) / 1_000.0).exp2();
            let error = (value as f64 - exact).abs();
            assert!(error <= exact / f64::from(1 << 18) + 19.0, "{elapsed}");
        }
    }
}

//! Limits as text: shown values are read back as the same, and a mistake has a place.

use leasehold_core::limit::{LimitSpec, LimitSpecs, ParseLimitError};

/// The most bytes of an error's message: an escaped part of 24 characters and the words around it.
const LONGEST_MESSAGE: usize = 600;

/// Reads a text and checks the answer.
///
/// # Panics
/// If the answer breaks a promise of the grammar.
pub fn run(text: &str) {
    let read = text.parse::<LimitSpecs>();
    match &read {
        Ok(specs) => {
            assert!((1..=LimitSpecs::MAX).contains(&specs.len()));
            assert_eq!(LimitSpecs::new(specs.to_vec()).as_ref(), Ok(specs));
            assert_eq!(specs.to_string().parse().as_ref(), Ok(specs));
            for spec in specs.iter() {
                assert_eq!(spec.to_string().parse(), Ok(*spec));
                assert!(spec.limiter().is_ok(), "{spec} can't be built");
            }
            let parts: Result<Vec<LimitSpec>, _> = text.split(',').map(str::parse).collect();
            assert_eq!(parts.as_deref(), Ok(&specs[..]));
            assert!(!specs.limits().is_empty());
        }
        Err(error) => {
            let before = text.get(..error.at).expect("a place in the text");
            assert_eq!(error.character, before.chars().count() + 1);
            assert!(error.to_string().len() <= LONGEST_MESSAGE);
            // The limits before the mistake are right.
            if let Some((right, _)) = before.rsplit_once(',') {
                assert!(right.parse::<LimitSpecs>().is_ok(), "{right:?}");
            }
        }
    }
    let shouted = text.to_ascii_uppercase().parse::<LimitSpecs>();
    let place =
        |read: Result<LimitSpecs, ParseLimitError>| read.map_err(|error| (error.at, error.kind));
    assert_eq!(place(shouted), place(read));
}

//! Texts of limits: whatever is read is shown so that it is read again, and whatever is refused is
//! refused at a place in the text.

use leasehold_core::limit::{ParseSpecError, Spec, Specs};

/// The most bytes of an error's message: a part of 24 characters, escaped, and what is said around it.
const LONGEST_MESSAGE: usize = 600;

/// Reads a text and holds the answer to its promises.
///
/// # Panics
/// Where one of them is broken.
pub fn run(text: &str) {
    let read = text.parse::<Specs>();
    match &read {
        Ok(specs) => {
            assert!((1..=Specs::MAX).contains(&specs.len()));
            assert_eq!(Specs::new(specs.to_vec()).as_ref(), Ok(specs));
            assert_eq!(specs.to_string().parse().as_ref(), Ok(specs));
            for spec in specs.iter() {
                assert_eq!(spec.to_string().parse(), Ok(*spec));
            }
            let parts: Result<Vec<Spec>, _> = text.split(',').map(str::parse).collect();
            assert_eq!(parts.as_deref(), Ok(&specs[..]));
        }
        Err(error) => {
            let before = text.get(..error.at).expect("a place in the text");
            assert_eq!(error.character, before.chars().count() + 1);
            assert!(error.to_string().len() <= LONGEST_MESSAGE);
            // What is before the limit with the mistake is right.
            if let Some((right, _)) = before.rsplit_once(',') {
                assert!(right.parse::<Specs>().is_ok(), "{right:?}");
            }
        }
    }
    let shouted = text.to_ascii_uppercase().parse::<Specs>();
    let place = |read: Result<Specs, ParseSpecError>| read.map_err(|error| (error.at, error.kind));
    assert_eq!(place(shouted), place(read));
}

//! What the grammar of limits promises.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{Rate, Spec, Specs, Unit};
use leasehold_tests::grammar::run;
use proptest::prelude::*;
use proptest::sample::Index;

fn spec() -> impl Strategy<Value = Spec> {
    let count = || prop_oneof![1_u32..5, 1..=u32::MAX].prop_filter_map("zero", NonZeroU32::new);
    let unit = prop_oneof![Just(Unit::Requests), Just(Unit::Tokens)];
    let window = prop_oneof![
        (1_u64..100).prop_map(Duration::from_millis),
        (1_u64..100).prop_map(Duration::from_secs),
        (1_u64..=u64::MAX).prop_map(Duration::from_nanos),
    ];
    prop_oneof![
        5 => (unit, count(), window).prop_map(|(unit, limit, window)| {
            let rate = Rate { limit, window };
            Spec::Rate { unit, rate }
        }),
        1 => count().prop_map(Spec::Concurrent),
    ]
}

/// As many of up to 16 limits as don't contradict those before them.
fn specs() -> impl Strategy<Value = Specs> {
    prop::collection::vec(spec(), 1..=Specs::MAX).prop_map(|drawn| {
        let mut kept = Vec::new();
        for spec in drawn {
            kept.push(spec);
            if Specs::new(kept.clone()).is_err() {
                kept.pop();
            }
        }
        Specs::new(kept).expect("the first limit alone contradicts none")
    })
}

/// What is put into a text: what the grammar knows, and what comes close to it.
fn insertion() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "",
        " ",
        "\t",
        "\u{a0}",
        ",",
        ", ",
        "/",
        "_",
        "0",
        "7",
        "99999999999",
        "-",
        ".",
        "s",
        "min",
        "MS",
        "µs",
        "d",
        "token",
        "requests",
        "concurrent",
        "äpfel",
        "５",
        "🦀",
    ]);
    prop_oneof![4 => known.prop_map(String::from), 1 => any::<char>().prop_map(String::from)]
}

/// The text with some characters at a place taken out and others put in.
fn edit(text: &str, place: Index, taken: usize, put: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let from = place.index(characters.len() + 1);
    let to = characters.len().min(from + taken);
    let (before, after) = (&characters[..from], &characters[to..]);
    before
        .iter()
        .copied()
        .chain(put.chars())
        .chain(after.iter().copied())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_shown_is_read_as_the_same(specs in specs()) {
        let shown = specs.to_string();
        prop_assert_eq!(shown.parse::<Specs>(), Ok(specs.clone()));
        for spec in specs.iter() {
            prop_assert_eq!(spec.to_string().parse::<Spec>(), Ok(*spec));
        }
        run(&shown);
    }

    #[test]
    fn spaces_and_case_mean_nothing(
        specs in specs(), space in "[ \t\r\n]{0,3}", shouted: bool,
    ) {
        let mut text = specs.to_string();
        if shouted {
            text = text.to_ascii_uppercase();
        }
        let text = ["/", ",", " "].into_iter().fold(text, |text, separator| {
            text.replace(separator, &format!("{space}{separator}{space}"))
        });
        prop_assert_eq!(format!("{space}{text}{space}").parse(), Ok(specs));
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_in_it(text: String) {
        run(&text);
    }

    #[test]
    fn a_text_of_the_grammars_own_characters_is_read_or_refused_at_a_place_in_it(
        text in "([0-9_]{0,3}[ ]?(tokens?|requests?|concurrent|µ|)[ ]?(/[0-9]{0,2}(s|min|ms|x|))?,?){0,4}",
    ) {
        run(&text);
    }

    #[test]
    fn a_text_with_mistakes_is_read_or_refused_at_a_place_in_it(
        specs in specs(),
        edits in prop::collection::vec((any::<Index>(), 0_usize..4, insertion()), 1..4),
    ) {
        let text = edits.into_iter().fold(specs.to_string(), |text, (place, taken, put)| {
            edit(&text, place, taken, &put)
        });
        run(&text);
    }
}

//! Properties of limits as text.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{Algorithm, Anchor, LimitSpec, LimitSpecs, Rate, Unit};
use leasehold_tests::grammar::run;
use proptest::prelude::*;
use proptest::sample::Index;

fn count() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1_u32..5, 1..=u32::MAX].prop_filter_map("zero", NonZeroU32::new)
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    let anchor = || prop_oneof![Just(Anchor::Completion), Just(Anchor::Grant)];
    let buckets = (1_u32..100).prop_filter_map("zero", NonZeroU32::new);
    prop_oneof![
        3 => Just(Algorithm::default()),
        2 => anchor().prop_map(|anchor| Algorithm::Exact { anchor }),
        1 => (buckets, anchor()).prop_map(|(buckets, anchor)| Algorithm::Bucketed { buckets, anchor }),
        1 => Just(Algorithm::SlidingCounter),
        1 => Just(Algorithm::Fixed),
        1 => count().prop_map(|burst| Algorithm::TokenBucket { burst }),
        1 => count().prop_map(|burst| Algorithm::Gcra { burst }),
        1 => Just(Algorithm::Paced),
    ]
}

/// A limit, which its algorithm may not be able to count.
fn spec() -> impl Strategy<Value = LimitSpec> {
    let unit = prop_oneof![Just(Unit::Requests), Just(Unit::Tokens)];
    let window = prop_oneof![
        (1_u64..100).prop_map(Duration::from_millis),
        (1_u64..100).prop_map(Duration::from_secs),
        (1_u64..=u64::MAX).prop_map(Duration::from_nanos),
    ];
    prop_oneof![
        5 => (unit, count(), window, algorithm()).prop_map(|(unit, limit, window, algorithm)| {
            let rate = Rate { limit, window };
            LimitSpec::Rate { unit, rate, algorithm }
        }),
        1 => count().prop_map(LimitSpec::Concurrent),
    ]
}

/// Up to 16 limits, without those that can't be built or are duplicates.
fn specs() -> impl Strategy<Value = LimitSpecs> {
    prop::collection::vec(spec(), 1..=LimitSpecs::MAX).prop_map(|drawn| {
        let mut kept = Vec::new();
        for spec in drawn {
            kept.push(spec);
            if LimitSpecs::new(kept.clone()).is_err() {
                kept.pop();
            }
        }
        if kept.is_empty() {
            kept.push(LimitSpec::Concurrent(NonZeroU32::MIN));
        }
        LimitSpecs::new(kept).expect("each limit was accepted")
    })
}

/// A fragment to insert into a text: a word of the grammar, or something close to one.
pub(crate) fn insertion() -> impl Strategy<Value = String> {
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
        " bucketed",
        " exact",
        " gcra",
        " token bucket",
        " burst 2",
        " from",
        " grant",
        "äpfel",
        "５",
        "🦀",
    ]);
    prop_oneof![4 => known.prop_map(String::from), 1 => any::<char>().prop_map(String::from)]
}

/// Replaces `taken` characters at a place of a text.
pub(crate) fn edit(text: &str, place: Index, taken: usize, put: &str) -> String {
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
    fn a_shown_limit_is_read_back_as_the_same(specs in specs()) {
        let shown = specs.to_string();
        prop_assert_eq!(shown.parse::<LimitSpecs>(), Ok(specs.clone()));
        for spec in specs.iter() {
            prop_assert_eq!(spec.to_string().parse::<LimitSpec>(), Ok(*spec));
        }
        run(&shown);
    }

    #[test]
    fn whitespace_and_case_do_not_change_a_limit(
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
    fn any_text_is_read_or_refused_at_a_place(text: String) {
        run(&text);
    }

    #[test]
    fn a_text_of_the_grammars_words_is_read_or_refused_at_a_place(
        text in "([0-9_]{0,3}[ ]?(tokens?|requests?|concurrent|µ|)[ ]?(/[0-9]{0,2}(s|min|ms|x|)( (bucketed 6?|fixed|gcra|token bucket|burst 2|paced|from|grant|x)){0,3})?,?){0,4}",
    ) {
        run(&text);
    }

    #[test]
    fn a_text_with_mistakes_is_read_or_refused_at_a_place(
        specs in specs(),
        edits in prop::collection::vec((any::<Index>(), 0_usize..4, insertion()), 1..4),
    ) {
        let text = edits.into_iter().fold(specs.to_string(), |text, (place, taken, put)| {
            edit(&text, place, taken, &put)
        });
        run(&text);
    }
}

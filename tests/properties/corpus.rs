//! Replays what the fuzzer has found worth keeping, so that it is checked without a fuzzer.

use leasehold_tests::{decode, limits, pool};
use std::fs;
use std::path::Path;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&folder).expect("the corpus is part of the checkout");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("the corpus can be listed").path();
        run(&fs::read(&path).expect("the corpus can be read"));
        count += 1;
    }
    assert!(count > 0, "nothing in {}", folder.display());
}

#[test]
fn limits_corpus() {
    replay("limits", |bytes| {
        if let Some(case) = decode(bytes) {
            limits::run(&case);
        }
    });
}

#[test]
fn pool_corpus() {
    replay("pool", |bytes| {
        if let Some(case) = decode(bytes) {
            pool::run(&case);
        }
    });
}

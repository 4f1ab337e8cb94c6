//! Replays the committed fuzz corpora, so that stable tests check them without a fuzzer.

use leasehold_tests::{
    admin, balance, charges, comfyui, config, decode, direct, failure, forwarded, gateway_state,
    grammar, journal, limit_set, limits, pool, pool_snapshot, protocol, snapshot,
};
use std::fs;
use std::path::Path;

/// Runs every file of a corpus, each of which has to decode to a case.
fn replay(target: &str, run: impl Fn(&[u8]) -> Option<()>) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let entries = fs::read_dir(corpus.join(target)).expect("the corpus is in the checkout");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("the corpus can be listed").path();
        let bytes = fs::read(&path).expect("the corpus can be read");
        assert!(
            run(&bytes).is_some(),
            "{} does not decode to a case",
            path.display()
        );
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

#[test]
fn admin_corpus() {
    replay("admin", |bytes| decode(bytes).map(|case| admin::run(&case)));
}

#[test]
fn direct_corpus() {
    replay("direct", |bytes| {
        decode(bytes).map(|case| direct::run(&case))
    });
}

#[test]
fn forwarded_corpus() {
    replay("forwarded", |bytes| {
        decode(bytes).map(|case| forwarded::run(&case))
    });
}

#[test]
fn gateway_state_corpus() {
    replay("gateway_state", |bytes| {
        decode(bytes).map(|case| gateway_state::run(&case))
    });
}

#[test]
fn balance_corpus() {
    replay("balance", |bytes| {
        decode(bytes).map(|case| balance::run(&case))
    });
}

#[test]
fn charges_corpus() {
    replay("charges", |bytes| {
        decode(bytes).map(|case| charges::run(&case))
    });
}

#[test]
fn comfyui_job_corpus() {
    replay("comfyui_job", |bytes| {
        decode(bytes).map(|case| comfyui::job::run(&case))
    });
}

#[test]
fn comfyui_read_corpus() {
    replay("comfyui_read", |bytes| {
        decode(bytes).map(comfyui::read::run)
    });
}

#[test]
fn config_corpus() {
    replay("config", |bytes| decode(bytes).map(config::run));
}

#[test]
fn limits_corpus() {
    replay("limits", |bytes| {
        decode(bytes).map(|case| limits::run(&case))
    });
}

#[test]
fn limit_set_corpus() {
    replay("limit_set", |bytes| {
        decode(bytes).map(|case| limit_set::run(&case))
    });
}

#[test]
fn pool_corpus() {
    replay("pool", |bytes| decode(bytes).map(|case| pool::run(&case)));
}

#[test]
fn pool_snapshot_corpus() {
    replay("pool_snapshot", |bytes| {
        decode(bytes).map(|case| pool_snapshot::run(&case))
    });
}

#[test]
fn snapshot_corpus() {
    replay("snapshot", |bytes| {
        decode(bytes).map(|case| snapshot::run(&case))
    });
}

#[test]
fn grammar_corpus() {
    replay("grammar", |bytes| decode(bytes).map(grammar::run));
}

#[test]
fn health_corpus() {
    replay("health", |bytes| {
        decode(bytes).map(|case| failure::run(&case))
    });
}

#[test]
fn sse_corpus() {
    replay("sse", |bytes| {
        decode(bytes).map(|case| protocol::sse::run(&case))
    });
}

#[test]
fn verdict_corpus() {
    replay("verdict", |bytes| {
        decode(bytes).map(|case| protocol::verdict::run(&case))
    });
}

#[test]
fn rate_headers_corpus() {
    replay("rate_headers", |bytes| {
        decode(bytes).map(|case| protocol::rate_headers::run(&case))
    });
}

#[test]
fn journal_corpus() {
    replay("journal", |bytes| {
        decode(bytes).map(|case| journal::run(&case))
    });
}

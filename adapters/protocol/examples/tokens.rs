//! Counts the tokens of a text as OpenAI's models do, and says how long that takes.

use leasehold_protocol::{Encoding, count_tokens, estimate_most};
use serde_json::json;
use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "an example has no clock file")]
fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{what}: {:?}", start.elapsed());
    result
}

fn main() {
    for (name, encoding) in [
        ("cl100k_base", Encoding::Cl100k),
        ("o200k_base", Encoding::O200k),
    ] {
        timed(&format!("first use of {name}"), || encoding.count("hello"));
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(1_000);
        let count = timed("45,000 bytes", || encoding.count(&text));
        println!("{count} tokens");
    }
    println!(
        "a model without a vocabulary: {}",
        count_tokens("claude", "hello world")
    );
    let body = json!({
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "max_completion_tokens": 500,
    });
    println!("at most {} tokens", estimate_most("gpt-4o", &body, 4_096));
}

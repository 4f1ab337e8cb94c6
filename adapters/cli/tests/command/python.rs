//! The test server under OpenAI's own Python package.

use super::*;
use std::env;

#[test]
#[ignore = "needs Python with the package `openai`; set PYTHON to choose one"]
fn the_openai_package_understands_whole_and_streamed_answers() {
    let testbed = Testbed::start(&["--keys", "1"]);
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/python/openai_package.py"
    );
    let python = env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python).args([script, &testbed.url]).output();
    let output = output.expect("there is a Python");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(testbed.stop()["ok"], 5);
}

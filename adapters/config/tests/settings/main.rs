//! Files as people write them: what they mean, and what is said of their mistakes.

mod comfyui;
mod example;
mod files;
mod members;
mod mistakes;
mod secrets;

use leasehold_config::{ConfigError, Given, Settings};
use std::path::Path;

const TOKEN: &str = "0f9a8b7c6d5e4f3a0f9a8b7c6d5e4f3a\n";

fn inputs() -> Given {
    Given::new()
        .with_file("/etc/admin.token", TOKEN)
        .with_file("/etc/leases.token", TOKEN)
        .with_file("/etc/alert.url", "https://hooks.test/services/T0\n")
        .with_file(
            "/etc/otlp.headers",
            "authorization: Bearer 0f9a8b7c6d5e4f3a\n",
        )
        .with_file(
            "/etc/keys.txt",
            "sk-aaaaaaaa1111\nsk-bbbbbbbb2222 limit=3/60s group=account-b\n",
        )
        .with_variable("OTHER_KEYS", "sk-cccccccc3333,sk-dddddddd4444")
}

fn read(text: &str) -> Result<Settings, ConfigError> {
    Settings::parse(text, Path::new("/etc"), &inputs())
}

/// A file that is right, to which mistakes are added.
const SMALL: &str = r#"
[pools.web]
kind = "http"
members = [{ url = "http://h:1" }]

[[listen]]
address = "127.0.0.1:8080"
serve = "http"
pool = "web"
"#;

/// Reads a file that is refused, and returns what is said of it.
fn refused(text: &str, inputs: &Given) -> String {
    let read = Settings::parse(text, Path::new("/etc"), inputs);
    read.expect_err("a mistake").to_string()
}

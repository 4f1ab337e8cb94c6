//! Tokens and keys that are weak, given twice or given in the wrong place.

use crate::{SMALL, TOKEN, refused};
use leasehold_config::{ConfigError, Given, Settings};
use std::path::Path;

#[test]
fn a_token_that_is_weak_or_given_in_place_of_its_file_is_refused() {
    let admin = format!("[admin]\ntoken_file = \"t\"\n{SMALL}");
    for (token, expected) in [
        (
            "changeme",
            "2:14: admin.token_file: /etc/t: the token is a well-known default",
        ),
        (
            "0f9a8b7c",
            "2:14: admin.token_file: /etc/t: the token is shorter than 16 bytes",
        ),
    ] {
        let error = refused(&admin, &file(token));
        assert!(
            error.contains(expected) && !error.contains("0f9a"),
            "{error}"
        );
    }
    let given = admin.replace("\"t\"", "\"0f9a8b7c6d5e4f3a\"");
    let error = refused(&given, &file(TOKEN));
    assert!(
        error.contains("cannot read <hidden: looks like a secret>: there is no such file"),
        "{error}"
    );
}

#[test]
fn leases_need_a_token_where_others_reach_them() {
    let leases = SMALL.replace("serve = \"http\"\npool = \"web\"", "serve = \"leases\"");
    assert!(read(&leases, TOKEN).is_ok());
    let open = leases.replace("127.0.0.1:8080", "0.0.0.0:8080");
    let error = refused(&open, &file(TOKEN));
    assert!(
        error.contains("7:11: listen.address: leases on an address that others reach need a token"),
        "{error}"
    );
    assert!(read(&format!("{open}token_file = \"t\""), TOKEN).is_ok());
}

#[test]
fn a_key_is_there_once_for_a_url() {
    let keys = SMALL.replace("\"http\"", "\"openai\"").replace(
        "[{ url = \"http://h:1\" }]",
        "[{ url = \"http://h:1\", keys = \"k\" }, { url = \"http://h:1/\", keys = \"k\" }]",
    );
    let error = refused(&keys, &file(TOKEN));
    assert!(
        error.contains("the key …1111 is the same as at leasehold.toml:4:12; give it once"),
        "{error}"
    );
}

#[test]
fn the_headers_of_an_export_are_read_from_their_file_and_not_shown() {
    let with = |headers: &str| {
        let given = Given::new().with_file("/etc/h", headers);
        let text = format!("[otlp]\nendpoint = \"http://c:4318\"\nheaders_file = \"h\"\n{SMALL}");
        Settings::parse(&text, Path::new("/etc"), &given)
    };
    let settings = with("# of the team\nX-Key: a5ecre7 b\n\nother:c5ecre7").expect("settings");
    let otlp = settings.otlp.as_ref().expect("an export");
    let fields = &otlp.headers.as_ref().expect("headers").fields;
    let fields = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()));
    assert!(fields.eq([("x-key", "a5ecre7 b"), ("other", "c5ecre7")]));
    let shown = format!("{}{settings:?}", settings.to_toml());
    assert!(shown.contains("headers_file = \"/etc/h\"") && !shown.contains("5ecre7"));
    for wrong in ["a: b\n5ecre7", "a: b\nc d: 5ecre7", "a: b\nc: 5ecre7\u{1}"] {
        let error = with(wrong).expect_err(wrong).to_string();
        let told = "3:16: otlp.headers_file: /etc/h: line 2 is no header field; write NAME: VALUE";
        assert!(error.contains(told) && !error.contains("5ecre7"), "{error}");
    }
}

#[test]
fn the_url_of_a_webhook_is_read_from_its_file_and_not_shown() {
    let with = |url: &str| {
        let given = Given::new().with_file("/etc/h", url);
        let text = format!("{SMALL}[[alert]]\nwhen = \"member down\"\nwebhook_file = \"h\"\n");
        Settings::parse(&text, Path::new("/etc"), &given)
    };
    let settings = with("\nhttps://hooks.test/a5ecre7?b=5ecre7\n").expect("settings");
    let webhook = settings.alerts[0].webhook.as_ref().expect("a webhook");
    assert_eq!(webhook.url(), "https://hooks.test/a5ecre7?b=5ecre7");
    let shown = format!("{}{settings:?} {webhook}", settings.to_toml());
    assert!(shown.contains("webhook_file = \"/etc/h\"") && shown.contains("https://hooks.test"));
    assert!(!shown.contains("5ecre7"), "{shown}");
    for (wrong, told) in [
        ("", "it is empty; write the URL into it"),
        ("http://a/5ecre7\nb", "it has more than one line"),
        ("5ecre7", "it has no URL, such as https://"),
        ("ftp://h/5ecre7", "it has no URL"),
        ("http://h:0/5ecre7", "it has no URL"),
        ("http://h:99999/5ecre7", "it has no URL"),
        ("http://u:5ecre7@h/", "the URL has a password"),
    ] {
        let error = with(wrong).expect_err(wrong).to_string();
        let place = "alert.webhook_file: /etc/h: ";
        assert!(error.contains(&format!("{place}{told}")), "{error}");
        assert!(!error.contains("5ecre7"), "{error}");
    }
}

/// A token and a key.
fn file(token: &str) -> Given {
    Given::new()
        .with_file("/etc/t", token)
        .with_file("/etc/k", "sk-aaaaaaaa1111\n")
}

fn read(text: &str, token: &str) -> Result<Settings, ConfigError> {
    Settings::parse(text, Path::new("/etc"), &file(token))
}

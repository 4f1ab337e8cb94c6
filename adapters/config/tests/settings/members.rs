//! Members: their names, keys and groups; and routes to their pools.

use crate::{SMALL, read, refused};
use leasehold_config::{Given, Settings};
use std::path::Path;

#[test]
fn default_names_that_are_taken_get_a_number() {
    let members = "[{ url = \"http://h:1\" }, { url = \"http://H:1\" }, { url = \"http://h:1\", name = \"h:1-3\" }, \
                   { url = \"http://h:1\" }, { url = \"https://h\" }]";
    let settings = read(&SMALL.replace("[{ url = \"http://h:1\" }]", members)).unwrap();
    let names: Vec<_> = settings.pools[0]
        .members
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(names, ["h:1", "h:1-2", "h:1-3", "h:1-4", "h:443"]);
}

#[test]
fn keys_bring_their_own_url_group_and_limits() {
    let text = with_member("{ url = \"https://h/v1\", keys = \"k\", limits = \"9/min\" }");
    let settings = Settings::parse(&text, Path::new("/etc"), &keys()).unwrap();
    let members: Vec<_> = settings.pools[0]
        .members
        .iter()
        .map(|it| {
            let limits = it.limits.as_ref().unwrap().to_string();
            (
                it.name.as_str(),
                it.url.to_string(),
                it.group.as_deref(),
                limits,
            )
        })
        .collect();
    let own =
        |name, url: &str, group, limits: &str| (name, url.to_owned(), group, limits.to_owned());
    assert_eq!(
        members,
        [
            own(
                "other.example.com:443",
                "https://other.example.com/v1",
                None,
                "9/1min"
            ),
            own("h:443", "https://h/v1", None, "9/1min"),
            own("h:443-2", "https://h/v1", Some("g"), "3/1min"),
        ]
    );
}

#[test]
fn keys_that_can_not_be_read_or_used_are_a_mistake() {
    for (member, expected) in KEYS {
        let error = refused(&with_member(member), &keys());
        assert!(
            error.contains(expected) && !error.contains("REAL"),
            "{error}"
        );
    }
}

#[test]
fn a_route_that_differs_in_host_or_segment_is_reached() {
    let route = "route = [{ host = \"a\", pool = \"web\" }, { path = \"/a\", pool = \"web\" }, \
                 { path = \"/ab\", pool = \"web\" }, { host = \"b\", path = \"/c/\", pool = \"web\" }]\npool =";
    let settings = read(&SMALL.replace("pool =", route)).unwrap();
    let routes = &settings.listeners[0].routes;
    assert_eq!((routes.len(), routes[3].path.as_str()), (5, "/c"));
}

fn keys() -> Given {
    let keys = "sk-aaaaaaaa1111 url=https://other.example.com/v1\n\
                sk-bbbbbbbb2222\n\
                sk-cccccccc3333 group=g limit=3/60s\n";
    Given::new().with_file("/etc/k", keys)
}

fn with_member(member: &str) -> String {
    let text = SMALL.replace("\"http\"", "\"openai\"");
    text.replace("{ url = \"http://h:1\" }", member)
}

/// Members with keys, and what is said.
const KEYS: &[(&str, &str)] = &[
    ("{ keys = \"k\" }", "pools.web.members.url: is missing"),
    (
        "{ url = \"http://h\", keys = \"sk-REALSECRET-123456\" }",
        "cannot read the keys in <hidden: looks like a secret>: there is no such file",
    ),
    (
        "{ url = \"http://h\", keys = \"none\" }",
        "cannot read the keys in /etc/none: there is no such file; give a file",
    ),
    (
        "{ url = \"http://h\", keys_env = \"sk-REALSECRET-123456\" }",
        "the environment variable <hidden: looks like a key> is not set",
    ),
    (
        "{ url = \"http://h\", keys = \"k\", keys_env = \"K\" }",
        "give one of keys, keys_env and keys_command",
    ),
    (
        "{ url = \"http://h\", keys_command = [\"pass\"] }",
        "cannot get keys from pass: no command runs here",
    ),
    (
        "{ url = \"http://h\", keys = \"k\", group = \"g\" }",
        "members of the group g share one set of limits; write the same as at leasehold.toml:4:12",
    ),
];

//! Includes, variables, and files on disk.

use crate::{SMALL, TOKEN, refused};
use leasehold_config::{AfterCrash, Given, Settings};
use std::path::{Path, PathBuf};

#[test]
fn included_files_are_joined_in_order() {
    let text = format!("include = [\"pools/[ab]*.toml\"]\n{LISTEN}");
    let settings = Settings::parse(&text, Path::new("/etc"), &pools()).unwrap();
    let names: Vec<_> = settings
        .pools
        .iter()
        .map(|pool| pool.name.as_str())
        .collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(settings.listeners[0].routes[0].pool(), Some(1));
    assert_eq!(
        settings.state.unwrap().path,
        PathBuf::from("/etc/pools/../pools/state")
    );
}

#[test]
fn a_mistake_in_an_include_has_its_place() {
    for (text, path, content, expected) in INCLUDES {
        let inputs = pools().with_file(path, *content);
        let error = refused(&format!("include = {text}\n{LISTEN}"), &inputs);
        assert!(error.contains(expected), "{text}:\n{error}");
    }
}

#[test]
fn variables_are_put_into_strings_and_are_never_shown() {
    let inputs = Given::new()
        .with_variable("URL", "http://u:hunter2@h")
        .with_variable("PORT", "81");
    let text = SMALL.replace("h:1", "h:${PORT}");
    let settings = Settings::parse(&text, Path::new("/etc"), &inputs).unwrap();
    assert_eq!(settings.pools[0].members[0].name, "h:81");
    let error = refused(&SMALL.replace("http://h:1", "${URL}"), &inputs);
    assert!(
        error.contains("a user name or a password") && !error.contains("hunter2"),
        "{error}"
    );
    let error = refused(&SMALL.replace("http://h:1", "${NONE}"), &inputs);
    assert_eq!(
        error,
        "leasehold.toml:4:20: pools.web.members.url: the environment variable NONE is not set; \
         set it, or write ${NONE:-default}"
    );
    let error = refused(&SMALL.replace("http://h:1", "$URL"), &inputs);
    assert!(
        error.contains("4:20: pools.web.members.url: a variable is written ${NAME}"),
        "{error}"
    );
}

#[test]
fn a_file_is_read_from_disk_with_its_includes_tokens_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "leasehold.toml",
        "include = [\"*.pool\"]\nstate = \"state\"\nafter_crash = \"trust\"\n[admin]\ntoken_file = \"token\"\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"leases\"\n",
    );
    write("token", TOKEN);
    write(
        "a.pool",
        "[pools.keys]\nkind = \"openai\"\n[[pools.keys.members]]\nurl = \"http://h\"\n\
        keys_command = [\"printf\", \"sk-aaaaaaaa%s\\nsk-bbbbbbbb2222\\n\", \"1111\"]\n",
    );
    let path = folder.path().join("leasehold.toml");
    let settings = Settings::read(&path).unwrap();
    assert_eq!(
        settings.admin.token.as_ref().unwrap().reveal(),
        TOKEN.trim()
    );
    assert_eq!(
        settings.state.as_ref().unwrap().after_crash,
        AfterCrash::Trust
    );
    assert_eq!(
        settings.pools[0].members[1].key.as_ref().unwrap().expose(),
        "sk-bbbbbbbb2222"
    );
    // Reading again gives the same, so that a reload of the same file changes nothing.
    assert_eq!(Settings::read(&path).unwrap(), settings);

    write(
        "a.pool",
        "[pools.keys]\nkind = \"openai\"\n[[pools.keys.members]]\nurl = \"http://h\"\nkeys_command = [\"false\"]\n",
    );
    let error = Settings::read(&path).unwrap_err().to_string();
    let expected =
        "a.pool:5:16: pools.keys.members.keys_command: cannot get keys from false: it failed: ";
    assert!(error.contains(expected), "{error}");
    write("b.pool", "\u{feff}# \u{0}");
    assert!(Settings::read(&path).is_err());
    let absent = Settings::read(&folder.path().join("absent.toml"))
        .unwrap_err()
        .to_string();
    assert!(absent.contains("absent.toml: cannot read it: "), "{absent}");
}

const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:1\"\nserve = \"http\"\npool = \"two\"\n";

fn pools() -> Given {
    let pool =
        |name| format!("[pools.{name}]\nkind = \"http\"\nmembers = [{{ url = \"http://h:1\" }}]\n");
    let including = format!("include = [\"../pools/c.toml\"]\n{}", pool("one"));
    Given::new()
        .with_file("/etc/pools/b.toml", pool("two"))
        .with_file("/etc/pools/a.toml", including)
        .with_file("/etc/pools/c.toml", "state = \"state\"\n")
        .with_file("/etc/pools/d.txt", "not read")
}

/// Includes, a further file with its text, and what is said.
const INCLUDES: &[(&str, &str, &str, &str)] = &[
    (
        "[\"x.toml\"]",
        "/etc/y",
        "",
        "leasehold.toml:1:12: include: cannot read /etc/x.toml: there is no such file",
    ),
    (
        "[\"pools/*.toml\"]",
        "/etc/pools/c.toml",
        "drain = 5",
        "/etc/pools/c.toml:1:9: drain: must be a string",
    ),
    (
        "[\"a\"]",
        "/etc/a",
        "include = [\"a\"]",
        "/etc/a:1:12: include: the file is read already, at leasehold.toml:1:12",
    ),
    (
        "[\"a\"]",
        "/etc/a",
        "include = [\"leasehold.toml\"]",
        "/etc/a:1:12: include: the file is read already, at leasehold.toml;",
    ),
    (
        "[\"a\", \"./a\"]",
        "/etc/a",
        "",
        "leasehold.toml:1:17: include: the file is read already, at leasehold.toml:1:12",
    ),
    (
        "[\"pools/[*\"]",
        "/etc/a",
        "",
        "leasehold.toml:1:12: include: cannot look for files: ",
    ),
    (
        "[\"pools/b.toml\", \"a\"]",
        "/etc/a",
        "[pools.two]\nkind = \"http\"\nmembers = [{ url = \"http://h\" }]",
        "/etc/a:1:1: pools.two: is the same as at /etc/pools/b.toml:1:1; name it otherwise",
    ),
    (
        "[\"pools/b.toml\", \"a\"]\ndrain = \"1s\"",
        "/etc/a",
        "drain = \"1s\"",
        "/etc/a:1:9: drain: is the same as at leasehold.toml:2:9; set it in one file",
    ),
];

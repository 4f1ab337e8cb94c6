//! Mistakes: their places, and what is said of them.

use crate::{SMALL, read};
use leasehold_config::Problem;

/// What of the small file is replaced, by what, and what is said then.
type Case = (&'static str, &'static str, &'static str);

#[test]
fn a_key_that_is_misspelt_or_missing_is_named() {
    told(KEYS);
}

#[test]
fn a_value_of_another_type_or_out_of_range_is_refused() {
    told(TYPES);
}

#[test]
fn a_text_of_another_form_is_refused_with_what_it_must_be() {
    told(TEXTS);
}

#[test]
fn a_key_that_does_not_suit_another_is_refused() {
    told(RELATIONS);
}

#[test]
fn a_mistake_in_the_syntax_has_its_place() {
    told(SYNTAX);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = SMALL
        .replace(
            "kind = \"http\"",
            "kind = \"https\"\nmax_waits = \"5s\"\nbreaker.open = 5",
        )
        .replace("8080", "99999");
    let error = read(&text).unwrap_err();
    let keys: Vec<_> = error.mistakes().iter().map(|it| it.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "pools.web.kind",
            "pools.web.max_waits",
            "pools.web.breaker.open",
            "listen.address"
        ]
    );
    let text = SMALL
        .replace("http://h:1", "http://h:1/x")
        .replace("pool = \"web\"", "pool = \"x\"");
    assert_eq!(read(&text).unwrap_err().mistakes().len(), 2);
    // A key that is misspelt is not missing too.
    let error = read(&SMALL.replace("kind =", "knd =")).unwrap_err();
    assert_eq!(error.mistakes().len(), 1);
    assert!(
        error
            .mistakes()
            .iter()
            .all(|it| matches!(it.problem, Problem::UnknownKey { .. }))
    );
}

#[test]
fn an_empty_file_says_what_is_missing() {
    assert_eq!(
        read("").unwrap_err().to_string(),
        "leasehold.toml:1:1: listen: is missing; add [[listen]] with an address, what it serves, and a pool"
    );
}

/// The hash of some caller's key.
const HASH: &str = "06d94a7b709828305f590ed80c3ed4d1d19eff59a4feae626dee92f5731e8cb3";

fn told(cases: &[Case]) {
    let mut others = Vec::new();
    for (from, to, expected) in cases {
        assert!(SMALL.contains(from), "{from}");
        let text = SMALL.replacen(from, &to.replace("HASH", HASH), 1);
        let error = read(&text).map(drop).expect_err(to).to_string();
        if !error.contains(expected) {
            others.push(format!("{to}:\n{error}\n{expected}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n\n"));
}

const KEYS: &[Case] = &[
    (
        "kind =",
        "kidn =",
        "3:1: pools.web.kidn: there is no such key; did you mean kind?",
    ),
    (
        "[pools.web]",
        "[pols.web]",
        "2:2: pols: there is no such key; did you mean pools?",
    ),
    (
        "pool = \"web\"",
        "xyz = 1",
        "9:1: listen.xyz: there is no such key; it must be address, serve, pool,",
    ),
    (
        "kind = \"http\"",
        "",
        "2:1: pools.web.kind: is missing; add kind = \"http\"",
    ),
    (
        "serve = \"http\"",
        "",
        "6:1: listen.serve: is missing; add serve = \"http\"",
    ),
    (
        "pool = \"web\"",
        "",
        "6:1: listen.pool: is missing; add pool = \"NAME\", or",
    ),
    (
        "url = \"http://h:1\"",
        "",
        "4:12: pools.web.members.url: is missing; add url =",
    ),
];

const TYPES: &[Case] = &[
    (
        "kind = \"http\"",
        "kind = 1",
        "3:8: pools.web.kind: must be a string such as \"http\", not an integer",
    ),
    (
        "[{ url = \"http://h:1\" }]",
        "3",
        "4:11: pools.web.members: must be a list such as [{ .. }], not an integer",
    ),
    (
        "kind =",
        "max_wait = 5\nkind =",
        "3:12: pools.web.max_wait: must be a string such as \"30s\", not an integer",
    ),
    (
        "kind =",
        "retry = [1]\nkind =",
        "3:9: pools.web.retry: must be a table, not a list",
    ),
    (
        "kind =",
        "outlier.deviation = nan\nkind =",
        "3:21: pools.web.outlier.deviation: must be from 0 to 65",
    ),
    (
        "\" }",
        "\", weight = 65536 }",
        "4:43: pools.web.members.weight: must be from 0 to 65535",
    ),
    (
        "\" }",
        "\", weight = -1 }",
        "4:43: pools.web.members.weight: must be from 0 to 65535",
    ),
    (
        "\" }",
        "\", weight = 1.5 }",
        "4:43: pools.web.members.weight: must be an integer, not a float",
    ),
    (
        "\n[[listen]]",
        "access_log = \"no\"\n[[listen]]",
        "access_log: there is no such key",
    ),
    (
        "[pools.web]",
        "access_log = \"no\"\n[pools.web]",
        "2:14: access_log: must be true or false or a table, not a string",
    ),
    (
        "[pools.web]",
        "drain = 2020-01-01\n[pools.web]",
        "2:9: drain: must be a string such as \"30s\", not a date or time",
    ),
];

const TEXTS: &[Case] = &[
    (
        "kind =",
        "max_wait = \"5\"\nkind =",
        "3:12: pools.web.max_wait: a span of time must be a whole number and a unit",
    ),
    (
        "kind =",
        "policy = \"ip_hsh\"\nkind =",
        "3:10: pools.web.policy: there is no such value; did you mean ip_hash?",
    ),
    (
        "kind =",
        "policy = \"best\"\nkind =",
        "3:10: pools.web.policy: there is no such value; it must be fifo, round_robin, ",
    ),
    (
        "kind =",
        "limits = \"3/min, 5 apples/min\"\nkind =",
        "3:20: pools.web.limits: at character 10, \"apples\": the unit must be",
    ),
    (
        "http://h:1",
        "http://u:p@h:1",
        "4:20: pools.web.members.url: the URL must not have a user name or a password",
    ),
    (
        "http://h:1",
        "http://h:1/api",
        "4:20: pools.web.members.url: the URL of an HTTP server has no path",
    ),
    (
        "127.0.0.1:8080",
        "localhost:8080",
        "7:11: listen.address: must be an IP address and a port",
    ),
    (
        "pool = \"web\"",
        "pool = \"web\"\ntrusted_proxies = [\"10.0.0.0/8\", \"x\"]",
        "10:34: listen.trusted_proxies: a network is",
    ),
    (
        "pool = \"web\"",
        "pool = \"web\"\ntrusted_proxies = \"any\"",
        "10:19: listen.trusted_proxies: there is no such value; it must be all",
    ),
    (
        "pool = \"web\"",
        "pool = \"web\"\nbounds.max_header_bytes = 100",
        "10:27: listen.bounds.max_header_bytes: must be from 8192 to",
    ),
    (
        "pool = \"web\"",
        "pool = \"web\"\nbounds.header_read = \"0s\"",
        "10:22: listen.bounds.header_read: must be above zero",
    ),
];

const RELATIONS: &[Case] = &[
    (
        "[[listen]]",
        "[otlp]\nendpoint = \"http://c:4318/v1/traces\"\n[[listen]]",
        "7:12: otlp.endpoint: write the URL without /v1/traces",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"errors > much\"\n[[listen]]",
        "7:17: alert.when: must be a share from 0% to 100%",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"pool up\"\n[[listen]]",
        "7:8: alert.when: must be one of member down, pool down,",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"queue > 1\"\npools = [\"web\", \"wbe\"]\n[[listen]]",
        "8:17: alert.pools: there is no such pool; did you mean web?",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"spend > 1 USD\"\npools = [\"web\"]\n[[listen]]",
        "8:9: alert.pools: money is counted over all pools; remove this",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"jobs lost\"\n[[listen]]",
        "6:1: alert.when: no pool that it watches is of kind comfyui",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"breaker open\"\n[[listen]]",
        "6:1: alert.when: no pool that it watches has a breaker",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"caller spend > 1 USD\"\n[[listen]]",
        "6:1: alert.when: there is no price, so nothing would be counted",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"queue > 1\"\nlabels = { pool = \"a\" }\n[[listen]]",
        "8:19: alert.labels.pool: must be letters, digits and _, and none that messages have anyway",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"queue > 1\"\nname = \"a\\nb\"\n[[listen]]",
        "8:8: alert.name: must be on one line",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"queue > 1\"\ncommand = [\"a\\u0000\"]\n[[listen]]",
        "8:11: alert.command: no program can be given a NUL",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"queue > 1\"\nover = \"1h\"\n[[listen]]",
        "8:8: alert.over: queue > 1 counts nothing over a time; write for = \"5min\"",
    ),
    (
        "[[listen]]",
        "[[alert]]\nwhen = \"queue > 1\"\n[[alert]]\nwhen = \"queue>1\"\n[[listen]]",
        "8:1: alert.name: is the same as at leasehold.toml:6:1; name it otherwise",
    ),
    (
        "pool = \"web\"",
        "pool = \"wbe\"",
        "9:8: listen.pool: there is no such pool; did you mean web?",
    ),
    (
        "pool = \"web\"",
        "route = [{ model = \"a\", pool = \"web\" }]",
        "9:20: listen.route.model: only listeners of openai route by models",
    ),
    (
        "pool = \"web\"",
        "on_disconnect = \"drain\"\npool = \"web\"",
        "9:17: listen.on_disconnect: only listeners of openai have this",
    ),
    (
        "pool = \"web\"",
        "lease_ttl = \"1m\"\npool = \"web\"",
        "9:13: listen.lease_ttl: only listeners of leases have this",
    ),
    (
        "[[listen]]",
        "[[caller]]\nname = \"a\"\nkey_sha256 = \"HASH\"\n[[listen]]",
        "6:1: caller.name: only listeners of openai and leases have callers with keys",
    ),
    (
        "[[listen]]",
        "[[caller]]\nname = \"a\"\nkey_sha256 = \"HASH\"\n[[caller]]\nname = \"b\"\nkey_sha256 = \"HASH\"\n[[listen]]",
        "11:14: caller.key_sha256: is the same as at leasehold.toml:6:1; make another with: leasehold key new",
    ),
    (
        "[[listen]]",
        "[price.\"a?\"]\ninput = \"1 USD\"\n[[listen]]",
        "6:1: price.a?: the name of the table must be the name of a model, in which * stands for any text",
    ),
    (
        "pool = \"web\"",
        "pool = \"other\"",
        "9:8: listen.pool: there is no such pool; there are: web",
    ),
    (
        "serve = \"http\"",
        "serve = \"openai\"",
        "9:8: listen.pool: the pool at leasehold.toml:2:1 is of kind http; this listener needs one of kind openai",
    ),
    (
        "serve = \"http\"",
        "serve = \"leases\"",
        "9:8: listen.pool: leases serves every pool",
    ),
    (
        "serve = \"http\"",
        "client_limit = \"9/min, 2 concurrent\"\nserve = \"http\"",
        "8:16: listen.client_limit: a listener has no limit on requests at once",
    ),
    (
        "[{ url = \"http://h:1\" }]",
        "[]",
        "4:11: pools.web.members: there must be at least one member",
    ),
    (
        "\" }",
        "\", weight = 0 }",
        "4:11: pools.web.members: all members have weight 0",
    ),
    (
        "\" }",
        "\", limits = \"9 tokens/min\" }",
        "4:43: pools.web.members.limits: only requests to openai pools have tokens",
    ),
    (
        "http://h:1\" }",
        "http://10.0.0.1:1\", each_address = true }",
        "4:56: pools.web.members.each_address: the URL has an address and no name",
    ),
    (
        "\" }",
        "\", keys = \"keys.txt\" }",
        "4:41: pools.web.members.keys: only members of an openai pool have keys",
    ),
    (
        "\" }]",
        "\", name = \"a\" }, { url = \"http://h:2\", name = \"a\" }]",
        "4:77: pools.web.members.name: is the same as at leasehold.toml:4:41; name it otherwise",
    ),
    (
        "kind =",
        "health = { interval = \"1s\", timeout = \"2s\" }\nkind =",
        "3:10: pools.web.health: a probe's timeout must be at most the interval",
    ),
    (
        "kind =",
        "breaker = { open = \"5s\", max_open = \"1s\" }\nkind =",
        "3:11: pools.web.breaker: the cap of a breaker's backoff",
    ),
    (
        "kind =",
        "affinity = { ttl = \"5s\" }\nkind =",
        "3:12: pools.web.affinity: give either cookie = \"NAME\" or address = true",
    ),
    (
        "pools.web",
        "pools.\"a b\"",
        "2:1: pools.a b: a pool's name is made of at most 64 letters, digits, - and _",
    ),
    (
        "[pools.web]",
        "after_crash = \"trust\"\n[pools.web]",
        "2:15: after_crash: there is no state file; add state",
    ),
    (
        "[pools.web]",
        "[admin]\nlisten = \"127.0.0.1:8080\"\n[pools.web]",
        "9:11: listen.address: is the same as at leasehold.toml:3:10; listen at another",
    ),
    (
        "[pools.web]",
        "[admin]\ntoken_file = \"none\"\n[pools.web]",
        "3:14: admin.token_file: cannot read /etc/none: there is no such file; if there is none yet",
    ),
    (
        "pool = \"web\"",
        "pool = \"web\"\nroute = [{ pool = \"web\" }]",
        "9:8: listen.pool: no request gets here: route 1 fits them all",
    ),
    (
        "pool = \"web\"",
        "route = [{ path = \"/a\", pool = \"web\" }, { path = \"/a/b\", pool = \"web\" }]",
        "9:41: listen.route: no request gets here: route 1 fits them all",
    ),
];

const SYNTAX: &[Case] = &[
    ("kind = \"http\"", "kind = \"http", "3:13: not TOML: "),
    (
        "kind = \"http\"",
        "kind = \"http\"\nkind = \"http\"",
        "4:1: not TOML: duplicate key",
    ),
];

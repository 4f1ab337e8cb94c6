//! Pools of ComfyUI servers, and listeners for their callers.

use crate::{SMALL, read};
use core::time::Duration;
use leasehold_config::{ComfyuiSettings, Serve, Settings};
use leasehold_core::balance::Policy;

/// A file of ComfyUI servers that is right.
const SERVERS: &str = r#"
[pools.images]
kind = "comfyui"
members = [
    { url = "http://a:8188" },
    { url = "http://b:8188" },
    { url = "https://c/comfy" },
]

[[listen]]
address = "127.0.0.1:8188"
serve = "comfyui"
pool = "images"
"#;

/// Reads the file of servers with something in the place of something else.
fn changed(from: &str, to: &str) -> Settings {
    assert!(SERVERS.contains(from), "{from}");
    let settings = read(&SERVERS.replacen(from, to, 1)).unwrap_or_else(|error| panic!("{error}"));
    let shown = settings.to_toml();
    let again = read(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(again, settings, "{shown}");
    settings
}

fn shares(settings: &Settings) -> Vec<(u8, u16)> {
    let members = settings.pools[0].members.iter();
    members.map(|it| (it.tier, it.weight)).collect()
}

#[test]
fn a_small_file_gets_the_defaults_of_comfyui() {
    let settings = changed("", "");
    let pool = &settings.pools[0];
    assert_eq!(pool.policy, Policy::LeastQueue);
    assert_eq!(pool.max_wait, Duration::from_secs(24 * 3_600));
    assert_eq!(pool.comfyui, ComfyuiSettings::default());
    let health = pool.health.as_ref().unwrap();
    let probes = &health.probes;
    assert_eq!(health.path.as_str(), "/prompt");
    assert_eq!(
        (probes.interval().as_secs(), probes.timeout().as_secs()),
        (30, 10)
    );
    assert_eq!((probes.rise().get(), probes.fall().get()), (1, 3));
    let breaker = pool.breaker.as_ref().unwrap();
    assert_eq!(breaker.consecutive_failures().unwrap().get(), 5);
    assert_eq!(shares(&settings), [(0, 1); 3]);
    assert_eq!(settings.listeners[0].serve, Serve::Comfyui);
}

#[test]
fn a_table_of_checks_keeps_the_other_defaults_of_comfyui() {
    let health = "kind = \"comfyui\"\nhealth = { interval = \"5s\" }\nbreaker = { failures = 2 }";
    let settings = changed("kind = \"comfyui\"", health);
    let pool = &settings.pools[0];
    let health = pool.health.as_ref().unwrap();
    assert_eq!(health.path.as_str(), "/prompt");
    // A check ends before the next one.
    assert_eq!(health.probes.timeout(), Duration::from_secs(5));
    let failures = pool.breaker.as_ref().unwrap().consecutive_failures();
    assert_eq!(failures.unwrap().get(), 2);
    // Servers of other kinds keep theirs.
    let web = SMALL.replacen("kind =", "health = {}\nkind =", 1);
    let web = read(&web).unwrap().pools.remove(0).health.unwrap();
    assert_eq!((web.path.as_str(), web.probes.rise().get()), ("/health", 2));
    assert_eq!(web.probes.timeout(), Duration::from_secs(5));
}

#[test]
fn every_setting_of_comfyui_is_read_and_shown() {
    let table = "[pools.images.comfyui]\nprefetch = 0\npoll = \"500ms\"\nlost_after = \"10s\"\n\
        stalled_after = \"1h\"\nidle_after = \"1min\"\nalert_waiting = 100\nalert_wait = \"10min\"\nqueue_weight = true\nfailover = true\nverbose = true\n\
        max_history = 5\nmax_uploads = 0\n[[listen]]";
    let settings = changed("[[listen]]", table);
    assert_eq!(
        settings.pools[0].comfyui,
        ComfyuiSettings {
            prefetch: 0,
            poll: Duration::from_millis(500),
            lost_after: Duration::from_secs(10),
            stalled_after: Duration::from_secs(3_600),
            idle_after: Duration::from_secs(60),
            alert_waiting: Some(100),
            alert_wait: Some(Duration::from_secs(600)),
            queue_weight: true,
            failover: true,
            verbose: true,
            max_history: 5,
            max_uploads: 0,
        }
    );
    let shown = settings.to_toml();
    assert!(shown.contains("max_uploads = 0"), "{shown}");
    // Pools of other kinds have no such table.
    let web = read(SMALL).unwrap().to_toml();
    assert!(!web.contains("comfyui") && !web.contains("zone"), "{web}");
}

#[test]
fn without_queue_weight_the_order_of_the_members_says_their_tiers() {
    let kind = "kind = \"comfyui\"";
    let settings = changed(kind, &format!("{kind}\ncomfyui.queue_weight = false"));
    assert_eq!(shares(&settings), [(0, 1), (1, 1), (2, 1)]);
    // They are not shown, so that what is shown can be read.
    assert!(!settings.to_toml().contains("tier ="));
    let tiers = changed("b:8188\" }", "b:8188\", tier = 4 }");
    assert_eq!(shares(&tiers), [(0, 1), (4, 1), (0, 1)]);
}

#[test]
fn without_failover_the_first_member_has_all_the_weight() {
    let kind = "kind = \"comfyui\"";
    let settings = changed(kind, &format!("{kind}\ncomfyui.failover = false"));
    assert_eq!(shares(&settings), [(0, 1), (0, 0), (0, 0)]);
    let both = changed(
        kind,
        &format!("{kind}\ncomfyui = {{ failover = false, queue_weight = false }}"),
    );
    assert_eq!(shares(&both), [(0, 1), (1, 0), (2, 0)]);
}

#[test]
fn members_have_zones_labels_tiers_and_limits_of_requests() {
    let member = "b:8188\", zone = \"berlin\", labels = [\"sdxl\", \"upscale\"], tier = 1, limits = \"9/min\" }";
    let settings = changed("b:8188\" }", member);
    let [first, second, _] = &settings.pools[0].members[..] else {
        panic!("three members");
    };
    assert_eq!(first.zone, None);
    assert_eq!(second.zone.as_deref(), Some("berlin"));
    assert_eq!(second.labels, ["sdxl", "upscale"]);
    assert_eq!(second.limits.as_ref().unwrap().to_string(), "9/1min");
}

#[test]
fn a_caller_has_the_zone_of_the_smallest_network_that_has_it() {
    let zones = "zones = { \"10.0.0.0/8\" = \"far\", \"10.1.0.0/16\" = \"berlin\", \"10.1.2.3\" = \"$$desk\", \
        \"fd00::/8\" = \"far\" }\npool =";
    let settings = changed("pool =", zones);
    let listener = &settings.listeners[0];
    assert_eq!(listener.zones.len(), 4);
    for (address, zone) in [
        ("10.1.2.3", Some("$desk")),
        ("10.1.2.4", Some("berlin")),
        ("::ffff:10.1.2.4", Some("berlin")),
        ("10.2.0.1", Some("far")),
        ("fd00::1", Some("far")),
        ("192.0.2.1", None),
        ("::1", None),
    ] {
        assert_eq!(
            listener.zone_of(address.parse().unwrap()),
            zone,
            "{address}"
        );
    }
}

#[test]
fn what_does_not_suit_comfyui_is_refused_at_its_place() {
    told(SERVERS, MISTAKES);
}

#[test]
fn what_is_for_comfyui_alone_is_refused_elsewhere() {
    told(SMALL, ELSEWHERE);
}

/// What of a file is replaced, by what, and what is said then.
type Case = (&'static str, &'static str, &'static str);

fn told(file: &str, cases: &[Case]) {
    let mut others = Vec::new();
    for (from, to, expected) in cases {
        assert!(file.contains(from), "{from}");
        let error = read(&file.replacen(from, to, 1)).expect_err(to).to_string();
        if error != format!("leasehold.toml:{expected}") {
            others.push(format!("{to}:\n{error}\n{expected}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n\n"));
}

const MISTAKES: &[Case] = &[
    (
        "a:8188\" }",
        "a:8188\", max_connections = 2 }",
        "5:48: pools.images.members.max_connections: a ComfyUI server has one job and as many more as the pool's \
         comfyui.prefetch says; remove this, and set that",
    ),
    (
        "b:8188\" }",
        "a:8188/\" }",
        "6:13: pools.images.members.url: is the same as at leasehold.toml:5:5; give each server once",
    ),
    (
        "http://a:8188",
        "http://a:8188/?api-version=1",
        "5:13: pools.images.members.url: the URL of a ComfyUI server has no ?",
    ),
    (
        "members = [\n    { url = \"http://a:8188\" }",
        "comfyui.queue_weight = false\nmembers = [\n    { url = \"http://a:8188\", tier = 0 }",
        "6:37: pools.images.members.tier: with queue_weight = false the order of the members says their tiers; \
         remove this, and put the members in order",
    ),
    (
        "pool = \"images\"",
        "pool = \"images\"\nzones = { \"10.1.0.0\" = \"a\", \"10.1.0.0/32\" = \"b\" }",
        "14:45: listen.zones.10.1.0.0/32: is the same network as 10.1.0.0/32; give it once",
    ),
    (
        "pool = \"images\"",
        "pool = \"images\"\nzones = { berlin = \"10.1.0.0-16\" }",
        "14:20: listen.zones.berlin: a network is an IP address or a block such as 10.0.0.0/8 or fd00::/8",
    ),
    (
        "pool = \"images\"",
        "pool = \"images\"\nzones = { \"10.1.0.0/16\" = \"ber lin\" }",
        "14:27: listen.zones.10.1.0.0/16: must be a name of at most 255 bytes without spaces and slashes",
    ),
    (
        "[[listen]]",
        "[pools.images.comfyui]\npoll = \"0s\"\n[[listen]]",
        "11:8: pools.images.comfyui.poll: must be above zero",
    ),
    (
        "[[listen]]",
        "[pools.images.comfyui]\nidle_after = \"2s\"\n[[listen]]",
        "11:14: pools.images.comfyui.idle_after: is 2s and must be longer than poll (2s), or servers that are well \
         are given up",
    ),
    (
        "[[listen]]",
        "[pools.images.comfyui]\npoll = \"1min\"\nidle_after = \"2min\"\n[[listen]]",
        "10:1: pools.images.comfyui.lost_after: is 30s and must be longer than poll (1min), or servers that are well \
         are given up",
    ),
    (
        "[[listen]]",
        "[pools.images.comfyui]\nprefetch = 1001\n[[listen]]",
        "11:12: pools.images.comfyui.prefetch: must be from 0 to 1000",
    ),
    (
        "[[listen]]",
        "[pools.images.comfyui]\nmax_uploads = \"1 GiB\"\n[[listen]]",
        "11:15: pools.images.comfyui.max_uploads: must be an integer, not a string",
    ),
    (
        "[[listen]]",
        "[pools.images.comfyui]\nprefech = 2\n[[listen]]",
        "11:1: pools.images.comfyui.prefech: there is no such key; did you mean prefetch?",
    ),
    (
        "pool = \"images\"",
        "pool = \"images\"\nlease_ttl = \"1m\"",
        "14:13: listen.lease_ttl: only listeners of leases have this; remove it",
    ),
];

const ELSEWHERE: &[Case] = &[
    (
        "kind =",
        "comfyui = { prefetch = 2 }\nkind =",
        "3:11: pools.web.comfyui: only pools of kind comfyui have this; remove it",
    ),
    (
        "\" }",
        "\", zone = \"berlin\" }",
        "4:41: pools.web.members.zone: only members of a comfyui pool have a zone; remove it",
    ),
    (
        "pool = \"web\"",
        "pool = \"web\"\nzones = { \"10.0.0.0/8\" = \"berlin\" }",
        "10:9: listen.zones: only listeners of comfyui have this; remove it",
    ),
    (
        "serve = \"http\"",
        "serve = \"comfyui\"",
        "9:8: listen.pool: the pool at leasehold.toml:2:1 is of kind http; this listener needs one of kind comfyui",
    ),
];

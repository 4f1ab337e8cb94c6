//! Properties of configuration files.

use crate::cases;
use crate::grammar::{edit, insertion};
use core::num::NonZeroU32;
use leasehold_config::{ComfyuiServers, Flags, Settings};
use leasehold_core::balance::Policy;
use leasehold_tests::config::{accept, check, run};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

/// Lines of a table, each there or not, in their order.
fn some_of(lines: &'static [&'static str]) -> impl Strategy<Value = String> {
    subsequence(lines, 0..=lines.len()).prop_map(|lines| lines.join("\n"))
}

/// A number put into the place of `N`, and a span of time into that of `SPAN`.
fn filled(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let unit = select(vec!["ns", "us", "ms", "s", "min", "h", "d"]);
    (text, 1_u16..=999, 1_u32..=50_000, unit).prop_map(|(text, number, span, unit)| {
        text.replace("SPAN", &format!("{span}{unit}"))
            .replace('N', &number.to_string())
    })
}

const POOL: [&str; 16] = [
    "max_wait = \"SPAN\"",
    "max_waiters = N",
    "limits = \"N/SPAN, N/min gcra burst 2, N concurrent\"",
    "panic_threshold = \"12.5%\"",
    "breaker.failures = N",
    "breaker.open = \"SPAN\"\nbreaker.max_open = \"200000d\"\nbreaker.reset_after = \"SPAN\"",
    "breaker.failure_rate = \"0.1%\"\nbreaker.window = \"SPAN\"\nbreaker.min_requests = N",
    "breaker.probes = N\nbreaker.successes = N\nbreaker.probe_timeout = \"SPAN\"",
    "health = { interval = \"200000d\", timeout = \"SPAN\", path = \"/a?b=$$\", status = \"204\", body = \"\\\"$${x}\\n\" }",
    "outlier.interval = \"SPAN\"\noutlier.min_requests = N",
    "outlier.deviation = N.5e-2\noutlier.margin = \"2.5%\"",
    "outlier.failure_rate = \"99.9%\"\noutlier.max_eject = \"20000d\"",
    "slow_start = { duration = \"SPAN\", steps = N }",
    "affinity = { cookie = \"id$$\", ttl = \"SPAN\", capacity = N }",
    "retry = { attempts = N, budget = \"100%\", reserve = N }",
    "upstream = { connect = \"SPAN\", response_header = \"SPAN\", body_idle = \"SPAN\", keep_alive = \"0s\", max_idle = N }",
];

const MEMBER: [&str; 6] = [
    "weight = N",
    "tier = 3",
    "labels = [\"a b\", \"\\u0007${EMPTY}\", \"$$\"]",
    "limits = \"N/SPAN, 3/d paced\"",
    "max_connections = N",
    "group = \"g $$\"\nlimits = \"3/60s\"",
];

/// What only pools of ComfyUI servers have.
const COMFYUI: [&str; 5] = [
    "comfyui.prefetch = N\ncomfyui.max_history = N\ncomfyui.alert_waiting = N",
    "comfyui.poll = \"SPAN\"\ncomfyui.lost_after = \"200000d\"\ncomfyui.stalled_after = \"200000d\"\n\
     comfyui.idle_after = \"200000d\"",
    ORDERED,
    "comfyui.failover = false\ncomfyui.verbose = true",
    "comfyui.max_uploads = 1125899906842624",
];

/// Members get tiers by their order.
const ORDERED: &str = "comfyui.queue_weight = false";

/// The zones of their callers.
const ZONES: &str = "zones = { \"10.0.0.0/8\" = \"a$$\", \"10.9.9.9/16\" = \"b\", \
    \"::ffff:10.1.2.3\" = \"c\", \"fd00::/8\" = \"d\" }";

const LISTENER: [&str; 8] = [
    "token_file = \"token\"",
    "trusted_proxies = [\"10.0.0.0/8\", \"::ffff:1.2.3.4/120\", \"fd00::1\"]",
    "limit = \"N/SPAN from grant\"",
    "client_limit = \"N/SPAN bucketed 1\"",
    "bounds.header_read = \"SPAN\"\nbounds.body_idle = \"SPAN\"\nbounds.keep_alive = \"SPAN\"",
    "bounds.max_header_bytes = 16777216\nbounds.max_headers = N",
    "bounds.max_body = 1125899906842624\nbounds.max_requests = N",
    "bounds.max_connections = N\nbounds.max_client_connections = N",
];

/// Further routes of a listener of calls.
const MODEL_ROUTES: &str = ", { model = \"gpt-*\", as = \"$$\", pool = \"POOL\", fallbacks = [{ pool = \"POOL\" }, \
    { pool = \"POOL\", as = \"a\\u0007\" }] }, { model = \"*\", pool = \"POOL\" }";

/// A caller of it, with a price.
const CALLER: &str = "[[caller]]\nname = \"callerNUMBER\"\n\
    key_sha256 = \"NUMBER00000000000000000000000000000000000000000000000000000000000000f\"\n\
    limits = \"60/min, 4 concurrent\"\nmodels = [\"gpt-4o*\", \"a/b\"]\npriority = 255\nweight = 3\n\
    budget = \"0.000000001 USD/5min\"\n[price.\"a*NUMBER\"]\ninput = \"2.50 USD\"\noutput = \"10 USD\"\n";

/// Alerts, each there or not, which are the last of a file.
const ALERTS: [&str; 4] = [
    "[[alert]]\nwhen = \"member down\"\nfor = \"SPAN\"\nclear = \"0s\"\nwebhook_file = \"url\"\npools = [\"p0\"]\nlabels = { a_1 = \"$$\" }",
    "[[alert]]\nwhen = \"wait p99.9 > SPAN\"\nover = \"SPAN\"\nrepeat = \"SPAN\"\ncommand = [\"a $$\", \"\\u0007\"]",
    "[[alert]]\nwhen = \"queue > N\"\nname = \"$$ \\\"queue\\\"\"",
    "[[alert]]\nwhen = \"errors > 0.1%\"",
];

const TOP: [&str; 8] = [
    "include = [\"b.*\"]",
    "state = \"a/../$$x\"\nafter_crash = \"trust\"",
    "access_log = false",
    "access_log.format = \"common\"\naccess_log.path = \"log\"",
    "log = { format = \"json\", level = \"trace\", targets = { \"leasehold::health\" = \"off\", a_1 = \"warn\" } }",
    "otlp = { endpoint = \"https://${HOST}:1/a\", headers_file = \"headers\", sample = \"0.1%\", timeout = \"2s\", \
     interval = \"9d\", service_name = \"$$a\" }",
    "admin.token_file = \"token\"",
    "admin.listen = \"unix:admin sock\"",
];

/// The lines that a ComfyUI server may have, with a zone.
fn of_server(member: &str, index: usize, is_ordered: bool) -> String {
    let is_wrong =
        |line: &str| line.starts_with("max_connections") || is_ordered && line.starts_with("tier");
    let lines = member.lines().filter(|line| !is_wrong(line));
    let zone = format!("zone = \"$$zone{index}\"");
    lines.chain([zone.as_str()]).collect::<Vec<_>>().join("\n")
}

/// A pool, with a route to it.
fn pool(number: usize) -> impl Strategy<Value = (String, String)> {
    let policy = select(&Policy::ALL[..]);
    let kind = select(vec!["http", "openai", "comfyui"]);
    let members = prop::collection::vec((filled(some_of(&MEMBER)), 0_u8..4), 1..4);
    let tables = (filled(some_of(&POOL)), filled(some_of(&COMFYUI)));
    (kind, policy, tables, members, filled(some_of(&LISTENER))).prop_map(
        move |(kind, policy, (pool, comfyui), members, listener)| {
            let comfyui = if kind == "comfyui" { comfyui } else { String::new() };
            let mut text =
                format!("[pools.p{number}]\nkind = \"{kind}\"\npolicy = \"{policy}\"\n{pool}\n{comfyui}\n");
            for (index, (member, keys)) in members.into_iter().enumerate() {
                // The file has a key with a URL of its own, which may be there once.
                let keys = match (kind, keys, index) {
                    ("openai", 1, 0) => "keys = \"keys\"",
                    ("openai", 2, _) => "keys_env = \"KEYS\"",
                    _ => "",
                };
                let path = if kind == "http" { String::new() } else { format!("/{index}") };
                // A later line in place of an earlier one of the same key.
                let member = match member.split_once("\ngroup") {
                    Some((_, group)) => format!("group{group}"),
                    None => member,
                };
                let member = match kind {
                    "comfyui" => of_server(&member, index, comfyui.contains(ORDERED)),
                    _ => member,
                };
                text += &format!("[[pools.p{number}.members]]\nurl = \"http://${{HOST}}:1{path}\"\n{keys}\n{member}\n");
            }
            let (routes, calls) = match kind {
                "openai" => (MODEL_ROUTES, "keep_alive = false\non_disconnect = \"drain\""),
                "comfyui" => ("", ZONES),
                _ => ("", ""),
            };
            let routes = routes.replace("POOL", &format!("p{number}"));
            let mut listener = format!(
                "[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"{kind}\"\n{listener}\n{calls}\n\
                 route = [{{ host = \"H.example\", path = \"/a/\", pool = \"p{number}\" }}{routes}]\npool = \"p{number}\"\n"
            );
            if kind == "openai" {
                listener += &CALLER.replace("NUMBER", &number.to_string());
            }
            (text, listener)
        },
    )
}

fn file() -> impl Strategy<Value = String> {
    (some_of(&TOP), pool(0), pool(1), filled(some_of(&ALERTS))).prop_map(
        |(top, (first, first_listener), (second, second_listener), alerts)| {
            // One form of the log at a time.
            let top = match top.split_once("access_log = false\naccess_log") {
                Some((before, after)) => format!("{before}access_log{after}"),
                None => top,
            };
            format!("{top}\n{first}{second}{first_listener}{second_listener}{alerts}\n")
        },
    )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_file_is_shown_and_read_back_as_the_same(text in file()) {
        prop_assert_eq!(accept(&text).map_err(|error| error.to_string()), Ok(()));
    }

    #[test]
    fn a_file_with_mistakes_is_read_or_refused_at_places(
        text in file(),
        edits in prop::collection::vec((any::<Index>(), 0_usize..4, insertion()), 1..4),
    ) {
        let text = edits.into_iter().fold(text, |text, (place, taken, put)| {
            edit(&text, place, taken, &put)
        });
        run(&text);
    }

    #[test]
    fn any_text_is_read_or_refused_at_places(text: String) {
        run(&text);
    }

    #[test]
    fn settings_of_flags_are_shown_and_read_back(
        weights in prop::collection::vec(1_u16.., 0..4),
        policy in select(&Policy::ALL[..]),
        access_log: bool,
    ) {
        let backends = (1..).zip(weights).map(|(port, weight)| format!("h:{port}={weight}").parse());
        let flags = Flags {
            backends: backends.collect::<Result<_, _>>().expect("backends"),
            algorithm: policy,
            access_log,
            ..Flags::default()
        };
        check(Settings::from_flags(flags).expect("settings"));
    }

    #[test]
    fn comfyui_servers_of_flags_are_shown_and_read_back(
        count in 1_usize..300,
        health_tries in 1_u32..,
        switches: [bool; 3],
    ) {
        let servers = (0..count).map(|number| format!("http://h/{number}").parse());
        let [queue_weight, failover, verbose] = switches;
        let comfyui = ComfyuiServers {
            health_tries: NonZeroU32::new(health_tries).expect("a number above zero"),
            queue_weight,
            failover,
            verbose,
            ..ComfyuiServers::new(servers.collect::<Result<_, _>>().expect("URLs"))
        };
        let flags = Flags {
            comfyui: Some(comfyui),
            ..Flags::default()
        };
        check(Settings::from_flags(flags).expect("settings"));
    }
}

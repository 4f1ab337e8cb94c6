//! A gateway under load, while its backends die and come back and its operator changes everything.

use super::backends::Doubles;
use super::gateway::Gateway;
use super::*;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use leasehold_sync::Clock;
use ureq::Agent;
use ureq::http::header::AUTHORIZATION;

const TOKEN: &str = "a-token-of-some-length";
const CALLERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(100);

/// Starts a backend on a port.
fn backend(port: &str) -> Doubles {
    Doubles::start("backends", 1, &["--ports", port])
}

fn agent() -> Agent {
    let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
    config.http_status_as_error(false).build().into()
}

/// Changes something by the admin interface.
fn change(agent: &Agent, address: &str, method: &str, path: &str, body: &str) {
    let url = format!("http://{address}/lb/backends/{path}");
    let bearer = format!("Bearer {TOKEN}");
    let answered = match method {
        "DELETE" => agent.delete(url).header(AUTHORIZATION, bearer).call(),
        _ => agent
            .post(url)
            .header(AUTHORIZATION, bearer)
            .content_type("application/json")
            .send(body),
    };
    let mut answer = answered.expect("it answers");
    let told = answer.body_mut().read_to_string().expect("it says why");
    assert!(answer.status().is_success(), "{method} {path}: {told}");
}

/// Lasts `LEASEHOLD_LOAD_SECONDS`, and 5 s without it.
#[test]
fn no_get_fails_while_backends_die_and_everything_is_changed() {
    let seconds = std::env::var("LEASEHOLD_LOAD_SECONDS").ok();
    let seconds = seconds.map_or(5, |text| text.parse().expect("a number of seconds"));
    let mut backends = [(); 4].map(|()| backend("0"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(folder.path().join("token"), TOKEN).unwrap();
    let [one, two, three, added] = backends.each_ref().map(|one| one.addresses[0].clone());
    let write = |weights: [u16; 3]| {
        let members: String = [("one", &one), ("two", &two), ("three", &three)]
            .iter()
            .zip(weights)
            .map(|((name, address), weight)| {
                format!("{{ name = \"{name}\", url = \"http://{address}\", weight = {weight} }},")
            })
            .collect();
        let settings = format!(
            "access_log = false\n[admin]\ntoken_file = \"token\"\n[pools.web]\nkind = \"http\"\n\
            policy = \"weighted_round_robin\"\nbreaker = {{ failures = 3, open = \"300ms\" }}\n\
            members = [{members}]\n\
            [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
        );
        fs::write(&path, settings).unwrap();
    };
    write([1, 1, 1]);
    let gateway = Gateway::start(&["--config", path.to_str().unwrap()]);
    let address = gateway.address.as_str();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let port: u16 = added.rsplit(':').next().unwrap().parse().unwrap();
    let new = json!({"name": "new", "host": "127.0.0.1", "port": port}).to_string();
    let admin = agent();
    let failed: Vec<String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let agent = agent();
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let url = format!("http://{address}/");
                        let result = agent.get(url).call().map(|mut answer| {
                            (answer.status(), answer.body_mut().read_to_string())
                        });
                        match result {
                            Ok((status, Ok(_))) if status == 200 => {}
                            other => failed.push(format!("{other:?}")),
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    failed
                })
            })
            .collect();
        let clock = Clock::start();
        let end = clock.now().saturating_add(Duration::from_secs(seconds));
        let mut round = 0_u16;
        while clock.now() < end {
            let pause = || thread::sleep(PAUSE);
            backends[0].kill();
            pause();
            change(&admin, address, "POST", "add", &new);
            pause();
            change(&admin, address, "POST", "two/disable", "{}");
            pause();
            backends[0] = backend(backends[0].port(0));
            change(&admin, address, "POST", "two/enable", "{}");
            change(&admin, address, "POST", "three/weight", r#"{"weight": 3}"#);
            pause();
            change(&admin, address, "POST", "three/drain", "{}");
            pause();
            change(&admin, address, "DELETE", "new/remove", "");
            change(&admin, address, "POST", "three/enable", "{}");
            round += 1;
            write([1, 1 + round % 3, 2]);
            send_signal(&gateway.process, "HUP");
            pause();
        }
        stop.store(true, Ordering::Relaxed);
        callers
            .into_iter()
            .flat_map(|caller| caller.join().expect("a caller"))
            .collect()
    });
    let url = format!("http://{address}/lb/stats");
    let stats = admin
        .get(url)
        .call()
        .expect("it answers")
        .body_mut()
        .read_to_string();
    let answered = answered.load(Ordering::Relaxed);
    println!("{answered} answered; {}", stats.expect("a text"));
    assert!(
        failed.is_empty(),
        "{} of {answered}: {:?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    assert!(answered > 100, "{answered}");
    gateway.end();
}

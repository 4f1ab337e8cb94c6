//! Members that are made from the addresses of a name; judged by what backends at these addresses saw.

use crate::support::{Caller, LONG, Running, ask, get, repeat_until, settings};
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use leasehold_gateway::{Gateway, LookUp, LookedUp};
use leasehold_testbed::{Backend, BackendConfig};
use std::sync::{Arc, Mutex};

/// Starts backends at 127.0.0.1, 127.0.0.2 and so on, with one port.
fn neighbours<const N: usize>() -> [Backend; N] {
    let mut port = 0;
    core::array::from_fn(|number| {
        let mut config = BackendConfig::default();
        config.listen = (address(number), port).into();
        let backend = Backend::start(config).expect("a port that is free at each address");
        port = backend.address().port();
        backend
    })
}

fn address(number: usize) -> IpAddr {
    let last = u8::try_from(number + 1).expect("a small number");
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// What DNS says of `app.test`, and how often it was asked.
#[derive(Clone)]
struct Dns(Arc<Mutex<(LookedUp, u32)>>);

impl Dns {
    fn new(addresses: &[usize]) -> Self {
        let dns = Self(Arc::new(Mutex::new((Err(String::new()), 0))));
        dns.say(addresses);
        dns
    }

    fn say(&self, addresses: &[usize]) {
        let addresses = addresses.iter().map(|number| address(*number)).collect();
        self.0.lock().expect("whole").0 = Ok((addresses, Some(Duration::ZERO)));
    }

    fn fail(&self) {
        self.0.lock().expect("whole").0 = Err("no such name".to_owned());
    }

    fn asked(&self) -> u32 {
        self.0.lock().expect("whole").1
    }

    fn look_up(&self) -> LookUp {
        let Self(said) = self.clone();
        Arc::new(move |host| {
            assert_eq!(host, "app.test");
            let mut said = said.lock().expect("whole");
            said.1 += 1;
            let answer = said.0.clone();
            Box::pin(async move { answer })
        })
    }
}

fn start(pool: &str, member: &str, port: u16, dns: &Dns) -> Running {
    let text = format!(
        "access_log = false\n[pools.web]\nkind = \"http\"\n{pool}\n\
        members = [{{ name = \"app\", url = \"http://app.test:{port}\", each_address = true{member} }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
    );
    let mut settings = settings(&text);
    settings.admin.open_on_loopback = true;
    let gateway = Gateway::start_with(settings, dns.look_up()).expect("good settings");
    let address = gateway.addresses()[0].expect("a TCP listener");
    Running { gateway, address }
}

/// Sends twelve requests, and returns how many of them each backend got.
fn shares(running: &Running, backends: &[Backend]) -> Vec<u64> {
    let seen = || backends.iter().map(|backend| backend.report().requests);
    let before: Vec<u64> = seen().collect();
    for _ in 0..12 {
        assert_eq!(get(running.address, "/").status, 200);
    }
    seen()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect()
}

fn admin(running: &Running, method: &str, path: &str) -> (u16, String) {
    let request = format!(
        "{method} /lb/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    let answer = ask(running.address, &request);
    (answer.status, answer.text().to_owned())
}

#[test]
fn each_address_is_a_member_with_the_settings_of_its_name() {
    let backends = neighbours::<3>();
    let port = backends[0].address().port();
    let dns = Dns::new(&[2, 0, 1]);
    let running = start(
        "max_wait = \"10ms\"",
        ", limits = \"2/60s\", labels = [\"a\"]",
        port,
        &dns,
    );
    let mut statuses: Vec<_> = (0..8).map(|_| get(running.address, "/").status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429, 429]);
    let seen = backends.each_ref().map(|backend| backend.report().requests);
    assert_eq!(seen, [2, 2, 2]);
    let (_, listed) = admin(&running, "GET", "backends");
    for id in ["app@127.0.0.1", "app@127.0.0.2", "app@127.0.0.3"] {
        assert!(listed.contains(&format!("\"id\": \"{id}\"")), "{listed}");
    }
}

#[test]
fn an_address_that_appears_is_used_and_one_that_vanishes_ends_what_it_has() {
    let backends = neighbours::<3>();
    let port = backends[0].address().port();
    let dns = Dns::new(&[0, 1]);
    let running = start("policy = \"round_robin\"", "", port, &dns);
    assert_eq!(shares(&running, &backends), [6, 6, 0]);
    // One at each backend, whose bodies end later.
    let callers = [(); 2].map(|()| {
        let mut caller = Caller::connect(running.address);
        caller.send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\na");
        caller
    });
    for backend in &backends[..2] {
        assert!(backend.wait(LONG, |report| report.in_flight == 1));
    }
    dns.say(&[1, 2]);
    repeat_until("the first has gone and the third has come", || {
        let (_, listed) = admin(&running, "GET", "backends");
        !listed.contains("app@127.0.0.1") && listed.contains("app@127.0.0.3")
    });
    assert_eq!(shares(&running, &backends), [0, 6, 6]);
    assert_eq!(backends[0].report().in_flight, 1);
    for mut caller in callers {
        caller.send("b");
        let answer = caller.answer().expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "ab"));
    }
}

#[test]
fn a_look_up_that_fails_keeps_the_addresses() {
    let backends = neighbours::<2>();
    let port = backends[0].address().port();
    let dns = Dns::new(&[0]);
    let running = start("policy = \"round_robin\"", "", port, &dns);
    dns.fail();
    let before = dns.asked();
    repeat_until("two look-ups fail", || dns.asked() >= before + 2);
    assert_eq!(shares(&running, &backends), [12, 0]);
    dns.say(&[0, 1]);
    repeat_until("the second has come", || {
        shares(&running, &backends) == [6, 6]
    });
}

#[test]
fn requests_wait_for_a_name_that_is_not_found_yet() {
    let backends = neighbours::<1>();
    let port = backends[0].address().port();
    let dns = Dns::new(&[]);
    let running = start("", "", port, &dns);
    let mut caller = Caller::connect(running.address);
    caller.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let before = dns.asked();
    repeat_until("it is asked again", || dns.asked() > before);
    dns.say(&[0]);
    assert_eq!(caller.answer().expect("an answer").status, 200);
}

#[test]
fn an_operator_changes_one_address_and_it_stays_so_when_that_comes_back() {
    let backends = neighbours::<2>();
    let port = backends[0].address().port();
    let dns = Dns::new(&[0, 1]);
    let running = start("policy = \"round_robin\"", "", port, &dns);
    let (status, text) = admin(&running, "POST", "backends/app@127.0.0.1/disable");
    assert_eq!(status, 200, "{text}");
    assert_eq!(shares(&running, &backends), [0, 12]);
    let is_listed = || {
        admin(&running, "GET", "backends")
            .1
            .contains("app@127.0.0.1")
    };
    dns.say(&[1]);
    repeat_until("it has gone", || !is_listed());
    dns.say(&[0, 1]);
    repeat_until("it is back", is_listed);
    assert_eq!(shares(&running, &backends), [0, 12]);
    let (status, text) = admin(&running, "DELETE", "backends/app@127.0.0.1/remove");
    assert_eq!(status, 409);
    assert!(text.contains("made_from_name"), "{text}");
    let (status, text) = admin(&running, "POST", "backends/app/disable");
    assert_eq!(status, 404);
    assert!(text.contains("app@127.0.0.1, app@127.0.0.2"), "{text}");
}

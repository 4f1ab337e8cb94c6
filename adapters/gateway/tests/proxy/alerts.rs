//! Alerts, as the receivers of their messages see them.

use crate::leases::TOKEN;
use crate::support::*;
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{Given, Settings};
use leasehold_gateway::Gateway;
use leasehold_testbed::{Backend, BackendFault, BackendFaultRule};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// A path that only the request may show.
const SECRET: &str = "/services/5ecre7";

/// A webhook that keeps what it is sent.
struct Receiver {
    address: SocketAddr,
    received: Arc<(Mutex<Received>, Condvar)>,
}

#[derive(Debug, Default)]
struct Received {
    /// The statuses of the next answers; 200 once there are no more.
    statuses: VecDeque<u16>,
    /// What was sent, with the status of the answer.
    posts: Vec<(u16, String, Value)>,
}

impl Receiver {
    fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received: Arc<(Mutex<Received>, Condvar)> = Arc::default();
        received.0.lock().expect("no panic").statuses = statuses.iter().copied().collect();
        let kept = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming() {
                receive(stream.expect("a connection"), &kept);
            }
        });
        Self { address, received }
    }

    /// Waits until it has answered this many messages, and returns the posts.
    fn posts(&self, count: usize) -> Vec<(u16, String, Value)> {
        let (received, changed) = &*self.received;
        let received = received.lock().expect("no panic");
        let (received, timed_out) = changed
            .wait_timeout_while(received, LONG, |received| received.posts.len() < count)
            .expect("no panic");
        assert!(!timed_out.timed_out(), "{received:#?}");
        received.posts.clone()
    }

    /// Starts a gateway with alerts, whose messages it gets.
    fn gateway(&self, text: &str) -> Running {
        let url = format!("http://{}{SECRET}", self.address);
        let given = Given::new()
            .with_file("/url", url)
            .with_file("/token", TOKEN);
        let settings = Settings::parse(text, Path::new("/"), &given);
        let settings = settings.unwrap_or_else(|error| panic!("{error}"));
        let gateway = Gateway::start(settings).unwrap_or_else(|error| panic!("{error}"));
        let address = gateway.addresses()[0].expect("a TCP listener");
        Running { gateway, address }
    }
}

fn receive(mut stream: TcpStream, kept: &(Mutex<Received>, Condvar)) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        assert!(reader.read_line(&mut head).expect("a line") > 0, "{head}");
        if let Some(value) = head[begin..].strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let body = serde_json::from_slice(&body).expect("JSON");
    let mut received = kept.0.lock().expect("no panic");
    let status = received.statuses.pop_front().unwrap_or(200);
    // Servers repeat paths in their errors.
    let text = format!("no {SECRET}");
    let length = text.len();
    let answer =
        format!("HTTP/1.1 {status} x\r\nretry-after: 1\r\ncontent-length: {length}\r\n\r\n{text}");
    // It may have gone.
    let _ = stream.write_all(answer.as_bytes());
    received.posts.push((status, head, body));
    kept.1.notify_all();
}

/// The alerts as the gateway tells them.
fn view(address: SocketAddr) -> Vec<Value> {
    let answer = ask(
        address,
        "GET /lb/alerts HTTP/1.1\r\nhost: localhost\r\n\r\n",
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.text().contains("5ecre7"), "{}", answer.text());
    let mut view: Value = serde_json::from_str(answer.text()).expect("JSON");
    serde_json::from_value(view["alerts"].take()).expect("a list")
}

/// Waits until an alert tells of something, and returns its text.
fn active(address: SocketAddr, alert: usize) -> String {
    let mut text = None;
    repeat_until(&format!("alert {alert} is told"), || {
        let view = view(address);
        let told = view.get(alert).map(|alert| &alert["active"][0]["text"]);
        text = told.and_then(Value::as_str).map(str::to_owned);
        text.is_some()
    });
    text.unwrap_or_default()
}

/// The first receiver of the first alert; null before the first look.
fn receiver(address: SocketAddr) -> Value {
    let view = view(address);
    let alert = view.into_iter().next().unwrap_or_default();
    alert["receivers"][0].clone()
}

const HEALTH: &str = "health = { path = \"/health\", interval = \"500ms\", timeout = \"500ms\", unhealthy_after = 3, healthy_after = 1 }";

fn of_pool(backends: &[Backend], pool: &str, alerts: &str) -> String {
    let members: Vec<_> = backends.iter().map(|one| (one.address(), 1)).collect();
    config(pool, "", &members) + alerts
}

#[test]
fn a_backend_that_goes_down_and_comes_back_is_told_once_each() {
    let (receiver, backends) = (Receiver::start(&[]), backends::<2>());
    let alert = "[[alert]]\nname = \"no \\\"web\\\"\"\nwhen = \"member down\"\nclear = \"0s\"\n\
        labels = { severity = \"page\" }\nwebhook_file = \"url\"\n";
    let running = receiver.gateway(&of_pool(&backends, HEALTH, alert));
    backends[0].set_healthy(false);
    let (_, head, body) = receiver.posts(1).remove(0);
    assert!(
        head.starts_with(&format!("POST {SECRET} HTTP/1.1\r\n")),
        "{head}"
    );
    assert!(
        head.contains(&format!("host: {}\r\n", receiver.address)),
        "{head}"
    );
    assert_eq!(
        (&body["status"], &body["version"]),
        (&json!("firing"), &json!("4"))
    );
    let name = backends[0].address().to_string();
    let told = &body["alerts"][0];
    let instance = told["labels"]["instance"].as_str().expect("a name");
    let labels = json!({
        "alertname": "no \"web\"", "pool": "web", "member": name, "instance": instance, "severity": "page",
    });
    assert_eq!(told["labels"], labels);
    let summary = told["annotations"]["summary"].as_str().expect("a text");
    let expected = format!(
        "{name} of pool web is down: the health check at /health was answered with status 503"
    );
    assert!(summary.starts_with(&expected), "{summary}");
    assert_eq!(body["text"], format!("[ALERT] {instance}: {summary}"));
    assert!(active(running.address, 0).starts_with(&expected));
    // Two more looks tell nothing new.
    repeat_for(Duration::from_millis(2_100), || drop(view(running.address)));
    backends[0].set_healthy(true);
    let posts = receiver.posts(2);
    let (_, _, body) = &posts[1];
    assert_eq!((&body["status"], posts.len()), (&json!("resolved"), 2));
    let text = body["text"].as_str().expect("a text");
    assert!(
        text.starts_with(&format!("[OK] {instance}: over after ")),
        "{text}"
    );
    for same in ["fingerprint", "startsAt"] {
        assert_eq!(body["alerts"][0][same], told[same]);
    }
    assert_eq!(view(running.address)[0]["active"], json!([]));
    let to = format!("the webhook http://{}", receiver.address);
    let delivered = json!({
        "kind": "webhook", "to": to, "waiting": 0, "delivered": 2, "dropped": 0, "trouble": null,
    });
    repeat_until("it knows that the last was delivered", || {
        crate::alerts::receiver(running.address) == delivered
    });
}

#[test]
fn a_receiver_that_is_busy_is_told_later_and_one_that_refuses_is_not_asked_again() {
    let (receiver, backends) = (Receiver::start(&[503, 429, 200, 404]), backends::<1>());
    let alert = "[[alert]]\nwhen = \"pool down\"\nclear = \"0s\"\nwebhook_file = \"url\"\n";
    let running = receiver.gateway(&of_pool(&backends, HEALTH, alert));
    backends[0].set_healthy(false);
    let posts = receiver.posts(3);
    let statuses: Vec<u16> = posts.iter().map(|(status, ..)| *status).collect();
    assert_eq!(statuses, [503, 429, 200]);
    assert!(
        posts.iter().all(|(_, _, body)| body == &posts[0].2),
        "{posts:#?}"
    );
    let text = posts[0].2["text"].as_str().expect("a text");
    assert!(text.ends_with(": no member of pool web serves"), "{text}");
    backends[0].set_healthy(true);
    receiver.posts(4);
    repeat_until("it is given up", || {
        let receiver = crate::alerts::receiver(running.address);
        (&receiver["dropped"], &receiver["trouble"]) == (&json!(1), &json!("status 404 Not Found"))
    });
    backends[0].set_healthy(false);
    let (status, _, body) = receiver.posts(5).remove(4);
    assert_eq!((status, &body["truncatedAlerts"]), (200, &json!(1)));
}

#[test]
fn all_that_is_active_is_told_together() {
    let (receiver, backends) = (Receiver::start(&[]), backends::<40>());
    let alert = "[[alert]]\nwhen = \"member down\"\nclear = \"0s\"\nwebhook_file = \"url\"\n";
    let running = receiver.gateway(&of_pool(&backends, HEALTH, alert));
    for backend in &backends {
        backend.set_healthy(false);
    }
    let count = |body: &Value, status: &str| {
        let alerts = body["alerts"].as_array().expect("a list").iter();
        alerts.filter(|one| one["status"] == status).count()
    };
    let mut posts = 1;
    while count(&receiver.posts(posts)[posts - 1].2, "firing") < 40 {
        posts += 1;
    }
    // Those that go down at one look are told together.
    assert!(posts < 20, "{posts}");
    backends[7].set_healthy(true);
    let (_, _, body) = receiver.posts(posts + 1).remove(posts);
    // The others are still down.
    assert_eq!((count(&body, "resolved"), count(&body, "firing")), (1, 39));
    assert_eq!(body["status"], "firing");
    let text = body["text"].as_str().expect("a text");
    assert!(
        text.starts_with("[OK] ") && text.lines().count() == 1,
        "{text}"
    );
    let active = view(running.address)[0]["active"].as_array().map(Vec::len);
    assert_eq!(active, Some(39));
}

#[test]
fn a_reload_goes_on_with_an_alert_and_ends_one_that_is_gone() {
    let (receiver, backends) = (Receiver::start(&[]), backends::<1>());
    let down = "[[alert]]\nwhen = \"pool down\"\nwebhook_file = \"url\"\n";
    let more = "[[alert]]\nwhen = \"member down\"\nwebhook_file = \"url\"\n";
    let running = receiver.gateway(&of_pool(&backends, HEALTH, down));
    let reload = |alerts: &str| {
        let given = Given::new().with_file("/url", format!("http://{}{SECRET}", receiver.address));
        let text = of_pool(&backends, HEALTH, alerts);
        let settings = Settings::parse(&text, Path::new("/"), &given).expect("settings");
        running
            .gateway
            .reload(settings)
            .expect("it is put in force");
    };
    backends[0].set_healthy(false);
    receiver.posts(1);
    // One is new, and the other has another time.
    reload(&format!("{more}{down}repeat = \"1h\"\n"));
    let (_, _, body) = receiver.posts(2).remove(1);
    assert_eq!(body["groupLabels"]["alertname"], "member down");
    repeat_for(Duration::from_millis(2_100), || {
        assert_eq!(
            view(running.address)[1]["active"].as_array().map(Vec::len),
            Some(1)
        );
    });
    assert_eq!(receiver.posts(2).len(), 2);
    reload(more);
    let (_, _, body) = receiver.posts(3).remove(2);
    assert_eq!(
        (&body["status"], &body["groupLabels"]["alertname"]),
        (&json!("resolved"), &json!("pool down"))
    );
    let text = body["text"].as_str().expect("a text");
    assert!(
        text.contains(": over, as the alert was removed: "),
        "{text}"
    );
    // Other labels are another alert for its receivers.
    reload(&format!("{more}labels = {{ severity = \"page\" }}\n"));
    let posts = receiver.posts(5);
    let bodies = posts[3..].iter().map(|(_, _, body)| body);
    let mut told: Vec<_> = bodies
        .map(|body| {
            (
                body["status"].as_str(),
                body["commonLabels"]["severity"].as_str(),
            )
        })
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [(Some("firing"), Some("page")), (Some("resolved"), None)]
    );
}

#[test]
fn a_test_of_an_alert_is_sent_and_leaves_what_is_active() {
    let (receiver, backends) = (Receiver::start(&[]), backends::<1>());
    let alert = "[admin]\ntoken_file = \"token\"\n[[alert]]\nname = \"no web\"\nwhen = \"pool down\"\nwebhook_file = \"url\"\n";
    let running = receiver.gateway(&of_pool(&backends, HEALTH, alert));
    backends[0].set_healthy(false);
    receiver.posts(1);
    let test = |name: &str| {
        let request = format!(
            "POST /lb/alerts/{name}/test HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 0\r\n\r\n"
        );
        ask(running.address, &request)
    };
    assert_eq!(test("other").status, 404);
    let answer = test("no%20web");
    let told: Value = serde_json::from_str(answer.text()).expect("JSON");
    assert_eq!((answer.status, told), (200, json!({"receivers": 1})));
    let posts = receiver.posts(3).split_off(1);
    for ((_, _, body), (sign, status)) in posts
        .iter()
        .zip([("[ALERT] ", "firing"), ("[OK] ", "resolved")])
    {
        let text = body["text"].as_str().expect("a text");
        assert!(
            text.starts_with(sign) && text.ends_with(": this is a test of the alert no web"),
            "{text}"
        );
        let test = &body["alerts"][0];
        assert_eq!(
            (&test["labels"]["test"], &test["status"], &body["status"]),
            (&json!("true"), &json!(status), &json!("firing"))
        );
        assert_eq!(body["alerts"].as_array().map(Vec::len), Some(2));
    }
    assert_eq!(active(running.address, 0), "no member of pool web serves");
}

#[test]
fn messages_that_wait_have_one_more_try_when_the_gateway_ends() {
    let (receiver, backends) = (Receiver::start(&[503]), backends::<1>());
    let alert = "[[alert]]\nwhen = \"pool down\"\nwebhook_file = \"url\"\n";
    let running = receiver.gateway(&of_pool(&backends, HEALTH, alert));
    backends[0].set_healthy(false);
    receiver.posts(1);
    running.gateway.drain();
    assert_eq!(receiver.posts(2)[1].0, 200);
}

#[test]
fn a_command_gets_messages_and_is_run_again_if_it_fails() {
    let backends = backends::<1>();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let script = format!(
        "test -e {0} || {{ touch {0}; echo out of paper >&2; exit 3; }}; sleep 60 & echo $LEASEHOLD_ALERT > {2}; cat > {1}.new; mv {1}.new {1}",
        path("failed").display(),
        path("body").display(),
        path("name").display()
    );
    let alert = format!(
        "[[alert]]\nname = \"down\"\nwhen = \"pool down\"\ncommand = [\"sh\", \"-c\", {script:?}]\n"
    );
    let running = start(&of_pool(&backends, HEALTH, &alert.replace('$', "$$")));
    backends[0].set_healthy(false);
    repeat_until("it has failed", || {
        receiver(running.address)["trouble"] == "it failed: exit status: 3: out of paper"
    });
    repeat_until("it is run again", || path("body").exists());
    let body: Value =
        serde_json::from_slice(&fs::read(path("body")).expect("a file")).expect("JSON");
    let text = body["text"].as_str().expect("a text");
    assert!(text.ends_with(": no member of pool web serves"), "{text}");
    assert_eq!(fs::read_to_string(path("name")).expect("a file"), "down\n");
    // What it has left running is not waited for.
    repeat_until("it has taken it", || {
        receiver(running.address)["delivered"] == 1
    });
}

#[test]
fn a_queue_a_wait_and_a_limit_are_told() {
    let backends = backends::<1>();
    backends[0].set_delay(Duration::from_millis(1_500));
    let alerts = "[[alert]]\nwhen = \"queue > 1\"\n[[alert]]\nwhen = \"wait p50 > 100ms\"\n[[alert]]\nwhen = \"limit exhausted\"\n";
    let members = format!(
        "access_log = false\n[pools.web]\nkind = \"http\"\n[[pools.web.members]]\nname = \"one\"\nurl = \"http://{}\"\n\
        limits = \"4/1h, 1 concurrent\"\n[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n{alerts}",
        backends[0].address()
    );
    let running = start(&members);
    let address = running.address;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || assert_eq!(get(address, "/").status, 200));
        }
        let queue = active(address, 0);
        assert!(queue.ends_with(" requests wait for pool web"), "{queue}");
    });
    let wait = active(address, 1);
    assert!(
        wait.starts_with("p50 of the waits for pool web is ") && wait.ends_with(" s in 5min"),
        "{wait}"
    );
    assert_eq!(
        active(address, 2),
        "one of pool web has 0 of 1 requests left by its limits"
    );
}

#[test]
fn errors_and_an_open_breaker_are_told() {
    let backends = backends::<1>();
    backends[0].set_faults(vec![BackendFaultRule::new(BackendFault::Status(500))]);
    let alerts = "[[alert]]\nwhen = \"errors > 50%\"\n[[alert]]\nwhen = \"breaker open\"\n";
    let pool = "breaker = { failures = 12, open = \"1min\" }\nmax_wait = \"100ms\"";
    let running = start(&of_pool(&backends, pool, alerts));
    // The first look has to come before the requests that it counts from.
    repeat_until("there was a look", || !view(running.address).is_empty());
    for _ in 0..9 {
        get(running.address, "/");
    }
    repeat_for(Duration::from_millis(2_100), || {
        assert_eq!(view(running.address)[0]["active"], json!([]))
    });
    for _ in 0..5 {
        get(running.address, "/");
    }
    let errors = active(running.address, 0);
    assert!(
        errors.ends_with(" requests to pool web failed in 5min"),
        "{errors}"
    );
    let breaker = active(running.address, 1);
    assert!(
        breaker.contains(" of pool web has an open breaker"),
        "{breaker}"
    );
}

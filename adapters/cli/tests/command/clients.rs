//! Clients and servers of others, as their users have them.
//!
//! Scripts are in `tests/clients`; `.ci/run` installs what they need for `LEASEHOLD_PYTHON` and
//! `LEASEHOLD_NODE_MODULES`.

use super::gateway::Gateway;
use super::*;
use core::time::Duration;
use leasehold_testbed::{Backend, BackendConfig};
use std::net::{TcpListener, TcpStream};
use ureq::Agent;
use ureq::http::Request;

/// Runs a script with arguments, and returns what it printed; `None` if there is no Python with this package.
fn python(package: &str, script: &str, arguments: &[&str]) -> Option<String> {
    let program = std::env::var("LEASEHOLD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_package = Command::new(&program)
        .args(["-c", &format!("import {package}")])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_package {
        leave_out(&format!(
            "{program} has no package {package}; set LEASEHOLD_PYTHON"
        ));
        return None;
    }
    Some(run(Command::new(&program), script, arguments))
}

/// Runs a script with Node, and returns what it printed; `None` if there is no Node with OpenAI's package.
fn node(script: &str, arguments: &[&str]) -> Option<String> {
    let modules = std::env::var("LEASEHOLD_NODE_MODULES").unwrap_or_default();
    if modules.is_empty() || !Path::new(&modules).join("openai").is_dir() {
        leave_out("Node has no package openai; set LEASEHOLD_NODE_MODULES");
        return None;
    }
    Some(run(Command::new("node"), script, arguments))
}

fn run(mut program: Command, script: &str, arguments: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let output = program
        // The folder stays as it is checked out.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(folder.join(script))
        .args(arguments)
        .output()
        .expect("it starts");
    let told = text(&output.stderr);
    assert!(output.status.success(), "{script}: {told}");
    text(&output.stdout)
}

/// Tells that a test can't be made here; fails in the gate, which installs what it needs.
fn leave_out(reason: &str) {
    let is_gate = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_gate, "{reason}");
    println!("left out: {reason}");
}

/// Starts a gateway before a service, with its first key, and returns its URL too.
fn gateway_with_one_key(testbed: &Testbed) -> (Gateway, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.txt");
    fs::write(&keys, "sk-testbed-0001\n").expect("a file");
    let keys = keys.to_str().expect("a path of text");
    let url = format!("{}/v1", testbed.url);
    let gateway = Gateway::start(&["--port", "0", "--openai", &url, "--keys", keys]);
    let through = format!("http://{}", gateway.address);
    (gateway, through)
}

#[test]
fn openais_packages_see_no_difference_between_the_service_and_the_gateway() {
    let testbed = Testbed::start(&["--keys", "1"]);
    if let Some(printed) = python("openai", "openai_package.py", &[&testbed.url]) {
        assert_eq!(printed, "ok\n");
    }
    let (gateway, through) = gateway_with_one_key(&testbed);
    let both = [testbed.url.as_str(), &through];
    let printed = [
        python("openai", "openai_package.py", &both),
        node("openai_package.mjs", &both),
    ];
    for printed in printed.into_iter().flatten() {
        assert_eq!(printed, "ok\n");
    }
    gateway.end();
}

#[test]
fn anthropics_package_sees_no_difference_between_the_service_and_the_gateway() {
    let testbed = Testbed::start(&["--keys", "1"]);
    let (gateway, through) = gateway_with_one_key(&testbed);
    for urls in [&[testbed.url.as_str()][..], &[&testbed.url, &through]] {
        if let Some(printed) = python("anthropic", "anthropic_package.py", urls) {
            assert_eq!(printed, "ok\n");
        }
    }
    gateway.end();
}

#[test]
fn websockets_pass_through_the_gateway() {
    let backend = Backend::start(BackendConfig::default()).expect("a free port");
    let address = backend.address().to_string();
    let gateway = Gateway::start(&["--port", "0", "--backend", &address]);
    let url = format!("ws://{}/ws", gateway.address);
    if let Some(printed) = python("websockets", "websocket.py", &[&url]) {
        assert_eq!(printed, "ok\n");
        assert!(backend.wait(Duration::from_secs(20), |report| {
            report.websockets_open == 0
        }));
    }
    gateway.end();
}

/// An nginx that passes everything on to a gateway, in one of two ways.
struct Nginx {
    process: Child,
    _folder: TempDir,
}

impl Nginx {
    /// Starts it on a port; `None` if it is not installed.
    fn start(port: u16, gateway: &str, more: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("nginx.conf");
        let home = folder.path().display();
        let settings = format!(
            "daemon off; pid {home}/pid; error_log stderr error; events {{}}\n\
            http {{ access_log off; client_body_temp_path {home}/a; proxy_temp_path {home}/b;\n\
            fastcgi_temp_path {home}/c; uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;\n\
            server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{gateway}; {more} }} }} }}\n"
        );
        fs::write(&path, settings).expect("a file");
        let process = Command::new("nginx").arg("-c").arg(&path).spawn();
        let Ok(process) = process else {
            leave_out("there is no nginx");
            return None;
        };
        let nginx = Self {
            process,
            _folder: folder,
        };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // In order, so that its workers end too.
        send_signal(&self.process, "QUIT");
        let _ = self.process.wait();
    }
}

#[test]
fn behind_an_nginx_on_this_machine_nothing_is_changed_without_the_token() {
    let backend = Backend::start(BackendConfig::default()).expect("a free port");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let url = backend.url();
    let settings = format!(
        "access_log = false\n[admin]\ntoken_file = \"token\"\n\
        [pools.web]\nkind = \"http\"\nmembers = [{{ name = \"one\", url = \"{url}\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
    );
    fs::write(&path, settings).unwrap();
    fs::write(folder.path().join("token"), "a-token-of-some-length").unwrap();
    let gateway = Gateway::start(&["--config", path.to_str().unwrap()]);
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let forwarding = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    for more in ["", forwarding, "proxy_set_header Host $host;"] {
        let port = free_port();
        let Some(_nginx) = Nginx::start(port, &gateway.address, more) else {
            break;
        };
        let call = |method: &str, path: &str, token: Option<&str>| {
            let url = format!("http://127.0.0.1:{port}/lb/{path}");
            let request = Request::builder()
                .method(method)
                .uri(url)
                .header("content-type", "application/json");
            let request = match token {
                Some(token) => request.header("authorization", format!("Bearer {token}")),
                None => request,
            };
            let body = match path {
                "backends/add" => r#"{"host": "127.0.0.1", "port": 9}"#,
                "backends/one/breaker" => r#"{"state": "open"}"#,
                _ => r#"{"weight": 2}"#,
            };
            let answer = agent.run(request.body(body).expect("a request"));
            answer.expect("it answers").status().as_u16()
        };
        let changes = [
            ("POST", "backends/add"),
            ("POST", "backends/one/disable"),
            ("POST", "backends/one/drain"),
            ("POST", "backends/one/weight"),
            ("POST", "backends/one/breaker"),
            ("DELETE", "backends/one/remove"),
        ];
        for (method, path) in changes {
            for token in [None, Some("another-token-of-some-length")] {
                let status = call(method, path, token);
                assert!([401, 403].contains(&status), "{method} {path}: {status}");
            }
        }
        let weight = "backends/one/weight";
        let token = Some("a-token-of-some-length");
        assert_eq!(call("POST", weight, token), 200, "{more}");
    }
    gateway.end();
}

/// A port that was free just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

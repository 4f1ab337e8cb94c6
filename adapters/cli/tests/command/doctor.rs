//! The doctor, with real files, sockets, members and gateways.

use super::gateway::{Gateway, backend};
use super::*;
use core::net::SocketAddr;
use leasehold_testbed::{OpenAi, OpenAiConfig};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

/// A folder with a configuration.
struct Patient(TempDir);

impl Patient {
    fn new(config: &str) -> Self {
        let patient = Self(tempfile::tempdir().expect("a temporary folder"));
        patient.write("leasehold.toml", config, 0o644);
        patient
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).expect("it can be written");
        let rights = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.path(name), rights).expect("it is ours");
    }

    /// Runs the doctor with its settings.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut doctor = leasehold();
        doctor.arg("doctor").args(arguments);
        doctor.arg("--config").arg(self.path("leasehold.toml"));
        doctor.output().expect("it runs")
    }

    /// Returns its exit code and its findings: check, level, text.
    fn findings(&self) -> (Option<i32>, Vec<[String; 3]>) {
        let output = self.run(&["--json", "--timeout", "2s"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("a list").iter();
        let field = |finding: &Value, name: &str| finding[name].as_str().expect(name).to_owned();
        let findings = findings
            .map(|finding| ["check", "level", "text"].map(|name| field(finding, name)))
            .collect();
        (output.status.code(), findings)
    }

    /// Returns the exit code and the level of the one finding that holds this text.
    #[track_caller]
    fn finding(&self, check: &str, part: &str) -> (Option<i32>, String) {
        let (code, findings) = self.findings();
        let fits = |[of, _, text]: &&[String; 3]| of == check && text.contains(part);
        let found: Vec<_> = findings.iter().filter(fits).collect();
        let [[_, level, _]] = &found[..] else {
            panic!("{check}, {part}: {findings:#?}");
        };
        (code, level.clone())
    }
}

/// A configuration with a pool of one server and a listener.
fn web(member: impl core::fmt::Display, listen: &str, more: &str) -> String {
    format!(
        "access_log = false\n{more}\n[pools.web]\nkind = \"http\"\nmembers = [{{ url = \"http://{member}\" }}]\n\
         [[listen]]\naddress = \"{listen}\"\nserve = \"http\"\npool = \"web\"\nbounds = {{ max_connections = 100 }}\n"
    )
}

/// An address at which nothing listens.
fn closed() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("an address")
}

#[test]
fn a_sound_gateway_has_no_error_and_gets_no_request() {
    let backend = backend("");
    let patient = Patient::new(&web(backend.address(), "127.0.0.1:0", "state = \"state\""));
    fs::set_permissions(patient.0.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
    let output = patient.run(&[]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for part in [
        "ok       config  ",
        "pools 1, members 1, listeners 1",
        "ok       state   ",
        "ok       reach   pool web: http://127.0.0.1:",
        "connected in ",
        "\nerrors 0, ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(backend.stop().requests, 0);
}

#[test]
fn wrong_settings_are_told_with_their_place() {
    let patient = Patient::new("[pools.web]\nkind = \"http\"\npolcy = \"fifo\"\n");
    let (code, findings) = patient.findings();
    assert_eq!(code, Some(2));
    let [[check, level, text]] = &findings[..] else {
        panic!("{findings:?}");
    };
    assert_eq!((&**check, &**level), ("config", "error"));
    assert!(
        text.contains("leasehold.toml:3:1: ") && text.contains("did you mean policy?"),
        "{text}"
    );
}

#[test]
fn keys_are_reached_without_a_call_and_never_shown() {
    let service = OpenAi::start(OpenAiConfig::default()).expect("a free port");
    let patient = Patient::new(&format!(
        "access_log = false\n[pools.keys]\nkind = \"openai\"\nmembers = [{{ url = \"{}/v1\", keys = \"keys.txt\" }}]\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n",
        service.url()
    ));
    patient.write("keys.txt", "sk-testbed-0001\nsk-testbed-0002\n", 0o644);
    let problem = "every user of this machine can read the secrets in it";
    assert_eq!(
        patient.finding("rights", problem),
        (Some(1), "error".to_owned())
    );
    patient.write("keys.txt", "sk-testbed-0001\nsk-testbed-0002\n", 0o600);
    let (code, findings) = patient.findings();
    assert_eq!(code, Some(0), "{findings:?}");
    let of_service: Vec<_> = findings
        .iter()
        .filter(|[check, ..]| check == "reach")
        .collect();
    assert_eq!(
        of_service.len(),
        1,
        "both keys are at one place: {findings:?}"
    );
    assert!(
        !format!("{findings:?}").contains("sk-testbed"),
        "{findings:?}"
    );
    assert_eq!(service.stop().calls, 0);
}

#[test]
fn rights_that_let_others_in_are_errors() {
    let state = "state = \"state\"";
    let patient = Patient::new(&web(closed(), "127.0.0.1:0", state));
    patient.write(
        "leasehold.toml",
        &web(closed(), "127.0.0.1:0", state),
        0o666,
    );
    let changed = "can change it; chmod o-w";
    assert_eq!(patient.finding("rights", changed).1, "error");
    patient.write("state", "", 0o644);
    assert_eq!(patient.finding("rights", "its mode is 644").1, "error");
    patient.write("state", "another program's", 0o600);
    assert_eq!(patient.finding("rights", "its owner's alone").1, "ok");
    patient.write("state", "another program's\n", 0o600);
    assert_eq!(
        patient.finding("state", "this is no state of a gateway").1,
        "error"
    );
    fs::set_permissions(patient.0.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    assert_eq!(patient.finding("rights", "can replace files in").1, "error");
}

#[test]
fn an_address_in_use_is_told_with_the_process_that_holds_it() {
    let backend = backend("");
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("an address").to_string();
    let patient = Patient::new(&web(backend.address(), &address, ""));
    // The holder is this test, whose name the system cuts to 15 bytes.
    let holder = "in use by command-";
    assert_eq!(
        patient.finding("port", holder),
        (Some(1), "error".to_owned())
    );
    drop(other);
    assert_eq!(
        patient.finding("port", ": free"),
        (Some(0), "ok".to_owned())
    );
    let socket = patient.path("web.sock");
    let path = format!("unix:{}", socket.display());
    patient.write("leasehold.toml", &web(backend.address(), &path, ""), 0o644);
    assert_eq!(patient.finding("port", ": free").1, "ok");
    patient.write("web.sock", "", 0o600);
    assert_eq!(
        patient.finding("port", "a file that is no socket").1,
        "error"
    );
}

#[test]
fn a_running_gateway_is_known_as_ours_and_lives() {
    let backend = backend("");
    let address = closed().to_string();
    let patient = Patient::new(&web(backend.address(), &address, "state = \"state\""));
    let live = ["--live", "--timeout", "2s"];
    let before = patient.run(&live);
    assert_eq!(before.status.code(), Some(1));
    assert!(text(&before.stdout).contains("is the gateway started"));
    let other = Patient::new(&web(backend.address(), &backend.address().to_string(), ""));
    let taken = other.run(&live);
    assert_eq!(taken.status.code(), Some(1), "a backend is no gateway");
    assert!(text(&taken.stdout).contains("does another program listen there"));
    let config = patient.path("leasehold.toml");
    let gateway = Gateway::start(&["--config", config.to_str().expect("a text")]);
    let during = patient.run(&live);
    assert_eq!(during.status.code(), Some(0), "{}", text(&during.stdout));
    let process = gateway.process.id();
    let ours = format!("in use by leasehold gateway, process {process}");
    assert_eq!(patient.finding("port", &ours), (Some(0), "ok".to_owned()));
    let held = format!("in use by a gateway, process {process}");
    assert_eq!(patient.finding("state", &held).1, "ok");
    gateway.end();
    assert_eq!(patient.finding("state", "used by no gateway").1, "ok");
    let reports = backend.stop().requests;
    assert_eq!(
        reports, 1,
        "but for the one that was to be no gateway, none is for the backend"
    );
}

#[test]
fn members_are_asked_for_their_health_and_none_that_answers_is_an_error() {
    let (one, two) = (backend(""), closed());
    let health = "health = { path = \"/health\" }";
    let text = |members: &str| {
        format!(
            "access_log = false\n[pools.web]\nkind = \"http\"\n{health}\nmembers = [{members}]\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
        )
    };
    let member = |address: SocketAddr| format!("{{ url = \"http://{address}\" }}");
    let both = text(&format!("{}, {}", member(one.address()), member(two)));
    let patient = Patient::new(&both);
    assert_eq!(
        patient.finding("reach", "/health answered in"),
        (Some(0), "ok".to_owned())
    );
    assert_eq!(patient.finding("reach", &two.to_string()).1, "warning");
    patient.write("leasehold.toml", &text(&member(two)), 0o644);
    let none = "no member of the pool can be reached";
    assert_eq!(
        patient.finding("reach", none),
        (Some(1), "error".to_owned())
    );
    // TLS is tried where the URL says so.
    let secure = member(one.address()).replace("http://", "https://");
    patient.write("leasehold.toml", &text(&secure), 0o644);
    assert_eq!(patient.finding("reach", "it does not speak TLS").1, "error");
}

#[test]
fn receivers_of_alerts_are_looked_at_and_get_no_message() {
    let backend = backend("");
    let webhook = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let alert = |more: &str| format!("[[alert]]\nwhen = \"member down\"\n{more}\n");
    let config = |command: &str| {
        let alert = alert(&format!(
            "webhook_file = \"alert.url\"\ncommand = [{command:?}]"
        ));
        web(backend.address(), "127.0.0.1:0", "") + &alert
    };
    let patient = Patient::new(&config("sh"));
    let address = webhook.local_addr().expect("an address");
    patient.write("alert.url", &format!("http://{address}/secret"), 0o600);
    let reached = format!("member down: the webhook http://{address}: connected");
    assert_eq!(
        patient.finding("alert", &reached),
        (Some(0), "ok".to_owned())
    );
    assert_eq!(
        patient.finding("alert", "the command \"sh\": it is /").1,
        "ok"
    );
    webhook.set_nonblocking(true).expect("it is ours");
    while let Ok((mut connection, _)) = webhook.accept() {
        let mut sent = Vec::new();
        connection.set_nonblocking(false).expect("it is ours");
        connection.read_to_end(&mut sent).expect("it has ended");
        assert!(sent.is_empty(), "{}", text(&sent));
    }
    drop(webhook);
    let plain = patient.path("page").display().to_string();
    patient.write("page", "#!/bin/sh", 0o644);
    for (command, problem) in [
        ("no-such-program", "no folder of PATH has it"),
        ("/no/such/program", "there is no such file"),
        (&plain, "it is no file that may be run here"),
    ] {
        patient.write("leasehold.toml", &config(command), 0o644);
        let error = (Some(1), "error".to_owned());
        assert_eq!(patient.finding("alert", problem), error);
        assert_eq!(patient.finding("alert", "cannot connect: "), error);
    }
}

#[test]
fn clocks_that_differ_and_too_few_files_are_warnings() {
    let answer =
        "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n";
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = server.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in server.incoming() {
            use std::io::Write as _;
            let mut stream = BufReader::new(stream.expect("a connection"));
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {}
            let _ = stream.get_mut().write_all(answer.as_bytes());
        }
    });
    let config = web(address, "127.0.0.1:0", "");
    let config = config.replace("members", "health = { path = \"/health\" }\nmembers");
    let patient = Patient::new(&config.replace("= 100", "= 4000000000"));
    assert_eq!(
        patient.finding("clock", "differs from this machine's by").1,
        "warning"
    );
    assert_eq!(
        patient.finding("files", "set LimitNOFILE=8000000256").1,
        "warning"
    );
}

#[test]
fn a_machine_is_looked_at_without_settings() {
    let output = leasehold().arg("doctor").output().expect("it runs");
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(
        told.contains("run alike") && told.contains("may be open"),
        "{told}"
    );
}

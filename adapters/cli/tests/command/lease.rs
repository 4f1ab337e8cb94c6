//! Commands under leases of a gateway's pool.

use super::gateway::Gateway;
use super::*;
use core::time::Duration;
use leasehold_sync::{Clock, Tick};
use ureq::Agent;

const TOKEN: &str = "a-token-of-some-length";

/// A folder with a gateway's settings: one key, which serves one caller at a time.
struct Site {
    folder: TempDir,
    port: u16,
}

impl Site {
    fn new(listen: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // A restart must come to the same address.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        let settings = format!(
            "state = \"state\"\n[pools.keys]\nkind = \"openai\"\n[[pools.keys.members]]\n\
            url = \"https://api.test/v1\"\nkeys = \"keys.txt\"\nlimits = \"1 concurrent\"\n\
            [[listen]]\naddress = \"127.0.0.1:{port}\"\nserve = \"leases\"\n\
            token_file = \"token\"\n{listen}\n"
        );
        let site = Self { folder, port };
        fs::write(site.path("gateway.toml"), settings).expect("it is written");
        fs::write(site.path("keys.txt"), "sk-test-0001\n").expect("it is written");
        fs::write(site.path("token"), TOKEN).expect("it is written");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Gateway {
        let config = self.path("gateway.toml");
        Gateway::start(&["--config", config.to_str().expect("a path")])
    }

    fn lease(&self, arguments: &[&str], script: &str) -> Command {
        let mut command = leasehold();
        let url = format!("http://127.0.0.1:{}/v1/pools/keys", self.port);
        command.args(["lease", "--pool", &url, "--token-file"]);
        command.arg(self.path("token")).args(arguments);
        command.args(["--", "sh", "-c", script]);
        command
    }

    fn run(&self, arguments: &[&str], script: &str) -> (Option<i32>, String, String) {
        let output = self.lease(arguments, script).output().expect("it runs");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        (output.status.code(), out, err)
    }

    /// What the gateway tells of its key.
    fn member(&self) -> Value {
        let url = format!("http://127.0.0.1:{}/v1/pools/keys", self.port);
        let answer = Agent::new_with_defaults()
            .get(&url)
            .header("authorization", format!("Bearer {TOKEN}"))
            .call();
        let text = answer.expect("it answers").body_mut().read_to_string();
        let view: Value = serde_json::from_str(&text.expect("a text")).expect("JSON");
        view["members"][0].clone()
    }

    /// Waits until the gateway tells this of its key.
    fn wait_for(&self, field: &str, value: u64) {
        let clock = Clock::start();
        while self.member()[field] != value {
            assert!(
                clock.now() < Tick::ZERO.saturating_add(Duration::from_secs(20)),
                "{}",
                self.member()
            );
        }
    }
}

#[test]
fn a_command_has_the_key_and_its_exit_code_is_the_outcome() {
    let site = Site::new("");
    let gateway = site.start();
    let script = "echo $LEASEHOLD_URL $LEASEHOLD_KEY $OPENAI_API_KEY $LEASEHOLD_TOKEN.";
    let (code, out, err) = site.run(&["--key-env", "OPENAI_API_KEY"], script);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out, "https://api.test/v1 sk-test-0001 sk-test-0001 .\n");
    assert_eq!(site.run(&[], "exit 3").0, Some(3));
    assert_eq!(site.run(&[], "kill -9 $$").0, Some(137));
    let member = site.member();
    let counts = ["ok", "failed", "unknown", "held"].map(|name| member[name].as_u64());
    assert_eq!(counts, [1, 1, 1, 0].map(Some), "{member}");
    assert_eq!(site.run(&[], "exit 75").0, Some(75));
    assert_eq!(site.member()["throttled"], 1);
    let mut absent = leasehold();
    let url = format!("http://127.0.0.1:{}", site.port);
    absent.args(["lease", "--pool", &url, "--", "no-such-command-of-a-test"]);
    let output = absent
        .env("LEASEHOLD_TOKEN", TOKEN)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(127), "{}", text(&output.stderr));
    assert_eq!(site.member()["not_sent"], 1);
    gateway.end();
}

#[test]
fn commands_take_turns_and_one_that_may_not_wait_says_so() {
    let site = Site::new("");
    let gateway = site.start();
    let mut first = site
        .lease(&[], "read line")
        .stdin(Stdio::piped())
        .spawn()
        .expect("it runs");
    site.wait_for("held", 1);
    let (code, _, err) = site.run(&["--wait", "50ms"], "true");
    assert_eq!(code, Some(125), "{err}");
    assert!(err.contains("error: http://127.0.0.1:"), "{err}");
    drop(first.stdin.take());
    assert_eq!(first.wait().expect("it ends").code(), Some(1));
    assert_eq!(site.run(&[], "true").0, Some(0));
    let (code, _, err) = site.run(&["--class", ""], "true");
    assert_eq!(code, Some(2), "{err}");
    gateway.end();
    for (url, code) in [
        ("127.0.0.1:1", 2),
        ("http://127.0.0.1:1/keys", 2),
        ("http://127.0.0.1:1", 125),
    ] {
        let output = leasehold()
            .args(["lease", "--pool", url, "--wait", "100ms", "--", "true"])
            .output();
        assert_eq!(output.expect("it runs").status.code(), Some(code), "{url}");
    }
}

#[test]
fn a_command_outlives_a_kill_of_the_gateway_and_ends_with_its_lease() {
    let site = Site::new("lease_ttl = \"1s\"");
    let mut gateway = site.start();
    let mut command = site
        .lease(&[], "read line")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    site.wait_for("held", 1);
    gateway.process.kill().expect("it runs");
    gateway.process.wait().expect("it ends");
    let mut gateway = site.start();
    // It is renewed by the new gateway, which has it from its file.
    let clock = Clock::start();
    while clock.now() < Tick::ZERO.saturating_add(Duration::from_millis(1_500)) {
        assert_eq!(site.member()["held"], 1, "{}", site.member());
    }
    gateway.process.kill().expect("it runs");
    gateway.process.wait().expect("it ends");
    let mut told = String::new();
    let mut stderr = command.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut told).expect("a text");
    assert!(told.contains("the lease has expired"), "{told}");
    assert_eq!(command.wait().expect("it ends").code(), Some(125));
}

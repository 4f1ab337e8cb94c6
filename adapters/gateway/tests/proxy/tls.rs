//! TLS towards backends: which certificates are taken, and what is told of those that are not.
//!
//! The authorities in `SSL_CERT_FILE` are read once in a process, so each test here starts itself again as a process
//! that has its own.

use crate::support::{Answer, get, start};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use leasehold_config::LogSettings;
use leasehold_gateway::OperatorLog;
use leasehold_testbed::{Backend, BackendConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{env, fs, thread};

/// The folder of a test's authority; set in the process that the test starts.
const FOLDER: &str = "LEASEHOLD_TEST_AUTHORITY";

/// Runs a test in a process of its own, which trusts one authority.
fn in_own_process(name: &str, test: impl FnOnce(&Authority)) {
    in_own_process_until(name, &[], test);
}

/// Runs a test in a process of its own, whose standard input ends once it has told each of these begins of a line, with
/// the reason.
fn in_own_process_until(name: &str, awaited: &[[&str; 2]], test: impl FnOnce(&Authority)) {
    if let Some(folder) = env::var_os(FOLDER) {
        let (_, subscriber, _flush) = OperatorLog::new(&LogSettings::default(), std::io::stderr());
        tracing::dispatcher::set_global_default(subscriber).expect("the only one");
        return test(&Authority::open(&PathBuf::from(folder)));
    }
    let folder = tempfile::tempdir().expect("a folder");
    Authority::make(folder.path());
    let mut process = Command::new(env::current_exe().expect("its program"))
        .args(["--exact", "--nocapture", &format!("tls::{name}")])
        .env("SSL_CERT_FILE", folder.path().join("ca.pem"))
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let input = process.stdin.take().expect("a pipe");
    let errors = BufReader::new(process.stderr.take().expect("a pipe"));
    let mut errors = errors.lines().map(|line| line.expect("a text"));
    let mut told = Vec::new();
    let is_told = |told: &[String], [begin, reason]: &[&str; 2]| {
        let mut lines = told.iter();
        lines.any(|line| line.starts_with(begin) && line.contains(reason))
    };
    while !awaited.iter().all(|line| is_told(&told, line)) {
        match errors.next() {
            Some(line) => told.push(line),
            None => break,
        }
    }
    drop(input);
    told.extend(errors);
    let output = process.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{told:#?}");
    assert!(text.contains("1 passed"), "{text}");
    for line in awaited {
        assert!(is_told(&told, line), "{line:?} is not in {told:#?}");
    }
}

/// A certificate authority for one test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn parameters() -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
    }

    /// Writes a new one into a folder.
    fn make(folder: &Path) {
        let key = KeyPair::generate().expect("a key");
        let certificate = Self::parameters().self_signed(&key).expect("a certificate");
        fs::write(folder.join("ca.pem"), certificate.pem()).expect("a file");
        fs::write(folder.join("key.pem"), key.serialize_pem()).expect("a file");
    }

    fn open(folder: &Path) -> Self {
        let key = fs::read_to_string(folder.join("key.pem")).expect("a file");
        let key = KeyPair::from_pem(&key).expect("a key");
        Self {
            issuer: Issuer::new(Self::parameters(), key),
        }
    }

    /// One that the gateway does not know.
    fn unknown() -> Self {
        Self {
            issuer: Issuer::new(Self::parameters(), KeyPair::generate().expect("a key")),
        }
    }

    /// Starts a backend with a certificate for a name, changed as a test likes it.
    fn backend(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> SecureBackend {
        let mut parameters = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut parameters);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        SecureBackend::start(certificate.der().clone(), key)
    }
}

/// A server that speaks TLS, answers each request with `secure`, and counts them.
struct SecureBackend {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl SecureBackend {
    fn start(
        certificate: rustls::pki_types::CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a key that fits");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, counted) = (Arc::clone(&config), Arc::clone(&counted));
                // A caller that hangs up in the handshake is what some tests want.
                thread::spawn(move || _ = serve(stream.expect("a connection"), config, &counted));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, counted: &AtomicU64) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let mut line = String::new();
        while stream.read_line(&mut line)? > 2 {
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        counted.fetch_add(1, Ordering::SeqCst);
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecure")?;
    }
}

/// Asks for `/` through a gateway before one member.
fn ask(url: &str) -> Answer {
    let running = start(&config("retry = { attempts = 1 }", url));
    get(running.address, "/")
}

fn config(pool: &str, url: &str) -> String {
    format!(
        "access_log = false\n[pools.web]\nkind = \"http\"\n{pool}\nmembers = [{{ url = \"{url}\", name = \"one\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n"
    )
}

fn assert_refused(answer: &Answer, reason: &str) {
    let text = answer.text();
    assert_eq!(answer.status, 502, "{text}");
    let begin = "no_connection: backend one: cannot connect: TLS: ";
    assert!(text.starts_with(begin), "{text}");
    assert!(text.contains(reason), "{text}");
}

#[test]
fn a_good_certificate_is_taken_for_a_name_and_for_an_address() {
    in_own_process(
        "a_good_certificate_is_taken_for_a_name_and_for_an_address",
        |authority| {
            for name in ["127.0.0.1", "localhost"] {
                let backend = authority.backend(name, |_| {});
                let url = format!("https://{name}:{}", backend.address.port());
                let answer = ask(&url);
                assert_eq!((answer.status, answer.text()), (200, "secure"), "{name}");
                assert_eq!(backend.requests(), 1);
            }
        },
    );
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    in_own_process("a_certificate_for_another_name_is_refused", |authority| {
        let backend = authority.backend("example.com", |_| {});
        let answer = ask(&format!("https://{}", backend.address));
        assert_refused(&answer, "certificate not valid for name \"127.0.0.1\"");
        assert!(answer.text().contains("example.com"), "{}", answer.text());
        assert_eq!(backend.requests(), 0);
    });
}

#[test]
fn a_certificate_that_is_too_old_or_too_new_is_refused() {
    in_own_process(
        "a_certificate_that_is_too_old_or_too_new_is_refused",
        |authority| {
            let old = authority.backend("127.0.0.1", |parameters| {
                parameters.not_after = date_time_ymd(2020, 1, 1);
            });
            let new = authority.backend("127.0.0.1", |parameters| {
                parameters.not_before = date_time_ymd(2999, 1, 1);
            });
            for (backend, reason) in [(old, "certificate expired"), (new, "not valid yet")] {
                let answer = ask(&format!("https://{}", backend.address));
                assert_refused(&answer, reason);
                assert_eq!(backend.requests(), 0);
            }
        },
    );
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    in_own_process("a_certificate_of_an_unknown_authority_is_refused", |_| {
        let backend = Authority::unknown().backend("127.0.0.1", |_| {});
        let answer = ask(&format!("https://{}", backend.address));
        assert_refused(&answer, "invalid peer certificate");
        assert_eq!(backend.requests(), 0);
    });
}

#[test]
fn a_backend_that_speaks_plain_text_is_refused() {
    in_own_process("a_backend_that_speaks_plain_text_is_refused", |_| {
        let backend = Backend::start(BackendConfig::default()).unwrap();
        let answer = ask(&format!("https://{}", backend.address()));
        assert_refused(&answer, "it does not speak TLS");
        assert_eq!(backend.report().requests, 0);
    });
}

#[test]
fn the_log_says_why_a_backend_is_left_alone() {
    let reason = "cannot connect: TLS: invalid peer certificate: certificate not valid for name \"127.0.0.1\"";
    let lines = [
        ["pool web: one: down: ", reason],
        ["pool web: one: breaker open for ", reason],
    ];
    let name = "the_log_says_why_a_backend_is_left_alone";
    in_own_process_until(name, &lines, |authority| {
        let backend = authority.backend("example.com", |_| {});
        let url = format!("https://{}", backend.address);
        let checked = "max_wait = \"10ms\"\n\
            health = { interval = \"50ms\", unhealthy_after = 1, healthy_after = 1 }";
        let _checked = start(&config(checked, &url));
        let broken = "breaker = { failures = 1, open = \"60s\" }\nretry = { attempts = 1 }";
        let broken = start(&config(broken, &url));
        assert_eq!(get(broken.address, "/").status, 502);
        let mut end = Vec::new();
        std::io::stdin().read_to_end(&mut end).unwrap();
        assert_eq!(backend.requests(), 0);
    });
}

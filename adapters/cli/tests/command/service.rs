//! The gateway under a service manager: sockets that outlive it, what it tells, and a watchdog.

use super::gateway::{Gateway, backend};
use super::*;
use command_fds::{CommandFdExt, FdMapping};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

const LONG: Duration = Duration::from_secs(20);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A folder with a configuration, and the sockets that a service manager keeps for it.
struct Service {
    folder: TempDir,
    sockets: Vec<OwnedFd>,
}

impl Service {
    /// Writes a configuration with one pool and these further lines.
    fn new(backend: SocketAddr, sockets: Vec<OwnedFd>, more: &str) -> Self {
        let service = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            sockets,
        };
        let text = format!(
            "access_log = false\n{more}\n[pools.web]\nkind = \"http\"\nmembers = [{{ url = \"http://{backend}\" }}]\n"
        );
        fs::write(service.config(), text).expect("it can be written");
        service
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("leasehold.toml")
    }

    /// The gateway, which takes the sockets from number 3 on; its process has the id that `LISTEN_PID` names.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$0\" gateway --config \"$1\""])
            .arg(env!("CARGO_BIN_EXE_leasehold"))
            .arg(self.config())
            .env("LISTEN_FDS", self.sockets.len().to_string());
        let sockets = self.sockets.iter().zip(3..);
        let sockets = sockets.map(|(socket, child_fd)| FdMapping {
            parent_fd: socket.try_clone().expect("it can be cloned"),
            child_fd,
        });
        let mapped = command.fd_mappings(sockets.collect());
        mapped.expect("each has a number of its own");
        command
    }
}

/// The table of a listener at this address.
fn listener(address: &str) -> String {
    format!("listen = [{{ address = \"{address}\", serve = \"http\", pool = \"web\" }}]")
}

fn bound() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// A caller that keeps its connection, and connects anew only where an answer says so, as load generators do.
struct Caller {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Caller {
    /// Sends a request; an error says at which point it failed.
    fn get(&mut self) -> Result<(), String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address);
                let stream = stream.map_err(|error| format!("connect: {error}"))?;
                let bounded = stream.set_read_timeout(Some(LONG));
                bounded.map_err(|error| error.to_string())?;
                BufReader::new(stream)
            }
        };
        let sent = stream.get_mut().write_all(GET);
        sent.map_err(|error| format!("send: {error}"))?;
        let (mut length, mut closes, mut head) = (0, false, String::new());
        loop {
            let mut line = String::new();
            let read = stream.read_line(&mut line);
            match read.map_err(|error| format!("read: {error}, after {head:?}"))? {
                0 => return Err(format!("closed after {head:?}")),
                _ if line == "\r\n" => break,
                _ => head += &line.to_ascii_lowercase(),
            }
        }
        for line in head.lines() {
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().map_err(|error| format!("{line}: {error}"))?;
            }
            closes |= line == "connection: close";
        }
        let mut body = vec![0; length];
        let read = stream.read_exact(&mut body);
        read.map_err(|error| format!("body: {error}"))?;
        self.stream = (!closes).then_some(stream);
        match head.starts_with("http/1.1 200 ") {
            true => Ok(()),
            false => Err(head),
        }
    }
}

/// Stops callers at its end.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The promise of socket activation: a restart and a reload under load fail no request.
#[test]
fn no_request_fails_over_restarts_and_reloads_under_load() {
    let backend = backend("");
    let (socket, address) = bound();
    let listen = listener(&address.to_string());
    let service = Service::new(backend.address(), vec![socket.into()], &listen);
    let (stop, ok) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = std::sync::Mutex::new(Vec::new());
    let wait_for_more = |more: u64| {
        let enough = ok.load(Ordering::Relaxed) + more;
        while ok.load(Ordering::Relaxed) < enough && failures.lock().expect("sound").is_empty() {
            thread::sleep(Duration::from_millis(2));
        }
    };
    thread::scope(|scope| {
        for number in 0..8 {
            let (stop, ok, failures) = (&stop, &ok, &failures);
            scope.spawn(move || {
                let mut caller = Caller {
                    address,
                    stream: None,
                };
                while !stop.load(Ordering::Relaxed) {
                    match caller.get() {
                        Ok(()) => _ = ok.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return failures.lock().expect("sound").push(error),
                    }
                    // Half of the connections are mostly without a request, as those of most callers are.
                    thread::sleep(Duration::from_millis(number % 2 * 5));
                }
            });
        }
        // However this ends, the callers end too, for which the scope waits.
        let _stop = StopAtEnd(&stop);
        for _ in 0..4 {
            let mut gateway = Gateway::spawn(service.command());
            let mut told = BufReader::new(gateway.process.stderr.take().expect("it is piped"));
            assert!(next(&mut told).starts_with("started, listening at "));
            wait_for_more(500);
            send_signal(&gateway.process, "HUP");
            assert_eq!(next(&mut told), "the settings were reloaded\n");
            wait_for_more(500);
            send_signal(&gateway.process, "TERM");
            assert!(gateway.process.wait().expect("it ends").success());
        }
        // What waits at the socket now is answered by the next one.
        let gateway = Gateway::spawn(service.command());
        wait_for_more(100);
        stop.store(true, Ordering::Relaxed);
        gateway.end();
    });
    let failures = failures.into_inner().expect("sound");
    assert_eq!(failures, Vec::<String>::new(), "of {ok:?}");
}

/// The next line for the operator.
fn next(told: &mut impl BufRead) -> String {
    let mut line = String::new();
    told.read_line(&mut line).expect("it says so");
    line
}

#[test]
fn a_connection_without_a_request_is_closed_soon_after_a_drain_began() {
    let backend = backend("");
    let (socket, address) = bound();
    let listen = listener(&address.to_string());
    let service = Service::new(backend.address(), vec![socket.into()], &listen);
    let mut gateway = Gateway::spawn(service.command());
    let mut used = Caller {
        address,
        stream: None,
    };
    used.get().expect("an answer");
    let mut fresh = TcpStream::connect(address).expect("it is accepted");
    fresh.write_all(b"GET / HT").expect("it is sent");
    send_signal(&gateway.process, "TERM");
    let mut told = BufReader::new(gateway.process.stderr.take().expect("it is piped"));
    assert!(next(&mut told).starts_with("started, listening at "));
    let line = next(&mut told);
    assert!(line.starts_with("draining"), "{line}");
    // A request whose head has begun to come is answered, and so is the next one of a connection just used.
    fresh
        .write_all(b"TP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("it is sent");
    let mut answer = String::new();
    fresh.read_to_string(&mut answer).expect("it is closed");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(used.get(), Ok(()));
    assert!(
        used.stream.is_none(),
        "the answer says that it was the last one"
    );
    assert!(gateway.process.wait().expect("it ends").success());
}

#[test]
fn sockets_are_matched_by_address_and_the_rest_is_bound() {
    let backend = backend("");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("web.sock");
    let unix = UnixListener::bind(&path).expect("a socket");
    let (admin, admin_address) = bound();
    let more = format!(
        "listen = [\n{{ address = \"127.0.0.1:0\", serve = \"http\", pool = \"web\" }},\n\
         {{ address = \"unix:{}\", serve = \"http\", pool = \"web\" }}]\nadmin = {{ listen = \"{admin_address}\" }}",
        path.display()
    );
    // The order of the sockets is not that of the listeners.
    let sockets = vec![admin.into(), unix.into()];
    let service = Service::new(backend.address(), sockets, &more);
    let gateway = Gateway::spawn(service.command());
    let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
    let close = "connection: close\r\n\r\n";
    let mut answer = String::new();
    write!(stream, "GET / HTTP/1.1\r\nhost: localhost\r\n{close}").expect("it is sent");
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for (address, path) in [
        (admin_address.to_string(), "/health"),
        (gateway.address.clone(), "/"),
    ] {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let mut answer = String::new();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{close}").expect("it is sent");
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    gateway.end();
    assert!(path.exists(), "the socket is the service manager's");
}

#[test]
fn a_socket_that_no_listener_asks_for_is_told() {
    let backend = backend("");
    let (socket, address) = bound();
    let (file, _) = UnixDatagram::pair().expect("a pair");
    for (socket, parts) in [
        (
            OwnedFd::from(socket),
            [&*address.to_string(), "no listener has that address"],
        ),
        (file.into(), ["file 3", "can't be listened at"]),
    ] {
        let service = Service::new(backend.address(), vec![socket], &listener("127.0.0.1:0"));
        let output = service.command().output().expect("it runs");
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
}

/// What a gateway tells its service manager.
struct Told {
    socket: UnixDatagram,
    _folder: TempDir,
}

impl Told {
    fn by(command: &mut Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(LONG)).expect("it has one");
        command.env("NOTIFY_SOCKET", path);
        Self {
            socket,
            _folder: folder,
        }
    }

    fn next(&self) -> String {
        let mut text = [0; 4_096];
        let length = self.socket.recv(&mut text).expect("it tells something");
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// Waits for a message that holds this.
    fn wait_for(&self, part: &str) -> String {
        loop {
            let message = self.next();
            if message.contains(part) {
                return message;
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_of_the_start_reloads_and_the_end() {
    let backend = backend("");
    let service = Service::new(backend.address(), Vec::new(), &listener("127.0.0.1:0"));
    let mut command = service.command();
    let told = Told::by(&mut command);
    let gateway = Gateway::spawn(command);
    assert_eq!(told.next(), "READY=1\nSTATUS=serving\n");
    send_signal(&gateway.process, "HUP");
    let reloading = told.next();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let time: u64 = time
        .and_then(|time| time.trim().parse().ok())
        .expect(&reloading);
    assert!(time > 0);
    assert_eq!(told.next(), "READY=1\nSTATUS=serving\n");
    fs::write(service.config(), "nonsense").expect("it can be written");
    send_signal(&gateway.process, "HUP");
    told.wait_for("RELOADING=1");
    let wrong = told.next();
    assert!(
        wrong.starts_with("READY=1\nSTATUS=serving; not reloaded: ") && wrong.lines().count() == 2,
        "{wrong}"
    );
    gateway.end();
    assert!(told.next().starts_with("STOPPING=1\n"));
}

#[test]
fn a_watchdog_gets_signs_only_while_all_threads_make_progress() {
    let backend = backend("");
    let more = "admin = { listen = \"127.0.0.1:0\", token_file = \"token\" }";
    let (listener, address) = bound();
    drop(listener);
    let more = more.replace("127.0.0.1:0", &address.to_string());
    let more = format!("{more}\n{}", self::listener("127.0.0.1:0"));
    let service = Service::new(backend.address(), Vec::new(), &more);
    let token = "a-token-of-a-test";
    fs::write(service.folder.path().join("token"), token).expect("it can be written");
    let mut command = service.command();
    command.env("WATCHDOG_USEC", "2000000");
    let told = Told::by(&mut command);
    let gateway = Gateway::spawn(command);
    told.wait_for("WATCHDOG=1");
    told.wait_for("WATCHDOG=1");
    // A thread hangs that reads a pipe to which nothing is written.
    let settings = fs::read(service.config()).expect("it is there");
    fs::remove_file(service.config()).expect("it can be removed");
    let made = Command::new("mkfifo").arg(service.config()).status();
    assert!(made.expect("there is a mkfifo").success());
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "POST /lb/reload HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
    )
    .expect("it is sent");
    let status = told.wait_for("STATUS=");
    assert!(
        status.contains("gateway-admin makes no progress"),
        "{status}"
    );
    let silent = told
        .socket
        .set_read_timeout(Some(Duration::from_millis(2_500)));
    silent.expect("it has one");
    let mut byte = [0; 64];
    assert!(told.socket.recv(&mut byte).is_err(), "{byte:?}");
    told.socket
        .set_read_timeout(Some(LONG))
        .expect("it has one");
    fs::write(service.config(), settings).expect("it is read");
    told.wait_for("WATCHDOG=1");
    let (_, said) = gateway.end();
    assert!(said.contains("gateway-admin makes no progress"), "{said}");
}

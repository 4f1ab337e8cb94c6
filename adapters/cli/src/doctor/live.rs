//! Whether the gateway of these settings runs and answers: the health check of a container.

use super::finding::Findings;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use leasehold_config::{Address, Flags, Settings};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

const CHECK: &str = "live";
/// A call that needs no token on this machine, and whose answer is a gateway's alone.
const PATH: &str = "/lb/health";
/// A field of that answer.
const FIELD: &str = "\"total_backends\"";
/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 1 << 20;

/// Asks the gateway whether it lives.
pub(super) fn check(settings: Option<&Settings>, longest: Duration, findings: &mut Findings) {
    let admin = settings.and_then(|settings| settings.admin.listen.clone());
    let mut listeners = settings
        .into_iter()
        .flat_map(|settings| &settings.listeners);
    let first = listeners.next().map(|listener| listener.address.clone());
    let address = admin.or(first).unwrap_or_else(|| {
        let flags = Flags::default();
        Address::Tcp(SocketAddr::new(flags.host, flags.port))
    });
    let shown = match &address {
        Address::Tcp(address) => format!("http://{address}{PATH}"),
        Address::Unix(_) => format!("{address}, {PATH}"),
    };
    match ask(&address, longest) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") && answer.contains(FIELD) => {
            findings.ok(CHECK, format_args!("{shown}: the gateway answers"));
        }
        Ok(answer) => {
            let status = answer.lines().next().unwrap_or_default();
            findings.error(
                CHECK,
                format_args!("{shown}: answered with {status:?}, not as a gateway does; does another program listen there?"),
            );
        }
        Err(error) => findings.error(
            CHECK,
            format_args!("{shown}: {error}; is the gateway started, with these settings?"),
        ),
    }
}

fn ask(address: &Address, longest: Duration) -> io::Result<String> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&reachable(*address), longest)?;
            stream.set_read_timeout(Some(longest))?;
            stream.set_write_timeout(Some(longest))?;
            exchange(stream)
        }
        Address::Unix(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(longest))?;
            stream.set_write_timeout(Some(longest))?;
            exchange(stream)
        }
    }
}

/// Returns the address at which this machine reaches a listener of all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn exchange(mut stream: impl Read + Write) -> io::Result<String> {
    let request = format!("GET {PATH} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

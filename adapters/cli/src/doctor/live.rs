//! Whether the gateway of these settings runs and answers: the health check of a container.

use super::finding::Findings;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use leasehold_config::{Address, Settings};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

const CHECK: &str = "live";
/// Where a gateway from flags listens, unless they say otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Bytes of an answer that are read: its first line.
const STATUS_LINE: usize = 12;

/// Asks the gateway whether it lives.
pub(super) fn check(settings: Option<&Settings>, longest: Duration, findings: &mut Findings) {
    let admin = settings.and_then(|settings| settings.admin.listen.as_ref());
    let first = settings.and_then(|settings| settings.listeners.first());
    let (address, path) = match (admin, first) {
        (Some(admin), _) => (admin.clone(), "/health"),
        (None, Some(first)) => (first.address.clone(), "/lb/health"),
        (None, None) => (Address::Tcp(DEFAULT), "/lb/health"),
    };
    let shown = match &address {
        Address::Tcp(address) => format!("http://{address}{path}"),
        Address::Unix(socket) => format!("unix:{}, {path}", socket.display()),
    };
    match ask(&address, path, longest) {
        Ok(status) if status == "HTTP/1.1 200" => {
            findings.ok(CHECK, format_args!("{shown}: the gateway answers"));
        }
        Ok(status) => findings.error(CHECK, format_args!("{shown}: answered with {status:?}")),
        Err(error) => findings.error(
            CHECK,
            format_args!("{shown}: {error}; is the gateway started, with these settings?"),
        ),
    }
}

/// Returns the begin of the answer, with its status.
fn ask(address: &Address, path: &str, longest: Duration) -> io::Result<String> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&reachable(*address), longest)?;
            stream.set_read_timeout(Some(longest))?;
            stream.set_write_timeout(Some(longest))?;
            exchange(stream, path)
        }
        Address::Unix(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(longest))?;
            stream.set_write_timeout(Some(longest))?;
            exchange(stream, path)
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

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut status = [0; STATUS_LINE];
    stream.read_exact(&mut status)?;
    // The rest is read, so that the gateway is not told of a caller that left.
    io::copy(&mut stream.take(1 << 20), &mut io::sink())?;
    Ok(String::from_utf8_lossy(&status).into_owned())
}

//! The sockets that a gateway listens on.
//!
//! Invariant: each thread has a socket of its own for each TCP address, among which the system spreads connections; it
//! shares those of files and those that were passed. A file that is no socket is never removed.

use core::net::SocketAddr;
use leasehold_config::Address;
use socket2::{Domain, Protocol, Socket, Type};
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Returns another handle of the same socket.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(tcp) => tcp.try_clone().map(Self::Tcp),
            Self::Unix(unix) => unix.try_clone().map(Self::Unix),
        }
    }

    /// Returns the address, with the port that the system chose where 0 was asked for.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Returns a handle of a socket for each of `threads`, among which the first to be awake takes a connection.
pub(crate) fn share(bound: &Bound, threads: usize) -> io::Result<Vec<Bound>> {
    (0..threads).map(|_| bound.try_clone()).collect()
}

/// Listens at an address, with a socket for each of `threads`.
pub(crate) fn bind(address: &Address, threads: usize) -> io::Result<Vec<Bound>> {
    match address {
        Address::Tcp(address) => {
            // A socket that shares its port would share it with another process as well.
            let alone = bind_tcp(*address, false)?.local_addr()?;
            let address = alone.as_socket().unwrap_or(*address);
            let listen = |_| -> io::Result<Bound> {
                let socket = bind_tcp(address, true)?;
                socket.listen(BACKLOG)?;
                Ok(Bound::Tcp(socket.into()))
            };
            (0..threads).map(listen).collect()
        }
        Address::Unix(path) => {
            let unix = bind_unix(path)?;
            share(&Bound::Unix(unix), threads)
        }
    }
}

fn bind_tcp(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // A socket that its process has left behind is in the way; one that answers is not ours to remove.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    let unix = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    unix.set_nonblocking(true)?;
    Ok(unix)
}

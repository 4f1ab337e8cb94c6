//! Listening sockets that the service manager has opened for the gateway (socket activation).
//!
//! Invariant: a passed socket is used by the listener of its address, or the start fails. It is closed and never shut
//! down, so that connections wait in its queue while no gateway runs.

use crate::bind::Bound;
use core::net::SocketAddr;
use leasehold_config::Address;
use listenfd::ListenFd;
use socket2::SockRef;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The number of the first passed file, as `sd_listen_fds(3)` has it.
const FIRST_FILE: usize = 3;
/// The bound on passed sockets.
const MAX_SOCKETS: usize = 1_024;

/// Why passed sockets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// There are too many.
    #[error(
        "LISTEN_FDS={count}: at most {MAX_SOCKETS} sockets can be passed; pass fewer, or unset it"
    )]
    TooMany {
        /// How many the environment names.
        count: usize,
    },
    /// A file is no socket that listens.
    #[error(
        "the passed file {file} can't be listened at: {source}; in the socket unit, have only ListenStream= and Accept=no"
    )]
    NoListener {
        /// Its number, and its name if it has one.
        file: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// No listener has the address of a socket.
    #[error(
        "the socket {address} was passed (file {file}), and no listener has that address; write it as the address of a \
         [[listen]] table or of [admin], or take it out of the socket unit"
    )]
    Unused {
        /// The socket's address.
        address: String,
        /// Its number, and its name if it has one.
        file: String,
    },
}

/// Listening sockets that were passed to this process, each with its address.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    bound: Bound,
    address: Address,
    file: String,
}

impl PassedSockets {
    /// Takes the sockets that `LISTEN_FDS` announces, if `LISTEN_PID` names this process or is not set.
    ///
    /// Call it before any thread is started and any file is opened: it changes the environment, and owns the files from
    /// number 3 on.
    ///
    /// # Errors
    /// A passed file is no stream socket that listens.
    pub fn from_env() -> Result<Self, PassedError> {
        let process = env::var("LISTEN_PID").ok();
        let is_ours = |process: String| process.parse() == Ok(std::process::id());
        if !process.is_none_or(is_ours) {
            return Ok(Self::default());
        }
        let count = env::var("LISTEN_FDS").ok();
        let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
        if count > MAX_SOCKETS {
            return Err(PassedError::TooMany { count });
        }
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut files = ListenFd::from_env();
        let passed = (0..files.len()).map(|index| {
            let number = FIRST_FILE.saturating_add(index);
            let file = match names.next().filter(|name| !name.is_empty()) {
                Some(name) => format!("{number}, {name}"),
                None => number.to_string(),
            };
            let bound = take(&mut files, index).and_then(|bound| Ok((address_of(&bound)?, bound)));
            match bound {
                Ok((address, bound)) => Ok(Passed {
                    bound,
                    address,
                    file,
                }),
                Err(source) => Err(PassedError::NoListener { file, source }),
            }
        });
        passed.collect::<Result<_, _>>().map(Self)
    }

    /// Takes the socket of an address, if it was passed.
    pub(crate) fn take(&mut self, address: &Address) -> Option<Bound> {
        let found = self
            .0
            .iter()
            .position(|passed| is_same(&passed.address, address))?;
        Some(self.0.swap_remove(found).bound)
    }

    /// Checks that all of them were taken.
    pub(crate) fn check_taken(&self) -> Result<(), PassedError> {
        match self.0.first() {
            None => Ok(()),
            Some(passed) => Err(PassedError::Unused {
                address: passed.address.to_string(),
                file: passed.file.clone(),
            }),
        }
    }
}

fn take(files: &mut ListenFd, index: usize) -> io::Result<Bound> {
    let taken = match files.take_tcp_listener(index) {
        Ok(tcp) => tcp.map(Bound::Tcp),
        Err(_) => files.take_unix_listener(index)?.map(Bound::Unix),
    };
    let bound = taken.ok_or_else(|| io::Error::other("it was taken before"))?;
    let is_listener = match &bound {
        Bound::Tcp(tcp) => {
            tcp.set_nonblocking(true)?;
            SockRef::from(tcp).is_listener()?
        }
        Bound::Unix(unix) => {
            unix.set_nonblocking(true)?;
            SockRef::from(unix).is_listener()?
        }
    };
    match is_listener {
        true => Ok(bound),
        false => Err(io::Error::other("it does not listen")),
    }
}

fn address_of(bound: &Bound) -> io::Result<Address> {
    match bound {
        Bound::Tcp(tcp) => tcp.local_addr().map(Address::Tcp),
        Bound::Unix(unix) => {
            let address = unix.local_addr()?;
            let path = address.as_pathname().map(Path::to_owned);
            let path = path.ok_or_else(|| io::Error::other("it has no path"))?;
            Ok(Address::Unix(path))
        }
    }
}

fn is_same(passed: &Address, asked: &Address) -> bool {
    match (passed, asked) {
        // The scope of an IPv6 address is told by the system alone.
        (Address::Tcp(passed), Address::Tcp(asked)) => place(*passed) == place(*asked),
        (Address::Unix(passed), Address::Unix(asked)) => {
            // `/var/run` is often a link to `/run`.
            passed == asked || identity(passed) == identity(asked)
        }
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

fn place(address: SocketAddr) -> (core::net::IpAddr, u16) {
    (address.ip(), address.port())
}

fn identity(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_that_of_its_address_whatever_its_path_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("run")).unwrap();
        std::os::unix::fs::symlink(path("run"), path("var")).unwrap();
        fs::write(path("run/socket"), "").unwrap();
        let unix = |name: &str| Address::Unix(path(name));
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert!(is_same(&unix("run/socket"), &unix("var/socket")));
        assert!(!is_same(&unix("run/socket"), &unix("run/other")));
        assert!(is_same(&tcp("[fe80::1%2]:80"), &tcp("[fe80::1]:80")));
        assert!(!is_same(&tcp("127.0.0.1:80"), &tcp("127.0.0.1:81")));
        assert!(!is_same(&tcp("0.0.0.0:80"), &tcp("[::]:80")));
        assert!(!is_same(&tcp("127.0.0.1:80"), &unix("run/socket")));
    }
}

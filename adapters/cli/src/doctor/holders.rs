//! The process that listens at an address.

use core::fmt;
use core::net::SocketAddr;
use std::path::Path;

/// Names of processes that hold a gateway's sockets rightly: itself, and systemd for it.
const OURS: [&str; 2] = ["leasehold gateway", "systemd"];

/// A process that holds a socket.
#[derive(Debug)]
pub(super) struct Holder {
    name: String,
    process: i32,
}

impl Holder {
    /// Whether it is a gateway, or systemd for one.
    pub(super) fn is_ours(&self) -> bool {
        OURS.contains(&self.name.as_str())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, process {}", self.name, self.process)
    }
}

/// Returns the process that listens at an address; `None` if this user can't see it.
pub(super) fn holder_of(address: SocketAddr) -> Option<Holder> {
    system::holder(&system::listening(address))
}

/// Returns the process that listens at a Unix socket; `None` if this user can't see it.
pub(super) fn holder_at(path: &Path) -> Option<Holder> {
    system::holder(&system::listening_at(path))
}

#[cfg(target_os = "linux")]
mod system {
    use super::{Holder, OURS};
    use core::net::SocketAddr;
    use procfs::net::{TcpNetEntry, TcpState};
    use procfs::process::{FDTarget, all_processes};
    use std::path::Path;

    /// Returns the sockets that listen at an address, or at its port on all addresses.
    pub(super) fn listening(address: SocketAddr) -> Vec<u64> {
        let holds = |entry: &TcpNetEntry| {
            let (local, asked) = (entry.local_address, address.ip().to_canonical());
            let is_any = local.ip().is_unspecified() || asked.is_unspecified();
            let meets = is_any || local.ip().to_canonical() == asked;
            entry.state == TcpState::Listen && local.port() == address.port() && meets
        };
        let all = [procfs::net::tcp(), procfs::net::tcp6()];
        let all = all.into_iter().flatten().flatten().filter(holds);
        all.map(|entry| entry.inode).collect()
    }

    pub(super) fn listening_at(path: &Path) -> Vec<u64> {
        let all = procfs::net::unix().into_iter().flatten();
        let all = all.filter(|entry| entry.path.as_deref() == Some(path));
        all.map(|entry| entry.inode).collect()
    }

    /// Returns a process that has one of these sockets open; the gateway before systemd, which has passed it.
    pub(super) fn holder(sockets: &[u64]) -> Option<Holder> {
        let holds = |target: &FDTarget| matches!(target, FDTarget::Socket(socket) if sockets.contains(socket));
        let holders = all_processes().ok()?.flatten().filter_map(|process| {
            let mut files = process.fd().ok()?.flatten();
            files.any(|file| holds(&file.target)).then_some(())?;
            let mut name = process.stat().ok()?.comm;
            // Its test servers have the same name.
            if name == "leasehold"
                && let Some(command) = process.cmdline().ok()?.get(1)
            {
                name = format!("{name} {command}");
            }
            Some(Holder {
                name,
                process: process.pid,
            })
        });
        let rank = |name: &str| OURS.iter().position(|ours| *ours == name);
        holders.min_by_key(|holder| rank(&holder.name).unwrap_or(OURS.len()))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::Holder;
    use core::net::SocketAddr;
    use std::path::Path;

    pub(super) const fn listening(_: SocketAddr) -> Vec<u64> {
        Vec::new()
    }

    pub(super) const fn listening_at(_: &Path) -> Vec<u64> {
        Vec::new()
    }

    pub(super) const fn holder(_: &[u64]) -> Option<Holder> {
        None
    }
}

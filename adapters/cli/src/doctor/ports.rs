//! Addresses that the gateway listens at: free, or in use by itself, or by others.

use super::finding::Findings;
use super::holders::{Holder, holder_at, holder_of};
use super::rights::writable_folder;
use core::net::SocketAddr;
use leasehold_config::{Address, Settings};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;

const CHECK: &str = "port";

/// Looks at the address of each listener.
pub(super) fn check(settings: &Settings, findings: &mut Findings) {
    let listeners = settings.listeners.iter();
    let listeners = listeners.map(|listener| &listener.address);
    for address in listeners.chain(&settings.admin.listen) {
        match address {
            Address::Tcp(address) => check_tcp(*address, findings),
            Address::Unix(path) => check_unix(path, findings),
        }
    }
}

fn check_tcp(address: SocketAddr, findings: &mut Findings) {
    match TcpListener::bind(address) {
        Ok(_) => findings.ok(CHECK, format_args!("{address}: free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tell_holder(&address.to_string(), holder_of(address), findings);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => findings.error(
            CHECK,
            format_args!(
                "{address}: {error}; take a port from 1024 on, have systemd pass the socket, or give the gateway \
                 CAP_NET_BIND_SERVICE"
            ),
        ),
        Err(error) => findings.error(
            CHECK,
            format_args!("{address}: {error}; write an address that this machine has"),
        ),
    }
}

fn check_unix(path: &Path, findings: &mut Findings) {
    let address = Address::Unix(path.to_owned()).to_string();
    if UnixStream::connect(path).is_ok() {
        return tell_holder(&address, holder_at(path), findings);
    }
    let is_foreign = path.symlink_metadata().is_ok_and(|file| {
        use std::os::unix::fs::FileTypeExt as _;
        !file.file_type().is_socket()
    });
    if is_foreign {
        let problem = "there is a file that is no socket; move it away, or write another path";
        return findings.error(CHECK, format_args!("{address}: {problem}"));
    }
    match writable_folder(path) {
        Ok(()) => findings.ok(CHECK, format_args!("{address}: free")),
        Err(problem) => findings.error(CHECK, format_args!("{address}: {problem}")),
    }
}

/// Tells which process holds an address.
fn tell_holder(address: &str, holder: Option<Holder>, findings: &mut Findings) {
    match holder {
        Some(holder) if holder.is_ours() => {
            findings.ok(CHECK, format_args!("{address}: in use by {holder}"));
        }
        Some(holder) => findings.error(
            CHECK,
            format_args!("{address}: in use by {holder}; end that, or write another address"),
        ),
        None => findings.warning(
            CHECK,
            format_args!(
                "{address}: in use by a process that this user can't see; run the doctor as root to see which"
            ),
        ),
    }
}

//! The number of files, and so of sockets, that the process may open.

/// Raises the limit of open files as far as the system allows.
///
/// The usual limit of 1,024 is too low for a server under load. If it can't be raised, connections beyond it wait.
#[cfg(unix)]
pub(crate) fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Does nothing: there is no such limit.
#[cfg(not(unix))]
pub(crate) const fn raise_limit() {}

//! Errors of a batch as a whole; the error of one task goes into the output instead.

use leasehold_core::pool::AddError;
use std::io;
use std::path::PathBuf;

/// The reason that a batch did not start, or could not write its results.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A line of a file is malformed.
    #[error("{}:{line}: {problem}", path.display())]
    InvalidLine {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Description for the user.
        problem: String,
    },
    /// A file as a whole can't be used.
    #[error("{}: {problem}", path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// Description for the user.
        problem: String,
    },
    /// Another run writes the same results.
    #[error("{} is in use by another run; wait for it to end, or choose another output", path.display())]
    Busy {
        /// The journal of both runs.
        path: PathBuf,
    },
    /// The batch has no endpoints.
    #[error("there is no API key")]
    NoKeys,
    /// Two endpoints have the same key and service.
    #[error("the key {key} is given twice for {url}; the service would count its calls together")]
    DuplicateKey {
        /// The key, masked.
        key: String,
        /// The base URL of the second endpoint.
        url: String,
    },
    /// The pool can't take all keys.
    #[error(transparent)]
    Pool(#[from] AddError),
}

impl BatchError {
    /// Whether the arguments or the files they name are wrong, rather than the machine.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Write { .. } => false,
            Self::Read { .. }
            | Self::InvalidLine { .. }
            | Self::InvalidFile { .. }
            | Self::Busy { .. }
            | Self::NoKeys
            | Self::DuplicateKey { .. }
            | Self::Pool(_) => true,
        }
    }
}

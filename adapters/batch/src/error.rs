//! What can go wrong with a batch as a whole, and whose fault it is.

use std::io;
use std::path::PathBuf;

/// Why a batch didn't run, or didn't run to its end.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of a file isn't what it should be.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A file as a whole isn't what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another run writes the same results.
    #[error("{} is in use by another run; wait for it, or choose another output", path.display())]
    Busy {
        /// The file that both write.
        path: PathBuf,
    },
    /// The keys can't make a pool.
    #[error("{0}")]
    Keys(String),
}

impl BatchError {
    /// Whether what was asked for is at fault, rather than the machine.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Write { .. } => false,
            Self::Read { .. }
            | Self::Line { .. }
            | Self::File { .. }
            | Self::Busy { .. }
            | Self::Keys(_) => true,
        }
    }
}

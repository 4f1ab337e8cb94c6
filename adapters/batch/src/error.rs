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
    #[error("cannot write {}: {source}{}", path.display(), advice(source))]
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
    /// The run can't be planned.
    #[error("{0}")]
    Plan(String),
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
    /// Another process charges one of the keys.
    #[error(
        "the key {key} for {url} is in use by {}: two runs would exceed its limits together; wait for the other to \
         end, share the keys with `leasehold gateway`, or use other keys",
        process_words(*process)
    )]
    KeyInUse {
        /// The key, masked.
        key: String,
        /// The base URL.
        url: String,
        /// The id of the other process, if it can be read.
        process: Option<u32>,
    },
    /// The state of the limits can't be kept.
    #[error(
        "{problem}; limits hold across runs only if it can be: choose another folder with --state DIR, or --state none"
    )]
    State {
        /// Description for the user.
        problem: String,
    },
    /// Keys of one group have different limits.
    #[error(
        "the keys of the group {group} have different limits; they share one set, so write the same on each line"
    )]
    GroupLimits {
        /// The group.
        group: String,
    },
    /// No model is named.
    #[error("there is no model; name one with --model")]
    NoModels,
    /// Earlier answers belong to other requests.
    #[error(
        "{changed} of {answers} answers in {} are to other requests: {example}; prompt, template or parameters have \
         changed since. --on-change redo asks again, --on-change keep keeps them",
        path.display()
    )]
    Changed {
        /// The output.
        path: PathBuf,
        /// Answers to other requests.
        changed: usize,
        /// All answers that are already there.
        answers: usize,
        /// One of the tasks.
        example: String,
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
    /// The system gives no thread that tells a gateway of leases.
    #[error("cannot start a thread: {0}; end other programs and run the same command again")]
    Thread(io::Error),
    /// The pool can't take all keys.
    #[error(transparent)]
    Pool(#[from] AddError),
}

impl BatchError {
    /// Whether the arguments or the files they name are wrong, rather than the machine.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Write { .. } | Self::State { .. } | Self::Thread(_) => false,
            Self::Read { .. }
            | Self::InvalidLine { .. }
            | Self::InvalidFile { .. }
            | Self::Busy { .. }
            | Self::KeyInUse { .. }
            | Self::GroupLimits { .. }
            | Self::NoModels
            | Self::Changed { .. }
            | Self::NoKeys
            | Self::DuplicateKey { .. }
            | Self::Plan(_)
            | Self::Pool(_) => true,
        }
    }
}

/// Says what to do where the reason is plain.
fn advice(error: &io::Error) -> &'static str {
    let is_full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    if is_full {
        "; make room and run the same command again"
    } else {
        ""
    }
}

fn process_words(process: Option<u32>) -> String {
    process.map_or_else(
        || "another process".to_owned(),
        |id| format!("process {id}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_reported_with_what_to_do() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let path = PathBuf::from("out.jsonl.journal");
        let shown = BatchError::Write { path, source }.to_string();
        assert!(
            shown.starts_with("cannot write out.jsonl.journal: "),
            "{shown}"
        );
        assert!(shown.contains("run the same command again"), "{shown}");
    }
}

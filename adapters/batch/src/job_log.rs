//! The log of jobs: a line for each call, in the columns of GNU parallel's `--joblog`.

use crate::error::BatchError;
use crate::lock;
use core::time::Duration;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const HEAD: &str = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";

/// The file, to which each run adds.
#[derive(Debug)]
pub(crate) struct JobLog {
    path: PathBuf,
    file: Mutex<File>,
}

/// A call.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// The number of the task, from 0.
    pub(crate) number: usize,
    pub(crate) host: &'a str,
    /// Time since 1970.
    pub(crate) began: Duration,
    pub(crate) took: Duration,
    /// Bytes of the request's body and of the answer's.
    pub(crate) sent: usize,
    pub(crate) received: usize,
    pub(crate) is_ok: bool,
    /// The item's id and the answer's name.
    pub(crate) item: &'a str,
    pub(crate) name: &'a str,
}

impl JobLog {
    pub(crate) fn open(path: &Path) -> Result<Self, BatchError> {
        let opened = File::options().create(true).append(true).open(path);
        let opened = opened.and_then(|mut file| {
            if file.metadata()?.len() == 0 {
                file.write_all(HEAD.as_bytes())?;
            }
            Ok(Mutex::new(file))
        });
        let path = path.to_owned();
        match opened {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(BatchError::Write { path, source }),
        }
    }

    pub(crate) fn add(&self, job: &Job<'_>) -> Result<(), BatchError> {
        let line = line_of(job);
        let written: io::Result<()> = lock(&self.file).write_all(line.as_bytes());
        written.map_err(|source| BatchError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

fn line_of(job: &Job<'_>) -> String {
    let plain = |text: &str| text.replace(['\t', '\n', '\r'], " ");
    format!(
        "{}\t{}\t{:.3}\t{:.3}\t{}\t{}\t{}\t0\t{} {}\n",
        job.number.saturating_add(1),
        plain(job.host),
        job.began.as_secs_f64(),
        job.took.as_secs_f64(),
        job.sent,
        job.received,
        u8::from(!job.is_ok),
        plain(job.item),
        plain(job.name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_columns_of_gnu_parallel() {
        let line = line_of(&Job {
            number: 0,
            host: "h.test",
            began: Duration::from_millis(1_500),
            took: Duration::from_millis(250),
            sent: 10,
            received: 20,
            is_ok: false,
            item: "\"a\tb\"",
            name: "m",
        });
        assert_eq!(line, "1\th.test\t1.500\t0.250\t10\t20\t1\t0\t\"a b\" m\n");
        assert_eq!(line.matches('\t').count(), HEAD.matches('\t').count());
    }
}

//! The jobs of a pool on disk: those that are accepted, where they are, and how they have ended.
//!
//! Invariant: a line is appended as a whole before what it says is told to anyone; a last line that is not whole, of a
//! process that was killed, says nothing that anyone was told.

use super::hub::JobId;
use super::record::{Finished, JobRecord, bytes_of};
use super::servers::Servers;
use super::submit::Choice;
use crate::lock;
use indexmap::IndexMap;
use leasehold_protocol::comfyui::Prompt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
/// Lines of jobs that are over, above which the journal is written anew.
const SURPLUS: usize = 10_000;

/// Why jobs can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("jobs can't be kept in {}: {source}", path.display())]
pub struct JournalError {
    path: PathBuf,
    source: io::Error,
}

/// The journal of a pool's jobs.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    lines: usize,
    /// Whether the last line was not written whole.
    is_torn: bool,
}

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Accepted {
        id: String,
        sequence: u64,
        owner: u64,
        created: u64,
        choice: Choice,
        body: Value,
    },
    Placed {
        id: String,
        server: String,
    },
    Lost {
        id: String,
    },
    Returned {
        id: String,
    },
    Ended {
        id: String,
        #[serde(flatten)]
        end: EndLine,
    },
    Forgotten {
        id: String,
    },
    Sequence(u64),
}

/// How a job has ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndLine {
    owner: u64,
    client_id: Option<String>,
    server: Option<String>,
    status: String,
    created: u64,
    begun: Option<u64>,
    ended: u64,
    entry: Value,
}

/// What an earlier process has left.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) jobs: Vec<(JobId, RecoveredJob)>,
    pub(super) finished: IndexMap<JobId, Finished>,
    pub(super) sequence: u64,
}

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct RecoveredJob {
    pub(super) prompt: Prompt,
    pub(super) owner: u64,
    pub(super) sequence: u64,
    pub(super) choice: Choice,
    pub(super) created: u64,
    /// The server that it was submitted to last, if it may be there.
    pub(super) server: Option<String>,
    /// How often it was lost.
    pub(super) lost: u32,
}

impl Line {
    pub(super) fn accepted(id: &JobId, record: &JobRecord) -> Self {
        Self::Accepted {
            id: id.to_string(),
            sequence: record.sequence,
            owner: record.owner,
            created: record.created,
            choice: record.choice.clone(),
            body: record.prompt.to_body(),
        }
    }

    pub(super) fn placed(id: &JobId, server: &str) -> Self {
        Self::Placed {
            id: id.to_string(),
            server: server.to_owned(),
        }
    }

    pub(super) fn lost(id: &JobId) -> Self {
        Self::Lost { id: id.to_string() }
    }

    pub(super) fn returned(id: &JobId) -> Self {
        Self::Returned { id: id.to_string() }
    }

    pub(super) fn ended(id: &JobId, finished: &Finished) -> Self {
        Self::Ended {
            id: id.to_string(),
            end: EndLine {
                owner: finished.owner,
                client_id: finished.client_id.clone(),
                server: finished.server.clone(),
                status: finished.status.to_owned(),
                created: finished.created,
                begun: finished.begun,
                ended: finished.ended,
                entry: finished.entry.clone(),
            },
        }
    }

    pub(super) fn forgotten(id: &JobId) -> Self {
        Self::Forgotten { id: id.to_string() }
    }
}

impl EndLine {
    fn into_finished(self) -> Finished {
        let words = ["completed", "cancelled"];
        let word = words.into_iter().find(|word| *word == self.status);
        Finished {
            owner: self.owner,
            client_id: self.client_id,
            server: self.server,
            status: word.unwrap_or("failed"),
            created: self.created,
            begun: self.begun,
            ended: self.ended,
            // Its client hears of it again if it is back soon.
            is_told: true,
            bytes: bytes_of(&self.entry),
            entry: self.entry,
        }
    }
}

impl Journal {
    /// Opens the journal of a pool in a directory, for this process alone.
    pub(super) fn open(directory: &Path, pool: &str) -> Result<(Self, Recovered), JournalError> {
        let path = directory.join(format!("{pool}.jobs"));
        let error = |source| JournalError {
            path: path.clone(),
            source,
        };
        make_directory(directory).map_err(error)?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .append(true)
            .create(true)
            .mode(PRIVATE_FILE);
        let file = options.open(&path).map_err(error)?;
        file.try_lock().map_err(|locked| {
            error(match locked {
                TryLockError::Error(source) => source,
                TryLockError::WouldBlock => io::Error::other("another gateway uses it"),
            })
        })?;
        let (recovered, lines) = read(&file).map_err(error)?;
        end_last_line(&file).map_err(error)?;
        let open = Open {
            file,
            lines,
            is_torn: false,
        };
        let journal = Self {
            path: path.clone(),
            file: Mutex::new(open),
        };
        Ok((journal, recovered))
    }

    /// Appends a line.
    pub(super) fn write(&self, line: &Line) -> Result<(), JournalError> {
        let mut text = serde_json::to_vec(line).map_err(|error| self.error(error.into()))?;
        text.push(b'\n');
        let mut open = lock(&self.file);
        if open.is_torn {
            // What is there of the line before stands for itself.
            text.insert(0, b'\n');
        }
        open.lines = open.lines.saturating_add(1);
        let written = open.file.write_all(&text);
        open.is_torn = written.is_err();
        written.map_err(|error| self.error(error))
    }

    /// Waits until all lines are on disk.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        lock(&self.file)
            .file
            .sync_data()
            .map_err(|error| self.error(error))
    }

    /// Writes the journal anew, if most of its lines are of no use any more.
    pub(super) fn compact(
        &self,
        jobs: &HashMap<JobId, JobRecord>,
        finished: &IndexMap<JobId, Finished>,
        sequence: u64,
        servers: &Servers,
    ) -> Result<(), JournalError> {
        let mut open = lock(&self.file);
        let needed = jobs.len().saturating_mul(2).saturating_add(finished.len());
        if open.lines <= needed.saturating_add(SURPLUS) {
            return Ok(());
        }
        let written = self.rewrite(jobs, finished, sequence, servers);
        *open = written.map_err(|error| self.error(error))?;
        Ok(())
    }

    fn rewrite(
        &self,
        jobs: &HashMap<JobId, JobRecord>,
        finished: &IndexMap<JobId, Finished>,
        sequence: u64,
        servers: &Servers,
    ) -> io::Result<Open> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(directory)?;
        let mut lines = vec![Line::Sequence(sequence)];
        lines.extend(finished.iter().map(|(id, one)| Line::ended(id, one)));
        let mut waiting: Vec<_> = jobs.iter().collect();
        waiting.sort_unstable_by_key(|(_, record)| record.sequence);
        for (id, record) in waiting {
            lines.push(Line::accepted(id, record));
            let before = (0..record.lost_before).map(|_| Line::lost(id));
            lines.extend(before.chain(record.machine.lost_at().iter().map(|_| Line::lost(id))));
            if let Some(name) = record.machine.server().and_then(|id| servers.name(id)) {
                lines.push(Line::placed(id, &name));
            }
        }
        let mut writer = io::BufWriter::new(file.as_file());
        for line in &lines {
            serde_json::to_writer(&mut writer, line)?;
            writer.write_all(b"\n")?;
        }
        writer.flush()?;
        drop(writer);
        file.as_file().sync_data()?;
        // Nothing else can hold it: its name is not known yet.
        file.as_file().try_lock().map_err(io::Error::from)?;
        let file = file.persist(&self.path).map_err(|error| error.error)?;
        Ok(Open {
            file,
            lines: lines.len(),
            is_torn: false,
        })
    }

    fn error(&self, source: io::Error) -> JournalError {
        JournalError {
            path: self.path.clone(),
            source,
        }
    }
}

/// Makes the directory of a gateway's jobs and files, which no other user may read.
pub(super) fn make_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY)
        .create(directory)
}

impl JournalError {
    pub(super) fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}

/// Returns what the lines say, and how many there are.
fn read(file: &File) -> io::Result<(Recovered, usize)> {
    let mut recovered = Recovered::default();
    let mut jobs: IndexMap<JobId, RecoveredJob> = IndexMap::new();
    let mut reader = BufReader::new(file);
    let (mut text, mut lines) = (Vec::new(), 0_usize);
    loop {
        text.clear();
        if reader.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        lines = lines.saturating_add(1);
        // A line that is not whole was told to no caller.
        let Ok(line) = serde_json::from_slice::<Line>(&text) else {
            continue;
        };
        enter(line, &mut jobs, &mut recovered);
    }
    recovered.jobs = jobs.into_iter().collect();
    Ok((recovered, lines))
}

fn enter(line: Line, jobs: &mut IndexMap<JobId, RecoveredJob>, recovered: &mut Recovered) {
    match line {
        Line::Accepted {
            id,
            sequence,
            owner,
            created,
            choice,
            body,
        } => {
            recovered.sequence = recovered.sequence.max(sequence);
            // What was accepted once can be read again.
            let Ok(prompt) = Prompt::read(body.to_string().as_bytes()) else {
                return;
            };
            let id = JobId::from(id);
            recovered.finished.shift_remove(&id);
            let job = RecoveredJob {
                prompt,
                owner,
                sequence,
                choice,
                created,
                server: None,
                lost: 0,
            };
            jobs.insert(id, job);
        }
        Line::Placed { id, server } => {
            if let Some(job) = jobs.get_mut(id.as_str()) {
                job.server = Some(server);
            }
        }
        Line::Lost { id } => {
            if let Some(job) = jobs.get_mut(id.as_str()) {
                job.server = None;
                job.lost = job.lost.saturating_add(1);
            }
        }
        Line::Returned { id } => {
            if let Some(job) = jobs.get_mut(id.as_str()) {
                job.server = None;
            }
        }
        Line::Ended { id, end } => {
            jobs.shift_remove(id.as_str());
            recovered
                .finished
                .insert(JobId::from(id), end.into_finished());
        }
        Line::Forgotten { id } => {
            recovered.finished.shift_remove(id.as_str());
        }
        Line::Sequence(sequence) => recovered.sequence = recovered.sequence.max(sequence),
    }
}

/// Ends a last line that is not whole, so that the next one stands for itself.
fn end_last_line(mut file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if let Some(at) = length.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    match last {
        [b'\n'] => Ok(()),
        [_] => file.write_all(b"\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(number: u64) -> Line {
        Line::Accepted {
            id: format!("id-{number}"),
            sequence: number,
            owner: 7,
            created: 1,
            choice: Choice::default(),
            body: serde_json::json!({"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}}),
        }
    }

    #[test]
    fn a_killed_process_leaves_its_jobs_and_half_a_line_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.jobs");
        {
            let (journal, _) = Journal::open(directory.path(), "images").unwrap();
            for number in 1..=3 {
                journal.write(&accepted(number)).unwrap();
            }
            let id = JobId::from("id-2");
            journal.write(&Line::placed(&id, "gpu-1")).unwrap();
            journal.write(&Line::lost(&id)).unwrap();
            journal.write(&Line::placed(&id, "gpu-2")).unwrap();
        }
        let half = serde_json::to_vec(&accepted(4)).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&half[..half.len() / 2]).unwrap();
        drop(file);
        for _ in 0..2 {
            let (journal, recovered) = Journal::open(directory.path(), "images").unwrap();
            let servers = recovered
                .jobs
                .iter()
                .map(|(_, job)| (job.server.as_deref(), job.lost));
            let expected = [(None, 0), (Some("gpu-2"), 1), (None, 0)];
            assert_eq!(servers.take(3).collect::<Vec<_>>(), expected);
            assert!(
                Journal::open(directory.path(), "images").is_err(),
                "one gateway at a time"
            );
            journal.write(&accepted(5)).unwrap();
        }
    }

    #[test]
    fn a_line_after_half_a_line_is_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(
            directory.path().join("images.jobs"),
            b"{\"accepted\":{\"id\"",
        )
        .unwrap();
        {
            let (journal, _) = Journal::open(directory.path(), "images").unwrap();
            journal.write(&accepted(1)).unwrap();
        }
        let (_, recovered) = Journal::open(directory.path(), "images").unwrap();
        assert_eq!(recovered.jobs.len(), 1);
    }
}

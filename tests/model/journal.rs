//! The files of a batch with any bytes in them: what a run writes, the next run reads.

use arbitrary::Arbitrary;
use leasehold_batch::{Batch, BatchError, Items, Progress, Stop};
use leasehold_core::limit::{Cost, Unit};
use leasehold_core::pool::Charge;
use leasehold_core::time::Tick;
use leasehold_protocol::{ApiKey, Endpoint};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes in place of the files of an earlier run.
#[derive(Clone, Debug, Arbitrary)]
pub struct Case {
    /// The journal, line by line.
    pub journal: Vec<Entry>,
    /// The end of the journal.
    pub torn: Vec<u8>,
    /// The output; none at all if empty.
    pub output: Vec<u8>,
    /// The log of charges, line by line.
    pub charges: Vec<ChargeLine>,
}

/// A line of a journal.
#[derive(Clone, Debug, Arbitrary)]
pub enum Entry {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// An answer of an item with a number.
    Item(u8, u8, String),
    /// An answer of an item with any id.
    Text(String, u8),
    /// A line of OpenAI's Batch API, perhaps under another id.
    Call(u8, u8),
    /// A failure of an item with a number.
    Failure(u8, u8, String),
}

/// A line of a log of charges.
#[derive(Clone, Debug, Arbitrary)]
pub enum ChargeLine {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// A grant of a lease at a second.
    Granted(u8, u32, u64),
    /// An end of a lease at a second.
    Ended(u8, u32, u64),
    /// An arrival of a lease at a second.
    Arrived(u8, u64),
    /// An observation that holds until a second.
    Observed(u32, u64, u64),
}

/// Runs a batch without tasks over the files, and again over what it wrote.
///
/// # Panics
/// If the second run fails or changes the output, or a refused output has changed.
pub fn run(case: &Case) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("out.jsonl");
    let state = folder.path().join("state");
    let log = log_of_a_run(folder.path(), &state);
    fs::write(&log, lines(&case.charges, charge)).expect("a file");
    let mut journal = lines(&case.journal, entry);
    journal.extend(&case.torn);
    fs::write(folder.path().join("out.jsonl.journal"), journal).expect("a file");
    if !case.output.is_empty() {
        fs::write(&output, &case.output).expect("a file");
    }
    if let Err(error) = run_batch(&output, &state) {
        // Only an output may be refused: it may be a file of the user's.
        let is_output = matches!(error, BatchError::InvalidLine { .. }) && !case.output.is_empty();
        assert!(is_output, "{error}");
        let unchanged = fs::read(&output).unwrap_or_default();
        assert_eq!(unchanged, case.output, "a refused output is left alone");
        return;
    }
    let first = fs::read(&output).expect("it was written");
    run_batch(&output, &state).expect("what was written can be read");
    assert_eq!(fs::read(&output).expect("it is there"), first);
}

/// Runs an empty batch to learn the name of its log.
fn log_of_a_run(folder: &Path, state: &Path) -> PathBuf {
    run_batch(&folder.join("none.jsonl"), state).expect("there is nothing to read");
    let mut files = fs::read_dir(state).expect("a run with limits keeps its state");
    let is_log = |path: &PathBuf| path.extension().is_some_and(|it| it == "jsonl");
    let mut paths = files
        .by_ref()
        .map(|file| file.expect("it can be listed").path());
    paths.find(is_log).expect("the key has a log")
}

fn run_batch(output: &Path, state: &Path) -> Result<(), BatchError> {
    let key = ApiKey::new("sk-secret-12345678").expect("a key");
    let endpoint = Endpoint::new("http://127.0.0.1:1", key).expect("a URL");
    let mut batch = Batch::new(Items::default(), vec!["m".to_owned()], [endpoint]);
    batch.limits = Some("3/60s, 1000 tokens/min".parse().expect("a limit"));
    batch.state = Some(state.to_owned());
    let summary = batch.run(output, &Stop::default(), Progress::Silent);
    summary.map(|_| ())
}

fn lines<T>(of: &[T], line: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
    of.iter()
        .flat_map(|it| [line(it), b"\n".to_vec()].concat())
        .collect()
}

fn entry(entry: &Entry) -> Vec<u8> {
    let end = |id: String, model: u8, end: &str, value: serde_json::Value| {
        let model = char::from(b'a' + model % 3).to_string();
        serde_json::json!({"id": id, "model": model, end: value}).to_string()
    };
    let line = |id, model, answer| end(id, model, "answer", answer);
    let line = match entry {
        Entry::Bytes(bytes) => return bytes.clone(),
        Entry::Item(id, model, text) => {
            line(id.to_string(), *model, serde_json::json!({"content": text}))
        }
        Entry::Text(id, model) => line(id.clone(), *model, serde_json::json!(1)),
        Entry::Call(id, custom_id) => {
            let id = serde_json::json!((id % 4).to_string()).to_string();
            let answer = serde_json::json!({"custom_id": (custom_id % 4).to_string()});
            line(id, 0, answer)
        }
        Entry::Failure(id, model, text) => {
            end(id.to_string(), *model, "failure", serde_json::json!(text))
        }
    };
    line.into_bytes()
}

fn charge(line: &ChargeLine) -> Vec<u8> {
    let cost = |tokens: &u32| Cost {
        requests: 1,
        tokens: *tokens,
    };
    let at = |nanos: &u64| Tick::from_nanos(*nanos);
    let charge = match line {
        ChargeLine::Bytes(bytes) => return bytes.clone(),
        ChargeLine::Granted(lease, tokens, nanos) => Charge::Granted {
            lease: (*lease).into(),
            member: 0,
            class: 1,
            flow: 0,
            cost: cost(tokens),
            at: at(nanos),
            expires: None,
        },
        ChargeLine::Ended(lease, tokens, nanos) => Charge::Ended {
            lease: (*lease).into(),
            cost: cost(tokens),
            at: at(nanos),
        },
        ChargeLine::Arrived(lease, nanos) => Charge::Arrived {
            lease: (*lease).into(),
            at: at(nanos),
        },
        ChargeLine::Observed(remaining, reset, nanos) => Charge::Observed {
            member: 0,
            unit: Unit::Requests,
            remaining: *remaining,
            reset: at(reset),
            at: at(nanos),
        },
    };
    let mut line = serde_json::to_value(charge).expect("a charge is JSON");
    line["model"] = "m".into();
    line.to_string().into_bytes()
}

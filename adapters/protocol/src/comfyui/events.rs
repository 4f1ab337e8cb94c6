//! Frames of a server's websocket: of which job they tell, and what.

use serde_json::{Value, json};

/// The number of a preview's frame.
const PREVIEW: u32 = 1;
/// The number of a preview's frame that says of which job and node it is.
const PREVIEW_WITH_METADATA: u32 = 4;
/// Numbers of formats in frames without metadata.
const JPEG: u32 = 1;
const PNG: u32 = 2;

/// A text frame.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerFrame {
    /// The server's count of jobs has changed.
    Status(StatusFrame),
    /// Something has happened to a job.
    Event(Event),
    /// Anything else, which is the server's own.
    Other,
}

/// A frame that tells of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusFrame {
    /// Jobs that run and wait.
    pub remaining: u32,
}

/// What has happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its kind.
    pub kind: EventKind,
    /// The job.
    pub prompt_id: String,
    /// The whole frame.
    pub frame: Value,
}

/// Kinds of events of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It begins, a node begins, or a node goes on.
    Progress,
    /// A node has outputs.
    Executed,
    /// The job is over, one way or the other; the history says which.
    Over,
}

impl ServerFrame {
    /// Reads a text frame; one that can't be read is none of the known.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let Ok(frame) = serde_json::from_str::<Value>(text) else {
            return Self::Other;
        };
        let kind = frame["type"].as_str().unwrap_or_default();
        let data = &frame["data"];
        if kind == "status" {
            let count = data["status"]["exec_info"]["queue_remaining"].as_u64();
            return match count.and_then(|count| u32::try_from(count).ok()) {
                Some(remaining) => Self::Status(StatusFrame { remaining }),
                None => Self::Other,
            };
        }
        let Some(prompt_id) = data["prompt_id"].as_str().map(ToOwned::to_owned) else {
            return Self::Other;
        };
        let kind = match kind {
            "execution_success" | "execution_interrupted" => EventKind::Over,
            // A branch that is blocked says so while the job goes on.
            "execution_error" if data["exception_type"] != "ExecutionBlocked" => EventKind::Over,
            "executing" if data["node"].is_null() => EventKind::Over,
            "executed" => EventKind::Executed,
            _ => EventKind::Progress,
        };
        Self::Event(Event {
            kind,
            prompt_id,
            frame,
        })
    }
}

/// A picture of a job that runs, before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preview<'a> {
    frame: &'a [u8],
    metadata: Option<&'a [u8]>,
    image: &'a [u8],
}

impl<'a> Preview<'a> {
    /// Reads a binary frame; `None` if it is no preview.
    #[must_use]
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (kind, rest) = number(frame)?;
        match kind {
            PREVIEW => Some(Self {
                frame,
                metadata: None,
                image: rest.get(4..)?,
            }),
            PREVIEW_WITH_METADATA => {
                let (length, rest) = number(rest)?;
                let (metadata, image) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                Some(Self {
                    frame,
                    metadata: Some(metadata),
                    image,
                })
            }
            _ => None,
        }
    }

    /// The job that it is of, if the frame says so.
    #[must_use]
    pub fn prompt_id(&self) -> Option<String> {
        let metadata: Value = serde_json::from_slice(self.metadata?).ok()?;
        Some(metadata["prompt_id"].as_str()?.to_owned())
    }

    /// Returns the frame for a client that knows no metadata.
    #[must_use]
    pub fn plain(&self) -> Vec<u8> {
        let Some(metadata) = self.metadata else {
            return self.frame.to_vec();
        };
        let metadata: Value = serde_json::from_slice(metadata).unwrap_or_default();
        let format = match metadata["image_type"].as_str() {
            Some("image/png") => PNG,
            Some(_) | None => JPEG,
        };
        let mut frame = Vec::with_capacity(self.image.len().saturating_add(8));
        frame.extend_from_slice(&PREVIEW.to_be_bytes());
        frame.extend_from_slice(&format.to_be_bytes());
        frame.extend_from_slice(self.image);
        frame
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

impl StatusFrame {
    /// Returns the frame's text; the first one of a socket has the client's id.
    #[must_use]
    pub fn text(&self, sid: Option<&str>) -> String {
        let mut data = json!({"status": {"exec_info": {"queue_remaining": self.remaining}}});
        if let Some(sid) = sid {
            data["sid"] = sid.into();
        }
        json!({"type": "status", "data": data}).to_string()
    }
}

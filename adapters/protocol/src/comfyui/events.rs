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
    /// What the server can do, as it told at the beginning.
    Features(Value),
    /// An event that names no job, such as a custom node's own: it is of the job that runs.
    Unnamed(Value),
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
        if kind == "feature_flags" {
            return Self::Features(data.clone());
        }
        let Some(prompt_id) = data["prompt_id"].as_str().map(ToOwned::to_owned) else {
            return match kind {
                "" => Self::Other,
                _ => Self::Unnamed(frame),
            };
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

    /// The picture: a JPEG or a PNG.
    #[must_use]
    pub fn image(&self) -> &'a [u8] {
        self.image
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Option<EventKind> {
        match ServerFrame::read(text) {
            ServerFrame::Event(event) => Some(event.kind),
            ServerFrame::Status(_)
            | ServerFrame::Features(_)
            | ServerFrame::Unnamed(_)
            | ServerFrame::Other => None,
        }
    }

    #[test]
    fn a_status_frame_tells_how_many_jobs_there_are() {
        let first = r#"{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}}, "sid": "a1"}}"#;
        let status = StatusFrame { remaining: 2 };
        assert_eq!(
            ServerFrame::read(first),
            ServerFrame::Status(status.clone())
        );
        let text: Value = serde_json::from_str(&status.text(Some("a1"))).unwrap();
        assert_eq!(text, serde_json::from_str::<Value>(first).unwrap());
        let later =
            r#"{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}}}}"#;
        assert_eq!(
            status.text(None).parse::<Value>().unwrap(),
            later.parse::<Value>().unwrap()
        );
    }

    #[test]
    fn a_job_is_over_by_its_last_events_alone() {
        let over = [
            r#"{"type": "execution_success", "data": {"prompt_id": "x", "timestamp": 1760000000000}}"#,
            r#"{"type": "execution_interrupted", "data": {"prompt_id": "x", "node_id": "3", "node_type": "KSampler", "executed": []}}"#,
            r#"{"type": "execution_error", "data": {"prompt_id": "x", "exception_type": "RuntimeError", "exception_message": "CUDA"}}"#,
            r#"{"type": "executing", "data": {"node": null, "prompt_id": "x"}}"#,
        ];
        for text in over {
            assert_eq!(kind(text), Some(EventKind::Over), "{text}");
        }
        let goes_on = [
            r#"{"type": "execution_start", "data": {"prompt_id": "x", "timestamp": 1760000000000}}"#,
            r#"{"type": "execution_cached", "data": {"nodes": ["4"], "prompt_id": "x"}}"#,
            r#"{"type": "executing", "data": {"node": "3", "display_node": "3", "prompt_id": "x"}}"#,
            r#"{"type": "progress", "data": {"value": 1, "max": 20, "prompt_id": "x", "node": "3"}}"#,
            r#"{"type": "progress_state", "data": {"prompt_id": "x", "nodes": {}}}"#,
            r#"{"type": "execution_error", "data": {"prompt_id": "x", "exception_type": "ExecutionBlocked"}}"#,
        ];
        for text in goes_on {
            assert_eq!(kind(text), Some(EventKind::Progress), "{text}");
        }
        let executed =
            r#"{"type": "executed", "data": {"node": "9", "output": null, "prompt_id": "x"}}"#;
        assert_eq!(kind(executed), Some(EventKind::Executed));
    }

    #[test]
    fn frames_that_name_no_job_are_told_apart() {
        let node = r#"{"type": "impact-node-feedback", "data": {"node": "3"}}"#;
        assert_eq!(
            ServerFrame::read(node),
            ServerFrame::Unnamed(serde_json::from_str(node).unwrap())
        );
        let features = r#"{"type": "feature_flags", "data": {"max_upload_size": 7}}"#;
        let data = json!({"max_upload_size": 7});
        assert_eq!(ServerFrame::read(features), ServerFrame::Features(data));
        for text in [
            r#"{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": -1}}}}"#,
            r#"{"data": {"node": "3"}}"#,
            "[]",
            "pong",
        ] {
            assert_eq!(ServerFrame::read(text), ServerFrame::Other, "{text}");
        }
    }

    fn preview(metadata: &str, image: &[u8]) -> Vec<u8> {
        let length = u32::try_from(metadata.len()).unwrap();
        [
            &4_u32.to_be_bytes(),
            &length.to_be_bytes(),
            metadata.as_bytes(),
            image,
        ]
        .concat()
    }

    #[test]
    fn a_preview_with_metadata_names_its_job_and_becomes_a_plain_one() {
        for (kind, format) in [("image/jpeg", 1), ("image/png", 2)] {
            let metadata =
                format!(r#"{{"node_id": "3", "prompt_id": "x", "image_type": "{kind}"}}"#);
            let frame = preview(&metadata, b"image");
            let preview = Preview::read(&frame).unwrap();
            assert_eq!(preview.prompt_id().as_deref(), Some("x"));
            assert_eq!(preview.image(), b"image");
            assert_eq!(
                preview.plain(),
                [&[0, 0, 0, 1, 0, 0, 0, format][..], b"image"].concat()
            );
        }
    }

    #[test]
    fn a_plain_preview_names_no_job_and_stays_as_it_is() {
        let frame = [&[0, 0, 0, 1, 0, 0, 0, 2][..], b"image"].concat();
        let preview = Preview::read(&frame).unwrap();
        assert_eq!(
            (preview.prompt_id(), preview.plain()),
            (None, frame.clone())
        );
    }

    #[test]
    fn frames_of_other_kinds_and_those_cut_short_are_no_previews() {
        let text = [&[0, 0, 0, 3, 0, 0, 0, 1][..], b"9hello"].concat();
        let cut = preview(r#"{"prompt_id": "x"}"#, b"");
        let short = [0, 0, 0, 1, 0, 0, 0];
        for frame in [&text[..], &cut[..cut.len() - 1], &short, &[]] {
            assert_eq!(Preview::read(frame), None, "{frame:?}");
        }
    }
}

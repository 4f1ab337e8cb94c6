//! Files that a job's graph refers to, brought to the server that is to run it.
//!
//! Invariant: a server gets files of the job's own caller alone: its uploads, and what its jobs have made.

use super::drive::Driver;
use super::files::{is_brought, view_query};
use super::hub::{Hub, JobId};
use super::made::{Located, Whose, join};
use super::server::{Call, CallError};
use super::state::State;
use super::uploads::Upload;
use bytes::Bytes;
use http::{Method, StatusCode};
use leasehold_core::balance::stable_hash;
use leasehold_protocol::comfyui::{ServerId, replace_inputs};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Letters of a text that an error tells.
const MAX_TOLD: usize = 100;

/// Why a file is not on a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Brought {
    #[error("{0}")]
    Call(CallError),
    /// The server that has it can't be asked now.
    #[error("the file {0} can't be had from its server now: {1}")]
    Away(String, String),
    #[error("the file {0} can't be had from its server: {1}")]
    Gone(String, String),
    #[error("the file {0} can't be read: {1}")]
    Lost(String, std::io::Error),
    #[error("the caller has no file {0}")]
    NotOwn(String),
    #[error("the server has refused the file {0} with status {1}")]
    Refused(String, StatusCode),
}

impl Driver {
    /// Brings the files that a graph refers to, and puts the server's names of them into it.
    pub(super) async fn bring_inputs(
        &self,
        server: ServerId,
        call: &Call<'_>,
        graph: &mut Map<String, Value>,
    ) -> Result<(), Brought> {
        let owner = self.tell(|record, _| record.owner).unwrap_or_default();
        let mut texts = BTreeSet::new();
        replace_inputs(graph, &mut |text| {
            texts.insert(text.to_owned());
            None
        });
        // Put in all at once, because a new name may be another file's old one.
        let mut names = HashMap::new();
        for text in texts {
            let name = match self.hub.uploads.referred(owner, &text) {
                Some(upload) => {
                    let name = bring(&self.hub, server, call, &upload).await?;
                    let with_kind = text.strip_prefix(&upload.reference()).unwrap_or_default();
                    format!("{name}{with_kind}")
                }
                None => match self.bring_output(owner, server, call, &text).await? {
                    Some(name) => name,
                    None => continue,
                },
            };
            names.insert(text, name);
        }
        replace_inputs(graph, &mut |text| names.get(text).cloned());
        Ok(())
    }

    /// Brings what a job has made, as in `@gpu-1/a.png [output]`; `None` if the text is no file that is known.
    async fn bring_output(
        &self,
        owner: u64,
        server: ServerId,
        call: &Call<'_>,
        text: &str,
    ) -> Result<Option<String>, Brought> {
        let Some((file, job)) = self.locate(owner, server, text)? else {
            return Ok(None);
        };
        let from = file.server.clone().unwrap_or_default();
        let from_id = self.hub.state().servers.id_of(&from);
        if from_id == Some(server) {
            return Ok(Some(format!("{} [{}]", file.reference(), file.kind)));
        }
        let job = job.as_deref().unwrap_or_default();
        let identity = format!("@{from}/{}/{} {job}", file.kind, file.reference());
        if let Some(known) = known(&self.hub.state(), server, &identity) {
            return Ok(Some(known));
        }
        let gone = |why: &str| Brought::Gone(cut(text), why.to_owned());
        let backend = from_id.and_then(|id| self.backend(id, None));
        let backend = backend.ok_or_else(|| gone("the pool has no such server any more"))?;
        let other = self.call(&backend);
        let other = other.ok_or_else(|| gone("the pool is no more"))?;
        let content = other.get(&format!("/view?{}", view_query(&file))).await;
        let content = content.map_err(|error| Brought::Away(cut(text), error.to_string()))?;
        let status = content.status;
        if status.is_server_error() {
            let why = format!("it answered with status {status}");
            return Err(Brought::Away(cut(text), why));
        }
        if !content.is_ok() {
            return Err(gone(&format!("it answered with status {status}")));
        }
        let fields = [
            ("type", "input".to_owned()),
            ("subfolder", folder_of(owner)),
        ];
        let there = put(call, &file.name, &content.body, &fields, text).await?;
        note(&self.hub, server, identity, &there);
        Ok(Some(there))
    }

    /// Finds the file that a text stands for, with its server and the job that has made it; `None` if none is known.
    fn locate(
        &self,
        owner: u64,
        server: ServerId,
        text: &str,
    ) -> Result<Option<(Located, Option<JobId>)>, Brought> {
        let Some(file) = Located::read(text) else {
            return Ok(None);
        };
        let state = self.hub.state();
        let mut file = file.known(|name| state.servers.id_of(name).is_some());
        let foreign = || Err(Brought::NotOwn(cut(text)));
        let is_named = file.server.is_some();
        let whose = state.made.whose(&file, owner);
        // What another has made elsewhere says nothing of the server that is to run the job.
        if !is_named && !matches!(whose, Whose::Own(_)) {
            file.server = state.servers.name(server);
        }
        match (whose, is_named) {
            (Whose::Own(maker), _) => {
                file.server = Some(maker.server);
                Ok(Some((file, Some(maker.job))))
            }
            (Whose::Foreign, true) => foreign(),
            (Whose::Foreign, false) if matches!(state.made.whose(&file, owner), Whose::Foreign) => {
                foreign()
            }
            (Whose::Unknown | Whose::Foreign, _) if is_brought(&self.hub, &state, owner, &file) => {
                foreign()
            }
            (Whose::Unknown, true) => Ok(Some((file, None))),
            (Whose::Unknown | Whose::Foreign, _) => Ok(None),
        }
    }
}

/// The folder of a caller's files that come from other servers, which no other caller can guess.
pub(super) fn folder_of(owner: u64) -> String {
    format!("leasehold/{:016x}", stable_hash(&owner.to_le_bytes()))
}

/// The beginning of a text, for errors.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TOLD).collect()
}

/// Brings an upload to a server unless it is there, and returns what the server calls it.
pub(super) async fn bring(
    hub: &Arc<Hub>,
    server: ServerId,
    call: &Call<'_>,
    upload: &Arc<Upload>,
) -> Result<String, Brought> {
    let identity = upload.identity();
    if let Some(name) = known(&hub.state(), server, &identity) {
        return Ok(name);
    }
    let reference = upload.reference();
    let content = content(hub, upload).await;
    let content = content.map_err(|error| Brought::Lost(reference.clone(), error))?;
    let fields = [
        ("type", upload.kind.clone()),
        ("subfolder", upload.folder.clone()),
    ];
    let there = put(call, &upload.name, &content, &fields, &reference).await?;
    note(hub, server, identity, &there);
    Ok(there)
}

/// Reads an upload, which may be large.
pub(super) async fn content(hub: &Arc<Hub>, upload: &Arc<Upload>) -> std::io::Result<Bytes> {
    let (hub, upload) = (Arc::clone(hub), Arc::clone(upload));
    let read = spawn_blocking(move || hub.uploads.content(&upload)).await;
    read.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn known(state: &State, server: ServerId, identity: &str) -> Option<String> {
    state.server(server)?.uploads.get(identity).cloned()
}

fn note(hub: &Hub, server: ServerId, identity: String, there: &str) {
    if let Some(known) = hub.state().servers.get_mut(server) {
        known.uploads.insert(identity, there.to_owned());
    }
}

/// Puts a file on a server, and returns what the server calls it.
async fn put(
    call: &Call<'_>,
    name: &str,
    content: &Bytes,
    fields: &[(&str, String)],
    reference: &str,
) -> Result<String, Brought> {
    // Without `overwrite`, so that no file of others there is lost: the server tells under which name it has it.
    let answer = post_form(call, "/upload/image", name, content, fields).await;
    let answer = answer.map_err(Brought::Call)?;
    if !answer.is_ok() {
        return Err(Brought::Refused(reference.to_owned(), answer.status));
    }
    let made = answer.json();
    let name = made["name"].as_str().unwrap_or(name);
    let folder = made["subfolder"].as_str().unwrap_or_default();
    Ok(join(folder, name))
}

/// Sends a form with a file.
pub(super) async fn post_form(
    call: &Call<'_>,
    path: &str,
    name: &str,
    content: &Bytes,
    fields: &[(&str, String)],
) -> Result<super::server::Answer, CallError> {
    let boundary = uuid::Uuid::new_v4().simple().to_string();
    let mut body = Vec::with_capacity(content.len().saturating_add(1_024));
    for (field, value) in fields {
        let head =
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    let name = name.replace(['"', '\r', '\n'], "_");
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(content);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let kind = format!("multipart/form-data; boundary={boundary}");
    call.send(Method::POST, path, Some((body.into(), &kind)))
        .await
}

//! Files: uploads are kept and brought to servers, and pictures come from the server that made them.

use super::answers::{bad, no_server, not_kept, ok, text};
use super::drive::backend_named;
use super::hub::Hub;
use super::lists::Query;
use super::server::{Call, CallError};
use super::state::State;
use super::uploads::{Place, Upload};
use crate::backend_pool::BackendPool;
use crate::proxy::AnswerBody;
use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use leasehold_protocol::Refusal;
use leasehold_protocol::comfyui::{ServerId, map_files};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::sync::Arc;

/// A file that is uploaded.
pub(super) struct Form {
    content: Bytes,
    name: String,
    folder: String,
    kind: String,
    overwrites: bool,
    /// The picture that a mask is for.
    original: Option<Value>,
}

impl Form {
    /// Reads the body of an upload.
    pub(super) async fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Refusal> {
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let boundary = multer::parse_boundary(kind.unwrap_or_default())
            .map_err(|error| bad(format!("the body is no form with files: {error}")))?;
        let stream = futures_util::stream::iter([Ok::<_, core::convert::Infallible>(body)]);
        let mut fields = multer::Multipart::new(stream, boundary);
        let mut form = Self {
            content: Bytes::new(),
            name: String::new(),
            folder: String::new(),
            kind: "input".to_owned(),
            overwrites: false,
            original: None,
        };
        let wrong = |error: multer::Error| bad(format!("the form can't be read: {error}"));
        while let Some(field) = fields.next_field().await.map_err(wrong)? {
            let name = field.name().unwrap_or_default().to_owned();
            if name == "image" {
                form.name = field.file_name().unwrap_or_default().to_owned();
                form.content = field.bytes().await.map_err(wrong)?;
                continue;
            }
            let text = field.text().await.map_err(wrong)?;
            match name.as_str() {
                "overwrite" => form.overwrites = ["true", "1"].contains(&text.as_str()),
                "type" => form.kind = text,
                "subfolder" => form.folder = text,
                "original_ref" => {
                    let read = serde_json::from_str(&text).ok();
                    form.original = read.filter(Value::is_object);
                }
                _ => {}
            }
        }
        form.check()
    }

    fn check(self) -> Result<Self, Refusal> {
        let is_inside = |path: &str| {
            let escapes = |part: &str| part == "..";
            !path.starts_with('/') && !path.contains(['\\', '\0']) && !path.split('/').any(escapes)
        };
        if self.name.is_empty() || self.name.contains('/') {
            return Err(bad("the form has no file `image` with a plain name"));
        }
        if !is_inside(&self.name) || !is_inside(&self.folder) {
            return Err(bad("the subfolder leads out of the folder of files"));
        }
        match ["input", "temp", "output"].contains(&self.kind.as_str()) {
            true => Ok(self),
            false => Err(bad("the type is input, temp or output")),
        }
    }
}

/// Keeps an upload; servers get it when a job needs it.
pub(super) fn keep(hub: &Hub, owner: u64, form: &Form) -> Result<Response<AnswerBody>, Refusal> {
    let folder = form.folder.trim_matches('/');
    let place = Place {
        owner,
        kind: &form.kind,
        folder,
        name: &form.name,
    };
    let kept = hub.uploads.keep(place, &form.content, form.overwrites);
    let kept = kept.map_err(|error| not_kept(&error))?;
    Ok(told(&kept))
}

fn told(upload: &Upload) -> Response<AnswerBody> {
    ok(&json!({"name": upload.name, "subfolder": upload.folder, "type": upload.kind}))
}

/// Lets a server join a mask with its picture, and keeps what it makes.
pub(super) async fn keep_mask(
    hub: &Hub,
    owner: u64,
    server: ServerId,
    call: &Call<'_>,
    form: &Form,
) -> Result<Response<AnswerBody>, Refusal> {
    let mut original = form
        .original
        .clone()
        .ok_or_else(|| bad("the form has no original_ref"))?;
    let name = original["filename"].as_str().unwrap_or_default().to_owned();
    let folder = original["subfolder"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let kind = original["type"].as_str().unwrap_or("input").to_owned();
    let reference = match folder.as_str() {
        "" => name,
        folder => format!("{folder}/{name}"),
    };
    if let Some(upload) = hub.uploads.find(owner, &kind, &reference) {
        let there = bring(hub, server, call, &upload)
            .await
            .map_err(|error| failed(&error))?;
        let (folder, name) = there.rsplit_once('/').unwrap_or(("", &there));
        original["filename"] = name.into();
        original["subfolder"] = folder.into();
    } else {
        map_files(&mut original, &mut |folder, _| split(folder).1.to_owned());
    }
    let fields = [
        ("type", form.kind.clone()),
        ("subfolder", form.folder.clone()),
        ("original_ref", original.to_string()),
    ];
    let answer = post_form(call, "/upload/mask", &form.name, &form.content, &fields).await;
    let answer = answer.map_err(|error| failed(&Brought::Call(error)))?;
    if !answer.is_ok() {
        return Ok(text(answer.status, "text/plain", answer.body));
    }
    let made = answer.json();
    let field = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let (name, folder, kind) = (field("name"), field("subfolder"), field("type"));
    let path = format!("/view?{}", view_query(&name, &folder, &kind));
    let content = call
        .get(&path)
        .await
        .map_err(|error| failed(&Brought::Call(error)))?;
    if !content.is_ok() {
        return Ok(text(content.status, "text/plain", content.body));
    }
    let made = Place {
        owner,
        kind: &kind,
        folder: &folder,
        name: &name,
    };
    let kept = hub.uploads.keep(made, &content.body, true);
    let kept = kept.map_err(|error| not_kept(&error))?;
    Ok(told(&kept))
}

/// Why a file is not on a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Brought {
    #[error("{0}")]
    Call(CallError),
    #[error("the file {0} can't be read: {1}")]
    Lost(String, std::io::Error),
    #[error("the server has refused the file {0} with status {1}")]
    Refused(String, StatusCode),
}

fn failed(error: &Brought) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, "no_upload", error.to_string())
}

/// Brings a file to a server unless it is there, and returns what the server calls it.
pub(super) async fn bring(
    hub: &Hub,
    server: ServerId,
    call: &Call<'_>,
    upload: &Upload,
) -> Result<String, Brought> {
    let identity = upload.identity();
    let known = |state: &State| Some(state.server(server)?.uploads.get(&identity)?.clone());
    if let Some(name) = known(&hub.state()) {
        return Ok(name);
    }
    let reference = upload.reference();
    let content = hub.uploads.content(upload);
    let content = content.map_err(|error| Brought::Lost(reference.clone(), error))?;
    // Without `overwrite`, so that no file of others there is lost: the server tells under which name it has it.
    let fields = [
        ("type", upload.kind.clone()),
        ("subfolder", upload.folder.clone()),
    ];
    let answer = post_form(call, "/upload/image", &upload.name, &content, &fields).await;
    let answer = answer.map_err(Brought::Call)?;
    if !answer.is_ok() {
        return Err(Brought::Refused(reference, answer.status));
    }
    let made = answer.json();
    let name = made["name"].as_str().unwrap_or(&upload.name);
    let there = match made["subfolder"].as_str().unwrap_or_default() {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    };
    if let Some(known) = hub.state().servers.get_mut(server) {
        known.uploads.insert(identity, there.clone());
    }
    Ok(there)
}

async fn post_form(
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

/// A file that is to be seen, and which server has it.
pub(super) enum Seen {
    /// An upload of the gateway's own.
    Here(Arc<Upload>),
    /// A server of this name, and the query that it is asked with.
    At(String, String),
    /// A server that is to be found, and the query.
    Anywhere(String),
    Nowhere,
}

/// Finds the file that a query of `GET /view` asks for.
pub(super) fn find(hub: &Hub, owner: u64, query: &Query<'_>) -> Result<Seen, Refusal> {
    let name = query
        .get("filename")
        .ok_or_else(|| bad("the query has no filename"))?;
    let folder = query.get("subfolder").unwrap_or_default();
    let kind = query.get("type").unwrap_or_else(|| "output".to_owned());
    let is_plain_name = !name.contains(['/', '\\', '[']);
    let is_plain_folder =
        folder.split('/').all(|part| !part.starts_with('.')) && !folder.contains("//");
    if !is_plain_name || !is_plain_folder || folder.starts_with('/') || folder.ends_with('/') {
        // Another way to write a file's name must not be a way to another caller's file.
        return Ok(Seen::Nowhere);
    }
    let (server, rest) = split(&folder);
    let mut passed = view_query(&name, rest, &kind);
    for parameter in ["preview", "channel"] {
        if let Some(value) = query.get(parameter) {
            passed.push_str(&format!("&{parameter}={}", encoded(&value)));
        }
    }
    let is_plain = query.get("preview").is_none() && query.get("channel").is_none();
    if server.is_none() {
        let reference = match folder.as_str() {
            "" => name.clone(),
            folder => format!("{folder}/{name}"),
        };
        if let Some(upload) = hub
            .uploads
            .find(owner, &kind, &reference)
            .filter(|_| is_plain)
        {
            return Ok(Seen::Here(upload));
        }
    }
    let state = hub.state();
    let owners = owners_of(&state, server, rest, &name, &kind);
    if !owners.is_empty() && owners.iter().all(|(other, _)| *other != owner) {
        return Ok(Seen::Nowhere);
    }
    let own = owners.into_iter().rev().find(|(other, _)| *other == owner);
    Ok(match (server, own) {
        (Some(server), _) => Seen::At(server.to_owned(), passed),
        (None, Some((_, server))) => Seen::At(server, passed),
        (None, None) => Seen::Anywhere(passed),
    })
}

/// The callers whose jobs have made a file, and the servers that have it, the latest last.
fn owners_of(
    state: &State,
    server: Option<&str>,
    folder: &str,
    name: &str,
    kind: &str,
) -> Vec<(u64, String)> {
    let mut owners = Vec::new();
    for finished in state.finished.values() {
        let Some(at) = finished.server.as_deref() else {
            continue;
        };
        if server.is_some_and(|server| server != at) {
            continue;
        }
        let mut outputs = finished.entry["outputs"].clone();
        let mut is_one = false;
        map_files(&mut outputs, &mut |there, file| {
            is_one |= split(there).1 == folder
                && file["filename"] == name
                && file.get("type").is_none_or(|other| other == kind);
            String::new()
        });
        if is_one {
            owners.push((finished.owner, at.to_owned()));
        }
    }
    owners
}

/// Splits a folder of the gateway's words: the server that it names, and the folder there.
fn split(folder: &str) -> (Option<&str>, &str) {
    let Some(named) = folder.strip_prefix('@') else {
        return (None, folder);
    };
    let (server, rest) = named.split_once('/').unwrap_or((named, ""));
    (Some(server), rest)
}

fn view_query(name: &str, folder: &str, kind: &str) -> String {
    format!(
        "filename={}&subfolder={}&type={}",
        encoded(name),
        encoded(folder),
        encoded(kind)
    )
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Answers with an upload of the gateway's own.
pub(super) fn show(hub: &Hub, upload: &Upload) -> Result<Response<AnswerBody>, Refusal> {
    let content = hub
        .uploads
        .content(upload)
        .map_err(|error| not_kept(&error))?;
    let kind = match upload
        .name
        .rsplit_once('.')
        .map(|(_, ending)| ending.to_ascii_lowercase())
        .as_deref()
    {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        Some("mp4") => "video/mp4",
        Some("wav") => "audio/wav",
        // A page among the files must not run as one of the gateway's.
        Some(_) | None => "application/octet-stream",
    };
    let mut response = text(StatusCode::OK, kind, content);
    let name = upload.name.replace(['"', '\\'], "_");
    if let Ok(value) = HeaderValue::from_str(&format!("filename=\"{name}\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// Returns the names of the servers that a file may be asked of, the first ones in the file of settings first.
pub(super) fn servers_up(pool: &BackendPool) -> Result<Vec<Arc<crate::backend::Backend>>, Refusal> {
    let up = super::drive::up(pool);
    let names = pool.settings().members.iter().map(|member| &member.name);
    let found: Vec<_> = names
        .filter(|name| up.contains(*name))
        .filter_map(|name| backend_named(pool, name))
        .collect();
    match found.is_empty() {
        true => Err(no_server()),
        false => Ok(found),
    }
}

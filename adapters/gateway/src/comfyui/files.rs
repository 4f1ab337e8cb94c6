//! Files: uploads are kept and brought to servers, and pictures come from the server that made them.

use super::answers::{bad, no_server, not_kept, ok, text};
use super::drive::backend_named;
use super::hub::Hub;
use super::inputs::{Brought, bring, content, folder_of, post_form};
use super::line::up;
use super::lists::Query;
use super::made::{Located, Whose, join};
use super::server::Call;
use super::state::State;
use super::uploads::{Place, Upload};
use crate::backend_pool::BackendPool;
use crate::proxy::AnswerBody;
use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use leasehold_protocol::Refusal;
use leasehold_protocol::comfyui::{ServerId, map_files};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::spawn_blocking;

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
pub(super) async fn keep(
    hub: &Arc<Hub>,
    owner: u64,
    form: Form,
) -> Result<Response<AnswerBody>, Refusal> {
    let place = Place {
        owner,
        kind: form.kind,
        folder: form.folder.trim_matches('/').to_owned(),
        name: form.name,
    };
    keep_at(hub, place, form.content, form.overwrites).await
}

/// Keeps a file, which takes a while: it is hashed and written.
async fn keep_at(
    hub: &Arc<Hub>,
    place: Place,
    content: Bytes,
    overwrites: bool,
) -> Result<Response<AnswerBody>, Refusal> {
    let hub = Arc::clone(hub);
    let kept = spawn_blocking(move || hub.uploads.keep(place, &content, overwrites)).await;
    let kept = kept.map_err(|error| not_kept(&error))?;
    let kept = kept.map_err(|error| not_kept(&error))?;
    Ok(told(&kept))
}

fn told(upload: &Upload) -> Response<AnswerBody> {
    ok(&json!({"name": upload.name, "subfolder": upload.folder, "type": upload.kind}))
}

/// Lets a server join a mask with its picture, and keeps what it makes.
pub(super) async fn keep_mask(
    hub: &Arc<Hub>,
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
    let reference = join(&folder, &name);
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
    let file = Located {
        kind: kind.clone(),
        server: None,
        folder: folder.clone(),
        name: name.clone(),
    };
    let path = format!("/view?{}", view_query(&file));
    let content = call
        .get(&path)
        .await
        .map_err(|error| failed(&Brought::Call(error)))?;
    if !content.is_ok() {
        return Ok(text(content.status, "text/plain", content.body));
    }
    let made = Place {
        owner,
        kind,
        folder,
        name,
    };
    keep_at(hub, made, content.body, true).await
}

fn failed(error: &Brought) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, "no_upload", error.to_string())
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
    if !is_plain(&name, &folder) {
        return Ok(Seen::Nowhere);
    }
    let Some(file) = Located::at(&kind, &join(&folder, &name)) else {
        return Ok(Seen::Nowhere);
    };
    let mut passed = view_query(&file);
    for parameter in ["preview", "channel"] {
        if let Some(value) = query.get(parameter) {
            passed.push_str(&format!("&{parameter}={}", encoded(&value)));
        }
    }
    let is_plain = query.get("preview").is_none() && query.get("channel").is_none();
    if file.server.is_none() {
        let upload = hub.uploads.find(owner, &kind, &file.reference());
        if let Some(upload) = upload.filter(|_| is_plain) {
            return Ok(Seen::Here(upload));
        }
    }
    let state = hub.state();
    Ok(match (state.made.whose(&file, owner), &file.server) {
        (Whose::Foreign, _) => Seen::Nowhere,
        (Whose::Own(maker), _) => Seen::At(maker.server, passed),
        (Whose::Unknown, _) if is_brought(hub, &state, owner, &file) => Seen::Nowhere,
        (Whose::Unknown, Some(server)) => Seen::At(server.clone(), passed),
        (Whose::Unknown, None) => Seen::Anywhere(passed),
    })
}

/// Whether a server has an input because another caller's job needed it.
pub(super) fn is_brought(hub: &Hub, state: &State, owner: u64, file: &Located) -> bool {
    let reference = file.reference();
    let of_others = |(identity, there): (&String, &String)| {
        *there == reference && !hub.uploads.has(owner, identity)
    };
    let is_here = |name: &str| file.server.as_ref().is_none_or(|one| one == name);
    let mut servers = state.servers.iter().filter(|(_, one)| is_here(&one.name));
    let is_own_folder = reference.starts_with(&folder_of(owner));
    file.kind == "input"
        && !is_own_folder
        && servers.any(|(_, server)| server.uploads.iter().any(of_others))
}

/// Whether a file is named in the only way.
fn is_plain(name: &str, folder: &str) -> bool {
    let is_plain_part = |part: &str| !part.is_empty() && !part.starts_with('.');
    !name.is_empty()
        && !name.contains(['/', '\\', '['])
        && (folder.is_empty() || folder.split('/').all(is_plain_part))
}

/// Splits a folder of the gateway's words: the server that it names, and the folder there.
fn split(folder: &str) -> (Option<&str>, &str) {
    let Some(named) = folder.strip_prefix('@') else {
        return (None, folder);
    };
    let (server, rest) = named.split_once('/').unwrap_or((named, ""));
    (Some(server), rest)
}

/// The query by which the server that has a file is asked for it.
pub(super) fn view_query(file: &Located) -> String {
    format!(
        "filename={}&subfolder={}&type={}",
        encoded(&file.name),
        encoded(&file.folder),
        encoded(&file.kind)
    )
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Answers with an upload of the gateway's own.
pub(super) async fn show(
    hub: &Arc<Hub>,
    upload: &Arc<Upload>,
) -> Result<Response<AnswerBody>, Refusal> {
    let content = content(hub, upload).await;
    let content = content.map_err(|error| not_kept(&error))?;
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
    let up = up(pool);
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

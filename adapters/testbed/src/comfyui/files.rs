//! Uploads, views, and the files of the user.
//!
//! Invariant: no name leads out of its folder.

use super::disk::{Folder, join};
use super::prompt::Raises;
use super::route::Query;
use super::state::Studio;
use crate::multipart::parts;
use crate::reply::Reply;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Map, Value, json};

/// An answer of aiohttp without a body of the handler's own.
pub(super) fn bare(status: u16) -> Reply {
    let reason = match status {
        400 => "400: Bad Request",
        403 => "403: Forbidden",
        404 => "404: Not Found",
        405 => "405: Method Not Allowed",
        409 => "409: Conflict",
        _ => "",
    };
    Reply::text(status, reason)
}

/// `POST /upload/image` and `/upload/mask`.
pub(super) fn upload(
    studio: &Studio,
    content_type: &str,
    body: &[u8],
    is_mask: bool,
) -> Result<Reply, Raises> {
    let parts = parts(content_type, body).ok_or(Raises)?;
    let field = |name: &str| {
        let part = parts.iter().find(|part| part.name == name);
        part.and_then(|part| str::from_utf8(part.content).ok())
    };
    let image = parts.iter().find(|part| part.name == "image");
    let Some((image, name)) = image.and_then(|part| Some((part, part.filename?))) else {
        return Ok(bare(400));
    };
    let overwrite = matches!(field("overwrite"), Some("true" | "1"));
    let folder = Folder::parse(field("type").unwrap_or("input")).unwrap_or(Folder::Input);
    let subfolder = field("subfolder").unwrap_or_default();
    if name.is_empty() || escapes(name) || name.contains('/') || escapes(subfolder) {
        return Ok(bare(400));
    }
    if is_mask && let Some(refusal) = check_original(studio, field("original_ref"))? {
        return Ok(refusal);
    }
    let stored = studio.change(|state| {
        let stored = state
            .disk
            .upload(folder, subfolder, name, image.content, overwrite);
        state.report.uploads += u64::from(stored.is_ok());
        stored
    });
    // A full disk raises.
    let name = stored.map_err(|_| Raises)?;
    let subfolder = subfolder.trim_matches('/');
    let answer = json!({ "name": name, "subfolder": subfolder, "type": folder.name() });
    Ok(Reply::json(200, &answer))
}

/// The picture that a mask belongs to has to be there. The double stores the mask as it is.
fn check_original(studio: &Studio, original: Option<&str>) -> Result<Option<Reply>, Raises> {
    let original: Value = serde_json::from_str(original.ok_or(Raises)?).map_err(|_| Raises)?;
    let text = |name: &str| original[name].as_str();
    let Some(name) = text("filename").filter(|name| !escapes(name)) else {
        return Ok(Some(bare(400)));
    };
    let Some(folder) = Folder::parse(text("type").unwrap_or("output")) else {
        return Ok(Some(bare(400)));
    };
    let path = join(text("subfolder").unwrap_or_default(), name);
    let is_there = studio.read(|state| state.disk.get(folder, &path).is_some());
    Ok((!is_there).then(|| bare(404)))
}

fn escapes(path: &str) -> bool {
    path.starts_with('/') || path.split(['/', '\\']).any(|part| part == "..")
}

/// `GET /view`.
///
/// `preview` and `channel` are read and change nothing: the picture comes as it was stored.
pub(super) fn view(studio: &Studio, query: &Query) -> Reply {
    let Some(name) = query.get("filename") else {
        return bare(404);
    };
    if name.is_empty() || name.starts_with('/') || name.contains("..") {
        return bare(400);
    }
    let Some(folder) = Folder::parse(query.get("type").unwrap_or("output")) else {
        return bare(400);
    };
    let subfolder = query.get("subfolder").unwrap_or_default();
    if escapes(subfolder) {
        return bare(403);
    }
    let name = name.rsplit('/').next().unwrap_or(name);
    let path = join(subfolder, name);
    let Some(content) = studio.read(|state| state.disk.get(folder, &path).cloned()) else {
        return bare(404);
    };
    let disposition = format!("filename=\"{name}\"");
    Reply::new(200, content_type(name), content).header("content-disposition", disposition)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "json" => "application/json",
        "txt" => "text/plain",
        // Pages, scripts and styles too, so that none is ever run.
        _ => "application/octet-stream",
    }
}

/// `GET /userdata`: the files in a directory.
pub(super) fn list_user(studio: &Studio, query: &Query) -> Reply {
    let Some(directory) = query.get("dir").filter(|directory| !directory.is_empty()) else {
        return Reply::text(400, "Directory not provided");
    };
    if escapes(directory) {
        return bare(403);
    }
    let prefix = format!("{}/", directory.trim_matches('/'));
    let recurses = query.get("recurse") == Some("true");
    let has_info = query.get("full_info") == Some("true");
    let files: Vec<_> = studio.read(|state| {
        let files = state.disk.user.iter();
        let files =
            files.filter_map(|(path, content)| Some((path.strip_prefix(&prefix)?, content)));
        let files = files.filter(|(path, _)| recurses || !path.contains('/'));
        let shown = files.map(|(path, content)| match has_info {
            true => json!({ "path": path, "size": content.len(), "modified": 0, "created": 0 }),
            false => json!(path),
        });
        shown.collect()
    });
    if files.is_empty() {
        return bare(404);
    }
    Reply::json(200, &json!(files))
}

/// A file of the user: read, written, removed.
pub(super) fn user_file(
    studio: &Studio,
    method: &Method,
    path: &str,
    query: &Query,
    body: Bytes,
) -> Result<Reply, Raises> {
    if path.is_empty() || escapes(path) {
        return Ok(bare(403));
    }
    if *method == Method::DELETE {
        let removed = studio.change(|state| state.disk.user.remove(path));
        return Ok(match removed {
            Some(_) => Reply::new(204, "application/octet-stream", ""),
            None => bare(404),
        });
    }
    if *method != Method::POST {
        let content = studio.read(|state| state.disk.user.get(path).cloned());
        return Ok(match content {
            Some(content) => Reply::new(200, content_type(path), content),
            None => bare(404),
        });
    }
    let overwrites = query.get("overwrite") != Some("false");
    let stored = studio.change(|state| {
        let is_free = overwrites || !state.disk.user.contains_key(path);
        is_free.then(|| state.disk.store_user(path, body))
    });
    match stored {
        None => Ok(Reply::text(409, "File already exists")),
        Some(stored) => {
            stored.map_err(|_| Raises)?;
            Ok(Reply::json(200, &json!(path)))
        }
    }
}

/// `POST /userdata/{file}/move/{dest}`.
pub(super) fn move_user(studio: &Studio, from: &str, to: &str, query: &Query) -> Reply {
    if escapes(from) || escapes(to) {
        return bare(403);
    }
    let overwrites = query.get("overwrite") != Some("false");
    studio.change(|state| {
        let user = &mut state.disk.user;
        if !user.contains_key(from) {
            return bare(404);
        }
        if !overwrites && user.contains_key(to) {
            return Reply::text(409, "File already exists");
        }
        if let Some(content) = user.remove(from) {
            user.insert(to.to_owned(), content);
        }
        Reply::json(200, &json!(to))
    })
}

/// `GET` and `POST` of `/settings` and `/settings/{id}`.
pub(super) fn settings(
    studio: &Studio,
    method: &Method,
    id: Option<&str>,
    body: &[u8],
) -> Result<Reply, Raises> {
    if *method != Method::POST {
        let settings = studio.read(|state| state.disk.settings.clone());
        let shown = match id {
            None => Value::Object(settings),
            Some(id) => settings.get(id).cloned().unwrap_or(Value::Null),
        };
        return Ok(Reply::json(200, &shown));
    }
    let value: Value = serde_json::from_slice(body).map_err(|_| Raises)?;
    let changed: Map<String, Value> = match (id, value) {
        (Some(id), value) => [(id.to_owned(), value)].into_iter().collect(),
        (None, Value::Object(settings)) => settings,
        (None, _) => return Err(Raises),
    };
    studio.change(|state| state.disk.settings.extend(changed));
    Ok(Reply::new(200, "application/octet-stream", ""))
}

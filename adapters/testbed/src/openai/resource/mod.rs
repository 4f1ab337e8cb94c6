//! Files, batches, responses and conversations: their forms, and which of them a request may name.
//!
//! Invariant: a resource is found only with the key that made it, as if it did not exist for the others.

mod store;

pub(super) use store::{Resource, Resources};

use super::error::ApiError;
use super::request::{ApiRequest, object};
use crate::clock::unix_now;
use crate::judge::KeyId;
use crate::multipart::{Part, parts};
use hyper::body::Bytes;
use serde_json::{Map, Value, json};

/// Seconds until a batch expires: its window of 24 h.
const BATCH_WINDOW: u64 = 86_400;

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Batch,
    Response,
    Conversation,
}

impl Kind {
    /// The id of a new resource; `id` is unique.
    pub(super) fn id(self, id: &str) -> String {
        format!("{}{id}", self.prefix())
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::File => "file-",
            Self::Batch => "batch_",
            Self::Response => "resp_",
            Self::Conversation => "conv_",
        }
    }

    /// The `object` of an answer to a deletion.
    const fn deleted(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Batch => "batch",
            Self::Response => "response",
            Self::Conversation => "conversation.deleted",
        }
    }

    /// 404, for a resource that is not there or of another key.
    fn missing(self, id: &str) -> ApiError {
        let message = match self {
            Self::File => format!("No such File object: {id}"),
            Self::Batch => format!("No batch found with id '{id}'."),
            Self::Response => format!("Response with id '{id}' not found."),
            Self::Conversation => format!("Conversation with id '{id}' not found."),
        };
        let error = ApiError::new(404, None, message);
        match self {
            Self::File => error.param("id"),
            Self::Batch | Self::Response | Self::Conversation => error,
        }
    }
}

impl Resources {
    /// Returns a resource of this kind and key.
    pub(super) fn find(&self, kind: Kind, owner: KeyId, id: &str) -> Result<&Resource, ApiError> {
        let found = self.get(owner, id);
        found
            .filter(|_| id.starts_with(kind.prefix()))
            .ok_or_else(|| kind.missing(id))
    }

    /// Deletes a resource of this kind and key, and returns the JSON that says so.
    pub(super) fn delete(&mut self, kind: Kind, owner: KeyId, id: &str) -> Result<Value, ApiError> {
        self.find(kind, owner, id)?;
        self.remove(owner, id);
        Ok(json!({ "id": id, "object": kind.deleted(), "deleted": true }))
    }

    /// Keeps a resource, and returns its JSON as it is kept; only a file has a content.
    pub(super) fn keep(
        &mut self,
        id: String,
        owner: KeyId,
        value: &Value,
        content: Bytes,
    ) -> Bytes {
        let body = Bytes::from(value.to_string());
        let resource = Resource {
            owner,
            body: body.clone(),
            content,
        };
        self.insert(id, resource);
        body
    }

    /// Checks that the resources which a call goes on from are those of its key.
    pub(super) fn check(&self, owner: KeyId, request: &ApiRequest) -> Result<(), ApiError> {
        if let Some(id) = &request.links.previous_response
            && self.find(Kind::Response, owner, id).is_err()
        {
            let message = format!("Previous response with id '{id}' not found.");
            return Err(
                ApiError::new(400, Some("previous_response_not_found"), message)
                    .param("previous_response_id"),
            );
        }
        if let Some(id) = &request.links.conversation {
            self.find(Kind::Conversation, owner, id)?;
        }
        Ok(())
    }

    /// Makes a file of an upload.
    pub(super) fn create_file(
        &mut self,
        owner: KeyId,
        id: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Bytes, ApiError> {
        let parts = parts(content_type, body).ok_or_else(|| {
            ApiError::invalid("The body must be multipart/form-data with a file and a purpose.")
        })?;
        let part = |name: &str| parts.iter().find(|part| part.name == name);
        let required = |name| part(name).ok_or_else(|| missing_parameter(name));
        let (file, purpose) = (required("file")?, required("purpose")?);
        let id = Kind::File.id(id);
        let value = file_object(&id, file, &String::from_utf8_lossy(purpose.content));
        let content = Bytes::copy_from_slice(file.content);
        Ok(self.keep(id, owner, &value, content))
    }

    /// Makes a batch of a file that this key made. It is never run.
    pub(super) fn create_batch(
        &mut self,
        owner: KeyId,
        id: &str,
        body: &[u8],
    ) -> Result<Bytes, ApiError> {
        let call = object(body)?;
        let text = |name: &'static str| {
            let value = call.get(name).and_then(Value::as_str);
            value.ok_or_else(|| missing_parameter(name))
        };
        let (file, endpoint) = (text("input_file_id")?, text("endpoint")?);
        let window = text("completion_window")?;
        self.find(Kind::File, owner, file)?;
        let (id, now) = (Kind::Batch.id(id), unix_now().as_secs());
        let value = json!({
            "id": id,
            "object": "batch",
            "endpoint": endpoint,
            "errors": null,
            "input_file_id": file,
            "completion_window": window,
            "status": "validating",
            "output_file_id": null,
            "error_file_id": null,
            "created_at": now,
            "in_progress_at": null,
            "expires_at": now + BATCH_WINDOW,
            "finalizing_at": null,
            "completed_at": null,
            "failed_at": null,
            "expired_at": null,
            "cancelling_at": null,
            "cancelled_at": null,
            "request_counts": { "total": 0, "completed": 0, "failed": 0 },
            "metadata": call.get("metadata"),
        });
        Ok(self.keep(id, owner, &value, Bytes::new()))
    }

    /// Makes a conversation.
    pub(super) fn create_conversation(
        &mut self,
        owner: KeyId,
        id: &str,
        body: &[u8],
    ) -> Result<Bytes, ApiError> {
        let call = if body.is_empty() {
            Map::new()
        } else {
            object(body)?
        };
        let id = Kind::Conversation.id(id);
        let metadata = call.get("metadata").filter(|value| value.is_object());
        let value = json!({
            "id": id,
            "object": "conversation",
            "created_at": unix_now().as_secs(),
            "metadata": metadata.unwrap_or(&json!({})),
        });
        Ok(self.keep(id, owner, &value, Bytes::new()))
    }
}

fn missing_parameter(name: &'static str) -> ApiError {
    let message = format!("Missing required parameter: '{name}'.");
    ApiError::new(400, Some("missing_required_parameter"), message).param(name)
}

fn file_object(id: &str, file: &Part<'_>, purpose: &str) -> Value {
    json!({
        "id": id,
        "object": "file",
        "bytes": file.content.len(),
        "created_at": unix_now().as_secs(),
        "expires_at": null,
        "filename": file.filename.unwrap_or("upload"),
        "purpose": purpose,
        "status": "processed",
        "status_details": null,
    })
}

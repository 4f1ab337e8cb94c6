//! The body of a task's call, and its fingerprint.
//!
//! Invariant: a request holds what its item, the settings and the user's template say, and nothing else. Equal
//! requests have equal fingerprints, in every run.

use crate::batch::Reviews;
use crate::columns::AnswerName;
use crate::error::BatchError;
use crate::input::{Content, Item, Template};
use leasehold_core::balance::stable_hash;
use leasehold_protocol::Call;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What all requests of a batch hold besides their item.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RequestSettings {
    /// A system message, put before the others.
    pub system: Option<String>,
    /// Fields of the body; texts in it may have `{{ field }}`.
    pub body: Option<BodyTemplate>,
    /// Fields that replace those of the item and the template.
    pub set: Map<String, Value>,
}

/// A JSON object whose texts may have placeholders for an item's fields, in Jinja's syntax.
#[derive(Clone, Debug)]
pub struct BodyTemplate {
    fields: Map<String, Value>,
    path: std::path::PathBuf,
}

/// A request, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaskRequest {
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl BodyTemplate {
    /// Reads a template of a body.
    ///
    /// # Errors
    /// If the file can't be read or does not hold a JSON object.
    pub fn read(path: &Path) -> Result<Self, BatchError> {
        let text = crate::input::read(path)?;
        let problem = match serde_json::from_str(&text) {
            Ok(Value::Object(fields)) => {
                let path = path.to_owned();
                return Ok(Self { fields, path });
            }
            Ok(_) => "not a JSON object".to_owned(),
            Err(error) => format!("not JSON: {error}"),
        };
        Err(BatchError::InvalidFile {
            path: path.to_owned(),
            problem,
        })
    }

    /// Whether the template holds what is asked, so that items need no prompt.
    #[must_use]
    pub fn has_prompt(&self) -> bool {
        ["messages", "prompt", "input"]
            .iter()
            .any(|name| self.fields.contains_key(*name))
    }

    fn render(&self, item: &Item) -> Result<Map<String, Value>, BatchError> {
        let mut fields = self.fields.clone();
        for value in fields.values_mut() {
            self.fill(value, item)?;
        }
        Ok(fields)
    }

    /// Fills in each text of a value. The depth is bounded by that of the JSON.
    fn fill(&self, value: &mut Value, item: &Item) -> Result<(), BatchError> {
        match value {
            Value::String(text) if text.contains("{{") || text.contains("{%") => {
                let template = Template::of_text(&self.path, text.clone())?;
                let rendered = template.render(&item.fields);
                *text = rendered.map_err(|problem| BatchError::InvalidFile {
                    path: self.path.clone(),
                    problem: format!("item {}: {problem}", item.id),
                })?;
            }
            Value::Array(values) => {
                for value in values {
                    self.fill(value, item)?;
                }
            }
            Value::Object(fields) => {
                for value in fields.values_mut() {
                    self.fill(value, item)?;
                }
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        Ok(())
    }
}

impl RequestSettings {
    /// Builds the request of an item to a model.
    pub(crate) fn request(&self, item: &Item, model: &str) -> Result<TaskRequest, BatchError> {
        let template = self.body.as_ref().map(|body| body.render(item));
        let template = template.transpose()?.unwrap_or_default();
        let has_prompt = self.body.as_ref().is_some_and(BodyTemplate::has_prompt);
        let mut body = Map::new();
        body.insert("model".to_owned(), model.into());
        let path = match &item.content {
            Content::Call { path, body: own } => {
                body.extend(own.clone());
                path.clone()
            }
            Content::Prompt(prompt) if !has_prompt => {
                let message = json!({"role": "user", "content": prompt});
                body.insert("messages".to_owned(), json!([message]));
                Call::Chat.path().to_owned()
            }
            Content::Messages(messages) => {
                body.insert("messages".to_owned(), messages.clone());
                Call::Chat.path().to_owned()
            }
            Content::Prompt(_) | Content::Fields => Call::Chat.path().to_owned(),
        };
        body.extend(template);
        body.extend(self.set.clone());
        body.insert("model".to_owned(), model.into());
        if let Some(system) = &self.system {
            add_system(Call::of_path(&path), &mut body, system);
        }
        let body = Value::Object(body);
        Ok(TaskRequest { path, body })
    }

    /// Builds the request of a review: of the answer that a model gave to an item.
    pub(crate) fn review(
        &self,
        reviews: &Reviews,
        item: &Item,
        answer: &Value,
        name: &AnswerName,
    ) -> Result<TaskRequest, BatchError> {
        let fields = review_fields(item, answer, name.reviewed.clone().into());
        let prompt = reviews.template.render(&fields);
        let prompt = prompt.map_err(|problem| reviews.template.invalid(&item.id, &problem))?;
        let asked = Item {
            id: item.id.clone(),
            content: Content::Prompt(prompt),
            fields,
        };
        let settings = Self {
            system: reviews.system.clone(),
            body: None,
            set: self.set.clone(),
        };
        settings.request(&asked, &name.model)
    }
}

/// The fields that a template of reviews may use.
fn review_fields(item: &Item, answer: &Value, reviewed: Value) -> Map<String, Value> {
    let mut fields = item.fields.clone();
    let text = answer.get("content").unwrap_or(answer);
    fields.insert("answer".to_owned(), text.clone());
    fields.insert("model".to_owned(), reviewed);
    fields.insert("check".to_owned(), answer.clone());
    fields
}

/// Checks that a template of reviews uses no field that an item lacks, before any answer is asked for.
pub(crate) fn check_review(reviews: &Reviews, item: &Item) -> Result<(), BatchError> {
    let fields = review_fields(item, &Value::Null, Value::Null);
    let missing = reviews.template.missing_fields(&fields);
    match missing.is_empty() {
        true => Ok(()),
        false => {
            let problem = format!(
                "the template does not fit{missing}; a review adds `answer`, `model` and `check`"
            );
            Err(reviews.template.invalid(&item.id, &problem))
        }
    }
}

/// Puts a system message where the call has it.
fn add_system(call: Call, body: &mut Map<String, Value>, system: &str) {
    match call {
        Call::Responses => {
            body.insert("instructions".to_owned(), system.into());
        }
        Call::Messages => {
            body.insert("system".to_owned(), system.into());
        }
        Call::Chat | Call::Completions | Call::Embeddings | Call::Other => {
            if let Some(Value::Array(messages)) = body.get_mut("messages") {
                messages.insert(0, json!({"role": "system", "content": system}));
            }
        }
    }
}

impl TaskRequest {
    /// Returns a hash of the path and the body, whatever the order of its fields.
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = self.path.clone();
        text.push('\n');
        write_sorted(&self.body, &mut text);
        format!("{:016x}", stable_hash(text.as_bytes()))
    }
}

/// Writes a value as JSON with sorted fields. The depth is bounded by that of the JSON.
fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.iter().collect();
            names.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (name, value) in names {
                text.push_str(&Value::from(&**name).to_string());
                text.push(':');
                write_sorted(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for value in values {
                write_sorted(value, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(content: Content) -> Item {
        Item {
            id: "1".to_owned(),
            content,
            fields: json!({"q": "why"}).as_object().cloned().unwrap(),
        }
    }

    #[test]
    fn a_request_holds_only_what_the_user_says() {
        let settings = RequestSettings::default();
        let request = settings
            .request(&item(Content::Prompt("hi".to_owned())), "m")
            .unwrap();
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(request.body, body);
        assert_eq!(request.path, "/chat/completions");
    }

    #[test]
    fn settings_replace_the_template_and_the_template_the_item() {
        let fields =
            json!({"temperature": 1, "messages": [{"role": "user", "content": "{{ q }}?"}]});
        let mut settings = RequestSettings {
            system: Some("be brief".to_owned()),
            ..RequestSettings::default()
        };
        settings.body = Some(BodyTemplate {
            fields: fields.as_object().cloned().unwrap(),
            path: "body.json".into(),
        });
        settings.set.insert("temperature".to_owned(), json!(0));
        let request = settings.request(&item(Content::Fields), "m").unwrap();
        let messages = json!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "why?"},
        ]);
        let body = json!({"model": "m", "temperature": 0, "messages": messages});
        assert_eq!(request.body, body);
    }

    #[test]
    fn a_fingerprint_depends_on_path_and_values_and_not_on_the_order_of_fields() {
        let request = |path: &str, body: Value| {
            let path = path.to_owned();
            TaskRequest { path, body }.fingerprint()
        };
        let one = request("/a", json!({"a": 1, "b": [1, {"c": 2, "d": 3}]}));
        assert_eq!(
            one,
            request("/a", json!({"b": [1, {"d": 3, "c": 2}], "a": 1}))
        );
        assert_ne!(
            one,
            request("/b", json!({"a": 1, "b": [1, {"c": 2, "d": 3}]}))
        );
        assert_ne!(
            one,
            request("/a", json!({"a": 2, "b": [1, {"c": 2, "d": 3}]}))
        );
        assert_eq!(one.len(), 16);
    }
}

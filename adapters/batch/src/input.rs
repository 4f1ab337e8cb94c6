//! Items as written in the input, and the prompts made of them.
//!
//! Invariant: an item has an id and all that its requests need.

use crate::error::BatchError;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// One line of the input.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// The `id`, `input_id` or `custom_id`, as JSON.
    pub(crate) id: String,
    pub(crate) content: Content,
    /// All fields of the line.
    pub(crate) fields: Map<String, Value>,
}

/// What an item asks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// The text of a user message.
    Prompt(String),
    /// A whole conversation.
    Messages(Value),
    /// A line of OpenAI's Batch API: the path of a call and its body.
    Call {
        path: String,
        body: Map<String, Value>,
    },
    /// Only fields, which a template of the body uses.
    Fields,
}

/// The input's place and how it is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Input {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// The template of the prompts; an item's own `prompt` otherwise.
    pub template: Option<Template>,
    /// Whether an item may have neither prompt nor messages, because a template has them, or it is only reviewed.
    pub prompt_optional: bool,
    /// Whether lines that are no items are left out, instead of refusing the file.
    pub skip_bad_lines: bool,
}

impl Input {
    /// Items with prompts or messages of their own.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            template: None,
            prompt_optional: false,
            skip_bad_lines: false,
        }
    }

    /// The file, as errors name it.
    pub(crate) fn name(&self) -> PathBuf {
        match is_standard(&self.path) {
            true => PathBuf::from("standard input"),
            false => self.path.clone(),
        }
    }
}

/// Whether a path stands for standard input or output.
#[must_use]
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A prompt with `{{ field }}` placeholders for an item's fields, in Jinja's syntax.
#[derive(Clone, Debug)]
pub struct Template {
    path: PathBuf,
    environment: Environment<'static>,
}

const NAME: &str = "prompt";
/// Field of a result that holds its answers by model.
pub(crate) const ANSWERS: &str = "output_pred";
/// Field of a result that holds its reviews, by the reviewed model and the model that reviews.
pub(crate) const REVIEWS: &str = "output_review";
/// Field of a result that holds its failures by model.
pub(crate) const FAILURES: &str = "output_error";

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// If the file can't be read or isn't a template.
    pub fn read(path: &Path) -> Result<Self, BatchError> {
        Self::of_text(path, read(path)?)
    }

    /// Makes a template of a text in a file.
    pub(crate) fn of_text(path: &Path, text: String) -> Result<Self, BatchError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment
            .add_template_owned(NAME, text)
            .map_err(|error| BatchError::InvalidLine {
                path: path.to_owned(),
                line: error.line().unwrap_or(1),
                problem: format!("invalid template: {}", reason(&error)),
            })?;
        Ok(Self {
            path: path.to_owned(),
            environment,
        })
    }

    pub(crate) fn render(&self, fields: &Map<String, Value>) -> Result<String, String> {
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(Serde(fields)));
        rendered.map_err(|error| {
            let line = error.line().unwrap_or(1);
            let mut problem = format!(
                "template {}:{line} does not fit this item: {}",
                self.path.display(),
                reason(&error)
            );
            if error.kind() == ErrorKind::UndefinedError {
                problem.push_str(&self.missing_fields(fields));
            }
            problem
        })
    }

    /// Returns an error of a template that does not fit an item.
    pub(crate) fn invalid(&self, item: &str, problem: &str) -> BatchError {
        BatchError::InvalidFile {
            path: self.path.clone(),
            problem: format!("item {item}: {problem}"),
        }
    }

    /// Lists the fields that the template uses and the item lacks, as the end of a message.
    pub(crate) fn missing_fields(&self, fields: &Map<String, Value>) -> String {
        let Ok(template) = self.environment.get_template(NAME) else {
            return String::new();
        };
        let is_global = |name: &str| self.environment.globals().any(|(it, _)| it == name);
        let mut missing: Vec<_> = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|name| !fields.contains_key(name) && !is_global(name))
            .map(|name| format!("`{name}`"))
            .collect();
        missing.sort_unstable();
        if missing.is_empty() {
            return String::new();
        }
        format!("; the item has no field {}", missing.join(", "))
    }
}

/// Returns the engine's message without its name of the template.
fn reason(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

impl Item {
    pub(crate) fn new(fields: Map<String, Value>, input: &Input) -> Result<Self, String> {
        let id = item_id(&fields)?;
        if fields.contains_key("custom_id") {
            let content = call_of(&fields)?;
            let fields = Map::new();
            return Ok(Self {
                id,
                content,
                fields,
            });
        }
        check_model_maps(&fields)?;
        let content = match (
            &input.template,
            fields.get("prompt"),
            fields.get("messages"),
        ) {
            (Some(template), _, _) => Content::Prompt(template.render(&fields)?),
            (None, None, Some(messages)) => {
                if messages.as_array().is_none_or(Vec::is_empty) {
                    return Err("`messages` is not a list with at least one message".to_owned());
                }
                Content::Messages(messages.clone())
            }
            (None, Some(_), Some(_)) => {
                return Err("the item has both `prompt` and `messages`; keep one".to_owned());
            }
            (None, Some(Value::String(prompt)), None) => Content::Prompt(prompt.clone()),
            (None, Some(_), None) => return Err("the `prompt` is not a string".to_owned()),
            (None, None, None) if input.prompt_optional => Content::Fields,
            (None, None, None) => {
                let problem =
                    "the item has no `prompt` and no `messages`; add one, or use a template";
                return Err(problem.to_owned());
            }
        };
        Ok(Self {
            id,
            content,
            fields,
        })
    }

    /// Whether the item is a line of OpenAI's Batch API.
    pub(crate) const fn is_call(&self) -> bool {
        matches!(self.content, Content::Call { .. })
    }

    /// The model that the item names itself.
    pub(crate) fn own_model(&self) -> Option<&str> {
        match &self.content {
            Content::Call { body, .. } => body.get("model")?.as_str(),
            Content::Prompt(_) | Content::Messages(_) | Content::Fields => None,
        }
    }
}

/// Reads a line of OpenAI's Batch API.
fn call_of(fields: &Map<String, Value>) -> Result<Content, String> {
    let method = fields.get("method").and_then(Value::as_str);
    if method.is_some_and(|method| !method.eq_ignore_ascii_case("post")) {
        return Err("the `method` is not POST".to_owned());
    }
    let path = match fields.get("url").and_then(Value::as_str) {
        Some(path) if path.starts_with('/') && path.len() > 1 => path.to_owned(),
        Some(_) => return Err("the `url` is not a path, such as /v1/chat/completions".to_owned()),
        None => return Err("the line has no `url`, such as /v1/chat/completions".to_owned()),
    };
    let Some(Value::Object(body)) = fields.get("body") else {
        return Err("the line has no `body` that is an object".to_owned());
    };
    if !body.get("model").is_some_and(Value::is_string) {
        return Err("the `body` has no `model`".to_owned());
    }
    let body = body.clone();
    Ok(Content::Call { path, body })
}

/// Returns the id of an item or result, as JSON: a string or a whole number.
pub(crate) fn item_id(fields: &Map<String, Value>) -> Result<String, String> {
    let field = |name| fields.get(name).filter(|value: &&Value| !value.is_null());
    let [custom_id, id, input_id] = ["custom_id", "id", "input_id"].map(field);
    id_of(custom_id, id.or(input_id))
}

/// The same, of the fields that may hold it.
pub(crate) fn id_of(custom_id: Option<&Value>, id: Option<&Value>) -> Result<String, String> {
    if let Some(id) = custom_id {
        return if id.is_string() {
            Ok(id.to_string())
        } else {
            Err("the `custom_id` is not a string".to_owned())
        };
    }
    match id {
        Some(id @ Value::String(_)) => Ok(id.to_string()),
        Some(id) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        Some(_) => Err("the `id` is neither a string nor a whole number".to_owned()),
        None => Err("the item has no `id` or `input_id`".to_owned()),
    }
}

pub(crate) fn no_model_map(name: &str) -> String {
    format!("`{name}` is not an object with a key for each model")
}

/// Checks that answers and failures, if present, are objects by model.
pub(crate) fn check_model_maps(fields: &Map<String, Value>) -> Result<(), String> {
    for name in [ANSWERS, REVIEWS, FAILURES] {
        let value = fields.get(name);
        let reviews = value.filter(|_| name == REVIEWS).and_then(Value::as_object);
        let mut reviews = reviews.into_iter().flatten();
        if value.is_some_and(|value| !value.is_object()) || reviews.any(|(_, it)| !it.is_object()) {
            return Err(no_model_map(name));
        }
    }
    Ok(())
}

/// Reads a file as text, without a byte order mark.
pub(crate) fn read(path: &Path) -> Result<String, BatchError> {
    let bytes = fs::read(path).map_err(|source| BatchError::Read {
        path: path.to_owned(),
        source,
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let before = &error.as_bytes()[..valid];
            let lines = before.iter().filter(|byte| **byte == b'\n').count();
            Err(BatchError::InvalidLine {
                path: path.to_owned(),
                line: lines.saturating_add(1),
                problem: "not UTF-8".to_owned(),
            })
        }
    }
}

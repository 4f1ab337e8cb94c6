//! Items as written in the input, and the prompts made of them.
//!
//! Invariant: every item has a unique id and all that its requests need, so that no input error can occur once calls
//! are made.

use crate::error::BatchError;
use crate::objects::{ObjectLine, ObjectLines};
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One line of the input.
#[derive(Clone, Debug)]
pub struct Item {
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
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Input<'a> {
    /// The file; `-` is standard input.
    pub path: &'a Path,
    /// The template of the prompts; an item's own `prompt` otherwise.
    pub template: Option<&'a Template>,
    /// Whether an item may have neither prompt nor messages, because a template of the body has them.
    pub prompt_optional: bool,
}

impl<'a> Input<'a> {
    /// Items with prompts or messages of their own.
    #[must_use]
    pub const fn new(path: &'a Path) -> Self {
        Self {
            path,
            template: None,
            prompt_optional: false,
        }
    }

    /// Whether it is standard input.
    #[must_use]
    pub fn is_stdin(&self) -> bool {
        is_standard(self.path)
    }
}

/// Whether a path stands for standard input or output.
#[must_use]
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A prompt with `{{ field }}` placeholders for an item's fields, in Jinja's syntax.
#[derive(Debug)]
pub struct Template {
    path: PathBuf,
    environment: Environment<'static>,
}

const NAME: &str = "prompt";
/// Field of a result that holds its answers by model.
pub(crate) const ANSWERS: &str = "output_pred";
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

    /// Lists the fields that the template uses and the item lacks, as the end of a message.
    fn missing_fields(&self, fields: &Map<String, Value>) -> String {
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

/// Reads items, one JSON object per line; blank lines are skipped.
///
/// # Errors
/// If the input can't be read or has no item, a line isn't a JSON object or lacks an id or what is asked, two lines
/// have the same id, or lines of OpenAI's Batch API are among others.
pub fn read_items(input: &Input<'_>) -> Result<Vec<Item>, BatchError> {
    let mut objects = if input.is_stdin() {
        ObjectLines::of_stdin()
    } else {
        ObjectLines::open(input.path)?
    };
    let mut items: Vec<Item> = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    while let Some(object) = objects.next() {
        let ObjectLine { number, fields, .. } = object?;
        let invalid = |problem: String| objects.invalid(number, problem);
        let item = Item::new(fields, input).map_err(invalid)?;
        if let Some(first) = lines.insert(item.id.clone(), number) {
            let problem = format!("the id {} is already used on line {first}", item.id);
            return Err(invalid(problem));
        }
        if items
            .first()
            .is_some_and(|it| it.is_call() != item.is_call())
        {
            let problem = "lines with a `custom_id` (OpenAI's Batch API) and others can't be mixed";
            return Err(invalid(problem.to_owned()));
        }
        items.push(item);
    }
    if items.is_empty() {
        return Err(objects.invalid_file("the file has no items; write one JSON object per line"));
    }
    Ok(items)
}

impl Item {
    fn new(fields: Map<String, Value>, input: &Input<'_>) -> Result<Self, String> {
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
        let content = match (input.template, fields.get("prompt"), fields.get("messages")) {
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
    #[must_use]
    pub const fn is_call(&self) -> bool {
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
    if let Some(id) = fields.get("custom_id") {
        return if id.is_string() {
            Ok(id.to_string())
        } else {
            Err("the `custom_id` is not a string".to_owned())
        };
    }
    match fields.get("id").or_else(|| fields.get("input_id")) {
        Some(id @ Value::String(_)) => Ok(id.to_string()),
        Some(id) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        Some(_) => Err("the `id` is neither a string nor a whole number".to_owned()),
        None => Err("the item has no `id` or `input_id`".to_owned()),
    }
}

/// Checks that answers and failures, if present, are objects by model.
pub(crate) fn check_model_maps(fields: &Map<String, Value>) -> Result<(), String> {
    for name in [ANSWERS, FAILURES] {
        if fields.get(name).is_some_and(|value| !value.is_object()) {
            return Err(format!(
                "`{name}` is not an object with a key for each model"
            ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("it can be written");
        file
    }

    fn error(text: &str) -> String {
        let file = file(text);
        let error = read_items(&Input::new(file.path()))
            .unwrap_err()
            .to_string();
        error.replace(&file.path().display().to_string(), "F")
    }

    #[test]
    fn each_invalid_line_is_reported_with_its_number() {
        let cut = error("{\"id\":1,\"prompt\":\"a\"}\n{oops\n");
        assert_eq!(cut, "F:2: not JSON at column 2: key must be a string");
        assert_eq!(error("[1]"), "F:1: not a JSON object");
        assert_eq!(
            error("\n\n{\"prompt\":\"a\"}"),
            "F:3: the item has no `id` or `input_id`"
        );
        assert!(error("{\"id\":1.5,\"prompt\":\"a\"}").contains("neither a string nor"));
        assert!(error("{\"id\":1}").contains("has no `prompt` and no `messages`"));
        assert!(error("{\"id\":1,\"prompt\":2}").contains("is not a string"));
        let answered = "{\"id\":1,\"prompt\":\"a\",\"output_pred\":\"gold\"}";
        assert_eq!(
            error(answered),
            "F:1: `output_pred` is not an object with a key for each model"
        );
        let twice = "{\"id\":\"a\",\"prompt\":\"x\"}\n{\"input_id\":\"a\",\"prompt\":\"y\"}";
        assert_eq!(error(twice), "F:2: the id \"a\" is already used on line 1");
        assert!(error("\n").starts_with("F: the file has no items"));
    }

    #[test]
    fn a_line_of_openai_batch_is_a_call() {
        let line = |body: &str| {
            format!(
                "{{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{body}}}"
            )
        };
        let file = file(&line("{\"model\":\"m\",\"input\":\"x\"}"));
        let items = read_items(&Input::new(file.path())).unwrap();
        assert_eq!(items[0].own_model(), Some("m"));
        assert!(error(&line("{}")).contains("no `model`"));
        let mixed = line("{\"model\":\"m\"}") + "\n{\"id\":1,\"prompt\":\"x\"}";
        assert!(error(&mixed).contains("F:2: lines with a `custom_id`"));
    }

    #[test]
    fn messages_are_taken_as_they_are() {
        let file = file("{\"id\":1,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
        let items = read_items(&Input::new(file.path())).unwrap();
        assert!(matches!(&items[0].content, Content::Messages(it) if it[0]["content"] == "x"));
        assert!(error("{\"id\":1,\"messages\":[]}").contains("at least one message"));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_a_line_that_is_not_utf8_is_reported() {
        let mut file = file("\u{feff}{\"id\":1,\"prompt\":\"a\"}\n");
        assert_eq!(read_items(&Input::new(file.path())).unwrap().len(), 1);
        file.write_all(b"{\xff}").unwrap();
        let error = read_items(&Input::new(file.path())).unwrap_err();
        assert!(
            matches!(error, BatchError::InvalidLine { line: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_template_is_filled_in_from_the_item() {
        let template = file("Is {{ a }} > {{ b.c }}?");
        let template = Template::read(template.path()).unwrap();
        let items = file("{\"id\":1,\"a\":\"2\",\"b\":{\"c\":3}}");
        let mut input = Input::new(items.path());
        input.template = Some(&template);
        let items = read_items(&input).unwrap();
        assert_eq!(items[0].content, Content::Prompt("Is 2 > 3?".to_owned()));
    }

    #[test]
    fn a_field_missing_from_an_item_is_reported_with_the_template_line() {
        let template_file = file("first\n{{ missing }}");
        let template = Template::read(template_file.path()).unwrap();
        let items = file("{\"id\":1,\"a\":2}");
        let mut input = Input::new(items.path());
        input.template = Some(&template);
        let error = read_items(&input).unwrap_err().to_string();
        let place = format!("{}:2", template_file.path().display());
        assert!(
            error.contains(&place) && error.contains("no field `missing`"),
            "{error}"
        );
        let broken = file("{{ a ");
        assert!(Template::read(broken.path()).is_err());
    }
}

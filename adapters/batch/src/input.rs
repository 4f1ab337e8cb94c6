//! Items as written in the input file, and the prompts made of them.
//!
//! Invariant: every item has a unique id and a finished prompt, so that no input error can occur once calls are
//! made.

use crate::error::BatchError;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One line of the input.
#[derive(Clone, Debug)]
pub struct Item {
    /// The `id` or `input_id`, as JSON.
    pub(crate) id: String,
    pub(crate) prompt: String,
    /// All fields of the line.
    pub(crate) fields: Map<String, Value>,
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
        let text = read(path)?;
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

    fn render(&self, fields: &Map<String, Value>) -> Result<String, String> {
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
/// If the file can't be read or has no item, a line isn't a JSON object or has no id or prompt, or two lines have
/// the same id.
pub fn read_items(path: &Path, template: Option<&Template>) -> Result<Vec<Item>, BatchError> {
    let mut items = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (line, fields) in read_objects(path)? {
        let invalid = |problem: String| BatchError::InvalidLine {
            path: path.to_owned(),
            line,
            problem,
        };
        let item = Item::new(fields, template).map_err(invalid)?;
        if let Some(first) = lines.insert(item.id.clone(), line) {
            let problem = format!("the id {} is already used on line {first}", item.id);
            return Err(invalid(problem));
        }
        items.push(item);
    }
    if items.is_empty() {
        return Err(BatchError::InvalidFile {
            path: path.to_owned(),
            problem: "the file has no items; write one JSON object per line".to_owned(),
        });
    }
    Ok(items)
}

impl Item {
    fn new(fields: Map<String, Value>, template: Option<&Template>) -> Result<Self, String> {
        let id = item_id(&fields)?;
        check_model_maps(&fields)?;
        let prompt = match (template, fields.get("prompt")) {
            (Some(template), _) => template.render(&fields)?,
            (None, Some(Value::String(prompt))) => prompt.clone(),
            (None, Some(_)) => return Err("the `prompt` is not a string".to_owned()),
            (None, None) => {
                return Err("the item has no `prompt`; add one, or use a template".to_owned());
            }
        };
        Ok(Self { id, prompt, fields })
    }
}

/// Returns the id of an item or result, as JSON: a string or a whole number.
pub(crate) fn item_id(fields: &Map<String, Value>) -> Result<String, String> {
    match fields.get("id").or_else(|| fields.get("input_id")) {
        Some(id @ Value::String(_)) => Ok(id.to_string()),
        Some(id) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        Some(_) => Err("the `id` is neither a string nor a whole number".to_owned()),
        None => Err("the item has no `id` or `input_id`".to_owned()),
    }
}

/// A line number, from 1, and the fields of the JSON object on that line.
type NumberedObject = (usize, Map<String, Value>);

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

pub(crate) fn read_objects(path: &Path) -> Result<Vec<NumberedObject>, BatchError> {
    let text = read(path)?;
    let mut objects = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let problem = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => {
                objects.push((line, fields));
                continue;
            }
            Ok(_) => "not a JSON object".to_owned(),
            Err(error) => {
                // The parser saw one line only, so its line number is always 1.
                let message = error.to_string();
                let reason = message
                    .rsplit_once(" at line ")
                    .map_or(&*message, |(reason, _)| reason);
                format!("not JSON at column {}: {reason}", error.column())
            }
        };
        return Err(BatchError::InvalidLine {
            path: path.to_owned(),
            line,
            problem,
        });
    }
    Ok(objects)
}

fn read(path: &Path) -> Result<String, BatchError> {
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
        let error = read_items(file.path(), None).unwrap_err().to_string();
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
        assert!(error("{\"id\":1}").contains("has no `prompt`"));
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
    fn a_byte_order_mark_is_skipped_and_a_line_that_is_not_utf8_is_reported() {
        let mut file = file("\u{feff}{\"id\":1,\"prompt\":\"a\"}\n");
        assert_eq!(read_items(file.path(), None).unwrap().len(), 1);
        file.write_all(b"{\xff}").unwrap();
        let error = read_items(file.path(), None).unwrap_err();
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
        let items = read_items(items.path(), Some(&template)).unwrap();
        assert_eq!(items[0].prompt, "Is 2 > 3?");
    }

    #[test]
    fn a_field_missing_from_an_item_is_reported_with_the_template_line() {
        let template_file = file("first\n{{ missing }}");
        let template = Template::read(template_file.path()).unwrap();
        let items = file("{\"id\":1,\"a\":2}");
        let error = read_items(items.path(), Some(&template))
            .unwrap_err()
            .to_string();
        let place = format!("{}:2", template_file.path().display());
        assert!(
            error.contains(&place) && error.contains("no field `missing`"),
            "{error}"
        );
        let broken = file("{{ a ");
        assert!(Template::read(broken.path()).is_err());
    }
}

//! Items as their author wrote them, and the prompts that are made of them.
//!
//! Invariant: every item has an id that no other has and a prompt that is ready to be sent, so that
//! nothing about the input can fail once calls are made.

use crate::error::BatchError;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One line of the input.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its `id` or `input_id`, as JSON.
    pub(crate) id: String,
    pub(crate) prompt: String,
    /// All its fields.
    pub(crate) fields: Map<String, Value>,
}

/// A text that becomes a prompt when an item's fields are put in, as `{{ field }}` in Jinja's syntax.
#[derive(Debug)]
pub struct Template {
    path: PathBuf,
    environment: Environment<'static>,
}

const NAME: &str = "prompt";
/// Where answers are kept under their model's name in each result.
pub(crate) const ANSWERS: &str = "output_pred";
/// Where failures are kept under their model's name in each result.
pub(crate) const FAILURES: &str = "output_error";

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Where the file can't be read or isn't a template.
    pub fn read(path: &Path) -> Result<Self, BatchError> {
        let text = read(path)?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment
            .add_template_owned(NAME, text)
            .map_err(|error| BatchError::Line {
                path: path.to_owned(),
                line: error.line().unwrap_or(1),
                problem: format!("not a template: {error}"),
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
            format!(
                "{}:{line} can't be filled in from it: {error}",
                self.path.display()
            )
        })
    }
}

/// Reads items, a JSON object a line; blank lines are passed over.
///
/// # Errors
/// Where the file can't be read, a line isn't such an object or has no id or prompt, two lines have
/// the same id, or there is none at all.
pub fn read_items(path: &Path, template: Option<&Template>) -> Result<Vec<Item>, BatchError> {
    let mut items = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (line, fields) in read_objects(path)? {
        let wrong = |problem: String| BatchError::Line {
            path: path.to_owned(),
            line,
            problem,
        };
        let item = Item::new(fields, template).map_err(wrong)?;
        if let Some(first) = lines.insert(item.id.clone(), line) {
            let problem = format!("the id {} is on line {first} already", item.id);
            return Err(wrong(problem));
        }
        items.push(item);
    }
    if items.is_empty() {
        return Err(BatchError::File {
            path: path.to_owned(),
            problem: "there is no item in it".to_owned(),
        });
    }
    Ok(items)
}

impl Item {
    fn new(fields: Map<String, Value>, template: Option<&Template>) -> Result<Self, String> {
        let id = item_id(&fields)?;
        answers_are_objects(&fields)?;
        let prompt = match (template, fields.get("prompt")) {
            (Some(template), _) => template.render(&fields)?,
            (None, Some(Value::String(prompt))) => prompt.clone(),
            (None, Some(_)) => return Err("the `prompt` isn't a string".to_owned()),
            (None, None) => {
                return Err("there is no `prompt`; give one, or a --template".to_owned());
            }
        };
        Ok(Self { id, prompt, fields })
    }
}

/// The id of an item or a result: a string or a whole number.
pub(crate) fn item_id(fields: &Map<String, Value>) -> Result<String, String> {
    match fields.get("id").or_else(|| fields.get("input_id")) {
        Some(id @ Value::String(_)) => Ok(id.to_string()),
        Some(id) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        Some(_) => Err("the `id` is neither a string nor a whole number".to_owned()),
        None => Err("there is no `id` or `input_id`".to_owned()),
    }
}

/// The fields of a JSON object, and the line it stands on.
type Numbered = (usize, Map<String, Value>);

/// Checks that what answers and failures are joined to can hold them.
pub(crate) fn answers_are_objects(fields: &Map<String, Value>) -> Result<(), String> {
    for name in [ANSWERS, FAILURES] {
        if fields.get(name).is_some_and(|value| !value.is_object()) {
            return Err(format!("the `{name}` isn't an object of models"));
        }
    }
    Ok(())
}

/// Reads a file of JSON objects, one a line.
pub(crate) fn read_objects(path: &Path) -> Result<Vec<Numbered>, BatchError> {
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
                // Its own place counts lines from this one.
                let said = error.to_string();
                let what = said
                    .rsplit_once(" at line ")
                    .map_or(&*said, |(what, _)| what);
                format!("not JSON at column {}: {what}", error.column())
            }
        };
        return Err(BatchError::Line {
            path: path.to_owned(),
            line,
            problem,
        });
    }
    Ok(objects)
}

/// Reads a text, without the mark that some editors put at its beginning.
fn read(path: &Path) -> Result<String, BatchError> {
    let bytes = fs::read(path).map_err(|source| BatchError::Read {
        path: path.to_owned(),
        source,
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let before = &error.as_bytes()[..good];
            let lines = before.iter().filter(|byte| **byte == b'\n').count();
            Err(BatchError::Line {
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
    fn each_bad_line_is_named() {
        let torn = error("{\"id\":1,\"prompt\":\"a\"}\n{oops\n");
        assert_eq!(torn, "F:2: not JSON at column 2: key must be a string");
        assert_eq!(error("[1]"), "F:1: not a JSON object");
        assert_eq!(
            error("\n\n{\"prompt\":\"a\"}"),
            "F:3: there is no `id` or `input_id`"
        );
        assert!(error("{\"id\":1.5,\"prompt\":\"a\"}").contains("neither a string nor"));
        assert!(error("{\"id\":1}").contains("there is no `prompt`"));
        assert!(error("{\"id\":1,\"prompt\":2}").contains("isn't a string"));
        let answered = "{\"id\":1,\"prompt\":\"a\",\"output_pred\":\"gold\"}";
        assert_eq!(
            error(answered),
            "F:1: the `output_pred` isn't an object of models"
        );
        let twice = "{\"id\":\"a\",\"prompt\":\"x\"}\n{\"input_id\":\"a\",\"prompt\":\"y\"}";
        assert_eq!(error(twice), "F:2: the id \"a\" is on line 1 already");
        assert_eq!(error("\n"), "F: there is no item in it");
    }

    #[test]
    fn text_that_is_none_is_named_by_its_line() {
        let mut file = file("\u{feff}{\"id\":1,\"prompt\":\"a\"}\n");
        assert_eq!(read_items(file.path(), None).unwrap().len(), 1);
        file.write_all(b"{\xff}").unwrap();
        let error = read_items(file.path(), None).unwrap_err();
        assert!(matches!(error, BatchError::Line { line: 2, .. }), "{error}");
    }

    #[test]
    fn a_template_is_filled_from_the_fields_of_the_item() {
        let template = file("Is {{ a }} > {{ b.c }}?");
        let template = Template::read(template.path()).unwrap();
        let items = file("{\"id\":1,\"a\":\"2\",\"b\":{\"c\":3}}");
        let items = read_items(items.path(), Some(&template)).unwrap();
        assert_eq!(items[0].prompt, "Is 2 > 3?");
    }

    #[test]
    fn a_field_that_a_template_misses_is_named_with_its_line() {
        let template_file = file("first\n{{ missing }}");
        let template = Template::read(template_file.path()).unwrap();
        let items = file("{\"id\":1,\"a\":2}");
        let error = read_items(items.path(), Some(&template))
            .unwrap_err()
            .to_string();
        let place = format!("{}:2", template_file.path().display());
        assert!(
            error.contains(&place) && error.contains("undefined"),
            "{error}"
        );
        let broken = file("{{ a ");
        assert!(Template::read(broken.path()).is_err());
    }
}

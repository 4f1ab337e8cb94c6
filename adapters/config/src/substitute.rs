//! Variables of the environment in the strings of a file: `${NAME}`, `${NAME:-default}`, and `$$` for a dollar.
//!
//! Invariant: a variable's value is taken as it is; what it has in it is not looked at again.

use crate::error::{Problem, Report};
use crate::inputs::Inputs;
use crate::source::{At, Node, Source};
use toml::de::{DeString, DeValue};

/// Puts variables into all strings of a file, and adds those that are missing to a report.
pub(crate) fn substitute(
    root: &mut Node<'_>,
    source: &Source,
    inputs: &dyn Inputs,
    report: &mut Report,
) {
    each_string(
        root,
        &At::Root,
        &mut |text, byte, at| match expand(text, inputs) {
            Ok(expanded) => *text = DeString::Owned(expanded),
            Err(problem) => report.add(source.mistake(byte, at, problem)),
        },
    );
}

/// Writes a text so that it is read as it is.
pub(crate) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

/// Calls `visit` with each string that has a dollar, its place in the text and its path.
fn each_string<'t>(
    node: &mut Node<'t>,
    at: &At<'_>,
    visit: &mut dyn FnMut(&mut DeString<'t>, usize, &At<'_>),
) {
    let byte = node.span().start;
    match node.get_mut() {
        DeValue::String(text) if text.contains('$') => visit(text, byte, at),
        DeValue::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                each_string(item, &at.item(index), visit);
            }
        }
        DeValue::Table(table) => {
            for (key, value) in table.iter_mut() {
                each_string(value, &at.key(key.get_ref()), visit);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

fn expand(text: &str, inputs: &dyn Inputs) -> Result<String, Problem> {
    let (mut expanded, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let inside = after.strip_prefix('{').and_then(|it| it.split_once('}'));
        let (variable, after) = inside.ok_or(Problem::Variable)?;
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        if !is_name(name) {
            return Err(Problem::Variable);
        }
        let value = inputs.variable(name).map_err(Problem::Invalid)?;
        // As in a shell, `:-` is for an empty variable too.
        let value = match default {
            Some(default) => value
                .filter(|value| !value.is_empty())
                .unwrap_or(default.to_owned()),
            None => value.ok_or_else(|| Problem::UnsetVariable(name.to_owned()))?,
        };
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    characters.next().is_some_and(is_first)
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Given;

    fn expanded(text: &str) -> Result<String, Problem> {
        let inputs = Given::new()
            .with_variable("HOST", "example.com")
            .with_variable("NONE", "")
            .with_variable("NESTED", "${HOST} $$");
        expand(text, &inputs)
    }

    #[test]
    fn variables_and_dollars_are_put_in() {
        for (text, expected) in [
            ("http://${HOST}/${HOST}", "http://example.com/example.com"),
            ("${UNSET:-a:-b}${NONE:-c}${NONE}", "a:-bc"),
            ("${UNSET:-}", ""),
            ("$$${HOST}$$$$", "$example.com$$"),
            ("${NESTED}", "${HOST} $$"),
            ("é", "é"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
            assert_eq!(expanded(&escape(text)).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_variable_that_is_missing_or_malformed_is_a_mistake() {
        assert_eq!(
            expanded("${UNSET}"),
            Err(Problem::UnsetVariable("UNSET".to_owned()))
        );
        for text in [
            "$", "a$b", "${HOST", "${}", "${A-b}", "${1}", "${ HOST}", "${é}",
        ] {
            assert_eq!(expanded(text), Err(Problem::Variable), "{text}");
        }
    }
}

//! The OpenAPI document of the admin interface, made of the table of calls and of `schemas.json`.

use super::access::Need;
use super::query::Parameter;
use super::routes::{Call, ROUTES, Route};
use serde_json::{Map, Value, json};

/// The bodies of requests and answers.
const SCHEMAS: &str = include_str!("schemas.json");

/// A host without its port.
const HOST: &str = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:]+\]";

/// Returns the document for a number of listeners; `is_own_listener` tells whether those outside of `/lb/` are there.
pub(crate) fn document(listeners: usize, is_own_listener: bool) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES
        .iter()
        .filter(|route| is_own_listener || !route.is_own())
    {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.verb.name()] = operation(route, listeners);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Leasehold gateway, admin interface",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": {
            "schemas": serde_json::from_str(SCHEMAS).unwrap_or(Value::Null),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(route: &Route, listeners: usize) -> Value {
    let content = if route.call == Call::Events {
        "text/event-stream"
    } else if route.call == Call::Metrics {
        "text/plain"
    } else if route.call == Call::Dashboard {
        "text/html"
    } else if route.call == Call::Preview {
        "image/*"
    } else {
        "application/json"
    };
    let mut responses = Map::new();
    responses.insert(
        "200".to_owned(),
        json!({"description": "Done", "content": {content: {"schema": schema(route.answer)}}}),
    );
    for status in route.refusals {
        let name = match (route.call, status) {
            (Call::Ready, 503) => "Readiness",
            _ => "Error",
        };
        let schema = json!({"schema": schema(name)});
        responses.insert(
            status.to_string(),
            json!({"description": meaning(*status), "content": {"application/json": schema}}),
        );
    }
    let mut parameters: Vec<_> = route
        .parameters
        .iter()
        .map(|one| parameter(*one, listeners))
        .collect();
    if route.has_id() {
        let id = json!({"type": "string", "minLength": 1});
        parameters.push(json!({"name": "id", "in": "path", "required": true, "schema": id}));
    }
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(name) = route.body {
        let content = json!({"application/json": {"schema": schema(name)}});
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    match route.need {
        Need::Nothing => {}
        // A caller on this machine reads without it.
        Need::Read => operation["security"] = json!([{}, {"token": []}]),
        Need::Change => operation["security"] = json!([{"token": []}]),
    }
    operation
}

fn parameter(parameter: Parameter, listeners: usize) -> Value {
    let (schema, description) = match parameter {
        Parameter::Pool => (
            json!({"type": "string"}),
            "The pool's name; needed where several pools have the backend",
        ),
        Parameter::Path => (
            json!({"type": "string", "pattern": "^/"}),
            "The path of the request; / by default",
        ),
        Parameter::Host => (
            json!({"type": "string", "pattern": format!("^({HOST})(:[0-9]{{1,5}})?$")}),
            "The host of the request",
        ),
        Parameter::Client => (
            json!({"anyOf": [
                {"type": "string", "format": "ipv4"},
                {"type": "string", "format": "ipv6"},
            ]}),
            "The client's address",
        ),
        Parameter::Listener => (
            json!({"type": "integer", "minimum": 0, "maximum": listeners.saturating_sub(1)}),
            "The listener's number, from 0 in the order of the settings",
        ),
        Parameter::View => (
            json!({"enum": ["figures"]}),
            "All figures of the dashboard, in place of changes alone",
        ),
    };
    let name = parameter.name();
    json!({"name": name, "in": "query", "schema": schema, "description": description})
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong in itself",
        401 => "The token is missing or wrong",
        403 => "The caller may not use the admin interface",
        404 => "There is no such backend or pool",
        409 => "The state of the pools or the file forbids it, or the backend or pool is ambiguous",
        413 => "The body has more than 64 KiB",
        415 => "The body is not sent as application/json",
        _ => "Not now",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str().filter(|_| name == "$ref") {
                        Some(reference) => found.push(reference.to_owned()),
                        None => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_call_and_every_schema_it_names_is_in_the_document() {
        let document = document(1, true);
        for route in &ROUTES {
            let operation = &document["paths"][route.path][route.verb.name()];
            assert!(operation["responses"]["200"].is_object(), "{}", route.path);
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > ROUTES.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

//! Requests to the gateway's admin interface with any bytes in them: each is read or refused as the caller's mistake.

use arbitrary::Arbitrary;
use leasehold_gateway::read_admin_request;
use serde_json::{Map, Value};

/// A request.
#[derive(Clone, Debug, Arbitrary)]
pub struct Case {
    /// The method: one of three.
    pub method: u8,
    /// The call in the path, or any text in its place.
    pub call: Result<u8, String>,
    /// The backend's id in the path, as it is written there.
    pub id: String,
    /// A parameter of the query, known or any text, and its value.
    pub query: Option<(Result<u8, String>, String)>,
    /// The body.
    pub body: Body,
}

/// The body of a request.
#[derive(Clone, Debug, Arbitrary)]
pub enum Body {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// An object with known fields and others.
    Fields(Vec<(u8, Field)>),
}

/// The value of a field.
#[derive(Clone, Debug, Arbitrary)]
pub enum Field {
    /// A text that some field takes.
    Word(u8),
    /// Any text.
    Text(String),
    /// A number that most fields take.
    Small(u16),
    /// A whole number.
    Number(i64),
    /// Another number.
    Fraction(f64),
    /// No value.
    Null,
}

const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const CALLS: [&str; 9] = [
    "stats",
    "explain",
    "backends/add",
    "backends/ID/disable",
    "backends/ID/drain",
    "backends/ID/enable",
    "backends/ID/weight",
    "backends/ID/breaker",
    "backends/ID/remove",
];
const PARAMETERS: [&str; 5] = ["pool", "path", "host", "client", "listener"];
const WORDS: [&str; 8] = [
    "localhost",
    "::1",
    "10.0.0.1",
    "a/b",
    "open",
    "closed",
    "30s",
    "web",
];
const FIELDS: [&str; 11] = [
    "host",
    "port",
    "weight",
    "pool",
    "name",
    "tier",
    "max_connections",
    "state",
    "for",
    "url",
    "",
];

/// Reads the request.
///
/// # Panics
/// If it is accepted and can't be done, or refused with a status that is not 4xx.
pub fn run(case: &Case) {
    let call = match &case.call {
        Ok(number) => CALLS[usize::from(*number) % CALLS.len()].replace("ID", &case.id),
        Err(text) => text.clone(),
    };
    let target = match &case.query {
        Some((Ok(number), value)) => {
            let name = PARAMETERS[usize::from(*number) % PARAMETERS.len()];
            format!("/lb/{call}?{name}={value}")
        }
        Some((Err(name), value)) => format!("/lb/{call}?{name}={value}"),
        None => format!("/lb/{call}"),
    };
    let method = METHODS[usize::from(case.method) % METHODS.len()];
    let read = read_admin_request(method, &target, &bytes(&case.body));
    if let Err(status) = read {
        assert!((400..500).contains(&status), "{status}: {target}");
    }
}

fn bytes(body: &Body) -> Vec<u8> {
    let fields = match body {
        Body::Bytes(bytes) => return bytes.clone(),
        Body::Fields(fields) => fields,
    };
    let mut object = Map::new();
    for (name, field) in fields {
        let name = FIELDS[usize::from(*name) % FIELDS.len()];
        let value = match field {
            Field::Word(number) => Value::from(WORDS[usize::from(*number) % WORDS.len()]),
            Field::Text(text) => Value::from(text.as_str()),
            Field::Small(number) => Value::from(*number),
            Field::Number(number) => Value::from(*number),
            Field::Fraction(number) => Value::from(*number),
            Field::Null => Value::Null,
        };
        object.insert(name.to_owned(), value);
    }
    Value::Object(object).to_string().into_bytes()
}

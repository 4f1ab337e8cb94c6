//! The parameters in the query of a request to the admin interface.
//!
//! Invariant: a query that was read has no parameter that its call does not know, and none twice.

use super::error::AdminError;
use percent_encoding::percent_decode_str;

/// A parameter in a URL's query; all are optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    Pool,
    Path,
    Host,
    Client,
    Listener,
    View,
}

impl Parameter {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Path => "path",
            Self::Host => "host",
            Self::Client => "client",
            Self::Listener => "listener",
            Self::View => "view",
        }
    }
}

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(Parameter, String)>);

impl Query {
    /// Reads a query; each of the known parameters may be given once.
    pub(crate) fn read(text: Option<&str>, known: &[Parameter]) -> Result<Self, AdminError> {
        let mut read = Self::default();
        let pairs = text.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            let parameter = known.iter().find(|parameter| parameter.name() == name);
            let Some(parameter) = parameter else {
                let names: Vec<_> = known.iter().map(|one| one.name()).collect();
                let text = match names.is_empty() {
                    true => format!("unknown parameter {name:?}; this call has none"),
                    false => format!("unknown parameter {name:?}; known: {}", names.join(", ")),
                };
                return Err(AdminError::bad_request(text));
            };
            if read.get(*parameter).is_some() {
                let text = format!("the parameter {name} is given twice");
                return Err(AdminError::bad_request(text));
            }
            read.0.push((*parameter, value));
        }
        Ok(read)
    }

    pub(crate) fn get(&self, parameter: Parameter) -> Option<&str> {
        let mut pairs = self.0.iter();
        let found = pairs.find(|(one, _)| *one == parameter);
        found.map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str) -> Result<String, AdminError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let text = decoded.map_err(|_| AdminError::bad_request("the query is not UTF-8"))?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_each_known_parameter_once() {
        let known = [Parameter::Pool, Parameter::Path];
        let query = Query::read(Some("pool=a%20b+c&path=%2Fx"), &known).unwrap();
        assert_eq!(query.get(Parameter::Pool), Some("a b c"));
        assert_eq!(query.get(Parameter::Path), Some("/x"));
        assert_eq!(query.get(Parameter::Host), None);
        for wrong in ["host=a", "pool=a&pool=a", "pool=%ff"] {
            assert!(Query::read(Some(wrong), &known).is_err(), "{wrong}");
        }
    }
}

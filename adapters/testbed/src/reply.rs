//! A response under construction: status, headers, and a scripted body.

use crate::server::{Payload, Step};
use core::fmt::Display;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::{Response, StatusCode};
use serde_json::Value;

/// Name and version of nginx in these answers.
const NGINX: &str = "nginx/1.27.3";

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    pub(crate) steps: Vec<Step>,
    /// Whether the length is announced; else the body is chunked.
    pub(crate) sized: bool,
    /// Whether a proxy in between made it, so that it has none of the service's headers.
    foreign: bool,
    /// Whether the connection is closed after the answer, and its head does not say so.
    pub(crate) hangs_up: bool,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub(crate) fn html(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/html; charset=UTF-8", body)
    }

    pub(crate) fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// An error page of nginx.
    pub(crate) fn nginx(status: u16) -> Self {
        let status_line = StatusCode::from_u16(status).map_or_else(
            |_| status.to_string(),
            |status| status.to_string().replace("Payload", "Request Entity"),
        );
        let body = format!(
            "<html>\r\n<head><title>{status_line}</title></head>\r\n<body>\r\n\
             <center><h1>{status_line}</h1></center>\r\n<hr><center>{NGINX}</center>\r\n</body>\r\n</html>\r\n"
        );
        Self::html(status, body).by_proxy(NGINX)
    }

    /// A chunked body of server-sent events.
    pub(crate) fn events(steps: Vec<Step>) -> Self {
        Self {
            steps,
            sized: false,
            ..Self::new(200, "text/event-stream; charset=utf-8", Bytes::new())
        }
    }

    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: vec![(CONTENT_TYPE.as_str(), content_type.to_owned())],
            steps: vec![Step::Bytes(body.into())],
            sized: true,
            foreign: false,
            hangs_up: false,
        }
    }

    /// Sets a header, in place of one of the same name.
    pub(crate) fn header(self, name: &'static str, value: impl Display) -> Self {
        let mut reply = self.without_header(name);
        reply.headers.push((name, value.to_string()));
        reply
    }

    /// Removes a header.
    pub(crate) fn without_header(mut self, name: &'static str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    pub(crate) fn content_type(self, value: &str) -> Self {
        self.header("content-type", value)
    }

    /// Marks the answer as one of a proxy in between.
    pub(crate) fn by_proxy(self, server: &str) -> Self {
        Self {
            foreign: true,
            ..self.header(SERVER.as_str(), server)
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(crate) const fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Returns all bytes of the body.
    pub(crate) fn body(&self) -> Vec<u8> {
        let bytes = self.steps.iter().filter_map(|step| match step {
            Step::Bytes(bytes) => Some(bytes.as_ref()),
            Step::Flush | Step::Wait(_) | Step::Fail => None,
        });
        bytes.collect::<Vec<_>>().concat()
    }

    pub(crate) fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.steps = vec![Step::Bytes(body.into())];
        self
    }

    /// Builds the response; `on_end` is called at the end of its body.
    pub(crate) fn into_response(self, on_end: impl FnOnce() + Send + 'static) -> Response<Payload> {
        let mut response = Response::new(Payload::new(self.steps, self.sized, on_end));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            // A value that is not valid in a header is left out.
            if let Ok(value) = HeaderValue::try_from(value) {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

//! The plain answer of each path.
//!
//! Invariant: an answer depends only on the request, its place on its connection, and the settings.

use super::body::{Chunks, Content, PATTERN, patterned};
use super::fault::BackendFault;
use super::route::{BadRequest, Page, STATUS_PATH, parse_status};
use super::service::{Exchange, Failure};
use crate::openai::{FaultTimes, TransportFault};
use crate::reply::Reply;
use crate::server::Connection;
use core::time::Duration;
use hyper::body::Bytes;
use hyper::header::{
    CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue, LOCATION, SET_COOKIE, TE, TRAILER,
};
use hyper::{Response, StatusCode, Version};
use serde_json::Value;
use std::io::Write;
use tokio::time::sleep;

/// Most bytes of a chunk of a stream, and of a body that a fault breaks.
const MAX_CHUNK: u64 = 16 << 20;

const MAX_HINTS: u64 = 100;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Exchange<'_> {
    /// Answers as the path says.
    pub(super) async fn answer(&mut self, page: Page) -> Result<Response<Content>, Failure> {
        let body_length = match page {
            Page::Echo | Page::Continue | Page::Close | Page::Stall => 0,
            Page::Info
            | Page::Slow
            | Page::Stream
            | Page::Bytes
            | Page::Status
            | Page::EarlyHints
            | Page::Redirect
            | Page::Cookie => self.intake.drain().await?,
        };
        match page {
            Page::Info => {}
            Page::Slow => sleep(self.query().millis("ms", Duration::from_secs(1))?).await,
            Page::EarlyHints => self.hint().await?,
            Page::Stream => return self.stream(),
            Page::Bytes => return self.bytes(),
            Page::Echo => return Ok(self.echo()),
            Page::Status => return self.status(),
            Page::Continue => return self.continued().await,
            Page::Close => return Err(self.close()?),
            Page::Stall => return Err(self.stall()?),
            Page::Redirect => return self.redirect(body_length),
            Page::Cookie => return self.cookie(body_length),
        }
        Ok(self.info(body_length))
    }

    pub(super) fn health(&self, is_healthy: bool) -> Response<Content> {
        let (status, body) = if is_healthy {
            (StatusCode::OK, &self.origin.healthy)
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, &self.origin.unhealthy)
        };
        self.json_bytes(status, body.clone())
    }

    /// An answer of one field beside the name of the backend.
    pub(super) fn json(&self, status: StatusCode, name: &str, value: &Value) -> Response<Content> {
        self.json_bytes(status, self.text(name, value).into())
    }

    pub(super) fn json_bytes(&self, status: StatusCode, body: Bytes) -> Response<Content> {
        let mut response = Response::new(Content::Whole(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response
    }

    pub(super) fn text(&self, name: &str, value: &Value) -> String {
        format!("{},\"{name}\":{value}}}", self.origin.info)
    }

    /// The answer that a fault of the connection begins with.
    pub(super) fn plain_reply(&self) -> Reply {
        let size = self.query().number("n", DEFAULT_SIZE, MAX_CHUNK);
        match (self.head.uri.path(), size) {
            ("/bytes", Ok(size)) => {
                let body = patterned(usize::try_from(size).unwrap_or(usize::MAX));
                Reply::new(200, "application/octet-stream", body)
            }
            _ => Reply::new(200, "application/json", self.info_text(0)),
        }
    }

    /// What arrived, as JSON.
    fn info(&self, body_length: u64) -> Response<Content> {
        self.json_bytes(StatusCode::OK, self.info_text(body_length).into())
    }

    fn info_text(&self, body_length: u64) -> Vec<u8> {
        let head = self.head;
        let mut text = Vec::with_capacity(512);
        text.extend_from_slice(self.origin.info.as_bytes());
        text.extend_from_slice(b",\"method\":");
        quote(&mut text, head.method.as_str());
        text.extend_from_slice(b",\"path\":");
        match head.uri.path_and_query() {
            Some(path) if head.uri.authority().is_none() => quote(&mut text, path.as_str()),
            _ => quote(&mut text, &head.uri.to_string()),
        }
        text.extend_from_slice(b",\"headers\":");
        quote_headers(&mut text, &head.headers);
        let (version, connection) = (head.version, self.connection.number());
        let request = self.on_connection;
        // A vector can always be written to.
        let _ = write!(
            text,
            ",\"body_length\":{body_length},\"version\":\"{version:?}\",\
             \"connection\":{{\"number\":{connection},\"request\":{request}}}}}"
        );
        text
    }

    /// Sends the body back as it arrives. It is read no faster than the answer is.
    fn echo(&mut self) -> Response<Content> {
        if self
            .head
            .headers
            .get(EXPECT)
            .is_some_and(|value| value == "100-continue")
        {
            // hyper sends none once the answer has begun.
            self.connection
                .orders()
                .write_first(Bytes::from_static(CONTINUE));
        }
        let has_trailers = self.takes_trailers();
        let intake = self.intake.take();
        let mut response = data(Content::Echo {
            intake,
            has_trailers,
        });
        for name in [CONTENT_TYPE, TRAILER] {
            if let Some(value) = self.head.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }

    /// Waits before it asks for the body, or refuses to read it.
    ///
    /// hyper sends 100 when the body is first read, if the caller expects it.
    async fn continued(&mut self) -> Result<Response<Content>, Failure> {
        let query = self.query();
        if let Some(status) = query.get("refuse") {
            let status = parse_status(status)?;
            return Ok(self.json(status, "refused", &Value::Bool(true)));
        }
        let pause = query.millis("ms", Duration::ZERO)?;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let body_length = self.intake.drain().await?;
        Ok(self.info(body_length))
    }

    /// Sends 103, and waits before the answer.
    async fn hint(&self) -> Result<(), Failure> {
        let query = self.query();
        let count = query.number("count", 1, MAX_HINTS)?;
        let pause = query.millis("ms", Duration::ZERO)?;
        // RFC 9110 section 15.2: not to a caller of HTTP/1.0.
        if self.head.version >= Version::HTTP_11 {
            let hints = HINT.repeat(usize::try_from(count).unwrap_or(1));
            self.connection.orders().write_first(hints.into());
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok(())
    }

    fn stream(&self) -> Result<Response<Content>, Failure> {
        let query = self.query();
        let size = query.number("bytes", 16, MAX_CHUNK)?;
        let has_trailers = query.has("trailers") && self.takes_trailers();
        let chunks = Chunks::new(
            // An empty chunk would end the body.
            query.number("chunks", 10, u64::MAX)? * u64::from(size > 0),
            patterned(usize::try_from(size).unwrap_or(usize::MAX)),
            query.millis("ms", Duration::from_millis(100))?,
            has_trailers,
        );
        let mut response = data(Content::Chunks(chunks));
        if has_trailers {
            let headers = response.headers_mut();
            headers.insert(TRAILER, HeaderValue::from_static(Chunks::TRAILER));
        }
        Ok(response)
    }

    fn bytes(&self) -> Result<Response<Content>, Failure> {
        let size = self.query().number("n", DEFAULT_SIZE, u64::MAX)?;
        let content = match usize::try_from(size) {
            Ok(size) if size <= PATTERN.len() => Content::Whole(patterned(size)),
            Ok(_) | Err(_) => Content::Pattern(size),
        };
        Ok(data(content))
    }

    fn status(&self) -> Result<Response<Content>, Failure> {
        let path = self.head.uri.path();
        let status = parse_status(path.strip_prefix(STATUS_PATH).unwrap_or_default())?;
        let mut response = self.json(status, "status", &status.as_u16().into());
        if matches!(status.as_u16(), 204 | 205 | 304) {
            *response.body_mut() = Content::empty();
        }
        Ok(response)
    }

    fn redirect(&self, body_length: u64) -> Result<Response<Content>, Failure> {
        let query = self.query();
        let status = parse_status(query.get("status").unwrap_or("302"))?;
        let to = query.get("to").unwrap_or("/");
        let location = HeaderValue::from_str(to);
        let location = location.map_err(|_| BadRequest(format!("to: {to:?} is not a location")))?;
        let mut response = self.info(body_length);
        *response.status_mut() = status;
        response.headers_mut().insert(LOCATION, location);
        Ok(response)
    }

    /// Sets two cookies, each in a header of its own: a session that names the backend, and a plain one.
    fn cookie(&self, body_length: u64) -> Result<Response<Content>, Failure> {
        let query = self.query();
        let name = query.get("name").unwrap_or("session");
        let value = query.get("value").unwrap_or(&self.origin.id);
        let request = self.on_connection;
        let mut response = self.info(body_length);
        for cookie in [
            format!("{name}={value}; Path=/; HttpOnly"),
            format!("request={request}; Path=/cookie"),
        ] {
            let cookie = HeaderValue::from_str(&cookie);
            let cookie = cookie.map_err(|_| BadRequest(format!("{name:?} can't be a cookie")))?;
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        Ok(response)
    }

    fn close(&self) -> Result<Failure, Failure> {
        let query = self.query();
        let fault = match (query.get("when").unwrap_or("before"), query.has("reset")) {
            ("before", false) => TransportFault::Close,
            ("before", true) => TransportFault::Reset,
            ("head", false) => TransportFault::CutHead,
            ("headers", false) => TransportFault::CutHeaders,
            ("headers", true) => TransportFault::ResetHeaders,
            ("body", false) => TransportFault::CutBody,
            ("body", true) => TransportFault::ResetBody,
            ("after", false) => TransportFault::CloseIdle,
            ("after", true) => TransportFault::ResetIdle,
            (when, _) => {
                let advice =
                    "write before, headers, body or after, with &reset or without, or head";
                return Err(BadRequest(format!("when={when}: {advice}")).into());
            }
        };
        let fault = BackendFault::Transport(fault);
        Ok(Failure::Fault(fault, self.origin.times))
    }

    fn stall(&self) -> Result<Failure, Failure> {
        let query = self.query();
        let fault = match query.get("when").unwrap_or("before") {
            "before" => TransportFault::Stall,
            "headers" => TransportFault::StallHeaders,
            "body" => TransportFault::StallBody,
            when => {
                let advice = "write before, headers or body";
                return Err(BadRequest(format!("when={when}: {advice}")).into());
            }
        };
        let times = self.origin.times;
        let stall = query.millis("ms", times.stall)?;
        let fault = BackendFault::Transport(fault);
        Ok(Failure::Fault(fault, FaultTimes { stall, ..times }))
    }

    /// Whether the caller said that it takes trailers; hyper sends none otherwise.
    fn takes_trailers(&self) -> bool {
        let lines = self.head.headers.get_all(TE).iter();
        let mut codings = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','));
        codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    }
}

/// Bytes of an answer of `/bytes` to a request that does not say how many it wants.
const DEFAULT_SIZE: u64 = 1_024;

fn data(content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    response.headers_mut().insert(CONTENT_TYPE, OCTETS);
    response
}

/// Writes a JSON string.
fn quote(text: &mut Vec<u8>, value: &str) {
    // A vector can always be written to.
    let _ = serde_json::to_writer(text, value);
}

/// Writes headers as an object; the value of a name with several lines is an array.
fn quote_headers(text: &mut Vec<u8>, headers: &HeaderMap) {
    let mut before = b'{';
    for name in headers.keys() {
        text.push(before);
        before = b',';
        quote(text, name.as_str());
        text.push(b':');
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => quote_value(text, only),
            _ => {
                let mut before = b'[';
                for value in headers.get_all(name) {
                    text.push(before);
                    before = b',';
                    quote_value(text, value);
                }
                text.push(b']');
            }
        }
    }
    if before == b'{' {
        text.push(before);
    }
    text.push(b'}');
}

fn quote_value(text: &mut Vec<u8>, value: &HeaderValue) {
    quote(text, &String::from_utf8_lossy(value.as_bytes()));
}

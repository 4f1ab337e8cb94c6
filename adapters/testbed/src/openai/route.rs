//! Paths and credentials.

use super::request::Api;
use super::resource::Kind;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Uri};

/// The resource that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Call {
        api: Api,
        /// Azure's name for the model.
        deployment: Option<&'a str>,
    },
    Unlimited(Want<'a>),
    Models,
    Model(&'a str),
    Report,
    /// A known path, and the methods that it takes.
    WrongMethod(&'static str),
    /// A path of Azure without its `api-version`.
    NoApiVersion,
    Unknown,
}

/// A request that counts against no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want<'a> {
    CreateFile,
    CreateBatch,
    CreateConversation,
    Read(Kind, &'a str),
    Delete(Kind, &'a str),
    /// The bytes of a file.
    Content(&'a str),
    /// The tokens of a message to Anthropic.
    CountTokens,
}

impl<'a> Route<'a> {
    pub(super) fn of(method: &Method, uri: &'a Uri) -> Self {
        let path = uri.path();
        let route = Self::of_path(method, path, uri.query().unwrap_or(""));
        let wanted = match route {
            Self::Call { .. } => Method::POST,
            Self::Models | Self::Model(_) | Self::Report => Method::GET,
            Self::Unlimited(_) | Self::WrongMethod(_) | Self::NoApiVersion | Self::Unknown => {
                return route;
            }
        };
        if *method == wanted {
            route
        } else {
            Self::WrongMethod(if wanted == Method::POST {
                "POST"
            } else {
                "GET"
            })
        }
    }

    fn of_path(method: &Method, path: &'a str, query: &str) -> Self {
        if path == "/testbed/report" {
            return Self::Report;
        }
        if path == "/v1/messages" {
            let (api, deployment) = (Api::Messages, None);
            return Self::Call { api, deployment };
        }
        let deployment = path.strip_prefix("/openai/deployments/");
        if let Some((deployment, rest)) = deployment.and_then(|rest| rest.split_once('/')) {
            let Some(api) = api(rest) else {
                return Self::Unknown;
            };
            let has_version = query
                .split('&')
                .any(|pair| pair.starts_with("api-version="));
            if !has_version {
                return Self::NoApiVersion;
            }
            let deployment = Some(deployment);
            return Self::Call { api, deployment };
        }
        let prefixes = ["/v1/", "/openai/v1/"];
        let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix));
        match rest {
            Some("models") => Self::Models,
            Some(rest) => match (api(rest), rest.strip_prefix("models/")) {
                (Some(api), _) => {
                    let deployment = None;
                    Self::Call { api, deployment }
                }
                (None, Some(id)) if !id.is_empty() => Self::Model(id),
                (None, Some(_) | None) => unlimited(method, rest).unwrap_or(Self::Unknown),
            },
            None => Self::Unknown,
        }
    }
}

/// Returns what a request wants that counts against no limit, or the methods that its path takes.
fn unlimited<'a>(method: &Method, rest: &'a str) -> Option<Route<'a>> {
    let only = |allowed: Method, want| match allowed == *method {
        true => Route::Unlimited(want),
        false if allowed == Method::POST => Route::WrongMethod("POST"),
        false => Route::WrongMethod("GET"),
    };
    match rest {
        "files" => return Some(only(Method::POST, Want::CreateFile)),
        "batches" => return Some(only(Method::POST, Want::CreateBatch)),
        "conversations" => return Some(only(Method::POST, Want::CreateConversation)),
        "messages/count_tokens" => return Some(only(Method::POST, Want::CountTokens)),
        _ => {}
    }
    let (collection, id) = rest.split_once('/')?;
    let kind = match collection {
        "files" => Kind::File,
        "batches" => Kind::Batch,
        "responses" => Kind::Response,
        "conversations" => Kind::Conversation,
        _ => return None,
    };
    let content = id.strip_suffix("/content").filter(|_| kind == Kind::File);
    let plain = content.unwrap_or(id);
    if plain.is_empty() || plain.contains('/') {
        return None;
    }
    Some(match content {
        Some(id) => only(Method::GET, Want::Content(id)),
        None if kind == Kind::Batch => only(Method::GET, Want::Read(kind, id)),
        None if *method == Method::GET => Route::Unlimited(Want::Read(kind, id)),
        None if *method == Method::DELETE => Route::Unlimited(Want::Delete(kind, id)),
        None => Route::WrongMethod("GET, DELETE"),
    })
}

fn api(rest: &str) -> Option<Api> {
    match rest {
        "chat/completions" => Some(Api::Chat),
        "responses" => Some(Api::Responses),
        "embeddings" => Some(Api::Embeddings),
        _ => None,
    }
}

/// Returns the key: a bearer token, or that of `api-key` (Azure) or `x-api-key` (Anthropic).
pub(super) fn credential(headers: &HeaderMap) -> Option<&str> {
    let value = |name: &str| headers.get(name)?.to_str().ok();
    let bearer = value(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    let token = bearer
        .or_else(|| value("api-key"))
        .or_else(|| value("x-api-key"))?;
    Some(token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_service_and_of_azure_are_known() {
        let route = |method: Method, uri: &'static str| {
            let uri = Box::leak(Box::new(Uri::from_static(uri)));
            Route::of(&method, uri)
        };
        let call = |api, deployment| Route::Call { api, deployment };
        for (uri, expected) in [
            ("/v1/chat/completions", call(Api::Chat, None)),
            ("/openai/v1/responses", call(Api::Responses, None)),
            ("/v1/embeddings?x=1", call(Api::Embeddings, None)),
            (
                "/openai/deployments/mine/chat/completions?api-version=2024-10-21",
                call(Api::Chat, Some("mine")),
            ),
            (
                "/openai/deployments/mine/chat/completions",
                Route::NoApiVersion,
            ),
            ("/v1/models", Route::WrongMethod("GET")),
            ("/v1/messages", call(Api::Messages, None)),
            ("/openai/v1/messages", Route::Unknown),
            ("/v1/files", Route::Unlimited(Want::CreateFile)),
            ("/v1/files/", Route::Unknown),
            ("/v1/files/file-1", Route::WrongMethod("GET, DELETE")),
            ("/v1/files/file-1/content", Route::WrongMethod("GET")),
            ("/v1/files/file-1/content/x", Route::Unknown),
            ("/v1/batches/batch_1", Route::WrongMethod("GET")),
            ("/v1/batches/batch_1/content", Route::Unknown),
            ("/v1/chat/completion", Route::Unknown),
            ("/chat/completions", Route::Unknown),
            ("/v1/audio/transcriptions", Route::Unknown),
        ] {
            assert_eq!(route(Method::POST, uri), expected, "{uri}");
        }
        assert_eq!(route(Method::GET, "/v1/models/a/b"), Route::Model("a/b"));
        assert_eq!(
            route(Method::GET, "/v1/embeddings"),
            Route::WrongMethod("POST")
        );
    }

    #[test]
    fn a_key_comes_in_any_of_three_headers() {
        let key = |name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(
                hyper::header::HeaderName::from_static(name),
                hyper::header::HeaderValue::from_static(value),
            )]);
            credential(&headers).map(str::to_owned)
        };
        let expected = Some("k".to_owned());
        assert_eq!(key("authorization", "bearer  k"), expected);
        assert_eq!(key("api-key", "k"), expected);
        assert_eq!(key("x-api-key", "k"), expected);
        assert_eq!(key("authorization", "Basic k"), None);
        assert_eq!(key("api-key", " "), None);
    }
}

//! Paths and queries.
//!
//! Invariant: a route under `/api` is the same route; only the jobs are there alone.

use super::config::ComfyAge;
use hyper::Method;

/// The handler of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Page,
    Prompt,
    Queue,
    Interrupt,
    Free,
    History,
    HistoryOf(String),
    Jobs,
    Job(String),
    CancelJob(String),
    CancelJobs,
    UploadImage,
    UploadMask,
    View,
    ViewMetadata,
    SystemStats,
    ObjectInfo,
    ObjectInfoOf(String),
    Models,
    ModelsIn(String),
    Embeddings,
    Extensions,
    Features,
    Users,
    UserFiles,
    UserFile(String),
    MoveUserFile(String, String),
    Settings,
    Setting(String),
    WebSocket,
    Unknown,
}

impl Route {
    pub(super) fn of(path: &str, age: ComfyAge) -> Self {
        let under_api = path
            .strip_prefix("/api")
            .filter(|rest| rest.starts_with('/'));
        if let Some(rest) = under_api.filter(|_| age.is_2026()) {
            let jobs = rest.strip_prefix("/api").unwrap_or(rest);
            if let Some(route) = Self::of_jobs(jobs) {
                return route;
            }
        }
        let parts: Vec<_> = under_api
            .unwrap_or(path)
            .split('/')
            .skip(1)
            .map(decode)
            .collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        let name = |name: &&str| (*name).to_owned();
        match parts.as_slice() {
            [""] if under_api.is_none() => Self::Page,
            ["prompt"] => Self::Prompt,
            ["queue"] => Self::Queue,
            ["interrupt"] => Self::Interrupt,
            ["free"] => Self::Free,
            ["history"] => Self::History,
            ["history", id] => Self::HistoryOf(name(id)),
            ["upload", "image"] => Self::UploadImage,
            ["upload", "mask"] => Self::UploadMask,
            ["view"] => Self::View,
            ["view_metadata", _folder] => Self::ViewMetadata,
            ["system_stats"] => Self::SystemStats,
            ["object_info"] => Self::ObjectInfo,
            ["object_info", class] => Self::ObjectInfoOf(name(class)),
            ["models"] => Self::Models,
            ["models", folder] => Self::ModelsIn(name(folder)),
            ["embeddings"] => Self::Embeddings,
            ["extensions"] => Self::Extensions,
            ["features"] => Self::Features,
            ["users"] => Self::Users,
            ["userdata"] => Self::UserFiles,
            ["userdata", file] => Self::UserFile(name(file)),
            ["userdata", file, "move", to] => Self::MoveUserFile(name(file), name(to)),
            ["settings"] => Self::Settings,
            ["settings", id] => Self::Setting(name(id)),
            ["ws"] => Self::WebSocket,
            _ => Self::Unknown,
        }
    }

    fn of_jobs(path: &str) -> Option<Self> {
        let parts: Vec<_> = path.split('/').skip(1).map(decode).collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        Some(match parts.as_slice() {
            ["jobs"] => Self::Jobs,
            ["jobs", "cancel"] => Self::CancelJobs,
            ["jobs", id] => Self::Job((*id).to_owned()),
            ["jobs", id, "cancel"] => Self::CancelJob((*id).to_owned()),
            _ => return None,
        })
    }

    /// The pattern of its path, for the report.
    pub(super) const fn pattern(&self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Prompt => "/prompt",
            Self::Queue => "/queue",
            Self::Interrupt => "/interrupt",
            Self::Free => "/free",
            Self::History => "/history",
            Self::HistoryOf(_) => "/history/{id}",
            Self::Jobs => "/jobs",
            Self::Job(_) => "/jobs/{id}",
            Self::CancelJob(_) => "/jobs/{id}/cancel",
            Self::CancelJobs => "/jobs/cancel",
            Self::UploadImage => "/upload/image",
            Self::UploadMask => "/upload/mask",
            Self::View => "/view",
            Self::ViewMetadata => "/view_metadata/{folder}",
            Self::SystemStats => "/system_stats",
            Self::ObjectInfo => "/object_info",
            Self::ObjectInfoOf(_) => "/object_info/{class}",
            Self::Models => "/models",
            Self::ModelsIn(_) => "/models/{folder}",
            Self::Embeddings => "/embeddings",
            Self::Extensions => "/extensions",
            Self::Features => "/features",
            Self::Users => "/users",
            Self::UserFiles => "/userdata",
            Self::UserFile(_) => "/userdata/{file}",
            Self::MoveUserFile(..) => "/userdata/{file}/move/{dest}",
            Self::Settings => "/settings",
            Self::Setting(_) => "/settings/{id}",
            Self::WebSocket => "/ws",
            Self::Unknown => "…",
        }
    }

    pub(super) fn allows(&self, method: &Method) -> bool {
        let is_get = *method == Method::GET || *method == Method::HEAD;
        let is_post = *method == Method::POST;
        match self {
            Self::Prompt | Self::Queue | Self::History | Self::Users => is_get || is_post,
            Self::Settings | Self::Setting(_) => is_get || is_post,
            Self::Interrupt | Self::Free | Self::UploadImage | Self::UploadMask => is_post,
            Self::CancelJob(_) | Self::CancelJobs | Self::MoveUserFile(..) => is_post,
            Self::UserFile(_) => is_get || is_post || *method == Method::DELETE,
            Self::Page
            | Self::HistoryOf(_)
            | Self::Jobs
            | Self::Job(_)
            | Self::View
            | Self::ViewMetadata
            | Self::SystemStats
            | Self::ObjectInfo
            | Self::ObjectInfoOf(_)
            | Self::Models
            | Self::ModelsIn(_)
            | Self::Embeddings
            | Self::Extensions
            | Self::Features
            | Self::UserFiles
            | Self::WebSocket
            | Self::Unknown => is_get,
        }
    }
}

/// The query of a request, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn new(query: Option<&str>) -> Self {
        let parts = query
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty());
        let pairs = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (
                decode(&name.replace('+', " ")),
                decode(&value.replace('+', " ")),
            )
        });
        Self(pairs.collect())
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a name; the first, if there are several.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.pairs();
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
}

/// Decodes `%2F` and the like; what is no UTF-8 then is replaced.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|hex| str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.filter(|_| *byte == b'%') {
            Some(code) => {
                decoded.push(code);
                at += 3;
            }
            None => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_also_under_api_and_jobs_only_there() {
        let of = |path: &str| Route::of(path, ComfyAge::Y2026);
        for path in ["/prompt", "/queue", "/ws", "/history/x", "/userdata/a%2Fb"] {
            let under_api = format!("/api{path}");
            assert_eq!(of(path), of(&under_api), "{path}");
            assert_ne!(of(path), Route::Unknown, "{path}");
        }
        assert_eq!(of("/userdata/a%2Fb"), Route::UserFile("a/b".into()));
        assert_eq!(
            (of("/"), of("/api/"), of("/api")),
            (Route::Page, Route::Unknown, Route::Unknown)
        );
        assert_eq!(
            (of("/api/jobs"), of("/api/api/jobs")),
            (Route::Jobs, Route::Jobs)
        );
        assert_eq!(
            (of("/jobs"), of("/api/jobs/cancel")),
            (Route::Unknown, Route::CancelJobs)
        );
        assert_eq!(of("/api/jobs/x/cancel"), Route::CancelJob("x".into()));
        assert_eq!(Route::of("/api/jobs", ComfyAge::Y2025), Route::Unknown);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::new(Some("filename=a%20b+c%2f%zz&type=&preview"));
        assert_eq!(query.get("filename"), Some("a b c/%zz"));
        assert_eq!(
            (query.get("type"), query.get("preview")),
            (Some(""), Some(""))
        );
        assert_eq!(Query::new(None).get("x"), None);
    }
}

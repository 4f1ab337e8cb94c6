//! The calls of the admin interface.
//!
//! Invariant: one table says which calls there are, what each needs and how it may be answered; requests are
//! dispatched by it, and the OpenAPI document is made of it.

use super::access::Need;
use super::error::AdminError;
use super::query::Parameter;
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Health,
    Stats,
    Backends,
    Config,
    Usage,
    Alerts,
    TestAlert,
    Waiting,
    CancelWaiting,
    Comfyui,
    Verbose,
    Log,
    SetLog,
    Explain,
    Events,
    Dashboard,
    Preview,
    CancelJob,
    Metrics,
    OpenApi,
    Live,
    Ready,
    Reload,
    Change(Kind),
}

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Add,
    Disable,
    Enable,
    Drain,
    Weight,
    Limits,
    Breaker,
    Remove,
}

/// The method of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `HEAD` is one of these too.
    Get,
    Post,
    Delete,
}

impl Verb {
    /// The name in small letters, as in an OpenAPI document.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }

    /// The methods that a refusal of another names.
    const fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET | Method::HEAD => Some(Self::Get),
            Method::POST => Some(Self::Post),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) call: Call,
    pub(crate) verb: Verb,
    /// The path; the segment `{id}` stands for a backend's id.
    pub(crate) path: &'static str,
    pub(crate) need: Need,
    pub(crate) parameters: &'static [Parameter],
    pub(crate) summary: &'static str,
    /// The schema of the request's body; `None` for a call without arguments.
    pub(crate) body: Option<&'static str>,
    /// The schema of the answer.
    pub(crate) answer: &'static str,
    /// The statuses of refusals.
    pub(crate) refusals: &'static [u16],
}

const READ: [u16; 3] = [400, 401, 403];
const READ_POOL: [u16; 4] = [400, 401, 403, 404];
const READ_LOG: [u16; 4] = [400, 401, 403, 409];
const READ_EVENTS: [u16; 4] = [400, 401, 403, 503];
const RELOAD: [u16; 6] = [400, 401, 403, 409, 413, 415];
const VERBOSE: [u16; 6] = [400, 401, 403, 404, 413, 415];
const CHANGE: [u16; 7] = [400, 401, 403, 404, 409, 413, 415];

const METRICS: &str = "Tells all figures in Prometheus' text, in OpenMetrics or in protobuf";

/// All calls.
pub(crate) static ROUTES: [Route; 32] = [
    read(
        Call::Health,
        "/lb/health",
        "Health",
        "Tells how many backends serve",
    ),
    read(
        Call::Stats,
        "/lb/stats",
        "Stats",
        "Counts requests by what became of them",
    ),
    Route {
        parameters: &[Parameter::Pool],
        refusals: &READ_POOL,
        ..read(
            Call::Backends,
            "/lb/backends",
            "Backends",
            "Lists the backends",
        )
    },
    read(
        Call::Config,
        "/lb/config",
        "Config",
        "Shows the settings in force, without secrets",
    ),
    read(
        Call::Usage,
        "/lb/usage",
        "Usage",
        "Tells what each caller of services has used and spent",
    ),
    read(
        Call::Alerts,
        "/lb/alerts",
        "Alerts",
        "Tells what the alerts of the settings are active for, and what became of their messages",
    ),
    Route {
        verb: Verb::Post,
        need: Need::Change,
        refusals: &VERBOSE,
        ..read(
            Call::TestAlert,
            "/lb/alerts/{id}/test",
            "Tested",
            "Sends a message that is a test to the receivers of the alert of this name, and then one that it is over",
        )
    },
    Route {
        parameters: &[Parameter::Pool],
        refusals: &READ_POOL,
        ..read(
            Call::Waiting,
            "/lb/waiting",
            "Waiting",
            "Lists the requests that wait for a backend, those that came first at first",
        )
    },
    Route {
        verb: Verb::Post,
        need: Need::Change,
        refusals: &VERBOSE,
        ..read(
            Call::CancelWaiting,
            "/lb/waiting/{id}/cancel",
            "Cancelled",
            "Cancels a request that waits",
        )
    },
    Route {
        parameters: &[Parameter::Pool],
        refusals: &READ_POOL,
        ..read(
            Call::Comfyui,
            "/lb/comfyui/status",
            "ComfyuiStatus",
            "Tells how the servers of a pool of ComfyUI servers do",
        )
    },
    Route {
        verb: Verb::Post,
        need: Need::Change,
        parameters: &[Parameter::Pool],
        body: Some("Verbose"),
        refusals: &VERBOSE,
        ..read(
            Call::Verbose,
            "/lb/comfyui/verbose",
            "Verbose",
            "Switches full reports of a pool of ComfyUI servers on or off",
        )
    },
    Route {
        refusals: &READ_LOG,
        ..read(
            Call::Log,
            "/lb/log",
            "Log",
            "Tells how the log for the operator is written, and how many of its lines were lost",
        )
    },
    Route {
        verb: Verb::Post,
        need: Need::Change,
        body: Some("LogChange"),
        refusals: &RELOAD,
        ..read(
            Call::SetLog,
            "/lb/log",
            "Log",
            "Changes the levels of the log for the operator, until the settings are read again",
        )
    },
    Route {
        parameters: &[
            Parameter::Path,
            Parameter::Host,
            Parameter::Client,
            Parameter::Listener,
        ],
        ..read(
            Call::Explain,
            "/lb/explain",
            "Explanation",
            "Tells where a request would go, and why",
        )
    },
    Route {
        parameters: &[Parameter::View],
        refusals: &READ_EVENTS,
        ..read(
            Call::Events,
            "/lb/events",
            "Events",
            "Streams a snapshot and then each change, without end",
        )
    },
    // The page has no figures: its script asks for them, and for the token.
    live(
        Call::Dashboard,
        "/lb/dashboard",
        "Page",
        "Shows all of this in a browser",
        &[400],
    ),
    // A picture is its caller's: it takes the token.
    Route {
        need: Need::Change,
        parameters: &[Parameter::Pool],
        refusals: &READ_POOL,
        ..read(
            Call::Preview,
            "/lb/jobs/{id}/preview",
            "Picture",
            "Shows the last preview of a job for ComfyUI servers",
        )
    },
    Route {
        verb: Verb::Post,
        need: Need::Change,
        parameters: &[Parameter::Pool],
        refusals: &VERBOSE,
        ..read(
            Call::CancelJob,
            "/lb/jobs/{id}/cancel",
            "Cancelled",
            "Takes back a job for ComfyUI servers, whether it runs or waits",
        )
    },
    read(Call::Metrics, "/metrics", "Metrics", METRICS),
    read(Call::Metrics, "/lb/metrics", "Metrics", METRICS),
    read(
        Call::OpenApi,
        "/lb/openapi.json",
        "OpenApi",
        "Describes these calls",
    ),
    live(
        Call::Live,
        "/health",
        "Alive",
        "Tells that the gateway runs",
        &[400],
    ),
    live(
        Call::Ready,
        "/ready",
        "Readiness",
        "Tells whether each pool has a backend that serves",
        &[400, 503],
    ),
    Route {
        verb: Verb::Post,
        need: Need::Change,
        refusals: &RELOAD,
        ..read(
            Call::Reload,
            "/lb/reload",
            "Config",
            "Reads the configuration file again and puts it in force, or changes nothing",
        )
    },
    Route {
        body: Some("NewBackend"),
        ..change(Kind::Add, "/lb/backends/add", "Adds a backend")
    },
    change(
        Kind::Disable,
        "/lb/backends/{id}/disable",
        "Sends a backend no more requests",
    ),
    change(
        Kind::Enable,
        "/lb/backends/{id}/enable",
        "Sends a disabled or draining backend requests again",
    ),
    change(
        Kind::Drain,
        "/lb/backends/{id}/drain",
        "Sends a backend no more requests, and tells by an event when its last one has ended",
    ),
    Route {
        body: Some("Weight"),
        ..change(
            Kind::Weight,
            "/lb/backends/{id}/weight",
            "Sets a backend's share of requests",
        )
    },
    Route {
        body: Some("Limits"),
        ..change(
            Kind::Limits,
            "/lb/backends/{id}/limits",
            "Sets a backend's limits; what was used of them stays used",
        )
    },
    Route {
        body: Some("Breaker"),
        ..change(
            Kind::Breaker,
            "/lb/backends/{id}/breaker",
            "Opens or closes a backend's circuit breaker",
        )
    },
    Route {
        verb: Verb::Delete,
        answer: "Removed",
        ..change(
            Kind::Remove,
            "/lb/backends/{id}/remove",
            "Removes a backend; requests that it has are answered",
        )
    },
];

const fn read(
    call: Call,
    path: &'static str,
    answer: &'static str,
    summary: &'static str,
) -> Route {
    Route {
        call,
        verb: Verb::Get,
        path,
        need: Need::Read,
        parameters: &[],
        summary,
        body: None,
        answer,
        refusals: &READ,
    }
}

const fn live(
    call: Call,
    path: &'static str,
    answer: &'static str,
    summary: &'static str,
    refusals: &'static [u16],
) -> Route {
    Route {
        call,
        verb: Verb::Get,
        path,
        need: Need::Nothing,
        parameters: &[],
        summary,
        body: None,
        answer,
        refusals,
    }
}

const fn change(kind: Kind, path: &'static str, summary: &'static str) -> Route {
    Route {
        call: Call::Change(kind),
        verb: Verb::Post,
        path,
        need: Need::Change,
        parameters: &[Parameter::Pool],
        summary,
        body: None,
        answer: "Backend",
        refusals: &CHANGE,
    }
}

impl Route {
    /// Whether the call is served on the admin's own listener only.
    pub(crate) fn is_own(&self) -> bool {
        !self.path.starts_with("/lb/")
    }

    /// Whether the path names a backend or a job.
    pub(crate) fn has_id(&self) -> bool {
        self.path.contains("{id}")
    }

    /// Returns the backend's id if a path is this call's; an empty one if it has none.
    fn id_in<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.split_once("{id}") {
            None => (path == self.path).then_some(""),
            Some((before, after)) => {
                let id = path.strip_prefix(before)?.strip_suffix(after)?;
                (!id.is_empty() && !id.contains('/')).then_some(id)
            }
        }
    }
}

/// Finds the call of a method and path, and the id in the path.
pub(crate) fn find<'p>(
    method: &Method,
    path: &'p str,
    is_own_listener: bool,
) -> Result<(&'static Route, Cow<'p, str>), AdminError> {
    let verb = Verb::of(method);
    let mut allow = Vec::new();
    for route in ROUTES
        .iter()
        .filter(|route| is_own_listener || !route.is_own())
    {
        let Some(id) = route.id_in(path) else {
            continue;
        };
        if Some(route.verb) == verb {
            let id = percent_decode_str(id).decode_utf8();
            let id = id.map_err(|_| unknown_backend("(not UTF-8)"))?;
            return Ok((route, id));
        }
        allow.push(route.verb.allow());
    }
    if allow.is_empty() {
        let text = "no such call; GET /lb/openapi.json lists all";
        return Err(AdminError::not_found("unknown_call", text));
    }
    let allow = allow.join(", ");
    let text = format!("this call is made by {allow}");
    Err(AdminError {
        allow: Some(allow),
        ..AdminError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", text)
    })
}

/// An id that no backend has.
pub(crate) fn unknown_backend(id: &str) -> AdminError {
    let text = format!("no backend has the id {id:?}; GET /lb/backends lists them");
    AdminError::not_found("unknown_backend", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Result<(Call, String), (u16, Option<String>)> {
        match find(&method, path, false) {
            Ok((route, id)) => Ok((route.call, id.into_owned())),
            Err(error) => Err((error.status.as_u16(), error.allow)),
        }
    }

    #[test]
    fn a_path_finds_its_call_and_id() {
        let disable = Call::Change(Kind::Disable);
        for (method, path, call, id) in [
            (Method::GET, "/lb/stats", Call::Stats, ""),
            (Method::HEAD, "/lb/stats", Call::Stats, ""),
            (
                Method::POST,
                "/lb/backends/add",
                Call::Change(Kind::Add),
                "",
            ),
            (Method::POST, "/lb/backends/add/disable", disable, "add"),
            (
                Method::POST,
                "/lb/backends/a%2Fb%20c/disable",
                disable,
                "a/b c",
            ),
            (
                Method::POST,
                "/lb/backends/[::1]:80/disable",
                disable,
                "[::1]:80",
            ),
            (Method::POST, "/lb/backends/a+b/disable", disable, "a+b"),
            (
                Method::DELETE,
                "/lb/backends/a/remove",
                Call::Change(Kind::Remove),
                "a",
            ),
        ] {
            assert_eq!(found(method, path), Ok((call, id.to_owned())), "{path}");
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        for path in [
            "/lb",
            "/lb/",
            "/lb/stats/",
            "/lb/backends//disable",
            "/lb/backends/a/b/disable",
            "/health",
        ] {
            assert_eq!(found(Method::POST, path), Err((404, None)), "{path}");
        }
        assert_eq!(
            found(Method::POST, "/lb/backends/%ff/disable"),
            Err((404, None))
        );
        for (method, path, allow) in [
            (Method::POST, "/lb/stats", "GET, HEAD"),
            (Method::OPTIONS, "/lb/stats", "GET, HEAD"),
            (Method::GET, "/lb/backends/add", "POST"),
            (Method::POST, "/lb/backends/a/remove", "DELETE"),
        ] {
            assert_eq!(
                found(method, path),
                Err((405, Some(allow.to_owned()))),
                "{path}"
            );
        }
    }
}

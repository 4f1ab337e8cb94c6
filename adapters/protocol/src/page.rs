//! Pages of proxies: HTML or plain text from a server that is not the service.
//!
//! Invariant: an answer whose body is JSON is never a page, whatever its `server` header says.

use crate::secret::cut;
use core::fmt;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, SERVER};

/// The server in between that sent a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Proxy {
    /// Cloudflare.
    Cloudflare,
    /// nginx, OpenResty or Tengine.
    Nginx,
    /// HAProxy.
    HaProxy,
    /// Envoy or Istio.
    Envoy,
    /// A load balancer of Amazon Web Services, or its CDN.
    Aws,
    /// Google's front end.
    Google,
    /// Microsoft's gateway or front door.
    Azure,
    /// Varnish or Fastly.
    Varnish,
    /// Squid.
    Squid,
    /// Apache.
    Apache,
    /// Traefik.
    Traefik,
    /// Caddy.
    Caddy,
    /// Vercel.
    Vercel,
    /// A server that names itself nowhere.
    Unknown,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cloudflare => "Cloudflare",
            Self::Nginx => "nginx",
            Self::HaProxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Aws => "AWS",
            Self::Google => "Google's front end",
            Self::Azure => "Azure's gateway",
            Self::Varnish => "Varnish",
            Self::Squid => "Squid",
            Self::Apache => "Apache",
            Self::Traefik => "Traefik",
            Self::Caddy => "Caddy",
            Self::Vercel => "Vercel",
            Self::Unknown => "a proxy",
        })
    }
}

/// Marks in a page's body or `server` header, in lower case; the first that is found decides.
const MARKS: [(&str, Proxy); 24] = [
    ("cloudflare", Proxy::Cloudflare),
    ("cf-error", Proxy::Cloudflare),
    ("openresty", Proxy::Nginx),
    ("tengine", Proxy::Nginx),
    ("nginx", Proxy::Nginx),
    (
        "no server is available to handle this request",
        Proxy::HaProxy,
    ),
    ("request forbidden by administrative rules", Proxy::HaProxy),
    ("the server didn't respond in time", Proxy::HaProxy),
    (
        "the server returned an invalid or incomplete response",
        Proxy::HaProxy,
    ),
    ("haproxy", Proxy::HaProxy),
    ("upstream connect error", Proxy::Envoy),
    ("no healthy upstream", Proxy::Envoy),
    ("envoy", Proxy::Envoy),
    ("awselb", Proxy::Aws),
    ("cloudfront", Proxy::Aws),
    ("microsoft-azure-application-gateway", Proxy::Azure),
    ("varnish", Proxy::Varnish),
    ("squid", Proxy::Squid),
    ("apache", Proxy::Apache),
    ("traefik", Proxy::Traefik),
    ("caddy", Proxy::Caddy),
    ("vercel", Proxy::Vercel),
    ("azure", Proxy::Azure),
    ("that’s an error.", Proxy::Google),
];

/// Characters of a page that are looked at.
const MAX_CHARACTERS: usize = 4_096;

/// A page, with the words in it that say what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) proxy: Proxy,
    pub(crate) words: String,
    /// Whether the body is HTML or names the proxy, and not only a header does.
    pub(crate) is_told_by_body: bool,
}

impl Page {
    /// Reads a body that is not JSON; `None` if it is neither HTML nor the text of a proxy.
    pub(crate) fn of(headers: &HeaderMap, body: &str) -> Option<Self> {
        let start: String = body.chars().take(MAX_CHARACTERS).collect();
        let lower = start.to_ascii_lowercase();
        let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let is_html = ["<!doctype", "<html", "<head", "<body"]
            .iter()
            .any(|tag| lower.contains(tag))
            || kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
        let server = headers.get(SERVER).and_then(|it| it.to_str().ok());
        let server = server.unwrap_or_default().to_ascii_lowercase();
        // The body goes first: a service behind one proxy may pass on the page of another.
        let find = |text: &str| MARKS.iter().find(|(mark, _)| text.contains(mark));
        let in_body = find(&lower);
        let found = in_body.or_else(|| find(&server)).map(|(_, proxy)| *proxy);
        if !is_html && found.is_none() {
            return None;
        }
        let via = [
            "cf-ray",
            "x-amz-cf-id",
            "x-envoy-upstream-service-time",
            "x-varnish",
            "x-vercel-id",
        ];
        let by_header = || {
            let proxies = [
                Proxy::Cloudflare,
                Proxy::Aws,
                Proxy::Envoy,
                Proxy::Varnish,
                Proxy::Vercel,
            ];
            let mut named = via.iter().zip(proxies);
            named
                .find(|(name, _)| headers.contains_key(**name))
                .map(|(_, proxy)| proxy)
        };
        Some(Self {
            proxy: found.or_else(by_header).unwrap_or(Proxy::Unknown),
            words: words(body, &start, &lower),
            is_told_by_body: is_html || in_body.is_some(),
        })
    }
}

/// Returns the title, else the first heading, else the text without its tags.
///
/// `start` is the start of the page, and `lower` the same in lower case.
fn words(page: &str, start: &str, lower: &str) -> String {
    let between = |open: &str, close: &str| {
        let tag = lower.find(open)?;
        let from = tag + lower.get(tag..)?.find('>')? + 1;
        let end = from + lower.get(from..)?.find(close)?;
        let text = without_tags(start.get(from..end)?);
        (!text.is_empty()).then_some(text)
    };
    between("<title", "</title")
        .or_else(|| between("<h1", "</h1"))
        .unwrap_or_else(|| without_tags(cut(page, MAX_CHARACTERS)))
}

fn without_tags(html: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for character in html.chars() {
        match character {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                text.push(' ');
            }
            _ if in_tag => {}
            _ => text.push(character),
        }
    }
    let words: Vec<_> = text.split_whitespace().take(40).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_which_server_sent_it() {
        for (server, body, proxy, words) in [
            (
                "",
                "<!DOCTYPE html><html><head><title>api | 524: A timeout occurred</title></head><body>cloudflare</body></html>",
                Some(Proxy::Cloudflare),
                "api | 524: A timeout occurred",
            ),
            (
                "nginx/1.25",
                "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><hr><center>nginx</center></body></html>",
                Some(Proxy::Nginx),
                "502 Bad Gateway",
            ),
            (
                "",
                "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>",
                Some(Proxy::HaProxy),
                "503 Service Unavailable",
            ),
            (
                "envoy",
                "upstream connect error or disconnect",
                Some(Proxy::Envoy),
                "upstream connect error or disconnect",
            ),
            (
                "awselb/2.0",
                "<html><head><title>504 Gateway Time-out</title></head>",
                Some(Proxy::Aws),
                "504 Gateway Time-out",
            ),
            (
                "",
                "<HTML><BODY>Blocked <b>by</b> policy",
                Some(Proxy::Unknown),
                "Blocked by policy",
            ),
            ("", "<title></title><h1>É <x", None, ""),
            ("uvicorn", "Internal Server Error", None, ""),
            ("", "", None, ""),
        ] {
            let mut headers = HeaderMap::new();
            if !server.is_empty() {
                headers.insert(SERVER, server.parse().unwrap());
            }
            let page = Page::of(&headers, body);
            assert_eq!(page.as_ref().map(|page| page.proxy), proxy, "{body}");
            assert_eq!(
                page.map_or(String::new(), |page| page.words),
                words,
                "{body}"
            );
        }
    }

    #[test]
    fn a_page_without_marks_is_named_by_its_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("cf-ray", "1-FRA".parse().unwrap());
        let page = Page::of(&headers, "<html>Just a moment...</html>").unwrap();
        assert_eq!(
            (page.proxy, &*page.words),
            (Proxy::Cloudflare, "Just a moment...")
        );
    }
}

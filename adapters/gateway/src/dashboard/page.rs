//! The page itself, put together of its parts when the program is built.
//!
//! Invariant: it runs no script but its own, whose hash its policy has, and calls no address but the one it came from.

use crate::proxy::AnswerBody;
use data_encoding::BASE64;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};
use http::{HeaderValue, Response};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

const HEAD: &str = include_str!("page/head.html");
const STYLE: &str = include_str!("page/style.css");
const BODY: &str = include_str!("page/body.html");
const SCRIPT: &str = concat!(
    include_str!("page/words.js"),
    include_str!("page/model.js"),
    include_str!("page/charts.js"),
    include_str!("page/members.js"),
    include_str!("page/tiles.js"),
    include_str!("page/panels.js"),
    include_str!("page/jobs.js"),
    include_str!("page/actions.js"),
    include_str!("page/stream.js"),
    include_str!("page/main.js"),
);

static PAGE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{HEAD}<style>{STYLE}</style>\n</head>\n{BODY}<script type=\"module\">{SCRIPT}</script>\n</body>\n</html>\n"
    )
});

/// The page may draw pictures that its script has fetched, and set the style of single elements.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64.encode(&Sha256::digest(SCRIPT));
    format!(
        "default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; img-src blob: data:; \
         connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// Returns the page.
pub(crate) fn page() -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::text(PAGE.as_str()));
    let headers = response.headers_mut();
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (REFERRER_POLICY, "no-referrer"),
        (opener, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

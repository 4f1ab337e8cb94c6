//! The forms of texts in the file, and a table of their readers.
//!
//! Invariant: every form that the schema names has a reader in the table.

use super::value::{Misread, Value};
use super::{Label, Target};
use crate::alert::AlertWhen;
use crate::callers::{KeyHash, ModelPattern, MoneyBudget};
use crate::network::Network;
use crate::settings::{
    Address, AfterCrash, Kind, LogFormat, LogLevel, LogStyle, OnDisconnect, Serve,
};
use crate::token::DEFAULTS;
use core::net::SocketAddr;
use core::ops::RangeInclusive;
use core::time::Duration;
use http::Uri;
use http::uri::{Authority, PathAndQuery};
use leasehold_core::balance::Policy;
use leasehold_core::limit::{LimitSpecs, ParseLimitError};
use leasehold_core::time::{DisplaySpan, parse_span};
use leasehold_protocol::{ApiKey, Endpoint, Usd};
use std::path::PathBuf;

/// Reads a text of a form only to say what is wrong with it.
pub(crate) type Reader = fn(&str) -> Result<(), Misread>;

/// The readers of all forms but those of a few words, which the schema has in full.
pub(crate) const READERS: [(&str, Reader); 22] = [
    reader::<Duration>(),
    reader::<Timeout>(),
    reader::<LimitSpecs>(),
    reader::<Share>(),
    reader::<Address>(),
    reader::<Url>(),
    reader::<Network>(),
    reader::<RangeInclusive<u16>>(),
    reader::<PathAndQuery>(),
    reader::<PathPrefix>(),
    reader::<HostName>(),
    reader::<CookieName>(),
    reader::<Name>(),
    reader::<FilePath>(),
    reader::<Line>(),
    reader::<KeyHash>(),
    reader::<ModelPattern>(),
    reader::<Usd>(),
    reader::<MoneyBudget>(),
    reader::<Target>(),
    reader::<AlertWhen>(),
    reader::<Label>(),
];

const fn reader<V: Value>() -> (&'static str, Reader) {
    (V::FORMAT, |text| V::read(text).map(drop))
}

/// A span of time above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Duration);

/// A share in permille, at most 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(pub(crate) u16);

/// The URL of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url(pub(crate) Uri);

/// The begin of a request's path, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPrefix(pub(crate) String);

/// A host without a port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostName(pub(crate) String);

/// The name of a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CookieName(pub(crate) String);

/// A name of a member, a group or a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) String);

/// The path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

/// Any text but an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line(pub(crate) String);

impl Value for Duration {
    const FORMAT: &'static str = "span";
    const EXAMPLE: &'static str = "30s";

    fn read(text: &str) -> Result<Self, Misread> {
        parse_span(text).map_err(Misread::new)
    }

    fn show(&self) -> String {
        DisplaySpan(*self).to_string()
    }
}

impl Value for Timeout {
    const FORMAT: &'static str = "span above zero";
    const EXAMPLE: &'static str = "30s";

    fn read(text: &str) -> Result<Self, Misread> {
        match Duration::read(text)? {
            Duration::ZERO => Err(Misread::new("must be above zero")),
            span => Ok(Self(span)),
        }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

impl Value for LimitSpecs {
    const FORMAT: &'static str = "limits";
    const EXAMPLE: &'static str = "3/60s, 2 concurrent";

    fn read(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(|error: ParseLimitError| Misread {
            at: error.at,
            problem: error.to_string(),
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Policy {
    const FORMAT: &'static str = "policy";
    const EXAMPLE: &'static str = "round_robin";
    const WORDS: &'static [&'static str] = &POLICIES;

    fn read(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(Misread::new)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// The names of all policies.
const POLICIES: [&str; Policy::ALL.len() + 1] = {
    let mut names = ["ip_hash"; Policy::ALL.len() + 1];
    let mut index = 0;
    while index < Policy::ALL.len() {
        names[index] = Policy::ALL[index].name();
        index += 1;
    }
    names
};

impl Value for Share {
    const FORMAT: &'static str = "share";
    const EXAMPLE: &'static str = "50%";

    fn read(text: &str) -> Result<Self, Misread> {
        let wrong = || Misread::new("must be a share from 0% to 100%, such as 50% or 12.5%");
        let number = text.strip_suffix('%').ok_or_else(wrong)?.trim_ascii();
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(tenth) || tenth.len() != 1 {
            return Err(wrong());
        }
        let whole: u16 = whole.parse().map_err(|_| wrong())?;
        let tenth: u16 = tenth.parse().map_err(|_| wrong())?;
        let permille = whole.checked_mul(10).and_then(|it| it.checked_add(tenth));
        let permille = permille.filter(|permille| *permille <= 1_000);
        permille.map(Self).ok_or_else(wrong)
    }

    fn show(&self) -> String {
        match (self.0 / 10, self.0 % 10) {
            (whole, 0) => format!("{whole}%"),
            (whole, tenth) => format!("{whole}.{tenth}%"),
        }
    }
}

impl Value for Address {
    const FORMAT: &'static str = "address";
    const EXAMPLE: &'static str = "127.0.0.1:8080";

    fn read(text: &str) -> Result<Self, Misread> {
        if let Some(path) = text.strip_prefix("unix:") {
            return FilePath::read(path).map(|path| Self::Unix(path.0));
        }
        let address: Result<SocketAddr, _> = text.parse();
        address.map(Self::Tcp).map_err(|_| {
            Misread::new(
                "must be an IP address and a port, such as 127.0.0.1:8080 or [::]:8080, or unix:/path",
            )
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Url {
    const FORMAT: &'static str = "url";
    const EXAMPLE: &'static str = "http://127.0.0.1:8001";

    fn read(text: &str) -> Result<Self, Misread> {
        // An endpoint has the one set of rules for URLs; this key goes nowhere.
        let key = ApiKey::new("none").map_err(Misread::new)?;
        Endpoint::new(text, key).map_err(Misread::new)?;
        let url: Uri = text.trim().parse().map_err(Misread::new)?;
        if url.port_u16() == Some(0) {
            return Err(Misread::new("the port must not be 0"));
        }
        Ok(Self(url))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Value for Network {
    const FORMAT: &'static str = "network";
    const EXAMPLE: &'static str = "10.0.0.0/8";

    fn read(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(Misread::new)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Statuses of HTTP.
impl Value for RangeInclusive<u16> {
    const FORMAT: &'static str = "statuses";
    const EXAMPLE: &'static str = "200-399";

    fn read(text: &str) -> Result<Self, Misread> {
        let wrong = || Misread::new("must be a status or a range from 100 to 599, such as 200-399");
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let status = text.parse().ok().filter(|_| digits);
            status.filter(|status: &u16| (100..600).contains(status))
        };
        let (start, end) = status(start).zip(status(end)).ok_or_else(wrong)?;
        if start > end {
            return Err(wrong());
        }
        Ok(start..=end)
    }

    fn show(&self) -> String {
        if self.start() == self.end() {
            self.start().to_string()
        } else {
            format!("{}-{}", self.start(), self.end())
        }
    }
}

/// What a health check asks for.
impl Value for PathAndQuery {
    const FORMAT: &'static str = "path and query";
    const EXAMPLE: &'static str = "/health";

    fn read(text: &str) -> Result<Self, Misread> {
        let wrong = || Misread::new("must be a path that begins with /, such as /health?full=1");
        if !text.starts_with('/') || text.contains('#') {
            return Err(wrong());
        }
        text.parse().map_err(|_| wrong())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for PathPrefix {
    const FORMAT: &'static str = "path";
    const EXAMPLE: &'static str = "/api";

    fn read(text: &str) -> Result<Self, Misread> {
        let path = PathAndQuery::read(text);
        let plain = |path: &PathAndQuery| path.query().is_none() && !text.contains('?');
        if !path.is_ok_and(|path| plain(&path)) {
            let problem = "must be a path that begins with / and has no ?, such as /api";
            return Err(Misread::new(problem));
        }
        let bare = text.trim_end_matches('/');
        Ok(Self(if bare.is_empty() { "/" } else { bare }.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Value for HostName {
    const FORMAT: &'static str = "host";
    const EXAMPLE: &'static str = "example.com";

    fn read(text: &str) -> Result<Self, Misread> {
        let wrong = || Misread::new("must be a host without a port, such as example.com");
        let authority: Authority = text.parse().map_err(|_| wrong())?;
        if authority.host() != text || text.is_empty() {
            return Err(wrong());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Value for CookieName {
    const FORMAT: &'static str = "cookie name";
    const EXAMPLE: &'static str = "backend";

    fn read(text: &str) -> Result<Self, Misread> {
        // A token, as RFC 6265 section 4.1.1 has it.
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_token) {
            let problem = "must be letters, digits and dashes, such as backend";
            return Err(Misread::new(problem));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// The longest name in bytes.
const MAX_NAME: usize = 255;

impl Value for Name {
    const FORMAT: &'static str = "name";
    const EXAMPLE: &'static str = "backend1";

    fn read(text: &str) -> Result<Self, Misread> {
        // Names are part of the admin's paths.
        let is_wrong = |c: char| c.is_control() || c.is_whitespace() || c == '/';
        if text.is_empty() || text.len() > MAX_NAME || text.contains(is_wrong) {
            return Err(Misread::new(format!(
                "must be a name of at most {MAX_NAME} bytes without spaces and slashes"
            )));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Value for FilePath {
    const FORMAT: &'static str = "file";
    const EXAMPLE: &'static str = "admin.token";

    fn read(text: &str) -> Result<Self, Misread> {
        if text.is_empty() || text.contains('\0') {
            return Err(Misread::new("must be the path of a file"));
        }
        Ok(Self(text.into()))
    }

    fn show(&self) -> String {
        self.0.display().to_string()
    }
}

impl Value for Line {
    const FORMAT: &'static str = "text";
    const EXAMPLE: &'static str = "ok";

    fn read(text: &str) -> Result<Self, Misread> {
        if text.is_empty() {
            return Err(Misread::new("must not be empty"));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Value for KeyHash {
    const FORMAT: &'static str = "sha256";
    const EXAMPLE: &'static str =
        "06d94a7b709828305f590ed80c3ed4d1d19eff59a4feae626dee92f5731e8cb3";

    fn read(text: &str) -> Result<Self, Misread> {
        let hash: Self = text.parse().map_err(Misread::new)?;
        match DEFAULTS
            .iter()
            .any(|word| hash == Self::of(word.as_bytes()))
        {
            true => Err(Misread::new(
                "is the hash of a well-known default; make one with: leasehold key new --name NAME",
            )),
            false => Ok(hash),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for ModelPattern {
    const FORMAT: &'static str = "models";
    const EXAMPLE: &'static str = "gpt-4o*";

    fn read(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(Misread::new)
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Value for Usd {
    const FORMAT: &'static str = "money";
    const EXAMPLE: &'static str = "2.50 USD";

    fn read(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(Misread::new)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for MoneyBudget {
    const FORMAT: &'static str = "budget";
    const EXAMPLE: &'static str = "5 USD/day";

    fn read(text: &str) -> Result<Self, Misread> {
        let wrong = || {
            Misread::new(
                "must be an amount above zero and a span, such as 5 USD/day or 100 USD/30d",
            )
        };
        let (amount, window) = text.split_once('/').ok_or_else(wrong)?;
        let amount = Usd::read(amount.trim_ascii())?;
        let window = match window.trim_ascii() {
            "hour" => "1h",
            "day" => "1d",
            "week" => "7d",
            span => span,
        };
        let window = Duration::read(window).map_err(|_| wrong())?;
        match amount == Usd::ZERO || window.is_zero() {
            true => Err(wrong()),
            false => Ok(Self { amount, window }),
        }
    }

    fn show(&self) -> String {
        format!("{}/{}", self.amount, self.window.show())
    }
}

/// Implements [`Value`] for an enum by the words of its variants.
macro_rules! words {
    ($type:ty, $format:literal, $($word:literal => $variant:ident),+) => {
        impl Value for $type {
            const FORMAT: &'static str = $format;
            const EXAMPLE: &'static str = Self::WORDS[0];
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn read(text: &str) -> Result<Self, Misread> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Misread::new(format!("must be one of {}", Self::WORDS.join(", ")))),
                }
            }

            fn show(&self) -> String {
                match self {
                    $(Self::$variant => $word.to_owned(),)+
                }
            }
        }
    };
}

words!(Kind, "kind", "http" => Http, "openai" => Openai, "comfyui" => Comfyui);
words!(Serve, "serve", "http" => Http, "openai" => Openai, "comfyui" => Comfyui, "leases" => Leases);
words!(LogFormat, "log format", "common" => Common, "combined" => Combined, "json" => Json);
words!(LogStyle, "log style", "human" => Human, "json" => Json);
words!(
    LogLevel, "log level",
    "off" => Off, "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace
);
words!(AfterCrash, "after crash", "closed" => Closed, "trust" => Trust);
words!(OnDisconnect, "on disconnect", "cancel" => Cancel, "drain" => Drain);

#[cfg(test)]
mod tests;

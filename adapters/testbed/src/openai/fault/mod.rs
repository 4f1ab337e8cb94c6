//! Faults and odd shapes of answers, by name.
//!
//! Invariant: each fault has one row in the table of its group: its properties, its name, and what the caller sees.

/// Declares a group of faults: an enum, and its table of properties, names and help.
macro_rules! fault_table {
    ($(#[$meta:meta])* $name:ident { $($variant:ident $properties:ident $text:literal $help:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = $help] $variant,)+
        }

        impl $name {
            /// Every fault of the group: value, name, help.
            pub(crate) const TABLE: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$variant, $text, $help),)+];

            pub(super) const fn properties(self) -> $crate::openai::fault::Properties {
                match self {
                    $(Self::$variant => $properties,)+
                }
            }
        }
    };
}

mod bytes;
mod disguise;
mod encoding;
mod framing;
mod key;
mod overload;
mod rate_limit;
mod request;
mod rule;
mod shape;
mod stream;
mod transport;

pub use bytes::BytesFault;
pub use disguise::DisguiseFault;
pub use framing::FramingFault;
pub use key::KeyFault;
pub use overload::OverloadFault;
pub use rate_limit::RateLimitFault;
pub use request::RequestFault;
pub use rule::{FaultRule, FaultRuleError};
pub use shape::ShapeFault;
pub use stream::StreamFault;
pub use transport::TransportFault;

pub(super) use rule::Dice;

use super::answer::Answer;
use super::error::{ApiError, ErrorForm};
use super::request::{Api, ApiRequest};
use super::sse::Pace;
use crate::reply::Reply;
use crate::server::{CloseConnection, Orders};
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// Width of the names in the printed table.
const NAME_WIDTH: usize = 24;

/// A kind of answer that a call gets in place of a plain one.
///
/// Its text is its name in [`Fault::table`], or the number of a [`Status`](Self::Status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// This status, 400 to 599, with an error body like the real service's.
    Status(u16),
    /// 429, in one of the dialects that tell when to come back.
    RateLimit(RateLimitFault),
    /// The key is refused: quota, billing, permission.
    Key(KeyFault),
    /// The request is refused: too large, malformed, wrong model or URL.
    Request(RequestFault),
    /// The service, or a proxy before it, can't answer now.
    Overload(OverloadFault),
    /// Status 200 without an answer.
    Disguise(DisguiseFault),
    /// A whole answer with unusual JSON.
    Shape(ShapeFault),
    /// A whole answer with unusual bytes: encodings, padding, text that is barely JSON.
    Bytes(BytesFault),
    /// A whole stream with unusual framing.
    Framing(FramingFault),
    /// A stream that ends too soon, or with an error.
    Stream(StreamFault),
    /// Trouble of the connection.
    Transport(TransportFault),
}

/// A group of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultGroup {
    /// See [`Fault::RateLimit`].
    RateLimit,
    /// See [`Fault::Key`].
    Key,
    /// See [`Fault::Request`].
    Request,
    /// See [`Fault::Overload`].
    Overload,
    /// See [`Fault::Disguise`].
    Disguise,
    /// See [`Fault::Shape`].
    Shape,
    /// See [`Fault::Bytes`].
    Bytes,
    /// See [`Fault::Framing`].
    Framing,
    /// See [`Fault::Stream`].
    Stream,
    /// See [`Fault::Transport`].
    Transport,
}

impl FaultGroup {
    /// Every group.
    pub const ALL: [Self; 10] = [
        Self::RateLimit,
        Self::Key,
        Self::Request,
        Self::Overload,
        Self::Disguise,
        Self::Shape,
        Self::Bytes,
        Self::Framing,
        Self::Stream,
        Self::Transport,
    ];

    /// The group's name, which stands for all its faults in the text of a [`FaultRule`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RateLimit => "rate-limit",
            Self::Key => "key",
            Self::Request => "request",
            Self::Overload => "overload",
            Self::Disguise => "disguise",
            Self::Shape => "shape",
            Self::Bytes => "bytes",
            Self::Framing => "framing",
            Self::Stream => "stream",
            Self::Transport => "transport",
        }
    }

    /// A phrase on all faults of the group, for the printed table.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::RateLimit => "429; the wait is --fault-wait",
            Self::Key => "the key is refused",
            Self::Request => "the request is refused",
            Self::Overload => "the service, or a proxy before it, can't answer now",
            Self::Disguise => "status 200 without an answer",
            Self::Shape => "a whole answer in unusual JSON; calls without stream",
            Self::Bytes => "a whole answer in unusual bytes; calls without stream",
            Self::Framing => "a whole stream in unusual framing; calls with stream",
            Self::Stream => "a stream that ends too soon; calls with stream",
            Self::Transport => "trouble of the connection",
        }
    }

    /// Every fault of the group, with its name and help.
    #[must_use]
    pub fn faults(self) -> Vec<(Fault, &'static str, &'static str)> {
        fn rows<T: Copy>(
            table: &[(T, &'static str, &'static str)],
            fault: impl Fn(T) -> Fault,
        ) -> Vec<(Fault, &'static str, &'static str)> {
            let rows = table.iter();
            rows.map(|(kind, name, help)| (fault(*kind), *name, *help))
                .collect()
        }
        match self {
            Self::RateLimit => rows(RateLimitFault::TABLE, Fault::RateLimit),
            Self::Key => rows(KeyFault::TABLE, Fault::Key),
            Self::Request => rows(RequestFault::TABLE, Fault::Request),
            Self::Overload => rows(OverloadFault::TABLE, Fault::Overload),
            Self::Disguise => rows(DisguiseFault::TABLE, Fault::Disguise),
            Self::Shape => rows(ShapeFault::TABLE, Fault::Shape),
            Self::Bytes => rows(BytesFault::TABLE, Fault::Bytes),
            Self::Framing => rows(FramingFault::TABLE, Fault::Framing),
            Self::Stream => rows(StreamFault::TABLE, Fault::Stream),
            Self::Transport => rows(TransportFault::TABLE, Fault::Transport),
        }
    }
}

impl Fault {
    /// Every fault with a name; a [`Status`](Self::Status) has none.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let rows = FaultGroup::ALL.into_iter().flat_map(FaultGroup::faults);
        rows.map(|(fault, _, _)| fault).collect()
    }

    /// Returns the table of all faults as text, grouped, at most 100 columns wide.
    #[must_use]
    pub fn table() -> String {
        let mut table = format!(
            "  {:NAME_WIDTH$} that status, with the service's error body\n",
            "400 to 599"
        );
        for group in FaultGroup::ALL {
            table += &format!("\n{}: {}\n", group.name(), group.help());
            for (_, name, help) in group.faults() {
                table += &format!("  {name:NAME_WIDTH$} {help}\n");
            }
        }
        table
    }

    /// Whether the caller gets a whole answer nevertheless, so that the call counts as ok.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        self.properties().is_answered
    }

    /// Whether the fault makes sense for a call; only then it may answer it.
    pub(super) fn applies_to(self, request: &ApiRequest) -> bool {
        let Properties { apis, streamed, .. } = self.properties();
        let is_streamed = request.stream.is_some();
        apis.contains(&request.api) && streamed.is_none_or(|wanted| wanted == is_streamed)
    }

    /// Text that the answer begins with, where the fault needs some.
    pub(super) const fn prefix(self) -> &'static str {
        self.properties().prefix
    }

    /// Whether the answer tells the key to wait.
    pub(super) const fn tells_wait(self) -> bool {
        self.properties().tells_wait
    }

    /// Whether the answer says nothing true about the key's limits.
    pub(super) const fn hides_limits(self) -> bool {
        matches!(self, Self::RateLimit(_))
    }

    const fn properties(self) -> Properties {
        match self {
            Self::Status(_) => Properties::FAILURE,
            Self::RateLimit(fault) => fault.properties(),
            Self::Key(fault) => fault.properties(),
            Self::Request(fault) => fault.properties(),
            Self::Overload(fault) => fault.properties(),
            Self::Disguise(fault) => fault.properties(),
            Self::Shape(fault) => fault.properties(),
            Self::Bytes(fault) => fault.properties(),
            Self::Framing(fault) => fault.properties(),
            Self::Stream(fault) => fault.properties(),
            Self::Transport(fault) => fault.properties(),
        }
    }

    /// Answers a call with this fault.
    pub(super) async fn reply(self, scene: &Scene<'_>) -> Result<Reply, CloseConnection> {
        Ok(match self {
            Self::Status(status) => ApiError::fault(status).reply(scene.form()),
            Self::RateLimit(fault) => fault.reply(scene),
            Self::Key(fault) => fault.reply(scene),
            Self::Request(fault) => fault.reply(scene),
            Self::Overload(fault) => fault.reply(scene),
            Self::Disguise(fault) => fault.reply(scene),
            Self::Shape(fault) => fault.reply(scene.answer),
            Self::Bytes(fault) => fault.reply(scene),
            Self::Framing(fault) => fault.reply(scene),
            Self::Stream(fault) => fault.reply(scene),
            Self::Transport(fault) => {
                fault
                    .reply(scene.plain(), scene.orders, scene.times)
                    .await?
            }
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Status(status) = self {
            return write!(f, "{status}");
        }
        let rows = FaultGroup::ALL.into_iter().flat_map(FaultGroup::faults);
        let mut names = rows.filter(|(fault, _, _)| fault == self);
        f.write_str(names.next().map_or("", |(_, name, _)| name))
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        if let Ok(status @ 400..=599) = text.parse() {
            return Ok(Self::Status(status));
        }
        let rows = FaultGroup::ALL.into_iter().flat_map(FaultGroup::faults);
        let mut found = rows.filter(|(_, name, _)| *name == text);
        found
            .next()
            .map(|(fault, _, _)| fault)
            .ok_or_else(|| UnknownFault(text.to_owned()))
    }
}

/// A name that no fault has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault {0:?}; `--fault list` prints all names")]
pub struct UnknownFault(String);

/// The calls that a fault makes sense for, and how its answer counts.
#[derive(Clone, Copy, Debug)]
struct Properties {
    apis: &'static [Api],
    /// Only calls with a stream, or only those without.
    streamed: Option<bool>,
    /// Whether the caller gets a whole answer nevertheless.
    is_answered: bool,
    /// Whether the answer tells the key to wait.
    tells_wait: bool,
    /// Text that the answer begins with.
    prefix: &'static str,
}

impl Properties {
    /// A failure of any call.
    const FAILURE: Self = Self {
        apis: &[Api::Chat, Api::Responses, Api::Embeddings, Api::Messages],
        streamed: None,
        is_answered: false,
        tells_wait: false,
        prefix: "",
    };

    /// A whole answer to any call.
    const ANSWER: Self = Self {
        is_answered: true,
        ..Self::FAILURE
    };

    const fn of(self, apis: &'static [Api]) -> Self {
        Self { apis, ..self }
    }

    const fn streamed(self) -> Self {
        Self {
            streamed: Some(true),
            ..self
        }
    }

    const fn unstreamed(self) -> Self {
        Self {
            streamed: Some(false),
            ..self
        }
    }

    const fn telling_wait(self) -> Self {
        Self {
            tells_wait: true,
            ..self
        }
    }
}

/// Durations of the faults that take or tell some.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultTimes {
    /// The wait that a refusal tells, and that a slow answer takes.
    pub(crate) wait: Duration,
    pub(crate) stall: Duration,
    /// Pause before each byte.
    pub(crate) trickle: Duration,
}

/// The call that a fault answers.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) answer: &'a Answer,
    pub(super) pace: &'a Pace,
    pub(super) times: FaultTimes,
    /// Time since 1970.
    pub(super) now: Duration,
    pub(super) orders: &'a Orders,
}

impl Scene<'_> {
    fn model(&self) -> &str {
        &self.answer.request.model
    }

    /// The form of an error in place of the answer.
    fn form(&self) -> ErrorForm<'_> {
        ErrorForm {
            api: self.answer.request.api,
            id: &self.answer.id,
        }
    }

    /// The plain answer.
    fn plain(&self) -> Reply {
        self.answer.reply(self.pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_fault_has_a_name_of_its_own_that_is_read_back() {
        let all = Fault::all();
        let names: HashSet<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all.len());
        for fault in all {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert_eq!("529".parse(), Ok(Fault::Status(529)));
        assert!("200".parse::<Fault>().is_err());
        for group in FaultGroup::ALL {
            assert!(!names.contains(group.name()), "{}", group.name());
        }
    }

    #[test]
    fn the_readme_has_the_number_of_faults() {
        let readme = include_str!("../../../README.md");
        let count = format!(" {} kinds of answers ", Fault::all().len());
        assert!(readme.contains(&count), "{count}");
    }

    #[test]
    fn the_table_is_grouped_and_fits_100_columns() {
        let table = Fault::table();
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for group in FaultGroup::ALL {
            assert!(table.contains(&format!("\n{}: ", group.name())));
            for (_, name, help) in group.faults() {
                assert!(name.len() <= NAME_WIDTH, "{name}");
                let row =
                    |line: &&str| line.starts_with(&format!("  {name} ")) && line.ends_with(help);
                assert!(table.lines().any(|line| row(&line)), "{name}");
            }
        }
    }
}

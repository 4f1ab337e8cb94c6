//! Faults of a backend, and the rules that say which requests get them.
//!
//! Invariant: each request takes one draw from the seed, whatever the rules are.

use crate::occurrence::Occurrence;
use crate::openai::{Fault, FaultGroup, TransportFault};
use core::fmt;
use core::str::FromStr;

/// A kind of answer that a request gets in place of a plain one.
///
/// Its text is its name in [`BackendFault::table`], or the number of a [`Status`](Self::Status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendFault {
    /// This status, 400 to 599.
    Status(u16),
    /// Trouble of the connection.
    Transport(TransportFault),
}

impl BackendFault {
    /// Returns the table of all faults as text, at most 100 columns wide.
    #[must_use]
    pub fn table() -> String {
        let mut table = format!("  {:24} that status\n", "400 to 599");
        for (_, name, help) in FaultGroup::Transport.faults() {
            table += &format!("  {name:24} {help}\n");
        }
        table
    }
}

impl fmt::Display for BackendFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Transport(fault) => Fault::Transport(*fault).fmt(f),
        }
    }
}

impl FromStr for BackendFault {
    type Err = BackendFaultError;

    fn from_str(text: &str) -> Result<Self, BackendFaultError> {
        if let Ok(status @ 400..=599) = text.parse() {
            return Ok(Self::Status(status));
        }
        let mut rows = TransportFault::TABLE.iter();
        let row = rows.find(|(_, name, _)| *name == text);
        row.map(|(fault, _, _)| Self::Transport(*fault))
            .ok_or_else(|| BackendFaultError::Fault(text.to_owned()))
    }
}

/// A fault for some of the requests.
///
/// Its text is `NAME[=OCCURRENCE][@PATH]`. `NAME` is a fault; `OCCURRENCE` is a share such as `0.2` or `20%`, or
/// `first:3`, `after:3`, `every:3`; only requests whose path begins with `PATH` count.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BackendFaultRule {
    /// The fault.
    pub fault: BackendFault,
    /// Which of the requests get it.
    pub occurrence: Occurrence,
    /// Beginning of the paths that count.
    pub path: Option<String>,
}

impl BackendFaultRule {
    /// Gives the fault to every request.
    #[must_use]
    pub const fn new(fault: BackendFault) -> Self {
        Self {
            fault,
            occurrence: Occurrence::Share(1.0),
            path: None,
        }
    }

    /// Sets which of the requests get the fault.
    #[must_use]
    pub const fn occurring(mut self, occurrence: Occurrence) -> Self {
        self.occurrence = occurrence;
        self
    }

    /// Restricts the rule to paths that begin with `path`.
    #[must_use]
    pub fn of_path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    fn matches(&self, path: &str) -> bool {
        let wanted = self.path.as_deref();
        wanted.is_none_or(|wanted| path.starts_with(wanted))
    }
}

impl FromStr for BackendFaultRule {
    type Err = BackendFaultError;

    fn from_str(text: &str) -> Result<Self, BackendFaultError> {
        let (text, path) = match text.split_once('@') {
            Some((_, path)) if !path.starts_with('/') => {
                return Err(BackendFaultError::Path(path.to_owned()));
            }
            Some((text, path)) => (text, Some(path.to_owned())),
            None => (text, None),
        };
        let (name, occurrence) = match text.split_once('=') {
            Some((name, text)) => {
                let occurrence = Occurrence::parse(text);
                let error = || BackendFaultError::Occurrence(text.to_owned());
                (name, occurrence.ok_or_else(error)?)
            }
            None => (text, Occurrence::Share(1.0)),
        };
        Ok(Self {
            fault: name.parse()?,
            occurrence,
            path,
        })
    }
}

/// The reason that the text of a fault or its rule can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendFaultError {
    /// No fault has the name.
    #[error("there is no fault {0:?}; `--fault list` prints all names")]
    Fault(String),
    /// An `@` is not followed by a path.
    #[error("{0:?} is not a path; write it after the @ as /orders")]
    Path(String),
    /// The occurrence is neither a share nor a count.
    #[error("{0:?} is not a share; write it as 0.2, 20%, first:3, after:3 or every:3")]
    Occurrence(String),
}

/// Draws faults for requests, from rules and a seed.
#[derive(Debug)]
pub(super) struct Dice {
    /// The rules, and how many requests each has matched.
    rules: Vec<(BackendFaultRule, u32)>,
    rng: fastrand::Rng,
}

impl Dice {
    pub(super) fn new(rules: Vec<BackendFaultRule>, seed: u64) -> Self {
        let mut dice = Self {
            rules: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
        };
        dice.set_rules(rules);
        dice
    }

    /// Replaces the rules; their counts begin anew.
    pub(super) fn set_rules(&mut self, rules: Vec<BackendFaultRule>) {
        self.rules = rules.into_iter().map(|rule| (rule, 0)).collect();
    }

    /// Draws the fault of a request: that of the first rule that fires.
    pub(super) fn draw(&mut self, path: &str) -> Option<BackendFault> {
        let mut draw = self.rng.f64();
        let mut matching = self.rules.iter_mut().filter(|(rule, _)| rule.matches(path));
        matching.find_map(|(rule, seen)| {
            *seen = seen.saturating_add(1);
            let fires = rule.occurrence.fires(*seen, &mut draw);
            fires.then_some(rule.fault)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> BackendFaultRule {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_has_a_fault_an_occurrence_and_a_path() {
        let close = BackendFault::Transport(TransportFault::Close);
        assert_eq!(rule("close"), BackendFaultRule::new(close));
        let full = BackendFaultRule::new(BackendFault::Status(503));
        let full = full.occurring(Occurrence::First(3)).of_path("/a@b=c");
        assert_eq!(rule("503=first:3@/a@b=c"), full);
        for (fault, name, _) in FaultGroup::Transport.faults() {
            assert_eq!(rule(name).fault.to_string(), fault.to_string());
        }
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_named() {
        for (text, part) in [
            ("quota", "no fault \"quota\""),
            ("200", "no fault \"200\""),
            ("close@orders", "\"orders\" is not a path"),
            ("close=2", "\"2\" is not a share"),
            ("close=", "\"\" is not a share"),
        ] {
            let error = text.parse::<BackendFaultRule>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn rules_count_their_own_requests_and_shares_add_up() {
        let rules = ["404=first:1@/b", "500=every:2@/a"].map(rule);
        let mut dice = Dice::new(rules.to_vec(), 0);
        let drawn = ["/a", "/b", "/a", "/b"].map(|path| {
            let fault = dice.draw(path);
            fault.map_or(String::new(), |fault| fault.to_string())
        });
        assert_eq!(drawn, ["", "404", "500", ""]);

        let rules = ["500=20%", "close=0.3"].map(rule);
        let mut dice = Dice::new(rules.to_vec(), 1);
        let drawn: Vec<_> = (0..10_000).map(|_| dice.draw("/")).collect();
        let count = |of| drawn.iter().filter(|fault| **fault == of).count();
        assert!((1_850..2_150).contains(&count(Some(BackendFault::Status(500)))));
        assert!((4_850..5_150).contains(&count(None)));
        let mut again = Dice::new(["500=20%", "close=0.3"].map(rule).to_vec(), 1);
        assert!(drawn.iter().all(|fault| *fault == again.draw("/")));
    }
}

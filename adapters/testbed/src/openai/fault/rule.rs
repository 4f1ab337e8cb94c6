//! Rules that say which calls get which fault.
//!
//! Invariant: each call takes the same number of draws from the seed, whatever the rules are. So the same seed and
//! order of calls give the same faults, and a rule that is added does not change the latencies.

use super::{Fault, FaultGroup, UnknownFault};
use crate::occurrence::Occurrence;
use crate::openai::request::ApiRequest;
use crate::report::masked;
use core::fmt;
use core::str::FromStr;

/// Faults for some of the calls.
///
/// Its text is `NAME[=OCCURRENCE][@key=TAIL][@model=MODEL]`. `NAME` is a fault, a [`FaultGroup`], or `any`;
/// `OCCURRENCE` is a share such as `0.2` or `20%`, or `first:3`, `after:3`, `every:3`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct FaultRule {
    /// Faults to choose from; each is as likely as the others that make sense for a call.
    pub faults: Vec<Fault>,
    /// Which of the calls get one.
    pub occurrence: Occurrence,
    /// Only calls whose key ends with this.
    pub key: Option<String>,
    /// Only calls for this model.
    pub model: Option<String>,
}

impl FaultRule {
    /// Gives the fault to every call.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            faults: vec![fault],
            occurrence: Occurrence::Share(1.0),
            key: None,
            model: None,
        }
    }

    /// Sets which of the calls get the fault.
    #[must_use]
    pub const fn occurring(mut self, occurrence: Occurrence) -> Self {
        self.occurrence = occurrence;
        self
    }

    /// Restricts the rule to calls whose key ends with `tail`.
    #[must_use]
    pub fn of_key(mut self, tail: impl Into<String>) -> Self {
        self.key = Some(tail.into());
        self
    }

    /// Restricts the rule to calls for `model`.
    #[must_use]
    pub fn of_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    fn matches(&self, key: &str, request: &ApiRequest) -> bool {
        let is = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(test)
        };
        is(&self.key, &|tail| key.ends_with(tail)) && is(&self.model, &|name| request.model == name)
    }

    /// Returns the faults that make sense for a call.
    fn candidates(&self, request: &ApiRequest) -> Vec<Fault> {
        let faults = self.faults.iter().copied();
        faults.filter(|fault| fault.applies_to(request)).collect()
    }
}

impl fmt::Debug for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.faults.iter().map(ToString::to_string).collect();
        f.debug_struct("FaultRule")
            .field("faults", &names)
            .field("occurrence", &self.occurrence)
            .field("key", &self.key.as_deref().map(masked))
            .field("model", &self.model)
            .finish()
    }
}

impl FromStr for FaultRule {
    type Err = FaultRuleError;

    fn from_str(text: &str) -> Result<Self, FaultRuleError> {
        let (text, selectors) = split_selectors(text);
        let (mut key, mut model) = (None, None);
        for selector in selectors {
            match selector.split_once('=') {
                Some(("key", tail)) if !tail.is_empty() => key = Some(tail.to_owned()),
                Some(("model", name)) if !name.is_empty() => model = Some(name.to_owned()),
                Some(_) | None => return Err(FaultRuleError::Selector(selector.to_owned())),
            }
        }
        let (name, occurrence) = match text.split_once('=') {
            Some((name, text)) => {
                let occurrence = Occurrence::parse(text);
                let error = || FaultRuleError::Occurrence(text.to_owned());
                (name, occurrence.ok_or_else(error)?)
            }
            None => (text, Occurrence::Share(1.0)),
        };
        let group = FaultGroup::ALL
            .into_iter()
            .find(|group| group.name() == name);
        let faults = match group {
            Some(group) => group
                .faults()
                .into_iter()
                .map(|(fault, _, _)| fault)
                .collect(),
            None if name == "any" => Fault::all(),
            None => vec![name.parse()?],
        };
        Ok(Self {
            faults,
            occurrence,
            key,
            model,
        })
    }
}

/// Splits a rule's text at each `@` that a selector follows; a model's own `@` is part of its name.
fn split_selectors(text: &str) -> (&str, Vec<&str>) {
    let is_selector = |rest: &str| rest.starts_with("key=") || rest.starts_with("model=");
    let mut starts: Vec<_> = text
        .match_indices('@')
        .map(|(at, _)| at)
        .filter(|at| is_selector(&text[at + 1..]))
        .collect();
    let head = starts
        .first()
        .copied()
        .or_else(|| text.find('@'))
        .unwrap_or(text.len());
    if starts.is_empty() && head < text.len() {
        starts.push(head);
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let selectors = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &text[start + 1..end]);
    (&text[..head], selectors.collect())
}

/// The reason that a rule's text can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultRuleError {
    /// No fault or group has the name.
    #[error(transparent)]
    Fault(#[from] UnknownFault),
    /// An `@` is followed by neither `key=TAIL` nor `model=NAME`.
    #[error("{0:?} selects nothing; write @key=TAIL or @model=NAME")]
    Selector(String),
    /// The occurrence is neither a share nor a count.
    #[error("{0:?} is not a share; write it as 0.2, 20%, first:3, after:3 or every:3")]
    Occurrence(String),
}

/// Draws faults for calls, from rules and a seed.
#[derive(Debug)]
pub(in crate::openai) struct Dice {
    rules: Vec<(FaultRule, u32)>,
    rng: fastrand::Rng,
}

impl Dice {
    pub(in crate::openai) fn new(rules: Vec<FaultRule>, seed: u64) -> Self {
        let mut dice = Self {
            rules: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
        };
        dice.set_rules(rules);
        dice
    }

    /// Replaces the rules; their counts begin anew.
    pub(in crate::openai) fn set_rules(&mut self, rules: Vec<FaultRule>) {
        self.rules = rules.into_iter().map(|rule| (rule, 0)).collect();
    }

    /// Draws the fault of a call: that of the first rule that fires.
    ///
    /// The shares of the rules that match a call add up, as the call has one draw for all of them.
    pub(in crate::openai) fn draw(&mut self, key: &str, request: &ApiRequest) -> Option<Fault> {
        let (mut draw, pick) = (self.rng.f64(), self.rng.u64(..));
        let mut drawn = None;
        for (rule, seen) in &mut self.rules {
            if drawn.is_some() || !rule.matches(key, request) {
                continue;
            }
            let candidates = rule.candidates(request);
            if candidates.is_empty() {
                continue;
            }
            *seen = seen.saturating_add(1);
            if rule.occurrence.fires(*seen, &mut draw) {
                drawn = Some(candidates[(pick % candidates.len() as u64) as usize]);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KeyFault, OverloadFault, ShapeFault, TransportFault};
    use super::*;
    use crate::openai::request::Api;
    use core::num::NonZeroU32;

    fn rule(text: &str) -> FaultRule {
        text.parse().unwrap()
    }

    fn request(model: &str) -> ApiRequest {
        let mut request = ApiRequest::empty(Api::Chat);
        model.clone_into(&mut request.model);
        request
    }

    #[test]
    fn a_rule_has_a_name_an_occurrence_and_selectors() {
        let plain = rule("503-nginx");
        assert_eq!(
            plain,
            FaultRule::new(Fault::Overload(OverloadFault::UnavailableNginx))
        );
        let full = rule("quota=20%@model=claude@v1@key=0003");
        assert_eq!(full.faults, [Fault::Key(KeyFault::Quota)]);
        assert_eq!(full.occurrence, Occurrence::Share(0.2));
        assert_eq!(full.model.as_deref(), Some("claude@v1"));
        assert_eq!(full.key.as_deref(), Some("0003"));
        assert_eq!(rule("quota@key=3@model=m"), rule("quota@model=m@key=3"));
        assert_eq!(rule("reset=first:3").occurrence, Occurrence::First(3));
        assert_eq!(rule("reset=after:2").occurrence, Occurrence::After(2));
        let every = NonZeroU32::new(4).map(Occurrence::Every);
        assert_eq!(Some(rule("reset=every:4").occurrence), every);
        assert_eq!(rule("529=0.5").faults, [Fault::Status(529)]);
        assert_eq!(rule("any").faults, Fault::all());
        assert!(
            rule("shape")
                .faults
                .contains(&Fault::Shape(ShapeFault::ContentNull))
        );
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_named() {
        let error = |text: &str| text.parse::<FaultRule>().unwrap_err().to_string();
        assert!(error("nothing=0.1").contains("no fault \"nothing\""));
        for text in [
            "reset=",
            "reset=2",
            "reset=-1%",
            "reset=every:0",
            "reset=last:1",
            "reset=NaN",
        ] {
            assert!(error(text).contains("is not a share"), "{text}");
        }
        for selector in ["region=eu", "key=", "model="] {
            let shown = error(&format!("reset@{selector}"));
            assert!(shown.starts_with(&format!("{selector:?} selects nothing")));
        }
    }

    #[test]
    fn the_debug_text_shows_no_whole_key() {
        let shown = format!("{:?}", rule("reset@key=sk-testbed-0001"));
        assert!(
            shown.contains("…0001") && !shown.contains("testbed"),
            "{shown}"
        );
    }

    #[test]
    fn shares_add_up_and_the_seed_determines_the_faults() {
        let faults = |rules: &[&str], seed| {
            let rules = rules.iter().map(|text| rule(text)).collect();
            let mut dice = Dice::new(rules, seed);
            let calls = (0..10_000).map(|_| dice.draw("k", &request("m")));
            calls.collect::<Vec<_>>()
        };
        let drawn = faults(&["reset=0.25", "quota=25%@model=m", "close@model=other"], 1);
        for fault in [
            Fault::Transport(TransportFault::Reset),
            Fault::Key(KeyFault::Quota),
        ] {
            let count = drawn.iter().filter(|of| **of == Some(fault)).count();
            assert!((2_300..2_700).contains(&count), "{fault}: {count}");
        }
        assert!(!drawn.contains(&Some(Fault::Transport(TransportFault::Close))));
        assert_eq!(
            drawn,
            faults(&["reset=0.25", "quota=25%", "close@key=other"], 1)
        );
        assert_ne!(drawn, faults(&["reset=0.25", "quota=25%"], 2));
    }

    #[test]
    fn counted_rules_count_their_own_calls_only() {
        let rules = [
            "404=first:1@key=b",
            "500=every:2@key=a",
            "503=after:1@key=b",
        ];
        let mut dice = Dice::new(rules.map(rule).to_vec(), 0);
        let drawn = ["a", "b", "a", "b", "b", "a", "a"].map(|key| {
            dice.draw(key, &request("m"))
                .map_or(String::new(), |of| of.to_string())
        });
        assert_eq!(drawn, ["", "404", "500", "", "503", "", "500"]);
    }

    #[test]
    fn a_group_gives_a_call_only_what_makes_sense_for_it() {
        let mut dice = Dice::new(vec![rule("any")], 3);
        let embeddings = ApiRequest::empty(Api::Embeddings);
        for _ in 0..2_000 {
            let fault = dice.draw("k", &embeddings).unwrap();
            assert!(fault.applies_to(&embeddings), "{fault}");
        }
        let mut dice = Dice::new(vec![rule("stream")], 3);
        assert_eq!(dice.draw("k", &embeddings), None);
    }
}

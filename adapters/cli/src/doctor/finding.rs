//! Findings: a line each for people, or an object for programs.

use crate::{CliError, print_out};
use core::fmt::Display;
use serde_json::json;
use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Debug)]
struct Finding {
    check: &'static str,
    level: Level,
    text: String,
}

/// All findings so far; people see each at once.
#[derive(Debug)]
pub(super) struct Findings {
    all: Vec<Finding>,
    is_json: bool,
}

impl Findings {
    pub(super) const fn new(is_json: bool) -> Self {
        Self {
            all: Vec::new(),
            is_json,
        }
    }

    pub(super) fn ok(&mut self, check: &'static str, text: impl Display) {
        self.add(check, Level::Ok, &text);
    }

    /// Adds something that a gateway can work with, and how to mend it.
    pub(super) fn warning(&mut self, check: &'static str, text: impl Display) {
        self.add(check, Level::Warning, &text);
    }

    /// Adds something that a gateway can't work with, or that is not safe, and how to mend it.
    pub(super) fn error(&mut self, check: &'static str, text: impl Display) {
        self.add(check, Level::Error, &text);
    }

    fn add(&mut self, check: &'static str, level: Level, text: &dyn Display) {
        let text = text.to_string();
        if !self.is_json {
            // A text of several lines stays in its column.
            let shown = text.replace('\n', &format!("\n{:17}", ""));
            print_out(format_args!("{:<8} {check:<7} {shown}", level.name()));
        }
        self.all.push(Finding { check, level, text });
    }

    /// Prints the sum, and returns the exit code: 1 with an error.
    pub(super) fn end(&self) -> Result<ExitCode, CliError> {
        let count = |level| self.all.iter().filter(|one| one.level == level).count();
        let (warnings, errors) = (count(Level::Warning), count(Level::Error));
        if self.is_json {
            let all = self.all.iter().map(
                |one| json!({ "check": one.check, "level": one.level.name(), "text": one.text }),
            );
            let report = json!({
                "errors": errors,
                "warnings": warnings,
                "findings": all.collect::<Vec<_>>(),
            });
            print_out(serde_json::to_string_pretty(&report)?);
        } else {
            print_out(format_args!("errors {errors}, warnings {warnings}"));
        }
        Ok(match errors {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

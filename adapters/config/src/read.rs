//! Reading settings from a file or a text.
//!
//! Invariant: with the same text and inputs, the result is the same.

use crate::error::{ConfigError, Mistake, Place, Problem, Report};
use crate::inputs::{Inputs, Process};
use crate::load::load;
use crate::resolve::resolve;
use crate::settings::Settings;
use std::path::{self, Path};

/// The name of a text that is from no file.
const UNNAMED: &str = "leasehold.toml";

impl Settings {
    /// Reads a configuration file, the files that it includes, and the files of tokens and keys that it names.
    ///
    /// Paths in a file are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`] with all mistakes that were found, each with its file, line, column and key. What depends on
    /// other keys is checked once each key by itself is right.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::read_from(path, &Process)
    }

    /// Reads a configuration file as [`read`](Self::read) does, by these inputs.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn read_from(path: &Path, inputs: &dyn Inputs) -> Result<Self, ConfigError> {
        let whole = |error: String| {
            ConfigError::one(Mistake {
                place: Place {
                    file: path.to_owned(),
                    position: None,
                },
                key: String::new(),
                problem: Problem::Unreadable(format!("cannot read it: {error}")),
            })
        };
        let text = inputs.file(path).map_err(whole)?;
        let absolute = path::absolute(path).map_err(|error| whole(error.to_string()))?;
        parse(path, absolute.parent().unwrap_or(&absolute), &text, inputs)
    }

    /// Reads the text of a configuration file in `folder`, which should be absolute; all else is read from `inputs`.
    ///
    /// ```
    /// use leasehold_config::{Given, Settings};
    /// use std::path::Path;
    ///
    /// let text = r#"
    ///     [pools.web]
    ///     kind = "http"
    ///     polcy = "ip_hash"
    ///     members = [{ url = "http://127.0.0.1:8001" }]
    ///     [[listen]]
    ///     address = "127.0.0.1:8080"
    ///     serve = "http"
    ///     pool = "web"
    /// "#;
    /// let error = Settings::parse(text, Path::new("/etc"), &Given::new()).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "leasehold.toml:4:5: pools.web.polcy: there is no such key; did you mean policy?"
    /// );
    /// let settings = Settings::parse(&text.replace("polcy", "policy"), Path::new("/etc"), &Given::new())?;
    /// assert_eq!(settings.pools[0].members[0].name, "127.0.0.1:8001");
    /// # Ok::<(), leasehold_config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn parse(text: &str, folder: &Path, inputs: &dyn Inputs) -> Result<Self, ConfigError> {
        parse(Path::new(UNNAMED), folder, text, inputs)
    }
}

fn parse(
    name: &Path,
    folder: &Path,
    text: &str,
    inputs: &dyn Inputs,
) -> Result<Settings, ConfigError> {
    let mut report = Report::default();
    let files = load(name, folder, text, inputs, &mut report);
    let mut report = report.checked()?;
    let settings = resolve(files, inputs, &mut report);
    report.checked()?;
    Ok(settings)
}

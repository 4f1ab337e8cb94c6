//! Reads a file and all files that it includes.
//!
//! Invariant: no file is read twice, so that cycles end, and there are at most [`MAX_FILES`].

use crate::check::check;
use crate::error::{Mistake, Place, Problem, Report};
use crate::file::{ConfigFile, Text};
use crate::inputs::Inputs;
use crate::schema::SCHEMA;
use crate::source::{At, Source};
use crate::substitute::substitute;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// The bound on files of one configuration.
pub const MAX_FILES: usize = 256;

/// The key of included files.
const INCLUDE: &str = "include";

/// A file that was read, without mistakes of its own.
#[derive(Debug)]
pub(crate) struct LoadedFile {
    pub(crate) source: Source,
    pub(crate) content: ConfigFile,
}

/// Reads a text as the file `name`, and the files that it includes; each file is followed by those it includes.
pub(crate) fn load(
    name: &Path,
    folder: &Path,
    text: &str,
    inputs: &dyn Inputs,
    report: &mut Report,
) -> Vec<LoadedFile> {
    let place = Place {
        file: name.to_owned(),
        position: None,
    };
    let path = folder.join(name.file_name().unwrap_or_default());
    let mut loading = Loading {
        inputs,
        report,
        places: HashMap::from([(inputs.identity(&path), place)]),
        files: Vec::new(),
        // A stack, so that the files of an include come before those of the next.
        waiting: Vec::new(),
    };
    loading.file(name, folder, text);
    while let Some(included) = loading.waiting.pop() {
        loading.read(included);
    }
    loading.files
}

struct Loading<'a> {
    inputs: &'a dyn Inputs,
    report: &'a mut Report,
    /// The places that name the files, by identity.
    places: HashMap<PathBuf, Place>,
    files: Vec<LoadedFile>,
    waiting: Vec<Included>,
}

/// A file to read.
#[derive(Debug)]
struct Included {
    path: PathBuf,
    /// The place that names it.
    place: Place,
}

impl Loading<'_> {
    fn read(&mut self, Included { path, place }: Included) {
        match self.inputs.file(&path) {
            Ok(text) => self.file(&path, path.parent().unwrap_or(Path::new("")), &text),
            Err(error) => self.report.add(Mistake {
                place,
                key: INCLUDE.to_owned(),
                problem: Problem::Unreadable(format!("cannot read {}: {error}", path.display())),
            }),
        }
    }

    fn file(&mut self, name: &Path, folder: &Path, text: &str) {
        let Some((source, content)) = parse(name, folder, text, self.inputs, self.report) else {
            return;
        };
        let before = self.waiting.len();
        for (index, Text(pattern)) in content.include.iter().enumerate() {
            let include = At::Root.key(INCLUDE);
            self.include(&source, &include.item(index), &pattern.0);
        }
        self.waiting[before..].reverse();
        self.files.push(LoadedFile { source, content });
    }

    /// Adds the files of a path or pattern to those to read.
    fn include(&mut self, source: &Source, at: &At<'_>, pattern: &Path) {
        let written = pattern.to_string_lossy();
        let paths = if written.contains(['*', '?', '[']) {
            let folder = glob::Pattern::escape(&source.folder.to_string_lossy());
            let pattern = Path::new(&folder).join(pattern);
            self.inputs.matching(&pattern.to_string_lossy())
        } else {
            Ok(vec![source.folder.join(pattern)])
        };
        let paths = paths.unwrap_or_else(|error| {
            let problem = Problem::Unreadable(format!("cannot look for files: {error}"));
            self.report.add(source.mistake_at(at, problem));
            Vec::new()
        });
        for path in paths {
            let identity = self.inputs.identity(&path);
            let problem = match self.places.get(&identity) {
                Some(place) => Problem::IncludedTwice(place.clone()),
                None if self.places.len() >= MAX_FILES => Problem::TooManyFiles,
                None => {
                    let place = source.place_at(at);
                    self.places.insert(identity, place.clone());
                    self.waiting.push(Included { path, place });
                    continue;
                }
            };
            self.report.add(source.mistake_at(at, problem));
        }
    }
}

/// Reads a text; `None` if it has mistakes, which are in the report then.
fn parse(
    name: &Path,
    folder: &Path,
    text: &str,
    inputs: &dyn Inputs,
    report: &mut Report,
) -> Option<(Source, ConfigFile)> {
    let mut source = Source::new(name, folder, text);
    let before = report.len();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let byte = error.span().map_or(text.len(), |span| span.start);
        let problem = Problem::Syntax(error.message().to_owned());
        report.add(source.mistake(byte, "", problem));
    }
    let mut root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    if report.len() == before {
        substitute(&mut root, &source, inputs, report);
    }
    if report.len() == before {
        check(&root, &source, &SCHEMA, report);
    }
    if report.len() > before {
        return None;
    }
    source.set_places(&root);
    match ConfigFile::deserialize(ValueDeserializer::from(root)) {
        Ok(content) => Some((source, content)),
        Err(error) => {
            let byte = error.span().map_or(0, |span| span.start);
            let problem = Problem::Invalid(error.message().to_owned());
            report.add(source.mistake(byte, "", problem));
            None
        }
    }
}

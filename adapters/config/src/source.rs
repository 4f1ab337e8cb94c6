//! A file's text with the places of all its keys and values.
//!
//! Invariant: every place is within the text.

use crate::error::{Mistake, Place, Problem};
use core::fmt;
use core::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeValue;

/// A value of a file, with its place.
pub(crate) type Node<'t> = Spanned<DeValue<'t>>;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Source {
    /// The file, as messages name it.
    pub(crate) path: PathBuf,
    /// The folder that paths in the file are relative to.
    pub(crate) folder: PathBuf,
    text: String,
    places: Places,
}

/// The places of a value and of all values in it.
#[derive(Debug, Default)]
struct Places {
    /// The byte at which the value begins.
    byte: usize,
    keys: Vec<(String, Self)>,
    items: Vec<Self>,
}

impl Places {
    /// The depth is bounded by the parser's.
    fn of(node: &Node<'_>) -> Self {
        let (table, array) = (node.get_ref().as_table(), node.get_ref().as_array());
        let keys = table.into_iter().flatten();
        Self {
            byte: node.span().start,
            keys: keys
                .map(|(key, value)| (key.get_ref().to_string(), Self::of(value)))
                .collect(),
            items: array.into_iter().flatten().map(Self::of).collect(),
        }
    }

    fn key(&self, key: &str) -> Option<&Self> {
        self.keys
            .iter()
            .find_map(|(name, value)| (name == key).then_some(value))
    }
}

/// A path of keys and indexes to a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'a> {
    Root,
    Key(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl<'a> At<'a> {
    pub(crate) const fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    pub(crate) const fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }

    /// Returns the value, or the innermost of those on the way to it that are there; and whether it is there.
    fn find<'p>(&self, root: &'p Places) -> (&'p Places, bool) {
        let (parent, found) = match self {
            Self::Root => return (root, true),
            Self::Key(parent, key) => {
                let (parent, is_there) = parent.find(root);
                (parent, parent.key(key).filter(|_| is_there))
            }
            Self::Item(parent, index) => {
                let (parent, is_there) = parent.find(root);
                (parent, parent.items.get(*index).filter(|_| is_there))
            }
        };
        found.map_or((parent, false), |found| (found, true))
    }
}

/// The keys on the path; a message has the line, so indexes are left out.
impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(parent, key) => {
                parent.fmt(f)?;
                let dot = if parent.is_root() { "" } else { "." };
                write!(f, "{dot}{}", key.escape_debug())
            }
            Self::Item(parent, _) => parent.fmt(f),
        }
    }
}

impl At<'_> {
    fn is_root(&self) -> bool {
        match self {
            Self::Root => true,
            Self::Key(..) => false,
            Self::Item(parent, _) => parent.is_root(),
        }
    }
}

impl Source {
    pub(crate) fn new(path: &Path, folder: &Path, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            folder: folder.to_owned(),
            text: text.to_owned(),
            places: Places::default(),
        }
    }

    /// Keeps the places of all values of the text.
    pub(crate) fn set_places(&mut self, root: &Node<'_>) {
        self.places = Places::of(root);
    }

    /// Makes a mistake at a value, or at the table that lacks it.
    pub(crate) fn mistake_at(&self, at: &At<'_>, problem: Problem) -> Mistake {
        self.mistake(at.find(&self.places).0.byte, at, problem)
    }

    /// Makes a mistake at a byte of the text.
    pub(crate) fn mistake(&self, byte: usize, key: impl ToString, problem: Problem) -> Mistake {
        Mistake {
            place: self.place(byte),
            key: key.to_string(),
            problem,
        }
    }

    /// Returns the place of a value, or of the table that lacks it.
    pub(crate) fn place_at(&self, at: &At<'_>) -> Place {
        self.place(at.find(&self.places).0.byte)
    }

    fn place(&self, byte: usize) -> Place {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line = before.matches('\n').count().saturating_add(1);
        let start = before
            .rfind('\n')
            .map_or(0, |newline| newline.saturating_add(1));
        let column = before[start..].chars().count().saturating_add(1);
        Place {
            file: self.path.clone(),
            position: Some((line, column)),
        }
    }

    /// Returns the byte of the text at which a byte of a string's value is, or at which the string begins.
    ///
    /// A string with escapes or variables is not in the text as its value is.
    pub(crate) fn byte_in(&self, span: Range<usize>, value: &str, at: usize) -> usize {
        let written = self.text.get(span.clone()).unwrap_or_default();
        let quotes = ["\"\"\"", "'''", "\"", "'"];
        let quote = quotes.into_iter().find(|quote| written.starts_with(quote));
        let inside = quote.map_or("", |quote| &written[quote.len()..]);
        match quote {
            Some(quote) if at > 0 && inside.starts_with(value) => {
                span.start.saturating_add(quote.len()).saturating_add(at)
            }
            Some(_) | None => span.start,
        }
    }

    /// Returns the keys of a table in the order of the file.
    pub(crate) fn keys(&self, at: &At<'_>) -> Vec<String> {
        let (places, is_there) = at.find(&self.places);
        let keys = places.keys.iter().filter(|_| is_there);
        keys.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    fn source(text: &str) -> (Source, Node<'_>) {
        let root = DeTable::parse(text).unwrap();
        let root = Spanned::new(root.span(), DeValue::Table(root.into_inner()));
        let mut source = Source::new(Path::new("f"), Path::new("/"), text);
        source.set_places(&root);
        (source, root)
    }

    #[test]
    fn a_value_has_its_place_and_a_missing_one_that_of_its_table() {
        let (source, _) = source("a = 1\n[b]\n\n[[b.c]]\nd = 1\n[[b.c]]\n  \"é\" = 2\n");
        let place = |at: &At<'_>| source.place_at(at).position.unwrap();
        assert_eq!(place(&At::Root), (1, 1));
        assert_eq!(place(&At::Root.key("a")), (1, 5));
        let b = At::Root.key("b");
        assert_eq!(place(&b), (2, 1));
        assert_eq!(place(&b.key("x").key("y")), (2, 1));
        let c = b.key("c");
        let second = c.item(1);
        assert_eq!(place(&second), (6, 1));
        assert_eq!(place(&second.key("é")), (7, 9));
        assert_eq!(place(&second.key("d")), (6, 1));
        assert_eq!(second.key("d").to_string(), "b.c.d");
    }

    #[test]
    fn a_byte_of_a_plain_string_is_found() {
        let (source, root) = source("a = 'xyz'\nb = \"\"\"xyz\"\"\"\nc = \"x\\u0079z\"\n");
        for (key, byte) in [("a", 7), ("b", 19), ("c", 28)] {
            let span = root.get_ref().get(key).unwrap().span();
            assert_eq!(source.byte_in(span, "xyz", 2), byte, "{key}");
        }
    }
}

//! The items of an input, read one by one: memory holds where each line is, and a hash of its id.
//!
//! Invariant: every item that is counted was read and checked once, so that an input that is wrong is refused before any
//! call is made.

use crate::bits::Bits;
use crate::error::BatchError;
use crate::input::{ANSWERS, Input, Item, REVIEWS, is_standard};
use crate::lines::Span;
use crate::objects::{ObjectLine, ObjectLines, parse_object};
use crate::shard::Shard;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

/// The items of an input.
///
/// Each is read again from the file where it is needed: 40 bytes of memory an item. Clones share the file.
#[derive(Clone, Debug, Default)]
pub struct Items {
    source: Option<Arc<Source>>,
    places: Vec<Span>,
    /// Hashes of the ids, sorted, with the index of each.
    by_id: Vec<(IdHash, u32)>,
    /// Models that the items name themselves, each once.
    models: Vec<String>,
    /// By item, if the items name their models: its model in `models`.
    own_models: Vec<u32>,
    /// Items that come with answers.
    answered: Bits,
    bad_lines: Vec<String>,
}

/// The file, and how its lines are read.
#[derive(Debug)]
struct Source {
    input: Input,
    file: File,
}

/// A hash of an id: the first 128 bits of its SHA-256, so that no two ids share one.
type IdHash = [u8; 16];

fn hash_of(id: &str) -> IdHash {
    let digest = Sha256::digest(id.as_bytes());
    let mut hash = IdHash::default();
    hash.copy_from_slice(&digest[..16]);
    hash
}

impl Items {
    /// Reads and checks all items, one JSON object per line; blank lines are skipped. O(n log n) for n lines.
    ///
    /// What is not a regular file is copied to one without a name in the folder of temporary files.
    ///
    /// # Errors
    /// If the input can't be read or has no item, a line isn't a JSON object or lacks an id or what is asked, two lines
    /// have the same id, or lines of OpenAI's Batch API are among others. With [`Input::skip_bad_lines`], such lines are
    /// [left out](Self::bad_lines).
    pub fn read(input: Input) -> Result<Self, BatchError> {
        let file = open(&input)?;
        let reader = file
            .try_clone()
            .map_err(|source| unreadable(&input, source));
        let mut objects = ObjectLines::new(&input.name(), reader?);
        let mut items = Self::default();
        let mut lines = Vec::new();
        let mut numbers: HashMap<String, u32> = HashMap::new();
        while let Some(object) = objects.next() {
            let checked = object.and_then(|object| {
                let number = object.number;
                let checked = items.add(object, &input, &mut numbers);
                checked.map_err(|problem| objects.invalid(number, problem))
            });
            match checked {
                Ok(number) => lines.push(number),
                Err(error @ BatchError::InvalidLine { .. }) if input.skip_bad_lines => {
                    items.bad_lines.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        items.index_ids(&lines, &objects, input.skip_bad_lines)?;
        if items.is_empty() {
            let problem = match items.bad_lines.first() {
                None => "the file has no items; write one JSON object per line".to_owned(),
                Some(first) => format!("no line is an item; the first: {first}"),
            };
            return Err(objects.invalid_file(&problem));
        }
        items.source = Some(Arc::new(Source { input, file }));
        Ok(items)
    }

    /// Adds the item of a line, and returns the line's number.
    fn add(
        &mut self,
        line: ObjectLine,
        input: &Input,
        numbers: &mut HashMap<String, u32>,
    ) -> Result<usize, String> {
        let item = Item::new(line.fields, input)?;
        let is_first = self.places.is_empty();
        if !is_first && item.is_call() == self.own_models.is_empty() {
            return Err(
                "lines with a `custom_id` (OpenAI's Batch API) and others can't be mixed"
                    .to_owned(),
            );
        }
        let index = u32::try_from(self.places.len());
        let index = index.map_err(|_| "the file has more than 4,294,967,295 items".to_owned())?;
        if let Some(model) = item.own_model() {
            let number = numbers.entry(model.to_owned()).or_insert_with(|| {
                self.models.push(model.to_owned());
                u32::try_from(self.models.len().saturating_sub(1)).unwrap_or(u32::MAX)
            });
            self.own_models.push(*number);
        }
        if [ANSWERS, REVIEWS]
            .iter()
            .any(|name| item.fields.contains_key(*name))
        {
            self.answered.insert(self.places.len());
        }
        self.by_id.push((hash_of(&item.id), index));
        self.places.push(line.span);
        Ok(line.number)
    }

    /// Sorts the hashes of the ids, and refuses or leaves out an item whose id was used before.
    fn index_ids(
        &mut self,
        lines: &[usize],
        objects: &ObjectLines,
        leaves_out: bool,
    ) -> Result<(), BatchError> {
        self.by_id.sort_unstable();
        let line = |index: u32| lines.get(index as usize).copied().unwrap_or_default();
        let twice = self.by_id.windows(2).filter(|pair| pair[0].0 == pair[1].0);
        let mut twice: Vec<_> = twice
            .map(|pair| (line(pair[1].1), line(pair[0].1)))
            .collect();
        twice.sort_unstable();
        let errors = twice.iter().map(|(number, first)| {
            let problem = format!("the id is already used on line {first}");
            objects.invalid(*number, problem)
        });
        if !leaves_out {
            return errors.take(1).try_for_each(Err);
        }
        self.bad_lines.extend(errors.map(|error| error.to_string()));
        let repeated: Vec<usize> = twice.into_iter().map(|(number, _)| number).collect();
        if !repeated.is_empty() {
            let kept = |index: usize| repeated.binary_search(&lines[index]).is_err();
            self.keep(kept);
        }
        Ok(())
    }

    /// Keeps the items whose index is wanted.
    fn keep(&mut self, is_wanted: impl Fn(usize) -> bool) {
        let mut new_index = Vec::with_capacity(self.places.len());
        let mut count = 0_u32;
        for index in 0..self.places.len() {
            let wanted = is_wanted(index);
            new_index.push(wanted.then_some(count));
            count = count.saturating_add(u32::from(wanted));
        }
        self.answered = self.answered.renumbered(&new_index);
        let mut wanted = new_index.iter().map(Option::is_some);
        self.places.retain(|_| wanted.next().unwrap_or(false));
        let mut wanted = new_index.iter().map(Option::is_some);
        self.own_models.retain(|_| wanted.next().unwrap_or(false));
        self.by_id.retain_mut(|(_, index)| {
            let new = new_index.get(*index as usize).copied().flatten();
            *index = new.unwrap_or(*index);
            new.is_some()
        });
    }

    /// Keeps the items of a shard, in their order.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.keep(|index| shard.has(index));
        self
    }

    /// The number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether the items are lines of OpenAI's Batch API, which name their models themselves.
    #[must_use]
    pub fn are_calls(&self) -> bool {
        !self.own_models.is_empty()
    }

    /// The input, as reports name it.
    pub(crate) fn name(&self) -> String {
        let source = self.source.as_ref();
        source.map_or_else(String::new, |source| {
            source.input.name().display().to_string()
        })
    }

    /// Lines that were left out, and why.
    #[must_use]
    pub fn bad_lines(&self) -> &[String] {
        &self.bad_lines
    }

    /// The models that the items name themselves, each once.
    pub(crate) fn own_models(&self) -> &[String] {
        &self.models
    }

    /// The model that an item names itself, as an index of all that do.
    pub(crate) fn own_model(&self, index: usize) -> Option<usize> {
        Some(*self.own_models.get(index)? as usize)
    }

    /// Whether an item comes with answers.
    pub(crate) fn has_answers(&self, index: usize) -> bool {
        self.answered.contains(index)
    }

    /// Reads an item again.
    pub(crate) fn item(&self, index: usize) -> Result<Item, BatchError> {
        let changed = |path: PathBuf| BatchError::InvalidFile {
            path,
            problem:
                "another program has changed the file during the run; run the same command again"
                    .to_owned(),
        };
        let (Some(source), Some(place)) = (&self.source, self.places.get(index)) else {
            return Err(changed(PathBuf::new()));
        };
        let bytes = place.read(&source.file);
        let bytes = bytes.map_err(|error| unreadable(&source.input, error))?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        let fields = parse_object(text.trim_end_matches('\n')).ok().flatten();
        let item = fields.and_then(|fields| Item::new(fields, &source.input).ok());
        item.filter(|item| self.index_of(&item.id) == Some(index))
            .ok_or_else(|| changed(source.input.name()))
    }

    /// Finds the item of an id. O(log n).
    pub(crate) fn index_of(&self, id: &str) -> Option<usize> {
        let hash = hash_of(id);
        let found = self.by_id.binary_search_by_key(&hash, |(hash, _)| *hash);
        Some(self.by_id.get(found.ok()?)?.1 as usize)
    }
}

/// Opens the input as a file that can be read at any place.
fn open(input: &Input) -> Result<File, BatchError> {
    let unreadable = |source| unreadable(input, source);
    let mut from: Box<dyn Read> = if is_standard(&input.path) {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&input.path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_file() {
            return Ok(file);
        }
        Box::new(file)
    };
    let mut copy = tempfile::tempfile().map_err(unreadable)?;
    io::copy(&mut from, &mut copy).map_err(unreadable)?;
    copy.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    Ok(copy)
}

fn unreadable(input: &Input, source: io::Error) -> BatchError {
    BatchError::Read {
        path: input.name(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Content, Template};
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("it can be written");
        file
    }

    fn error(text: &str) -> String {
        let file = file(text);
        let error = Items::read(Input::new(file.path()))
            .unwrap_err()
            .to_string();
        error.replace(&file.path().display().to_string(), "F")
    }

    #[test]
    fn each_invalid_line_is_reported_with_its_number() {
        let cut = error("{\"id\":1,\"prompt\":\"a\"}\n{oops\n");
        assert_eq!(cut, "F:2: not JSON at column 2: key must be a string");
        assert_eq!(error("[1]"), "F:1: not a JSON object");
        assert_eq!(
            error("\n\n{\"prompt\":\"a\"}"),
            "F:3: the item has no `id` or `input_id`"
        );
        assert!(error("{\"id\":1.5,\"prompt\":\"a\"}").contains("neither a string nor"));
        assert!(error("{\"id\":1}").contains("has no `prompt` and no `messages`"));
        assert!(error("{\"id\":1,\"prompt\":2}").contains("is not a string"));
        let answered = "{\"id\":1,\"prompt\":\"a\",\"output_pred\":\"gold\"}";
        assert_eq!(
            error(answered),
            "F:1: `output_pred` is not an object with a key for each model"
        );
        let twice = "{\"id\":\"a\",\"prompt\":\"x\"}\n{\"input_id\":\"a\",\"prompt\":\"y\"}";
        assert_eq!(error(twice), "F:2: the id is already used on line 1");
        assert!(error("\n").starts_with("F: the file has no items"));
    }

    #[test]
    fn a_line_of_openai_batch_is_a_call() {
        let line = |body: &str| {
            format!(
                "{{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{body}}}"
            )
        };
        let file = file(&line("{\"model\":\"m\",\"input\":\"x\"}"));
        let items = Items::read(Input::new(file.path())).unwrap();
        assert_eq!(items.own_models(), ["m"]);
        assert_eq!(items.own_model(0), Some(0));
        assert!(error(&line("{}")).contains("no `model`"));
        let mixed = line("{\"model\":\"m\"}") + "\n{\"id\":1,\"prompt\":\"x\"}";
        assert!(error(&mixed).contains("F:2: lines with a `custom_id`"));
    }

    #[test]
    fn messages_are_taken_as_they_are() {
        let file = file("{\"id\":1,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
        let items = Items::read(Input::new(file.path())).unwrap();
        assert!(
            matches!(&items.item(0).unwrap().content, Content::Messages(it) if it[0]["content"] == "x")
        );
        assert!(error("{\"id\":1,\"messages\":[]}").contains("at least one message"));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_a_line_that_is_not_utf8_is_reported() {
        let mut file = file("\u{feff}{\"id\":1,\"prompt\":\"a\"}\n");
        assert_eq!(Items::read(Input::new(file.path())).unwrap().len(), 1);
        file.write_all(b"{\xff}").unwrap();
        let error = Items::read(Input::new(file.path())).unwrap_err();
        assert!(
            matches!(error, BatchError::InvalidLine { line: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_template_is_filled_in_from_the_item() {
        let template = file("Is {{ a }} > {{ b.c }}?");
        let template = Template::read(template.path()).unwrap();
        let items = file("{\"id\":1,\"a\":\"2\",\"b\":{\"c\":3}}");
        let mut input = Input::new(items.path());
        input.template = Some(template);
        let items = Items::read(input).unwrap();
        assert_eq!(
            items.item(0).unwrap().content,
            Content::Prompt("Is 2 > 3?".to_owned())
        );
    }

    #[test]
    fn a_field_missing_from_an_item_is_reported_with_the_template_line() {
        let template_file = file("first\n{{ missing }}");
        let template = Template::read(template_file.path()).unwrap();
        let items = file("{\"id\":1,\"a\":2}");
        let mut input = Input::new(items.path());
        input.template = Some(template);
        let error = Items::read(input).unwrap_err().to_string();
        let place = format!("{}:2", template_file.path().display());
        assert!(
            error.contains(&place) && error.contains("no field `missing`"),
            "{error}"
        );
        let broken = file("{{ a ");
        assert!(Template::read(broken.path()).is_err());
    }
}

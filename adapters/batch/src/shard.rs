//! A share of the input, for several processes that work on one file.
//!
//! Invariant: the shards of one count have every item once.

use core::fmt;
use core::num::NonZeroUsize;
use core::str::FromStr;

/// One of several shares of an input: the items whose place modulo the number of shares is its own.
///
/// ```
/// use leasehold_batch::Shard;
///
/// let shard: Shard = "2/4".parse()?;
/// assert_eq!(shard.to_string(), "2/4");
/// assert!("0/4".parse::<Shard>().is_err() && "5/4".parse::<Shard>().is_err());
/// # Ok::<(), leasehold_batch::ParseShardError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    index: usize,
    count: NonZeroUsize,
}

/// A text that is no shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write it as NUMBER/COUNT, from 1/COUNT to COUNT/COUNT, such as 1/4")]
pub struct ParseShardError;

impl Shard {
    /// Whether the item at an index is of the shard.
    pub(crate) fn has(self, index: usize) -> bool {
        index % self.count == self.index
    }
}

impl FromStr for Shard {
    type Err = ParseShardError;

    fn from_str(text: &str) -> Result<Self, ParseShardError> {
        let (number, count) = text.split_once('/').ok_or(ParseShardError)?;
        let number: NonZeroUsize = number.parse().map_err(|_| ParseShardError)?;
        let count: NonZeroUsize = count.parse().map_err(|_| ParseShardError)?;
        if number > count {
            return Err(ParseShardError);
        }
        let index = number.get().saturating_sub(1);
        Ok(Self { index, count })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index.saturating_add(1), self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Input;
    use crate::items::Items;

    #[test]
    fn shards_have_every_item_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.jsonl");
        let lines = (0..11).map(|id| format!("{{\"id\":{id},\"prompt\":\"\"}}\n"));
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let items = Items::read(Input::new(&path)).unwrap();
        for count in 1..6 {
            let mut all = Vec::new();
            for number in 1..=count {
                let shard: Shard = format!("{number}/{count}").parse().unwrap();
                let items = items.clone().shard(shard);
                let id = |index| -> usize { items.item(index).unwrap().id.parse().unwrap() };
                let own: Vec<usize> = (0..items.len()).map(id).collect();
                assert!(own.is_sorted(), "{own:?}");
                all.extend(own);
            }
            all.sort_unstable();
            assert_eq!(all, (0..11).collect::<Vec<_>>(), "{count} shards");
        }
    }

    #[test]
    fn a_text_that_is_no_shard_is_refused() {
        for wrong in [
            "", "1", "/", "1/", "/4", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b",
        ] {
            assert_eq!(wrong.parse::<Shard>(), Err(ParseShardError), "{wrong}");
        }
    }
}

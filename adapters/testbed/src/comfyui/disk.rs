//! The files of a server: input, output, temp and the user's own, in memory.
//!
//! Invariant: all but `temp` outlive a kill; uploads are at most [`MAX_BYTES`] in sum.

use alloc::collections::BTreeMap;
use hyper::body::Bytes;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Most bytes of all uploads and files of the user.
const MAX_BYTES: usize = 512 << 20;

/// Most files that jobs write; the oldest are removed.
const MAX_MADE: usize = 100_000;

/// A directory that callers can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Folder {
    Input,
    Output,
    Temp,
}

impl Folder {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "input" => Self::Input,
            "output" => Self::Output,
            "temp" => Self::Temp,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Temp => "temp",
        }
    }
}

/// The disk is full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full;

#[derive(Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<(Folder, String), Bytes>,
    /// Files of the user, by path.
    pub(super) user: BTreeMap<String, Bytes>,
    pub(super) settings: Map<String, Value>,
    /// Number of the last file with a prefix.
    last: HashMap<(Folder, String), u64>,
    /// Written by jobs, in their order.
    made: std::collections::VecDeque<(Folder, String)>,
    stored: usize,
}

impl Disk {
    pub(super) fn get(&self, folder: Folder, path: &str) -> Option<&Bytes> {
        self.files.get(&(folder, path.to_owned()))
    }

    /// Files of the input folder that a node can choose.
    pub(super) fn input_files(&self) -> Vec<String> {
        let inputs = self
            .files
            .keys()
            .filter(|(folder, _)| *folder == Folder::Input);
        inputs.map(|(_, path)| path.clone()).collect()
    }

    /// Files that jobs have made, as a node is given them: `a.png [output]`.
    pub(super) fn made_files(&self) -> Vec<String> {
        let made = self.made.iter();
        made.map(|(folder, path)| format!("{path} [{}]", folder.name()))
            .collect()
    }

    /// Stores an upload, and returns its name: one of the same content, or else one that is free.
    pub(super) fn upload(
        &mut self,
        folder: Folder,
        subfolder: &str,
        name: &str,
        content: &[u8],
        overwrite: bool,
    ) -> Result<String, Full> {
        let (stem, end) = match name.rsplit_once('.') {
            Some((stem, end)) if !stem.is_empty() => (stem, format!(".{end}")),
            _ => (name, String::new()),
        };
        let mut free = name.to_owned();
        let mut number = 0_u64;
        if !overwrite {
            while let Some(there) = self.get(folder, &join(subfolder, &free)) {
                if *there == content {
                    return Ok(free);
                }
                number += 1;
                free = format!("{stem} ({number}){end}");
            }
        }
        self.charge(content.len())?;
        let path = (folder, join(subfolder, &free));
        self.files.insert(path, Bytes::copy_from_slice(content));
        Ok(free)
    }

    /// Stores a file of the user.
    pub(super) fn store_user(&mut self, path: &str, content: Bytes) -> Result<(), Full> {
        self.charge(content.len())?;
        self.user.insert(path.to_owned(), content);
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Full> {
        let stored = self.stored.saturating_add(bytes);
        if stored > MAX_BYTES {
            return Err(Full);
        }
        self.stored = stored;
        Ok(())
    }

    /// Writes a picture of a job under the next number, and returns its file name and subfolder.
    pub(super) fn save(
        &mut self,
        folder: Folder,
        prefix: &str,
        picture: Vec<u8>,
    ) -> (String, String) {
        let last = self.last.entry((folder, prefix.to_owned())).or_default();
        *last += 1;
        let (subfolder, stem) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let name = format!("{stem}_{last:05}_.png");
        if self.made.len() >= MAX_MADE
            && let Some(oldest) = self.made.pop_front()
        {
            self.files.remove(&oldest);
        }
        let path = (folder, join(subfolder, &name));
        self.made.push_back(path.clone());
        self.files.insert(path, picture.into());
        (name, subfolder.to_owned())
    }

    /// Removes the temporary files, as a start does.
    pub(super) fn wipe_temp(&mut self) {
        let is_kept = |folder: Folder| folder != Folder::Temp;
        self.files.retain(|(folder, _), _| is_kept(*folder));
        self.made.retain(|(folder, _)| is_kept(*folder));
        self.last.retain(|(folder, _), _| is_kept(*folder));
    }
}

/// Joins a subfolder and a file's name.
pub(super) fn join(subfolder: &str, name: &str) -> String {
    match subfolder.trim_matches('/') {
        "" => name.to_owned(),
        subfolder => format!("{subfolder}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_of_other_content_gets_another_name() {
        let mut disk = Disk::default();
        let mut upload = |content: &[u8], overwrite| {
            let name = disk.upload(Folder::Input, "", "a.png", content, overwrite);
            name.unwrap()
        };
        assert_eq!(upload(b"1", false), "a.png");
        assert_eq!(upload(b"1", false), "a.png");
        assert_eq!(upload(b"2", false), "a (1).png");
        assert_eq!(upload(b"2", false), "a (1).png");
        assert_eq!(upload(b"3", true), "a.png");
        assert_eq!(disk.input_files(), ["a (1).png", "a.png"]);
        assert!(
            disk.upload(Folder::Input, "", "b", &vec![0; MAX_BYTES], false)
                .is_err()
        );
    }

    #[test]
    fn pictures_are_numbered_by_prefix_and_temp_is_wiped() {
        let mut disk = Disk::default();
        let mut save = |folder, prefix| disk.save(folder, prefix, vec![1]).0;
        assert_eq!(save(Folder::Output, "ComfyUI"), "ComfyUI_00001_.png");
        assert_eq!(save(Folder::Output, "ComfyUI"), "ComfyUI_00002_.png");
        assert_eq!(save(Folder::Output, "sub/x"), "x_00001_.png");
        assert_eq!(save(Folder::Temp, "t"), "t_00001_.png");
        disk.wipe_temp();
        assert!(disk.get(Folder::Temp, "t_00001_.png").is_none());
        assert!(disk.get(Folder::Output, "sub/x_00001_.png").is_some());
        assert_eq!(disk.save(Folder::Temp, "t", vec![1]).0, "t_00001_.png");
    }
}

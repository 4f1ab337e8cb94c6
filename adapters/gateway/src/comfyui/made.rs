//! The files that jobs have made, and the way to one through a text.
//!
//! Invariant: each way to write a file's path that a server follows leads to the same entry here, so that none leads around
//! its owner.

use super::hub::JobId;
use super::record::Finished;
use leasehold_protocol::comfyui::map_files;
use std::collections::HashMap;

/// The folders that a server takes files from.
const FOLDERS: [&str; 3] = ["input", "output", "temp"];

/// A file on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// `input`, `output` or `temp`.
    pub(super) kind: String,
    /// The server that the path names.
    pub(super) server: Option<String>,
    pub(super) folder: String,
    pub(super) name: String,
}

/// The jobs that have made each file, the latest last.
#[derive(Debug, Default)]
pub(super) struct Made(HashMap<String, Vec<Maker>>);

/// A job that has made a file.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    pub(super) owner: u64,
    pub(super) server: String,
    pub(super) job: JobId,
}

/// The caller that a file is of.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    /// Its own, by this job.
    Own(Maker),
    /// Another one's.
    Foreign,
    /// No job that is remembered has made it.
    Unknown,
}

impl Located {
    /// Finds the file that a graph's text would be for a server, as in `a.png [output]`; `None` if it is no path of one.
    ///
    /// ComfyUI cuts the kind with the character before it, and joins the rest to that folder, whatever it is.
    pub(super) fn read(text: &str) -> Option<Self> {
        let kind = FOLDERS.into_iter().find(|kind| {
            let rest = text.strip_suffix(']');
            rest.is_some_and(|rest| rest.ends_with(&format!("[{kind}")))
        });
        let path = match kind {
            Some(kind) => {
                let rest = text.get(..text.len().saturating_sub(kind.len().saturating_add(2)))?;
                let mut letters = rest.chars();
                letters.next_back();
                letters.as_str()
            }
            None => text,
        };
        Self::at(kind.unwrap_or("input"), path)
    }

    /// Finds the file of a path below a folder of this kind; `None` if it leads out of all of them.
    pub(super) fn at(kind: &str, path: &str) -> Option<Self> {
        let is_separator = |letter: char| letter == '/' || letter == '\\';
        let mut is_from_above = path.starts_with(is_separator);
        let mut parts = if is_from_above {
            Vec::new()
        } else {
            vec![kind]
        };
        for part in path.split(is_separator) {
            match part {
                "" | "." => {}
                ".." => is_from_above |= parts.pop().is_none(),
                part => parts.push(part),
            }
        }
        if is_from_above {
            // It may lead to any of the folders.
            let is_folder = |part: &&str| FOLDERS.contains(part);
            let last = parts.iter().rposition(is_folder)?;
            parts.drain(..last);
        }
        let (kind, rest) = parts.split_first()?;
        let (name, folders) = rest.split_last()?;
        if !FOLDERS.contains(kind) {
            return None;
        }
        let (server, folders) = match folders.split_first() {
            Some((first, rest)) => match first.strip_prefix('@') {
                Some(server) => (Some(server.to_owned()), rest),
                None => (None, folders),
            },
            None => (None, folders),
        };
        Some(Self {
            kind: (*kind).to_owned(),
            server,
            folder: folders.join("/"),
            name: (*name).to_owned(),
        })
    }

    /// The folder and the name, as the server that has the file knows them.
    pub(super) fn reference(&self) -> String {
        join(&self.folder, &self.name)
    }

    /// Takes a server that there is not for a part of the folder, which it is then.
    pub(super) fn known(mut self, is_server: impl FnOnce(&str) -> bool) -> Self {
        if let Some(server) = self.server.take_if(|server| !is_server(server)) {
            let folder = core::mem::take(&mut self.folder);
            self.folder = join(&format!("@{server}"), &folder);
        }
        self
    }
}

impl Made {
    /// Adds the files of a job that has ended on a server.
    pub(super) fn add(&mut self, job: &JobId, finished: &Finished) {
        let Some(server) = &finished.server else {
            return;
        };
        for key in keys(finished) {
            self.0.entry(key).or_default().push(Maker {
                owner: finished.owner,
                server: server.clone(),
                job: job.clone(),
            });
        }
    }

    /// Forgets the files of a job.
    pub(super) fn remove(&mut self, job: &JobId, finished: &Finished) {
        for key in keys(finished) {
            if let Some(makers) = self.0.get_mut(&key) {
                makers.retain(|maker| maker.job != *job);
                if makers.is_empty() {
                    self.0.remove(&key);
                }
            }
        }
    }

    /// Tells a file, on the server that it names or on any, as a caller's own or another's.
    pub(super) fn whose(&self, file: &Located, owner: u64) -> Whose {
        let makers = self.0.get(&key(&file.kind, &file.reference()));
        let is_there = |maker: &&Maker| {
            let server = file.server.as_ref();
            server.is_none_or(|server| *server == maker.server)
        };
        let there: Vec<&Maker> = makers.into_iter().flatten().filter(is_there).collect();
        match there.iter().rev().find(|maker| maker.owner == owner) {
            // The latest of this name is meant.
            Some(maker) => Whose::Own((*maker).clone()),
            None if there.is_empty() => Whose::Unknown,
            None => Whose::Foreign,
        }
    }
}

/// Joins a folder and what is in it; either may be empty.
pub(super) fn join(folder: &str, name: &str) -> String {
    match (folder, name) {
        ("", path) | (path, "") => path.to_owned(),
        (folder, name) => format!("{folder}/{name}"),
    }
}

fn key(kind: &str, reference: &str) -> String {
    format!("{kind}/{reference}")
}

/// The keys of the files of a job.
fn keys(finished: &Finished) -> Vec<String> {
    let mut keys = Vec::new();
    let mut outputs = finished.entry["outputs"].clone();
    map_files(&mut outputs, &mut |folder, file| {
        let kind = file.get("type").and_then(|kind| kind.as_str());
        let kind = kind.unwrap_or("output");
        let name = file.get("filename").and_then(|name| name.as_str());
        let path = join(folder, name.unwrap_or_default());
        if let Some(file) = Located::at(kind, &path) {
            keys.push(key(&file.kind, &file.reference()));
        }
        String::new()
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, Option<String>, String)> {
        let file = Located::read(text)?;
        Some((file.kind.clone(), file.server.clone(), file.reference()))
    }

    fn file(
        kind: &str,
        server: Option<&str>,
        path: &str,
    ) -> Option<(String, Option<String>, String)> {
        Some((kind.to_owned(), server.map(str::to_owned), path.to_owned()))
    }

    #[test]
    fn each_way_to_write_a_file_leads_to_the_same_one() {
        let made = file("output", None, "ComfyUI_00001_.png");
        for text in [
            "ComfyUI_00001_.png [output]",
            "ComfyUI_00001_.png_[output]",
            "ComfyUI_00001_.png\t[output]",
            "./ComfyUI_00001_.png [output]",
            "x/../ComfyUI_00001_.png [output]",
            "@x/../ComfyUI_00001_.png [output]",
            "../output/ComfyUI_00001_.png",
            "..\\output\\ComfyUI_00001_.png",
            "../temp/../output//ComfyUI_00001_.png [input]",
            "/srv/comfy/output/ComfyUI_00001_.png",
            "../../comfy/output/ComfyUI_00001_.png",
        ] {
            assert_eq!(read(text), made, "{text}");
        }
        let named = file("output", Some("gpu-1"), "day/a.png");
        assert_eq!(read("@gpu-1/day/a.png [output]"), named);
        assert_eq!(read("cat.png"), file("input", None, "cat.png"));
        assert_eq!(read("../models/a.safetensors"), None);
    }

    #[test]
    fn texts_of_prompts_are_files_that_no_job_has_made() {
        let made = Made::default();
        for text in [
            "ganyu \\(genshin impact\\), [blurry]",
            "[red|blue] car, [lowres]",
            "a cat // a dog",
            "/imagine a cat",
            "..",
            "",
            "ä[output]",
            "[output]",
        ] {
            let whose = Located::read(text).map(|file| made.whose(&file, 7));
            assert!(matches!(whose, None | Some(Whose::Unknown)), "{text}");
        }
    }
}

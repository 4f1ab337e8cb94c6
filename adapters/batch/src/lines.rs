//! Files with a JSON value on each line.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// The place of a line in a file, with its end. Bytes after the first 4 GiB of a line are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    len: u32,
}

impl Span {
    pub(crate) fn new(start: u64, len: usize) -> Self {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Self { start, len }
    }

    /// The offset of its first byte.
    pub(crate) const fn start(self) -> u64 {
        self.start
    }

    /// Whether it holds nothing, as that of no line.
    pub(crate) const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Reads the bytes at this place.
    pub(crate) fn read(self, file: &File) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len as usize];
        file.read_exact_at(&mut bytes, self.start)?;
        Ok(bytes)
    }
}

/// Reads the lines that hold a value of the type, and skips the others.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> impl Iterator<Item = T> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok())
}

/// Writes a line.
pub(crate) fn write(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}

/// Writes the values to a new file beside `path`, ready to replace it.
pub(crate) fn write_beside(
    path: &Path,
    permissions: Permissions,
    values: &[impl Serialize],
) -> io::Result<NamedTempFile> {
    let file = create_beside(path, permissions)?;
    let mut writer = BufWriter::new(file.as_file());
    for value in values {
        write(&mut writer, value)?;
    }
    writer.flush()?;
    drop(writer);
    Ok(file)
}

/// Creates a file beside `path` that is to replace it. Its name is `.NAME.part`, so that the next run removes one that
/// a killed run has left; the caller has a lock on `path`.
pub(crate) fn create_beside(path: &Path, permissions: Permissions) -> io::Result<NamedTempFile> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    let folder = folder_of(path);
    match fs::remove_file(folder.join(&name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    tempfile::Builder::new()
        .prefix(&name)
        .rand_bytes(0)
        .permissions(permissions)
        .tempfile_in(folder)
}

/// Returns the folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    let parent = path.parent();
    let folder = parent.filter(|path| !path.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

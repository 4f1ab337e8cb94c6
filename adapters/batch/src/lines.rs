//! Files with a JSON value on each line.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// Reads the lines that hold a value of the type, and skips the others.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> impl Iterator<Item = T> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok())
}

/// Writes a line for each value.
pub(crate) fn write(to: impl Write, values: &[impl Serialize]) -> io::Result<()> {
    let mut writer = BufWriter::new(to);
    for value in values {
        serde_json::to_writer(&mut writer, value)?;
        writer.write_all(b"\n")?;
    }
    writer.flush()
}

/// Writes the values to a new file beside `path`, ready to replace it.
pub(crate) fn write_beside(
    path: &Path,
    permissions: Permissions,
    values: &[impl Serialize],
) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(".leasehold-")
        .permissions(permissions)
        .tempfile_in(folder_of(path))?;
    write(file.as_file_mut(), values)?;
    Ok(file)
}

/// Returns the folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    let parent = path.parent();
    let folder = parent.filter(|path| !path.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

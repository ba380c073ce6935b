//! Models whose tensors are in several files: `NAME-00001-of-00003.gguf` and so on. The first has the metadata.

use super::{Error, Header, MAX_TENSORS};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A thousand files of 50 GB are more than any model has.
const MAX_PARTS: u64 = 1000;

/// A file of a model, and its length.
pub(super) type Part = (PathBuf, File, u64);

/// Opens the file at `path` and those that belong to it: the header of all, and each file with its length.
pub(super) fn open(path: &Path) -> Result<(Header, Vec<Part>), Error> {
    let (mut header, file) = read(path)?;
    let parts: u64 = header.metadata.find("split.count")?.unwrap_or(1);
    if parts <= 1 {
        let bytes = header.file_bytes;
        return Ok((header, vec![(path.to_owned(), file, bytes)]));
    }
    let field = |key: &str| format!("metadata {key:?}");
    if parts > MAX_PARTS {
        return Err(Error::malformed(field("split.count"), format!("{parts} is more than {MAX_PARTS}")));
    }
    let number: u64 = header.metadata.get("split.no")?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name
        .strip_suffix(&ending(number, parts))
        .ok_or_else(|| Error::Part { problem: format!("it should be called NAME{}", ending(number, parts)) })?;
    let sibling = |number: u64| path.with_file_name(format!("{stem}{}", ending(number, parts)));
    if number != 0 {
        let problem = format!("the first, {}, has what is needed to open them", sibling(0).display());
        return Err(Error::Part { problem });
    }
    let mut files = vec![(path.to_owned(), file, header.file_bytes)];
    for number in 1..parts {
        let path = sibling(number);
        let (other, file) = read(&path)?;
        let said: (u64, u64) = (other.metadata.get("split.no")?, other.metadata.get("split.count")?);
        if said != (number, parts) {
            let problem = format!("{} says that it is number {} of {}", path.display(), said.0 + 1, said.1);
            return Err(Error::Part { problem });
        }
        files.push((path, file, other.file_bytes));
        header.file_bytes = header.file_bytes.saturating_add(other.file_bytes);
        let part = number as usize;
        header.tensors.extend(other.tensors.into_iter().map(|tensor| super::Tensor { part, ..tensor }));
        if header.tensors.len() as u64 > MAX_TENSORS {
            return Err(Error::malformed("the count of tensors", format!("in all files more than {MAX_TENSORS}")));
        }
    }
    let count = header.tensors.len() as u64;
    if let Some(expected) = header.metadata.find("split.tensors.count")?.filter(|&expected: &u64| expected != count) {
        let problem = format!("{expected}, but the files have {count}");
        return Err(Error::malformed(field("split.tensors.count"), problem));
    }
    header.by_name = super::by_name(&header.tensors)?;
    Ok((header, files))
}

fn read(path: &Path) -> Result<(Header, File), Error> {
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Ok((Header::read(&file, path)?, file))
}

fn ending(number: u64, parts: u64) -> String {
    format!("-{:05}-of-{parts:05}.gguf", number.saturating_add(1))
}

use super::entry::{Head, hex, unhex};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Where the chain ended, in a file of its own: who cuts the ledger's tail off must change this as well.
///
/// One line of always the same length, overwritten in place: it lies within one sector, which a disk writes whole.
#[derive(Debug)]
pub(super) struct HeadFile(File);

impl HeadFile {
    /// Opens or makes it; only its owner may read it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map(Self)
    }

    /// Writes the head down; it is on the disk afterwards.
    pub(super) fn write(&self, head: &Head) -> io::Result<()> {
        self.0.write_all_at(format!("{:020} {}\n", head.count, hex(&head.hash)).as_bytes(), 0)?;
        self.0.sync_data()
    }
}

/// What is written at `path`; nothing where there is no such file or it is empty.
///
/// # Errors
/// When it cannot be read, or says something else.
pub(super) fn read(path: &Path) -> Result<Option<Head>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let head = || {
        let (count, hash) = text.strip_suffix('\n')?.split_once(' ')?;
        let head = Head { count: count.parse().ok()?, hash: unhex(hash)? };
        // Exactly what would be written: upper-case digits or a sign are somebody else's.
        (format!("{:020} {}\n", head.count, hex(&head.hash)) == text).then_some(head)
    };
    head().map(Some).ok_or_else(|| format!("{} was changed: it does not hold a head", path.display()))
}

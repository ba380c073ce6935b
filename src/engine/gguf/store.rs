//! Where the bytes of tensors are.

use super::{Error, Tensor};
use memmap2::{Mmap, UncheckedAdvice};
use std::borrow::Cow;
use std::fmt::Debug;
use std::fs::File;
use std::path::Path;

/// Gives the bytes of tensors: as they lie in mapped files, or made of what lies there.
pub trait Store: Debug + Send + Sync {
    /// The bytes of a tensor. What is made is made anew each time.
    ///
    /// # Panics
    /// When it is another model's tensor.
    fn bytes(&self, tensor: &Tensor) -> Cow<'_, [u8]>;

    /// All files, for those who advise the system how they will be read.
    fn maps(&self) -> Vec<&Mmap>;
}

/// Maps a file that has at least so many bytes. Only a process that may die of its model should: see [`super`].
///
/// # Errors
/// When it cannot be mapped, or is shorter.
pub fn map(file: &File, least: u64, path: &Path) -> Result<Mmap, Error> {
    // SAFETY: two things must not happen while a mapping is borrowed. Its bytes must not change: model files appear
    // under their final name complete, by a rename, and are never written to again; should the owner do so
    // nevertheless, all that is read here are integers and floats, for which every pattern of bits is valid, and
    // lengths inside of the mapping are checked again when they are used. And its pages must not vanish: a file that
    // is truncated raises SIGBUS in its reader. That ends the process, which is why only workers map, each of which
    // serves one model and is started anew.
    let map = unsafe { Mmap::map(file) }.map_err(|source| Error::Io { path: path.to_owned(), source })?;
    // The file may have shrunk since its header was read.
    if (map.len() as u64) < least {
        let problem = format!("it has {} bytes, and had {least} a moment ago", map.len());
        return Err(Error::malformed(format!("the length of {}", path.display()), problem));
    }
    Ok(map)
}

/// The parts of a model in GGUF files.
#[derive(Debug)]
pub(super) struct Files(pub Vec<Mmap>);

impl Store for Files {
    fn bytes(&self, tensor: &Tensor) -> Cow<'_, [u8]> {
        let Tensor { part, offset, bytes, .. } = *tensor;
        Cow::Borrowed(&self.0[part][offset as usize..(offset + bytes) as usize])
    }

    fn maps(&self) -> Vec<&Mmap> {
        self.0.iter().collect()
    }
}

/// Lets go of the pages that hold `bytes`, where they lie within one of the mappings: they are read again when they are
/// needed again.
pub(super) fn forget(maps: &[&Mmap], bytes: &[u8]) {
    let Some((map, start)) = lying(maps, bytes) else { return };
    // SAFETY: the mapping is of a file, shared with it and never written to: its pages come back as they were.
    // It is advice: who does not take it keeps the pages.
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes.len()) };
}

/// Maps the pages that hold `bytes`, where they lie within one of the mappings, all at once.
pub(super) fn fetch(maps: &[&Mmap], bytes: &[u8]) {
    #[cfg(target_os = "linux")]
    if let Some((map, start)) = lying(maps, bytes) {
        // It is advice: where the system does not take it, reading does the same more slowly.
        let _ = map.advise_range(memmap2::Advice::PopulateRead, start, bytes.len());
    }
}

/// The mapping that holds `bytes`, if one does, and where it holds them.
fn lying<'a>(maps: &[&'a Mmap], bytes: &[u8]) -> Option<(&'a Mmap, usize)> {
    let range = bytes.as_ptr_range();
    let holds = |map: &&&Mmap| map.as_ptr_range().start <= range.start && range.end <= map.as_ptr_range().end;
    maps.iter().find(holds).map(|map| (*map, range.start as usize - map.as_ptr() as usize))
}

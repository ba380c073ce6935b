use super::Error;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// No header is longer. The largest in use have about 20 MB, most of it the vocabulary; what is longer would only keep
/// the reader busy.
const HEADER_LIMIT: u64 = 256 << 20;

/// What may be kept in memory of a header. Arrays of a vocabulary are not kept, only passed; the rest of a header has
/// some hundred KiB.
const MEMORY_LIMIT: usize = 6 << 20;

/// Reads a header from its beginning to its end by plain I/O; believes no length before it was compared with the file's.
pub(super) struct Cursor<R> {
    inner: BufReader<R>,
    path: PathBuf,
    at: u64,
    len: u64,
    kept: usize,
}

impl<R: Read + Seek> Cursor<R> {
    pub(super) fn new(mut inner: R, path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let len = inner.seek(SeekFrom::End(0)).map_err(io)?;
        inner.rewind().map_err(io)?;
        Ok(Cursor { inner: BufReader::with_capacity(64 << 10, inner), path: path.to_owned(), at: 0, len, kept: 0 })
    }

    /// Where in the file the next byte is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// How long the file is.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Counts `bytes` that will be kept in memory for `field`.
    pub(super) fn keep(&mut self, bytes: usize, field: impl FnOnce() -> String) -> Result<(), Error> {
        self.kept = self.kept.saturating_add(bytes);
        if self.kept > MEMORY_LIMIT {
            let problem = format!("with it the header takes more than {} MiB of memory", MEMORY_LIMIT >> 20);
            return Err(Error::malformed(field(), problem));
        }
        Ok(())
    }

    /// Checks that `bytes` more can be in the file, and in a header.
    pub(super) fn expect(&self, bytes: u64, field: impl FnOnce() -> String) -> Result<(), Error> {
        let problem = match self.at.checked_add(bytes) {
            Some(end) if end <= self.len.min(HEADER_LIMIT) => return Ok(()),
            Some(end) if end <= self.len => format!("the header is longer than {} MiB", HEADER_LIMIT >> 20),
            _ => format!("{bytes} bytes at {} run past the file's end at {}", self.at, self.len),
        };
        Err(Error::malformed(field(), problem))
    }

    pub(super) fn fixed<const N: usize>(&mut self, field: impl FnOnce() -> String) -> Result<[u8; N], Error> {
        self.expect(N as u64, field)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, field: impl FnOnce() -> String) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.fixed(field)?))
    }

    pub(super) fn u64(&mut self, field: impl FnOnce() -> String) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.fixed(field)?))
    }

    /// `len` bytes that are kept.
    pub(super) fn bytes(&mut self, len: u64, field: impl Fn() -> String) -> Result<Vec<u8>, Error> {
        self.expect(len, &field)?;
        // Below the header's limit, so it fits any usize.
        self.keep(len as usize, field)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A string: its length and its bytes.
    pub(super) fn string(&mut self, field: impl Fn() -> String) -> Result<Vec<u8>, Error> {
        let len = self.u64(&field)?;
        self.bytes(len, field)
    }

    /// Passes over `bytes`.
    pub(super) fn skip(&mut self, bytes: u64, field: impl FnOnce() -> String) -> Result<(), Error> {
        self.expect(bytes, field)?;
        self.inner.seek_relative(bytes as i64).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.at += bytes;
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.inner.read_exact(bytes).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// A name out of a file, fit for a message: escaped, and no longer than a line.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

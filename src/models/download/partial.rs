//! A file that is not whole yet: `NAME.partial`, and beside it what is known of the bytes in it.

use crate::models::Error;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, BufWriter};

/// So much is lost at most when the machine loses its power.
const MARK_BYTES: u64 = 32 << 20;
const MARK_TIME: Duration = Duration::from_secs(5);
const BUFFER: usize = 1 << 20;

/// Whose bytes a partial file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Who serves them.
    pub(super) from: String,
    /// The digest that the whole file must have, where that is known.
    pub(super) sha256: Option<String>,
    /// What tells these bytes from others under the same address: a strong `ETag`, or the time of the last change.
    pub(super) validator: Option<String>,
    /// The length of the whole file.
    pub(super) total: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    origin: Origin,
    /// Bytes that are on the disk for certain. What lies behind them is cut off.
    done: u64,
    /// Parts that these are, where the file comes in parts.
    parts: usize,
}

/// A partial file, held against other processes.
#[derive(Debug)]
pub(in crate::models) struct Partial {
    path: PathBuf,
    file: BufWriter<tokio::fs::File>,
    state: State,
    done: u64,
    marked: Instant,
}

impl Partial {
    /// Opens the partial file of what will be `whole`, or begins one.
    ///
    /// # Errors
    /// When another process writes it, or it cannot be written.
    pub(super) async fn open(whole: &Path) -> Result<Self, Error> {
        let path = with_suffix(whole, ".partial");
        let file = hold(&path)?;
        let failed = Error::io(&path);
        let state: State = std::fs::read(with_suffix(&path, ".json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let length = file.metadata().map_err(Error::io(&path))?.len();
        // Less than was promised: somebody was here, and nothing can be said of the rest.
        let state = if length < state.done { State::default() } else { state };
        file.set_len(state.done).map_err(failed)?;
        let done = state.done;
        let file = BufWriter::with_capacity(BUFFER, tokio::fs::File::from_std(file));
        let mut partial = Self { path, file, state, done, marked: Instant::now() };
        partial.seek().await?;
        Ok(partial)
    }

    /// Where it lies.
    pub(in crate::models) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in it.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Parts in it.
    pub(super) fn parts(&self) -> usize {
        self.state.parts
    }

    /// Whose bytes it holds.
    pub(super) fn origin(&self) -> &Origin {
        &self.state.origin
    }

    /// Throws away what is in it and begins anew with bytes of `origin`.
    pub(super) async fn restart(&mut self, origin: Origin) -> Result<(), Error> {
        self.flush().await?;
        // The note goes first: it must never promise bytes of somebody else.
        self.state = State { origin, done: 0, parts: 0 };
        self.note()?;
        self.done = 0;
        self.file.get_mut().set_len(0).await.map_err(Error::io(&self.path))?;
        self.seek().await
    }

    /// Appends.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).await.map_err(Error::io(&self.path))?;
        self.done += bytes.len() as u64;
        if self.done - self.state.done >= MARK_BYTES || self.marked.elapsed() >= MARK_TIME {
            self.mark().await?;
        }
        Ok(())
    }

    /// Lets who opens the file see all that was written.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        self.file.flush().await.map_err(Error::io(&self.path))
    }

    /// Makes certain that everything that was written is on the disk, and notes it.
    pub(super) async fn mark(&mut self) -> Result<(), Error> {
        self.flush().await?;
        self.file.get_mut().sync_data().await.map_err(Error::io(&self.path))?;
        self.state.done = self.done;
        self.marked = Instant::now();
        self.note()
    }

    /// Notes that a part is whole: its bytes were appended to the file by `append`, which returns how many.
    pub(super) async fn append_part(
        &mut self,
        append: impl FnOnce(File) -> Result<u64, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let file = self.file.get_ref().try_clone().await.map_err(Error::io(&self.path))?.into_std().await;
        let appended = tokio::task::spawn_blocking(move || append(file))
            .await
            .unwrap_or_else(|gone| Err(Error::Io { path: PathBuf::from("part"), source: io::Error::other(gone) }));
        match appended {
            Ok(bytes) => {
                self.done += bytes;
                self.state.parts += 1;
                self.mark().await
            }
            Err(error) => {
                // Half a part is none.
                self.file.get_mut().set_len(self.done).await.map_err(Error::io(&self.path))?;
                self.seek().await?;
                Err(error)
            }
        }
    }

    /// Gives the file its final name, for good: after a power cut it is there, whole, or not at all.
    pub(in crate::models) async fn keep(mut self, whole: &Path) -> Result<(), Error> {
        self.mark().await?;
        self.file.get_mut().sync_all().await.map_err(Error::io(&self.path))?;
        std::fs::rename(&self.path, whole).map_err(Error::io(whole))?;
        sync_folder(whole)?;
        // Left behind, it would promise bytes of a file that is not there, and that is seen.
        let _ = std::fs::remove_file(with_suffix(&self.path, ".json"));
        Ok(())
    }

    /// Deletes it.
    pub(in crate::models) fn discard(self) -> Result<(), Error> {
        let _ = std::fs::remove_file(with_suffix(&self.path, ".json"));
        std::fs::remove_file(&self.path).map_err(Error::io(&self.path))
    }

    async fn seek(&mut self) -> Result<(), Error> {
        use tokio::io::AsyncSeekExt;
        self.file.seek(io::SeekFrom::Start(self.done)).await.map(drop).map_err(Error::io(&self.path))
    }

    fn note(&self) -> Result<(), Error> {
        let path = with_suffix(&self.path, ".json");
        let new = with_suffix(&path, ".new");
        let text = serde_json::to_vec(&self.state).map_err(io::Error::from).map_err(Error::io(&path))?;
        std::fs::write(&new, text).map_err(Error::io(&new))?;
        std::fs::rename(&new, &path).map_err(Error::io(&path))
    }
}

/// Opens and locks `path`.
fn hold(path: &Path) -> Result<File, Error> {
    loop {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(Error::io(path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Busy { path: path.to_path_buf() }),
            Err(error) => return Err(Error::io(path)(error.into())),
        }
        // Between our opening and our locking, its last holder may have given the file its final name. Then what we
        // hold is somebody's model.
        let mine = file.metadata().map_err(Error::io(path))?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (mine.dev(), mine.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(path)(error)),
        }
    }
}

fn sync_folder(file: &Path) -> Result<(), Error> {
    let folder = file.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(from: &str) -> Origin {
        Origin { from: from.into(), ..Origin::default() }
    }

    #[tokio::test]
    async fn goes_on_where_the_note_says() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("m.gguf");
        let mut partial = Partial::open(&whole).await.unwrap();
        partial.restart(origin("a")).await.unwrap();
        partial.write(b"certain").await.unwrap();
        partial.mark().await.unwrap();
        partial.write(b" lost").await.unwrap();
        drop(partial);

        let mut partial = Partial::open(&whole).await.unwrap();
        assert_eq!((partial.done(), partial.origin().from.as_str()), (7, "a"));
        partial.write(b" and more").await.unwrap();
        partial.keep(&whole).await.unwrap();
        assert_eq!(std::fs::read(&whole).unwrap(), b"certain and more");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_is_shorter_than_noted_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("m.gguf");
        let mut partial = Partial::open(&whole).await.unwrap();
        partial.restart(origin("a")).await.unwrap();
        partial.write(b"certain").await.unwrap();
        partial.mark().await.unwrap();
        let path = partial.path().to_path_buf();
        drop(partial);
        File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
        assert_eq!(Partial::open(&whole).await.unwrap().done(), 0);
        // Nor does a note that nobody understands.
        std::fs::write(with_suffix(&path, ".json"), "{").unwrap();
        assert_eq!(Partial::open(&whole).await.unwrap().done(), 0);
    }

    #[tokio::test]
    async fn half_a_part_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("m.gguf");
        let mut partial = Partial::open(&whole).await.unwrap();
        let append = |bytes: &'static [u8], fails: bool| {
            move |mut file: File| {
                io::Write::write_all(&mut file, bytes).unwrap();
                if fails { Err(Error::Cancelled) } else { Ok(bytes.len() as u64) }
            }
        };
        partial.append_part(append(b"one", false)).await.unwrap();
        partial.append_part(append(b"tw", true)).await.unwrap_err();
        partial.append_part(append(b"two", false)).await.unwrap();
        assert_eq!((partial.done(), partial.parts()), (6, 2));
        partial.keep(&whole).await.unwrap();
        assert_eq!(std::fs::read(&whole).unwrap(), b"onetwo");
    }

    #[tokio::test]
    async fn one_writer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("m.gguf");
        let partial = Partial::open(&whole).await.unwrap();
        let refused = Partial::open(&whole).await.unwrap_err();
        assert!(matches!(refused, Error::Busy { .. }), "{refused}");
        partial.discard().unwrap();
        Partial::open(&whole).await.unwrap();
    }
}

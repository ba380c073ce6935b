//! The folder of blocks, bounded in bytes: who was not used for longest goes first.

use super::record::{self, Key, Unread};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What a file is called until it is whole.
const PARTIAL: &str = "part";
/// After this long nobody is writing a partial file any more.
const ABANDONED: Duration = Duration::from_secs(600);

/// A folder of blocks. Other workers may use it too; files that are not called like a block's are nobody's business here.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    /// Bytes that all blocks may have.
    limit: u64,
    /// Bytes that may be written before it is looked at again how many there are.
    room: u64,
}

struct Found {
    key: Key,
    bytes: u64,
    used: SystemTime,
}

impl Folder {
    /// That at `dir`, which need not be there yet.
    pub fn new(dir: &Path, limit: u64) -> Folder {
        Folder { dir: dir.to_path_buf(), limit, room: 0 }
    }

    /// The blocks that are there.
    ///
    /// # Errors
    /// What the system says.
    pub fn keys(&self) -> io::Result<Vec<Key>> {
        Ok(self.found()?.into_iter().map(|found| found.key).collect())
    }

    /// Adds a block; it is there whole or not at all. Returns those that had to go for it.
    ///
    /// # Errors
    /// It is not there: its file, its bytes and the system's reason.
    pub fn write(&mut self, key: &Key, block: &[u8]) -> io::Result<Vec<Key>> {
        self.add(key, block).map_err(|error| {
            let bytes = record::file_bytes(block.len());
            io::Error::new(
                error.kind(),
                format!("cannot write {}, of {bytes} bytes: {error}", self.path(key).display()),
            )
        })
    }

    fn add(&mut self, key: &Key, block: &[u8]) -> io::Result<Vec<Key>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let bytes = record::file_bytes(block.len());
        let gone = if bytes > self.room { self.make_room(bytes)? } else { Vec::new() };
        if bytes > self.room {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "that is more than all may have"));
        }
        let path = self.path(key);
        let partial = path.with_extension(format!("{}.{PARTIAL}", std::process::id()));
        let whole = write_new(&partial, key, block).and_then(|()| fs::rename(&partial, &path));
        if whole.is_err() {
            // What is half written helps nobody, and on a full disk its room is needed.
            let _ = fs::remove_file(&partial);
        } else {
            self.room -= bytes;
        }
        whole.map(|()| gone)
    }

    /// The block of this key and length. What is not that block is deleted.
    ///
    /// # Errors
    /// There is none.
    pub fn read(&self, key: &Key, len: usize) -> Result<Vec<u8>, Unread> {
        let path = self.path(key);
        let read = File::open(&path).map_err(Unread::from).and_then(|mut file| record::read(&mut file, key, len));
        if let Err(Unread::Unfit(_)) = read {
            // It would be found again and again.
            let _ = fs::remove_file(&path);
        }
        read
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(key.name())
    }

    /// Deletes what was not used for longest until there is room for so many bytes.
    fn make_room(&mut self, bytes: u64) -> io::Result<Vec<Key>> {
        let mut found = self.found()?;
        let mut total = found.iter().map(|found| found.bytes).sum::<u64>();
        let mut gone = Vec::new();
        if total.saturating_add(bytes) > self.limit {
            found.sort_unstable_by_key(|found| found.used);
            // Some more than is needed, as looking takes longer than deleting.
            let most = self.limit - self.limit / 8;
            for Found { key, bytes: freed, .. } in found {
                if total.saturating_add(bytes) <= most {
                    break;
                }
                match fs::remove_file(self.path(&key)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => total -= freed,
                }
                gone.push(key);
            }
        }
        // Others write here too, so that it is looked at again before all of it is used.
        self.room = self.limit.saturating_sub(total).min((self.limit / 16).max(bytes));
        Ok(gone)
    }

    fn found(&self) -> io::Result<Vec<Found>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            // Somebody else may have deleted it.
            let Ok(metadata) = entry.metadata() else { continue };
            let used = metadata.modified()?;
            match name.to_str().and_then(Key::of_name) {
                Some(key) => found.push(Found { key, bytes: metadata.len(), used }),
                None if is_partial(&path) && used.elapsed().is_ok_and(|age| age > ABANDONED) => {
                    let _ = fs::remove_file(&path);
                }
                None => {}
            }
        }
        Ok(found)
    }
}

/// Whether a file is called like the beginning of a block's: its key, the writer's process, `part`.
fn is_partial(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut parts = name.split('.');
    let key = parts.next().and_then(|key| Key::of_name(&format!("{key}.kv")));
    key.is_some() && path.extension().is_some_and(|extension| extension == PARTIAL)
}

/// Conversations are nobody else's to read.
fn write_new(path: &Path, key: &Key, block: &[u8]) -> io::Result<()> {
    // One that is there was left by a process of the same number, which is no more.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    record::write(&mut file, key, block)
}

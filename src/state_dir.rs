//! The state folder: one daemon owns it at a time.

use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The state folder, held. Dropping it lets the next daemon in; so does the end of the process, however it ends.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the folder where there is none (mode 0700: it holds keys and conversations) and locks it.
    ///
    /// # Errors
    /// When another daemon holds it, or the folder cannot be written.
    pub fn claim(path: &Path) -> Result<StateDir, Error> {
        let failed = |source| Error::Unusable { path: path.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        // Absolute, so that what is derived from it can be handed to other processes.
        let path = path.canonicalize().map_err(failed)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut holder = String::new();
            // Whoever holds the lock may just be about to write its name: an empty one is still an answer.
            let _ = lock.read_to_string(&mut holder);
            return Err(Error::Held { path, holder: holder.trim().to_string() });
        }
        let mut sign = || -> io::Result<()> {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "process {} (sovereign {})", std::process::id(), env!("CARGO_PKG_VERSION"))
        };
        sign().map_err(failed)?;
        Ok(StateDir { path, _lock: lock })
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Why a state folder could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon runs on it.
    #[error("the state folder {} is held by {holder}; stop that daemon, or give this one another folder with --state", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// It cannot be created or written.
    #[error("the state folder {} cannot be used: {source}; give one that this user may write with --state", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::claim(&path).unwrap();
        let refused = StateDir::claim(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("held by process {}", std::process::id())), "{refused}");
        drop(first);
        StateDir::claim(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_had_says_so() {
        let refused = StateDir::claim(Path::new("/proc/nothing/here")).unwrap_err().to_string();
        assert!(refused.contains("/proc/nothing/here") && refused.contains("--state"), "{refused}");
    }
}

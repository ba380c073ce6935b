use crate::models::Error;
use std::path::Path;

/// Whether `needed` more bytes may be written beside `file`.
///
/// # Errors
/// When they may not.
pub(super) fn check(file: &Path, needed: u64) -> Result<(), Error> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let free = free(dir)?;
    if needed > free { Err(Error::Space { dir: dir.to_path_buf(), needed, free }) } else { Ok(()) }
}

/// Bytes that we may still write in `dir`.
///
/// # Errors
/// When the system does not say.
pub(in crate::models) fn free(dir: &Path) -> Result<u64, Error> {
    let disk = rustix::fs::statvfs(dir).map_err(|error| Error::io(dir)(error.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

use super::report::Report;
use crate::models::{Error, hex};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The SHA-256 of a file, as it can be read from the disk.
///
/// # Errors
/// When it cannot be read, or `report` says to end.
pub(in crate::models) async fn of(path: &Path, report: &Report) -> Result<String, Error> {
    let cancel = report.cancellation();
    let file = path.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = File::open(&file).map_err(Error::io(&file))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match reader.read(&mut buffer).map_err(Error::io(&file))? {
                0 => return Ok(hex(&hash.finalize())),
                read => hash.update(&buffer[..read]),
            }
        }
    });
    reading.await.unwrap_or_else(|gone| Err(Error::io(path)(std::io::Error::other(gone))))
}

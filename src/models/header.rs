//! What a model file says of itself, before anything else is done with it.

use super::Error;
use crate::engine::gguf::{Gguf, Summary};
use std::path::Path;

/// Reads the header of a file that came from `from`.
///
/// # Errors
/// When it is not a model that can be served.
pub(super) fn read(path: &Path, from: &str) -> Result<Summary, Error> {
    let refused = |error: crate::engine::gguf::Error| Error::Gguf { from: from.into(), problem: error.to_string() };
    Gguf::header(path).map_err(refused)?.summary().map_err(refused)
}

/// Like [`read`], where nothing but the verdict counts.
///
/// # Errors
/// As [`read`].
pub(super) async fn check(path: &Path, from: &str) -> Result<(), Error> {
    let (file, from) = (path.to_path_buf(), from.to_owned());
    let reading = tokio::task::spawn_blocking(move || read(&file, &from).map(drop));
    reading.await.unwrap_or_else(|gone| Err(Error::io(path)(std::io::Error::other(gone))))
}

//! What a model file says of itself, before anything else is done with it.

use super::Error;
use crate::engine::footprint::{Footprint, Servable};
use crate::engine::gguf::{self, Gguf, Header, Summary};
use crate::engine::lora::Lora;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What there is to know of a model that can be served.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) summary: Summary,
    pub(super) footprint: Footprint,
}

/// Reads the header of a file that came from `from`.
///
/// # Errors
/// When it is not a model that can be served.
pub(super) fn read(path: &Path, from: &str) -> Result<Facts, Error> {
    Gguf::header(path).map_err(|error| error.to_string()).and_then(|header| judge(&header)).map_err(refused(from))
}

/// Like [`read`], with adapters; of each, what keeps it from being loaded, if anything does.
///
/// # Errors
/// As [`read`].
pub(super) fn read_adapted(
    path: &Path,
    from: &str,
    adapters: &[PathBuf],
) -> Result<(Facts, Vec<Option<String>>), Error> {
    let read = || {
        let header = Gguf::header(path).map_err(|error| error.to_string())?;
        let mut facts = judge(&header)?;
        let (mut fit, mut problems) = (Vec::new(), Vec::new());
        for path in adapters {
            let problem = match Lora::header(path, &header) {
                Err(error) => Some(error.to_string()),
                Ok(lora) => match Footprint::adapted(&header, std::slice::from_ref(&lora)).servable {
                    Servable::No(reason) => Some(reason),
                    Servable::Yes => {
                        fit.push(lora);
                        None
                    }
                },
            };
            problems.push(problem);
        }
        facts.footprint = Footprint::adapted(&header, &fit);
        Ok((facts, problems))
    };
    read().map_err(refused(from))
}

fn refused(from: &str) -> impl Fn(String) -> Error {
    move |problem| Error::Gguf { from: from.into(), problem }
}

fn judge(header: &Header) -> Result<Facts, String> {
    let footprint = Footprint::of(header);
    match footprint.servable {
        Servable::Yes => Ok(Facts { summary: header.summary().map_err(|error| error.to_string())?, footprint }),
        Servable::No(reason) => Err(reason),
    }
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

/// The verdict on a file of which the first `there` bytes of `total` have come: whether it can be given already.
///
/// # Errors
/// When the whole file cannot be served, whatever else comes.
pub(super) async fn check_beginning(path: &Path, there: u64, total: u64, from: &str) -> Result<bool, Error> {
    let (path, from) = (path.to_path_buf(), from.to_owned());
    let reading = move || {
        let file = File::open(&path).map_err(Error::io(&path))?;
        match Header::read(Beginning { file, at: 0, there, total }, &path) {
            // What cannot be read has not come yet. If it is worse than that, it shows at the end.
            Err(gguf::Error::Io { .. }) => Ok(false),
            Err(error) => Err(refused(&from)(error.to_string())),
            Ok(header) => judge(&header).map(|_| true).map_err(refused(&from)),
        }
    };
    tokio::task::spawn_blocking(reading).await.unwrap_or(Ok(false))
}

/// A file as long as it will be, of which only the beginning can be read.
struct Beginning {
    file: File,
    at: u64,
    there: u64,
    total: u64,
}

impl Read for Beginning {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.there.saturating_sub(self.at);
        if left == 0 && self.at < self.total && !buffer.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.seek(SeekFrom::Start(self.at))?;
        let read = self.file.read(&mut buffer[..most])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Beginning {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.total.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

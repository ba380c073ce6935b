//! Models as Hugging Face stores them: a folder with `config.json`, `tokenizer.json` and `*.safetensors`.
//!
//! A folder is presented as the GGUF file that a converter would make of it: the same metadata, the same names of tensors.
//! Weights of floats stay where they lie; what GGUF stores otherwise is made when it is asked for (`store`): queries and keys of
//! Llama by adjacent pairs, Gemma's norms with their 1, floats of 8 bits as halves, NVFP4 in ggml's blocks. What
//! sentence-transformers adds for embeddings is read too (`sentences`).

mod config;
mod file;
mod names;
mod rope;
mod sentences;
mod store;
mod tokenizer;

#[cfg(test)]
mod tests;

pub(super) use file::header as file_header;
pub(super) use names::gguf as gguf_name;
pub(super) use store::{float_kind, interleaved};

use super::gguf::{Error, Gguf, Header, Tensor, Writer};
use config::Config;
use file::Shards;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use store::Folder;

/// Longer files of JSON are not read. Vocabularies of a quarter million tokens take 35 MB.
const MAX_JSON: u64 = 128 << 20;

/// Maps the model in a folder. Only a process that may die of its model should: see [`super::gguf`].
///
/// # Errors
/// When a file is missing, damaged, or asks for what isn't supported: file and key are named.
pub fn open(folder: &Path) -> Result<Gguf, Error> {
    let (config, shards) = read(folder)?;
    let mut writer = config.metadata(folder)?;
    tokenizer::describe(folder, &config, &mut writer)?;
    let store = Folder::new(&shards, &config, true)?;
    Gguf::of_parts(writer.to_vec(), store.tensors(), shards.bytes(), Box::new(store))
}

/// Reads headers alone, without a mapping and without the tokenizer.
///
/// # Errors
/// As [`open`], but for the tokenizer.
pub fn header(folder: &Path) -> Result<Header, Error> {
    let (config, shards) = read(folder)?;
    let tensors: Vec<Tensor> = Folder::new(&shards, &config, false)?.tensors();
    Header::of_parts(&config.metadata(folder)?.to_vec(), tensors, shards.bytes())
}

fn read(folder: &Path) -> Result<(Config, Shards), Error> {
    Ok((Config::read(folder)?, Shards::read(folder)?))
}

/// A figure in a file of a folder that cannot be true or is not supported.
fn wrong(file: &Path, problem: impl Into<String>) -> Error {
    Error::Folder { file: file.to_owned(), problem: problem.into() }
}

/// A file of JSON.
fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    json_within(path, MAX_JSON)
}

/// A file of JSON that has no more than so many bytes.
pub(super) fn json_within<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(wrong(path, format!("it is longer than {} MiB", most >> 20)));
    }
    serde_json::from_slice(&bytes).map_err(|error| wrong(path, error.to_string()))
}

/// The same, which may be absent.
fn json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match json(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// A writer of metadata for an architecture.
fn key(writer: &mut Writer<'static>, architecture: &str, key: &str, value: impl super::gguf::Scalar) {
    writer.set(&format!("{architecture}.{key}"), value);
}

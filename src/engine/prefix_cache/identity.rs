//! What the bytes of a block depend on besides its tokens.

use crate::engine::gguf::Gguf;
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a piece of a file that is looked at.
const PIECE: usize = 256;
/// Pieces of a file.
const PIECES: usize = 4096;

/// Which model's keys and values, computed and stored how. Those of another identity are never taken.
#[derive(Debug, Clone)]
pub struct Identity(Sha256);

impl Identity {
    /// That of a model whose files changed last at `changed`. Reading all of it would take as long as loading does: the table
    /// of its tensors and pieces of its files stand for it.
    pub fn of(gguf: &Gguf, changed: SystemTime) -> Identity {
        let Identity(mut digest) = Identity::of_table(gguf, changed);
        for map in gguf.maps() {
            let step = (map.len() / PIECES).max(PIECE);
            map.chunks(step).for_each(|part| digest.update(&part[..part.len().min(PIECE)]));
        }
        Identity(digest)
    }

    /// The same of the table alone, for what is forgotten when the daemon ends: nothing else of the files is read.
    pub fn of_table(gguf: &Gguf, changed: SystemTime) -> Identity {
        // Another version may compute otherwise.
        let mut digest = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
        let changed = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        digest.update(changed.to_le_bytes());
        digest.update(gguf.file_bytes().to_le_bytes());
        for tensor in gguf.tensors() {
            digest.update(format!("{} {:?} {:?} {};", tensor.name, tensor.dims, tensor.kind, tensor.offset));
        }
        Identity(digest)
    }

    /// The same where something else matters too.
    pub fn and(mut self, what: &str) -> Identity {
        self.0.update((what.len() as u64).to_le_bytes());
        self.0.update(what);
        self
    }

    /// What stands for it.
    pub fn digest(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

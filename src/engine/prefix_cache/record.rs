//! One block of keys and values as a file: what it is, a digest of all of it, then its bytes.

use crate::engine::blocks::{BLOCK, Chain};
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::time::SystemTime;

const MAGIC: [u8; 8] = *b"SOVERKV\n";
const VERSION: u32 = 1;
/// Magic, version, positions, length and key, and the digest of these with the bytes.
const HEADER: usize = 8 + 4 + 4 + 8 + 32 + 32;
const DIGEST: usize = HEADER - 32;

/// What a block is known by among those of all models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// That of the block which ends `chain` in caches of this identity.
    pub fn new(identity: &[u8; 32], chain: &Chain) -> Key {
        Key(Sha256::new_with_prefix(identity).chain_update(chain.digest()).finalize().into())
    }

    /// What its file is called.
    pub fn name(&self) -> String {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        hex + ".kv"
    }

    /// The key whose file is called so.
    pub fn of_name(name: &str) -> Option<Key> {
        let hex = name.strip_suffix(".kv").filter(|hex| hex.len() == 64 && hex.is_ascii())?;
        let mut key = [0; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Key(key)).filter(|key| key.name() == name)
    }
}

/// Why a file gives no block.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is damaged, of another version, or another's.
    #[error("it is {0}")]
    Unfit(&'static str),
    /// The system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes of the file of a block of so many bytes.
pub fn file_bytes(block: usize) -> u64 {
    (HEADER + block) as u64
}

/// Writes a block's file.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, key: &Key, block: &[u8]) -> io::Result<()> {
    let mut header = begin(key, block.len());
    let digest = Sha256::new_with_prefix(&header[..DIGEST]).chain_update(block).finalize();
    header[DIGEST..].copy_from_slice(&digest);
    out.write_all(&header)?;
    out.write_all(block)
}

/// Reads the block of this key and length from its file, and notes that it was used.
///
/// # Errors
/// It cannot be read, or is not that block to the last bit.
pub fn read(file: &mut File, key: &Key, len: usize) -> Result<Vec<u8>, Unread> {
    let is_whole = |metadata: Metadata| metadata.is_file() && metadata.len() == file_bytes(len);
    if !is_whole(file.metadata()?) {
        return Err(Unread::Unfit("of another length"));
    }
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    if header[..DIGEST] != begin(key, len)[..DIGEST] {
        return Err(Unread::Unfit("another block, or of another version"));
    }
    let mut block = vec![0; len];
    file.read_exact(&mut block)?;
    let digest = Sha256::new_with_prefix(&header[..DIGEST]).chain_update(&block).finalize();
    if header[DIGEST..] != *digest {
        return Err(Unread::Unfit("damaged"));
    }
    // Where that is not allowed it only goes earlier.
    let _ = file.set_modified(SystemTime::now());
    Ok(block)
}

/// The header up to the digest.
fn begin(key: &Key, len: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    header[16..24].copy_from_slice(&(len as u64).to_le_bytes());
    header[24..56].copy_from_slice(&key.0);
    header
}

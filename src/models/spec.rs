use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A model that can be served: its file is complete, verified and of a kind that the engine knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// What requests call it.
    pub name: String,
    /// Further names for the same.
    pub aliases: Vec<String>,
    /// The file.
    pub file: PathBuf,
    /// The digest of the file in lower-case hex.
    pub sha256: String,
    /// The length of the file.
    pub bytes: u64,
    /// Where it came from.
    pub source: String,
    /// Its licence, where that is known.
    pub licence: Option<String>,
    /// When it was pulled, in seconds since 1970.
    pub pulled_at: i64,
    /// `general.architecture`: which forward pass it needs.
    pub architecture: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// How its weights are stored, such as `Q4_K_M`.
    pub quantisation: String,
    /// Tokens that it was trained to attend to.
    pub context_train: u64,
}

//! OpenAI's wire types, spoken by workers and by the gateway: requests are read field by field so that an error names
//! the field, answers are plain structs.

pub mod chat;
pub mod completion;
mod constraint;
pub mod embedding;
mod envelope;
mod error;
mod fields;
mod generation;
mod message;
mod models;
mod tools;
mod usage;

pub use constraint::Wanted;
pub use envelope::{Envelope, finish_reason};
pub use error::{Error, not_meant};
pub use fields::Fields;
pub use generation::Generation;
pub use models::{CHOSEN, Model, Models};
pub use tools::{ToolChoice, Tools};
pub use usage::{PromptDetails, Usage};

/// Seconds since 1970, as `created` fields tell time.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An identifier of an answer: a prefix such as `chatcmpl-` and 24 characters that nobody can guess.
pub fn id(prefix: &str) -> String {
    let mut bytes = [0; 12];
    // Without randomness the identifier is only less unique: nothing is decided by it.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold(prefix.to_string(), |id, byte| id + &format!("{byte:02x}"))
}

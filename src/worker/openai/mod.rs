//! OpenAI's wire types, spoken by workers and by the gateway: requests are read field by field so that an error names
//! the field, answers are plain structs.

mod error;
mod fields;
mod models;
mod usage;

pub use error::Error;
pub use fields::Fields;
pub use models::{Model, Models};
pub use usage::{PromptDetails, Usage};

/// Seconds since 1970, as `created` fields tell time.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An identifier of an answer: `chatcmpl-` and 24 characters that nobody can guess.
pub fn id(prefix: &str) -> String {
    let mut bytes = [0; 12];
    // Without randomness the identifier is only less unique: nothing is decided by it.
    let _ = getrandom::fill(&mut bytes);
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{digits}")
}

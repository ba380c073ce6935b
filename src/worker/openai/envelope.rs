use super::Usage;
use crate::engine::sequence::Finish;
use serde::Serialize;
use std::sync::Arc;

/// What all answers and all pieces of a stream have in common, around their choices.
#[derive(Debug, Clone, Serialize)]
pub struct Envelope<C> {
    /// The same in all pieces of a stream.
    pub id: Arc<str>,
    /// What the choices are.
    pub object: &'static str,
    /// In seconds since 1970.
    pub created: u64,
    /// Who answers.
    pub model: Arc<str>,
    /// The answers, or pieces of them.
    pub choices: Vec<C>,
    /// In a stream that ends with its usage, null before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// OpenAI's name for why an answer ended.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

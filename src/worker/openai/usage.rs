use serde::{Deserialize, Serialize};

/// Tokens that a request cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub completion_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// What the prompt's tokens were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptDetails>,
}

/// What a prompt's tokens were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptDetails {
    /// Tokens that an earlier request had computed already.
    #[serde(default)]
    pub cached_tokens: u64,
}

impl Usage {
    /// Of a prompt, of which `cached` tokens needed no work, and its answers.
    pub fn new(prompt: usize, cached: usize, completion: usize) -> Self {
        let (prompt, completion) = (prompt as u64, completion as u64);
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: Some(PromptDetails { cached_tokens: cached as u64 }),
        }
    }
}

//! What a model writes besides text: its reasoning, and calls of tools, each by the marks of its family.
//!
//! [`Format`] knows the marks, by the template, as that is what the model was trained on. A [`Parser`] takes an answer
//! piece by piece and tells its parts. [`forced`] is the grammar of an answer that must be a call, [`untold`] how a model
//! is told of tools whose template cannot.

mod call;
mod forced;
mod ids;
mod marks;
mod parser;
mod python;
mod tools;
mod untold;

#[cfg(test)]
mod tests;

use super::tokenizer::{Token, Tokenizer};
pub use forced::Constrained;
pub use parser::{Parser, Piece};
use serde_json::Value;

/// Where reasoning begins and ends.
const THINK: [&str; 2] = ["<think>", "</think>"];

/// How a family writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Qwen, and Hermes, whose it was.
    Hermes,
    /// `{"name": ..., "parameters": {...}}`, also after `<|python_tag|>`, or `<function=...>{...}</function>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`: Mistral up to the third version of its tokenizer.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{...}`: Mistral since.
    MistralNamed,
    /// `{"name": ..., "parameters": {...}}`, a list of these, or Python in a block: Gemma and whoever has no form of its
    /// own.
    Json,
}

/// The marks of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// How it calls tools.
    pub calls: Calls,
    /// Whether it may reason before it answers.
    pub reasons: bool,
    /// Whether its template tells it of tools.
    pub tells_tools: bool,
}

/// Whether an answer begins with reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It does not.
    Plain,
    /// It may.
    MayReason,
    /// The prompt ends within it.
    Reasoning,
}

impl Format {
    /// The format of a model with this template.
    pub fn of(template: &str) -> Self {
        let has = |mark: &str| template.contains(mark);
        let calls = match () {
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Calls::MistralNamed,
            () if has("[TOOL_CALLS]") => Calls::Mistral,
            () if has("<tool_call>") => Calls::Hermes,
            () if has("<|start_header_id|>") => Calls::Llama,
            () => Calls::Json,
        };
        Self { calls, reasons: has(THINK[1]), tells_tools: has("tools") || has("tool_calls") }
    }

    /// Messages as the template can read them: with what it does not know of told in their text.
    pub fn adapt(&self, mut messages: Vec<Value>, tools: &[Value]) -> Vec<Value> {
        let of_tools = |message: &Value| message.get("tool_calls").is_some() || message["role"] == "tool";
        if !self.tells_tools && (!tools.is_empty() || messages.iter().any(of_tools)) {
            return untold::tell(&messages, tools);
        }
        if let Calls::Mistral | Calls::MistralNamed = self.calls {
            messages.iter_mut().for_each(ids::shorten);
        }
        messages
    }

    /// How an answer to a prompt that ends like this begins.
    pub fn opening(&self, prompt: &str) -> Opening {
        let prompt = prompt.trim_end();
        match self.reasons {
            true if prompt.ends_with(THINK[0]) => Opening::Reasoning,
            // A template that was told not to think writes an empty thought.
            true if !prompt.ends_with(THINK[1]) => Opening::MayReason,
            _ => Opening::Plain,
        }
    }

    /// The control tokens among the marks: readers do not see such, parsers must.
    pub fn shown(&self, tokenizer: &Tokenizer, with_tools: bool) -> Vec<Token> {
        let calls: &[&str] = match self.calls {
            _ if !with_tools => &[],
            Calls::Hermes => &["<tool_call>", "</tool_call>"],
            Calls::Llama => &["<|python_tag|>"],
            Calls::Mistral | Calls::MistralNamed => &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
            Calls::Json => &[],
        };
        let thoughts: &[&str] = if self.reasons { &THINK } else { &[] };
        calls.iter().chain(thoughts).filter_map(|mark| control(tokenizer, mark)).collect()
    }
}

/// The control token of this name.
fn control(tokenizer: &Tokenizer, mark: &str) -> Option<Token> {
    tokenizer.token(mark).filter(|token| tokenizer.piece(*token).is_empty())
}

//! What calls begin with and how they are closed, by family.

use super::Calls;

/// How a call is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON object, and what closes it.
    Object(&'static str),
    /// One of a list of such.
    Listed,
    /// A name, then JSON arguments, and what closes it.
    Named(&'static str),
    /// A block of JSON or Python.
    Fenced,
    /// A list of JSON or Python.
    List,
    /// All that is left: JSON, Python, or code for the tool that runs it.
    Rest,
    /// After Mistral's mark: one of three.
    Marked,
}

/// What begins a call anywhere in a text.
pub(super) fn marks(calls: Calls) -> &'static [(&'static str, Form)] {
    match calls {
        // Qwen's models for code often forget their own marks.
        Calls::Hermes => &[("<tool_call>", Form::Object("</tool_call>")), ("```json", Form::Fenced)],
        Calls::Llama => &[("<|python_tag|>", Form::Rest), ("<function=", Form::Named("</function>"))],
        Calls::Mistral | Calls::MistralNamed => &[("[TOOL_CALLS]", Form::Marked)],
        Calls::Json => &[
            ("```tool_code", Form::Fenced),
            ("```tool_call", Form::Fenced),
            ("```json", Form::Fenced),
            ("```python", Form::Fenced),
        ],
    }
}

/// The length of the longest end of `text` that begins one of `marks`.
pub(super) fn may_become(text: &str, marks: &[&str]) -> usize {
    let begins = |mark: &&str| {
        let longest = text.len().min(mark.len() - 1);
        (1..=longest).rev().find(|length| text.as_bytes().ends_with(&mark.as_bytes()[..*length])).unwrap_or(0)
    };
    marks.iter().map(begins).max().unwrap_or(0)
}

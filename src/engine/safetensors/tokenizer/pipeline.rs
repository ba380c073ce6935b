//! The parts of `tokenizer.json` that stand before and behind its model.

use super::tokens::Tokens;
use serde_json::Value;

/// Whether a part of a pipeline, or one within it, is of this type.
pub(super) fn mentions(part: &Value, kind: &str) -> bool {
    find(part, kind).is_some()
}

/// A part of a pipeline, or one within it, of this type.
pub(super) fn find<'a>(part: &'a Value, kind: &str) -> Option<&'a Value> {
    if part.get("type").and_then(Value::as_str) == Some(kind) {
        return Some(part);
    }
    let inner = ["pretokenizers", "normalizers", "processors"].iter().filter_map(|key| part.get(key)?.as_array());
    inner.flatten().find_map(|part| find(part, kind))
}

/// A part of a pipeline, or those within it.
pub(super) fn parts(part: &Value) -> &[Value] {
    match part.get("normalizers").and_then(Value::as_array) {
        Some(parts) => parts,
        None if part.is_null() => &[],
        None => std::slice::from_ref(part),
    }
}

/// The tokens that texts get before and behind them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Frame {
    pub begin: Option<u32>,
    pub end: Option<u32>,
}

impl Frame {
    /// What a post-processor adds to a text.
    ///
    /// # Errors
    /// When those are several on a side, or none that there is.
    pub fn of(processor: &Value, tokens: &Tokens) -> Result<Frame, String> {
        let token = |name: &str| {
            tokens.find(name).ok_or_else(|| format!("\"post_processor\" adds {name:?}, which is no token"))
        };
        if let Some(template) = find(processor, "TemplateProcessing") {
            let parts = template.get("single").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let text = parts.iter().position(|part| part.get("Sequence").is_some()).unwrap_or(0);
            let one = |parts: &[Value]| match parts {
                [] => Ok(None),
                [part] => token(part.pointer("/SpecialToken/id").and_then(Value::as_str).unwrap_or_default()).map(Some),
                _ => Err("\"post_processor\" adds several tokens on a side, which is not supported".to_owned()),
            };
            return Ok(Frame { begin: one(&parts[..text])?, end: one(parts.get(text + 1..).unwrap_or_default())? });
        }
        let framing = find(processor, "BertProcessing").or_else(|| find(processor, "RobertaProcessing"));
        let side = |key: &str| {
            let name = framing.and_then(|part| part.get(key)?.get(0)?.as_str());
            name.map(token).transpose()
        };
        Ok(Frame { begin: side("cls")?, end: side("sep")? })
    }
}

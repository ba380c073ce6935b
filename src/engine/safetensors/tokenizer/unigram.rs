//! SentencePiece's unigram model, as XLM-RoBERTa has it.

use super::Source;
use super::pipeline::{find, parts};
use super::tokens::{Tokens, UNKNOWN};
use crate::engine::gguf::{Error, Writer};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

/// What a token has that only exists because its number does.
const UNUSED_SCORE: f32 = -10_000.0;

/// Adds the tokens, their scores, and how texts are made ready for them.
pub(super) fn describe(
    source: &Source,
    vocabulary: &[(String, f64)],
    writer: &mut Writer<'static>,
) -> Result<(), Error> {
    let file = &source.file;
    if file.model.byte_fallback {
        return Err(source.wrong("\"model.byte_fallback\" is true, which is not supported with \"Unigram\""));
    }
    let Some(unknown) = file.model.unk_id.filter(|&unknown| (unknown as usize) < vocabulary.len()) else {
        return Err(source.wrong("\"model.unk_id\" is none of the tokens"));
    };
    let numbered = vocabulary.iter().zip(0..vocabulary.len() as u32).map(|((spelling, _), id)| (spelling.as_str(), id));
    let mut tokens = Tokens::of(source, numbered)?;
    tokens.types[unknown as usize] = UNKNOWN;
    let mut scores: Vec<f32> = vocabulary.iter().map(|(_, score)| *score as f32).collect();
    scores.resize(tokens.spellings.len(), UNUSED_SCORE);

    let mut merges = find(&file.pre_tokenizer, "WhitespaceSplit").is_some();
    for part in parts(&file.normalizer) {
        match part.get("type").and_then(Value::as_str).unwrap_or_default() {
            "Precompiled" => {
                let table = part.get("precompiled_charsmap").and_then(Value::as_str).unwrap_or_default();
                let bytes = BASE64_STANDARD.decode(table).map_err(|error| {
                    source.wrong(format!("\"normalizer.precompiled_charsmap\" is no base64: {error}"))
                })?;
                writer.array("tokenizer.ggml.precompiled_charsmap", &bytes);
            }
            // Several spaces become one.
            "Replace" if part.pointer("/pattern/Regex").and_then(Value::as_str) == Some(" {2,}") => merges = true,
            "Strip" => {}
            other => {
                return Err(
                    source.wrong(format!("\"normalizer\" has {other:?}, which is not supported with \"Unigram\""))
                );
            }
        }
    }
    let Some(spaces) = find(&file.pre_tokenizer, "Metaspace") else {
        return Err(source.wrong("\"pre_tokenizer\" has no Metaspace, as that of \"Unigram\" has"));
    };
    let never = spaces.get("prepend_scheme").and_then(Value::as_str) == Some("never")
        || spaces.get("add_prefix_space").and_then(Value::as_bool) == Some(false);
    writer.set("tokenizer.ggml.model", "t5");
    writer.set("tokenizer.ggml.add_space_prefix", !never);
    writer.set("tokenizer.ggml.remove_extra_whitespaces", merges);
    writer.array("tokenizer.ggml.scores", &scores);
    tokens.write(writer);
    source.frame(&tokens, writer, ["bos_token", "eos_token"], ["eos_token_id", "add_eos_token"])
}

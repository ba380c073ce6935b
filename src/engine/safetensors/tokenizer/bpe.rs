//! Merges of pairs: of bytes, or of characters as SentencePiece has them.

use super::pipeline::{find, mentions};
use super::tokens::{Tokens, UNKNOWN};
use super::{File, Source};
use crate::engine::gguf::{Error, Writer};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

/// Older files separate by a space.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Pair(String, String),
    Line(String),
}

/// Adds the tokens and how they are merged.
pub(super) fn describe(
    source: &Source,
    vocabulary: &HashMap<String, u32>,
    writer: &mut Writer<'static>,
) -> Result<(), Error> {
    let file = &source.file;
    let byte_level = mentions(&file.pre_tokenizer, "ByteLevel");
    if !byte_level && !file.model.byte_fallback {
        return Err(source.wrong("neither \"pre_tokenizer\" is ByteLevel nor \"model.byte_fallback\" is true"));
    }
    let mut tokens = Tokens::of(source, vocabulary.iter().map(|(spelling, &id)| (spelling.as_str(), id)))?;
    if let Some(unknown) = file.model.unk_token.as_ref().and_then(|unknown| tokens.find(unknown)) {
        tokens.types[unknown as usize] = UNKNOWN;
    }
    tokens.write(writer);
    let merges: Vec<(&str, &str)> = file
        .model
        .merges
        .iter()
        .enumerate()
        .map(|(at, merge)| {
            let pair = match merge {
                Merge::Pair(left, right) => Some((left.as_str(), right.as_str())),
                Merge::Line(line) => line.split_once(' '),
            };
            pair.ok_or_else(|| source.wrong(format!("\"model.merges\"[{at}] is no pair")))
        })
        .collect::<Result<_, Error>>()?;
    match byte_level {
        true => {
            writer.set("tokenizer.ggml.model", "gpt2");
            writer.set("tokenizer.ggml.pre", pre(source)?);
            let lines: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            writer.array("tokenizer.ggml.merges", &lines);
        }
        false => {
            writer.set("tokenizer.ggml.model", "llama");
            writer.set("tokenizer.ggml.add_space_prefix", adds_space(file));
            writer.array("tokenizer.ggml.scores", &scores(&merges, vocabulary, tokens.types.len()));
        }
    }
    source.frame(&tokens, writer, ["bos_token", "eos_token"], ["eos_token_id", "add_eos_token"])
}
/// SentencePiece merges what makes the token of the highest score; here pairs are ranked.
fn scores(merges: &[(&str, &str)], vocabulary: &HashMap<String, u32>, len: usize) -> Vec<f32> {
    // What is no result of a merge comes last.
    let mut scores = vec![-1e9_f32; len];
    for (rank, (left, right)) in merges.iter().enumerate() {
        if let Some(&id) = vocabulary.get(&[*left, *right].concat()) {
            scores[id as usize] = scores[id as usize].max(-(rank as f32));
        }
    }
    scores
}

/// Whether texts get a space before them.
fn adds_space(file: &File) -> bool {
    let metaspace = find(&file.pre_tokenizer, "Metaspace");
    let scheme = metaspace.and_then(|part| part.get("prepend_scheme")).and_then(Value::as_str);
    mentions(&file.normalizer, "Prepend") || metaspace.is_some() && scheme != Some("never")
}

/// Expressions that cut words, and GGUF's names for them; where words that are tokens need no merges there is another.
const EXPRESSIONS: [(&str, &str, &str); 4] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "smaug-bpe",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
        "",
    ),
    (
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
        "",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "",
        "tekken",
    ),
];

/// GGUF's name for how text is cut into words.
fn pre(source: &Source) -> Result<&'static str, Error> {
    let file = &source.file;
    let split = find(&file.pre_tokenizer, "Split").and_then(|part| part.get("pattern")?.get("Regex")?.as_str());
    let Some(expression) = split else {
        return match find(&file.pre_tokenizer, "Digits").and_then(|part| part.get("individual_digits")?.as_bool()) {
            None => Ok("gpt-2"),
            Some(true) => Ok("smollm"),
            Some(false) => Err(source.wrong("\"pre_tokenizer\" cuts digits in a way that is not supported")),
        };
    };
    let known = EXPRESSIONS.iter().find(|(known, ..)| *known == expression);
    let name = known.map(|&(_, merged, whole)| if file.model.ignore_merges { whole } else { merged });
    name.filter(|name| !name.is_empty()).ok_or_else(|| {
        let shown: String = expression.chars().take(200).collect();
        source.wrong(format!("\"pre_tokenizer\" cuts words by an expression that is not known: {shown}"))
    })
}

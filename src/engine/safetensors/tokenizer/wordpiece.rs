//! BERT's pieces of words.

use super::Source;
use super::pipeline::find;
use super::tokens::{NORMAL, Tokens};
use crate::engine::gguf::{Error, Writer};
use serde_json::Value;
use std::collections::HashMap;

/// What pieces that continue a word are spelled with, and the longest word that is looked at: all models have these.
const CONTINUES: &str = "##";
const LONGEST_WORD: u64 = 100;

/// Adds the tokens and how texts are made ready for them.
pub(super) fn describe(
    source: &Source,
    vocabulary: &HashMap<String, u32>,
    writer: &mut Writer<'static>,
) -> Result<(), Error> {
    let model = &source.file.model;
    let prefix = model.continuing_subword_prefix.as_deref().unwrap_or(CONTINUES);
    if prefix != CONTINUES {
        let problem = format!("\"model.continuing_subword_prefix\" is {prefix:?}, expected {CONTINUES:?}");
        return Err(source.wrong(problem));
    }
    let longest = model.max_input_chars_per_word.unwrap_or(LONGEST_WORD);
    if longest != LONGEST_WORD {
        let problem = format!("\"model.max_input_chars_per_word\" is {longest}, expected {LONGEST_WORD}");
        return Err(source.wrong(problem));
    }
    if find(&source.file.pre_tokenizer, "BertPreTokenizer").is_none() {
        return Err(source.wrong("\"pre_tokenizer\" is not BertPreTokenizer, as that of pieces of words is"));
    }
    let Some(normalizer) = find(&source.file.normalizer, "BertNormalizer") else {
        return Err(source.wrong("\"normalizer\" is not BertNormalizer, as that of pieces of words is"));
    };
    let flag = |name: &str| normalizer.get(name).and_then(Value::as_bool);
    for name in ["clean_text", "handle_chinese_chars"] {
        if flag(name) == Some(false) {
            return Err(source.wrong(format!("\"normalizer.{name}\" is false, which is not supported")));
        }
    }
    let lowercase = flag("lowercase").unwrap_or(true);

    let mut tokens = Tokens::of(source, vocabulary.iter().map(|(spelling, &id)| (spelling.as_str(), id)))?;
    writer.set("tokenizer.ggml.model", "bert");
    writer.set("tokenizer.ggml.normalizer.lowercase", lowercase || source.config.sentences.lowercase);
    writer.set("tokenizer.ggml.normalizer.strip_accents", flag("strip_accents").unwrap_or(lowercase));
    source.frame(&tokens, writer, ["cls_token", "sep_token"], ["seperator_token_id", "add_sep_token"])?;
    // Files have a space before what begins a word, and nothing before what continues it.
    for (spelling, _) in tokens.spellings.iter_mut().zip(&tokens.types).filter(|(_, kind)| **kind == NORMAL) {
        *spelling = match spelling.strip_prefix(CONTINUES) {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ => format!("\u{2581}{spelling}"),
        };
    }
    tokens.write(writer);
    Ok(())
}

//! `tokenizer.json`, in GGUF's keys: byte-level BPE, SentencePiece's BPE with bytes for what has no token ([`bpe`]), BERT's
//! pieces of words ([`wordpiece`]), and SentencePiece's likeliest tokens ([`unigram`]).

mod bpe;
mod pipeline;
mod tokens;
mod unigram;
mod wordpiece;

use super::config::Config;
use super::{json_if_there, wrong};
use crate::engine::gguf::{Error, Writer};
use pipeline::Frame;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tokens::Tokens;

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    vocab: Vocabulary,
    #[serde(default)]
    merges: Vec<bpe::Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
}

/// Of BPE and WordPiece an object, of Unigram a list with scores.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    ById(HashMap<String, u32>),
    Scored(Vec<(String, f64)>),
    Other(serde::de::IgnoredAny),
}

impl Default for Vocabulary {
    fn default() -> Self {
        Vocabulary::ById(HashMap::new())
    }
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// The files that tell of a tokenizer.
struct Source<'a> {
    path: PathBuf,
    file: File,
    /// `tokenizer_config.json`.
    settings: Value,
    config: &'a Config,
}

/// Adds what is known of the tokenizer; nothing, where a folder has none.
pub(super) fn describe(folder: &Path, config: &Config, writer: &mut Writer<'static>) -> Result<(), Error> {
    let path = folder.join("tokenizer.json");
    let Some(file) = json_if_there::<File>(&path)? else { return Ok(()) };
    let settings: Value = json_if_there(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
    let source = Source { path, file, settings, config };
    let kind = source.file.model.kind.as_deref().unwrap_or("BPE");
    match (kind, &source.file.model.vocab) {
        ("BPE", Vocabulary::ById(vocabulary)) => bpe::describe(&source, vocabulary, writer)?,
        ("WordPiece", Vocabulary::ById(vocabulary)) => wordpiece::describe(&source, vocabulary, writer)?,
        ("Unigram", Vocabulary::Scored(vocabulary)) => unigram::describe(&source, vocabulary, writer)?,
        _ => {
            let problem = format!("\"model.type\" is {kind:?}; supported are \"BPE\", \"WordPiece\" and \"Unigram\"");
            return Err(source.wrong(problem));
        }
    }
    chat_templates(folder, &source.settings, writer)
}

impl Source<'_> {
    fn wrong(&self, problem: impl Into<String>) -> Error {
        wrong(&self.path, problem)
    }

    /// The token that `tokenizer_config.json` or `config.json` names for this purpose.
    fn token(&self, tokens: &Tokens, setting: &str) -> Option<u32> {
        let named = || {
            let named = self.settings.get(setting)?;
            let name = named.as_str().or_else(|| named.get("content")?.as_str())?;
            tokens.find(name)
        };
        named().or_else(|| self.config.token(&format!("{setting}_id")))
    }

    /// Adds which tokens are before and behind texts, of which `begin` and `end` are the settings.
    fn frame(
        &self,
        tokens: &Tokens,
        writer: &mut Writer<'static>,
        [begin, end]: [&str; 2],
        [end_key, adds_key]: [&str; 2],
    ) -> Result<(), Error> {
        let frame = Frame::of(&self.file.post_processor, tokens).map_err(|problem| self.wrong(problem))?;
        let flag = |setting: &str| self.settings.get(setting).and_then(Value::as_bool);
        let told = self.token(tokens, end);
        // What is put behind texts need not be what ends an answer.
        if let (Some(added), Some(told)) = (frame.end, told)
            && added != told
        {
            writer.set("tokenizer.ggml.eot_token_id", told);
        }
        for (to, id) in [
            ("bos_token_id", frame.begin.or_else(|| self.token(tokens, begin))),
            (end_key, frame.end.or(told)),
            ("unknown_token_id", self.token(tokens, "unk_token")),
            ("padding_token_id", self.token(tokens, "pad_token")),
        ] {
            if let Some(id) = id {
                writer.set(&format!("tokenizer.ggml.{to}"), id);
            }
        }
        writer.set("tokenizer.ggml.add_bos_token", flag("add_bos_token").unwrap_or(frame.begin.is_some()));
        writer.set(&format!("tokenizer.ggml.{adds_key}"), flag("add_eos_token").unwrap_or(frame.end.is_some()));
        Ok(())
    }
}

fn chat_templates(folder: &Path, settings: &Value, writer: &mut Writer<'static>) -> Result<(), Error> {
    const KEY: &str = "tokenizer.chat_template";
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(template) => {
            writer.set(KEY, template);
            return Ok(());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Io { path, source }),
    }
    match settings.get("chat_template") {
        Some(Value::String(template)) => {
            writer.set(KEY, template.as_str());
        }
        Some(Value::Array(templates)) => {
            let text = |template: &Value, field: &str| Some(template.get(field)?.as_str()?.to_owned());
            // A name that occurs again says what it says at last.
            let named: BTreeMap<String, String> =
                templates.iter().filter_map(|one| Some((text(one, "name")?, text(one, "template")?))).collect();
            for (name, template) in named {
                let key = if name == "default" { KEY.to_owned() } else { format!("{KEY}.{name}") };
                writer.set(&key, template);
            }
        }
        _ => {}
    }
    Ok(())
}

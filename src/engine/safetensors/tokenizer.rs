//! `tokenizer.json`, in GGUF's keys: byte-level BPE, and SentencePiece's BPE with bytes for what has no token.

use super::config::Config;
use super::{json_if_there, wrong};
use crate::engine::gguf::{Error, Writer};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// More tokens are not believed.
const MAX_TOKENS: u32 = 1 << 24;

/// What GGUF says of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

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
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    unk_token: Option<String>,
}

/// Of BPE an object; others have lists.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    ById(HashMap<String, u32>),
    Other(serde::de::IgnoredAny),
}

impl Default for Vocabulary {
    fn default() -> Self {
        Vocabulary::ById(HashMap::new())
    }
}

/// Older files separate by a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// Adds what is known of the tokenizer; nothing, where a folder has none.
pub(super) fn describe(folder: &Path, config: &Config, writer: &mut Writer<'static>) -> Result<(), Error> {
    let path = folder.join("tokenizer.json");
    let Some(file) = json_if_there::<File>(&path)? else { return Ok(()) };
    let settings: Value = json_if_there(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
    let kind = file.model.kind.as_deref().unwrap_or("BPE");
    let Vocabulary::ById(vocabulary) = &file.model.vocab else {
        return Err(wrong(&path, format!("\"model.type\" is {kind:?}; only \"BPE\" is supported")));
    };
    if kind != "BPE" {
        return Err(wrong(&path, format!("\"model.type\" is {kind:?}; only \"BPE\" is supported")));
    }
    let byte_level = mentions(&file.pre_tokenizer, "ByteLevel");
    if !byte_level && !file.model.byte_fallback {
        return Err(wrong(&path, "neither \"pre_tokenizer\" is ByteLevel nor \"model.byte_fallback\" is true"));
    }
    let tokens = Tokens::of(&file, vocabulary, &path)?;
    writer.array("tokenizer.ggml.tokens", &tokens.spellings);
    writer.array("tokenizer.ggml.token_type", &tokens.types);
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
            pair.ok_or_else(|| wrong(&path, format!("\"model.merges\"[{at}] is no pair")))
        })
        .collect::<Result<_, Error>>()?;
    match byte_level {
        true => {
            writer.set("tokenizer.ggml.model", "gpt2");
            writer.set("tokenizer.ggml.pre", pre(&file, &path)?);
            let lines: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            writer.array("tokenizer.ggml.merges", &lines);
        }
        false => {
            writer.set("tokenizer.ggml.model", "llama");
            writer.set("tokenizer.ggml.add_space_prefix", adds_space(&file));
            writer.array("tokenizer.ggml.scores", &scores(&merges, vocabulary, tokens.types.len()));
        }
    }
    let id = |setting: &str| {
        let named = settings.get(setting)?;
        let name = named.as_str().or_else(|| named.get("content")?.as_str())?;
        tokens.find(name)
    };
    for (to, setting) in
        [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        if let Some(id) = id(setting).or_else(|| config.token(&format!("{setting}_id"))) {
            writer.set(&format!("tokenizer.ggml.{to}_token_id"), id);
        }
    }
    let flag = |setting: &str| settings.get(setting).and_then(Value::as_bool);
    let (begins, ends) = template_adds(&file.post_processor).unwrap_or((false, false));
    writer.set("tokenizer.ggml.add_bos_token", flag("add_bos_token").unwrap_or(begins));
    writer.set("tokenizer.ggml.add_eos_token", flag("add_eos_token").unwrap_or(ends));
    chat_templates(folder, &settings, writer)
}

/// All tokens by their ids.
struct Tokens {
    spellings: Vec<String>,
    types: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Tokens {
    fn of(file: &File, vocabulary: &HashMap<String, u32>, path: &Path) -> Result<Tokens, Error> {
        let ids = vocabulary.values().copied().chain(file.added_tokens.iter().map(|token| token.id));
        let last = ids.max().filter(|&last| last < MAX_TOKENS);
        let Some(last) = last else {
            return Err(wrong(path, format!("\"model.vocab\" has no tokens, or one beyond {MAX_TOKENS}")));
        };
        // An id far beyond the others would cost memory for tokens that there are not.
        if last as usize > 4 * (vocabulary.len() + file.added_tokens.len()) + (1 << 16) {
            return Err(wrong(
                path,
                format!("\"model.vocab\" has {} tokens, and one with the id {last}", vocabulary.len()),
            ));
        }
        let mut spellings: Vec<String> = Vec::new();
        spellings.resize(last as usize + 1, String::new());
        let mut types = vec![UNUSED; spellings.len()];
        for (spelling, &id) in vocabulary {
            spellings[id as usize] = spelling.clone();
            let is_byte = spelling.len() == 6 && spelling.starts_with("<0x") && file.model.byte_fallback;
            types[id as usize] = if is_byte { BYTE } else { NORMAL };
        }
        for token in &file.added_tokens {
            let spelling = &mut spellings[token.id as usize];
            if !spelling.is_empty() && *spelling != token.content {
                let problem = format!("the id {} is that of {spelling:?} and of {:?}", token.id, token.content);
                return Err(wrong(path, problem));
            }
            *spelling = token.content.clone();
            types[token.id as usize] = if token.special { CONTROL } else { USER_DEFINED };
        }
        for (id, spelling) in spellings.iter_mut().enumerate().filter(|(_, spelling)| spelling.is_empty()) {
            *spelling = format!("[PAD{id}]");
        }
        let ids: HashMap<String, u32> = spellings.iter().cloned().zip(0..).collect();
        if let Some(&unknown) = file.model.unk_token.as_ref().and_then(|unknown| ids.get(unknown)) {
            types[unknown as usize] = UNKNOWN;
        }
        Ok(Tokens { spellings, types, ids })
    }

    fn find(&self, spelling: &str) -> Option<u32> {
        self.ids.get(spelling).copied()
    }
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

/// Whether a part of a pipeline, or one within it, is of this type.
fn mentions(part: &Value, kind: &str) -> bool {
    find(part, kind).is_some()
}

fn find<'a>(part: &'a Value, kind: &str) -> Option<&'a Value> {
    if part.get("type").and_then(Value::as_str) == Some(kind) {
        return Some(part);
    }
    let inner = ["pretokenizers", "normalizers", "processors"].iter().filter_map(|key| part.get(key)?.as_array());
    inner.flatten().find_map(|part| find(part, kind))
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
fn pre(file: &File, path: &Path) -> Result<&'static str, Error> {
    let split = find(&file.pre_tokenizer, "Split").and_then(|part| part.get("pattern")?.get("Regex")?.as_str());
    let Some(expression) = split else {
        return match find(&file.pre_tokenizer, "Digits").and_then(|part| part.get("individual_digits")?.as_bool()) {
            None => Ok("gpt-2"),
            Some(true) => Ok("smollm"),
            Some(false) => Err(wrong(path, "\"pre_tokenizer\" cuts digits in a way that is not supported")),
        };
    };
    let known = EXPRESSIONS.iter().find(|(known, ..)| *known == expression);
    let name = known.map(|&(_, merged, whole)| if file.model.ignore_merges { whole } else { merged });
    name.filter(|name| !name.is_empty()).ok_or_else(|| {
        let shown: String = expression.chars().take(200).collect();
        wrong(path, format!("\"pre_tokenizer\" cuts words by an expression that is not known: {shown}"))
    })
}

/// Whether texts get tokens before and behind them.
fn template_adds(processor: &Value) -> Option<(bool, bool)> {
    let single = find(processor, "TemplateProcessing")?.get("single")?.as_array()?;
    let text = single.iter().position(|part| part.get("Sequence").is_some())?;
    Some((text > 0, text + 1 < single.len()))
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

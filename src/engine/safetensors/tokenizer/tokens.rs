use super::Source;
use crate::engine::gguf::{Error, Writer};
use std::collections::HashMap;

/// More tokens are not believed.
const MAX_TOKENS: u32 = 1 << 24;

/// What GGUF says of tokens.
pub(super) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;
pub(super) const BYTE: i32 = 6;

/// All tokens by their ids.
pub(super) struct Tokens {
    pub spellings: Vec<String>,
    pub types: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Tokens {
    /// Those of a model's vocabulary, and those that are added to it.
    pub fn of<'a>(
        source: &Source,
        vocabulary: impl ExactSizeIterator<Item = (&'a str, u32)> + Clone,
    ) -> Result<Tokens, Error> {
        let file = &source.file;
        let ids = vocabulary.clone().map(|(_, id)| id).chain(file.added_tokens.iter().map(|token| token.id));
        let last = ids.max().filter(|&last| last < MAX_TOKENS);
        let Some(last) = last else {
            return Err(source.wrong(format!("\"model.vocab\" has no tokens, or one beyond {MAX_TOKENS}")));
        };
        // An id far beyond the others would cost memory for tokens that there are not.
        if last as usize > 4 * (vocabulary.len() + file.added_tokens.len()) + (1 << 16) {
            let problem = format!("\"model.vocab\" has {} tokens, and one with the id {last}", vocabulary.len());
            return Err(source.wrong(problem));
        }
        let mut spellings: Vec<String> = Vec::new();
        spellings.resize(last as usize + 1, String::new());
        let mut types = vec![UNUSED; spellings.len()];
        for (spelling, id) in vocabulary {
            spellings[id as usize] = spelling.to_owned();
            let is_byte = spelling.len() == 6 && spelling.starts_with("<0x") && file.model.byte_fallback;
            types[id as usize] = if is_byte { BYTE } else { NORMAL };
        }
        for token in &file.added_tokens {
            let spelling = &mut spellings[token.id as usize];
            if !spelling.is_empty() && *spelling != token.content {
                let problem = format!("the id {} is that of {spelling:?} and of {:?}", token.id, token.content);
                return Err(source.wrong(problem));
            }
            *spelling = token.content.clone();
            types[token.id as usize] = if token.special { CONTROL } else { USER_DEFINED };
        }
        for (id, spelling) in spellings.iter_mut().enumerate().filter(|(_, spelling)| spelling.is_empty()) {
            *spelling = format!("[PAD{id}]");
        }
        let ids: HashMap<String, u32> = spellings.iter().cloned().zip(0..).collect();
        Ok(Tokens { spellings, types, ids })
    }

    /// The token that is spelled so.
    pub fn find(&self, spelling: &str) -> Option<u32> {
        self.ids.get(spelling).copied()
    }

    /// Adds how they are spelled, and what they are for.
    pub fn write(&self, writer: &mut Writer<'static>) {
        writer.array("tokenizer.ggml.tokens", &self.spellings);
        writer.array("tokenizer.ggml.token_type", &self.types);
    }
}

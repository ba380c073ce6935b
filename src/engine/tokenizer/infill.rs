use super::vocabulary::Vocabulary;
use super::{Error, Special, Token, Tokenizer};
use crate::engine::gguf::Metadata;

/// Keys that name a token, newest first, and what it is called in files that do not say.
type Names = (&'static [&'static str], &'static [&'static str]);

const PREFIX: Names = (
    &["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"],
    &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>"],
);
const SUFFIX: Names = (
    &["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"],
    &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>"],
);
const MIDDLE: Names = (
    &["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"],
    &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>"],
);

/// The tokens by which a model is asked for what stands between two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Infill {
    prefix: Token,
    suffix: Token,
    middle: Token,
}

impl Infill {
    /// Those of a file, if it has all of them.
    ///
    /// # Errors
    /// A key is of another type.
    pub(super) fn of(vocabulary: &Vocabulary, metadata: &Metadata) -> Result<Option<Infill>, Error> {
        let find = |(keys, names): Names| -> Result<Option<Token>, Error> {
            for key in keys {
                if let Some(token) = metadata.find(key)?.filter(|&token: &Token| (token as usize) < vocabulary.len()) {
                    return Ok(Some(token));
                }
            }
            Ok(names.iter().find_map(|name| vocabulary.find(name.as_bytes())))
        };
        let tokens = (find(PREFIX)?, find(SUFFIX)?, find(MIDDLE)?);
        Ok(match tokens {
            (Some(prefix), Some(suffix), Some(middle)) => Some(Infill { prefix, suffix, middle }),
            _ => None,
        })
    }
}

impl Tokenizer {
    /// The tokens that ask for what stands between `before` and `after`, of which `room` are to fit: what is farthest from
    /// the gap is left out, three quarters of the room being for what comes before it. With how many were left out. None
    /// where the model was not trained for it.
    pub fn infill(&self, before: &str, after: &str, room: usize) -> Option<(Vec<Token>, usize)> {
        let Infill { prefix, suffix, middle } = self.infill?;
        // Whatever stands in somebody's code is text.
        let [mut before, mut after] = [before, after].map(|text| self.encode(text, Special::Plain, false));
        let bos = self.begins_with();
        let room = room.saturating_sub(3 + bos.iter().count());
        let all = before.len() + after.len();
        if all > room {
            let most = (room / 4).max(room.saturating_sub(before.len()));
            after.truncate(most);
            before.drain(..before.len().saturating_sub(room - after.len()));
        }
        let left_out = all - before.len() - after.len();
        let tokens = bos.into_iter().chain([prefix]).chain(before).chain([suffix]).chain(after).chain([middle]);
        Some((tokens.collect(), left_out))
    }
}

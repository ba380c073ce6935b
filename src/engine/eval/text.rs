use crate::engine::Error;
use crate::engine::tokenizer::{Special, Tokenizer};
use std::ops::Range;

/// A text in chunks of a context each; what is left over at its end does not count.
#[derive(Debug, Clone)]
pub struct Text {
    tokens: Vec<u32>,
    bos: Option<u32>,
    context: usize,
}

impl Text {
    /// The tokens of `text` in chunks of `context`, at most `chunks` of them.
    ///
    /// # Errors
    /// When the context is shorter than 4 tokens, or the text shorter than two contexts.
    pub fn new(tokenizer: &Tokenizer, text: &str, context: usize, chunks: Option<usize>) -> Result<Text, Error> {
        if context < 4 {
            return Err(Error::Request(format!("a context of {context} tokens is too short, at least 4 are needed")));
        }
        let mut tokens = tokenizer.encode(text, Special::Plain, true);
        if tokens.len() < 2 * context {
            let problem = format!(
                "the text has {} tokens, and with a context of {context} at least {} are needed",
                tokens.len(),
                2 * context
            );
            return Err(Error::Request(problem));
        }
        let chunks = chunks.unwrap_or(usize::MAX).clamp(1, tokens.len() / context);
        tokens.truncate(chunks * context);
        Ok(Text { tokens, bos: tokenizer.begins_with(), context })
    }

    /// Of tokens that were cut already, such as those that a file of predictions names.
    pub(super) fn from_tokens(tokens: Vec<u32>, tokenizer: &Tokenizer, context: usize) -> Text {
        Text { tokens, bos: tokenizer.begins_with(), context }
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = &[u32]> {
        self.tokens.chunks_exact(self.context)
    }

    /// The token in the place of a chunk's first.
    pub(super) fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The positions of a chunk whose predictions count; that of its last token has nothing to be compared with.
    pub(super) fn counted(&self) -> Range<usize> {
        counted(self.context)
    }
}

/// The same, of any chunk of `context` tokens.
pub(super) fn counted(context: usize) -> Range<usize> {
    context / 2..context - 1
}

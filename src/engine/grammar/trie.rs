use crate::engine::tokenizer::{Token, Tokenizer};
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use std::sync::Arc;

/// The vocabulary as grammars see it: the bytes of each token, and which tokens end an answer.
///
/// Control tokens are out of the reach of text: their names begin with a byte that no text has, so that only a grammar
/// that names one reaches it.
pub(super) fn environment(tokenizer: &Tokenizer) -> TokEnv {
    let word = |token: Token| match tokenizer.piece(token) {
        b"" if tokenizer.name(token).is_empty() => Vec::new(),
        b"" => [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.name(token)].concat(),
        piece => piece.to_vec(),
    };
    let tokens = 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
    let words: Vec<Vec<u8>> = tokens.clone().map(word).collect();
    let ends: Vec<Token> = tokenizer.ends().filter(|end| tokens.contains(end)).collect();
    let info = TokRxInfo::new(tokens.end, ends.first().copied().unwrap_or(INVALID_TOKEN));
    let mut trie = TokTrie::from(&info, &words);
    if !ends.is_empty() {
        trie = trie.with_eos_tokens(&ends);
    }
    Arc::new(ApproximateTokEnv::new(trie))
}

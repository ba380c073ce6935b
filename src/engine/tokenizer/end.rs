use super::vocabulary::{Role, Vocabulary};
use super::{Error, Token};
use crate::engine::gguf::Metadata;
use std::collections::BTreeSet;

/// Tokens that end an answer in one model or another, which files often fail to say: of turns, of messages to tools, of
/// texts. llama.cpp's list.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Tokens for completing code, beyond which a model writes another file: keys that name them, and names.
const FILE_ENDS: &[(&str, &[&str])] = &[
    ("tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("tokenizer.ggml.fim_rep_token_id", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// The tokens that end an answer. They become control tokens where the file forgot to say so.
pub(super) fn tokens(
    vocabulary: &mut Vocabulary,
    metadata: &Metadata,
    eos: Option<Token>,
) -> Result<BTreeSet<Token>, Error> {
    let len = vocabulary.len();
    let told = |key: &str| -> Result<Option<Token>, Error> {
        Ok(metadata.find(key)?.filter(|&token: &Token| (token as usize) < len))
    };
    let named = |names: &[&str]| names.iter().filter_map(|name| vocabulary.find(name.as_bytes())).collect::<Vec<_>>();

    let mut controls = named(ENDS);
    for (key, names) in FILE_ENDS {
        match told(key)? {
            Some(token) => controls.push(token),
            None => controls.extend(named(names).first()),
        }
    }
    let mut ends: BTreeSet<Token> = controls.iter().copied().chain(eos).collect();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        ends.extend(told(key)?);
    }

    let find = |name: &str| vocabulary.find(name.as_bytes()).filter(|token| ends.contains(token));
    // Where calls of tools have an end of their own, `<|end|>` ends a message of several, not the answer.
    let calls = find("<|call|>").is_some() && find("<|return|>").is_some();
    let flushes = find("<|call|>").or(find("<|calls|>")).is_some() && find("<|flush|>").is_some();
    let message_end = find("<|end|>").filter(|_| calls || flushes);
    // Gemma 4 writes `</s>` in answers about HTML.
    let strike = find("</s>").filter(|_| find("<|tool_response>").is_some());
    for token in message_end.into_iter().chain(strike) {
        ends.remove(&token);
        controls.retain(|&control| control != token);
    }
    controls.into_iter().for_each(|token| vocabulary.set_role(token, Role::Control));
    message_end.into_iter().for_each(|token| vocabulary.set_role(token, Role::UserDefined));
    strike.into_iter().for_each(|token| vocabulary.set_role(token, Role::Normal));
    // The parts of a message with channels are for the reader's parser.
    for name in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
        if let Some(token) = vocabulary.find(name.as_bytes()) {
            vocabulary.set_role(token, Role::UserDefined);
        }
    }
    Ok(ends)
}

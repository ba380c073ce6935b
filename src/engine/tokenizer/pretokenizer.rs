use super::Error;
use fancy_regex::Regex;
use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Cuts text into words, within which BPE merges: each expression in turn cuts every part into what it matches and what
/// lies between.
#[derive(Debug)]
pub(super) struct Pretokenizer {
    stages: Vec<Stage>,
    traits: Traits,
}

#[derive(Debug)]
struct Stage {
    expression: Regex,
    spaces: Spaces,
}

/// Most models' expressions end in `\s+(?!\S)|\s+`: of several spaces before a word the last one belongs to the word.
/// Look-ahead makes matching a backtracking one, many times slower, so the expressions here end in `\s+`, and the
/// look-ahead is done by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spaces {
    /// No such ending.
    Kept,
    /// Any match of spaces alone is by that ending.
    Shared,
    /// As `Shared`, but `\s*[\r\n]+` goes before it, whose matches end in a line's end.
    SharedInLines,
}

/// What else differs between models.
#[derive(Debug, Clone, Copy)]
struct Traits {
    /// Spellings are of bytes, not of characters.
    byte_level: bool,
    /// A word that is a token becomes it without merges.
    whole_words: bool,
    /// Texts begin with a BOS token where the file does not say.
    adds_bos: bool,
    /// Characters are composed first (NFC), which llama.cpp leaves out and the models were trained with.
    composes: bool,
}

const BYTES: Traits = Traits { byte_level: true, whole_words: false, adds_bos: false, composes: false };
const COMPOSED: Traits = Traits { composes: true, ..BYTES };
const WHOLE: Traits = Traits { whole_words: true, ..BYTES };
const WHOLE_BOS: Traits = Traits { adds_bos: true, ..WHOLE };
const CHARS: Traits = Traits { byte_level: false, ..BYTES };

const GPT2: (&str, Spaces) = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Spaces::Shared);

const LLAMA3: (&str, Spaces) = (
    r"'[sStTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Spaces::SharedInLines,
);

const QWEN2: (&str, Spaces) = (
    r"'[sStTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Spaces::SharedInLines,
);

const QWEN35: (&str, Spaces) = (
    r"'[sStTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Spaces::SharedInLines,
);

const DEEPSEEK3: (&str, Spaces) = (
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##,
    Spaces::SharedInLines,
);

const TEKKEN: (&str, Spaces) = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    Spaces::SharedInLines,
);

const GPT4O: (&str, Spaces) = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sStTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sStTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    Spaces::SharedInLines,
);

const fn kept(expression: &str) -> (&str, Spaces) {
    (expression, Spaces::Kept)
}

impl Pretokenizer {
    /// The one that files call `pre`.
    pub(super) fn named(pre: &str) -> Result<Pretokenizer, Error> {
        let (traits, stages): (Traits, &[(&str, Spaces)]) = match pre {
            "default" => (BYTES, &[kept(r"[\p{P}$+<=>^~|]+"), GPT2, kept(r"\p{N}+"), kept("[0-9][0-9][0-9]")]),
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de" | "a.x-4.0"
            | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" | "mpt" | "olmo" | "jais"
            | "trillion" | "granite-docling" => (BYTES, &[GPT2]),
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
                (BYTES, &[kept(r"\p{N}"), GPT2])
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
            | "jina-v5-nano" => (WHOLE_BOS, &[LLAMA3]),
            "glm4" | "glm5" => (WHOLE, &[LLAMA3]),
            "dbrx" | "smaug-bpe" | "chatglm-bpe" => (BYTES, &[LLAMA3]),
            "qwen2" => (COMPOSED, &[QWEN2]),
            "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "stablelm2" | "hunyuan" | "solar-open" | "megrez" | "grok-2" => {
                (BYTES, &[QWEN2])
            }
            "qwen35" => (BYTES, &[QWEN35]),
            "falcon" => (BYTES, &[kept(r"[\p{P}$+<=>^~|`]+"), GPT2, kept("[0-9][0-9][0-9]")]),
            "deepseek-llm" => (
                BYTES,
                &[
                    kept(r"[\r\n]"),
                    kept(r"\s?[\p{Lu}\p{Ll}\p{Lt}]+"),
                    kept("\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"),
                    kept(r"\s+$"),
                    kept("[一-龥\u{800}-一가-\u{d7ff}]+"),
                    kept(r"\p{N}+"),
                ],
            ),
            "deepseek-coder" => (
                BYTES,
                &[
                    kept(r"[\r\n]"),
                    kept(r"\s?\p{L}+"),
                    kept(r"\s?\p{P}+"),
                    kept("[一-龥\u{800}-一가-\u{d7ff}]+"),
                    kept(r"\p{N}"),
                ],
            ),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => {
                (BYTES, &[kept(r"\p{N}{1,3}"), kept("[一-龥\u{3040}-ゟ゠-ヿ]+"), DEEPSEEK3])
            }
            "tekken" => (WHOLE_BOS, &[TEKKEN]),
            "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => (BYTES, &[GPT4O]),
            "gemma4" => (CHARS, &[kept(r"[^\n]+|\n+")]),
            other => {
                let message = format!(
                    "the model's tokenizer cuts words by the rules {other:?} (\"tokenizer.ggml.pre\"), which are not known"
                );
                return Err(Error::Unsupported(message));
            }
        };
        let stages = stages.iter().map(|&(expression, spaces)| {
            let expression = Regex::new(expression).map_err(|error| Error::Unsupported(format!("{pre:?}: {error}")))?;
            Ok(Stage { expression, spaces })
        });
        Ok(Pretokenizer { stages: stages.collect::<Result<_, Error>>()?, traits })
    }

    /// The text as the model was trained on it.
    pub(super) fn normalise<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.traits.composes && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            true => text.nfc().collect::<String>().into(),
            false => text.into(),
        }
    }

    /// Whether spellings are of bytes, not of characters.
    pub(super) fn byte_level(&self) -> bool {
        self.traits.byte_level
    }

    /// Whether a word that is a token becomes it without merges.
    pub(super) fn whole_words(&self) -> bool {
        self.traits.whole_words
    }

    /// Whether texts begin with a BOS token where the file does not say.
    pub(super) fn adds_bos(&self) -> bool {
        self.traits.adds_bos
    }

    /// Tells each word of `text`, in order; together they are the text.
    pub(super) fn split(&self, text: &str, mut each: impl FnMut(&str)) {
        cut(&self.stages, text, &mut each);
    }
}

fn cut(stages: &[Stage], text: &str, each: &mut dyn FnMut(&str)) {
    let Some((stage, rest)) = stages.split_first() else { return each(text) };
    let mut part = |start: usize, end: usize| {
        if start < end {
            cut(rest, &text[start..end], each);
        }
    };
    let (mut done, mut at) = (0, 0);
    // An error would be one of backtracking, which none of the expressions does.
    while let Ok(Some(found)) = stage.expression.find_from_pos(text, at) {
        let end = stage.spaces.end(text, found.start(), found.end());
        part(done, found.start());
        part(found.start(), end);
        (done, at) = (end, end);
    }
    part(done, text.len());
}

impl Spaces {
    /// Where a match of `text[start..end]` ends when the look-ahead is done.
    fn end(self, text: &str, start: usize, end: usize) -> usize {
        let found = &text[start..end];
        if self == Spaces::Kept || end == text.len() || !found.chars().all(char::is_whitespace) {
            return end;
        }
        match found.char_indices().next_back() {
            Some((_, '\r' | '\n')) if self == Spaces::SharedInLines => end,
            Some((last, _)) if last > 0 => start + last,
            _ => end,
        }
    }
}

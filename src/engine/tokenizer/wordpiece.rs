use super::spm::SPACE;
use super::vocabulary::{Role, Vocabulary};
use super::{Error, Token};
use crate::engine::gguf::Metadata;
use fancy_regex::Regex;
use unicode_normalization::UnicodeNormalization;

/// Words with more characters than this are not looked at.
const LONGEST_WORD: usize = 100;

/// BERT's WordPiece: text becomes words, without case and accents where the model does not know them, and a word the
/// longest pieces that it begins with, one after the other. Files spell a piece that begins a word with SentencePiece's
/// space, and one that continues it as it is.
#[derive(Debug)]
pub(super) struct WordPiece {
    unknown: Token,
    lowercase: bool,
    strip_accents: bool,
    /// Unicode's categories beyond ASCII, as the tokenizers library has them: it knows no character since Unicode 8.
    punctuation: Regex,
    other: Regex,
    accent: Regex,
}

impl WordPiece {
    pub(super) fn new(vocabulary: &Vocabulary, metadata: &Metadata) -> Result<WordPiece, Error> {
        const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
        let unknown = metadata.find(UNKNOWN)?.unwrap_or(100);
        if unknown as usize >= vocabulary.len() {
            let message = format!("{UNKNOWN:?} is {unknown}, of {} tokens", vocabulary.len());
            return Err(Error::Inconsistent(message));
        }
        let lowercase = metadata.find("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let class = |class: &str| Regex::new(class).map_err(|error| Error::Unsupported(error.to_string()));
        Ok(WordPiece {
            unknown,
            lowercase,
            strip_accents: metadata.find("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase),
            punctuation: class(r"[\p{P}&&\p{age=8.0}]")?,
            other: class(r"[[\p{Cc}\p{Cf}\p{Co}]&&\p{age=8.0}]")?,
            accent: class(r"[\p{Mn}&&\p{age=8.0}]")?,
        })
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, tokens: &mut Vec<Token>) {
        let text = self.normal(text);
        let mut spelling = String::new();
        for word in text.split(char::is_whitespace) {
            let mut rest = word;
            while let Some(char) = rest.chars().next() {
                let end = match self.is_punctuation(char) {
                    true => char.len_utf8(),
                    false => rest.find(|char| self.is_punctuation(char)).unwrap_or(rest.len()),
                };
                self.pieces(vocabulary, &rest[..end], &mut spelling, tokens);
                rest = &rest[end..];
            }
        }
    }

    /// The text as the model knows it, its words between spaces.
    fn normal(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        for char in text.chars() {
            match char {
                '\t' | '\n' | '\r' => clean.push(' '),
                '\0' | char::REPLACEMENT_CHARACTER => {}
                _ if is(&self.other, char, char::is_ascii_control) => {}
                _ if is_ideograph(char) => clean.extend([' ', char, ' ']),
                _ => clean.push(char),
            }
        }
        if self.strip_accents {
            clean = clean.nfd().filter(|&char| !is(&self.accent, char, |_| false)).collect();
        }
        match self.lowercase {
            true => clean.chars().flat_map(char::to_lowercase).collect(),
            false => clean,
        }
    }

    fn is_punctuation(&self, char: char) -> bool {
        is(&self.punctuation, char, char::is_ascii_punctuation)
    }

    /// Appends the pieces of a word; of one that does not wholly consist of some, that it is unknown.
    fn pieces(&self, vocabulary: &Vocabulary, word: &str, spelling: &mut String, tokens: &mut Vec<Token>) {
        let before = tokens.len();
        spelling.clear();
        spelling.push_str(SPACE);
        spelling.push_str(word);
        // What begins a word has the space before it, and that alone is no piece.
        let (mut at, mut shortest) = (0, SPACE.len() + 1);
        while at < spelling.len() {
            let most = (spelling.len() - at).min(vocabulary.longest());
            let found = (shortest..=most).rev().find_map(|len| {
                let piece = spelling.get(at..at + len)?;
                let token = vocabulary.find(piece.as_bytes())?;
                // A space within a word is a character like any other, not a beginning.
                let begins = at > 0 && piece.starts_with(SPACE);
                (vocabulary.role(token) != Role::Control && !begins).then_some((len, token))
            });
            let known = word.chars().nth(LONGEST_WORD).is_none();
            let Some((len, token)) = found.filter(|_| known) else {
                tokens.truncate(before);
                return tokens.push(self.unknown);
            };
            tokens.push(token);
            at += len;
            shortest = 1;
        }
    }
}

/// Whether a character is of a class, of which those in ASCII are told by `ascii`.
fn is(class: &Regex, char: char, ascii: impl Fn(&char) -> bool) -> bool {
    match char.is_ascii() {
        true => ascii(&char),
        false => class.is_match(char.encode_utf8(&mut [0; 4])).unwrap_or(false),
    }
}

/// Whether it is one of Chinese's, Japanese's or Korean's, each of which is a word.
fn is_ideograph(char: char) -> bool {
    matches!(u32::from(char),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

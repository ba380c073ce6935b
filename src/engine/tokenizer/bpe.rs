use super::merge::{Merged, Merger};
use super::pretokenizer::Pretokenizer;
use super::vocabulary::{Role, Vocabulary};
use super::{Error, Token, spm};
use crate::engine::gguf::Gguf;
use std::collections::HashMap;

/// BPE by ranked merges. Byte-level: the characters of a spelling stand for bytes, so that any text has tokens. Gemma 4
/// spells like SentencePiece instead.
#[derive(Debug)]
pub(super) struct Bpe {
    pretokenizer: Pretokenizer,
    /// (left, right) to (rank, result). Numbers beyond the vocabulary are spellings that only merges know.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// The tokens of single bytes.
    bytes: [Option<Token>; 256],
}

/// A character or byte that has no token and is in no merge.
const NO_TOKEN: u32 = u32::MAX;

impl Bpe {
    pub(super) fn new(vocabulary: &Vocabulary, gguf: &Gguf, pre: &str) -> Result<Bpe, Error> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let pretokenizer = Pretokenizer::named(pre)?;
        let mut beyond = HashMap::new();
        let mut id = |spelling: &[u8]| {
            vocabulary.find(spelling).unwrap_or_else(|| {
                let next = (vocabulary.len() + beyond.len()) as u32;
                *beyond.entry(spelling.to_vec()).or_insert(next)
            })
        };
        let lines = gguf.metadata().strings(MERGES)?;
        let mut merges = HashMap::with_capacity(lines.len());
        for (rank, line) in (0..).zip(lines) {
            // The left part is never empty, and may be a space itself.
            let space = line.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
            let Some(space) = space.filter(|&at| at + 1 < line.len()) else {
                return Err(Error::Inconsistent(format!(
                    "{MERGES:?}[{rank}] is {:?}, no pair",
                    line.escape_ascii().to_string()
                )));
            };
            let (left, right) = (&line[..space], &line[space + 1..]);
            merges.entry((id(left), id(right))).or_insert((rank, id(&[left, right].concat())));
        }
        let bytes = match pretokenizer.byte_level() {
            true => {
                std::array::from_fn(|byte| vocabulary.find(byte_char(byte as u8).encode_utf8(&mut [0; 2]).as_bytes()))
            }
            false => vocabulary.byte_tokens(),
        };
        Ok(Bpe { pretokenizer, merges, bytes })
    }

    /// Whether texts begin with a BOS token where the file does not say.
    pub(super) fn adds_bos(&self) -> bool {
        self.pretokenizer.adds_bos()
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, tokens: &mut Vec<Token>) {
        let mut merger = Merger::default();
        let text = &*self.pretokenizer.normalise(text);
        if self.pretokenizer.byte_level() {
            let mut spelling = String::new();
            self.pretokenizer.split(text, |word| {
                if self.pretokenizer.whole_words() {
                    spelling.clear();
                    spelling.extend(word.bytes().map(byte_char));
                    let token = vocabulary.find(spelling.as_bytes());
                    if let Some(token) = token.filter(|&token| vocabulary.role(token) != Role::Control) {
                        return tokens.push(token);
                    }
                }
                let symbols = word.bytes().map(|byte| (1, self.bytes[byte as usize].unwrap_or(NO_TOKEN)));
                self.merge(&mut merger, vocabulary, word.as_bytes(), symbols, tokens);
            });
        } else {
            let text = text.replace(' ', "\u{2581}");
            self.pretokenizer.split(&text, |word| {
                if let Some(token) = vocabulary.find(word.as_bytes()).filter(|_| word.starts_with('\n')) {
                    return tokens.push(token);
                }
                let symbols = word.char_indices().map(|(at, char)| {
                    let len = char.len_utf8();
                    (len, vocabulary.find(&word.as_bytes()[at..at + len]).unwrap_or(NO_TOKEN))
                });
                self.merge(&mut merger, vocabulary, word.as_bytes(), symbols, tokens);
            });
        }
    }

    fn merge(
        &self,
        merger: &mut Merger,
        vocabulary: &Vocabulary,
        word: &[u8],
        symbols: impl Iterator<Item = (usize, u32)>,
        tokens: &mut Vec<Token>,
    ) {
        let pair = |left, right, _| self.merges.get(&(left, right)).map(|&(rank, id)| Merged { rank, id });
        merger.run(symbols, pair, |place, id| {
            if (id as usize) < vocabulary.len() {
                tokens.push(id);
            } else {
                tokens.extend(word[place].iter().filter_map(|&byte| self.bytes[byte as usize]));
            }
        });
    }

    /// The bytes that a token stands for.
    pub(super) fn piece(&self, vocabulary: &Vocabulary, token: Token) -> Vec<u8> {
        let spelling = vocabulary.spelling(token);
        match vocabulary.role(token) {
            Role::Byte => vocabulary.byte(token).map_or_else(|| spelling.to_vec(), |byte| vec![byte]),
            Role::Normal if !self.pretokenizer.byte_level() => spm::unescape(spelling),
            // What is not spelled in bytes' characters stands for itself.
            Role::Normal => String::from_utf8_lossy(spelling)
                .chars()
                .map(char_byte)
                .collect::<Option<Vec<u8>>>()
                .unwrap_or_else(|| spelling.to_vec()),
            _ => spelling.to_vec(),
        }
    }
}

/// The character that stands for a byte in spellings: itself where it is printable and no space, else one of those from
/// U+0100 on, in order.
pub(super) fn byte_char(byte: u8) -> char {
    let offset = match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => return char::from(byte),
        0..=0x20 => byte,
        0x7f..=0xa0 => byte - 0x7f + 0x21,
        0xad => 0x43,
    };
    // U+0100 to U+0143 are letters.
    char::from_u32(0x100 + u32::from(offset)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for in spellings.
fn char_byte(char: char) -> Option<u8> {
    let byte = match u32::from(char) {
        0x100..=0x120 => u32::from(char) - 0x100,
        0x121..=0x142 => u32::from(char) - 0x121 + 0x7f,
        0x143 => 0xad,
        code => code,
    };
    u8::try_from(byte).ok().filter(|&byte| byte_char(byte) == char)
}

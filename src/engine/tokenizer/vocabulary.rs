use super::Token;
use crate::engine::Error;
use crate::engine::gguf::{Error as GgufError, Gguf};
use std::hash::{BuildHasher, RandomState};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Steers the model; readers do not see it.
    Control,
    /// Text that is found before all other.
    UserDefined,
    /// Reserved.
    Unused,
    /// One byte, spelled `<0x0A>`.
    Byte,
}

/// Many strings of bytes in one buffer.
#[derive(Debug, Default)]
struct Strings {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Strings {
    fn push(&mut self, string: &[u8]) {
        self.bytes.extend(string);
        self.ends.push(self.bytes.len() as u32);
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)? as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.bytes[start..end])
    }
}

/// The tokens of a model: their spelling in the file, what they are for, and the bytes that they stand for.
#[derive(Debug)]
pub(super) struct Vocabulary {
    spellings: Strings,
    pieces: Strings,
    roles: Vec<Role>,
    index: Index,
    longest: usize,
}

impl Vocabulary {
    pub(super) fn from_gguf(gguf: &Gguf) -> Result<Vocabulary, Error> {
        let metadata = gguf.metadata();
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        let count = tokens.len();
        // The limit of a header keeps the sum of lengths below 2^32, too.
        if count == 0 || count > 1 << 24 {
            return Err(Error::Inconsistent(format!("\"tokenizer.ggml.tokens\" has {count} tokens")));
        }
        let mut spellings = Strings::default();
        tokens.for_each(|token| spellings.push(token));
        let roles: Vec<Role> = match metadata.integers("tokenizer.ggml.token_type") {
            Ok(types) => types.map(role).collect(),
            Err(GgufError::Missing(_)) => vec![Role::Normal; count],
            Err(error) => return Err(error.into()),
        };
        if roles.len() != count {
            let message = format!("{count} tokens in \"tokenizer.ggml.tokens\", but {} in \"token_type\"", roles.len());
            return Err(Error::Inconsistent(message));
        }
        let longest = (0..count).filter_map(|at| spellings.get(at)).map(<[u8]>::len).max().unwrap_or(0);
        let index = Index::new(&spellings);
        Ok(Vocabulary { spellings, pieces: Strings::default(), roles, index, longest })
    }

    pub(super) fn len(&self) -> usize {
        self.roles.len()
    }

    /// All tokens.
    pub(super) fn tokens(&self) -> std::ops::Range<Token> {
        0..self.len() as Token
    }

    /// The length in bytes of the longest spelling.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The token that is spelled so; of several the first.
    pub(super) fn find(&self, spelling: &[u8]) -> Option<Token> {
        self.index.find(spelling, &self.spellings)
    }

    pub(super) fn role(&self, token: Token) -> Role {
        self.roles.get(token as usize).copied().unwrap_or(Role::Unused)
    }

    pub(super) fn set_role(&mut self, token: Token, role: Role) {
        self.roles[token as usize] = role;
    }

    /// How the file spells the token; nothing beyond the vocabulary.
    pub(super) fn spelling(&self, token: Token) -> &[u8] {
        self.spellings.get(token as usize).unwrap_or_default()
    }

    /// The bytes that the token stands for; nothing beyond the vocabulary.
    pub(super) fn piece(&self, token: Token) -> &[u8] {
        self.pieces.get(token as usize).unwrap_or_default()
    }

    pub(super) fn set_pieces(&mut self, piece: impl Fn(&Vocabulary, Token) -> Vec<u8>) {
        let mut pieces = Strings::default();
        self.tokens().for_each(|token| pieces.push(&piece(self, token)));
        self.pieces = pieces;
    }

    /// The byte that a token spelled `<0x0A>` stands for.
    pub(super) fn byte(&self, token: Token) -> Option<u8> {
        let digits = self.spelling(token).strip_prefix(b"<0x")?.strip_suffix(b">")?;
        match digits {
            &[_, _] => u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok(),
            _ => None,
        }
    }

    /// The tokens of single bytes, spelled `<0x0A>` or as the byte itself.
    pub(super) fn byte_tokens(&self) -> [Option<Token>; 256] {
        std::array::from_fn(|byte| {
            let spelled = self.find(format!("<0x{byte:02X}>").as_bytes());
            spelled.or_else(|| self.find(&[byte as u8]))
        })
    }
}

fn role(id: i64) -> Role {
    match id {
        2 => Role::Unknown,
        3 => Role::Control,
        4 => Role::UserDefined,
        5 => Role::Unused,
        6 => Role::Byte,
        _ => Role::Normal,
    }
}

/// A hash table of tokens by spelling. The spellings stand in the vocabulary's buffer, which a map of the standard
/// library beside it could not borrow from.
#[derive(Debug)]
struct Index {
    /// A power of two of them, at least half empty.
    slots: Vec<Token>,
    hasher: RandomState,
}

const EMPTY: Token = Token::MAX;

impl Index {
    fn new(spellings: &Strings) -> Index {
        let count = spellings.ends.len();
        let mut index = Index { slots: vec![EMPTY; (2 * count).next_power_of_two()], hasher: RandomState::new() };
        for at in 0..count {
            let Some(spelling) = spellings.get(at) else { break };
            let slot = index.slot(spelling, spellings);
            if index.slots[slot] == EMPTY {
                index.slots[slot] = at as Token;
            }
        }
        index
    }

    fn find(&self, spelling: &[u8], spellings: &Strings) -> Option<Token> {
        Some(self.slots[self.slot(spelling, spellings)]).filter(|&token| token != EMPTY)
    }

    /// The slot of this spelling, or the empty one where it would be.
    fn slot(&self, spelling: &[u8], spellings: &Strings) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(spelling) as usize & mask;
        while self.slots[slot] != EMPTY && spellings.get(self.slots[slot] as usize) != Some(spelling) {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

use crate::engine::Error;
use crate::engine::gguf::{Error as GgufError, Metadata};

const KEY: &str = "tokenizer.ggml.precompiled_charsmap";

/// Longer beginnings in bytes are not looked at: the longest that is replaced is a character with its marks.
const LONGEST: usize = 64;

/// SentencePiece's table of what is written otherwise before a text is cut: compatibility forms, full-width letters, kinds of
/// spaces. A double array, of which each unit is a node: a byte leads to the unit whose number is that of the node's base
/// xored with it, and is a child of it if that unit's label is the byte.
#[derive(Debug, Default)]
pub(super) struct CharsMap {
    units: Vec<u32>,
    /// What is written instead, each up to a zero.
    replacements: Vec<u8>,
}

/// A unit of the double array.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    /// The byte that leads to it; none of those that are values.
    fn label(self) -> u32 {
        self.0 & (1 << 31 | 0xff)
    }

    /// Whether what leads to it is replaced: the unit at its base is a value.
    fn ends(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn base(self) -> u32 {
        self.0 >> 10 << (self.0 >> 6 & 8)
    }

    fn value(self) -> usize {
        (self.0 & !(1 << 31)) as usize
    }
}

impl CharsMap {
    /// That of a file; an empty one where it has none.
    pub(super) fn new(metadata: &Metadata) -> Result<CharsMap, Error> {
        let bytes: Vec<u8> = match metadata.integers(KEY) {
            Ok(bytes) => bytes.map(|byte| byte as u8).collect(),
            Err(GgufError::Missing(_)) => return Ok(CharsMap::default()),
            Err(error) => return Err(error.into()),
        };
        let wrong = || Error::Inconsistent(format!("{KEY:?} is no table of units and replacements"));
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(wrong)?;
        let (units, replacements) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(wrong)?;
        let (units, []) = units.as_chunks::<4>() else { return Err(wrong()) };
        // So that every replacement ends.
        if replacements.last() != Some(&0) {
            return Err(wrong());
        }
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(CharsMap { units, replacements: replacements.to_vec() })
    }

    fn unit(&self, at: u32) -> Option<Unit> {
        self.units.get(at as usize).copied().map(Unit)
    }

    /// What the longest beginning of a text that is replaced becomes, and its length.
    fn find(&self, text: &[u8]) -> Option<(&[u8], usize)> {
        let mut found = None;
        let mut at = self.unit(0)?.base();
        for (index, &byte) in text.iter().enumerate().take(LONGEST) {
            at ^= u32::from(byte);
            let Some(unit) = self.unit(at).filter(|unit| byte != 0 && unit.label() == u32::from(byte)) else { break };
            at ^= unit.base();
            if unit.ends() {
                found = self.unit(at).map(|value| (value.value(), index + 1));
            }
        }
        let (place, length) = found?;
        let replacement = self.replacements.get(place..)?;
        Some((replacement.split(|&byte| byte == 0).next()?, length))
    }

    /// The text with all replaced that is.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut bytes = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(char) = text[at..].chars().next() {
            match self.find(&text.as_bytes()[at..]) {
                // What ends within a character is no replacement of text.
                Some((replacement, length)) if text.is_char_boundary(at + length) => {
                    bytes.extend_from_slice(replacement);
                    at += length;
                }
                _ => {
                    bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                    at += char.len_utf8();
                }
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }
}

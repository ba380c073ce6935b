//! How the blocks of sixteen rows lie together: the dwords of a block one after the other, each from all rows. They are the
//! same bytes as in the file, in another order; what is rearranged within a dword saves work in the products.

use crate::engine::quant::{Block, BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K, BlockQ8_0};

/// Rows of a strip.
pub const ROWS: usize = 16;
/// Bytes of a line: a dword of each row.
pub const LINE: usize = 4 * ROWS;

/// How a format's blocks lie in a strip.
pub trait Layout: 'static {
    /// The block as a file has it.
    type Block: Block;
    /// Lines of a block.
    const LINES: usize;
    /// Where a block's dwords begin.
    const FIRST: usize;
    /// Where its scale is, if that is none of the dwords. Scales lie together at the beginning of the strip.
    const SCALE: Option<usize>;

    /// A line's dword as the products want it.
    fn encode(_line: usize, dword: u32) -> u32 {
        dword
    }

    /// And back.
    fn decode(_line: usize, dword: u32) -> u32 {
        dword
    }

    /// Bytes of the scales of a strip of so many blocks, in whole lines.
    fn scale_bytes(blocks: usize) -> usize {
        if Self::SCALE.is_some() { (2 * ROWS * blocks).next_multiple_of(LINE) } else { 0 }
    }

    /// Bytes of a strip of so many blocks.
    fn strip_bytes(blocks: usize) -> usize {
        Self::scale_bytes(blocks) + blocks * Self::LINES * LINE
    }

    /// Puts a row of blocks, as a file has them, into lane `lane` of a strip.
    fn pack(row: &[u8], lane: usize, strip: &mut [u8]) {
        let bytes = size_of::<Self::Block>();
        let (scales, body) = strip.split_at_mut(Self::scale_bytes(row.len() / bytes));
        for (i, block) in row.chunks_exact(bytes).enumerate() {
            if let Some(at) = Self::SCALE {
                scales[2 * (ROWS * i + lane)..][..2].copy_from_slice(&block[at..at + 2]);
            }
            let dwords = block[Self::FIRST..].as_chunks::<4>().0.iter().take(Self::LINES);
            let lines = body[i * Self::LINES * LINE..].as_chunks_mut::<LINE>().0;
            for (at, (dword, line)) in dwords.zip(lines).enumerate() {
                let dword = Self::encode(at, u32::from_le_bytes(*dword));
                line[4 * lane..4 * lane + 4].copy_from_slice(&dword.to_le_bytes());
            }
        }
    }

    /// Writes block `i` of lane `lane`, as a file has it, to `block`.
    fn block(strip: &[u8], blocks: usize, lane: usize, i: usize, block: &mut [u8]) {
        let (scales, body) = strip.split_at(Self::scale_bytes(blocks));
        if let Some(at) = Self::SCALE {
            block[at..at + 2].copy_from_slice(&scales[2 * (ROWS * i + lane)..][..2]);
        }
        let dwords = block[Self::FIRST..].as_chunks_mut::<4>().0.iter_mut().take(Self::LINES);
        let lines = body[i * Self::LINES * LINE..].as_chunks::<LINE>().0;
        for (at, (dword, line)) in dwords.zip(lines).enumerate() {
            let bytes = [line[4 * lane], line[4 * lane + 1], line[4 * lane + 2], line[4 * lane + 3]];
            *dword = Self::decode(at, u32::from_le_bytes(bytes)).to_le_bytes();
        }
    }
}

/// See [`BlockQ4K`]: a line of both scales, three of the groups' scales and minima, 32 of weights.
#[derive(Clone, Copy)]
pub struct Q4K;
/// See [`BlockQ5K`]: a line of both scales, three of the groups' scales and minima, eight of fifth bits, 32 of weights.
#[derive(Clone, Copy)]
pub struct Q5K;
/// See [`BlockQ6K`]: 32 lines of low bits, sixteen of high ones, four of the groups' scales.
#[derive(Clone, Copy)]
pub struct Q6K;
/// See [`BlockQ4_0`]: four lines of weights.
#[derive(Clone, Copy)]
pub struct Q4_0;
/// See [`BlockQ5_0`]: a line of fifth bits, bit `i` of byte `k` being that of weight `4 * i + k`, and four of weights.
#[derive(Clone, Copy)]
pub struct Q5_0;
/// See [`BlockQ8_0`]: eight lines of weights, 128 too large.
#[derive(Clone, Copy)]
pub struct Q8_0;

impl Layout for Q4K {
    type Block = BlockQ4K;
    const LINES: usize = 36;
    const FIRST: usize = 0;
    const SCALE: Option<usize> = None;
}

impl Layout for Q5K {
    type Block = BlockQ5K;
    const LINES: usize = 44;
    const FIRST: usize = 0;
    const SCALE: Option<usize> = None;
}

impl Layout for Q6K {
    type Block = BlockQ6K;
    const LINES: usize = 52;
    const FIRST: usize = 0;
    const SCALE: Option<usize> = Some(208);
}

impl Layout for Q4_0 {
    type Block = BlockQ4_0;
    const LINES: usize = 4;
    const FIRST: usize = 2;
    const SCALE: Option<usize> = Some(0);
}

impl Layout for Q5_0 {
    type Block = BlockQ5_0;
    const LINES: usize = 5;
    const FIRST: usize = 2;
    const SCALE: Option<usize> = Some(0);

    fn encode(line: usize, dword: u32) -> u32 {
        if line > 0 {
            return dword;
        }
        // The product puts four bits into four bytes: no two of its terms meet.
        (0..8).fold(0, |planes, i| planes | (((dword >> (4 * i) & 15) * 0x0020_4081) & 0x0101_0101) << i)
    }

    fn decode(line: usize, dword: u32) -> u32 {
        if line > 0 {
            return dword;
        }
        (0..32).fold(0, |bits, at| bits | (dword >> (at % 4 * 8 + at / 4) & 1) << at)
    }
}

impl Layout for Q8_0 {
    type Block = BlockQ8_0;
    const LINES: usize = 8;
    const FIRST: usize = 2;
    const SCALE: Option<usize> = Some(0);

    fn encode(_: usize, dword: u32) -> u32 {
        dword ^ 0x8080_8080
    }

    fn decode(_: usize, dword: u32) -> u32 {
        dword ^ 0x8080_8080
    }
}

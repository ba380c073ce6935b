//! Products of strips with all columns of activations.

use super::layout::{LINE, ROWS};
use super::tile::{Compiled, Lines, Run, Sums, Tile};
use std::ops::Range;

/// Strips that meet a column while its activations are in the innermost cache.
pub const STRIPS: usize = 4;
/// Columns whose sums a thread keeps.
const COLUMNS: usize = 256;
/// Lines of what is unpacked at most, of all formats.
const UNPACKED: usize = 90;

/// Columns from one block's activations to the next's: as many as there are, filled up so that the last tile is whole.
pub fn stride(columns: usize) -> usize {
    match columns {
        0..=2 => columns,
        3..=4 => 4,
        _ => columns.next_multiple_of(8),
    }
}

/// Strips of a matrix, and activations.
pub struct Factors<'a, X> {
    /// All strips.
    pub strips: &'a [u8],
    /// Blocks in a row.
    pub blocks: usize,
    /// [blocks, stride]
    pub x: &'a [X],
    /// Columns of activations.
    pub columns: usize,
}

impl<X> Factors<'_, X> {
    /// `blocks` of strip `strip` with the columns from `column` on.
    fn run<T: Tile<X = X>>(&self, strip: usize, blocks: Range<usize>, column: usize) -> Run<X> {
        let stride = stride(self.columns);
        let bytes = T::strip_bytes(self.blocks);
        let strip = &self.strips[strip * bytes..][..bytes];
        let (scales, body) = strip.split_at(T::scale_bytes(self.blocks));
        Run {
            body: body[blocks.start * T::LINES * LINE..].as_ptr(),
            scales: if T::SCALE.is_some() { scales[blocks.start * 2 * ROWS..].as_ptr() } else { scales.as_ptr() },
            x: self.x[blocks.start * stride + column..].as_ptr(),
            stride,
            blocks: blocks.len(),
        }
    }
}

/// Calls `$body` with `$n` being the columns of the next tile, and goes on with what is left of `$columns`.
macro_rules! for_tiles {
    ($columns:expr, $most:expr, ($at:ident, $n:ident) => $body:expr) => {
        let mut $at = $columns.start;
        while $at < $columns.end {
            macro_rules! tile {
                ($count:literal) => {{
                    const $n: usize = $count;
                    $body;
                    $at += $n;
                }};
            }
            match ($columns.end - $at).min($most) {
                1 => tile!(1),
                2 => tile!(2),
                3 | 4 => tile!(4),
                _ => tile!(8),
            }
        }
    };
}

/// The products of some strips with all columns; `write` gets a strip, a column and the sixteen results.
///
/// # Safety
/// The processor has the instructions of `L`.
pub unsafe fn multiply<L: Compiled, T: Tile>(
    factors: &Factors<'_, T::X>,
    strips: Range<usize>,
    write: impl Fn(usize, usize, &[f32; ROWS]),
) {
    assert!(factors.x.len() >= factors.blocks * stride(factors.columns));
    if factors.columns > L::COLUMNS {
        for first in strips.clone().step_by(STRIPS) {
            // SAFETY: the caller's.
            unsafe { multiply_unpacked::<L, T>(factors, first..strips.end.min(first + STRIPS), &write) };
        }
        return;
    }
    for strip in strips {
        for_tiles!(0..factors.columns, L::COLUMNS, (column, N) => {
            let mut sums: Sums<N> = [[0.0; ROWS]; N];
            // SAFETY: the caller has the instructions. The run is of all blocks of a strip, and of columns that the stride
            // has room for, as asserted.
            unsafe { L::direct::<T, N>(factors.run::<T>(strip, 0..factors.blocks, column), &mut sums) };
            for (n, sums) in sums.iter().enumerate().take(factors.columns - column) {
                write(strip, column + n, sums);
            }
        });
    }
}

/// The same for many columns: each block is unpacked once.
unsafe fn multiply_unpacked<L: Compiled, T: Tile>(
    factors: &Factors<'_, T::X>,
    strips: Range<usize>,
    write: &impl Fn(usize, usize, &[f32; ROWS]),
) {
    const { assert!(T::UNPACKED <= UNPACKED) };
    let mut unpacked: [Lines<UNPACKED>; STRIPS] = std::array::from_fn(|_| Lines([[0; LINE]; UNPACKED]));
    for first in (0..factors.columns).step_by(COLUMNS) {
        let columns = first..factors.columns.min(first + COLUMNS);
        let mut sums = [[[0.0_f32; ROWS]; COLUMNS]; STRIPS];
        for block in (0..factors.blocks).step_by(T::BLOCKS) {
            let blocks = block..factors.blocks.min(block + T::BLOCKS);
            for (strip, unpacked) in strips.clone().zip(&mut unpacked) {
                // SAFETY: the caller has the instructions; there is room for so many lines, as asserted.
                unsafe {
                    L::unpack::<T>(factors.run::<T>(strip, blocks.clone(), first), unpacked.0.as_mut_ptr().cast())
                };
            }
            for_tiles!(columns, L::COLUMNS, (column, N) => {
                let at = column - first;
                for ((strip, unpacked), sums) in strips.clone().zip(&unpacked).zip(&mut sums) {
                    let body = unpacked.0.as_ptr().cast();
                    let run = Run { body, ..factors.run::<T>(strip, blocks.clone(), column) };
                    let Some(sums) = sums[at..].first_chunk_mut::<N>() else { continue };
                    // SAFETY: the caller has the instructions. The run's blocks are unpacked, its columns there.
                    unsafe { L::unpacked::<T, N>(run, sums) };
                }
            });
        }
        for (strip, sums) in strips.clone().zip(&sums) {
            for (column, sums) in columns.clone().zip(sums) {
                write(strip, column, sums);
            }
        }
    }
}

//! Matrices in strips of sixteen rows: what the processor reads one after the other is what it multiplies together.
//!
//! - [`layout`]: how a format's blocks lie in a strip. [`columns`]: how activations lie beside them.
//! - [`lanes`]: what instructions a tile needs; `avx512`, `avx2` and `neon` give them.
//! - [`tile`]: the products of a strip with a few columns; [`groups`] and [`short`] are the formats'.
//! - [`multiply`]: how tiles are put together.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod columns;
mod groups;
mod lanes;
mod layout;
mod multiply;
#[cfg(target_arch = "aarch64")]
mod neon;
mod short;
mod tile;

use super::{OutOfMemory, Parts, Pool, Weights};
use crate::engine::quant::Format;
pub use columns::{Column, X32, X256};
pub use layout::ROWS;
use layout::{Layout, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
use memmap2::{Advice, MmapMut};
use multiply::Factors;
pub use multiply::{STRIPS, stride};
use std::ops::Range;
use tile::Tile;

/// Bytes of a file's weights that a thread packs at a time: what it no longer needs is given back as soon.
const PACKED_AT_ONCE: usize = 4 << 20;

/// The instructions that strips are multiplied with. Who has one has proof that the processor has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with products of bytes by fours.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

/// A matrix in strips.
pub struct Strips {
    memory: MmapMut,
    format: Format,
    rows: usize,
    cols: usize,
}

/// Runs `$body` with the type `$layout` being the layout of `$format`; `$none` where that has none.
macro_rules! with_layout {
    ($format:expr, $layout:ident => $body:expr, $none:expr) => {
        match $format {
            Format::Q4_0 => {
                type $layout = Q4_0;
                $body
            }
            Format::Q5_0 => {
                type $layout = Q5_0;
                $body
            }
            Format::Q8_0 => {
                type $layout = Q8_0;
                $body
            }
            Format::Q4K => {
                type $layout = Q4K;
                $body
            }
            Format::Q5K => {
                type $layout = Q5K;
                $body
            }
            Format::Q6K => {
                type $layout = Q6K;
                $body
            }
            _ => $none,
        }
    };
}

impl Strips {
    /// Whether there are strips of this format.
    pub fn hold(format: Format) -> bool {
        with_layout!(format, T => T::LINES > 0, false)
    }

    /// The same weights in strips, where their format has them.
    ///
    /// # Errors
    /// The system grants no such memory.
    pub fn pack(
        pool: &Pool,
        weights: &Weights,
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Strips>, OutOfMemory> {
        with_layout!(format, T => Strips::pack_as::<T>(pool, weights, format, rows, cols).map(Some), Ok(None))
    }

    fn pack_as<T: Layout>(
        pool: &Pool,
        weights: &Weights,
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Strips, OutOfMemory> {
        let row_bytes = format.row_bytes(cols);
        let strip_bytes = T::strip_bytes(cols / format.block_len());
        let strips = rows.div_ceil(ROWS);
        let bytes = strips * strip_bytes;
        let none = |_| OutOfMemory { what: "weights", bytes: bytes as u64 };
        let mut memory = MmapMut::map_anon(bytes.max(1)).map_err(none)?;
        // Advice: without it the same, more slowly.
        let _ = memory.advise(Advice::HugePage);

        let at_once = (PACKED_AT_ONCE / (ROWS * row_bytes).max(1)).max(1);
        let parts = Parts::new(&mut memory[..bytes]);
        pool.run(strips.div_ceil(at_once), |task| {
            let (first, end) = (task * at_once, strips.min((task + 1) * at_once));
            let of_file = first * ROWS * row_bytes..rows.min(end * ROWS) * row_bytes;
            weights.fetch(of_file.clone());
            for strip in first..end {
                // SAFETY: a strip belongs to one task, and a task runs once.
                let to = unsafe { parts.range(strip * strip_bytes, strip_bytes) };
                for row in strip * ROWS..rows.min((strip + 1) * ROWS) {
                    T::pack(&(**weights).as_ref()[row * row_bytes..][..row_bytes], row % ROWS, to);
                }
            }
            weights.forget(of_file);
        });
        Ok(Strips { memory, format, rows, cols })
    }

    /// Out features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// In features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How its weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many strips there are.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes of a strip.
    pub fn strip_bytes(&self) -> usize {
        self.memory.len() / self.count().max(1)
    }

    /// Writes a row's weights to `out`.
    pub fn dequantise(&self, row: usize, out: &mut [f32]) {
        let (bytes, len) = (self.format.row_bytes(self.format.block_len()), self.format.block_len());
        let strip = &self.memory[row / ROWS * self.strip_bytes()..][..self.strip_bytes()];
        let mut block = vec![0; bytes];
        for (i, out) in out.chunks_exact_mut(len).enumerate() {
            with_layout!(self.format, T => T::block(strip, self.cols / len, row % ROWS, i, &mut block), ());
            self.format.dequantise(&block, out);
        }
    }

    /// The products of some strips with `columns` columns of activations: of those in `x32` or those in `x256`, as the
    /// format wants, [blocks, stride]. `write` gets a row, a column and the results from that row on.
    pub fn multiply(
        &self,
        instructions: Instructions,
        strips: Range<usize>,
        (x32, x256): (&[X32], &[X256]),
        columns: usize,
        write: impl Fn(usize, usize, &[f32]),
    ) {
        let write = |strip: usize, column: usize, values: &[f32; ROWS]| {
            let row = strip * ROWS;
            write(row, column, &values[..ROWS.min(self.rows - row)]);
        };
        macro_rules! multiply {
            ($($format:ident, $x:ident);*) => {
                match self.format {
                    $(Format::$format => self.multiply_as::<$format>(instructions, strips, $x, columns, write),)*
                    _ => {}
                }
            };
        }
        multiply!(Q4_0, x32; Q5_0, x32; Q8_0, x32; Q4K, x256; Q5K, x256; Q6K, x256);
    }

    fn multiply_as<T: Tile>(
        &self,
        instructions: Instructions,
        strips: Range<usize>,
        x: &[T::X],
        columns: usize,
        write: impl Fn(usize, usize, &[f32; ROWS]),
    ) {
        let factors = Factors { strips: &self.memory, blocks: self.cols / self.format.block_len(), x, columns };
        // SAFETY: a value of `Instructions` is the proof that the processor has them.
        unsafe {
            match instructions {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => multiply::multiply::<avx2::Ymm<false>, T>(&factors, strips, write),
                #[cfg(target_arch = "x86_64")]
                Instructions::AvxVnni => multiply::multiply::<avx2::Ymm<true>, T>(&factors, strips, write),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => multiply::multiply::<avx512::Zmm, T>(&factors, strips, write),
                #[cfg(target_arch = "aarch64")]
                Instructions::Neon => multiply::multiply::<neon::Neon<false>, T>(&factors, strips, write),
                #[cfg(target_arch = "aarch64")]
                Instructions::NeonDot => multiply::multiply::<neon::Neon<true>, T>(&factors, strips, write),
            }
        }
    }
}

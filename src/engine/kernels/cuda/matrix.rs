//! Weights on the card, in the order in which its kernels read them.

use super::arena::Contents;
use super::device::{Device, Memory};
use super::driver::Address;
use super::upload::Ring;
use crate::engine::kernels::{OutOfMemory, Weights};
use crate::engine::quant::Format;
use std::sync::Arc;

/// Rows that lie together.
pub(super) const STRIP: usize = 16;

/// A matrix whose weights are on the card; or a table of embeddings, which stays with the host.
pub struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) format: Format,
    /// As a file has them.
    pub(super) host: Weights,
    pub(super) device: Option<Memory>,
}

/// The formats that the kernels know.
pub(super) const FORMATS: [Format; 11] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Q4_0,
    Format::Q5_0,
    Format::Q8_0,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::NVFP4,
    Format::MXFP4,
];

fn unknown(format: Format) -> ! {
    unreachable!("{format:?} is refused when a model is loaded: see `computes`")
}

/// The number of a format in `formats.cuh`. Floats of all kinds are halves on the card.
pub(super) fn number(format: Format) -> i32 {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => 0,
        Format::Q4_0 => 1,
        Format::Q5_0 => 2,
        Format::Q8_0 => 3,
        Format::Q4K => 4,
        Format::Q5K => 5,
        Format::Q6K => 6,
        Format::NVFP4 => 7,
        Format::MXFP4 => 8,
        _ => unknown(format),
    }
}

/// The number of a format of files in `repack.cu`.
pub(super) fn raw_number(format: Format) -> i32 {
    FORMATS.iter().position(|&known| known == format).unwrap_or_else(|| unknown(format)) as i32
}

/// Bytes of a tile of so many steps of 64 columns: `tile_bytes` in `formats.cuh`.
pub(super) fn tile_bytes(format: Format, steps: usize) -> usize {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => steps * 2048,
        Format::Q4_0 | Format::NVFP4 => steps * 512 + 256,
        Format::MXFP4 => steps * 512 + 128,
        Format::Q5_0 => steps * 512 + 768,
        Format::Q8_0 => steps * 1024 + 256,
        Format::Q4K => 2304,
        Format::Q5K => 2816,
        Format::Q6K => 3360,
        _ => unknown(format),
    }
}

/// Bytes of a strip of so many columns.
pub(super) fn strip_bytes(format: Format, cols: usize) -> usize {
    let steps = cols.div_ceil(64);
    let last = if steps.is_multiple_of(4) { 0 } else { tile_bytes(format, steps % 4) };
    steps / 4 * tile_bytes(format, 4) + last
}

/// Bytes of a matrix.
pub(super) fn bytes(format: Format, rows: usize, cols: usize) -> usize {
    rows.div_ceil(STRIP) * strip_bytes(format, cols)
}

impl Matrix {
    pub(super) fn strips(&self) -> usize {
        self.rows.div_ceil(STRIP)
    }

    pub(super) fn strip_bytes(&self) -> usize {
        strip_bytes(self.format, self.cols)
    }

    /// Where its weights are.
    pub(super) fn address(&self) -> Address {
        self.device.as_ref().unwrap_or_else(|| panic!("a table of embeddings is not multiplied with")).address()
    }

    /// A row as the file has it.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        let bytes = self.format.row_bytes(self.cols);
        &(*self.host).as_ref()[row * bytes..][..bytes]
    }

    /// Copies the weights to the card and puts them into its order; without a ring they only get their place.
    pub(super) fn upload(&mut self, device: &Arc<Device>, ring: Option<&mut Ring>) -> Result<(), OutOfMemory> {
        let memory = device.allocate(bytes(self.format, self.rows, self.cols), Contents::Weights, "weights")?;
        let Some(ring) = ring else {
            self.device = Some(memory);
            return Ok(());
        };
        let row_bytes = self.format.row_bytes(self.cols);
        let at_once = (ring.largest() / row_bytes / STRIP * STRIP).max(STRIP);
        let bytes = (*self.host).as_ref();
        for first in (0..self.rows).step_by(at_once) {
            let rows = at_once.min(self.rows - first);
            let source = ring.stage(&bytes[first * row_bytes..(first + rows) * row_bytes]);
            let to = memory.address() + (first / STRIP * self.strip_bytes()) as u64;
            let (raw, format) = (raw_number(self.format), number(self.format));
            let (rows, cols) = (rows as i32, self.cols as i32);
            let grid = [(rows as usize).div_ceil(STRIP), 1, 1];
            // SAFETY: repack(source, row_bytes, raw, format, rows, columns, out); `out` has all strips.
            unsafe { launch!(device, c"repack", grid, 256, 0, source, row_bytes as u64, raw, format, rows, cols, to) };
        }
        self.device = Some(memory);
        Ok(())
    }
}

//! Matrices: rows where they lie, or strips.
//!
//! What is laid out anew is computed with where it lies until then, which begins after the first pass. So a model answers as
//! soon as its file is mapped; a long prompt, that gains most by strips, has them made at once.

use super::packer::Packer;
use super::strips::Strips;
use super::{Isa, OutOfMemory, Pool, Weights};
use crate::engine::quant::Format;
use std::sync::{Arc, OnceLock};

/// Bytes of a matrix that is packed at once: it is done sooner than said.
const SMALL: usize = 1 << 20;
/// Columns that are worth packing a matrix for before it is multiplied with them.
const MANY: usize = 32;
/// Bytes that a thread has mapped at a time.
const FETCHED_AT_ONCE: usize = 4 << 20;

/// A matrix.
pub struct Matrix {
    held: Held,
    /// What all weights are multiplied with.
    scale: f32,
}

/// The weights of a matrix.
enum Held {
    /// That stay where they lie.
    Rows(Rows),
    /// That are laid out anew.
    Strips(Strips),
    /// That will be.
    Packing(Arc<Packing>),
}

/// Weights where they lie, row by row.
pub struct Rows {
    weights: Weights,
    format: Format,
    rows: usize,
    cols: usize,
}

/// Rows that become strips.
pub struct Packing {
    rows: Rows,
    /// None where the system grants no memory for them.
    strips: OnceLock<Option<Strips>>,
}

/// A matrix as it lies now.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// In rows.
    Rows(&'a Rows),
    /// In strips.
    Strips(&'a Strips),
}

impl Matrix {
    /// Of `rows` times `cols` weights, row by row; laid out anew where `isa` multiplies their format so, soon.
    ///
    /// # Errors
    /// The system grants no memory for that.
    ///
    /// # Panics
    /// Where there are fewer weights; who reads a file has checked that.
    pub fn new(
        pool: &Pool,
        isa: Isa,
        packer: &Packer,
        weights: Weights,
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, OutOfMemory> {
        let rows = Rows::new(weights, format, rows, cols);
        if isa.of_strips().is_none() || !Strips::hold(format) {
            rows.fetch(pool);
            return Ok(Matrix { held: Held::Rows(rows), scale: 1.0 });
        }
        // What lies in memory of its own would lie there twice.
        if !isa.multiplies_rows() || !rows.weights.is_mapped() || rows.byte_len() <= SMALL {
            let strips = rows.pack(pool)?;
            return Ok(Matrix { held: strips.map_or(Held::Rows(rows), Held::Strips), scale: 1.0 });
        }
        rows.fetch(pool);
        let packing = Arc::new(Packing { rows, strips: OnceLock::new() });
        packer.push(packing.clone());
        Ok(Matrix { held: Held::Packing(packing), scale: 1.0 })
    }

    /// The same where they lie.
    ///
    /// # Panics
    /// Where there are fewer weights; who reads a file has checked that.
    pub fn in_place(weights: Weights, format: Format, rows: usize, cols: usize) -> Matrix {
        Matrix { held: Held::Rows(Rows::new(weights, format, rows, cols)), scale: 1.0 }
    }

    /// The same with all weights multiplied.
    pub fn scaled(self, by: f32) -> Matrix {
        Matrix { scale: self.scale * by, ..self }
    }

    /// What all weights are multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// As it lies now; in strips if it can, where it meets many columns.
    pub fn view(&self, pool: &Pool, columns: usize) -> View<'_> {
        match &self.held {
            Held::Rows(rows) => View::Rows(rows),
            Held::Strips(strips) => View::Strips(strips),
            Held::Packing(packing) => {
                if columns > MANY {
                    packing.pack(pool);
                }
                packing.strips.get().and_then(Option::as_ref).map_or(View::Rows(&packing.rows), View::Strips)
            }
        }
    }

    /// Out features.
    pub fn rows(&self) -> usize {
        match &self.held {
            Held::Rows(rows) => rows.rows,
            Held::Strips(strips) => strips.rows(),
            Held::Packing(packing) => packing.rows.rows,
        }
    }

    /// In features.
    pub fn cols(&self) -> usize {
        match &self.held {
            Held::Rows(rows) => rows.cols,
            Held::Strips(strips) => strips.cols(),
            Held::Packing(packing) => packing.rows.cols,
        }
    }

    /// Writes a row's weights to `out`.
    pub fn dequantise(&self, row: usize, out: &mut [f32]) {
        match &self.held {
            Held::Rows(rows) => rows.dequantise(row, out),
            Held::Strips(strips) => strips.dequantise(row, out),
            Held::Packing(packing) => packing.rows.dequantise(row, out),
        }
        if self.scale != 1.0 {
            out.iter_mut().for_each(|weight| *weight *= self.scale);
        }
    }
}

impl Rows {
    fn new(weights: Weights, format: Format, rows: usize, cols: usize) -> Rows {
        assert_eq!(cols % format.block_len(), 0);
        assert!((*weights).as_ref().len() >= rows * format.row_bytes(cols));
        Rows { weights, format, rows, cols }
    }

    /// How they are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols)
    }

    /// The bytes of `rows` rows from `row` on.
    pub fn bytes(&self, row: usize, rows: usize) -> &[u8] {
        let row_bytes = self.row_bytes();
        &(*self.weights).as_ref()[row * row_bytes..(row + rows) * row_bytes]
    }

    fn byte_len(&self) -> usize {
        self.rows * self.row_bytes()
    }

    /// Has them in memory.
    fn fetch(&self, pool: &Pool) {
        let len = self.byte_len();
        pool.run(len.div_ceil(FETCHED_AT_ONCE), |task| {
            self.weights.fetch(task * FETCHED_AT_ONCE..len.min((task + 1) * FETCHED_AT_ONCE));
        });
    }

    fn dequantise(&self, row: usize, out: &mut [f32]) {
        self.format.dequantise(self.bytes(row, 1), out);
    }

    fn pack(&self, pool: &Pool) -> Result<Option<Strips>, OutOfMemory> {
        Strips::pack(pool, &self.weights, self.format, self.rows, self.cols)
    }
}

impl Packing {
    /// Makes the strips, unless somebody has, or waits for who does.
    pub fn pack(&self, pool: &Pool) {
        self.strips.get_or_init(|| self.rows.pack(pool).ok().flatten());
    }
}

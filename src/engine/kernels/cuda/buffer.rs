//! Activations on the card, and the same as halves where an operation has made them: what a product reads.

use super::arena::Contents;
use super::device::{Device, Memory};
use super::driver::Address;
use super::linear::FEW;
use super::state::grown;
use crate::engine::kernels::OutOfMemory;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Columns that share a scale.
pub(super) const CHUNK: usize = 256;

/// Floats on the card.
pub struct Buffer {
    memory: Memory,
    len: usize,
    /// How long its rows are, as far as the last operation that wrote it knows.
    width: usize,
    halves: Mutex<Halves>,
}

/// A buffer's numbers as halves, as `Activations` in `common.cuh` has them.
#[derive(Default)]
pub(super) struct Halves {
    memory: Option<Memory>,
    shape: Shape,
    valid: bool,
}

/// How halves are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub rows: usize,
    pub width: usize,
    /// Whether they are for a product with many rows: all of a row has one scale, and 128 rows lie together.
    pub even: bool,
}

/// The argument `Activations` of a kernel; by default there are none.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Activations {
    pub base: Address,
    pub rows: i32,
    pub chunks: i32,
    pub tall: i32,
}

impl Shape {
    fn bytes(self) -> usize {
        // Halves, sums and scales of a chunk of a row.
        let unit = match self.rows {
            _ if self.even => 128,
            ..=16 => 8,
            _ => 32,
        };
        self.rows.next_multiple_of(unit) * self.chunks() * (CHUNK * 2 + 32 + 4)
    }

    /// Bytes of up to so many rows, however they are laid out.
    pub fn most(rows: usize, width: usize) -> usize {
        let few = rows.min(FEW);
        let shapes = [(few, false), (rows, true)].map(|(rows, even)| Shape { rows, width, even }.bytes());
        // Those of few rows alone, where there are no more.
        if rows > FEW { shapes[0].max(shapes[1]) } else { shapes[0] }
    }

    pub fn chunks(self) -> usize {
        self.width.div_ceil(CHUNK)
    }
}

impl Buffer {
    pub(super) fn new(device: &Arc<Device>, len: usize, contents: Contents) -> Result<Buffer, OutOfMemory> {
        let memory = device.allocate(len * 4, contents, "activations")?;
        memory.clear();
        Ok(Buffer { memory, len, width: len, halves: Mutex::default() })
    }

    /// Takes the room that halves of up to so many rows need.
    pub(super) fn reserve_halves(
        &mut self,
        device: &Arc<Device>,
        rows: usize,
        width: usize,
    ) -> Result<(), OutOfMemory> {
        let halves = self.halves.get_mut().unwrap_or_else(PoisonError::into_inner);
        halves.memory = Some(device.allocate(Shape::most(rows, width), Contents::Scratch, "activations")?);
        Ok(())
    }

    /// How many floats there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How long its rows are, if `len` numbers are a whole number of them; else one row.
    pub(super) fn width(&self, len: usize) -> usize {
        if self.width > 0 && len.is_multiple_of(self.width) { self.width } else { len }
    }

    /// Where `len` floats are that are read.
    pub(super) fn read(&self, len: usize) -> Address {
        assert!(len <= self.len, "{len} numbers of a buffer of {}", self.len);
        self.memory.address()
    }

    /// Where rows of floats are that are written. Halves of what was there are no longer of use.
    pub(super) fn write(&mut self, rows: usize, width: usize) -> Address {
        self.width = width;
        self.halves.get_mut().unwrap_or_else(PoisonError::into_inner).valid = false;
        self.read(rows * width)
    }

    /// The same, where the halves are written too.
    pub(super) fn write_both(&mut self, device: &Arc<Device>, shape: Shape) -> (Address, Activations) {
        let address = self.write(shape.rows, shape.width);
        let halves = self.halves.get_mut().unwrap_or_else(PoisonError::into_inner);
        (address, halves.prepare(device, shape))
    }

    /// The halves; `fill` makes them unless an operation has.
    pub(super) fn halves(
        &self,
        device: &Arc<Device>,
        shape: Shape,
        fill: impl FnOnce(Address, Activations),
    ) -> Activations {
        let mut halves: MutexGuard<'_, Halves> = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.valid && halves.shape == shape {
            return halves.activations();
        }
        let activations = halves.prepare(device, shape);
        fill(self.read(shape.rows * shape.width), activations);
        activations
    }
}

impl Halves {
    fn activations(&self) -> Activations {
        let base = self.memory.as_ref().map_or(0, Memory::address);
        let Shape { rows, even, .. } = self.shape;
        let tall = if even { 16 } else { 1 };
        Activations { base, rows: rows as i32, chunks: self.shape.chunks() as i32, tall }
    }

    fn prepare(&mut self, device: &Arc<Device>, shape: Shape) -> Activations {
        if self.memory.as_ref().is_none_or(|memory| memory.bytes() < shape.bytes()) {
            // Rows that pad the last eight are never set: what they give is never looked at.
            grown(&mut self.memory, device, shape.bytes(), "activations");
        }
        self.shape = shape;
        self.valid = true;
        self.activations()
    }
}

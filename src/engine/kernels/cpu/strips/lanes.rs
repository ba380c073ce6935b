//! What a set of vector instructions gives to products of strips: a register holds a dword of several rows, a row a lane.

use super::columns::{X32, X256};

/// Where a tile takes the weights of a block from: as unsigned bytes of four columns, a dword a row. Of 64 columns, the
/// first 32 and the others come together, as formats keep them in the same bytes.
pub trait Quads<L: Lanes>: Copy {
    /// Quad `i` of the first and of the second half of pair `p`.
    ///
    /// # Safety
    /// The processor has the instructions of `L`, and the block has so many columns.
    unsafe fn pair(&self, p: usize, i: usize) -> [L::Int; 2];
}

/// The groups of a pair: each half has one of eight quads or two of four.
#[derive(Clone, Copy)]
pub struct Groups {
    /// Which pair.
    pub pair: usize,
    /// Quads of a group.
    pub quads: usize,
    /// How many sums of two products of bytes fit 16 bits.
    pub sums: usize,
    /// Where the columns of each half begin.
    pub columns: [usize; 2],
    /// Lines of the scales of each half's groups.
    pub scales: [*const u8; 2],
}

/// Instructions. A line of 64 bytes holds a dword of each of a strip's sixteen rows; a register takes [`Lanes::ROWS`] of
/// them.
///
/// # Safety
/// All functions need a processor that has the instructions; pointers are to as many bytes as the register holds.
pub trait Lanes: Copy + 'static {
    /// Rows in a register.
    const ROWS: usize;
    /// Columns of activations that are multiplied without spilling registers.
    const COLUMNS: usize;
    /// A dword of each row.
    type Int: Copy;
    /// A float of each row.
    type Float: Copy;

    unsafe fn load(at: *const u8) -> Self::Int;
    unsafe fn store(at: *mut u8, v: Self::Int);
    unsafe fn load_floats(at: *const f32) -> Self::Float;
    unsafe fn store_floats(at: *mut f32, v: Self::Float);
    /// As many halves as there are rows.
    unsafe fn load_halves(at: *const u8) -> Self::Float;
    /// The low halves of the dwords.
    unsafe fn low_halves(v: Self::Int) -> Self::Float;
    unsafe fn zero() -> Self::Int;
    unsafe fn splat_byte(v: u8) -> Self::Int;
    unsafe fn splat(v: f32) -> Self::Float;
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a & mask | b`
    unsafe fn merge(a: Self::Int, mask: Self::Int, b: Self::Int) -> Self::Int;
    /// The dwords, shifted.
    unsafe fn shl(v: Self::Int, by: u32) -> Self::Int;
    /// The dwords, shifted.
    unsafe fn shr(v: Self::Int, by: u32) -> Self::Int;
    unsafe fn sub(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn to_float(v: Self::Int) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a * b`
    unsafe fn fnma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;

    /// The signed bytes `which` of the dwords, in the form that [`Lanes::groups`] wants scales in.
    unsafe fn scale(v: Self::Int, which: usize) -> Self::Int;
    /// The signed bytes 0 and 2 (or 1 and 3, if `odd`) of the dwords as pairs of 16 bits.
    unsafe fn pair(v: Self::Int, odd: bool) -> Self::Int;
    /// `sum + a . x` for pairs of 16 bits, `x` being the same for all rows.
    unsafe fn dot_pairs(sum: Self::Int, a: Self::Int, x: i32) -> Self::Int;

    /// Adds to `sums[n]` the products of a pair's groups with the activations of column `n`, each times its scale.
    unsafe fn groups<W: Quads<Self>, const N: usize>(w: &W, groups: Groups, x: *const X256, sums: &mut [Self::Int; N]);
    /// The products of a block of one pair of four quads each, whose bytes are 128 too large, with each column's activations.
    unsafe fn block<W: Quads<Self>, const N: usize>(w: &W, x: *const X32) -> [Self::Int; N];
    /// Has the line there brought into the cache; any address will do.
    unsafe fn prefetch(at: *const u8);
}

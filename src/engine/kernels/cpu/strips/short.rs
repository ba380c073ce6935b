//! Tiles of formats whose blocks are 32 weights with one scale. Their bytes are made 128 too large, the weights being
//! stretched so far that this is their offset, and the scale shrunk likewise: a power of two, so that nothing is rounded.

use super::columns::X32;
use super::lanes::{Lanes, Quads};
use super::layout::{LINE, Layout, Q4_0, Q5_0, Q8_0};
use super::tile::{AHEAD, Run, Tile};
use std::marker::PhantomData;

/// A format of short blocks.
trait Short: Layout {
    /// By what weights are stretched, inverted.
    const SHRINK: f32;

    /// See [`Quads::pair`]; there is one.
    unsafe fn pair<L: Lanes>(body: *const u8, i: usize) -> [L::Int; 2];
}

/// A line, and that the one farther on will be needed.
#[inline(always)]
unsafe fn line<L: Lanes>(at: *const u8) -> L::Int {
    // SAFETY: the caller's.
    unsafe {
        L::prefetch(at.wrapping_add(AHEAD));
        L::load(at)
    }
}

impl Short for Q8_0 {
    const SHRINK: f32 = 1.0;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe { [line::<L>(body.add(LINE * i)), line::<L>(body.add(LINE * (4 + i)))] }
    }
}

impl Short for Q4_0 {
    const SHRINK: f32 = 1.0 / 16.0;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe {
            let (both, mask) = (line::<L>(body.add(LINE * i)), L::splat_byte(0xf0));
            [L::and(L::shl(both, 4), mask), L::and(both, mask)]
        }
    }
}

impl Short for Q5_0 {
    const SHRINK: f32 = 1.0 / 8.0;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe {
            let (both, low, high) = (line::<L>(body.add(LINE * (1 + i))), L::splat_byte(0x78), L::splat_byte(0x80));
            let fifth = if i == 0 { line::<L>(body) } else { L::load(body) };
            let [a, b] = [L::and(L::shl(both, 3), low), L::and(L::shr(both, 1), low)];
            [L::merge(L::shl(fifth, 7 - i as u32), high, a), L::merge(L::shl(fifth, 3 - i as u32), high, b)]
        }
    }
}

/// A block as it lies in a strip.
#[derive(Clone, Copy)]
struct Packed<F> {
    body: *const u8,
    format: PhantomData<F>,
}

impl<F: Short + Copy, L: Lanes> Quads<L> for Packed<F> {
    #[inline(always)]
    unsafe fn pair(&self, _: usize, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe { F::pair::<L>(self.body, i) }
    }
}

/// Unpacked: eight lines of weights and one of scales.
#[derive(Clone, Copy)]
struct Unpacked {
    at: *const u8,
}

const UNPACKED: usize = 9;

impl<L: Lanes> Quads<L> for Unpacked {
    #[inline(always)]
    unsafe fn pair(&self, _: usize, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe { [L::load(self.at.add(LINE * i)), L::load(self.at.add(LINE * (4 + i)))] }
    }
}

/// Adds a block's products with the columns at `x` to `sums`.
#[inline(always)]
unsafe fn add<L: Lanes, W: Quads<L>, const N: usize>(w: W, d: L::Float, x: *const X32, sums: &mut [L::Float; N]) {
    // SAFETY: the caller's.
    unsafe {
        let products = L::block::<W, N>(&w, x);
        for n in 0..N {
            sums[n] = L::fma(L::to_float(products[n]), L::mul(d, L::splat((*x.add(n)).d)), sums[n]);
        }
    }
}

macro_rules! tile_of_short {
    ($($format:ty),*) => {$(
        impl Tile for $format {
            type X = X32;
            const BLOCKS: usize = 8;
            const UNPACKED: usize = 8 * UNPACKED;

            #[inline(always)]
            unsafe fn direct<L: Lanes, const N: usize>(run: &Run<X32>, sums: &mut [L::Float; N]) {
                for i in 0..run.blocks {
                    // SAFETY: the caller's.
                    unsafe {
                        let w = Packed { body: run.body.add(LINE * Self::LINES * i), format: PhantomData::<Self> };
                        let d = L::mul(L::load_halves(run.scales.add(32 * i)), L::splat(Self::SHRINK));
                        add::<L, _, N>(w, d, run.x.add(run.stride * i), sums);
                    }
                }
            }

            #[inline(always)]
            unsafe fn unpack<L: Lanes>(run: &Run<X32>, to: *mut u8) {
                for i in 0..run.blocks {
                    // SAFETY: the caller's.
                    unsafe {
                        let (body, to) = (run.body.add(LINE * Self::LINES * i), to.add(LINE * UNPACKED * i));
                        for i in 0..4 {
                            let [a, b] = Self::pair::<L>(body, i);
                            L::store(to.add(LINE * i), a);
                            L::store(to.add(LINE * (4 + i)), b);
                        }
                        let d = L::mul(L::load_halves(run.scales.add(32 * i)), L::splat(Self::SHRINK));
                        L::store_floats(to.add(LINE * 8).cast(), d);
                    }
                }
            }

            #[inline(always)]
            unsafe fn unpacked<L: Lanes, const N: usize>(run: &Run<X32>, sums: &mut [L::Float; N]) {
                for i in 0..run.blocks {
                    // SAFETY: the caller's.
                    unsafe {
                        let w = Unpacked { at: run.body.add(LINE * UNPACKED * i) };
                        let d = L::load_floats(w.at.add(LINE * 8).cast());
                        add::<L, _, N>(w, d, run.x.add(run.stride * i), sums);
                    }
                }
            }
        }
    )*};
}

tile_of_short!(Q4_0, Q5_0, Q8_0);

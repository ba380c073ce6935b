//! Tiles of formats whose blocks of 256 weights have groups with integer scales.
//!
//! The products of a block are exact integers; only then it is scaled and added to a float. So it makes no difference to
//! a result whether a block was unpacked beforehand, with how many columns, or by which instructions.

use super::columns::X256;
use super::lanes::{self, Lanes, Quads};
use super::layout::{LINE, Layout, Q4K, Q5K, Q6K, ROWS};
use super::tile::{AHEAD, Lines, Run, Tile};
use std::marker::PhantomData;

/// A format of blocks with groups.
pub trait Groups: Layout {
    /// Groups in a block.
    const GROUPS: usize;
    /// How many sums of two products of bytes fit 16 bits.
    const PAIRS: usize;
    /// Whether groups have minima, scaled apart. Otherwise all weights are 32 too large.
    const MINIMA: bool;

    /// What is made of a block before its weights.
    ///
    /// # Safety
    /// The processor has the instructions; the pointers are to a block's lines and scales.
    unsafe fn head<L: Lanes>(body: *const u8, scales: *const u8) -> Head<L>;

    /// The columns where the halves of a pair begin.
    fn columns(pair: usize) -> [usize; 2];

    /// See [`Quads::pair`].
    ///
    /// # Safety
    /// As above.
    unsafe fn pair<L: Lanes>(body: *const u8, p: usize, i: usize) -> [L::Int; 2];
}

/// The scales of a block.
#[derive(Clone, Copy)]
pub struct Head<L: Lanes> {
    d: L::Float,
    dmin: L::Float,
    /// Four in a dword.
    scales: [L::Int; 4],
    /// What the sums of activations are multiplied with: minima, or the scales once more.
    offsets: [L::Int; 4],
}

/// Scale and minimum of 6 bits each, as Q4_K and Q5_K pack them in three dwords after that of their own scales.
#[inline(always)]
unsafe fn head_with_minima<L: Lanes>(body: *const u8) -> Head<L> {
    // SAFETY: the caller's.
    unsafe {
        let line = |i: usize| L::load(body.add(LINE * i));
        let (six, four, two) = (L::splat_byte(0x3f), L::splat_byte(0x0f), L::splat_byte(0x30));
        let [both, a, b, c] = [line(0), line(1), line(2), line(3)];
        let scales = [L::and(a, six), L::merge(L::shr(a, 2), two, L::and(c, four))];
        let minima = [L::and(b, six), L::merge(L::shr(b, 2), two, L::and(L::shr(c, 4), four))];
        let [zero, d, dmin] = [L::zero(), both, L::shr(both, 16)];
        Head {
            d: L::low_halves(d),
            dmin: L::low_halves(dmin),
            scales: [scales[0], scales[1], zero, zero],
            offsets: [minima[0], minima[1], zero, zero],
        }
    }
}

/// The low and the high nibbles of a line.
#[inline(always)]
unsafe fn nibbles<L: Lanes>(line: *const u8) -> [L::Int; 2] {
    // SAFETY: the caller's.
    unsafe {
        L::prefetch(line.wrapping_add(AHEAD));
        let (both, mask) = (L::load(line), L::splat_byte(0x0f));
        [L::and(both, mask), L::and(L::shr(both, 4), mask)]
    }
}

impl Groups for Q4K {
    const GROUPS: usize = 8;
    const PAIRS: usize = 8;
    const MINIMA: bool = true;

    #[inline(always)]
    unsafe fn head<L: Lanes>(body: *const u8, _: *const u8) -> Head<L> {
        // SAFETY: the caller's.
        unsafe { head_with_minima(body) }
    }

    fn columns(pair: usize) -> [usize; 2] {
        [64 * pair, 64 * pair + 32]
    }

    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, p: usize, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe { nibbles::<L>(body.add(LINE * (4 + 8 * p + i))) }
    }
}

impl Groups for Q5K {
    const GROUPS: usize = 8;
    const PAIRS: usize = 4;
    const MINIMA: bool = true;

    #[inline(always)]
    unsafe fn head<L: Lanes>(body: *const u8, _: *const u8) -> Head<L> {
        // SAFETY: the caller's.
        unsafe { head_with_minima(body) }
    }

    fn columns(pair: usize) -> [usize; 2] {
        [64 * pair, 64 * pair + 32]
    }

    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, p: usize, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe {
            let [a, b] = nibbles::<L>(body.add(LINE * (12 + 8 * p + i)));
            let (fifth, bit) = (L::shr(L::load(body.add(LINE * (4 + i))), 2 * p as u32), L::splat_byte(0x10));
            [L::merge(L::shl(fifth, 4), bit, a), L::merge(L::shl(fifth, 3), bit, b)]
        }
    }
}

impl Groups for Q6K {
    const GROUPS: usize = 16;
    const PAIRS: usize = 2;
    const MINIMA: bool = false;

    #[inline(always)]
    unsafe fn head<L: Lanes>(body: *const u8, scales: *const u8) -> Head<L> {
        // SAFETY: the caller's.
        unsafe {
            let d = L::load_halves(scales);
            let line = |i: usize| L::load(body.add(LINE * (48 + i)));
            let scales = [line(0), line(1), line(2), line(3)];
            Head { d, dmin: d, scales, offsets: scales }
        }
    }

    fn columns(pair: usize) -> [usize; 2] {
        let first = pair / 2 * 128 + pair % 2 * 32;
        [first, first + 64]
    }

    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, p: usize, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe {
            let [a, b] = nibbles::<L>(body.add(LINE * (8 * p + i)));
            let line = body.add(LINE * (32 + p / 2 * 8 + i));
            L::prefetch(line.wrapping_add(AHEAD));
            let (high, bits) = (L::shr(L::load(line), p as u32 % 2 * 2), L::splat_byte(0x30));
            [L::merge(L::shl(high, 4), bits, a), L::merge(high, bits, b)]
        }
    }
}

/// A block of the format `F` as a tile meets it, its scales unpacked.
#[derive(Clone, Copy)]
struct Packed<F> {
    body: *const u8,
    format: PhantomData<fn(F)>,
}

impl<F: Groups + Copy, L: Lanes> Quads<L> for Packed<F> {
    #[inline(always)]
    unsafe fn pair(&self, p: usize, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe { F::pair::<L>(self.body, p, i) }
    }
}

/// The same, its weights unpacked too: the lines of a pair's first half, then those of the second.
#[derive(Clone, Copy)]
struct Unpacked {
    body: *const u8,
}

impl<L: Lanes> Quads<L> for Unpacked {
    #[inline(always)]
    unsafe fn pair(&self, p: usize, i: usize) -> [L::Int; 2] {
        // SAFETY: the caller's.
        unsafe { [L::load(self.body.add(LINE * (16 * p + i))), L::load(self.body.add(LINE * (16 * p + 8 + i)))] }
    }
}

/// Lines of weights that are unpacked.
const WEIGHTS: usize = 64;
/// Lines of a block's unpacked scales: those of the groups, pairs of what sums of activations are multiplied with, floats.
const HEAD: usize = OFFSETS + 8 + 2;
const OFFSETS: usize = 16;
const FLOATS: usize = OFFSETS + 8;

/// Unpacks scales.
#[inline(always)]
unsafe fn unpack_head<F: Groups, L: Lanes>(head: Head<L>, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        for i in 0..F::GROUPS {
            L::store(to.add(LINE * i), L::scale(head.scales[i / 4], i % 4));
        }
        for i in 0..F::GROUPS / 2 {
            L::store(to.add(LINE * (OFFSETS + i)), L::pair(head.offsets[i / 2], i % 2 == 1));
        }
        L::store_floats(to.add(LINE * FLOATS).cast(), head.d);
        L::store_floats(to.add(LINE * (FLOATS + 1)).cast(), head.dmin);
    }
}

/// Adds a block's products with the columns at `x` to `sums`.
#[inline(always)]
unsafe fn add<F: Groups, L: Lanes, W: Quads<L>, const N: usize>(
    w: W,
    head: *const u8,
    x: *const X256,
    sums: &mut [L::Float; N],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut products = [L::zero(); N];
        for pair in 0..4 {
            let columns = F::columns(pair);
            let scales = columns.map(|column| head.add(LINE * (column * F::GROUPS / 256)));
            let groups = lanes::Groups { pair, quads: 64 / F::GROUPS, sums: F::PAIRS, columns, scales };
            L::groups::<W, N>(&w, groups, x, &mut products);
        }
        let mut offsets = [L::zero(); N];
        for i in 0..F::GROUPS / 2 {
            let offset = L::load(head.add(LINE * (OFFSETS + i)));
            for n in 0..N {
                let x = x.add(n);
                let by = if F::MINIMA { (&raw const (*x).by_32).cast::<i32>() } else { (&raw const (*x).by_16).cast() };
                offsets[n] = L::dot_pairs(offsets[n], offset, by.add(i).read());
            }
        }
        let floats = head.add(LINE * FLOATS).cast::<f32>();
        let (d, dmin) = (L::load_floats(floats), L::load_floats(floats.add(ROWS)));
        for n in 0..N {
            let x = L::splat((*x.add(n)).d);
            if F::MINIMA {
                sums[n] = L::fma(L::to_float(products[n]), L::mul(d, x), sums[n]);
                sums[n] = L::fnma(L::to_float(offsets[n]), L::mul(dmin, x), sums[n]);
            } else {
                let products = L::sub(products[n], L::shl(offsets[n], 5));
                sums[n] = L::fma(L::to_float(products), L::mul(d, x), sums[n]);
            }
        }
    }
}

macro_rules! tile_of_groups {
    ($($format:ty),*) => {$(
        impl Tile for $format {
            type X = X256;
            const BLOCKS: usize = 1;
            const UNPACKED: usize = WEIGHTS + HEAD;

            #[inline(always)]
            unsafe fn direct<L: Lanes, const N: usize>(run: &Run<X256>, sums: &mut [L::Float; N]) {
                for i in 0..run.blocks {
                    let mut head = Lines([[0; LINE]; HEAD]);
                    let to = head.0.as_mut_ptr().cast();
                    // SAFETY: the caller's; there is room for the scales.
                    unsafe {
                        let body = run.body.add(LINE * Self::LINES * i);
                        unpack_head::<Self, L>(Self::head(body, run.scales.wrapping_add(32 * i)), to);
                        let w = Packed { body, format: PhantomData::<fn(Self)> };
                        add::<Self, L, _, N>(w, to, run.x.add(run.stride * i), sums);
                    }
                }
            }

            #[inline(always)]
            unsafe fn unpack<L: Lanes>(run: &Run<X256>, to: *mut u8) {
                // SAFETY: the caller's.
                unsafe {
                    for (p, i) in (0..32).map(|i| (i / 8, i % 8)) {
                        let [a, b] = Self::pair::<L>(run.body, p, i);
                        L::store(to.add(LINE * (16 * p + i)), a);
                        L::store(to.add(LINE * (16 * p + 8 + i)), b);
                    }
                    unpack_head::<Self, L>(Self::head(run.body, run.scales), to.add(LINE * WEIGHTS));
                }
            }

            #[inline(always)]
            unsafe fn unpacked<L: Lanes, const N: usize>(run: &Run<X256>, sums: &mut [L::Float; N]) {
                // SAFETY: the caller's.
                unsafe {
                    let (w, head) = (Unpacked { body: run.body }, run.body.add(LINE * WEIGHTS));
                    add::<Self, L, _, N>(w, head, run.x, sums);
                }
            }
        }
    )*};
}

tile_of_groups!(Q4K, Q5K, Q6K);

//! A tile: the products of a strip with a few columns of activations, all sums in registers.

#[cfg(target_arch = "x86_64")]
use super::avx2::Ymm;
#[cfg(target_arch = "x86_64")]
use super::avx512::Zmm;
use super::columns::Column;
use super::lanes::Lanes;
use super::layout::{LINE, Layout, ROWS};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;

/// How far ahead of its use a line is asked for. Processors do so by themselves, but not beyond a page.
pub const AHEAD: usize = 4096;

/// Room for lines.
#[repr(C, align(64))]
pub struct Lines<const N: usize>(pub [[u8; LINE]; N]);

/// Blocks of a strip, and the activations that they meet.
#[derive(Clone, Copy)]
pub struct Run<X> {
    /// The lines of the first block, packed or not.
    pub body: *const u8,
    /// Its scales, where those lie apart.
    pub scales: *const u8,
    /// The first column's activations of the first block; the other columns' follow.
    pub x: *const X,
    /// From there to the next block's.
    pub stride: usize,
    /// How many blocks.
    pub blocks: usize,
}

impl<X> Run<X> {
    /// The same from lane `lane` on.
    unsafe fn at_lane(self, lane: usize) -> Self {
        // SAFETY: the lines and scales have more lanes than that.
        unsafe { Run { body: self.body.add(4 * lane), scales: self.scales.wrapping_add(2 * lane), ..self } }
    }
}

/// A format's tile.
///
/// # Safety
/// All functions need a processor with the instructions of `L`, a run whose pointers are to as many blocks and columns,
/// and, where they write, room for that.
pub trait Tile: Layout {
    /// The activations of a block.
    type X: Column;
    /// Blocks that are unpacked at once.
    const BLOCKS: usize;
    /// Lines that they take.
    const UNPACKED: usize;

    /// Adds the products to `sums`, unpacking the weights on the way.
    unsafe fn direct<L: Lanes, const N: usize>(run: &Run<Self::X>, sums: &mut [L::Float; N]);
    /// Unpacks at most [`Tile::BLOCKS`] blocks.
    unsafe fn unpack<L: Lanes>(run: &Run<Self::X>, to: *mut u8);
    /// Adds the products of unpacked blocks to `sums`.
    unsafe fn unpacked<L: Lanes, const N: usize>(run: &Run<Self::X>, sums: &mut [L::Float; N]);
}

/// Sums of a tile of `N` columns.
pub type Sums<const N: usize> = [[f32; ROWS]; N];

/// Instructions that tiles are compiled for: the functions of [`Tile`], for all rows of a strip.
///
/// # Safety
/// As there.
pub trait Compiled: Lanes {
    unsafe fn direct<T: Tile, const N: usize>(run: Run<T::X>, sums: &mut Sums<N>);
    unsafe fn unpack<T: Tile>(run: Run<T::X>, to: *mut u8);
    unsafe fn unpacked<T: Tile, const N: usize>(run: Run<T::X>, sums: &mut Sums<N>);
}

/// Does `$add` for as many rows at a time as registers hold.
macro_rules! for_all_rows {
    ($lanes:ty, $n:ident, $run:ident, $sums:ident, $add:path) => {
        for lane in (0..ROWS).step_by(<$lanes>::ROWS) {
            // SAFETY: the caller's.
            unsafe {
                let mut registers = [<$lanes>::splat(0.0); $n];
                for n in 0..$n {
                    registers[n] = <$lanes>::load_floats($sums[n].as_ptr().add(lane));
                }
                $add(&$run.at_lane(lane), &mut registers);
                for n in 0..$n {
                    <$lanes>::store_floats($sums[n].as_mut_ptr().add(lane), registers[n]);
                }
            }
        }
    };
}

macro_rules! compiled {
    ($arch:literal, $lanes:ty, $features:literal) => {
        #[cfg(target_arch = $arch)]
        impl Compiled for $lanes {
            unsafe fn direct<T: Tile, const N: usize>(run: Run<T::X>, sums: &mut Sums<N>) {
                #[target_feature(enable = $features)]
                unsafe fn direct<T: Tile, const N: usize>(run: Run<T::X>, sums: &mut Sums<N>) {
                    for_all_rows!($lanes, N, run, sums, T::direct::<$lanes, N>);
                }
                // SAFETY: the caller's.
                unsafe { direct::<T, N>(run, sums) }
            }

            unsafe fn unpack<T: Tile>(run: Run<T::X>, to: *mut u8) {
                #[target_feature(enable = $features)]
                unsafe fn unpack<T: Tile>(run: Run<T::X>, to: *mut u8) {
                    for lane in (0..ROWS).step_by(<$lanes>::ROWS) {
                        // SAFETY: the caller's; there are more lanes than that.
                        unsafe { T::unpack::<$lanes>(&run.at_lane(lane), to.add(4 * lane)) }
                    }
                }
                // SAFETY: the caller's.
                unsafe { unpack::<T>(run, to) }
            }

            unsafe fn unpacked<T: Tile, const N: usize>(run: Run<T::X>, sums: &mut Sums<N>) {
                #[target_feature(enable = $features)]
                unsafe fn unpacked<T: Tile, const N: usize>(run: Run<T::X>, sums: &mut Sums<N>) {
                    for_all_rows!($lanes, N, run, sums, T::unpacked::<$lanes, N>);
                }
                // SAFETY: the caller's.
                unsafe { unpacked::<T, N>(run, sums) }
            }
        }
    };
}

compiled!("x86_64", Zmm, "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c");
compiled!("x86_64", Ymm<true>, "avx2,fma,f16c,avxvnni");
compiled!("x86_64", Ymm<false>, "avx2,fma,f16c");
compiled!("aarch64", Neon<true>, "neon,dotprod");
compiled!("aarch64", Neon<false>, "neon");

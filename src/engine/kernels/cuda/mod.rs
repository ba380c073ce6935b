//! NVIDIA cards: weights, activations and cache in the card's memory, kernels in CUDA C++ beside this file.
//!
//! Products are computed on the tensor cores in halves with sums in floats. Weights are dequantised in registers: quants
//! times scales are exact in a half, and blocks' scales are applied to the sums; so nothing but the activations'
//! rounding to halves differs from the formula. Activations are scaled by powers of two first: none overflows.

/// Queues a kernel; arguments are values of the types that it takes.
macro_rules! launch {
    ($device:expr, $name:expr, $grid:expr, $threads:expr, $shared:expr, $($argument:expr),* $(,)?) => {
        $device.launch($name, $grid, $threads, $shared, &[$((&{ $argument } as *const _ as *const std::ffi::c_void)),*])
    };
}

/// A name for the driver, of its parts.
macro_rules! name {
    ($($part:literal),*) => {
        const {
            match std::ffi::CStr::from_bytes_with_nul(concat!($($part,)* "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            }
        }
    };
}

mod arena;
mod attention;
mod buffer;
mod cache;
mod device;
mod driver;
mod graph;
mod image;
mod images;
mod linear;
mod matrix;
pub mod need;
mod plan;
mod pool;
mod sleep;
mod speed;
mod state;
mod transfer;
mod trial;
mod upload;

#[cfg(test)]
pub(in crate::engine) mod tests;

pub use arena::GRANULE;
pub use buffer::Buffer;
pub use cache::Cache;
pub use device::{Device, Info, failed, look};
pub use driver::{Error, Which};
pub use image::Image;
pub use matrix::Matrix;
pub use trial::{Trusted, served, trusted};
pub use upload::Landed;

use super::{Attention, CacheShape, Gate, Kernels, OutOfMemory, Pairs, Product, Results, Rotation, Step, Weights};
use crate::engine::blocks::Copy;
use crate::engine::quant::Format;
use arena::Contents;
use buffer::Shape;
use driver::Address;
use need::Scratch;
use state::{State, counters, grown, list};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use upload::Pinned;

/// Whether this build has kernels.
pub fn built() -> bool {
    !images::IMAGES.is_empty()
}

/// Threads of a block of an elementwise kernel.
const THREADS: usize = 256;

/// Computes on an NVIDIA card.
pub struct Cuda {
    device: Arc<Device>,
    state: Mutex<State>,
    /// Weights beside the card, where they are kept.
    image: image::Shared,
    /// Why it computes with other kernels than the best for the card, if it does.
    reason: Option<String>,
}

impl Cuda {
    /// On a card, of which products and attention take so many multiprocessors, all unless said; and all of so many bytes
    /// of memory at most, besides the driver's own for this process. It is taken to have no more memory than `memory`.
    ///
    /// # Errors
    /// When there is no driver, card, kernel or memory, or none of the kernels can be [trusted] there.
    pub fn new(
        which: Which,
        multiprocessors: Option<usize>,
        limit: Option<u64>,
        memory: Option<u64>,
    ) -> Result<Cuda, Error> {
        let Trusted { choice, reason } = trusted(which)?;
        let mut cuda = Cuda::with(which, multiprocessors, limit, memory, choice)?;
        cuda.reason = reason;
        Ok(cuda)
    }

    /// The same with these kernels.
    fn with(
        which: Which,
        multiprocessors: Option<usize>,
        limit: Option<u64>,
        memory: Option<u64>,
        choice: images::Choice,
    ) -> Result<Cuda, Error> {
        let device = Device::open(which, multiprocessors, limit, memory, choice)?;
        let none = |error: OutOfMemory| Error::Call {
            what: format!("opening {which}"),
            name: "OUT_OF_MEMORY".into(),
            text: error.to_string(),
            status: driver::OUT_OF_MEMORY,
        };
        let state = State::new(&device).map_err(none)?;
        Ok(Cuda { device, state: Mutex::new(state), image: image::Shared::default(), reason: None })
    }

    /// Why it computes with other kernels than the best for the card, if it does.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The card.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Takes the memory that passes of a model need at most, so that none of them has to.
    ///
    /// # Errors
    /// There is not so much.
    pub fn reserve(&self, scratch: &Scratch) -> Result<(), OutOfMemory> {
        self.state().reserve(&self.device, scratch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn matrix_on_host(weights: Weights, format: Format, rows: usize, cols: usize) -> Matrix {
        assert_eq!(cols % format.block_len(), 0);
        assert!((*weights).as_ref().len() >= rows * format.row_bytes(cols));
        Matrix { rows, cols, format, host: weights, device: None }
    }
}

/// The argument `Heads` of `pointwise.cu`.
#[repr(C)]
struct Heads {
    q: Address,
    k: Address,
    v: Address,
    angles: Address,
    q_weight: Address,
    k_weight: Address,
    slots: Address,
    positions: Address,
    tables: Address,
    cache: Address,
    stride: u64,
    heads: i32,
    kv_heads: i32,
    size: i32,
    adjacent: i32,
    width: i32,
    total: i32,
    kv: i32,
    eps: f32,
}

/// Threads for a row: a warp for each 256 columns, up to a whole block.
fn threads_of(width: usize) -> usize {
    width.div_ceil(256).clamp(1, 32) * 32
}

impl Kernels for Cuda {
    type Buffer = Buffer;
    type Matrix = Matrix;
    type Cache = Cache;

    fn buffer(&self, len: usize) -> Result<Buffer, OutOfMemory> {
        Buffer::new(&self.device, len, Contents::Scratch)
    }

    fn activations(&self, rows: usize, width: usize) -> Result<Buffer, OutOfMemory> {
        let mut buffer = self.buffer(rows * width)?;
        buffer.reserve_halves(&self.device, rows, width)?;
        Ok(buffer)
    }

    fn upload(&self, values: &[f32]) -> Result<Buffer, OutOfMemory> {
        let mut buffer = Buffer::new(&self.device, values.len(), Contents::Weights)?;
        let mut state = self.state();
        let at_once = state.ring.largest() / 4;
        for (i, values) in values.chunks(at_once).enumerate() {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            let len = buffer.len();
            state.ring.copy(&bytes, buffer.write(1, len) + (i * at_once * 4) as u64);
        }
        Ok(buffer)
    }

    fn read(&self, x: &Buffer, len: usize, out: &mut Vec<f32>) {
        let mut state = self.state();
        let bytes = len * 4;
        if state.results.bytes() < bytes {
            state.results = Pinned::new(&self.device, bytes).unwrap_or_else(|error| panic!("{error}"));
        }
        let driver = self.device.bind();
        let (to, from) = (state.results.address(), x.read(len));
        // SAFETY: both are at least as large, and the stream is waited for before the result is looked at.
        let status = unsafe { (driver.copy_to_host)(to, from, bytes, self.device.stream()) };
        self.device.must(status, || format!("copying {bytes} bytes from the device"));
        self.device.wait();
        out.extend_from_slice(state.results.floats(len));
    }

    fn land(&self, x: &Buffer, len: usize, out: &mut Results) -> bool {
        let mut state = self.state();
        let landed = out.pinned(|values| Landed::new(&self.device, values));
        let to = landed.reserve(len);
        let from = x.read(len);
        state.flag.as_mut_slice().fill(0);
        let (flag, grid) = (state.flag.address() as Address, [len.div_ceil(4 * THREADS).min(1024), 1, 1]);
        let driver = self.device.bind();
        // SAFETY: unsound(x, count, flag): the flag is pinned memory, which the card reaches at the same address. There is
        // room for the floats, and the stream is waited for before either is looked at.
        unsafe {
            launch!(self.device, c"unsound", grid, THREADS, 0, from, len as u64, flag);
            let status = (driver.copy_to_host)(to, from, len * 4, self.device.stream());
            self.device.must(status, || format!("copying {len} results from the device"));
        }
        self.device.wait();
        landed.landed(len);
        state.flag.as_mut_slice().iter().all(|&byte| byte == 0)
    }

    fn computes(&self, format: Format) -> bool {
        matrix::FORMATS.contains(&format)
    }

    fn scaled(&self, _: Matrix, _: f32) -> Option<Matrix> {
        None
    }

    fn matrix(&self, weights: Weights, format: Format, rows: usize, cols: usize) -> Result<Matrix, OutOfMemory> {
        let mut matrix = Cuda::matrix_on_host(weights, format, rows, cols);
        let mut state = self.state();
        let expects = state.expects;
        matrix.upload(&self.device, if expects { None } else { Some(&mut state.ring) })?;
        Ok(matrix)
    }

    fn table(&self, weights: Weights, format: Format, rows: usize, cols: usize) -> Result<Matrix, OutOfMemory> {
        Ok(Cuda::matrix_on_host(weights, format, rows, cols))
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, OutOfMemory> {
        Cache::new(&self.device, shape)
    }

    fn copy_block(&self, cache: &mut Cache, copy: Copy) {
        cache.copy(&self.device, copy);
    }

    fn rows_at_once(&self) -> usize {
        need::rows_at_once(self.device.info().memory)
    }

    fn embed(&self, table: &Matrix, tokens: &[u32], scale: f32, out: &mut Buffer) {
        let mut state = self.state();
        let row_bytes = table.format.row_bytes(table.cols);
        let to = out.write(tokens.len(), table.cols);
        let run = |rows: usize, source: Address, to: Address| {
            let (raw, cols) = (matrix::raw_number(table.format), table.cols as i32);
            let grid = [table.cols.div_ceil(THREADS), rows, 1];
            // SAFETY: embed(rows, row_bytes, raw, columns, scale, out)
            unsafe { launch!(self.device, c"embed", grid, THREADS, 0, source, row_bytes as u64, raw, cols, scale, to) };
        };
        if state.graphs.recording() {
            let source = grown(&mut state.embedded, &self.device, tokens.len() * row_bytes, "embeddings");
            state.graphs.embeds(table, source);
            return run(tokens.len(), source, to);
        }
        let at_once = (state.ring.largest() / row_bytes).max(1);
        for (i, tokens) in tokens.chunks(at_once).enumerate() {
            let rows: Vec<u8> = tokens.iter().flat_map(|&token| table.row(token as usize)).copied().collect();
            let source = state.ring.stage(&rows);
            run(tokens.len(), source, to + (i * at_once * table.cols * 4) as u64);
        }
    }

    fn norm(&self, x: &Buffer, weight: &Buffer, eps: f32, rows: usize, out: &mut Buffer) {
        let width = weight.len();
        let shape = Shape { rows, width, even: linear::is_many(rows) };
        let (out, halves) = out.write_both(&self.device, shape);
        let (x, weight) = (x.read(rows * width), weight.read(width));
        let (grid, threads) = ([rows, 1, 1], threads_of(width));
        let even = i32::from(shape.even);
        // SAFETY: norm_rows(x, weight, eps, width, out, halves, even)
        unsafe {
            launch!(self.device, c"norm_rows", grid, threads, 0, x, weight, eps, width as i32, out, halves, even)
        };
    }

    fn matmul(&self, x: &Buffer, rows: usize, products: &mut [Product<'_, Cuda>]) {
        self.products(x, rows, products, false);
    }

    fn norm_matmul(
        &self,
        x: &Buffer,
        (weight, eps): (&Buffer, f32),
        rows: usize,
        h: &mut Buffer,
        products: &mut [Product<'_, Cuda>],
    ) {
        if linear::takes_floats(rows) && products.len() <= linear::PRODUCTS {
            self.few_from_floats(x, Some((weight, eps)), rows, products, false, None);
        } else {
            self.norm(x, weight, eps, rows, h);
            self.products(h, rows, products, false);
        }
    }

    fn norm_gate(
        &self,
        x: &Buffer,
        (weight, eps): (&Buffer, f32),
        rows: usize,
        h: &mut Buffer,
        function: Gate,
        mut products: [Product<'_, Cuda>; 2],
        len: usize,
    ) {
        if linear::takes_floats(rows) {
            return self.few_from_floats(x, Some((weight, eps)), rows, &mut products, false, Some(function));
        }
        self.norm(x, weight, eps, rows, h);
        if linear::is_many(rows) {
            self.products(h, rows, &mut products, false);
            let [gate, up] = products;
            self.gate(function, gate.out, up.out, len);
        } else {
            self.few_from_halves(h, rows, &mut products, false, Some(function));
        }
    }

    fn matmul_add(&self, x: &Buffer, rows: usize, product: Product<'_, Cuda>, _: usize, sum: &mut Buffer) {
        let Product { matrix, bias, .. } = product;
        self.products(x, rows, &mut [Product { matrix, bias, out: sum }], true);
    }

    fn angles(&self, positions: &[usize], frequencies: &[f64], out: &mut Buffer) {
        let (rows, count) = (positions.len(), frequencies.len());
        let out = out.write(rows, 2 * count);
        let mut state = self.state();
        let positions = state.put_positions(&self.device, positions);
        let frequencies = state.put_frequencies(&self.device, frequencies);
        let total = rows * count;
        let grid = [total.div_ceil(THREADS), 1, 1];
        // SAFETY: angles(positions, frequencies, count, total, out)
        unsafe {
            launch!(self.device, c"angles", grid, THREADS, 0, positions, frequencies, count as i32, total as i32, out)
        };
    }

    fn rotate(&self, x: &mut Buffer, rows: usize, rotation: &Rotation<'_, Cuda>) {
        let Rotation { heads, size, pairs, angles, norm } = *rotation;
        let (angles, total) = (angles.read(rows * size), rows * heads);
        let (weight, eps) = norm.map_or((0, 0.0), |(weight, eps)| (weight.read(size), eps));
        let x = x.write(rows, heads * size);
        let (heads, size, adjacent) = (heads as i32, size as i32, i32::from(pairs == Pairs::Adjacent));
        let grid = [total.div_ceil(THREADS / 32), 1, 1];
        let total = total as i32;
        // SAFETY: rotate(x, heads, size, adjacent, angles, weight, eps, total)
        unsafe {
            launch!(self.device, c"rotate", grid, THREADS, 0, x, heads, size, adjacent, angles, weight, eps, total)
        };
    }

    fn store(&self, k: &Buffer, v: &Buffer, step: &Step, layer: usize, cache: &mut Cache) {
        let CacheShape { heads, size, .. } = cache.shape();
        let warps = step.rows() * heads * 2;
        let [k, v] = [k, v].map(|x| x.read(step.rows() * heads * size));
        let mut state = self.state();
        let (tables, width) = state.put_tables(&self.device, step);
        // The same argument as that of `rotate_store`, without what is rotated.
        let argument = Heads {
            q: 0,
            k,
            v,
            angles: 0,
            q_weight: 0,
            k_weight: 0,
            slots: state.put_slots(&self.device, step),
            positions: state.put_positions(&self.device, &step.positions),
            tables,
            cache: cache.layer(layer),
            stride: cache.stride(),
            heads: 0,
            kv_heads: heads as i32,
            size: size as i32,
            adjacent: 0,
            width: width as i32,
            total: warps as i32,
            kv: cache.number(),
            eps: 0.0,
        };
        let grid = [warps.div_ceil(THREADS / 32), 1, 1];
        // SAFETY: takes `Heads`; buffers, lists and cache have as many rows, heads and positions.
        unsafe { launch!(self.device, c"store", grid, THREADS, 0, argument) };
    }

    fn rotate_store(
        &self,
        [q, k, v]: [&mut Buffer; 3],
        [of_q, of_k]: [&Rotation<'_, Cuda>; 2],
        step: &Step,
        layer: usize,
        cache: &mut Cache,
    ) {
        let (rows, CacheShape { heads: kv_heads, size, .. }) = (step.rows(), cache.shape());
        let weight = |of: &Rotation<'_, Cuda>| of.norm.map_or(0, |(weight, _)| weight.read(size));
        let total = rows * (of_q.heads + 2 * kv_heads);
        let mut state = self.state();
        let (tables, width) = state.put_tables(&self.device, step);
        let argument = Heads {
            q: q.write(rows, of_q.heads * size),
            k: k.write(rows, kv_heads * size),
            v: v.read(rows * kv_heads * size),
            angles: of_q.angles.read(rows * size),
            q_weight: weight(of_q),
            k_weight: weight(of_k),
            slots: state.put_slots(&self.device, step),
            positions: state.put_positions(&self.device, &step.positions),
            tables,
            cache: cache.layer(layer),
            stride: cache.stride(),
            heads: of_q.heads as i32,
            kv_heads: kv_heads as i32,
            size: size as i32,
            adjacent: i32::from(of_q.pairs == Pairs::Adjacent),
            width: width as i32,
            total: total as i32,
            kv: cache.number(),
            eps: of_q.norm.map_or(0.0, |(_, eps)| eps),
        };
        let grid = [total.div_ceil(THREADS / 32), 1, 1];
        // SAFETY: takes `Heads`; buffers, lists and cache have as many rows, heads and positions.
        unsafe { launch!(self.device, c"rotate_store", grid, THREADS, 0, argument) };
    }

    fn attend(&self, q: &Buffer, cache: &Cache, layer: usize, step: &Step, attention: &Attention, out: &mut Buffer) {
        self.attention(q, cache, layer, step, attention, out);
    }

    fn rotate_attend(
        &self,
        [q, k, v]: [&mut Buffer; 3],
        rotations: [&Rotation<'_, Cuda>; 2],
        (layer, step): (usize, &Step),
        cache: &mut Cache,
        attention: &Attention,
        out: &mut Buffer,
    ) {
        if self.turns(step, cache, attention, rotations[0].pairs) {
            self.turned_attention([q, k, v], rotations, cache, (layer, step), attention, out);
        } else {
            self.rotate_store([&mut *q, k, v], rotations, step, layer, cache);
            self.attend(q, cache, layer, step, attention, out);
        }
    }

    fn gate(&self, function: Gate, gate: &mut Buffer, up: &Buffer, len: usize) {
        let width = gate.width(len);
        let rows = len.checked_div(width).unwrap_or(0);
        let shape = Shape { rows, width, even: linear::is_many(rows) };
        let up = up.read(len);
        let (gate, halves) = gate.write_both(&self.device, shape);
        let (grid, threads) = match shape.even {
            true => ([rows, 1, 1], threads_of(width)),
            false => ([shape.chunks().div_ceil(4), rows, 1], 128),
        };
        let (gelu, even) = (i32::from(function == Gate::Gelu), i32::from(shape.even));
        // SAFETY: gate_rows(gate, up, gelu, width, halves, even)
        unsafe { launch!(self.device, c"gate_rows", grid, threads, 0, gate, up, gelu, width as i32, halves, even) };
    }

    fn add(&self, x: &mut Buffer, y: &Buffer, len: usize) {
        let width = x.width(len);
        let (x, y) = (x.write(len.checked_div(width).unwrap_or(0), width), y.read(len));
        let grid = [len.div_ceil(THREADS), 1, 1];
        // SAFETY: add(x, y, count)
        unsafe { launch!(self.device, c"add", grid, THREADS, 0, x, y, len as u64) };
    }

    fn gather(&self, x: &Buffer, rows: &[usize], width: usize, out: &mut Buffer) {
        let mut state = self.state();
        let state = &mut *state;
        let (list, ring) = (list(rows), if state.graphs.recording() { None } else { Some(&mut state.ring) });
        let wanted = state.wanted.put(&self.device, ring, &list);
        let last = rows.iter().max().map_or(0, |last| last + 1);
        let (x, out) = (x.read(last * width), out.write(rows.len(), width));
        let grid = [width.div_ceil(THREADS), rows.len(), 1];
        // SAFETY: gather(x, rows, width, out)
        unsafe { launch!(self.device, c"gather", grid, THREADS, 0, x, wanted, width as i32, out) };
    }

    fn softcap(&self, x: &mut Buffer, cap: f32, len: usize) {
        let width = x.width(len);
        let x = x.write(len.checked_div(width).unwrap_or(0), width);
        // SAFETY: softcap(x, cap, count)
        unsafe { launch!(self.device, c"softcap", [len.div_ceil(THREADS), 1, 1], THREADS, 0, x, cap, len as u64) };
    }

    fn pass(&self, step: &Step, owner: u64, operations: impl FnMut()) {
        self.recorded(step, owner, operations);
    }
}

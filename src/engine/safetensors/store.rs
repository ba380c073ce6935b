//! The tensors of a folder as GGUF has them.

use super::config::Config;
use super::file::{Dtype, Entry, Shards};
use super::{names, wrong};
use crate::engine::gguf::{self, Error, Kind, Store, Tensor};
use crate::engine::quant::{Format, Half};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;

/// Groups of NVFP4 have so many weights, blocks in GGUF four groups.
const GROUP: u64 = 16;

/// How a tensor is made.
#[derive(Debug, Clone, PartialEq)]
enum Recipe {
    /// As it lies there.
    Lying(Entry),
    /// Floats of 32 bits, each with `plus` added.
    Floats { of: Entry, plus: f32 },
    /// Rows of heads whose halves are interleaved: what GGUF's Llama rotates lies side by side there.
    Interleaved { of: Entry, kind: Kind, heads: u64 },
    /// Halves, of floats of 8 bits times the scales of their blocks.
    Eight { of: Entry, scales: Entry, heads: u64 },
    /// Floats of 4 bits with scales of 8 bits for each group.
    Four { packed: Entry, scales: Entry, heads: u64 },
    /// One number: what all weights are multiplied with, or divided by.
    Scale { of: Entry, divides: bool },
    /// What no file has.
    Made(Vec<f32>),
}

/// A model's tensors.
#[derive(Debug)]
pub(super) struct Folder {
    maps: Vec<Mmap>,
    recipes: BTreeMap<String, (Recipe, Kind, Vec<u64>)>,
}

impl Folder {
    /// Of these files, mapped if asked for.
    pub fn new(shards: &Shards, config: &Config, mapped: bool) -> Result<Folder, Error> {
        let mut folder = Folder { maps: Vec::new(), recipes: BTreeMap::new() };
        for (name, entry) in &shards.tensors {
            folder.add(shards, config, name, entry)?;
        }
        for (name, factors) in config.rope_factors()? {
            let dims = vec![factors.len() as u64];
            folder.recipes.insert(name.into(), (Recipe::Made(factors), Kind::F32, dims));
        }
        for (path, len) in shards.files.iter().filter(|_| mapped) {
            let file = File::open(path).map_err(|source| Error::Io { path: path.clone(), source })?;
            folder.maps.push(gguf::map(&file, *len, path)?);
        }
        Ok(folder)
    }

    fn add(&mut self, shards: &Shards, config: &Config, name: &str, entry: &Entry) -> Result<(), Error> {
        let problem = |problem: String| wrong(&shards.files[entry.part].0, format!("the tensor {name:?} {problem}"));
        let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let kind = match kind {
            // Norms of old files.
            "gamma" => "weight",
            "beta" => "bias",
            kind => kind,
        };
        let beside = |kind: &str| shards.tensors.get(&format!("{stem}.{kind}"));
        if kind.starts_with("weight_") && kind != "weight_packed" || names::is_ignored(name, config.encodes()) {
            // Scales go with their weights.
            return Ok(());
        }
        let Some(target) = names::gguf(stem, config.architecture) else {
            return Err(problem("is unknown: the model is a variant that is not supported".into()));
        };
        if config.tied && target == "output" {
            return Ok(());
        }
        let full = format!("{target}.{}", if kind == "bias" { "bias" } else { "weight" });
        // Which rows are interleaved.
        let heads = match target.rsplit('.').next() {
            Some("attn_q") if config.architecture == "llama" => config.heads,
            Some("attn_k") if config.architecture == "llama" => config.kv_heads,
            _ => 0,
        };
        let rows = entry.shape.first().copied().unwrap_or(1);
        if heads > 0 && !rows.is_multiple_of(2 * heads) {
            return Err(problem(format!("has {rows} rows, which are not those of {heads} heads")));
        }
        let entry = &match target.as_str() {
            "position_embd" => positions(entry, &config.positions).map_err(problem)?,
            _ => entry.clone(),
        };
        let mut dims: Vec<u64> = entry.shape.iter().rev().copied().collect();
        if dims.is_empty() || dims.len() > 2 || dims.contains(&0) {
            return Err(problem(format!("has the shape {:?}", entry.shape)));
        }
        let (of, floats) = (entry.clone(), float_kind(entry.dtype));
        let (recipe, kind) = match (kind, floats) {
            ("weight" | "bias", Some(_)) if dims.len() == 1 => {
                let plus = if config.architecture == "gemma3" && target.ends_with("norm") { 1.0 } else { 0.0 };
                match heads {
                    0 => (Recipe::Floats { of, plus }, Kind::F32),
                    _ => (Recipe::Interleaved { of, kind: Kind::F32, heads }, Kind::F32),
                }
            }
            ("weight", Some(kind)) if heads == 0 => (Recipe::Lying(of), kind),
            ("weight", Some(kind)) => (Recipe::Interleaved { of, kind, heads }, kind),
            ("weight", None) if entry.dtype == Dtype::F8_E4M3 => {
                let Some(scales) = beside("weight_scale").or_else(|| beside("weight_scale_inv")) else {
                    return Err(problem("has no weight_scale or weight_scale_inv beside it".into()));
                };
                block(entry, scales).map_err(problem)?;
                (Recipe::Eight { of, scales: scales.clone(), heads }, Kind::F16)
            }
            ("weight" | "weight_packed", None) if entry.dtype == Dtype::U8 => {
                dims[0] *= 2;
                let (scales, whole) = match kind {
                    "weight" => (beside("weight_scale"), beside("weight_scale_2")),
                    _ => (beside("weight_scale"), beside("weight_global_scale")),
                };
                let (Some(scales), Some(whole)) = (scales, whole) else {
                    return Err(problem("has no scales of groups and of the whole beside it".into()));
                };
                let expected = [rows, dims[0] / GROUP];
                if scales.dtype != Dtype::F8_E4M3 || scales.shape != expected || !dims[0].is_multiple_of(4 * GROUP) {
                    return Err(problem(format!(
                        "has {} columns and scales of the shape {:?} and type {:?}; supported are multiples of 64 with \
                         {expected:?} and F8_E4M3",
                        dims[0], scales.shape, scales.dtype
                    )));
                }
                if whole.shape.iter().product::<u64>() != 1 || whole.dtype != Dtype::F32 {
                    return Err(problem("needs one scale of the whole, of the type F32".into()));
                }
                let scale = Recipe::Scale { of: whole.clone(), divides: kind == "weight_packed" };
                self.recipes.insert(format!("{target}.scale"), (scale, Kind::F32, vec![1]));
                (Recipe::Four { packed: of, scales: scales.clone(), heads }, Kind::NVFP4)
            }
            _ => return Err(problem(format!("is of the type {:?}, which is not supported", entry.dtype))),
        };
        if self.recipes.insert(full.clone(), (recipe, kind, dims)).is_some() {
            return Err(problem(format!("is another {full}")));
        }
        Ok(())
    }

    /// What a GGUF file's table would say.
    pub fn tensors(&self) -> Vec<Tensor> {
        let tensor = |(name, (_, kind, dims)): (&String, &(Recipe, Kind, Vec<u64>))| Tensor {
            name: name.clone(),
            dims: dims.clone(),
            kind: *kind,
            part: 0,
            offset: 0,
            bytes: kind.row_bytes(dims.iter().product()).unwrap_or(0),
        };
        self.recipes.iter().map(tensor).collect()
    }

    fn lying(&self, entry: &Entry) -> &[u8] {
        &self.maps[entry.part][entry.place.start as usize..entry.place.end as usize]
    }

    /// The numbers of a tensor.
    fn numbers(&self, entry: &Entry) -> Vec<f32> {
        let bytes = self.lying(entry);
        match float_kind(entry.dtype).and_then(Format::of) {
            Some(format) => {
                let mut numbers = vec![0.0; bytes.len() / format.row_bytes(1)];
                format.dequantise(bytes, &mut numbers);
                numbers
            }
            None => bytes.iter().map(|&byte| eight(byte)).collect(),
        }
    }

    fn make(&self, recipe: &Recipe) -> Vec<u8> {
        let bytes = |numbers: Vec<f32>| numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        match recipe {
            Recipe::Lying(entry) => self.lying(entry).to_vec(),
            Recipe::Made(numbers) => bytes(numbers.clone()),
            Recipe::Floats { of, plus } => bytes(self.numbers(of).into_iter().map(|x| x + plus).collect()),
            Recipe::Scale { of, divides } => {
                bytes(self.numbers(of).into_iter().map(|x| if *divides { x.recip() } else { x }).collect())
            }
            Recipe::Interleaved { of, kind: Kind::F32, heads } => {
                interleaved(&bytes(self.numbers(of)), of.shape[0], *heads)
            }
            Recipe::Interleaved { of, heads, .. } => interleaved(self.lying(of), of.shape[0], *heads),
            Recipe::Eight { of, scales, heads } => interleaved(&self.halves(of, scales), of.shape[0], *heads),
            Recipe::Four { packed, scales, heads } => {
                let blocks = blocks_of_four(self.lying(packed), self.lying(scales));
                interleaved(&blocks, packed.shape[0], *heads)
            }
        }
    }

    /// Floats of 8 bits, scaled, as halves.
    fn halves(&self, of: &Entry, scales: &Entry) -> Vec<u8> {
        let numbers = self.numbers(scales);
        let cols = of.shape[1] as usize;
        // It was checked when the recipe was written.
        let [high, wide] = block(of, scales).unwrap_or([1, 1]);
        let a_row = cols.div_ceil(wide);
        let half = |(at, &byte): (usize, &u8)| {
            let scale = numbers[at / cols / high * a_row + at % cols / wide];
            Half::of(eight(byte) * scale).0
        };
        self.lying(of).iter().enumerate().flat_map(half).collect()
    }
}

impl Store for Folder {
    fn bytes(&self, tensor: &Tensor) -> Cow<'_, [u8]> {
        match self.recipes.get(&tensor.name) {
            Some((Recipe::Lying(entry), ..)) => Cow::Borrowed(self.lying(entry)),
            Some((recipe, ..)) => Cow::Owned(self.make(recipe)),
            None => panic!("{} is another model's tensor", tensor.name),
        }
    }

    fn maps(&self) -> Vec<&Mmap> {
        self.maps.iter().collect()
    }
}

/// What GGUF calls types of plain floats.
pub(in crate::engine) fn float_kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::F32),
        Dtype::F16 => Some(Kind::F16),
        Dtype::BF16 => Some(Kind::BF16),
        _ => None,
    }
}

/// Those rows of a table that texts' tokens have.
fn positions(table: &Entry, rows: &Range<u64>) -> Result<Entry, String> {
    let all = table.shape.first().copied().unwrap_or(0);
    if rows.end > all {
        return Err(format!("has {all} rows, fewer than the {} that config.json tells of", rows.end));
    }
    let row = (table.place.end - table.place.start) / all;
    let mut part = table.clone();
    part.shape[0] = rows.end - rows.start;
    part.place = table.place.start + rows.start * row..table.place.start + rows.end * row;
    Ok(part)
}

/// Rows and columns of the blocks that have a scale each: all of them where there is one scale, a row where there is a column
/// of scales.
fn block(of: &Entry, scales: &Entry) -> Result<[usize; 2], String> {
    let problem = || {
        format!("of the shape {:?} has scales of the shape {:?} and type {:?}", of.shape, scales.shape, scales.dtype)
    };
    let &[rows, cols] = of.shape.as_slice() else { return Err(problem()) };
    let (high, wide) = match *scales.shape.as_slice() {
        _ if float_kind(scales.dtype).is_none() => return Err(problem()),
        [] | [1] | [1, 1] => return Ok([rows as usize, cols as usize]),
        [high] => (high, 1),
        [high, wide] => (high, wide),
        _ => return Err(problem()),
    };
    if high == 0 || wide == 0 || high > rows || wide > cols {
        return Err(problem());
    }
    let block = [rows.div_ceil(high), cols.div_ceil(wide)];
    // The blocks must be as many as the scales.
    if [rows.div_ceil(block[0]), cols.div_ceil(block[1])] != [high, wide] {
        return Err(problem());
    }
    Ok(block.map(|extent| extent as usize))
}

/// A float of 8 bits: a sign, four bits of exponent, three of mantissa; all ones is no number.
fn eight(byte: u8) -> f32 {
    let (exponent, mantissa) = (byte >> 3 & 15, f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * f32::from(exponent as i8 - 7).exp2(),
    };
    if byte < 128 { magnitude } else { -magnitude }
}

/// Rows of so many heads: those of a head's first and second half in turns. Where there are no heads they stay as they are.
pub(in crate::engine) fn interleaved(rows: &[u8], count: u64, heads: u64) -> Vec<u8> {
    if heads == 0 {
        return rows.to_vec();
    }
    let (row, half) = (rows.len() / count as usize, (count / heads / 2) as usize);
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(2 * half * row) {
        for i in 0..half {
            out.extend_from_slice(&head[i * row..][..row]);
            out.extend_from_slice(&head[(half + i) * row..][..row]);
        }
    }
    out
}

/// Blocks of 64: the scales of four groups, then their weights. In a folder two weights that follow each other share a byte,
/// in GGUF those that are eight apart.
fn blocks_of_four(packed: &[u8], scales: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(packed.len() + scales.len());
    for (packed, scales) in packed.as_chunks::<32>().0.iter().zip(scales.as_chunks::<4>().0) {
        out.extend_from_slice(scales);
        for group in packed.as_chunks::<8>().0 {
            let weight = |i: usize| group[i / 2] >> (i % 2 * 4) & 15;
            out.extend((0..8).map(|i| weight(i) | weight(i + 8) << 4));
        }
    }
    out
}

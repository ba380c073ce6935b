//! LoRA adapters: for some of a model's matrices `W` two narrow ones each, whose product is added: `y = W x + s B (A x)`.
//!
//! Read are GGUF files as llama.cpp's converter writes them, and folders as PEFT saves them (`peft`). An adapter is opened
//! for the model that it belongs to. That takes each pair by the name of its matrix, as it takes its own tensors; what is
//! left over then belongs to another model, and is refused by name.

mod config;
mod peft;

#[cfg(test)]
mod tests;

use super::Error;
use super::blocks::Chain;
use super::gguf::{Gguf, Header, Tensor};
use super::model::Hyper;
use super::quant::Format;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Those in use are below 512. What lies between two matrices is held for every token of a step.
const MAX_RANK: usize = 4096;

/// An adapter.
#[derive(Debug)]
pub struct Lora {
    /// Where it lies.
    label: String,
    /// By the name of the matrix that they add to, without its `.weight`.
    pairs: BTreeMap<String, Pair>,
    root: Chain,
    /// Absent where only its header was read.
    file: Option<Gguf>,
}

/// The two matrices that add to one.
#[derive(Debug)]
pub struct Pair {
    /// How many numbers there are in between.
    pub rank: usize,
    /// What their product is multiplied with.
    scale: f32,
    /// [rank, in features]
    a: Tensor,
    /// [out features, rank]
    b: Tensor,
}

impl Lora {
    /// Maps the adapter in this file or folder, for the model of this header. Only a process that may die of it should: see
    /// [`super::gguf`].
    ///
    /// # Errors
    /// When it cannot be read, says what cannot be true, or needs what is not supported; names the field or tensor.
    /// Whether it fits the model's matrices shows when that is [loaded](super::model::Model::load_adapted) or
    /// [checked](super::footprint::Footprint::adapted).
    pub fn open(path: &Path, base: &Header) -> Result<Lora, Error> {
        let open = || -> Result<Lora, String> {
            let hyper = hyper(base)?;
            let (file, scales) = match path.is_dir() {
                true => peft::Folder::read(path, &hyper)?.map()?,
                false => (Gguf::open(path).map_err(|error| error.to_string())?, None),
            };
            let mut lora = Lora::of(path, &file, scales.as_ref(), &hyper)?;
            lora.root = lora.digest(&file);
            lora.file = Some(file);
            Ok(lora)
        };
        open().map_err(|problem| refusal(path, problem))
    }

    /// Reads its header alone, without a mapping: no file can harm the process that does. It cannot be computed with.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn header(path: &Path, base: &Header) -> Result<Lora, Error> {
        let read = || -> Result<Lora, String> {
            let hyper = hyper(base)?;
            let (header, scales) = match path.is_dir() {
                true => peft::Folder::read(path, &hyper)?.header()?,
                false => (Gguf::header(path).map_err(|error| error.to_string())?, None),
            };
            Lora::of(path, &header, scales.as_ref(), &hyper)
        };
        read().map_err(|problem| refusal(path, problem))
    }

    /// What the header says. `scales` are those of the pairs; without them the header has an alpha.
    fn of(path: &Path, header: &Header, scales: Option<&peft::Scales>, hyper: &Hyper) -> Result<Lora, String> {
        let alpha = match scales {
            Some(_) => 0.0,
            None => alpha(header, hyper)?,
        };
        let mut pairs = BTreeMap::new();
        for a in header.tensors() {
            let Some(matrix) = a.name.strip_suffix(".lora_a") else {
                let stem = a.name.strip_suffix(".lora_b");
                match stem.filter(|stem| header.tensor(&format!("{stem}.lora_a")).is_none()) {
                    Some(stem) => return Err(format!("the tensor {} has no {stem}.lora_a beside it", a.name)),
                    None if stem.is_some() => continue,
                    None => return Err(format!("the tensor {} is whole, not of low rank: not supported", a.name)),
                }
            };
            let name = matrix.strip_suffix(".weight").filter(|name| *name != "token_embd").ok_or_else(|| {
                format!("it adds to {matrix}; supported are the matrices of attention, of the feed-forward network and output")
            })?;
            let b = header.tensor(&format!("{matrix}.lora_b"));
            let b = b.ok_or_else(|| format!("the tensor {} has no {matrix}.lora_b beside it", a.name))?;
            let rank = rank(a, b)?;
            let scale = match scales.map(|scales| scales.get(name)) {
                Some(scale) => *scale.unwrap_or(&1.0),
                // As llama.cpp has it.
                None if alpha == 0.0 => 1.0,
                None => alpha / rank as f32,
            };
            pairs.insert(name.to_owned(), Pair { rank, scale, a: a.clone(), b: b.clone() });
        }
        if pairs.is_empty() {
            return Err("it has no tensors".into());
        }
        Ok(Lora { label: path.display().to_string(), pairs, root: Chain::default(), file: None })
    }

    /// What its conversations begin with: their keys and values are not those of the model alone. Adapters that compute the
    /// same have the same.
    pub fn root(&self) -> Chain {
        self.root
    }

    /// The highest rank of its pairs.
    pub fn rank(&self) -> usize {
        self.pairs.values().map(|pair| pair.rank).max().unwrap_or(0)
    }

    /// Bytes that it takes where it is computed with.
    pub fn bytes(&self) -> u64 {
        let numbers = |pair: &Pair| pair.a.elements() + pair.b.elements();
        self.pairs.values().map(numbers).sum::<u64>() * size_of::<f32>() as u64
    }

    /// What it adds to the matrix of this name with so many rows and columns, if anything; with the name as it has it.
    ///
    /// # Errors
    /// When its own matrices have other extents.
    pub fn pair(&self, name: &str, rows: usize, cols: usize) -> Result<Option<(&str, &Pair)>, Error> {
        let Some((name, pair)) = self.pairs.get_key_value(name) else { return Ok(None) };
        for (tensor, found, expected) in
            [(&pair.a, pair.a.dims[0], cols), (&pair.b, pair.b.dims.get(1).copied().unwrap_or(1), rows)]
        {
            if found != expected as u64 {
                let Tensor { name, dims, .. } = tensor;
                let problem =
                    format!("the tensor {name} has the dimensions {dims:?}, for a matrix of {rows} rows of {cols}");
                return Err(self.refuse(&problem));
            }
        }
        Ok(Some((name, pair)))
    }

    /// That the model has asked for all pairs.
    ///
    /// # Errors
    /// When one is left.
    pub fn check_taken(&self, taken: &HashSet<&str>) -> Result<(), Error> {
        match self.pairs.keys().find(|name| !taken.contains(name.as_str())) {
            None => Ok(()),
            Some(name) => Err(self.refuse(&format!("it adds to {name}.weight, which the model does not have"))),
        }
    }

    /// The numbers of a pair, each matrix by ranks: [rank, in features] and [rank, out features], the second scaled.
    ///
    /// # Errors
    /// When one is none, or only the header was read.
    pub fn read(&self, pair: &Pair) -> Result<[Vec<f32>; 2], Error> {
        let (a, b) = (self.numbers(&pair.a)?, self.numbers(&pair.b)?);
        let outputs = b.len() / pair.rank;
        let mut by_rank = vec![0.0; b.len()];
        for (output, row) in b.chunks_exact(pair.rank).enumerate() {
            for (r, value) in row.iter().enumerate() {
                by_rank[r * outputs + output] = value * pair.scale;
            }
        }
        Ok([a, by_rank])
    }

    fn numbers(&self, tensor: &Tensor) -> Result<Vec<f32>, Error> {
        let (Some(file), Some(format)) = (&self.file, Format::of(tensor.kind)) else {
            return Err(self.refuse("only its header was read"));
        };
        let mut numbers = vec![0.0; tensor.elements() as usize];
        format.dequantise(&file.bytes(tensor), &mut numbers);
        match numbers.iter().find(|number| !number.is_finite()) {
            None => Ok(numbers),
            Some(number) => Err(self.refuse(&format!("the tensor {} holds {number}", tensor.name))),
        }
    }

    /// An error about it.
    pub fn refuse(&self, problem: &str) -> Error {
        Error::Adapter { adapter: self.label.clone(), problem: problem.to_owned() }
    }

    /// What stands for all that it computes.
    fn digest(&self, file: &Gguf) -> Chain {
        let mut digest = Sha256::new_with_prefix("lora");
        for (name, pair) in &self.pairs {
            digest.update(format!("{name} {} {:x} {} {}", pair.rank, pair.scale.to_bits(), pair.a.kind, pair.b.kind));
            digest.update(file.bytes(&pair.a));
            digest.update(file.bytes(&pair.b));
        }
        Chain::root(&digest.finalize())
    }
}

fn refusal(path: &Path, problem: String) -> Error {
    Error::Adapter { adapter: path.display().to_string(), problem }
}

/// The shape of the model, which must be one that answers.
fn hyper(base: &Header) -> Result<Hyper, String> {
    let hyper = Hyper::of(base).map_err(|error| error.to_string())?;
    match hyper.pooling.is_some() || hyper.architecture.is_encoder() {
        true => Err("the model is one for embeddings, which take no adapters".into()),
        false => Ok(hyper),
    }
}

/// The alpha of a GGUF file, which is a LoRA adapter for the model's architecture; zero where it has none.
fn alpha(header: &Header, hyper: &Hyper) -> Result<f32, String> {
    let metadata = header.metadata();
    let expected =
        [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", hyper.architecture.name())];
    for (key, expected) in expected {
        let found: &str = metadata.get(key).map_err(|error| error.to_string())?;
        if found != expected {
            return Err(format!("{key:?} is {found:?}, expected {expected:?}"));
        }
    }
    const INVOCATION: &str = "adapter.alora.invocation_tokens";
    if metadata.value(INVOCATION).is_some() {
        return Err(format!("{INVOCATION:?}: adapters that begin at some tokens (aLoRA) are not supported"));
    }
    metadata.find("adapter.lora.alpha").map(Option::unwrap_or_default).map_err(|error| error.to_string())
}

/// The rank of a pair.
fn rank(a: &Tensor, b: &Tensor) -> Result<usize, String> {
    for tensor in [a, b] {
        let Tensor { name, dims, kind, .. } = tensor;
        if Format::of(*kind).is_none() {
            return Err(format!("the tensor {name} is of the kind {kind}, which is not supported"));
        }
        if dims.contains(&0) || dims.iter().skip(2).any(|&dim| dim != 1) {
            return Err(format!("the tensor {name} has the dimensions {dims:?}, which are not those of a matrix"));
        }
    }
    let (rank, other) = (a.dims.get(1).copied().unwrap_or(1), b.dims[0]);
    if rank != other {
        return Err(format!("the tensor {} has the rank {rank}, and {} has {other}", a.name, b.name));
    }
    usize::try_from(rank)
        .ok()
        .filter(|rank| *rank <= MAX_RANK)
        .ok_or_else(|| format!("the tensor {} has the rank {rank}, more than {MAX_RANK}", a.name))
}

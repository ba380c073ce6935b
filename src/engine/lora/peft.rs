//! The folder that PEFT saves: `adapter_config.json` and `adapter_model.safetensors`. It is presented as the GGUF file that
//! llama.cpp's converter would make of it.

use super::config::Config;
use crate::engine::gguf::{self, Gguf, Header, Store, Tensor, Writer};
use crate::engine::model::{Architecture, Hyper};
use crate::engine::safetensors::{file_header, float_kind, gguf_name, interleaved};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "adapter_model.safetensors";

/// What the products of pairs are multiplied with, by the names of their matrices.
pub(super) type Scales = BTreeMap<String, f32>;

/// What a folder says.
pub(super) struct Folder {
    path: PathBuf,
    file: File,
    bytes: u64,
    tensors: Vec<Tensor>,
    scales: Scales,
    /// Of those tensors whose rows GGUF has in another order, how many heads these are of.
    heads: BTreeMap<String, u64>,
}

impl Folder {
    /// Reads the configuration and the table of tensors.
    pub(super) fn read(folder: &Path, hyper: &Hyper) -> Result<Folder, String> {
        let config = Config::read(&folder.join("adapter_config.json"))?;
        let path = folder.join(WEIGHTS);
        if !path.exists() && folder.join("adapter_model.bin").exists() {
            return Err(format!("adapter_model.bin may run any program when it is read; save it as {WEIGHTS}"));
        }
        let io = |error: std::io::Error| format!("cannot read {WEIGHTS}: {error}");
        let mut file = File::open(&path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let entries = file_header(&mut file, bytes, 0, Path::new(WEIGHTS)).map_err(|error| error.to_string())?;
        let (tensors, scales, heads) = (Vec::new(), Scales::new(), BTreeMap::new());
        let mut found = Folder { path, file, bytes, tensors, scales, heads };
        for (name, entry) in entries {
            let problem = |problem: String| format!("{WEIGHTS}: the tensor {name:?} {problem}");
            let stem = name.strip_prefix("base_model.model.").unwrap_or(&name);
            if stem.ends_with(".base_layer.weight") {
                // A copy of the model's own, which PEFT saves beside pairs of the output.
                continue;
            }
            let half = [(".lora_A.weight", "lora_a", 0), (".lora_B.weight", "lora_b", 1)];
            let half = half.into_iter().find_map(|(end, half, axis)| Some((stem.strip_suffix(end)?, half, axis)));
            let Some((module, half, axis)) = half else {
                return Err(problem("is neither lora_A nor lora_B of a linear map: not supported".into()));
            };
            let target = gguf_name(module, hyper.architecture.name());
            let target = target.ok_or_else(|| problem("belongs to no module of this architecture".into()))?;
            if !config.is_target(module)? {
                return Err(problem("is of a module that \"target_modules\" does not name".into()));
            }
            let (rank, scale) = config.scale(module)?;
            if entry.shape.len() != 2 || entry.shape[axis] != rank as u64 {
                return Err(problem(format!("has the shape {:?}, and \"r\" is {rank} for it", entry.shape)));
            }
            let kind = float_kind(entry.dtype);
            let kind = kind.ok_or_else(|| problem(format!("is of the type {:?}: not supported", entry.dtype)))?;
            let heads = match target.rsplit('.').next() {
                Some("attn_q") if hyper.architecture == Architecture::Llama => hyper.heads as u64,
                Some("attn_k") if hyper.architecture == Architecture::Llama => hyper.kv_heads as u64,
                _ => 0,
            };
            let tensor = Tensor {
                name: format!("{target}.weight.{half}"),
                dims: entry.shape.iter().rev().copied().collect(),
                kind,
                part: 0,
                offset: entry.place.start,
                bytes: entry.place.end - entry.place.start,
            };
            if half == "lora_b" && heads > 0 {
                if !entry.shape[0].is_multiple_of(2 * heads) {
                    return Err(problem(format!("has {} rows, which are not those of {heads} heads", entry.shape[0])));
                }
                found.heads.insert(tensor.name.clone(), heads);
            }
            found.tensors.push(tensor);
            found.scales.insert(target, scale);
        }
        Ok(found)
    }

    /// As a header alone.
    pub(super) fn header(self) -> Result<(Header, Option<Scales>), String> {
        let header = Header::of_parts(&Writer::new().to_vec(), self.tensors, self.bytes);
        Ok((header.map_err(|error| error.to_string())?, Some(self.scales)))
    }

    /// As a file, mapped.
    pub(super) fn map(self) -> Result<(Gguf, Option<Scales>), String> {
        let map = gguf::map(&self.file, self.bytes, &self.path).map_err(|error| error.to_string())?;
        let store = Box::new(Mapped { map, heads: self.heads });
        let file = Gguf::of_parts(Writer::new().to_vec(), self.tensors, self.bytes, store);
        Ok((file.map_err(|error| error.to_string())?, Some(self.scales)))
    }
}

#[derive(Debug)]
struct Mapped {
    map: Mmap,
    heads: BTreeMap<String, u64>,
}

impl Store for Mapped {
    fn bytes(&self, tensor: &Tensor) -> Cow<'_, [u8]> {
        let bytes = &self.map[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
        match self.heads.get(&tensor.name) {
            Some(&heads) => Cow::Owned(interleaved(bytes, tensor.dims[1], heads)),
            None => Cow::Borrowed(bytes),
        }
    }

    fn maps(&self) -> Vec<&Mmap> {
        vec![&self.map]
    }
}

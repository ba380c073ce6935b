//! The files of tensors: a header of JSON with names, types, extents and places; then the bytes.

use super::{json_if_there, wrong};
use crate::engine::gguf::Error;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What the format's own reader allows.
const MAX_HEADER: u64 = 100_000_000;
const MAX_TENSORS: usize = 1 << 16;
const MAX_SHARDS: usize = 1000;

/// How the numbers of a tensor are stored, as far as it is known what to do with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "the names are the format's")]
pub(in crate::engine) enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8_E4M3,
    F8_E5M2,
    I64,
    I32,
    I16,
    I8,
    U8,
    BOOL,
}

impl Dtype {
    fn bytes(self) -> u64 {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 => 2,
            Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::I8 | Dtype::U8 | Dtype::BOOL => 1,
        }
    }
}

/// A tensor: what it is and where.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) struct Entry {
    pub dtype: Dtype,
    /// The outermost extent first.
    pub shape: Vec<u64>,
    /// Which file.
    pub part: usize,
    /// Where in it.
    pub place: Range<u64>,
}

/// All files of a model.
#[derive(Debug)]
pub(super) struct Shards {
    pub files: Vec<(PathBuf, u64)>,
    pub tensors: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Described {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Shards {
    /// Reads the headers of `model.safetensors`, or of the files that `model.safetensors.index.json` names.
    pub fn read(folder: &Path) -> Result<Shards, Error> {
        let at = folder.join("model.safetensors.index.json");
        let Some(index) = json_if_there::<Index>(&at)? else {
            return Shards::of(vec![folder.join("model.safetensors")]);
        };
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        if names.len() > MAX_SHARDS {
            return Err(wrong(&at, format!("it names {} files, more than {MAX_SHARDS}", names.len())));
        }
        // A name that leads out of the folder has more than one part.
        if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
            return Err(wrong(&at, format!("{name:?} is no name of a file in the folder")));
        }
        let shards = Shards::of(names.into_iter().map(|name| folder.join(name)).collect())?;
        if let Some((name, file)) = index.weight_map.iter().find(|(name, _)| !shards.tensors.contains_key(*name)) {
            return Err(wrong(&at, format!("it names {name:?} in {file:?}, which has no such tensor")));
        }
        Ok(shards)
    }

    fn of(paths: Vec<PathBuf>) -> Result<Shards, Error> {
        let mut shards = Shards { files: Vec::new(), tensors: BTreeMap::new() };
        for (part, path) in paths.into_iter().enumerate() {
            let io = |source| Error::Io { path: path.clone(), source };
            let mut file = File::open(&path).map_err(io)?;
            let len = file.metadata().map_err(io)?.len();
            for (name, entry) in header(&mut file, len, part, &path)? {
                let problem = format!("the tensor {name:?} occurs twice");
                if shards.tensors.insert(name, entry).is_some() {
                    return Err(wrong(&path, problem));
                }
            }
            if shards.tensors.len() > MAX_TENSORS {
                return Err(wrong(&path, format!("with it there are more than {MAX_TENSORS} tensors")));
            }
            shards.files.push((path, len));
        }
        Ok(shards)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, len)| len).sum()
    }
}

/// The tensors in a file of `len` bytes: each has the bytes that its extents take, within the file, alone.
pub(in crate::engine) fn header(
    reader: &mut impl Read,
    len: u64,
    part: usize,
    path: &Path,
) -> Result<Vec<(String, Entry)>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let Some(most) = len.checked_sub(8) else { return Err(wrong(path, format!("it has {len} bytes, too few"))) };
    let mut size = [0; 8];
    reader.read_exact(&mut size).map_err(io)?;
    let size = u64::from_le_bytes(size);
    if size > most.min(MAX_HEADER) {
        return Err(wrong(path, format!("its header should have {size} bytes; the file has {len}")));
    }
    let mut bytes = vec![0; size as usize];
    reader.read_exact(&mut bytes).map_err(io)?;
    let Entries(entries) =
        serde_json::from_slice(&bytes).map_err(|error| wrong(path, format!("its header: {error}")))?;
    let data = most - size;
    let mut tensors = Vec::with_capacity(entries.len().min(MAX_TENSORS));
    for (name, Described { dtype, shape, data_offsets: [start, end] }) in entries {
        let problem = |problem: String| wrong(path, format!("the tensor {name:?}: {problem}"));
        let elements = shape.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent));
        let Some(bytes) = elements.and_then(|elements| elements.checked_mul(dtype.bytes())) else {
            return Err(problem(format!("its shape {shape:?} overflows")));
        };
        if start > end || end > data {
            return Err(problem(format!("its data_offsets {start} to {end} are not within the {data} bytes of data")));
        }
        if end - start != bytes {
            return Err(problem(format!("its shape {shape:?} takes {bytes} bytes, its data_offsets {}", end - start)));
        }
        let place = 8 + size + start..8 + size + end;
        tensors.push((name, Entry { dtype, shape, part, place }));
    }
    tensors.sort_by_key(|(_, entry)| (entry.place.start, entry.place.end));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].1.place.end > pair[1].1.place.start) {
        return Err(wrong(path, format!("the tensors {:?} and {:?} overlap", pair[0].0, pair[1].0)));
    }
    Ok(tensors)
}

/// The tensors of a header, in which no name may occur twice.
struct Entries(Vec<(String, Described)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                use serde::de::Error;
                let (mut entries, mut names) = (Vec::new(), BTreeSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name {name:?} occurs twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let entry = map.next_value().map_err(|error| A::Error::custom(format!("{name:?}: {error}")))?;
                    entries.push((name, entry));
                    if entries.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format!("there are more than {MAX_TENSORS} tensors")));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

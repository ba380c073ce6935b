//! GGUF, versions 2 and 3: the file that a model comes in.
//!
//! [`Header`] is what the file says of itself: metadata and a table of tensors. It is read by plain I/O in one pass, and
//! every count, length, extent, offset and alignment is compared with the file's length before anything is allocated
//! for it: a hostile file gets an error that names the field, at the cost of a few MiB. [`Gguf`] adds the mapping:
//! large arrays and weights are read where they lie.
//!
//! The daemon reads headers only. A file that shrinks while it is mapped kills its reader (SIGBUS), which is a worker's
//! risk, not the daemon's.

mod cursor;
mod error;
mod kind;
mod metadata;
mod split;
mod store;
mod summary;
mod tensor;
mod value;
mod write;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use kind::Kind;
pub use metadata::{Array, FromValue, Metadata, Type, Value};
pub use store::{Store, map};
pub use summary::Summary;
pub use tensor::Tensor;
pub use write::{Scalar, Writer};

use cursor::{Cursor, quoted};
use memmap2::Mmap;
use std::borrow::Cow;
use std::io::{self, Read, Seek};
use std::ops::Deref;
use std::path::Path;
use store::Files;

/// Real files have some hundreds; a mixture of experts in separate tensors some ten thousands.
const MAX_TENSORS: u64 = 1 << 16;

/// What a model file says of itself.
#[derive(Debug)]
pub struct Header {
    version: u32,
    alignment: u64,
    file_bytes: u64,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    /// Indices of `tensors`, by name.
    by_name: Vec<u32>,
}

impl Header {
    /// Reads a header from `reader`, which is called `path` in errors about reading.
    ///
    /// # Errors
    /// When it cannot be read, is no GGUF file, or says what cannot be true.
    pub fn read(reader: impl Read + Seek, path: &Path) -> Result<Header, Error> {
        let cursor = &mut Cursor::new(reader, path)?;
        let magic = cursor.fixed(|| "the file's first bytes".into())?;
        if &magic != b"GGUF" {
            return Err(Error::NotGguf(magic));
        }
        let version = cursor.u32(|| "the version".into())?;
        if !(2..=3).contains(&version) {
            return Err(Error::Version(version));
        }
        let tensors = cursor.u64(|| "the count of tensors".into())?;
        let entries = cursor.u64(|| "the count of metadata".into())?;
        let metadata = Metadata::read(cursor, entries)?;
        let alignment = alignment(&metadata)?;
        let tensors = read_tensors(cursor, tensors)?;
        place(tensors, metadata, cursor.at(), alignment, cursor.len(), version)
    }

    /// The header of a model that comes in another form: see [`Gguf::of_parts`]. `bytes` are those of all its files.
    ///
    /// # Errors
    /// When the metadata says what cannot be true, or a name occurs twice.
    pub fn of_parts(metadata: &[u8], tensors: Vec<Tensor>, bytes: u64) -> Result<Header, Error> {
        let header = Header::read(io::Cursor::new(metadata), Path::new("metadata"))?;
        Ok(Header { file_bytes: bytes, by_name: by_name(&tensors)?, tensors, ..header })
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensors' offsets are multiples of, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the file's table.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let of = |&index: &u32| self.tensors[index as usize].name.as_str();
        let at = self.by_name.binary_search_by(|index| of(index).cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at] as usize])
    }
}

/// A model: its header, which it dereferences to, and the bytes of its tensors.
#[derive(Debug)]
pub struct Gguf {
    header: Header,
    store: Box<dyn Store>,
}

impl Gguf {
    /// Maps the file at `path`, and those that belong to it; or the model in a folder, see [`super::safetensors`]. Only a process that may die of its model should: see the
    /// module.
    ///
    /// # Errors
    /// When one cannot be read or mapped, is no GGUF file, or says what cannot be true.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        if path.is_dir() {
            return super::safetensors::open(path);
        }
        let (mut header, files) = split::open(path)?;
        let maps: Vec<Mmap> =
            files.iter().map(|(path, file, bytes)| map(file, *bytes, path)).collect::<Result<_, _>>()?;
        if let Some((path, file, bytes)) = files.first() {
            header.metadata.attach(metadata::File::Mapped(map(file, *bytes, path)?));
        }
        Ok(Gguf { header, store: Box::new(Files(maps)) })
    }

    /// A model that comes in another form: `metadata` as the file would have it that a converter made, without tensors, and
    /// what gives the tensors.
    ///
    /// # Errors
    /// When the metadata says what cannot be true, or a name occurs twice.
    pub fn of_parts(metadata: Vec<u8>, tensors: Vec<Tensor>, bytes: u64, store: Box<dyn Store>) -> Result<Gguf, Error> {
        let mut header = Header::of_parts(&metadata, tensors, bytes)?;
        header.metadata.attach(metadata::File::Made(metadata));
        Ok(Gguf { header, store })
    }

    /// Reads the header alone, without a mapping: no file can harm the process that does.
    ///
    /// # Errors
    /// When it cannot be read, is no GGUF file, or says what cannot be true.
    pub fn header(path: &Path) -> Result<Header, Error> {
        if path.is_dir() {
            return super::safetensors::header(path);
        }
        Ok(split::open(path)?.0)
    }

    /// The bytes of a tensor of this model.
    ///
    /// # Panics
    /// When the tensor is another model's and lies beyond this one's end.
    pub fn bytes(&self, tensor: &Tensor) -> Cow<'_, [u8]> {
        self.store.bytes(tensor)
    }

    /// Lets go of the memory that a tensor's bytes take, which are read again when they are needed again: who goes through a
    /// model once needs no more than a tensor takes.
    pub fn forget(&self, tensor: &Tensor) {
        if let Cow::Borrowed(bytes) = self.bytes(tensor) {
            store::forget(&self.maps(), bytes);
        }
    }

    /// The files, for those who advise the system how they will be read.
    pub fn maps(&self) -> Vec<&Mmap> {
        self.store.maps()
    }

    /// Has bytes of tensors mapped, waiting until they have been read: faster than page by page.
    pub fn fetch(&self, bytes: &[u8]) {
        store::fetch(&self.maps(), bytes);
    }

    /// Lets go of the memory that bytes of tensors take, until they are read again.
    pub fn forget_bytes(&self, bytes: &[u8]) {
        store::forget(&self.maps(), bytes);
    }
}

impl Deref for Gguf {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, Error> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.find(KEY)?.unwrap_or(32u64);
    // Below eight a tensor of f32 could lie where none can be read; above a mebibyte nobody aligns.
    if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
        return Err(Error::malformed(
            format!("metadata {KEY:?}"),
            format!("{alignment} is no power of two in 8..=2^20"),
        ));
    }
    Ok(alignment)
}

/// The table of tensors, with offsets as the file has them: counted from the beginning of the data.
fn read_tensors<R: Read + Seek>(cursor: &mut Cursor<R>, count: u64) -> Result<Vec<Tensor>, Error> {
    if count > MAX_TENSORS {
        return Err(Error::malformed("the count of tensors", format!("{count} is more than {MAX_TENSORS}")));
    }
    let mut tensors = Vec::new();
    for at in 0..count {
        let field = || format!("the name of tensor {at}");
        let name = String::from_utf8(cursor.string(field)?).map_err(|_| Error::malformed(field(), "not UTF-8"))?;
        let field = |what: &str| format!("tensor {}, {what}", quoted(&name));
        let rank = cursor.u32(|| field("its count of dims"))?;
        if !(1..=4).contains(&rank) {
            return Err(Error::malformed(field("its count of dims"), format!("{rank} is not within 1..=4")));
        }
        // An allocator rounds up, and the vector of all tensors may be twice as long as it is full.
        cursor.keep(2 * size_of::<Tensor>() + 48, || field("its place in the table"))?;
        let mut dims = Vec::with_capacity(rank as usize);
        for axis in 0..rank {
            dims.push(cursor.u64(|| field(&format!("dims[{axis}]")))?);
        }
        let id = cursor.u32(|| field("its kind"))?;
        let kind = Kind::from_id(id).ok_or_else(|| Error::malformed(field("its kind"), format!("{id} is unknown")))?;
        let offset = cursor.u64(|| field("its offset"))?;
        let bytes = tensor::measure(&name, &dims, kind)?;
        tensors.push(Tensor { name, dims, kind, part: 0, offset, bytes });
    }
    Ok(tensors)
}

/// Turns offsets into those of the file, and checks that each tensor lies within it, alone.
fn place(
    mut tensors: Vec<Tensor>,
    metadata: Metadata,
    header_end: u64,
    alignment: u64,
    file_bytes: u64,
    version: u32,
) -> Result<Header, Error> {
    // No overflow: a header is far shorter than 2^63.
    let data = header_end.next_multiple_of(alignment);
    for tensor in &mut tensors {
        let field = || format!("tensor {}, its offset", quoted(&tensor.name));
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(Error::malformed(field(), format!("{} is no multiple of {alignment}", tensor.offset)));
        }
        let start = tensor.offset.checked_add(data);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => tensor.offset = start,
            _ => {
                let problem = format!(
                    "{} bytes at {} of the data run past the file's end at {file_bytes}",
                    tensor.bytes, tensor.offset
                );
                return Err(Error::malformed(field(), problem));
            }
        }
    }
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    let of = |index: u32| &tensors[index as usize];
    order.sort_unstable_by_key(|&index| of(index).offset);
    if let Some(pair) = order.windows(2).find(|pair| of(pair[0]).offset + of(pair[0]).bytes > of(pair[1]).offset) {
        let problem = format!("it overlaps tensor {}", quoted(&of(pair[0]).name));
        return Err(Error::malformed(format!("tensor {}, its offset", quoted(&of(pair[1]).name)), problem));
    }
    let by_name = by_name(&tensors)?;
    Ok(Header { version, alignment, file_bytes, metadata, tensors, by_name })
}

/// The indices of tensors by their names, of which none occurs twice.
fn by_name(tensors: &[Tensor]) -> Result<Vec<u32>, Error> {
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    let of = |index: u32| tensors[index as usize].name.as_str();
    order.sort_unstable_by_key(|&index| of(index));
    if let Some(pair) = order.windows(2).find(|pair| of(pair[0]) == of(pair[1])) {
        return Err(Error::malformed(format!("tensor {}", quoted(of(pair[1]))), "the name occurs twice"));
    }
    Ok(order)
}

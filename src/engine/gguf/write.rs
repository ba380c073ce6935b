use super::{Kind, value::Type};
use std::borrow::Cow;
use std::io::{self, Write};

const ALIGNMENT: usize = 32;

/// Writes a GGUF file of version 3. Keys and tensors stand in the file in the order of the calls.
///
/// The writer believes its caller: two tensors of a name or extents that do not fit their kind make a file that the
/// reader refuses.
#[derive(Default)]
pub struct Writer<'a> {
    entries: u64,
    metadata: Vec<u8>,
    tensors: Vec<Described<'a>>,
}

struct Described<'a> {
    name: String,
    dims: Vec<u64>,
    kind: Kind,
    len: u64,
    /// Absent where they come later.
    bytes: Option<Cow<'a, [u8]>>,
}

/// What a value in the metadata, or an element of an array there, can be made of.
pub trait Scalar {
    /// Its type in the file.
    const TYPE: Type;
    /// Appends it as the file has it.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! scalars {
    ($($type:ty: $of:ident)*) => {$(
        impl Scalar for $type {
            const TYPE: Type = Type::$of;
            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
        }
    )*};
}

scalars!(u8: U8 i8: I8 u16: U16 i16: I16 u32: U32 i32: I32 u64: U64 i64: I64 f32: F32 f64: F64);

impl Scalar for bool {
    const TYPE: Type = Type::Bool;
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Scalar for &str {
    const TYPE: Type = Type::String;
    fn write(&self, out: &mut Vec<u8>) {
        self.as_bytes().write(out);
    }
}

impl Scalar for &[u8] {
    const TYPE: Type = Type::String;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.len() as u64).to_le_bytes());
        out.extend(*self);
    }
}

impl Scalar for String {
    const TYPE: Type = Type::String;
    fn write(&self, out: &mut Vec<u8>) {
        self.as_str().write(out);
    }
}

impl<'a> Writer<'a> {
    /// An empty file.
    pub fn new() -> Writer<'a> {
        Writer::default()
    }

    /// Adds a value.
    pub fn set<T: Scalar>(&mut self, key: &str, value: T) -> &mut Self {
        self.key(key, T::TYPE);
        value.write(&mut self.metadata);
        self
    }

    /// Adds an array.
    pub fn array<T: Scalar>(&mut self, key: &str, values: &[T]) -> &mut Self {
        self.key(key, Type::Array);
        (T::TYPE as u32).write(&mut self.metadata);
        (values.len() as u64).write(&mut self.metadata);
        for value in values {
            value.write(&mut self.metadata);
        }
        self
    }

    /// Adds a tensor; `dims[0]` is the length of a row.
    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: Kind, bytes: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        self.tensors.push(Described { name: name.to_owned(), dims: dims.to_vec(), kind, len, bytes: Some(bytes) });
        self
    }

    /// Adds a tensor whose `len` bytes come when the file is written by [`Self::stream`].
    pub fn promise(&mut self, name: &str, dims: &[u64], kind: Kind, len: u64) -> &mut Self {
        self.tensors.push(Described { name: name.to_owned(), dims: dims.to_vec(), kind, len, bytes: None });
        self
    }

    /// Adds a value as another file has it, its type first.
    pub fn set_raw(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.entries += 1;
        key.write(&mut self.metadata);
        self.metadata.extend(value);
        self
    }

    /// Adds a tensor of F32.
    pub fn tensor_f32(&mut self, name: &str, dims: &[u64], values: &[f32]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, dims, Kind::F32, bytes)
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        let tensors = self.tensors.iter().map(|tensor| tensor.len.next_multiple_of(ALIGNMENT as u64));
        self.header().len() as u64 + tensors.sum::<u64>()
    }

    /// Writes the file, all of whose tensors have their bytes.
    ///
    /// # Errors
    /// When `out` does.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        self.stream(out, |_, _| Ok(()))
    }

    /// Writes the file. `fill` writes the bytes of the tensors that were promised, by their number among all: as many as
    /// was said.
    ///
    /// # Errors
    /// When `out` or `fill` does.
    pub fn stream<W: Write>(
        &self,
        mut out: W,
        mut fill: impl FnMut(usize, &mut W) -> io::Result<()>,
    ) -> io::Result<()> {
        out.write_all(&self.header())?;
        for (at, Described { len, bytes, .. }) in self.tensors.iter().enumerate() {
            match bytes {
                Some(bytes) => out.write_all(bytes)?,
                None => fill(at, &mut out)?,
            }
            let padding = len.next_multiple_of(ALIGNMENT as u64) - len;
            out.write_all(&[0; ALIGNMENT][..padding as usize])?;
        }
        out.flush()
    }

    /// The file's bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector does not fail.
        self.write(&mut bytes).unwrap_or_default();
        bytes
    }

    fn header(&self) -> Vec<u8> {
        let mut header = b"GGUF".to_vec();
        3u32.write(&mut header);
        (self.tensors.len() as u64).write(&mut header);
        self.entries.write(&mut header);
        header.extend(&self.metadata);
        let mut offset = 0u64;
        for Described { name, dims, kind, len, .. } in &self.tensors {
            name.write(&mut header);
            (dims.len() as u32).write(&mut header);
            dims.iter().for_each(|dim| dim.write(&mut header));
            kind.id().write(&mut header);
            offset.write(&mut header);
            offset += len.next_multiple_of(ALIGNMENT as u64);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        header
    }

    fn key(&mut self, key: &str, of: Type) {
        self.entries += 1;
        key.write(&mut self.metadata);
        (of as u32).write(&mut self.metadata);
    }
}

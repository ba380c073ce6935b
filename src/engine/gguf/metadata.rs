use super::cursor::{Cursor, quoted};
use super::{Error, value};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::ops::Range;

pub use value::{FromValue, Type, Value};

/// Real files have some dozens.
const MAX_ENTRIES: u64 = 4096;

/// Arrays of numbers up to here are kept in memory, so that a header alone tells what differs from layer to layer.
const SMALL_ARRAY: u64 = 16 << 10;

/// The metadata of a model file: keys and values. Large arrays stay in the file and are read where they lie.
#[derive(Debug, Default)]
pub struct Metadata {
    entries: BTreeMap<String, Entry>,
    /// The file that they are in, where it is at hand.
    file: Option<File>,
}

/// A value, and its place in the file, from its type on.
#[derive(Debug)]
struct Entry {
    value: Value,
    place: Range<u64>,
}

/// Where large arrays lie.
#[derive(Debug)]
pub(super) enum File {
    Mapped(Mmap),
    Made(Vec<u8>),
}

impl AsRef<[u8]> for File {
    fn as_ref(&self) -> &[u8] {
        match self {
            File::Mapped(map) => map,
            File::Made(bytes) => bytes,
        }
    }
}

/// An array's place in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The type of its elements, which is no array.
    pub of: Type,
    /// How many there are.
    pub len: u64,
    place: Range<u64>,
    small: Option<Box<[u8]>>,
}

impl Metadata {
    pub(super) fn read<R: Read + Seek>(cursor: &mut Cursor<R>, count: u64) -> Result<Metadata, Error> {
        if count > MAX_ENTRIES {
            return Err(Error::malformed("the count of metadata", format!("{count} is more than {MAX_ENTRIES}")));
        }
        let mut entries = BTreeMap::new();
        for at in 0..count {
            let field = || format!("the name of metadata key {at}");
            let key = String::from_utf8(cursor.string(field)?).map_err(|_| Error::malformed(field(), "not UTF-8"))?;
            let field = || format!("metadata {}", quoted(&key));
            cursor.keep(size_of::<(String, Entry)>(), field)?;
            let start = cursor.at();
            let of = value_type(cursor, &field)?;
            let value = match of {
                Type::Array => Value::Array(read_array(cursor, &field)?),
                _ => Value::read(cursor, of, &field)?,
            };
            if entries.contains_key(&key) {
                return Err(Error::malformed(field(), "the key occurs twice"));
            }
            entries.insert(key, Entry { value, place: start..cursor.at() });
        }
        Ok(Metadata { entries, file: None })
    }

    /// Makes large arrays readable.
    pub(super) fn attach(&mut self, file: File) {
        self.file = Some(file);
    }

    /// A value as the file has it, its type first; nothing, where only the header was read.
    pub fn raw(&self, key: &str) -> Option<&[u8]> {
        self.lying(&self.entries.get(key)?.place)
    }

    fn lying(&self, place: &Range<u64>) -> Option<&[u8]> {
        self.file.as_ref()?.as_ref().get(place.start as usize..place.end as usize)
    }

    /// All keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), &entry.value))
    }

    /// The value of `key`, whatever its type.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The value of `key`, which may be absent. Integers of any width are taken where they fit.
    ///
    /// # Errors
    /// When it is there but of another type.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        T::from_value(value).map(Some).ok_or_else(|| wrong_type(key, T::EXPECTED, value))
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// When it is absent, or of another type.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.find(key)?.ok_or_else(|| Error::Missing(key.to_owned()))
    }

    /// The strings of the array at `key`, as bytes: a vocabulary's tokens need not be UTF-8.
    ///
    /// # Errors
    /// When there is none, or it is no array of strings, or only the header was read.
    pub fn strings(&self, key: &str) -> Result<impl ExactSizeIterator<Item = &[u8]>, Error> {
        let (array, mut bytes) = self.array(key, "an array of strings", |of| of == Type::String)?;
        // The lengths were checked when the header was read. The file may have been written to since: then the rest of
        // the strings are empty.
        Ok((0..array.len as usize).map(move |_| {
            let (len, rest) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
            let (string, rest) = rest.split_at_checked(u64::from_le_bytes(*len) as usize).unwrap_or_default();
            bytes = rest;
            string
        }))
    }

    /// The numbers of the array at `key`. Booleans count as 0 and 1; what exceeds an `i64` becomes its largest.
    ///
    /// # Errors
    /// When there is none, or it is no array of integers, or it is large and only the header was read.
    pub fn integers(&self, key: &str) -> Result<impl ExactSizeIterator<Item = i64>, Error> {
        let (array, bytes) = self.array(key, "an array of integers", Type::is_integer)?;
        Ok(chunks(array.of, bytes).map(|chunk| value::integer(array.of, chunk)))
    }

    /// The numbers of the array at `key`.
    ///
    /// # Errors
    /// When there is none, or it is no array of floats, or it is large and only the header was read.
    pub fn floats(&self, key: &str) -> Result<impl ExactSizeIterator<Item = f32>, Error> {
        let (array, bytes) = self.array(key, "an array of floats", |of| matches!(of, Type::F32 | Type::F64))?;
        Ok(chunks(array.of, bytes).map(|chunk| value::float(array.of, chunk)))
    }

    fn array(&self, key: &str, expected: &'static str, fits: fn(Type) -> bool) -> Result<(&Array, &[u8]), Error> {
        let value = self.value(key).ok_or_else(|| Error::Missing(key.to_owned()))?;
        let Value::Array(array) = value else { return Err(wrong_type(key, expected, value)) };
        if !fits(array.of) {
            return Err(wrong_type(key, expected, value));
        }
        let bytes = array.small.as_deref().or_else(|| self.lying(&array.place)).ok_or_else(|| Error::Type {
            key: key.to_owned(),
            expected,
            found: "a large array, which a header read alone leaves in the file".to_owned(),
        })?;
        Ok((array, bytes))
    }
}

fn chunks(of: Type, bytes: &[u8]) -> std::slice::ChunksExact<'_, u8> {
    // Only types of a fixed size come here.
    bytes.chunks_exact(of.bytes().unwrap_or(1) as usize)
}

fn wrong_type(key: &str, expected: &'static str, found: &Value) -> Error {
    Error::Type { key: key.to_owned(), expected, found: found.describe() }
}

fn value_type<R: Read + Seek>(cursor: &mut Cursor<R>, field: &impl Fn() -> String) -> Result<Type, Error> {
    let id = cursor.u32(field)?;
    Type::from_id(id).ok_or_else(|| Error::malformed(field(), format!("its type {id} is unknown")))
}

fn read_array<R: Read + Seek>(cursor: &mut Cursor<R>, field: &impl Fn() -> String) -> Result<Array, Error> {
    let of = value_type(cursor, field)?;
    if of == Type::Array {
        return Err(Error::malformed(field(), "an array of arrays"));
    }
    let len = cursor.u64(field)?;
    let least = len.saturating_mul(of.bytes().unwrap_or(8));
    cursor.expect(least, || format!("{}, an array of {len} elements", field()))?;
    let start = cursor.at();
    let mut small = None;
    match of.bytes() {
        Some(_) if least <= SMALL_ARRAY => small = Some(cursor.bytes(least, field)?.into_boxed_slice()),
        Some(_) => cursor.skip(least, field)?,
        None => {
            for at in 0..len {
                let field = || format!("{}[{at}]", field());
                let len = cursor.u64(field)?;
                cursor.skip(len, field)?;
            }
        }
    }
    Ok(Array { of, len, place: start..cursor.at(), small })
}

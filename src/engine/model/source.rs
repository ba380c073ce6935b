//! Where a model's tensors come from. A model takes all of them by name, shape and kind from a [`Source`]; one source
//! reads them ([`Loader`]), the other only checks that they are there ([`Checker`]), so that a header tells whether a file
//! can be served.

use crate::engine::Error;
use crate::engine::gguf::{Gguf, Header, Kind, Tensor};
use crate::engine::kernels::cuda::need::Needs;
use crate::engine::kernels::{self, Kernels, LowRank, OutOfMemory, Weights, cuda};
use crate::engine::lora::{Lora, Pair};
use crate::engine::quant::Format;
use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// Gives tensors.
pub trait Source {
    /// A matrix.
    type Matrix;
    /// A vector of floats.
    type Vector;

    /// The matrix of this name with `rows` rows of `cols` weights, if there is one.
    ///
    /// # Errors
    /// When it has another shape or a kind that isn't computed with.
    fn find_matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<Self::Matrix>, Error>;

    /// These rows of the matrix of this name with `of` rows, if there is one: files may have several in one.
    ///
    /// # Errors
    /// As for a matrix.
    fn find_rows(
        &mut self,
        name: &str,
        rows: Range<usize>,
        of: usize,
        cols: usize,
    ) -> Result<Option<Self::Matrix>, Error>;

    /// The vector of this name, if there is one.
    ///
    /// # Errors
    /// When it has another shape or a kind that isn't computed with.
    fn find_vector(&mut self, name: &str, len: usize) -> Result<Option<Self::Vector>, Error>;

    /// The numbers of a vector, if there is one. A mere header has none: it tells ones.
    ///
    /// # Errors
    /// As for a vector.
    fn numbers(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, Error>;

    /// What adapters add to the matrix of this name (without its `.weight`), by their numbers.
    ///
    /// # Errors
    /// When an adapter is for a matrix of another shape, or the device does not add.
    fn low(&mut self, name: &str, rows: usize, cols: usize) -> Result<Vec<Option<LowRank<Self::Vector>>>, Error>;

    /// The matrix of this name.
    ///
    /// # Errors
    /// When it is missing or unfit.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Self::Matrix, Error> {
        self.find_matrix(name, rows, cols)?.ok_or_else(|| missing(name, &[cols, rows]))
    }

    /// The table of embeddings of this name.
    ///
    /// # Errors
    /// When it is missing or unfit.
    fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<Self::Matrix, Error> {
        self.matrix(name, rows, cols)
    }

    /// The vector of this name.
    ///
    /// # Errors
    /// When it is missing or unfit.
    fn vector(&mut self, name: &str, len: usize) -> Result<Self::Vector, Error> {
        self.find_vector(name, len)?.ok_or_else(|| missing(name, &[len]))
    }
}

/// Why a device takes no adapter.
pub(super) const NOT_HERE: &str = "adapters are applied on the processor only (--device cpu)";

/// That a tensor of these extents is not there.
pub(super) fn missing(name: &str, dims: &[usize]) -> Error {
    Error::Inconsistent(format!("the tensor {name} is missing, expected with the dimensions {dims:?}"))
}

/// Formats as files call them.
fn names<'a>(formats: impl Iterator<Item = &'a Format>) -> String {
    formats.map(|format| format.kind().name()).collect::<Vec<_>>().join(", ")
}

/// The tensors of a header and of adapters, and which of them were asked for.
struct Table<'a> {
    header: &'a Header,
    adapters: &'a [Lora],
    taken: HashSet<&'a str>,
    /// Of each adapter.
    pairs_taken: Vec<HashSet<&'a str>>,
}

impl<'a> Table<'a> {
    fn new(header: &'a Header, adapters: &'a [Lora]) -> Self {
        Table { header, adapters, taken: HashSet::new(), pairs_taken: vec![HashSet::new(); adapters.len()] }
    }

    /// What each adapter has for the matrix of this name; nothing at all where none has.
    fn find_pairs(&mut self, name: &str, rows: usize, cols: usize) -> Result<Vec<Option<(&'a Lora, &'a Pair)>>, Error> {
        let mut found = Vec::new();
        for (at, (lora, taken)) in self.adapters.iter().zip(&mut self.pairs_taken).enumerate() {
            let Some((name, pair)) = lora.pair(name, rows, cols)? else { continue };
            taken.insert(name);
            found.resize_with(at, || None);
            found.push(Some((lora, pair)));
        }
        Ok(found)
    }

    fn find(&mut self, name: &str, dims: &[usize]) -> Result<Option<(&'a Tensor, Format)>, Error> {
        let Some(tensor) = self.header.tensor(name) else { return Ok(None) };
        self.taken.insert(&tensor.name);
        // Trailing extents of one mean nothing.
        let found = &tensor.dims[..tensor.dims.iter().rposition(|&dim| dim != 1).map_or(1, |last| last + 1)];
        let expected = &dims[..dims.iter().rposition(|&dim| dim != 1).map_or(1, |last| last + 1)];
        if !found.iter().copied().eq(expected.iter().map(|&dim| dim as u64)) {
            let problem = format!("the tensor {name} has the dimensions {:?}, expected {dims:?}", tensor.dims);
            return Err(Error::Inconsistent(problem));
        }
        let format = Format::of(tensor.kind).ok_or_else(|| {
            let known = names(Format::ALL.iter());
            Error::Unsupported(format!("the tensor {name} is of the kind {}; supported are {known}", tensor.kind))
        })?;
        Ok(Some((tensor, format)))
    }

    /// What all weights of a matrix of this format and name are multiplied with: the scales within NVFP4 do not reach far.
    fn find_scale(&mut self, name: &str, format: Format) -> Result<Option<&'a Tensor>, Error> {
        let Some(stem) = name.strip_suffix(".weight").filter(|_| format == Format::NVFP4) else { return Ok(None) };
        Ok(self.find_vector(&format!("{stem}.scale"), 1)?.map(|(tensor, _)| tensor))
    }

    fn find_vector(&mut self, name: &str, len: usize) -> Result<Option<(&'a Tensor, Format)>, Error> {
        let found = self.find(name, &[len])?;
        if let Some((tensor, _)) = found
            && !matches!(tensor.kind, Kind::F32 | Kind::F16 | Kind::BF16)
        {
            let problem = format!("the tensor {name} is of the kind {}; vectors are of floats", tensor.kind);
            return Err(Error::Unsupported(problem));
        }
        Ok(found)
    }

    /// A tensor that no one asked for would change the results if it were known what to do with it.
    fn finish(&self) -> Result<(), Error> {
        let forgotten = self.header.tensors().iter().map(|tensor| tensor.name.as_str());
        // Tables of rotations that old conversions carry, and that are computed here; scales for activations of 4 bits.
        let harmless = |name: &str| name.ends_with("attn_rot_embd") || name.ends_with(".input_scale");
        match forgotten.into_iter().find(|name| !self.taken.contains(name) && !harmless(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Unsupported(format!(
                "the tensor {name} is unknown to this architecture: the model is a variant that is not supported"
            ))),
        }?;
        self.adapters.iter().zip(&self.pairs_taken).try_for_each(|(lora, taken)| lora.check_taken(taken))
    }
}

/// Checks that the tensors are there.
pub struct Checker<'a> {
    table: Table<'a>,
    /// Floats in all vectors.
    pub floats: u64,
    /// What all that was found takes on a card.
    pub needs: Needs,
    /// Why no card can serve it, if so.
    pub problem: Option<String>,
}

impl<'a> Checker<'a> {
    /// For the tensors that a header tells of, and those of adapters.
    pub fn new(header: &'a Header, adapters: &'a [Lora]) -> Self {
        Checker { table: Table::new(header, adapters), floats: 0, needs: Needs::default(), problem: None }
    }

    /// Notes what these rows of a matrix take on a card. What it was found to be is checked.
    fn weigh(&mut self, name: &str, rows: Option<Range<usize>>, of: usize, cols: usize) -> Result<Option<()>, Error> {
        let Some((_, format)) = self.table.find(name, &[cols, of])? else { return Ok(None) };
        if self.table.find_scale(name, format)?.is_some() {
            self.problem.get_or_insert_with(|| format!("the tensor {name} has a scale, which cards do not apply"));
        }
        match (cuda::need::computes(format), rows) {
            (false, _) => {
                let kind = format.kind().name();
                self.problem
                    .get_or_insert_with(|| format!("the tensor {name} is of the kind {kind}, which cards do not know"));
            }
            (true, Some(rows)) => self.needs.add_matrix(format, rows.len(), cols),
            (true, None) => self.needs.add_table(format, cols),
        }
        Ok(Some(()))
    }

    /// That no tensor is left.
    ///
    /// # Errors
    /// When one is.
    pub fn finish(&self) -> Result<(), Error> {
        self.table.finish()
    }
}

impl Source for Checker<'_> {
    type Matrix = ();
    type Vector = ();

    fn find_matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<()>, Error> {
        self.weigh(name, Some(0..rows), rows, cols)
    }

    fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<(), Error> {
        self.weigh(name, None, rows, cols)?.ok_or_else(|| missing(name, &[cols, rows]))
    }

    fn find_rows(&mut self, name: &str, rows: Range<usize>, of: usize, cols: usize) -> Result<Option<()>, Error> {
        self.weigh(name, Some(rows), of, cols)
    }

    fn find_vector(&mut self, name: &str, len: usize) -> Result<Option<()>, Error> {
        let found = self.table.find_vector(name, len)?.map(drop);
        if found.is_some() {
            self.floats += len as u64;
            self.needs.add_vector(len);
        }
        Ok(found)
    }

    fn numbers(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, Error> {
        Ok(self.table.find_vector(name, len)?.map(|_| vec![1.0; len]))
    }

    fn low(&mut self, name: &str, rows: usize, cols: usize) -> Result<Vec<Option<LowRank<()>>>, Error> {
        let pairs = self.table.find_pairs(name, rows, cols)?;
        Ok(pairs.into_iter().map(|pair| pair.map(|(_, pair)| LowRank { rank: pair.rank, a: (), b: () })).collect())
    }
}

/// Gives the tensors of a file to a device.
pub struct Loader<'a, K> {
    gguf: &'a Arc<Gguf>,
    table: Table<'a>,
    kernels: &'a K,
}

/// The bytes of a tensor that lie in a file, which they keep mapped.
struct Lying {
    gguf: Arc<Gguf>,
    tensor: Tensor,
}

impl AsRef<[u8]> for Lying {
    fn as_ref(&self) -> &[u8] {
        match self.gguf.bytes(&self.tensor) {
            Cow::Borrowed(bytes) => bytes,
            Cow::Owned(_) => unreachable!("what lies in a file does not cease to"),
        }
    }
}

impl kernels::Bytes for Lying {
    fn fetch(&self, range: Range<usize>) {
        self.gguf.fetch(&self.as_ref()[range]);
    }

    fn forget(&self, range: Range<usize>) {
        self.gguf.forget_bytes(&self.as_ref()[range]);
    }

    fn is_mapped(&self) -> bool {
        true
    }
}

/// Some of a tensor's bytes.
struct Part {
    whole: Weights,
    range: Range<usize>,
}

impl kernels::Bytes for Part {
    fn fetch(&self, range: Range<usize>) {
        self.whole.fetch(self.range.start + range.start..self.range.start + range.end);
    }

    fn forget(&self, range: Range<usize>) {
        self.whole.forget(self.range.start + range.start..self.range.start + range.end);
    }

    fn is_mapped(&self) -> bool {
        self.whole.is_mapped()
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &(*self.whole).as_ref()[self.range.clone()]
    }
}

/// The bytes of a tensor, where they lie if they do.
fn weights(gguf: &Arc<Gguf>, tensor: &Tensor) -> Weights {
    match gguf.bytes(tensor) {
        Cow::Borrowed(_) => Arc::new(Lying { gguf: gguf.clone(), tensor: tensor.clone() }),
        Cow::Owned(bytes) => Arc::new(bytes),
    }
}

impl<'a, K: Kernels> Loader<'a, K> {
    /// From this file and those of adapters to this device.
    pub fn new(gguf: &'a Arc<Gguf>, adapters: &'a [Lora], kernels: &'a K) -> Self {
        Loader { gguf, table: Table::new(gguf, adapters), kernels }
    }

    /// The matrix of this name, made by `make`.
    fn find(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        make: impl FnOnce(&K, Weights, Format) -> Result<K::Matrix, OutOfMemory>,
    ) -> Result<Option<K::Matrix>, Error> {
        let Some((tensor, format)) = self.table.find(name, &[cols, rows])? else { return Ok(None) };
        if !self.kernels.computes(format) {
            let known = names(Format::ALL.iter().filter(|&&format| self.kernels.computes(format)));
            return Err(Error::Unsupported(format!(
                "the tensor {name} is of the kind {}, which this device does not compute with, but with {known}; the \
                 processor does (--device cpu)",
                tensor.kind
            )));
        }
        let matrix = make(self.kernels, weights(self.gguf, tensor), format)?;
        let Some(scale) = self.table.find_scale(name, format)? else { return Ok(Some(matrix)) };
        self.kernels.scaled(matrix, self.read(scale)[0]).map(Some).ok_or_else(|| {
            Error::Unsupported(format!(
                "the tensor {name} has a scale, {}, which this device does not apply; the processor does (--device cpu)",
                scale.name
            ))
        })
    }

    /// The numbers of a vector.
    fn read(&self, tensor: &Tensor) -> Vec<f32> {
        let mut numbers = vec![0.0; tensor.elements() as usize];
        if let Some(format) = Format::of(tensor.kind) {
            format.dequantise(&self.gguf.bytes(tensor), &mut numbers);
        }
        numbers
    }
}

impl<K: Kernels> Source for Loader<'_, K> {
    type Matrix = K::Matrix;
    type Vector = K::Buffer;

    fn find_matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<K::Matrix>, Error> {
        self.find(name, rows, cols, |k, weights, format| k.matrix(weights, format, rows, cols))
    }

    fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<K::Matrix, Error> {
        let found = self.find(name, rows, cols, |k, weights, format| k.table(weights, format, rows, cols))?;
        found.ok_or_else(|| missing(name, &[cols, rows]))
    }

    fn find_rows(
        &mut self,
        name: &str,
        rows: Range<usize>,
        of: usize,
        cols: usize,
    ) -> Result<Option<K::Matrix>, Error> {
        self.find(name, of, cols, |k, whole, format| {
            let range = rows.start * format.row_bytes(cols)..rows.end * format.row_bytes(cols);
            k.matrix(Arc::new(Part { whole, range }), format, rows.len(), cols)
        })
    }

    fn find_vector(&mut self, name: &str, len: usize) -> Result<Option<K::Buffer>, Error> {
        let numbers = self.numbers(name, len)?;
        Ok(numbers.map(|numbers| self.kernels.upload(&numbers)).transpose()?)
    }

    fn numbers(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, Error> {
        Ok(self.table.find_vector(name, len)?.map(|(tensor, _)| self.read(tensor)))
    }

    fn low(&mut self, name: &str, rows: usize, cols: usize) -> Result<Vec<Option<LowRank<K::Buffer>>>, Error> {
        let make = |(lora, pair): (&Lora, &Pair)| {
            let [a, b] = lora.read(pair)?;
            self.kernels.low_rank(pair.rank, a, b).ok_or_else(|| lora.refuse(NOT_HERE))
        };
        let pairs = self.table.find_pairs(name, rows, cols)?;
        pairs.into_iter().map(|pair| pair.map(make).transpose()).collect()
    }
}

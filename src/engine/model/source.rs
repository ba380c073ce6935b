//! Where a model's tensors come from. A model takes all of them by name, shape and kind from a [`Source`]; one source
//! reads them ([`Loader`]), the other only checks that they are there ([`Checker`]), so that a header tells whether a file
//! can be served.

use crate::engine::Error;
use crate::engine::gguf::{Gguf, Header, Kind, Tensor};
use crate::engine::kernels::{Kernels, Weights};
use crate::engine::quant::Format;
use std::collections::HashSet;
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

fn missing(name: &str, dims: &[usize]) -> Error {
    Error::Inconsistent(format!("the tensor {name} is missing, expected with the dimensions {dims:?}"))
}

/// The tensors of a header, and which of them were asked for.
struct Table<'a> {
    header: &'a Header,
    taken: HashSet<&'a str>,
}

impl<'a> Table<'a> {
    fn new(header: &'a Header) -> Self {
        Table { header, taken: HashSet::new() }
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
            let known = Format::ALL.map(|format| format.kind().name()).join(", ");
            Error::Unsupported(format!("the tensor {name} is of the kind {}; supported are {known}", tensor.kind))
        })?;
        Ok(Some((tensor, format)))
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
        // Tables of rotations that old conversions carry, and that are computed here.
        let harmless = |name: &str| name.ends_with("attn_rot_embd");
        match forgotten.into_iter().find(|name| !self.taken.contains(name) && !harmless(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Unsupported(format!(
                "the tensor {name} is unknown to this architecture: the model is a variant that is not supported"
            ))),
        }
    }
}

/// Checks that the tensors are there.
pub struct Checker<'a> {
    table: Table<'a>,
    /// Floats in all vectors.
    pub floats: u64,
}

impl<'a> Checker<'a> {
    /// For the tensors that a header tells of.
    pub fn new(header: &'a Header) -> Self {
        Checker { table: Table::new(header), floats: 0 }
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
        Ok(self.table.find(name, &[cols, rows])?.map(drop))
    }

    fn find_vector(&mut self, name: &str, len: usize) -> Result<Option<()>, Error> {
        let found = self.table.find_vector(name, len)?.map(drop);
        self.floats += found.map_or(0, |()| len as u64);
        Ok(found)
    }

    fn numbers(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, Error> {
        Ok(self.table.find_vector(name, len)?.map(|_| vec![1.0; len]))
    }
}

/// Gives the tensors of a file to a device.
pub struct Loader<'a, K> {
    gguf: &'a Arc<Gguf>,
    table: Table<'a>,
    kernels: &'a K,
}

/// The bytes of a tensor, which keep the file mapped.
struct Bytes {
    gguf: Arc<Gguf>,
    tensor: Tensor,
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.gguf.bytes(&self.tensor)
    }
}

impl<'a, K: Kernels> Loader<'a, K> {
    /// From this file to this device.
    pub fn new(gguf: &'a Arc<Gguf>, kernels: &'a K) -> Self {
        Loader { gguf, table: Table::new(gguf), kernels }
    }

    fn find(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<(Weights, Format)>, Error> {
        let found = self.table.find(name, &[cols, rows])?;
        Ok(found.map(|(tensor, format)| {
            let weights: Weights = Arc::new(Bytes { gguf: self.gguf.clone(), tensor: tensor.clone() });
            (weights, format)
        }))
    }
}

impl<K: Kernels> Source for Loader<'_, K> {
    type Matrix = K::Matrix;
    type Vector = K::Buffer;

    fn find_matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<K::Matrix>, Error> {
        let Some((weights, format)) = self.find(name, rows, cols)? else { return Ok(None) };
        Ok(Some(self.kernels.matrix(weights, format, rows, cols)?))
    }

    fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<K::Matrix, Error> {
        let (weights, format) = self.find(name, rows, cols)?.ok_or_else(|| missing(name, &[cols, rows]))?;
        Ok(self.kernels.table(weights, format, rows, cols)?)
    }

    fn find_vector(&mut self, name: &str, len: usize) -> Result<Option<K::Buffer>, Error> {
        let numbers = self.numbers(name, len)?;
        Ok(numbers.map(|numbers| self.kernels.upload(&numbers)).transpose()?)
    }

    fn numbers(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, Error> {
        let Some((tensor, format)) = self.table.find_vector(name, len)? else { return Ok(None) };
        let mut numbers = vec![0.0; len];
        format.dequantise(self.gguf.bytes(tensor), &mut numbers);
        Ok(Some(numbers))
    }
}

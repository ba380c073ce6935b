use super::{Error, Kind, cursor::quoted};

/// A tensor's entry in the file's table. What it says was checked: `offset..offset + bytes` lies within the file,
/// beside all other tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// One to four extents, the innermost first: `dims[0]` is the length of a row, whose elements lie side by side.
    pub dims: Vec<u64>,
    /// How its numbers are stored.
    pub kind: Kind,
    /// Which of a model's files it is in.
    pub part: usize,
    /// Where its bytes begin, counted from the beginning of the file.
    pub offset: u64,
    /// How many bytes it takes.
    pub bytes: u64,
}

impl Tensor {
    /// How many numbers it holds.
    pub fn elements(&self) -> u64 {
        // No overflow: `measure` computed the same product.
        self.dims.iter().product()
    }

    /// How many rows of `dims[0]` numbers it holds.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    /// The bytes that one row takes.
    pub fn row_bytes(&self) -> u64 {
        self.bytes / self.rows()
    }
}

/// The bytes that a tensor of these extents takes.
pub(super) fn measure(name: &str, dims: &[u64], kind: Kind) -> Result<u64, Error> {
    let field = |at: usize| format!("tensor {}, dims[{at}]", quoted(name));
    if let Some(at) = dims.iter().position(|&dim| dim == 0) {
        return Err(Error::malformed(field(at), "an extent of zero"));
    }
    if !dims[0].is_multiple_of(kind.block_len()) {
        let problem = format!("{} elements are no whole number of {kind}'s blocks of {}", dims[0], kind.block_len());
        return Err(Error::malformed(field(0), problem));
    }
    let too_many = || Error::malformed(format!("tensor {}, dims", quoted(name)), format!("{dims:?} overflow 64 bits"));
    // The number of elements must fit as well, whose product is the larger one for kinds of less than a byte each.
    dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim)).ok_or_else(too_many)?;
    let row = kind.row_bytes(dims[0]).ok_or_else(too_many)?;
    dims[1..].iter().try_fold(row, |bytes, &dim| bytes.checked_mul(dim)).ok_or_else(too_many)
}

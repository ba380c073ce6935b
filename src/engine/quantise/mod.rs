//! A model in other formats: which tensor in which ([`Mix`] by rule, [`fit`] by measurement), and the writing of the file.
//!
//! Tensors pass one by one, in stretches of rows: what is held in memory does not depend on the model's size.

pub mod fit;
mod mix;

#[cfg(test)]
mod tests;

pub use mix::Mix;

use super::Error;
use super::gguf::{Gguf, Header, Tensor, Writer};
use super::quant::Format;
use std::io::{self, Write};

/// Bytes of results that are held at a time.
const STRETCH: usize = 8 << 20;

/// The largest number that NVFP4 holds without a scale of the whole tensor: 448, the largest scale of a group, times six.
const NVFP4_LARGEST: f32 = 448.0 * 6.0;

/// What becomes of each tensor of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// llama.cpp's number for the mix of formats, where it has one.
    file_type: Option<u32>,
    steps: Vec<Step>,
}

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    /// Its place in the header.
    tensor: usize,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    /// It is copied.
    Copy,
    /// It is stored anew.
    Store(Format),
    /// The scale of the whole tensor, which was stored as NVFP4 before.
    Scale,
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The model is at fault.
    #[error(transparent)]
    Model(#[from] Error),
    /// The system could not write.
    #[error("cannot write: {0}")]
    Io(#[from] io::Error),
}

impl Plan {
    /// The formats of `mix` for the tensors of a model.
    ///
    /// # Errors
    /// When the header lacks what the rules ask for, or a tensor is of a kind that is not computed with.
    pub fn of(header: &Header, mix: Mix) -> Result<Plan, Error> {
        let chosen = mix.formats(header)?;
        Plan::new(header, chosen, Some(mix.file_type()))
    }

    /// A format for each tensor, or `None` where it is to be copied.
    fn new(header: &Header, chosen: Vec<Option<Format>>, file_type: Option<u32>) -> Result<Plan, Error> {
        let architecture: &str = header.metadata().get("general.architecture").map_err(Error::from)?;
        // In others llama.cpp does not look at scales of whole matrices.
        let scaled = ["llama", "qwen3"].contains(&architecture);
        let mut steps = Vec::new();
        for (tensor, (of, format)) in header.tensors().iter().zip(chosen).enumerate() {
            // A scale goes with the matrix that it belongs to.
            if of.name.strip_suffix(".scale").is_some_and(|stem| header.tensor(&format!("{stem}.weight")).is_some()) {
                continue;
            }
            let Some(format) = format else {
                steps.push(Step { tensor, what: What::Copy });
                if let Some(scale) = scale_of(header, of) {
                    steps.push(Step { tensor: scale, what: What::Copy });
                }
                continue;
            };
            if Format::of(of.kind).is_none() {
                let problem = format!("the tensor {} is of the kind {}, which cannot be read", of.name, of.kind);
                return Err(Error::Unsupported(problem));
            }
            steps.push(Step { tensor, what: What::Store(format) });
            if format == Format::NVFP4 && scaled {
                steps.push(Step { tensor, what: What::Scale });
            }
        }
        Ok(Plan { file_type, steps })
    }

    /// Bytes of the file.
    pub fn bytes(&self, gguf: &Gguf) -> u64 {
        self.writer(gguf).bytes()
    }

    /// Tensors whose numbers were rounded before.
    pub fn rounded_before(&self, header: &Header) -> usize {
        let stored = self.steps.iter().filter(|step| matches!(step.what, What::Store(_)));
        stored.filter(|step| header.tensors()[step.tensor].kind.block_len() > 1).count()
    }

    /// The metadata of the file, as a file without tensors.
    fn metadata(&self, gguf: &Gguf) -> Vec<u8> {
        self.head(gguf).to_vec()
    }

    fn head(&self, gguf: &Gguf) -> Writer<'static> {
        let mut writer = Writer::new();
        for (key, _) in gguf.metadata().iter() {
            let replaced = ["general.file_type", "general.quantization_version"].contains(&key);
            // One file comes of several.
            if let Some(raw) = gguf.metadata().raw(key).filter(|_| !replaced && !key.starts_with("split.")) {
                writer.set_raw(key, raw);
            }
        }
        writer.set("general.quantization_version", 2u32);
        if let Some(file_type) = self.file_type {
            writer.set("general.file_type", file_type);
        }
        writer
    }

    fn writer(&self, gguf: &Gguf) -> Writer<'static> {
        let mut writer = self.head(gguf);
        for step in &self.steps {
            let Tensor { name, dims, kind, bytes, .. } = &gguf.tensors()[step.tensor];
            match step.what {
                What::Copy => writer.promise(name, dims, *kind, *bytes),
                What::Store(format) => writer.promise(name, dims, format.kind(), stored_bytes(dims, format)),
                What::Scale => writer.promise(&scale_name(name), &[1], Format::F32.kind(), 4),
            };
        }
        writer
    }

    /// Writes the file, by so many threads. `done` is told how many bytes of tensors are written.
    ///
    /// # Errors
    /// When `out` does.
    pub fn write(
        &self,
        gguf: &Gguf,
        threads: usize,
        out: impl Write,
        mut done: impl FnMut(u64),
    ) -> Result<(), WriteError> {
        let mut written = 0;
        let mut scale = 1.0;
        self.writer(gguf).stream(out, |at, out| {
            let Step { tensor, what } = self.steps[at];
            let tensor = &gguf.tensors()[tensor];
            let mut write = |bytes: &[u8]| {
                written += bytes.len() as u64;
                done(written);
                out.write_all(bytes)
            };
            match what {
                What::Copy => gguf.bytes(tensor).chunks(STRETCH).try_for_each(&mut write)?,
                What::Scale => write(&f32::to_le_bytes(scale))?,
                What::Store(format) => {
                    let numbers = Numbers::of(gguf, tensor);
                    let scaled = self.steps.get(at + 1).is_some_and(|next| next.what == What::Scale);
                    scale = if scaled { numbers.largest() / NVFP4_LARGEST } else { 1.0 };
                    if scale == 0.0 {
                        scale = 1.0;
                    }
                    numbers.store(format, scale.recip(), threads, &mut write)?;
                }
            }
            gguf.forget(tensor);
            Ok(())
        })?;
        Ok(())
    }
}

/// Bytes of a tensor of these extents.
fn stored_bytes(dims: &[u64], format: Format) -> u64 {
    let rows: u64 = dims[1..].iter().product();
    rows * format.row_bytes(dims[0] as usize) as u64
}

fn scale_name(name: &str) -> String {
    format!("{}.scale", name.strip_suffix(".weight").unwrap_or(name))
}

/// The place of what all weights of a tensor are multiplied with.
fn scale_of(header: &Header, tensor: &Tensor) -> Option<usize> {
    let name = scale_name(&tensor.name);
    header.tensors().iter().position(|tensor| tensor.name == name)
}

/// The numbers of a tensor.
struct Numbers<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
    format: Format,
    cols: usize,
    scale: f32,
}

impl<'a> Numbers<'a> {
    fn of(gguf: &'a Gguf, tensor: &Tensor) -> Numbers<'a> {
        let scale = scale_of(gguf, tensor).map_or(1.0, |scale| {
            let bytes = gguf.bytes(&gguf.tensors()[scale]);
            bytes.first_chunk().map_or(1.0, |bytes| f32::from_le_bytes(*bytes))
        });
        // A plan has only tensors of known formats.
        let format = Format::of(tensor.kind).unwrap_or(Format::F32);
        Numbers { bytes: gguf.bytes(tensor), format, cols: tensor.dims[0] as usize, scale }
    }

    fn rows(&self) -> usize {
        self.bytes.len() / self.format.row_bytes(self.cols)
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        let bytes = self.format.row_bytes(self.cols);
        self.format.dequantise(&self.bytes[row * bytes..(row + 1) * bytes], out);
        if self.scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.scale);
        }
    }

    /// The largest magnitude.
    fn largest(&self) -> f32 {
        let mut numbers = vec![0.0; self.cols];
        (0..self.rows()).fold(0.0, |most, row| {
            self.row(row, &mut numbers);
            numbers.iter().fold(most, |most: f32, x| most.max(x.abs()))
        })
    }

    /// Stores all rows, times `by`, and gives them to `write` in order.
    fn store(
        &self,
        format: Format,
        by: f32,
        threads: usize,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let row_bytes = format.row_bytes(self.cols);
        let at_once = (STRETCH / row_bytes).max(1);
        let mut out = vec![0; at_once.min(self.rows()) * row_bytes];
        for first in (0..self.rows()).step_by(at_once) {
            let rows = at_once.min(self.rows() - first);
            let out = &mut out[..rows * row_bytes];
            let each = rows.div_ceil(threads.max(1));
            std::thread::scope(|scope| {
                for (share, out) in out.chunks_mut(each * row_bytes).enumerate() {
                    scope.spawn(move || {
                        let mut numbers = vec![0.0; self.cols];
                        for (row, out) in (first + share * each..).zip(out.chunks_exact_mut(row_bytes)) {
                            self.row(row, &mut numbers);
                            if by != 1.0 {
                                numbers.iter_mut().for_each(|x| *x *= by);
                            }
                            format.encode(&numbers, out);
                        }
                    });
                }
            });
            write(out)?;
        }
        Ok(())
    }
}

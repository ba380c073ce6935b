//! Formats by measurement: within a number of bytes, those by which a model's predictions change least.
//!
//! Each tensor alone is stored coarsely, and the divergence of the model's predictions is measured. To the second order the
//! divergence grows with the square of the change, so that what another format would cost follows from its own squared error.
//! Costs of different tensors add. What remains is to spend bytes where they save most.

use super::{Numbers, Plan, mix, stored_bytes};
use crate::engine::Error;
use crate::engine::eval::{self, Reader, Text};
use crate::engine::gguf::{Gguf, Header, Store, Tensor};
use crate::engine::model::{Model, Options};
use crate::engine::quant::Format;
use crate::engine::tokenizer::Tokenizer;
use memmap2::Mmap;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// Formats that tensors may get, of rows in blocks of 256 and of 32.
const FORMATS: [Format; 10] = [
    Format::Q2K,
    Format::Q3K,
    Format::IQ4XS,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::IQ4NL,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
];

/// Rows of a tensor by which errors of formats are compared.
const SAMPLE: usize = 64;

/// A text for those who have none at hand: prose, code, figures, several languages.
pub const TEXT: &str = include_str!("text.txt");

/// What a tensor may become.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its place in the header.
    tensor: usize,
    /// By bytes.
    options: Vec<Choice>,
}

/// A format for a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Choice {
    format: Format,
    bytes: u64,
    /// The divergence that it is expected to bring.
    cost: f64,
}

/// Measures what formats cost each tensor, with so many threads. `reference` are the predictions of the model as it is. `done` is told how many
/// tensors of how many are done.
///
/// # Errors
/// When the model cannot be loaded or cannot take the text of the predictions.
pub fn measure(
    gguf: &Arc<Gguf>,
    tokenizer: &Tokenizer,
    reference: &Path,
    threads: usize,
    mut done: impl FnMut(usize, usize),
) -> Result<Vec<Candidate>, Error> {
    let metadata = super::Plan::new(gguf, vec![None; gguf.tensors().len()], None)?.metadata(gguf);
    let stored = || (0..gguf.tensors().len()).filter(|&at| mix::is_stored(&gguf.tensors()[at]));
    let count = stored().count();
    let mut candidates = Vec::new();
    for tensor in stored() {
        let of = &gguf.tensors()[tensor];
        let fits = |format: &Format| of.dims[0].is_multiple_of(format.block_len() as u64);
        let formats: Vec<Format> = FORMATS.into_iter().filter(fits).collect();
        // A row of no whole blocks stays as it is.
        let Some(&probe) = formats.first() else { continue };
        let numbers = Numbers::of(gguf, of);
        let errors: Vec<f64> = formats.iter().map(|&format| numbers.error(format)).collect();
        let mut bytes = Vec::new();
        let stored = numbers.store(probe, 1.0, threads, |stretch| {
            bytes.extend(stretch);
            Ok(())
        });
        // Memory does not fail to be written to.
        stored.unwrap_or_default();
        let changed = changed(gguf, metadata.clone(), tensor, probe, bytes)?;
        let options = Options { threads: Some(threads), ..Options::default() };
        let model = Model::load(Arc::new(changed), options)?;
        let divergence =
            eval::divergence(&model, tokenizer, &mut Reader::open(reference)?, |_, _| {})?.divergence.value;
        let each = divergence.max(0.0) / errors[0].max(f64::MIN_POSITIVE);
        let choice = |(&format, error): (&Format, &f64)| Choice {
            format,
            bytes: stored_bytes(&of.dims, format),
            cost: each * error,
        };
        candidates.push(Candidate { tensor, options: formats.iter().zip(&errors).map(choice).collect() });
        done(candidates.len(), count);
    }
    Ok(candidates)
}

/// The plan that fits a file into `bytes`, and the divergence that is expected of it.
///
/// # Errors
/// When the smallest formats take more.
pub fn plan(gguf: &Gguf, candidates: &[Candidate], bytes: u64) -> Result<(Plan, f64), Error> {
    let with = |chosen: &[Choice]| {
        let mut formats = vec![None; gguf.tensors().len()];
        for (candidate, choice) in candidates.iter().zip(chosen) {
            formats[candidate.tensor] = Some(choice.format);
        }
        Plan::new(gguf, formats, None)
    };
    let least: Vec<Choice> = choose(candidates, 0);
    let smallest = with(&least)?.bytes(gguf);
    let Some(spare) = bytes.checked_sub(smallest) else {
        let problem = format!("the model takes {smallest} bytes at least, more than the {bytes} that it is to fit");
        return Err(Error::Request(problem));
    };
    // Tensors begin at multiples of 32 bytes.
    let spare = spare.saturating_sub(32 * candidates.len() as u64);
    let chosen = choose(candidates, spare);
    Ok((with(&chosen)?, chosen.iter().map(|choice| choice.cost).sum()))
}

/// A choice for each: the smallest, and then, while `spare` bytes last, the step that saves the most for its bytes.
fn choose(candidates: &[Candidate], mut spare: u64) -> Vec<Choice> {
    let hulls: Vec<Vec<Choice>> = candidates.iter().map(|candidate| hull(&candidate.options)).collect();
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (at, hull) in hulls.iter().enumerate() {
        for (step, pair) in hull.windows(2).enumerate() {
            let saved = (pair[0].cost - pair[1].cost) / (pair[1].bytes - pair[0].bytes) as f64;
            steps.push((saved, at, step + 1));
        }
    }
    // Along a hull they save less and less, so that each tensor's steps stay in order.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)));
    let mut levels = vec![0; hulls.len()];
    for (_, at, level) in steps {
        let more = hulls[at][level].bytes - hulls[at][levels[at]].bytes;
        // A step that does not fit is left out, and a later one may still.
        if more <= spare {
            spare -= more;
            levels[at] = level;
        }
    }
    hulls.iter().zip(levels).map(|(hull, level)| hull[level]).collect()
}

/// Those that some price of bytes makes the best: from the smallest on, each saves less for its bytes than the one before.
fn hull(options: &[Choice]) -> Vec<Choice> {
    let mut sorted = options.to_vec();
    sorted.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost)));
    let mut hull: Vec<Choice> = Vec::new();
    for choice in sorted {
        if hull.last().is_some_and(|last| choice.cost >= last.cost) {
            continue;
        }
        let slope = |a: &Choice, b: &Choice| (a.cost - b.cost) / (b.bytes - a.bytes) as f64;
        while let [.., before, last] = &hull[..]
            && slope(before, last) <= slope(last, &choice)
        {
            hull.pop();
        }
        hull.push(choice);
    }
    hull
}

impl Numbers<'_> {
    /// The squared error that a format makes, of a sample of the rows.
    fn error(&self, format: Format) -> f64 {
        let (mut numbers, mut found) = (vec![0.0; self.cols], vec![0.0; self.cols]);
        let mut bytes = vec![0; format.row_bytes(self.cols)];
        let every = self.rows().div_ceil(SAMPLE);
        let error = |row| {
            self.row(row, &mut numbers);
            format.encode(&numbers, &mut bytes);
            format.dequantise(&bytes, &mut found);
            let error = |(&found, &x): (&f32, &f32)| (f64::from(found) - f64::from(x)).powi(2);
            found.iter().zip(&numbers).map(error).sum::<f64>()
        };
        (0..self.rows()).step_by(every).map(error).sum()
    }
}

/// A model with one tensor stored anew.
#[derive(Debug)]
struct Changed {
    gguf: Arc<Gguf>,
    name: String,
    bytes: Vec<u8>,
}

impl Store for Changed {
    fn bytes(&self, tensor: &Tensor) -> Cow<'_, [u8]> {
        if tensor.name == self.name { Cow::Borrowed(&self.bytes) } else { self.gguf.bytes(tensor) }
    }

    fn maps(&self) -> Vec<&Mmap> {
        self.gguf.maps()
    }
}

fn changed(gguf: &Arc<Gguf>, metadata: Vec<u8>, tensor: usize, to: Format, bytes: Vec<u8>) -> Result<Gguf, Error> {
    let mut tensors = gguf.tensors().to_vec();
    let scale = super::scale_of(gguf, &tensors[tensor]);
    let of = &mut tensors[tensor];
    (of.kind, of.bytes) = (to.kind(), bytes.len() as u64);
    let name = of.name.clone();
    // The numbers have it within.
    scale.map(|scale| tensors.remove(scale));
    Ok(Gguf::of_parts(metadata, tensors, gguf.file_bytes(), Box::new(Changed { gguf: gguf.clone(), name, bytes }))?)
}

/// Predictions of the model as it is, into a file.
///
/// # Errors
/// When the text is too short, or the file cannot be written.
pub fn predict(model: &Model, text: &Text, to: &Path) -> Result<(), Error> {
    let mut writer = eval::Writer::create(to, text, model.hyper().vocabulary)?;
    eval::perplexity(model, text, Some(&mut writer), |_, _| {})?;
    writer.finish()
}

/// A tensor's name and the format that it gets, of those that were measured.
pub fn told(header: &Header, plan: &Plan) -> Vec<(String, Format)> {
    let stored = plan.steps.iter().filter_map(|step| match step.what {
        super::What::Store(format) => Some((header.tensors()[step.tensor].name.clone(), format)),
        _ => None,
    });
    stored.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(options: &[Vec<(u64, f64)>]) -> Vec<Candidate> {
        let choice = |&(bytes, cost): &(u64, f64)| Choice { format: Format::F32, bytes, cost };
        let candidate = |options: &Vec<_>| Candidate { tensor: 0, options: options.iter().map(choice).collect() };
        options.iter().map(candidate).collect()
    }

    fn total(chosen: &[Choice]) -> (u64, f64) {
        (chosen.iter().map(|choice| choice.bytes).sum(), chosen.iter().map(|choice| choice.cost).sum())
    }

    #[test]
    fn bytes_go_where_they_save_most() {
        let two = candidates(&[vec![(10, 8.0), (20, 1.0)], vec![(10, 3.0), (20, 1.0), (30, 0.5)]]);
        let check = |spare, expected| assert_eq!(total(&choose(&two, spare)), expected, "{spare} bytes");
        check(0, (20, 11.0));
        check(9, (20, 11.0));
        check(10, (30, 4.0));
        check(20, (40, 2.0));
        check(99, (50, 1.5));
    }

    proptest! {
        /// Against every combination: within the bytes, and no further from the best than one step.
        #[test]
        fn choices_are_near_the_best(
            options in proptest::collection::vec(proptest::collection::vec((1_u64..50, 0.0_f64..10.0), 1..5), 1..5),
            spare in 0_u64..100,
        ) {
            let candidates = candidates(&options);
            let least = total(&choose(&candidates, 0)).0;
            let (bytes, cost) = total(&choose(&candidates, spare));
            prop_assert!(bytes <= least + spare);
            let mut all = vec![(0, 0.0)];
            for options in &options {
                all = all.iter().flat_map(|&(b, c)| options.iter().map(move |&(ob, oc)| (b + ob, c + oc))).collect();
            }
            let best = all.iter().filter(|&&(b, _)| b <= least + spare).map(|&(_, c)| c).fold(f64::INFINITY, f64::min);
            let step = options.iter().flatten().map(|&(_, cost)| cost).fold(0.0, f64::max);
            prop_assert!(cost <= best + step + 1e-9, "{cost} where {best} can be had");
        }
    }
}

//! A trial of the kernels: the same operations on a card and, plainly, on the processor. Cards of a kind that was tested are
//! trusted. On others all kernels are tried before the first model is served, and what came of it is remembered, for that card
//! and that driver.

use super::device::look;
use super::driver::{Driver, Error, Which};
use super::images::Choice;
use super::{Cuda, Info};
use crate::engine::blocks::BLOCK;
use crate::engine::kernels::cpu::{Cpu, Isa};
use crate::engine::kernels::{
    Attention, CacheShape, Gate, Kernels, KvKind, OutOfMemory, Pairs, Product, Rotation, Step,
};
use crate::engine::quant::Format;
use std::path::PathBuf;
use std::sync::Arc;

/// Compute capabilities of cards on which the whole suite of tests was run.
const TESTED: [(i32, i32); 1] = [(9, 0)];

/// The squared error that is allowed, as a part of the numbers' squares: the plain operations round activations to 8 bits, the
/// card's to halves. What is wrong is wrong by a hundred times as much.
const ERROR: f64 = 1e-2;

/// Features that products have here: strips, and some of one.
const FEATURES: usize = 40;
/// Numbers that they sum.
const COLUMNS: usize = 512;

/// What operations gave, each by its name.
type Found = Vec<(String, Vec<f32>)>;

/// Kernels that a card can be trusted with, and why they are not the best ones for it, if they aren't.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted {
    pub(super) choice: Choice,
    /// What the best ones did wrong.
    pub reason: Option<String>,
}

/// Which kernels this card can be trusted with. The first time takes a second or two, where none like it was tested.
///
/// # Errors
/// There is no such card, or none of the kernels compute what they should there.
pub fn trusted(which: Which) -> Result<Trusted, Error> {
    let info = look(which)?;
    if TESTED.contains(&info.capability) {
        return Ok(Trusted::default());
    }
    let note = note(which, &info);
    if let Some(found) = note.as_ref().and_then(|note| std::fs::read_to_string(note).ok()) {
        return Ok(Trusted::parse(&found));
    }
    let expected = found(&Cpu::with_isa(1, Isa::Scalar)).map_err(|error| wrong(&info, error.to_string()))?;
    let attempt = |choice| wrongs(&Cuda::with(which, None, None, None, choice)?, &expected);
    let trusted = match attempt(Choice::Best) {
        Ok(()) => Trusted::default(),
        Err(reason @ Error::Wrong { .. }) => {
            attempt(Choice::Generic)?;
            Trusted { choice: Choice::Generic, reason: Some(reason.to_string()) }
        }
        Err(error) => return Err(error),
    };
    if let Some(note) = note {
        // Where it cannot be remembered it is tried again.
        let _ =
            note.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(note, trusted.text()));
    }
    Ok(trusted)
}

/// What a card is to the kernels that it can be trusted with.
///
/// # Errors
/// As [`trusted`].
pub fn served(which: Which) -> Result<Info, Error> {
    Ok(look(which)?.with(trusted(which)?.choice))
}

impl Trusted {
    fn text(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    fn parse(text: &str) -> Trusted {
        match text {
            "" => Trusted::default(),
            reason => Trusted { choice: Choice::Generic, reason: Some(reason.into()) },
        }
    }
}

/// Where it is remembered what a card's trial gave; nowhere where there is no place for that.
fn note(which: Which, info: &Info) -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    let driver = Driver::get().ok()?.version().ok()?;
    let name: String = format!("{which} {} {driver} {}", info.name, env!("CARGO_PKG_VERSION"));
    let name: String =
        name.chars().map(|char| if char.is_ascii_alphanumeric() || "-.".contains(char) { char } else { '_' }).collect();
    Some(cache.join("sovereign/kernels").join(name))
}

fn wrong(info: &Info, what: String) -> Error {
    Error::Wrong { card: info.name.clone(), what }
}

/// That a card finds what is expected.
///
/// # Errors
/// It does not: the operation is named.
pub(super) fn wrongs(cuda: &Cuda, expected: &Found) -> Result<(), Error> {
    let info = cuda.device().info();
    let found = found(cuda).map_err(|error| wrong(info, error.to_string()))?;
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>();
        let errors = squares(&mut expected.iter().zip(found).map(|(&one, &other)| f64::from(one) - f64::from(other)));
        let error = errors / squares(&mut expected.iter().map(|&number| f64::from(number))).max(f64::MIN_POSITIVE);
        // Not the other way round: nothing is less than what is no number.
        if !(error < ERROR && expected.len() == found.len()) {
            return Err(wrong(info, format!("{name}: wrong by {error:.1e} of what it should be, squared")));
        }
    }
    Ok(())
}

/// What all kinds of operations give on a device.
pub(super) fn found<K: Kernels>(k: &K) -> Result<Found, OutOfMemory> {
    let mut found = Vec::new();
    products(k, &mut found)?;
    rows(k, &mut found)?;
    attention(k, &mut found)?;
    Ok(found)
}

/// Numbers between -1 and 1, the same for every device.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn weights(format: Format, seed: u64) -> Arc<Vec<u8>> {
    let mut bytes = vec![0; FEATURES * format.row_bytes(COLUMNS)];
    for (row, out) in bytes.chunks_exact_mut(format.row_bytes(COLUMNS)).enumerate() {
        format.encode(&numbers(COLUMNS, seed + row as u64), out);
    }
    Arc::new(bytes)
}

/// Products with weights of all formats and with few and many rows: alone, added, and in pairs behind a norm.
fn products<K: Kernels>(k: &K, found: &mut Found) -> Result<(), OutOfMemory> {
    let (norm, bias) = (k.upload(&numbers(COLUMNS, 1))?, k.upload(&numbers(FEATURES, 2))?);
    for format in super::matrix::FORMATS {
        let matrix = |seed| k.matrix(weights(format, seed), format, FEATURES, COLUMNS);
        let (gate, up) = (matrix(100)?, matrix(200)?);
        for rows in [1, 3, 8, 20, 40] {
            let name = |what: &str| format!("{what} with {format:?} and {rows} rows");
            let x = k.upload(&numbers(rows * COLUMNS, 3))?;
            let mut outs = [k.activations(rows, FEATURES)?, k.activations(rows, FEATURES)?];
            k.matmul(&x, rows, &mut [Product { matrix: &gate, bias: Some(&bias), out: &mut outs[0] }]);
            found.push((name("a product"), k.download(&outs[0], rows * FEATURES)));
            let mut sum = k.upload(&numbers(rows * FEATURES, 4))?;
            let product = Product { matrix: &up, bias: None, out: &mut outs[1] };
            k.matmul_add(&x, rows, product, rows * FEATURES, &mut sum);
            found.push((name("a sum of products"), k.download(&sum, rows * FEATURES)));
            let mut h = k.activations(rows, COLUMNS)?;
            let [a, b] = &mut outs;
            let pair = [(&gate, a), (&up, b)].map(|(matrix, out)| Product { matrix, bias: None, out });
            k.norm_gate(&x, (&norm, 1e-5), rows, &mut h, Gate::Silu, pair, rows * FEATURES);
            found.push((name("a gate"), k.download(&outs[0], rows * FEATURES)));
        }
    }
    Ok(())
}

/// What is done to rows.
fn rows<K: Kernels>(k: &K, found: &mut Found) -> Result<(), OutOfMemory> {
    let weight = k.upload(&numbers(COLUMNS, 5))?;
    for rows in [1, 5, 130] {
        let len = rows * COLUMNS;
        let (x, y) = (k.upload(&numbers(len, 6))?, k.upload(&numbers(len, 7))?);
        let mut out = k.activations(rows, COLUMNS)?;
        k.norm(&x, &weight, 1e-5, rows, &mut out);
        found.push((format!("the norm of {rows} rows"), k.download(&out, len)));
        k.add(&mut out, &y, len);
        k.softcap(&mut out, 3.0, len);
        found.push((format!("the capped sum of {rows} rows"), k.download(&out, len)));
        k.gate(Gate::Gelu, &mut out, &y, len);
        found.push((format!("the gate of {rows} rows"), k.download(&out, len)));
        let last: Vec<usize> = (0..rows).rev().step_by(2).collect();
        let mut some = k.buffer(last.len() * COLUMNS)?;
        k.gather(&x, &last, COLUMNS, &mut some);
        found.push((format!("some of {rows} rows"), k.download(&some, last.len() * COLUMNS)));
    }
    for format in super::matrix::FORMATS {
        let table = k.table(weights(format, 300), format, FEATURES, COLUMNS)?;
        let mut out = k.buffer(3 * COLUMNS)?;
        k.embed(&table, &[7, 0, FEATURES as u32 - 1], 2.0, &mut out);
        found.push((format!("embeddings in {format:?}"), k.download(&out, 3 * COLUMNS)));
    }
    Ok(())
}

/// Two conversations: a prompt each, then some tokens of both at once.
fn attention<K: Kernels>(k: &K, found: &mut Found) -> Result<(), OutOfMemory> {
    const HEADS: [usize; 2] = [4, 2];
    const PROMPT: usize = 45;
    const { assert!(PROMPT + 3 <= 2 * BLOCK) };
    let tables: Vec<Vec<u32>> = vec![vec![2, 0], vec![1, 3]];
    for (size, kind) in [64, 96, 128, 256].into_iter().flat_map(|size| KvKind::ALL.map(|kind| (size, kind))) {
        let [heads, kv_heads] = HEADS;
        let mut cache = k.cache(CacheShape { layers: 1, blocks: 4, heads: kv_heads, size, kind })?;
        let frequencies: Vec<f64> = (0..size / 2).map(|at| 1e4_f64.powf(-2.0 * at as f64 / size as f64)).collect();
        let attention = Attention { heads, scale: 1.0 / (size as f32).sqrt(), window: None, softcap: None };
        let prompt = |slot: usize| (0..PROMPT).map(move |position| (slot, position));
        let together = (PROMPT..PROMPT + 3).map(|position| vec![(0, position), (1, position)]);
        let steps = [0, 1].map(|slot| prompt(slot).collect::<Vec<_>>()).into_iter().chain(together);
        for (at, entries) in steps.enumerate() {
            let (slots, positions): (Vec<usize>, Vec<usize>) = entries.iter().copied().unzip();
            let rows = slots.len();
            let step = Step { tokens: vec![0; rows], slots, positions, tables: &tables, ..Step::default() };
            let mut angles = k.buffer(rows * size)?;
            k.angles(&step.positions, &frequencies, &mut angles);
            let buffer = |heads: usize, seed: u64| k.upload(&numbers(rows * heads * size, seed + at as u64));
            let (mut q, mut keys, mut values) = (buffer(heads, 10)?, buffer(kv_heads, 20)?, buffer(kv_heads, 30)?);
            let of = |heads| Rotation { heads, size, pairs: Pairs::Halves, angles: &angles, norm: None };
            let mut out = k.activations(rows, heads * size)?;
            let (rotations, place) = ([&of(heads), &of(kv_heads)], (0, &step));
            k.rotate_attend([&mut q, &mut keys, &mut values], rotations, place, &mut cache, &attention, &mut out);
            let name = format!("attention of {rows} tokens with heads of {size} in {}", kind.name());
            found.push((name, k.download(&out, rows * heads * size)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::cuda;
    use super::*;

    #[test]
    fn kernels_for_this_card_and_for_any_pass_their_trial() {
        if cuda().is_none() {
            return;
        }
        let expected = found(&Cpu::with_isa(1, Isa::Scalar)).unwrap();
        for choice in [Choice::Best, Choice::Generic] {
            let cuda = Cuda::with(Which::Number(0), None, None, None, choice).unwrap();
            wrongs(&cuda, &expected).unwrap_or_else(|error| panic!("{choice:?}: {error}"));
            // What is wrong is seen, whatever it is.
            for at in 0..expected.len() {
                let mut wrong = expected.clone();
                wrong[at].1.iter_mut().step_by(3).for_each(|number| *number *= 2.0);
                let error = wrongs(&cuda, &wrong).unwrap_err().to_string();
                assert!(error.contains(&expected[at].0), "{error}");
                if at > 2 {
                    break;
                }
            }
        }
    }

    #[test]
    fn what_a_trial_gave_is_remembered() {
        let generic = Trusted { choice: Choice::Generic, reason: Some("a product: wrong".into()) };
        for trusted in [Trusted::default(), generic] {
            assert_eq!(Trusted::parse(trusted.text()), trusted);
        }
    }

    #[test]
    fn the_plain_operations_agree_with_themselves_and_give_numbers() {
        let (one, other) =
            (found(&Cpu::with_isa(1, Isa::Scalar)).unwrap(), found(&Cpu::with_isa(2, Isa::detect())).unwrap());
        for ((name, one), (_, other)) in one.iter().zip(&other) {
            assert!(!one.is_empty() && one.iter().all(|number| number.is_finite()), "{name}");
            let squares = |numbers: &[f32]| numbers.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>();
            let errors: Vec<f32> = one.iter().zip(other).map(|(one, other)| one - other).collect();
            assert!(squares(&errors) < ERROR / 10.0 * squares(one), "{name}");
        }
    }
}

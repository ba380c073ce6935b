//! Attention, and the cache that it looks at.

use super::*;

/// What a number is worth that is rounded to another of few bits.
const FEWER_BITS: f64 = 1e-3;

/// A conversation's cache on both devices, filled the same way.
struct Both<'a> {
    cuda: &'a Cuda,
    cpu: Cpu,
    shape: CacheShape,
    there: Cache,
    here: <Cpu as Kernels>::Cache,
    random: Random,
    /// Whether keys are stored as they come: then both store the same bits. Where they are rotated first, what differs in the
    /// last bits may be rounded to another of few bits.
    plain: bool,
}

impl<'a> Both<'a> {
    fn new(cuda: &'a Cuda, shape: CacheShape, seed: u64) -> Both<'a> {
        let cpu = plain();
        let (there, here) = (cuda.cache(shape).unwrap(), cpu.cache(shape).unwrap());
        let mut random = Random(seed);
        let plain = random.next().is_multiple_of(2);
        Both { cuda, cpu, shape, there, here, random, plain }
    }

    /// Stores random keys and values for all rows, and attends from all of them if asked.
    fn step(&mut self, step: &Step, attention: &Attention, attends: bool) -> Result<(), TestCaseError> {
        let (rows, CacheShape { heads: kv_heads, size, .. }) = (step.rows(), self.shape);
        let [mut q, mut k, v] =
            [attention.heads, kv_heads, kv_heads].map(|heads| self.random.floats(rows * heads * size));
        // Scores that make some positions matter more than others.
        q.iter_mut().for_each(|q| *q *= 4.0);
        let frequencies: Vec<f64> = (0..size / 2).map(|i| 1e4_f64.powf(-2.0 * i as f64 / size as f64)).collect();
        let cuda = self.cuda;
        let (mut angles, mut angles_here) = (poisoned(cuda, rows * size), vec![0.0; rows * size]);
        cuda.angles(&step.positions, &frequencies, &mut angles);
        self.cpu.angles(&step.positions, &frequencies, &mut angles_here);

        let layer = self.shape.layers - 1;
        let pairs = [Pairs::Halves, Pairs::Adjacent][self.random.next() as usize % 2];
        let weights = self.random.floats(2 * size);
        let normed = self.random.next().is_multiple_of(2);
        let [mut q_there, mut k_there, mut v_there] = [&q, &k, &v].map(|x| buffer(cuda, x));
        let weights_there = [0, 1].map(|i| buffer(cuda, &weights[i * size..][..size]));
        let rotation = |heads, i: usize| {
            let norm = normed.then_some((&weights_there[i], 1e-5));
            Rotation { heads, size, pairs, angles: &angles, norm }
        };
        let rotations = [&rotation(attention.heads, 0), &rotation(kv_heads, 1)];
        let len = rows * attention.heads * size;
        let mut found = poisoned(cuda, len);
        match self.random.next() % 3 {
            _ if self.plain => {
                cuda.store(&k_there, &v_there, step, layer, &mut self.there);
                cuda.attend(&q_there, &self.there, layer, step, attention, &mut found);
            }
            0 if attends => {
                let heads = [&mut q_there, &mut k_there, &mut v_there];
                cuda.rotate_attend(heads, rotations, (layer, step), &mut self.there, attention, &mut found);
            }
            1 => {
                cuda.rotate_store([&mut q_there, &mut k_there, &mut v_there], rotations, step, layer, &mut self.there);
                cuda.attend(&q_there, &self.there, layer, step, attention, &mut found);
            }
            _ => {
                cuda.rotate(&mut q_there, rows, rotations[0]);
                cuda.rotate(&mut k_there, rows, rotations[1]);
                cuda.store(&k_there, &v_there, step, layer, &mut self.there);
                cuda.attend(&q_there, &self.there, layer, step, attention, &mut found);
            }
        }
        let weights_here = [0, 1].map(|i| weights[i * size..][..size].to_vec());
        let rotation = |heads, i: usize| {
            let norm = normed.then_some((&weights_here[i], 1e-5));
            Rotation { heads, size, pairs, angles: &angles_here, norm }
        };
        let mut v = v;
        let rotations = [&rotation(attention.heads, 0), &rotation(kv_heads, 1)];
        match self.plain {
            true => self.cpu.store(&k, &v, step, layer, &mut self.here),
            false => self.cpu.rotate_store([&mut q, &mut k, &mut v], rotations, step, layer, &mut self.here),
        }

        if !attends {
            return Ok(());
        }
        let mut expected = vec![0.0; len];
        self.cpu.attend(&q, &self.here, layer, step, attention, &mut expected);
        let positions = (step.positions.first(), step.positions.last());
        let what = format!("{:?} {attention:?} {rows} rows at {positions:?}", self.shape);
        let most = if self.plain || self.shape.kind == KvKind::F16 { HALVES } else { FEWER_BITS };
        let floats = cuda.download(&found, len);
        near(&floats, &wide(&expected), most, &what)?;

        // The halves that were made on the way.
        let case = Case::new(Format::F32, 5, attention.heads * size, &mut self.random);
        let matrix = cuda.matrix(case.bytes.clone(), Format::F32, 5, attention.heads * size).unwrap();
        let mut out = poisoned(cuda, rows * 5);
        cuda.matmul(&found, rows, &mut [Product { matrix: &matrix, bias: None, out: &mut out }]);
        near_sums(&cuda.download(&out, rows * 5), &case.sums(&floats, false), HALVES, &what)
    }
}

fn step_of<'a>(entries: &[(usize, usize)], tables: &'a [Vec<u32>]) -> Step<'a> {
    let (slots, positions) = entries.iter().copied().unzip();
    Step { tokens: vec![0; entries.len()], slots, positions, wanted: Vec::new(), adapted: Vec::new(), tables }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn attention(
        seed in any::<u64>(),
        size in prop_oneof![Just(64), Just(96), Just(128), Just(256), Just(8), Just(12), Just(80), Just(160)],
        kind in proptest::sample::select(KvKind::ALL.to_vec()),
        kv_heads in 1_usize..4,
        group in prop_oneof![1_usize..9, 9_usize..21],
        prompt in prop_oneof![1_usize..40, 100_usize..400],
        window in prop_oneof![Just(None), (1_usize..70).prop_map(Some)],
        softcap in prop_oneof![Just(None), Just(Some(3.0_f32))],
    ) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let size = if kind.fits(size) { size } else { size.next_multiple_of(32) };
        let tables = &scattered(3, prompt + 50, seed);
        let shape = CacheShape { layers: 2, blocks: tables.concat().len(), heads: kv_heads, size, kind };
        let attention =
            Attention { heads: kv_heads * group, scale: (size as f32).sqrt().recip(), window, softcap };
        let mut both = Both::new(cuda, shape, seed);
        // A prompt of one conversation with a short one of another; a token of each; several tokens of one.
        let mut entries: Vec<(usize, usize)> = (0..prompt).map(|position| (1, position)).collect();
        entries.extend([(0, 0), (0, 1)]);
        both.step(&step_of(&entries, tables), &attention, true)?;
        both.step(&step_of(&[(0, 2), (1, prompt), (2, 0)], tables), &attention, true)?;
        both.step(&step_of(&[(1, prompt + 1)], tables), &attention, true)?;
        let next: Vec<_> = (2..9).map(|i| (1, prompt + i)).collect();
        both.step(&step_of(&next, tables), &attention, true)?;
        let next: Vec<_> = (9..40).map(|i| (1, prompt + i)).collect();
        both.step(&step_of(&next, tables), &attention, true)?;
    }
}

#[test]
fn attention_over_long_contexts() {
    let Some(cuda) = cuda() else { return };
    let shapes = [(128, 8, 4), (128, 4, 7), (64, 8, 4), (256, 1, 4), (96, 2, 1)];
    for ((size, kv_heads, group), kind) in shapes.into_iter().flat_map(|shape| KvKind::ALL.map(|kind| (shape, kind))) {
        let tables = &scattered(2, 5000, 7);
        let shape = CacheShape { layers: 1, blocks: tables.concat().len(), heads: kv_heads, size, kind };
        let attention =
            Attention { heads: kv_heads * group, scale: (size as f32).sqrt().recip(), window: None, softcap: None };
        let mut both = Both::new(cuda, shape, 7 + kind as u64);
        for first in (0..4200).step_by(700) {
            let prompt: Vec<_> = (first..first + 700).map(|position| (1, position)).collect();
            // The last piece sees enough for the reference's patience.
            both.step(&step_of(&prompt, tables), &attention, false).unwrap();
        }
        let piece: Vec<_> = (4200..4240).map(|position| (1, position)).collect();
        both.step(&step_of(&piece, tables), &attention, true).unwrap();
        for position in 4240..4243 {
            both.step(&step_of(&[(1, position)], tables), &attention, true).unwrap();
            both.step(&step_of(&[(1, position), (0, position - 4240)], tables), &attention, true).unwrap();
        }
    }
}

#[test]
fn blocks_are_copied_whole() {
    let Some(cuda) = cuda() else { return };
    let tables = &[vec![0, 1], vec![2, 3]];
    for kind in KvKind::ALL {
        let shape = CacheShape { layers: 2, blocks: 4, heads: 2, size: 64, kind };
        let attention = Attention { heads: 4, scale: 0.125, window: None, softcap: None };
        let mut both = Both::new(cuda, shape, 3);
        let prompt: Vec<_> = (0..50).map(|position| (0, position)).collect();
        both.step(&step_of(&prompt, tables), &attention, true).unwrap();
        for (from, to) in [(0, 3), (1, 2)] {
            both.cuda.copy_block(&mut both.there, Copy { from, to });
            both.cpu.copy_block(&mut both.here, Copy { from, to });
        }
        // Another conversation goes on from the copy, and the first one from what was copied.
        let swapped = &[vec![0, 1], vec![3, 2]];
        both.step(&step_of(&[(0, 50), (1, 50)], swapped), &attention, true).unwrap();
    }
}

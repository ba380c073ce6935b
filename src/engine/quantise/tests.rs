use super::*;
use crate::engine::gguf::Kind;
use crate::engine::model::tests::tiny::Tiny;
use std::sync::Arc;

fn quantised(gguf: &Gguf, mix: &str) -> (tempfile::NamedTempFile, Gguf) {
    let plan = Plan::of(gguf, mix.parse().unwrap()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut last = 0;
    plan.write(gguf, 2, file.as_file(), |bytes| last = bytes).unwrap();
    let written = Gguf::open(file.path()).unwrap();
    assert_eq!(written.file_bytes(), plan.bytes(gguf), "{mix}");
    assert_eq!(last, written.tensors().iter().map(|tensor| tensor.bytes).sum::<u64>(), "{mix}");
    (file, written)
}

fn tiny() -> Arc<Gguf> {
    Tiny { width: 256, head: 64, hidden: 512, layers: 8, tied: false, ..Tiny::new("llama") }.gguf()
}

/// All numbers of a tensor.
fn numbers(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let numbers = Numbers::of(gguf, tensor);
    let mut out = vec![0.0; tensor.elements() as usize];
    out.chunks_exact_mut(numbers.cols).enumerate().for_each(|(row, out)| numbers.row(row, out));
    out
}

#[test]
fn metadata_stays_and_numbers_stay_near() {
    let gguf = tiny();
    for (mix, allowed) in [("f32", 0.0), ("f16", 1e-6), ("q8_0", 1e-4), ("q6_k", 1e-3), ("nvfp4", 2e-2), ("q2_k", 0.2)]
    {
        let (_file, written) = quantised(&gguf, mix);
        for (key, value) in gguf.metadata().iter().filter(|(key, _)| !key.contains("file_type")) {
            assert_eq!(written.metadata().raw(key), gguf.metadata().raw(key), "{key} {value:?}");
        }
        let summary = written.summary().unwrap();
        assert_eq!(summary.quantisation, mix.to_uppercase());
        for name in ["blk.0.attn_norm.weight", "blk.3.ffn_up.weight"] {
            let (found, expected) = (numbers(&written, name), numbers(&gguf, name));
            let error: f32 = found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum();
            let size: f32 = expected.iter().map(|x| x * x).sum();
            assert!(error <= allowed * size, "{mix}, {name}: {}", error / size);
        }
    }
}

/// What llama.cpp's rules give for eight layers.
#[test]
fn q4_k_m_gives_more_bits_where_llama_cpp_does() {
    let (_file, written) = quantised(&tiny(), "q4_k_m");
    let kind = |name: &str| written.tensor(name).unwrap().kind;
    let of = |part: &str| (0..8).map(|layer| kind(&format!("blk.{layer}.{part}.weight"))).collect::<Vec<_>>();
    let (four, six) = (Kind::Q4_K, Kind::Q6_K);
    for part in ["attn_v", "ffn_down"] {
        assert_eq!(of(part), [six, four, four, six, four, four, six, six], "{part}");
    }
    for part in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"] {
        assert_eq!(of(part), [four; 8], "{part}");
    }
    assert_eq!((kind("output.weight"), kind("token_embd.weight")), (six, four));
    assert_eq!(kind("blk.0.ffn_norm.weight"), Kind::F32);
}

#[test]
fn rows_of_no_whole_blocks_get_smaller_ones() {
    let narrow = Tiny { width: 96, head: 32, heads: 3, kv_heads: 1, hidden: 192, ..Tiny::new("llama") }.gguf();
    let check = |mix, expected| {
        let (_file, written) = quantised(&narrow, mix);
        assert_eq!(written.tensor("blk.0.attn_q.weight").unwrap().kind, expected, "{mix}");
    };
    check("q4_k_s", Kind::Q5_0);
    check("q3_k_s", Kind::Q4_0);
    check("q6_k", Kind::Q8_0);
    check("iq4_xs", Kind::IQ4_NL);
    check("nvfp4", Kind::Q8_0);
}

/// A scale of the whole tensor is taken off again.
#[test]
fn what_was_nvfp4_is_read_with_its_scale() {
    let gguf = tiny();
    let (_four, four) = quantised(&gguf, "nvfp4");
    assert!(four.tensor("blk.0.ffn_up.scale").is_some());
    let (_back, back) = quantised(&four, "f32");
    assert!(back.tensor("blk.0.ffn_up.scale").is_none());
    assert_eq!(numbers(&back, "blk.0.ffn_up.weight"), numbers(&four, "blk.0.ffn_up.weight"));
}

#[test]
fn the_disk_may_be_full() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let gguf = tiny();
    let error = Plan::of(&gguf, Mix::Q8_0).unwrap().write(&gguf, 1, Full(100_000), |_| {}).unwrap_err();
    assert!(matches!(&error, WriteError::Io(error) if error.kind() == io::ErrorKind::StorageFull), "{error}");
}

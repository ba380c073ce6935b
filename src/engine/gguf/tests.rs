use super::*;
use proptest::prelude::*;
use std::io::Cursor;

fn small() -> Vec<u8> {
    let mut file = Writer::new();
    file.set("general.architecture", "llama")
        .set("general.name", "Tiny")
        .set("general.license", "mit")
        .set("general.file_type", 15u32)
        .set("llama.context_length", 64u32)
        .set("llama.rope.scale", 0.5f32)
        .set("flag", true)
        .set("negative", -3i64)
        .array("tokens", &["a", "bc", ""])
        .array("types", &[1i32, 3, -1])
        .array("scores", &[0.5f32, -1.0, 0.0])
        .tensor_f32("norm", &[4], &[1.0, 2.0, 3.0, 4.0])
        .tensor("blk.0.attn_q.weight", &[32, 2], Kind::Q8_0, vec![7; 68]);
    file.to_vec()
}

fn read(bytes: &[u8]) -> Result<Header, Error> {
    Header::read(Cursor::new(bytes), Path::new("test.gguf"))
}

fn open(bytes: &[u8]) -> Gguf {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Gguf::open(file.path()).unwrap()
}

/// Asserts that the file is refused with a message that holds all of `parts`.
#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let message = read(bytes).expect_err("the file was accepted").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// `small()` with the first occurrence of `find` replaced.
fn patched(find: &[u8], replace: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    let at = bytes.windows(find.len()).position(|window| window == find).unwrap();
    bytes[at..at + replace.len()].copy_from_slice(replace);
    bytes
}

/// A file with this count of tensors and metadata, followed by `rest`.
fn headed(tensors: u64, entries: u64, rest: &[&[u8]]) -> Vec<u8> {
    [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &entries.to_le_bytes(), &rest.concat()].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A file of one tensor `t` that claims these figures, with `data` bytes behind the header.
fn one_tensor(dims: &[u64], kind: u32, offset: u64, data: usize) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let rank = (dims.len() as u32).to_le_bytes();
    let table: [&[u8]; 5] = [&string("t"), &rank, &dims_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()];
    let mut bytes = headed(1, 0, &table);
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

#[test]
fn reads_what_the_writer_wrote() {
    let gguf = open(&small());
    let metadata = gguf.metadata();
    assert_eq!(metadata.get::<&str>("general.name").unwrap(), "Tiny");
    assert_eq!(metadata.get::<u32>("llama.context_length").unwrap(), 64);
    assert_eq!(metadata.get::<f32>("llama.rope.scale").unwrap(), 0.5);
    assert_eq!(metadata.get::<i64>("negative").unwrap(), -3);
    assert!(metadata.get::<bool>("flag").unwrap());
    assert_eq!(metadata.strings("tokens").unwrap().collect::<Vec<_>>(), [&b"a"[..], b"bc", b""]);
    assert_eq!(metadata.integers("types").unwrap().collect::<Vec<_>>(), [1, 3, -1]);
    assert_eq!(metadata.floats("scores").unwrap().collect::<Vec<_>>(), [0.5, -1.0, 0.0]);

    let norm = gguf.tensor("norm").unwrap();
    assert_eq!((norm.kind, &norm.dims[..], norm.elements(), norm.bytes), (Kind::F32, &[4][..], 4, 16));
    assert_eq!(gguf.bytes(norm)[4..8], 2.0f32.to_le_bytes());
    let weights = gguf.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!((weights.rows(), weights.row_bytes(), &*gguf.bytes(weights)), (2, 34, &[7; 68][..]));
    assert_eq!(gguf.tensor("blk.1.attn_q.weight"), None);
}

#[test]
fn a_header_alone_has_small_arrays_and_leaves_large_ones() {
    let mut file = Writer::new();
    file.array("small", &[1i32, 2]).array("large", &vec![1i32; 100_000]).array("tokens", &["a"]);
    let bytes = file.to_vec();
    let header = read(&bytes).unwrap();
    assert_eq!(header.metadata().integers("small").unwrap().collect::<Vec<_>>(), [1, 2]);
    for (key, result) in [
        ("large", header.metadata().integers("large").map(|_| ())),
        ("tokens", header.metadata().strings("tokens").map(|_| ())),
    ] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(key) && message.contains("header"), "{message}");
    }
    let mapped = open(&bytes);
    assert_eq!(mapped.metadata().integers("large").unwrap().sum::<i64>(), 100_000);
}

#[test]
fn getters_name_the_key() {
    let header = read(&small()).unwrap();
    let metadata = header.metadata();
    let check = |error: Error, expected: &str| assert_eq!(error.to_string(), expected);
    check(
        metadata.get::<u32>("llama.block_count").unwrap_err(),
        r#"the model file has no "llama.block_count" in its metadata"#,
    );
    assert_eq!(metadata.find::<u32>("llama.block_count").unwrap(), None);
    check(
        metadata.get::<u32>("general.name").unwrap_err(),
        r#""general.name" in the model's metadata is text, expected a whole number that fits u32"#,
    );
    check(
        metadata.find::<u32>("negative").unwrap_err(),
        r#""negative" in the model's metadata is the number -3, expected a whole number that fits u32"#,
    );
    check(
        metadata.floats("types").map(|_| ()).unwrap_err(),
        r#""types" in the model's metadata is an array of 3 I32, expected an array of floats"#,
    );
}

#[test]
fn summary_tells_what_the_file_is() {
    let expected = Summary {
        architecture: "llama".into(),
        parameters: 4 + 64,
        quantisation: "Q4_K_M".into(),
        context_train: 64,
        name: Some("Tiny".into()),
        licence: Some("mit".into()),
    };
    assert_eq!(read(&small()).unwrap().summary().unwrap(), expected);
    // A file type that is unknown, or none: the kind of most numbers.
    let header = read(&patched(&[4, 0, 0, 0, 15, 0, 0, 0], &[4, 0, 0, 0, 99])).unwrap();
    assert_eq!(header.summary().unwrap().quantisation, "Q8_0");
}

#[test]
fn other_files_are_refused() {
    refused(b"", &["the file's first bytes", "run past the file's end at 0"]);
    refused(b"PK\x03\x04 and so on", &["not a GGUF file", r"PK\x03\x04"]);
    refused(b"GGUF\x01\0\0\0", &["version 1"]);
    refused(b"GGUF\0\0\0\x03", &["version 50331648", "little-endian"]);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small();
    // The padding behind the last tensor is the writer's courtesy.
    let end = read(&bytes).unwrap().tensors().iter().map(|tensor| tensor.offset + tensor.bytes).max().unwrap();
    for len in 0..end as usize {
        assert!(read(&bytes[..len]).is_err(), "accepted {len} of {} bytes", bytes.len());
    }
    assert!(read(&bytes[..end as usize]).is_ok());
}

#[test]
fn hostile_counts_and_lengths_are_refused() {
    let huge = u64::MAX.to_le_bytes();
    refused(&headed(0, u64::MAX, &[]), &["the count of metadata", "18446744073709551615"]);
    refused(&headed(u64::MAX, 0, &[]), &["the count of tensors", "18446744073709551615"]);
    refused(&headed(0, 1, &[&huge]), &["the name of metadata key 0", "run past the file's end"]);
    refused(&headed(1, 0, &[&huge]), &["the name of tensor 0", "run past the file's end"]);
    let text = [8, 0, 0, 0];
    refused(&headed(0, 1, &[&string("key"), &text, &huge]), &[r#"metadata "key""#, "run past the file's end"]);
    let array =
        |of: u8, len: u64| headed(0, 1, &[&string("key"), &[9, 0, 0, 0, of, 0, 0, 0], &len.to_le_bytes(), &[0; 64]]);
    refused(&array(4, u64::MAX), &[r#"metadata "key""#, "array of 18446744073709551615 elements"]);
    refused(&array(4, 1 << 62), &[r#"metadata "key""#, "array of 4611686018427387904 elements"]);
    refused(&array(8, 1 << 61), &[r#"metadata "key""#, "array of 2305843009213693952 elements"]);
    refused(&array(8, 9), &[r#"metadata "key""#, "array of 9 elements"]);
    refused(&array(9, 1), &[r#"metadata "key""#, "an array of arrays"]);
    refused(&array(13, 1), &[r#"metadata "key""#, "its type 13 is unknown"]);
    let strings = headed(0, 1, &[&string("key"), &[9, 0, 0, 0, 8, 0, 0, 0, 1], &[0; 7], &huge]);
    refused(&strings, &[r#"metadata "key"[0]"#, "18446744073709551615 bytes"]);
}

#[test]
fn names_must_be_utf8_and_unique() {
    refused(&patched(b"general.name", b"general.\xffame"), &["the name of metadata key 1", "not UTF-8"]);
    refused(&patched(b"norm", b"n\xffrm"), &["the name of tensor 0", "not UTF-8"]);
    let mut file = Writer::new();
    refused(&file.set("key", 1u32).set("key", 2u32).to_vec(), &[r#"metadata "key""#, "occurs twice"]);
    let mut file = Writer::new();
    let twice = file.tensor_f32("t", &[1], &[0.0]).tensor_f32("t", &[1], &[0.0]).to_vec();
    refused(&twice, &[r#"tensor "t""#, "occurs twice"]);
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    assert!(read(&one_tensor(&[8, 2], 0, 0, 64)).is_ok());
    let check = |dims: &[u64], kind, offset, parts: &[&str]| {
        let parts = [&[r#"tensor "t""#], parts].concat();
        refused(&one_tensor(dims, kind, offset, 64), &parts);
    };
    check(&[], 0, 0, &["its count of dims", "0 is not within"]);
    check(&[1; 5], 0, 0, &["its count of dims", "5 is not within"]);
    check(&[8, 0], 0, 0, &["dims[1]", "zero"]);
    check(&[33], 8, 0, &["dims[0]", "33 elements", "Q8_0", "32"]);
    check(&[u64::MAX], 0, 0, &["dims", "overflow"]);
    check(&[1 << 32, 1 << 32], 0, 0, &["dims", "overflow"]);
    check(&[256, 1 << 56], 12, 0, &["dims", "overflow"]);
    check(&[8, 2], 4, 0, &["its kind", "4 is unknown"]);
    check(&[8, 2], 4_000_000_000, 0, &["its kind", "is unknown"]);
    check(&[8, 2], 0, 8, &["its offset", "8 is no multiple of 32"]);
    check(&[8, 2], 0, 32, &["its offset", "64 bytes at 32"]);
    check(&[8, 2], 0, u64::MAX - 31, &["its offset", "run past the file's end"]);
    check(&[8, 3], 0, 0, &["its offset", "96 bytes at 0"]);
}

#[test]
fn tensors_must_not_overlap() {
    let mut file = Writer::new();
    let mut bytes = file.tensor_f32("first", &[8], &[0.0; 8]).tensor_f32("second", &[8], &[0.0; 8]).to_vec();
    assert!(read(&bytes).is_ok());
    // The offset of the second is the last figure of the header, which ends before the data's 64 bytes and padding.
    let at = bytes.windows(6).position(|window| window == b"second").unwrap() + 6 + 4 + 8 + 4;
    assert_eq!(bytes[at], 32);
    bytes[at] = 0;
    refused(&bytes, &[r#"tensor "second""#, r#"overlaps tensor "first""#]);
}

/// A model in three files: `edit` changes what is written.
fn split(edit: impl Fn(u16, &mut u16, &mut u16)) -> (tempfile::TempDir, Result<Gguf, Error>) {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: u16| folder.path().join(format!("tiny-{:05}-of-00003.gguf", number + 1));
    for number in 0..3 {
        let (mut said, mut count) = (number, 3);
        edit(number, &mut said, &mut count);
        let mut file = Writer::new();
        file.set("split.no", said).set("split.count", count).set("split.tensors.count", 3u32);
        file.tensor_f32(&format!("t{number}"), &[2], &[f32::from(number), 1.0]);
        std::fs::write(path(number), file.to_vec()).unwrap();
    }
    let opened = Gguf::open(&path(0));
    (folder, opened)
}

#[test]
fn several_files_are_a_model() {
    let (folder, gguf) = split(|_, _, _| {});
    let gguf = gguf.unwrap();
    for number in 0..3_u8 {
        let tensor = gguf.tensor(&format!("t{number}")).unwrap();
        assert_eq!(gguf.bytes(tensor)[..4], f32::from(number).to_le_bytes());
    }
    let bytes: u64 = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(gguf.file_bytes(), bytes);
    let second = folder.path().join("tiny-00002-of-00003.gguf");
    let refused = |path: &Path, part: &str| {
        let message = Gguf::header(path).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(&second, "the first");
    let renamed = folder.path().join("other.gguf");
    std::fs::copy(folder.path().join("tiny-00001-of-00003.gguf"), &renamed).unwrap();
    refused(&renamed, "should be called NAME-00001-of-00003.gguf");
    std::fs::remove_file(second).unwrap();
    refused(&folder.path().join("tiny-00001-of-00003.gguf"), "tiny-00002-of-00003.gguf");
}

#[test]
fn several_files_must_agree() {
    let refused = |edit: fn(u16, &mut u16, &mut u16), part: &str| {
        let message = split(edit).1.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(
        |number, said, _| {
            if number == 1 {
                *said = 2
            }
        },
        "number 3 of 3",
    );
    refused(
        |number, _, count| {
            if number == 2 {
                *count = 4
            }
        },
        "number 3 of 4",
    );
    refused(|_, _, count| *count = 5000, "5000 is more than 1000");
    refused(|_, _, count| *count = 4, "should be called");
}

#[test]
fn alignment_is_checked() {
    let aligned = |alignment: u32| Writer::new().set("general.alignment", alignment).to_vec();
    assert_eq!(read(&aligned(64)).unwrap().alignment(), 64);
    for alignment in [0, 1, 3, 48, 1 << 21, u32::MAX] {
        refused(&aligned(alignment), &["general.alignment", "power of two"]);
    }
    refused(&Writer::new().set("general.alignment", "32").to_vec(), &["general.alignment", "text"]);
}

#[test]
fn a_header_that_would_fill_memory_is_refused() {
    let text = "x".repeat(4 << 20);
    let mut file = Writer::new();
    refused(&file.set("a", text.as_str()).set("b", text.as_str()).to_vec(), &[r#"metadata "b""#, "MiB of memory"]);
    // A name is shortened in messages.
    let message = read(&Writer::new().tensor("x".repeat(5000).as_str(), &[0], Kind::F32, vec![]).to_vec()).unwrap_err();
    assert!(message.to_string().len() < 300);
}

#[test]
fn kinds_agree_with_their_names() {
    for &kind in Kind::ALL {
        assert_eq!(Kind::from_id(kind.id()), Some(kind));
        assert_eq!(kind.name(), format!("{kind:?}"));
        assert_eq!(kind.row_bytes(kind.block_len() * 3), Some(kind.block_bytes() * 3));
        assert_eq!(kind.row_bytes(kind.block_len() + 1).is_some(), kind.block_len() == 1);
    }
    for withdrawn in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
        assert_eq!(Kind::from_id(withdrawn), None);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = read(&bytes);
        let _ = read(&[&b"GGUF\x03\0\0\0"[..], &bytes].concat());
    }

    /// What is accepted in spite of damage still keeps its promises.
    #[test]
    fn damaged_files_never_panic(
        edits in proptest::collection::vec((0..small().len(), any::<u8>()), 1..8),
        len in 0..=small().len(),
    ) {
        let mut bytes = small();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes.truncate(len.max(24));
        if let Ok(header) = read(&bytes) {
            let _ = header.summary();
            for tensor in header.tensors() {
                prop_assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
                prop_assert_eq!(tensor.rows() * tensor.row_bytes(), tensor.bytes);
            }
        }
    }
}

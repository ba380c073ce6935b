use super::text::counted;
use super::*;
use crate::engine::tokenizer::Tokenizer;
use std::path::PathBuf;

/// A file of its own for a test.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sovereign-eval-{}-{name}", std::process::id()))
}

fn tokenizer() -> Tokenizer {
    let mut writer = crate::engine::gguf::Writer::new();
    writer.set("general.architecture", "llama");
    writer.set("tokenizer.ggml.model", "llama");
    writer.array("tokenizer.ggml.tokens", &(0..5).map(|at| format!("t{at}")).collect::<Vec<_>>());
    writer.array("tokenizer.ggml.scores", &[0.0_f32; 5]);
    writer.array("tokenizer.ggml.token_type", &[1_i32; 5]);
    let path = scratch("vocabulary.gguf");
    std::fs::write(&path, writer.to_vec()).unwrap();
    let gguf = crate::engine::gguf::Gguf::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Tokenizer::from_gguf(&gguf).unwrap()
}

/// A file of the predictions `rows`, one for each that counts.
fn recorded(name: &str, text: &Text, vocabulary: usize, rows: &[Vec<f32>]) -> PathBuf {
    let path = scratch(name);
    let mut writer = Writer::create(&path, text, vocabulary).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    writer.finish().unwrap();
    path
}

#[test]
fn means_have_their_errors() {
    let mut sum = Sum::default();
    [1.0, 2.0, 3.0, 4.0].iter().for_each(|&value| sum.add(value));
    let Mean { value, error } = sum.mean();
    assert_eq!(value, 2.5);
    assert!((error - (1.25_f64 / 3.0).sqrt()).abs() < 1e-12);
}

#[test]
fn a_file_of_predictions_gives_them_back() {
    let (context, vocabulary) = (6, 5);
    let text = Text::from_tokens(vec![0, 1, 2, 3, 4, 0], &tokenizer(), context);
    let rows: Vec<Vec<f32>> =
        counted(context).map(|at| (0..vocabulary).map(|token| (token * at) as f32 * 0.7 - 2.0).collect()).collect();
    let path = recorded("back", &text, vocabulary, &rows);

    let mut reader = Reader::open(&path).unwrap();
    assert_eq!((reader.vocabulary(), reader.text(&tokenizer()).tokens()), (vocabulary, text.tokens()));
    let mut row = Vec::new();
    for expected in &rows {
        reader.next(&mut row).unwrap();
        let expected = log_softmax(expected);
        for (token, logprob) in row.iter().enumerate() {
            let error = f64::from(*logprob) - expected.of(token as u32);
            assert!(error.abs() < 1e-3, "token {token} is off by {error}");
        }
    }
    assert!(reader.next(&mut row).is_err());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn equal_predictions_are_told_as_such() {
    let text = Text::from_tokens(vec![0; 4], &tokenizer(), 4);
    let path = recorded("equal", &text, 5, &[vec![1.5; 5]]);
    let mut row = Vec::new();
    Reader::open(&path).unwrap().next(&mut row).unwrap();
    assert!(row.iter().all(|logprob| (logprob + 5.0_f32.ln()).abs() < 1e-6), "{row:?}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn damaged_files_of_predictions_are_refused() {
    let text = Text::from_tokens(vec![0, 1, 2, 3], &tokenizer(), 4);
    let path = recorded("damaged", &text, 5, &[vec![0.0; 5]]);
    let sound = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8], expected: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = Reader::open(&path).err().expect("it is refused").to_string();
        assert!(error.contains(expected), "{error:?} does not tell {expected:?}");
    };
    let with = |at: usize, word: u32| {
        let mut bytes = sound.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        bytes
    };
    check(&sound[..sound.len() - 1], "bytes, not");
    check(&sound[..10], "cannot read");
    check(&with(0, 7), "no file of predictions");
    check(&with(8, 2), "a context of 2 tokens");
    check(&with(8, u32::MAX), "bytes, not");
    check(&with(12, u32::MAX), "bytes, not");
    check(&with(16, u32::MAX), "bytes, not");
    check(&with(20, 5), "token 5 is beyond the vocabulary");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn texts_that_are_too_short_are_refused() {
    let check = |context, expected: &str| {
        let error = Text::new(&tokenizer(), "t1t2t3", context, None).expect_err("it is refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(3, "too short");
    check(4096, "at least 8192 are needed");
}

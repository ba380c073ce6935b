use super::*;
use std::path::Path;

/// The files of llama.cpp's own tests: `ggml-vocab-NAME.gguf` beside `.inp` and `.out`. They are not ours to ship, so
/// `make parity` fetches them.
#[test]
#[ignore = "needs SOVEREIGN_VOCABULARIES, a folder with llama.cpp's test vocabularies: see `make parity`"]
fn agrees_with_llama_cpp_on_its_vocabularies() {
    let folder = std::env::var("SOVEREIGN_VOCABULARIES").expect("SOVEREIGN_VOCABULARIES is not set");
    let mut checked = 0;
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let beside = |extension: &str| std::fs::read_to_string(format!("{}{extension}", path.display()));
        let (true, Ok(inputs), Ok(outputs)) =
            (path.extension().is_some_and(|e| e == "gguf"), beside(".inp"), beside(".out"))
        else {
            continue;
        };
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let tokenizer = match tokenizer(&path) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                println!("{name}: not served: {error}");
                continue;
            }
        };
        for (text, expected) in inputs.split("\n__ggml_vocab_test__\n").zip(outputs.lines()) {
            let expected: Vec<Token> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let got = tokenizer.encode(text, Special::Plain, false);
            if got != expected {
                failures.push(format!("{name}: {text:?}\n  got      {got:?}\n  expected {expected:?}"));
            }
            checked += 1;
        }
    }
    assert!(checked > 400, "only {checked} texts were checked");
    assert!(failures.is_empty(), "{} of {checked} differ:\n{}", failures.len(), failures.join("\n"));
}

fn tokenizer(path: &Path) -> Result<Tokenizer, Error> {
    Tokenizer::from_gguf(&Gguf::open(path)?)
}

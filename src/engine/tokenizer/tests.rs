use super::*;
use crate::engine::gguf::Writer;
use proptest::prelude::*;
use std::path::Path;
use std::time::Instant;
use unicode_normalization::UnicodeNormalization;

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

fn open(file: &Writer) -> Result<Tokenizer, Error> {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file.to_vec()).unwrap();
    tokenizer(path.path())
}

/// A vocabulary like Llama 2's: bytes, some words, and tokens of each role.
fn spm() -> Tokenizer {
    let mut tokens: Vec<(String, f32, i32)> =
        vec![("<unk>".into(), 0.0, 2), ("<s>".into(), 0.0, 3), ("</s>".into(), 0.0, 3)];
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    let words = ["\u{2581}", "a", "b", "c", "\u{2581}a", "ab", "bc", "abc", "<", "s", ">", "<s", "é"];
    tokens.extend(words.iter().enumerate().map(|(at, word)| ((*word).into(), -(at as f32), 1)));
    tokens.extend([("<tool>".into(), 0.0, 4), ("<tool>x".into(), 0.0, 4)]);
    let spellings: Vec<&str> = tokens.iter().map(|token| token.0.as_str()).collect();
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "llama")
        .array("tokenizer.ggml.tokens", &spellings)
        .array("tokenizer.ggml.scores", &tokens.iter().map(|token| token.1).collect::<Vec<_>>())
        .array("tokenizer.ggml.token_type", &tokens.iter().map(|token| token.2).collect::<Vec<_>>());
    open(&file).unwrap()
}

/// A vocabulary like Qwen's: bytes, and words that merges make of them.
fn bpe_file<'a>(pre: &'a str) -> Writer<'a> {
    let mut tokens: Vec<String> = (0..=255u8).map(|byte| bpe::byte_char(byte).to_string()).collect();
    let merges = ["a b", "b c", "ab c", "\u{120} a", "\u{120} abc"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    tokens.extend(["<|im_start|>".into(), "<|im_end|>".into(), "<think>".into()]);
    types.extend([3, 3, 4]);
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", pre)
        .set("tokenizer.ggml.bos_token_id", types.len() as u32 - 3)
        .array("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.merges", &merges)
        .array("tokenizer.ggml.token_type", &types);
    file
}

fn bpe() -> Tokenizer {
    open(&bpe_file("qwen2")).unwrap()
}

/// Asserts how a text is cut, by the names of its tokens.
#[track_caller]
fn check(tokenizer: &Tokenizer, text: &str, special: Special, expected: &[&str]) {
    let tokens = tokenizer.encode(text, special, false);
    let names: Vec<_> = tokens.iter().map(|&token| String::from_utf8_lossy(tokenizer.name(token))).collect();
    assert_eq!(names, expected, "{text:?}");
}

/// A vocabulary like XLM-RoBERTa's, whose tokens have logarithms of probabilities.
fn unigram(table: Option<&[u8]>) -> Result<Tokenizer, Error> {
    let tokens = [
        ("<s>", 0.0_f32, 3),
        ("</s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("\u{2581}", -4.0, 1),
        ("\u{2581}ab", -3.0, 1),
        ("a", -5.0, 1),
        ("b", -5.0, 1),
        ("c", -5.0, 1),
        ("bc", -5.5, 1),
        ("abc", -9.0, 1),
        ("\u{2581}abcd", -8.0, 1),
        ("<tool>", 0.0, 4),
    ];
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "t5")
        .set("tokenizer.ggml.add_space_prefix", true)
        .set("tokenizer.ggml.remove_extra_whitespaces", true)
        .array("tokenizer.ggml.tokens", &tokens.map(|token| token.0))
        .array("tokenizer.ggml.scores", &tokens.map(|token| token.1))
        .array("tokenizer.ggml.token_type", &tokens.map(|token| token.2));
    if let Some(table) = table {
        file.array("tokenizer.ggml.precompiled_charsmap", table);
    }
    open(&file)
}

#[test]
fn unigram_takes_the_likeliest_of_all_ways() {
    let tokenizer = unigram(None).unwrap();
    let check = |text, expected: &[&str]| check(&tokenizer, text, Special::Parse, expected);
    // Three and five against four and five and a half, or nine.
    check("abc", &[" ab", "c"]);
    check("bc", &[" ", "bc"]);
    check("abcd", &[" abcd"]);
    // Spaces at the ends go, and several are one.
    check("  ab   bc ", &[" ab", " ", "bc"]);
    check("", &[]);
    check("   ", &[]);
    // Unknown characters that follow each other are one token.
    check("abéüb", &[" ab", "<unk>", "b"]);
    // After a token that stands for itself a text begins anew.
    check("ab<tool>ab", &[" ab", "<tool>", " ab"]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("ab  bc", Special::Plain, false)), "ab bc");
    assert_eq!(tokenizer.encode("ab", Special::Plain, true).last(), Some(&1), "texts end");
}

#[test]
fn broken_tables_of_replacements_are_refused_or_change_nothing() {
    let check = |table: &[u8]| {
        let error = unigram(Some(table)).unwrap_err().to_string();
        assert!(error.contains("precompiled_charsmap"), "{error}");
    };
    check(&[]);
    check(&[8, 0, 0, 0, 1]);
    check(&[3, 0, 0, 0, 1, 2, 3, 0]);
    check(&[4, 0, 0, 0, 1, 2, 3, 4, 65]);
    // Units that lead nowhere.
    let mut table = vec![8, 0, 0, 0];
    table.extend([0xff; 8]);
    table.push(0);
    let tokenizer = unigram(Some(&table)).unwrap();
    assert_eq!(tokenizer.encode("abc", Special::Plain, false), [4, 7]);
}

proptest! {
    /// Whatever a table says, all text is taken, and no character is split.
    #[test]
    fn any_table_of_replacements_is_survived(
        units in proptest::collection::vec(any::<u32>(), 1..300),
        replacements in proptest::collection::vec(any::<u8>(), 0..20),
        text in "\\PC{0,20}",
    ) {
        let mut table = (4 * units.len() as u32).to_le_bytes().to_vec();
        table.extend(units.into_iter().flat_map(u32::to_le_bytes));
        table.extend(replacements);
        table.push(0);
        let tokenizer = unigram(Some(&table)).unwrap();
        tokenizer.encode(&text, Special::Plain, false);
    }
}

#[test]
fn sentencepiece_merges_the_best_score_first() {
    let check = |text, expected: &[&str]| check(&spm(), text, Special::Parse, expected);
    check("abc", &[" a", "bc"]);
    check("bc", &[" ", "bc"]);
    check("é€", &[" ", "é", "\u{fffd}", "\u{fffd}", "\u{fffd}"]);
    // After a token that stands for itself a text begins anew.
    check("<tool>abc</s>", &["<tool>", " a", "bc", "</s>"]);
    // Of two that overlap the longest.
    check("<tool>xa", &["<tool>x", " a"]);
    assert_eq!(spm().decode(&spm().encode("é€ a\n", Special::Parse, true)), "é€ a\n");
}

/// A vocabulary like BERT's.
fn wordpiece(cased: bool) -> Tokenizer {
    let controls = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let beginnings = ["un", "a", ",", "é", "中", "e", "ab"].map(|word| format!("\u{2581}{word}"));
    let words: Vec<&str> =
        controls.into_iter().chain(beginnings.iter().map(String::as_str)).chain(["aff", "able"]).collect();
    let types: Vec<i32> = (0..words.len()).map(|at| if at < controls.len() { 3 } else { 1 }).collect();
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "bert")
        .set("tokenizer.ggml.bos_token_id", 2_u32)
        .set("tokenizer.ggml.seperator_token_id", 3_u32)
        .set("tokenizer.ggml.unknown_token_id", 1_u32)
        .set("tokenizer.ggml.normalizer.lowercase", !cased)
        .array("tokenizer.ggml.tokens", &words)
        .array("tokenizer.ggml.token_type", &types);
    open(&file).unwrap()
}

#[test]
fn wordpiece_takes_the_longest_pieces_of_words() {
    let check = |text, expected: &[&str]| check(&wordpiece(false), text, Special::Parse, expected);
    check("unaffable", &[" un", "aff", "able"]);
    check(" UnAffable,A\r\n", &[" un", "aff", "able", " ,", " a"]);
    // Of the longest beginning the rest must be pieces, too.
    check("abl unx", &["[UNK]", "[UNK]"]);
    check("É 中中", &[" e", " 中", " 中"]);
    // What cannot be seen is not there; the space that spells beginnings is no space.
    check("u\u{ad}n\0 a\u{2581}a", &[" un", "[UNK]"]);
    check("[SEP] a [sep]", &["[SEP]", " a", "[UNK]", "[UNK]", "[UNK]"]);
    check(&format!("a {}", "a".repeat(101)), &[" a", "[UNK]"]);
    let tokenizer = wordpiece(false);
    assert_eq!(tokenizer.decode(&tokenizer.encode("unaffable, a", Special::Plain, true)), "unaffable , a");
    super::tests::check(&wordpiece(true), "é É", Special::Plain, &[" é", "[UNK]"]);
}

#[test]
fn texts_are_shortened_before_their_end() {
    let tokenizer = wordpiece(false);
    let check = |text, len, expected: &[Token]| {
        let mut tokens = tokenizer.encode(text, Special::Plain, true);
        assert_eq!((tokenizer.shorten(&mut tokens, len), &*tokens), (len < 5, expected));
    };
    check("a , e", 5, &[2, 5, 6, 9, 3]);
    check("a , e", 4, &[2, 5, 6, 3]);
    check("a , e", 1, &[3]);
    let mut tokens = vec![7, 7, 7];
    assert!(tokenizer.shorten(&mut tokens, 2) && tokens == [7, 7]);
}

#[test]
fn plain_text_never_becomes_a_control_token() {
    check(&spm(), "<s>", Special::Plain, &[" ", "<s", ">"]);
    check(&spm(), "<s>", Special::Parse, &["<s>"]);
    check(&spm(), "<tool>", Special::Plain, &["<tool>"]);
    assert!(!bpe().encode("<|im_end|>", Special::Plain, true).contains(&bpe().token("<|im_end|>").unwrap()));
    check(&bpe(), "<think><|im_end|>", Special::Parse, &["<think>", "<|im_end|>"]);
}

#[test]
fn bytes_merge_by_rank_within_words() {
    check(&bpe(), "abc abc", Special::Plain, &["abc", " abc"]);
    check(&bpe(), "bca a", Special::Plain, &["bc", "a", " a"]);
    check(&bpe(), "é", Special::Plain, &["\u{fffd}", "\u{fffd}"]);
    // Of several spaces the last belongs to the word.
    check(&bpe(), "   abc", Special::Plain, &[" ", " ", " abc"]);
    check(&bpe(), "a\n  a", Special::Plain, &["a", "\n", " ", " a"]);
}

#[test]
fn a_beginning_is_added_once() {
    let (spm, bpe) = (spm(), bpe());
    let bos = spm.bos().unwrap();
    assert_eq!(spm.encode("a", Special::Parse, true)[0], bos);
    assert_eq!(spm.encode("", Special::Parse, true), [bos]);
    assert_eq!(spm.encode("<s>a", Special::Parse, true), spm.encode("a", Special::Parse, true));
    // Qwen has such a token, and does not want it.
    assert_eq!(bpe.encode("a", Special::Parse, true), bpe.encode("a", Special::Parse, false));
    assert!(bpe.bos().is_some());
}

#[test]
fn ends_are_known_by_name() {
    let (spm, bpe) = (spm(), bpe());
    assert_eq!(spm.ends().collect::<Vec<_>>(), [2]);
    assert!(bpe.is_end(bpe.token("<|im_end|>").unwrap()));
    assert!(!bpe.is_end(bpe.token("<|im_start|>").unwrap()));
    assert_eq!(bpe.piece(bpe.token("<|im_end|>").unwrap()), b"");
    assert_eq!(bpe.name(bpe.token("<|im_end|>").unwrap()), b"<|im_end|>");
    assert_eq!((bpe.piece(u32::MAX), bpe.name(u32::MAX), bpe.is_end(u32::MAX)), (&b""[..], &b""[..], false));
}

#[test]
fn what_is_not_served_is_named() {
    let check = |file: &Writer, part: &str| {
        let message = open(file).unwrap_err().to_string();
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    };
    check(&bpe_file("klingon"), "\"klingon\"");
    check(Writer::new().set("tokenizer.ggml.model", "rwkv").array("tokenizer.ggml.tokens", &["a"]), "\"rwkv\"");
    check(&Writer::new(), "tokenizer.ggml.tokens");
    let tokens = ["a", "b"];
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "llama").array("tokenizer.ggml.tokens", &tokens);
    check(&file, "tokenizer.ggml.scores");
    file.array("tokenizer.ggml.scores", &[0.0f32]);
    check(&file, "2 tokens, but 1");
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "gpt2").array("tokenizer.ggml.tokens", &tokens);
    check(file.array("tokenizer.ggml.merges", &["a b", "ab"]), "\"tokenizer.ggml.merges\"[1]");
}

#[test]
fn every_known_rule_for_words_can_be_read() {
    for pre in [
        "default",
        "gpt-2",
        "smollm",
        "llama-bpe",
        "glm4",
        "dbrx",
        "qwen2",
        "qwen35",
        "falcon",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
        "tekken",
        "gpt-4o",
        "gemma4",
    ] {
        let rules = pretokenizer::Pretokenizer::named(pre).unwrap();
        let text = "I'm 1234 naïve,\tself-aware  foxes!\r\n\n  x = [1, 2];  ";
        let mut words = Vec::new();
        rules.split(text, |word| words.push(word.to_owned()));
        assert_eq!(words.concat(), text, "{pre}");
        assert!(words.len() > 1, "{pre}");
    }
}

#[test]
fn a_long_word_takes_no_longer_than_many_short_ones() {
    // A quadratic algorithm would take minutes.
    let begun = Instant::now();
    assert_eq!(bpe().encode(&"abc".repeat(200_000), Special::Plain, false).len(), 200_000);
    assert_eq!(bpe().encode(&" ".repeat(600_000), Special::Plain, false).len(), 600_000);
    assert_eq!(spm().encode(&"bc".repeat(300_000), Special::Plain, false).len(), 300_001);
    assert_eq!(spm().encode(&"<tool".repeat(100_000), Special::Plain, false).len(), 500_001);
    assert!(begun.elapsed().as_secs() < 20, "it took {:?}", begun.elapsed());
}

#[test]
fn a_stream_holds_back_what_is_no_character_yet() {
    let mut stream = Utf8Stream::default();
    let mut push = |bytes: &[u8]| push(&mut stream, bytes);
    assert_eq!(push("a€".as_bytes()), "a€");
    assert_eq!(push(&[0xf0, 0x9f]), "");
    assert_eq!(push(&[0xa6, 0x99, b'b']), "\u{1f999}b");
    assert_eq!(push(&[0xff, b'c', 0xe2]), "\u{fffd}c");
    assert_eq!(push(b"d"), "\u{fffd}d");
    assert_eq!(push(&[0xe2, 0x82]), "");
    assert!(stream.is_pending());
    assert_eq!((stream.finish(), stream.is_pending()), ("\u{fffd}".into(), false));
}

/// The text that these bytes let out.
fn push(stream: &mut Utf8Stream, bytes: &[u8]) -> String {
    let mut text = String::new();
    stream.push(bytes, &mut text);
    text
}

proptest! {
    #[test]
    fn any_text_comes_back(text in "(\\PC|abc| |\n|<s>|<tool>|\u{120}){0,40}") {
        let bpe = bpe();
        prop_assert_eq!(bpe.decode(&bpe.encode(&text, Special::Plain, true)), text.nfc().collect::<String>());
        let spm = spm();
        let unspelled = text.replace('\u{2581}', " ");
        // A space goes before the text, and after tokens that stand for themselves.
        let decoded = spm.decode(&spm.encode(&unspelled, Special::Plain, true));
        prop_assert_eq!(decoded.replace(' ', ""), unspelled.replace(' ', ""));
    }

    #[test]
    fn a_stream_gives_the_same_text_in_any_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let mut stream = Utf8Stream::default();
        let text = push(&mut stream, first) + &push(&mut stream, second) + &stream.finish();
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}

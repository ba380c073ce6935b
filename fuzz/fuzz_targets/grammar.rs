//! An expression, and a grammar in either notation, and an answer that follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::engine::grammar::Source;

fuzz_target!(|text: &str| {
    sovereign_fuzz::follow(&match text.strip_prefix("regex ") {
        Some(regex) => Source::Regex(regex.into()),
        None => Source::of_grammar(text),
    });
});

//! A schema, and an answer that follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::engine::grammar::Source;

fuzz_target!(|schema: &[u8]| {
    if let Ok(schema) = serde_json::from_slice(schema) {
        sovereign_fuzz::follow(&Source::Schema(schema));
    }
});

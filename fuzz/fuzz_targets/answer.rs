//! What a model writes, in pieces: nothing is lost however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::engine::output::{Calls, Format, Opening, Parser, Piece};

fn parse(format: Format, opening: Opening, incremental: bool, pieces: &[&str]) -> Vec<Piece> {
    let mut parser = Parser::new(format, opening, vec!["f".into(), "python".into()], incremental);
    let mut parts: Vec<Piece> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    parts.extend(parser.finish());
    let mut joined: Vec<Piece> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(Piece::Text(text)), Piece::Text(more)) => text.push_str(&more),
            (Some(Piece::Reasoning(text)), Piece::Reasoning(more)) => text.push_str(&more),
            (Some(Piece::Arguments(text)), Piece::Arguments(more)) => text.push_str(&more),
            (_, part) => joined.push(part),
        }
    }
    joined
}

fuzz_target!(|input: (u8, &str)| {
    let (cut, text) = input;
    let cut = (0..=text.len().min(cut.into())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let pieces = [&text[..cut], &text[cut..]];
    for calls in [Calls::Hermes, Calls::Llama, Calls::Mistral, Calls::MistralNamed, Calls::Json] {
        let format = Format { calls, reasons: true, tells_tools: true };
        for opening in [Opening::Plain, Opening::MayReason, Opening::Reasoning] {
            for incremental in [false, true] {
                let whole = parse(format, opening, incremental, &[text]);
                assert_eq!(whole, parse(format, opening, incremental, &pieces), "{calls:?} {opening:?} {incremental}");
                let is_text = |piece: &Piece| matches!(piece, Piece::Text(_));
                if opening == Opening::Plain && whole.iter().all(is_text) {
                    let told: String =
                        whole.iter().map(|piece| if let Piece::Text(text) = piece { &**text } else { "" }).collect();
                    assert_eq!(told, text, "{calls:?}");
                }
            }
        }
    }
});

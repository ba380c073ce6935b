use super::*;
use crate::engine::gguf::{Gguf, Writer};
use crate::engine::tokenizer::{Special, Token};
use serde_json::json;
use std::time::{Duration, Instant};

/// Bytes, a few words of JSON, a control token and the end.
fn tokenizer() -> Tokenizer {
    let mut tokens: Vec<(String, i32)> = vec![("<unk>".into(), 2), ("<s>".into(), 3), ("</s>".into(), 3)];
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6)));
    tokens.extend(["{\"", "\":", "name", "\"}", "true", "a", "▁"].map(|word| (word.into(), 1)));
    tokens.push(("<|call|>".into(), 3));
    tokens.extend(["<tool_call>", "[TOOL_CALLS]"].map(|mark| (mark.into(), 4)));
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.add_space_prefix", false)
        .array("tokenizer.ggml.tokens", &tokens.iter().map(|token| token.0.as_str()).collect::<Vec<_>>())
        .array("tokenizer.ggml.scores", &vec![0.0f32; tokens.len()])
        .array("tokenizer.ggml.token_type", &tokens.iter().map(|token| token.1).collect::<Vec<_>>());
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file.to_vec()).unwrap();
    Tokenizer::from_gguf(&Gguf::open(path.path()).unwrap()).unwrap()
}

pub(in crate::engine) fn grammars() -> Grammars {
    Grammars::new(Arc::new(tokenizer()))
}

/// How an answer fares under a grammar.
#[derive(Debug, PartialEq)]
pub(in crate::engine) enum Fate {
    /// It may end here, and may go on.
    May,
    /// It must end here.
    Must,
    /// It may not end here.
    Unfinished,
    /// This byte and what follows is not allowed.
    Refused(usize),
}

/// Follows `text` token by token.
pub(in crate::engine) fn follow(grammars: &Grammars, grammar: &Grammar, text: &str) -> Fate {
    let tokenizer = grammars.tokenizer();
    let (mut constraint, mut at) = (grammar.begin(), 0);
    let allowed = |constraint: &mut Constraint, token: Token| {
        let mut row = vec![0.0; tokenizer.len()];
        constraint.restrict(&mut row).unwrap();
        row[token as usize] == 0.0
    };
    for token in tokenizer.encode(text, Special::Parse, false) {
        if !allowed(&mut constraint, token) {
            return Fate::Refused(at);
        }
        at += tokenizer.name(token).len();
        if constraint.accept(token).unwrap() {
            return if at == text.len() { Fate::Must } else { Fate::Refused(at) };
        }
    }
    if allowed(&mut constraint, tokenizer.eos().unwrap()) { Fate::May } else { Fate::Unfinished }
}

#[track_caller]
fn check(source: &Source, answers: &[(&str, Fate)]) {
    let grammars = grammars();
    let grammar = grammars.compile(source).unwrap();
    for (text, expected) in answers {
        assert_eq!(follow(&grammars, &grammar, text), *expected, "{text:?} under {source:?}");
    }
}

#[track_caller]
fn fails(source: &Source, place: &str, message: &str) {
    let error = grammars().compile(source).unwrap_err();
    assert_eq!(error.place, place, "{error}");
    assert!(error.message.contains(message), "{error}");
}

#[test]
fn answers_follow_a_schema() {
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name"],
        "additionalProperties": false
    });
    check(
        &Source::Schema(schema),
        &[
            ("{\"name\":\"a\"}", Fate::Must),
            ("{ \"name\": \"Zoé\",\n  \"age\": 7 }", Fate::Must),
            ("{\"name\":\"abcdef\"}", Fate::Refused(14)),
            ("{\"age\":1}", Fate::Refused(2)),
            ("{\"name\":\"a\",\"age\":-1}", Fate::Refused(18)),
            ("{\"name\":\"a\"", Fate::Unfinished),
            ("", Fate::Unfinished),
            ("Sure! {", Fate::Refused(0)),
        ],
    );
}

#[test]
fn answers_follow_definitions_and_choices() {
    let schema = json!({
        "$defs": {"tree": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}]}},
        "$ref": "#/$defs/tree"
    });
    check(&Source::Schema(schema), &[("[[null],[]]", Fate::Must), ("[true]", Fate::Refused(1)), ("null", Fate::Must)]);
    let one = json!({"oneOf": [{"const": "a"}, {"enum": [true, 12]}]});
    check(
        &Source::Schema(one),
        &[("\"a\"", Fate::Must), ("true", Fate::Must), ("12", Fate::Must), ("13", Fate::Refused(1))],
    );
}

#[test]
fn spaces_have_an_end() {
    let schema = Source::Schema(json!({"type": "array"}));
    check(
        &schema,
        &[(&format!("[{}]", " ".repeat(48)), Fate::Must), (&format!("[{}]", " ".repeat(49)), Fate::Refused(49))],
    );
}

#[test]
fn answers_follow_an_expression() {
    let answers = [("aab", Fate::Must), ("ab", Fate::Must), ("b", Fate::Refused(0)), ("aa", Fate::Unfinished)];
    check(&Source::Regex("a+b".into()), &answers);
    check(&Source::Regex("^a+b$".into()), &answers);
    check(&Source::Regex("(yes|no)+".into()), &[("yesno", Fate::May), ("ye", Fate::Unfinished)]);
    check(&Source::Regex(r"costs \$".into()), &[("costs $", Fate::Must)]);
}

#[test]
fn answers_follow_a_grammar() {
    let lark = "start: <|call|> \"(\" sum \")\"\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/\n";
    check(
        &Source::Lark(lark.into()),
        &[("<|call|>(1+22)", Fate::Must), ("<|call|>(1+)", Fate::Refused(11)), ("(1)", Fate::Refused(0))],
    );
    // A control token is no text.
    check(&Source::Regex(".+".into()), &[("<|call|>", Fate::Refused(0)), ("a", Fate::May)]);
}

#[test]
fn answers_follow_llama_cpps_notation() {
    let gbnf = |text: &str| Source::of_grammar(text);
    check(
        &gbnf("root ::= (\"yes\" | \"no\" [!.]?) # one\n"),
        &[
            ("yes", Fate::Must),
            ("no", Fate::May),
            ("no!", Fate::Must),
            ("yes!", Fate::Refused(3)),
            ("n", Fate::Unfinished),
        ],
    );
    // Where terminals went as far as they can, "ab" would take the a of "abc".
    check(&gbnf("root ::= \"a\" \"bc\" | \"ab\" \"d\""), &[("abc", Fate::Must), ("abd", Fate::Must)]);
    let tree = "root ::= tree\ntree ::= \"(\" tree? (\n  \",\" ws tree\n)* \")\" ws |\n  [^()\\x2c\\]-]{1,2} ws\nws ::= [ \\t\\n]*\n";
    check(
        &gbnf(tree),
        &[("((a), b )", Fate::May), ("(a,(b,é))", Fate::May), ("(abc)", Fate::Refused(3)), ("(", Fate::Unfinished)],
    );
    check(&gbnf("root ::= <|call|> \"\\u00e9\\\\/\""), &[("<|call|>é\\/", Fate::Must), ("é", Fate::Refused(0))]);
    fails(&gbnf("root ::= \"a\"\nx ::= [\n"), "", "line 3");
    fails(&gbnf("x ::= \"a\""), "", "root");
    fails(&gbnf("root ::= nobody"), "", "nobody");
    fails(&gbnf("root ::= \"a\" )"), "", "line 1");
    fails(&gbnf("root ::= \"a\\q\""), "", "escaped");
    fails(&gbnf("root ::= \"a\"{x}"), "", "number");
}

/// The grammar of JSON that llama.cpp's users know, in its shape.
#[test]
fn answers_follow_json_in_llama_cpps_notation() {
    let json = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"#;
    check(
        &Source::of_grammar(json),
        &[
            ("{\"a\": [1, -2.5, true, {}], \"é\\n\": \"\"}", Fate::May),
            ("{\"a\": [1, }", Fate::Refused(10)),
            ("{\n  \"a\": \"", Fate::Unfinished),
            ("[", Fate::Refused(0)),
        ],
    );
}

#[test]
fn errors_name_the_place() {
    let schema =
        |part: Value| Source::Schema(json!({"type": "object", "properties": {"a": {"type": "array", "items": part}}}));
    fails(&schema(json!({"type": "array", "uniqueItems": true})), ".properties.a.items", "uniqueItems");
    fails(&schema(json!({"anyOf": [{"type": "null"}, {"type": "wizard"}]})), ".properties.a.items.anyOf[1]", "wizard");
    fails(&schema(json!({"$ref": "#/$defs/none"})), ".properties.a.items", "none");
    fails(&schema(json!({"type": "string", "pattern": "("})), ".properties.a.items", "unclosed group");
    let defined = json!({"$defs": {"x": {"not": {}}}, "properties": {"a": {"$ref": "#/$defs/x"}}});
    fails(&Source::Schema(defined), ".$defs.x", "not");
    fails(&Source::Schema(json!([])), "", "object");
    fails(&Source::Schema(json!({"type": "integer", "minimum": 3, "maximum": 2})), "", "");
    fails(&Source::Regex("a(b".into()), "", "unclosed group");
    fails(&Source::Lark("start: \"a\n".into()), "", "");
    fails(&Source::Lark("start: nobody\n".into()), "", "nobody");
}

#[test]
fn what_is_too_much_is_refused() {
    let nested = |depth| (0..depth).fold(json!({"type": "null"}), |inner, _| json!({"items": inner}));
    fails(&Source::Schema(nested(100)), "", "nested deeper");
    assert!(grammars().compile(&Source::Schema(nested(50))).is_ok());
    fails(&Source::Regex("a".repeat(MAX_GRAMMAR + 1)), "", "bytes");
    // The schemas of a hundred tools are longer than any grammar by hand.
    let tools = |bytes: usize| {
        let schema = json!({"type": "object", "description": "x".repeat(bytes / 100)});
        let calls: String = (0..100).map(|n| format!("c{n}: \"{n}\" %json {schema} \"}}\"\n")).collect();
        let choice: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
        Source::Lark(format!("start: {}\n{calls}", choice.join(" | ")))
    };
    assert!(grammars().compile(&tools(100_000)).is_ok());
    fails(&tools(300_000), "", "bytes");
    let begun = Instant::now();
    for source in [
        Source::Regex("(".repeat(200_000)),
        Source::Regex("(a{1000}){1000}{1000}".into()),
        Source::Lark(format!("start: {}\n", "(".repeat(200_000))),
        Source::Lark(format!("start: {}\"a\"{}\n", "(".repeat(50_000), ")".repeat(50_000))),
        Source::Lark((0..20_000).map(|n| format!("r{n}: r{}\n", n + 1)).collect()),
        Source::Lark("start: start\n".into()),
        Source::Gbnf(format!("root ::= {}", "(".repeat(200_000))),
        Source::Gbnf("root ::= root\n".into()),
        Source::Gbnf(
            (0..15_000).map(|n| format!("r{n} ::= r{}\n", n + 1)).collect::<String>() + "root ::= r0\nr15000 ::= \"a\"",
        ),
        Source::Schema(json!({"$ref": "#"})),
        Source::Schema(json!({"allOf": [{"$ref": "#"}, {"type": "null"}]})),
        Source::Schema(json!({"type": "string", "minLength": 1_000_000_000})),
        Source::Schema(json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "null"}})),
        Source::Schema(json!({"enum": (0..5000).collect::<Vec<_>>()})),
        Source::Schema(json!({"allOf": (0..60).map(|n| json!({"pattern": format!(".*a{n}.*")})).collect::<Vec<_>>()})),
        slow(),
    ] {
        // It compiles or does not, but it ends, and the process lives.
        if let Err(error) = grammars().compile(&source) {
            assert!(error.message.chars().count() < 2 * MAX_MESSAGE, "{error}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
}

/// Definitions that lead through each other are walked by recursion.
#[test]
fn a_chain_of_definitions_does_not_overflow() {
    let definitions: Vec<String> =
        (0..8000).map(|n| format!("\"d{n}\": {{\"$ref\": \"#/$defs/d{}\"}}", n + 1)).collect();
    let schema = format!("{{\"$defs\": {{{}, \"d8000\": {{}}}}, \"$ref\": \"#/$defs/d0\"}}", definitions.join(","));
    assert!(grammars().compile(&Source::Schema(serde_json::from_str(&schema).unwrap())).is_ok());
}

#[test]
fn many_grammars_stay_few() {
    let grammars = grammars();
    let first = Source::Schema(json!({"const": "first"}));
    grammars.compile(&first).unwrap();
    for n in 0..10_000 {
        grammars.compile(&Source::Schema(json!({"const": n}))).unwrap();
        if n == 5 {
            // What is used again stays longer.
            grammars.compile(&first).unwrap();
        }
        assert!(lock(&grammars.shared.kept).len() <= KEPT);
    }
    assert!(grammars.shared.find(&first.key()).is_none());
    assert!(grammars.shared.find(&Source::Schema(json!({"const": 9_999})).key()).is_some());
}

#[test]
fn a_constraint_that_is_given_up_stops_nobody() {
    let grammars = grammars();
    let grammar = grammars.compile(&Source::Regex("a+".into())).unwrap();
    for _ in 0..10 {
        drop(grammar.begin());
    }
    assert_eq!(follow(&grammars, &grammar, "aa"), Fate::May);
}

/// A sum of sums in 1500 ways: what may follow takes long to find out.
pub(super) fn slow() -> Source {
    let ways: Vec<String> = (0..1500).map(|n| format!("e e \"{n}\" e")).collect();
    Source::Lark(format!("start: e\ne: {} | \"a\"\n", ways.join(" | ")))
}

#[test]
fn nobody_waits_long_for_a_grammar() {
    let patient = grammars();
    let first = Source::Regex("a+".into());
    patient.compile(&first).unwrap();
    let grammars = Grammars { shared: patient.shared.clone(), patience: Duration::from_millis(10) };
    let fails = |source: &Source, message: &str| {
        let begun = Instant::now();
        let error = grammars.compile(source).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        begun.elapsed()
    };
    let waited = fails(&slow(), "to make it ready takes longer than the 10ms");
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    fails(&Source::Regex("b+".into()), "others are being made ready");
    // What is there already is found, and in the end what took so long is, too.
    grammars.compile(&first).unwrap();
    patient.compile(&Source::Regex("b+".into())).unwrap();
    grammars.compile(&slow()).unwrap();
}

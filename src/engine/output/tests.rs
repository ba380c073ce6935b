use super::*;
use crate::engine::grammar::Source;
use crate::engine::grammar::tests::{Fate, follow, grammars};
use proptest::prelude::*;
use serde_json::{Value, json};

const TOOLS: [&str; 3] = ["weather", "add", "python"];

fn parser(calls: Calls, opening: Opening, incremental: bool) -> Parser {
    let format = Format { calls, reasons: opening != Opening::Plain, tells_tools: true };
    Parser::new(format, opening, TOOLS.map(String::from).to_vec(), incremental)
}

/// The parts of an answer, joined: text by itself, reasoning in `~`, calls as `name(arguments)`.
fn join(pieces: Vec<Piece>) -> String {
    let (mut joined, mut open) = (String::new(), "");
    for piece in pieces {
        let (text, kind) = match &piece {
            Piece::Reasoning(text) => (text, "~"),
            Piece::Text(text) => (text, ""),
            Piece::Call(name) => (name, "("),
            Piece::Arguments(text) => (text, ")"),
        };
        match (open, kind) {
            ("~", "~") | (")", ")") | ("", "") => joined.push_str(text),
            ("(", ")") => joined.push_str(&format!("({text}")),
            (before, kind) => {
                joined.push_str(match before {
                    ")" => ")",
                    "~" => "~",
                    _ => "",
                });
                joined.push_str(if kind == "~" { "~" } else { "" });
                joined.push_str(text);
            }
        }
        open = kind;
    }
    joined + if open == ")" || open == "~" { open } else { "" }
}

fn parse(mut parser: Parser, text: &str, piece: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut pieces = Vec::new();
    for piece in chars.chunks(piece) {
        pieces.extend(parser.push(&piece.iter().collect::<String>()));
    }
    pieces.extend(parser.finish());
    join(pieces)
}

/// However it comes, and whether arguments are told as they come or not, the parts are the same.
#[track_caller]
fn check(calls: Calls, opening: Opening, text: &str, expected: &str) {
    for incremental in [false, true] {
        for piece in [1, 2, 3, 7, usize::MAX] {
            let parsed = parse(parser(calls, opening, incremental), text, piece);
            assert_eq!(parsed, expected, "{text:?} in pieces of {piece}, incremental: {incremental}");
        }
    }
}

#[test]
fn formats_are_known_by_their_templates() {
    let check = |template, calls, reasons, tells_tools| {
        assert_eq!(Format::of(template), Format { calls, reasons, tells_tools }, "{template}");
    };
    check("{% if tools %}<tool_call>{% endif %}", Calls::Hermes, false, true);
    check("{{ tools }}<tool_call></think>", Calls::Hermes, true, true);
    check("{{ tools }}<|start_header_id|>", Calls::Llama, false, true);
    check("{{ tools }}[TOOL_CALLS][", Calls::Mistral, false, true);
    check("{{ tools }}[TOOL_CALLS]x[ARGS]", Calls::MistralNamed, false, true);
    check("<start_of_turn>", Calls::Json, false, false);
}

#[test]
fn openings_are_known_by_their_prompts() {
    let check = |reasons, prompt, expected| {
        let format = Format { calls: Calls::Hermes, reasons, tells_tools: true };
        assert_eq!(format.opening(prompt), expected, "{prompt}");
    };
    check(true, "<|im_start|>assistant\n", Opening::MayReason);
    check(true, "<|im_start|>assistant\n<think>\n", Opening::Reasoning);
    check(true, "<|im_start|>assistant\n<think>\n\n</think>\n\n", Opening::Plain);
    check(false, "<think>", Opening::Plain);
}

#[test]
fn thoughts_are_split_off() {
    let check = |opening, text, expected| check(Calls::Hermes, opening, text, expected);
    check(Opening::MayReason, "<think>\nWell...\nso.\n</think>\n\nYes.", "~Well...\nso.~Yes.");
    check(Opening::MayReason, "\n<think>a</think>b", "~a~b");
    check(Opening::MayReason, "<think>\n\n</think>\n\nYes.", "Yes.");
    check(Opening::MayReason, "Yes <think>.", "Yes <think>.");
    check(Opening::MayReason, "<thin", "<thin");
    check(Opening::MayReason, " <b>Yes", " <b>Yes");
    check(Opening::Reasoning, "a < b </think> c", "~a < b~c");
    check(Opening::Reasoning, "never </thin", "~never </thin~");
    check(Opening::Plain, "<think>a", "<think>a");
    check(
        Opening::MayReason,
        "<think>\nI call.\n</think>\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>",
        "~I call.~add({})",
    );
}

#[test]
fn hermes_calls() {
    let check = |text: &str, expected| check(Calls::Hermes, Opening::Plain, text, expected);
    let call =
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Z}\\\"ü\", \"n\": [1, {}]}}\n</tool_call>";
    check(call, "weather({\"city\": \"Z}\\\"ü\", \"n\": [1, {}]})");
    check("Just text < that </is> {here}.", "Just text < that </is> {here}.");
    check(&format!("Let me see.\n{call}"), "Let me see.weather({\"city\": \"Z}\\\"ü\", \"n\": [1, {}]})");
    check(
        "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1}}</tool_call>\n<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":2}}</tool_call>\n",
        "add({\"a\":1})add({\"a\":2})",
    );
    // The key of another family, keys in another order, arguments as text or none, a call without its end.
    check("<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"add\"}</tool_call>", "add({\"a\": 1})");
    check("<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", "add({\"a\": 1})");
    check("<tool_call>{\"name\": \"add\"}</tool_call> Done.", "add({}) Done.");
    check("<tool_call>{\"name\": \"add\", \"arguments\": {}}", "add({})");
    // Smaller models forget the marks.
    check("{\"name\": \"add\", \"arguments\": {\"a\": 1}}", "add({\"a\": 1})");
    check("```json\n{\n  \"name\": \"add\",\n  \"arguments\": {}\n}\n```", "add({})");
    check("So:\n```json\n{\"a\": [1]}\n```\n", "So:\n```json\n{\"a\": [1]}\n```\n");
}

#[test]
fn what_is_no_call_stays_text() {
    let same = |calls, text| check(calls, Opening::Plain, text, text);
    same(Calls::Hermes, "<tool_call>\n{\"name\": \"unknown\", \"arguments\": {}}\n</tool_call>");
    same(Calls::Hermes, "<tool_call>\nnothing\n</tool_call>");
    same(Calls::Hermes, "<tool_call>{\"name\": \"add\", \"other\": 1}</tool_call>");
    same(Calls::Hermes, "{\"city\": \"Zug\", \"name\": \"add\"}");
    same(Calls::Hermes, "<tool_call>");
    same(Calls::Hermes, "<tool_ca");
    same(Calls::Llama, "{\"name\": \"Ada\", \"born\": 1815}");
    same(Calls::Llama, "{}");
    same(Calls::Llama, "<function=unknown>{}</function>");
    same(Calls::Mistral, "[TOOL_CALLS]unknown[ARGS]{}");
    same(Calls::Json, "[1, 2, 3]");
    same(Calls::Json, "```python\nprint(1)\n```");
    same(Calls::Json, "```json\n{\"a\": 1}\n``` and more");
}

#[test]
fn a_call_that_is_cut_off_is_text_or_was_told() {
    let text = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": \"b";
    assert_eq!(parse(parser(Calls::Hermes, Opening::Plain, false), text, 3), text);
    assert_eq!(parse(parser(Calls::Hermes, Opening::Plain, true), text, 3), "add({\"a\": \"b)");
}

#[test]
fn llama_calls() {
    let check = |text, expected| check(Calls::Llama, Opening::Plain, text, expected);
    check("{\"name\": \"add\", \"parameters\": {\"a\": \"1\"}}", "add({\"a\": \"1\"})");
    check("\n{\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": 1}}", "add({\"a\": 1})");
    check("{\"type\": \"function\", \"function\": {\"name\": \"add\", \"parameters\": {\"a\": 1}}}", "add({\"a\": 1})");
    check("{\"function\": \"add\", \"parameters\": {\"a\": 1}}", "add({\"a\": 1})");
    check("{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"weather\", \"parameters\": {}}", "add({})weather({})");
    check("<|python_tag|>{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "add({\"a\": 1})");
    check("<|python_tag|>weather.call(city=\"Zug\")", "weather({\"city\":\"Zug\"})");
    check("<|python_tag|>import math\nprint(math.pi)", "python({\"code\":\"import math\\nprint(math.pi)\"})");
    check("{{x <|python_tag|>add(a=1)", "{{xadd({\"a\":1})");
    check("Sure. <function=add>{\"a\": {\"b\": 1}}</function>", "Sure.add({\"a\": {\"b\": 1}})");
}

#[test]
fn mistral_calls() {
    let check = |text, expected| check(Calls::Mistral, Opening::Plain, text, expected);
    check("[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}]", "add({\"a\": 1})");
    check(
        "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {}}, {\"name\": \"weather\", \"arguments\": {}}]",
        "add({})weather({})",
    );
    check("[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]add[CALL_ID]x[ARGS]{}", "add({\"a\": 1})add({})");
    check("[TOOL_CALLS]add{\"a\": 1}", "add({\"a\": 1})");
    check("Well [TOOL", "Well [TOOL");
}

#[test]
fn calls_of_models_without_a_form() {
    let check = |text, expected| check(Calls::Json, Opening::Plain, text, expected);
    check("{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "add({\"a\": 1})");
    check("```json\n{\"name\": \"add\", \"parameters\": {\"a\": 1}}\n```", "add({\"a\": 1})");
    check("[{\"name\": \"add\", \"parameters\": {}}, {\"name\": \"add\"}]", "add({})add({})");
    check(
        "[add(a=1, b=[True, None, 'x\\'y']), weather(city={\"n\": -2.5})]",
        "add({\"a\":1,\"b\":[true,null,\"x'y\"]})weather({\"city\":{\"n\":-2.5}})",
    );
    check("I look.\n```tool_code\nprint(weather(city=\"Zug\"))\n```\n", "I look.weather({\"city\":\"Zug\"})");
}

/// Follows answers under the grammar of a forced call, or of a constrained answer.
#[track_caller]
fn follows(calls: Calls, opening: Opening, wanted: impl Fn(Constrained) -> Source, answers: &[(&str, Fate)]) {
    let grammars = grammars();
    let format = Format { calls, reasons: opening != Opening::Plain, tells_tools: true };
    let source = wanted(Constrained { format, opening, tokenizer: grammars.tokenizer() });
    let grammar = grammars.compile(&source).unwrap_or_else(|error| panic!("{error}: {source:?}"));
    for (answer, expected) in answers {
        assert_eq!(follow(&grammars, &grammar, answer), *expected, "{answer:?} under {source:?}");
    }
}

fn forced(several: bool) -> impl Fn(Constrained) -> Source {
    let city = json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/name"}}, "required": ["city"],
        "additionalProperties": false, "$defs": {"name": {"type": "string"}}});
    move |constrained| {
        let weather = json!({"type": "function", "function": {"name": "weather", "parameters": city}});
        let now = json!({"type": "function", "function": {"name": "n\"w"}});
        constrained.calls(&[&weather, &now], several)
    }
}

#[test]
fn forced_calls_are_written_as_the_family_does() {
    let hermes = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Zug\"}}\n</tool_call>";
    let other = "<tool_call>\n{\"name\": \"n\\\"w\", \"arguments\": {}}\n</tool_call>";
    let answers = [(hermes, Fate::Must), (other, Fate::Must), ("Sure", Fate::Refused(0))];
    follows(Calls::Hermes, Opening::Plain, forced(false), &answers);
    let two = [hermes, other].join("\n");
    follows(Calls::Hermes, Opening::Plain, forced(true), &[(hermes, Fate::May), (&two, Fate::May)]);
    follows(Calls::Hermes, Opening::Plain, forced(false), &[(&two, Fate::Refused(hermes.len()))]);
    let json = "{\"name\": \"weather\", \"parameters\": {\"city\":\"Zug\"}}";
    for calls in [Calls::Llama, Calls::Json] {
        follows(calls, Opening::Plain, forced(true), &[(json, Fate::Must), ("{\"name\": \"x", Fate::Refused(10))]);
    }
    let mistral = "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Zug\"}}]";
    follows(Calls::Mistral, Opening::Plain, forced(true), &[(mistral, Fate::Must)]);
    let named = "[TOOL_CALLS]weather[ARGS]{\"city\": \"Zug\"}";
    follows(Calls::MistralNamed, Opening::Plain, forced(true), &[(named, Fate::May)]);
}

#[test]
fn calls_that_were_begun_are_finished_as_the_family_does() {
    let opened = |several| {
        move |constrained: Constrained| {
            let weather = json!({"function": {"name": "weather", "parameters": {"properties": {"city": {"const": "Zug"}},
                "required": ["city"], "additionalProperties": false}}});
            let (mark, source) = constrained.opened(&[&weather], several).unwrap();
            assert!(["<tool_call>", "[TOOL_CALLS]"].contains(&constrained.tokenizer.decode(&[mark]).as_str()));
            source
        }
    };
    let call = "{\"name\": \"weather\", \"arguments\": {\"city\":\"Zug\"}}";
    let (lines, close) = (format!("\n{call}\n</tool_call>"), format!("{call}</tool_call>"));
    let other = "\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Bern\"}}";
    let answers = [
        (&*lines, Fate::Must),
        (&close, Fate::Must),
        (call, Fate::Unfinished),
        (other, Fate::Refused(other.len() - 7)),
    ];
    follows(Calls::Hermes, Opening::Plain, opened(true), &answers);
    let (one, two) = (format!("[{call}]"), format!("[{call}, {call}]"));
    follows(Calls::Mistral, Opening::Plain, opened(true), &[(&one, Fate::Must), (&two, Fate::Must)]);
    follows(
        Calls::Mistral,
        Opening::Plain,
        opened(false),
        &[(&one, Fate::Must), (&two, Fate::Refused(call.len() + 1))],
    );
    follows(Calls::MistralNamed, Opening::Plain, opened(true), &[("weather[ARGS]{\"city\":\"Zug\"}", Fate::Must)]);
    // Nothing tells their calls from text before they are over.
    for calls in [Calls::Llama, Calls::Json] {
        let format = Format { calls, reasons: false, tells_tools: true };
        let grammars = grammars();
        let constrained = Constrained { format, opening: Opening::Plain, tokenizer: grammars.tokenizer() };
        assert_eq!(constrained.opened(&[], true), None);
    }
}

#[test]
fn what_is_forced_comes_after_the_thought() {
    let schema = |constrained: Constrained| constrained.behind_thought(Source::Schema(json!({"type": "boolean"})));
    let answers = [
        ("<think>\nWell, {} </th\n</think>\n\ntrue", Fate::Must),
        ("true", Fate::Must),
        ("<think>a", Fate::Unfinished),
        ("Well", Fate::Refused(0)),
        ("<think>a</think>\n\nWell", Fate::Refused(18)),
    ];
    follows(Calls::Hermes, Opening::MayReason, schema, &answers);
    follows(Calls::Hermes, Opening::Reasoning, schema, &[("a\n</think>\n\ntrue", Fate::Must)]);
    follows(Calls::Hermes, Opening::Plain, schema, &[("<think>", Fate::Refused(0)), ("true", Fate::Must)]);
    let regex = |constrained: Constrained| constrained.behind_thought(Source::Regex("^a/b$".into()));
    follows(Calls::Hermes, Opening::MayReason, regex, &[("<think>a</think>\n\na/b", Fate::Must)]);
    let call = "<think>\nI call.\n</think>\n\n<tool_call>\n{\"name\": \"n\\\"w\", \"arguments\": {}}\n</tool_call>";
    follows(Calls::Hermes, Opening::MayReason, forced(false), &[(call, Fate::Must)]);
}

#[test]
fn tools_are_told_where_the_template_cannot() {
    let tools = [json!({"type": "function", "function": {"name": "add"}})];
    let call = json!({"id": "1", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "1 + 1?"}),
        json!({"role": "assistant", "content": "", "tool_calls": [call, call]}),
        json!({"role": "tool", "tool_call_id": "1", "content": "2"}),
        json!({"role": "tool", "tool_call_id": "1", "content": "2"}),
    ];
    let format = Format { calls: Calls::Json, reasons: false, tells_tools: false };
    let told = format.adapt(messages.to_vec(), &tools);
    let roles: Vec<&Value> = told.iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    let text = |at: usize| told[at]["content"].as_str().unwrap();
    assert!(text(1).contains("{\"name\":\"add\"}") && text(1).ends_with("\n\n1 + 1?"), "{}", text(1));
    assert_eq!(text(2), "{\"name\":\"add\",\"parameters\":{\"a\":1}}\n{\"name\":\"add\",\"parameters\":{\"a\":1}}");
    assert_eq!(text(3), "```tool_output\n2\n```\n```tool_output\n2\n```");
}

#[test]
fn mistrals_calls_have_short_numbers() {
    let format = Format { calls: Calls::Mistral, reasons: false, tells_tools: true };
    let messages = vec![
        json!({"role": "assistant", "tool_calls": [{"id": "call_0123456789"}, {"id": "abcdefghi"}]}),
        json!({"role": "tool", "tool_call_id": "call_0123456789"}),
    ];
    let adapted = format.adapt(messages, &[]);
    let id = adapted[0]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    assert_eq!(adapted[1]["tool_call_id"], id);
    assert_eq!(adapted[0]["tool_calls"][1]["id"], "abcdefghi");
}

proptest! {
    #[test]
    fn any_answer_comes_out_whole(
        text in r#"(<tool_call>|</tool_call>|\{"name": "add", "arguments": |\{|\}|"|\[TOOL_CALLS\]|\[|\]|<think>|</think>|```json|```|[a;, \n]){0,12}"#,
        piece in 1usize..5,
    ) {
        for calls in [Calls::Hermes, Calls::Llama, Calls::Mistral, Calls::Json] {
            for opening in [Opening::Plain, Opening::MayReason] {
                let parsed = parse(parser(calls, opening, false), &text, piece);
                prop_assert_eq!(&parsed, &parse(parser(calls, opening, false), &text, usize::MAX));
                // What is neither a call nor a thought is all there.
                if !parsed.contains("add(") && opening == Opening::Plain {
                    prop_assert_eq!(parsed, text.as_str());
                }
            }
        }
    }
}

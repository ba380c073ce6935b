//! The same text as Python's Jinja gives, byte for byte: `tests/parity/templates.py` writes what that is.

use super::{Chat, Error, Template};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Expectations {
    chats: BTreeMap<String, Asked>,
    templates: Vec<Rendered>,
}

#[derive(Deserialize)]
struct Asked {
    messages: Vec<Json>,
    tools: Vec<Json>,
    add_generation_prompt: bool,
    variables: Map<String, Json>,
}

#[derive(Deserialize)]
struct Rendered {
    name: String,
    source: String,
    /// By the name of the chat.
    expected: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Text(String),
    /// By the template itself.
    Raises(String),
    /// In Python: then there is nothing to agree with.
    Fails(String),
}

/// Compares; returns how many chats agreed.
fn agree(expectations: &str) -> usize {
    let Expectations { chats, templates } = serde_json::from_str(expectations).unwrap();
    let (mut agreed, mut failures) = (0, Vec::new());
    for Rendered { name, source, expected } in templates {
        let template = Template::new(&source, None, "<s>".into(), "</s>".into());
        for (chat, expected) in expected {
            let Asked { messages, tools, add_generation_prompt, variables } = &chats[&chat];
            let add_generation_prompt = *add_generation_prompt;
            let got = template.render(&Chat { messages, tools, add_generation_prompt, variables: Some(variables) });
            match (expected, got) {
                (Expected::Text(expected), Ok(got)) if got == expected => agreed += 1,
                (Expected::Raises(message), Err(Error::Request(got))) if got.ends_with(&message) => agreed += 1,
                (Expected::Fails(problem), _) => println!("{name}, {chat}: fails in Python: {problem}"),
                (Expected::Text(expected), Ok(got)) => {
                    let same = got.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
                    let around = |text: &str| {
                        String::from_utf8_lossy(&text.as_bytes()[same.saturating_sub(40)..])
                            .chars()
                            .take(120)
                            .collect::<String>()
                    };
                    failures.push(format!(
                        "{name}, {chat}, byte {same}:\n  got      {:?}\n  expected {:?}",
                        around(&got),
                        around(&expected)
                    ));
                }
                (Expected::Text(_), Err(error)) => failures.push(format!("{name}, {chat}: {error}")),
                (Expected::Raises(message), got) => failures.push(format!("{name}, {chat}: {got:?}, not {message:?}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} differ, {agreed} agree:\n{}", failures.len(), failures.join("\n"));
    agreed
}

#[test]
fn agrees_with_jinja2_on_what_templates_are_made_of() {
    assert!(agree(include_str!("../../../tests/fixtures/parity/templates.json")) > 30);
}

#[test]
#[ignore = "needs SOVEREIGN_TEMPLATES, what tests/parity/templates.py writes: see `make parity`"]
fn agrees_with_jinja2_on_the_templates_of_models() {
    let path = std::env::var("SOVEREIGN_TEMPLATES").expect("SOVEREIGN_TEMPLATES is not set");
    let agreed = agree(&std::fs::read_to_string(path).unwrap());
    println!("{agreed} chats agree");
    assert!(agreed > 900);
}

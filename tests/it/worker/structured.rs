//! Answers that follow a schema, an expression or a grammar. The model is a base one that was taught none of this.

use super::{GEMMA, PROMPT, text};
use serde_json::{Value, json};

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false
    })
}

#[track_caller]
fn check_person(answer: &Value) {
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop", "{answer}");
    let person: Value = serde_json::from_str(text(answer)).unwrap();
    let keys: Vec<&String> = person.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["name", "age", "tags"]);
    assert!((1..=20).contains(&person["name"].as_str().unwrap().chars().count()), "{person}");
    assert!(person["age"].as_u64().is_some_and(|age| age <= 150), "{person}");
    assert!(person["tags"].as_array().unwrap().iter().all(|tag| tag == "a" || tag == "b"), "{person}");
}

#[tokio::test]
async fn answers_follow_a_schema() {
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": person()}});
    let prompt = "A person as JSON: ";
    let greedy = json!({"response_format": format, "max_tokens": 200});
    let answer = GEMMA.complete(prompt, greedy.clone()).await;
    check_person(&answer);
    // At any temperature, for any seed.
    for seed in 0..5 {
        let wild = json!({"response_format": format, "max_tokens": 200, "temperature": 1.5, "seed": seed});
        check_person(&GEMMA.complete(prompt, wild).await);
    }
    let mut body = json!({"prompt": prompt, "temperature": 0});
    body.as_object_mut().unwrap().extend(greedy.as_object().unwrap().clone());
    let pieces = GEMMA.stream("/v1/completions", body).await;
    assert_eq!(pieces.iter().map(text).collect::<String>(), text(&answer));
}

#[tokio::test]
async fn answers_follow_choices_expressions_and_grammars() {
    let check = async |fields: Value, expected: &[&str]| {
        let answer = GEMMA.complete(PROMPT, fields.clone()).await;
        assert!(expected.contains(&text(&answer)), "{fields}: {answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{fields}");
    };
    check(json!({"structured_outputs": {"choice": [" Paris", " Rome"]}}), &[" Rome"]).await;
    check(json!({"guided_regex": " [A-Z]ome"}), &[" Rome"]).await;
    check(json!({"grammar": "root ::= \" \" (\"Rome\" | \"Oslo\")"}), &[" Rome"]).await;
    check(json!({"grammar": "start: \" \" CITY\nCITY: \"Rome\" | \"Oslo\"\n"}), &[" Rome"]).await;
    check(json!({"json_schema": {"enum": [true, false]}}), &["true", "false"]).await;
}

#[tokio::test]
async fn log_probabilities_are_the_models_own() {
    let fields = json!({"guided_choice": [" Paris"], "logprobs": 1});
    let answer = GEMMA.complete(PROMPT, fields).await;
    assert_eq!(text(&answer), " Paris");
    let logprobs = &answer["choices"][0]["logprobs"];
    // The model would have said something else, and says how improbable this was.
    assert!(logprobs["token_logprobs"][0].as_f64().unwrap() < -1.0, "{logprobs}");
    assert!(logprobs["top_logprobs"][0].get(" Rome").is_some(), "{logprobs}");
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_by_its_place() {
    let check = async |fields: Value, param: Option<&str>, said: &str| {
        let mut body = json!({"prompt": "a", "max_tokens": 4});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let response = GEMMA.post("/v1/completions", &body).await;
        let status = response.status().as_u16();
        let error: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!((status, error["error"]["param"].as_str()), (400, param), "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(said), "{error}");
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let place = "response_format.json_schema.schema.properties.a";
    check(json!({ "response_format": format }), Some(place), "uniqueItems").await;
    check(json!({"guided_regex": "a("}), Some("guided_regex"), "unclosed").await;
    check(json!({"grammar": "root ::= ["}), Some("grammar"), "line 1").await;
    let text = format!("{}{}", "{\"items\":".repeat(120), "{}".to_string() + &"}".repeat(120));
    check(json!({ "json_schema": text }), Some("json_schema"), "nested").await;
}

#[tokio::test]
async fn a_body_of_ten_thousand_levels_is_refused() {
    let schema = format!("{}{{}}{}", "{\"items\":".repeat(10_000), "}".repeat(10_000));
    let body = format!("{{\"prompt\": \"a\", \"json_schema\": {schema}}}");
    let response = GEMMA.client().post(GEMMA.address.url("/v1/completions")).body(body).send().await.unwrap();
    assert_eq!(response.status(), 400);
    let text = response.text().await.unwrap();
    assert!(text.contains("nested deeper"), "{text}");
}

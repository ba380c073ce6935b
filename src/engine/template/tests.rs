use super::*;
use serde_json::json;
use std::time::{Duration, Instant};

fn template(source: &str) -> Template {
    Template::new(source, None, "<s>".into(), "</s>".into())
}

#[track_caller]
fn check(source: &str, messages: Json, expected: &str) {
    let messages = messages.as_array().unwrap().clone();
    let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
    assert_eq!(template(source).render(&chat).unwrap(), expected);
}

fn fails(source: &str, messages: Json) -> Error {
    let messages = messages.as_array().unwrap().clone();
    template(source).render(&Chat { messages: &messages, ..Chat::default() }).unwrap_err()
}

#[test]
fn chatml_is_rendered() {
    check(
        CHATML,
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <there> & 'you'"}]),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <there> & 'you'<|im_end|>\n<|im_start|>assistant\n",
    );
}

#[test]
fn blocks_are_trimmed_as_in_transformers() {
    check(
        "{{ bos_token }}\n{% for message in messages %}\n    {% if message.role == 'user' %}\n{{ message.content }}{{ eos_token }}\n    {% endif %}\n{% endfor %}\nend\n",
        json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        "<s>\na</s>\nb</s>\nend",
    );
}

#[test]
fn generation_blocks_are_passed_through() {
    check(
        "a {%- generation %} b {% endgeneration -%} c{% if true %}d{% endif %}",
        json!([]),
        "a b c{d".replace('{', "").as_str(),
    );
}

#[test]
fn python_is_spoken() {
    let messages = json!([{"role": "user", "content": " a,b "}]);
    let check = |source, expected| check(source, messages.clone(), expected);
    check("{{ messages[0].content.strip().split(',')[1] }}", "b");
    check("{{ messages[0].get('name', 'nobody') }} {{ messages[0]['content'].startswith(' a') }}", "nobody True");
    check("{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}", "role=user;content= a,b ;");
    check("{{ none }} {{ [1, 'it\\'s', {'k': false}] }}", "None [1, \"it's\", {'k': False}]");
    check("{% for n in [1, 2, 3] %}{% if n == 2 %}{% continue %}{% endif %}{{ n }}{% endfor %}", "13");
    check("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1");
    check("{{ strftime_now('%Y') | length }}", "4");
}

#[test]
fn tojson_escapes_nothing_and_is_spaced_like_python() {
    let messages = json!([{"b": [1, 2.5, "é<&>'\"\n"], "a": {}}]);
    let check = |source, expected| check(source, messages.clone(), expected);
    check("{{ messages[0] | tojson }}", "{\"b\": [1, 2.5, \"é<&>'\\\"\\n\"], \"a\": {}}");
    check("{{ messages[0].b[:2] | tojson(indent=2) }}", "[\n  1,\n  2.5\n]");
    check("{{ {'b': 1, 'a': none} | tojson(separators=(',', ':'), sort_keys=true) }}", "{\"a\":null,\"b\":1}");
}

#[test]
fn parts_of_text_become_text_and_others_are_refused() {
    let source = "{{ messages[0].content }}";
    check(source, json!([{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]), "ab");
    let error = fails(source, json!([{"content": [{"type": "image_url", "image_url": {}}]}]));
    assert!(
        matches!(&error, Error::Request(message) if message.contains("messages[0]") && message.contains("image_url"))
    );
    assert!(matches!(fails(source, json!(["text"])), Error::Request(_)));
}

#[test]
fn arguments_of_calls_are_objects_or_text_as_the_template_wants() {
    let call = json!([{"role": "assistant", "content": null, "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}
    ]}]);
    let function = "messages[0].tool_calls[0].function";
    check(&format!("{{{{ {function}.arguments | tojson }}}}"), call.clone(), "{\"x\": 1}");
    check(&format!("{{{{ {function}.name + {function}.arguments }}}}"), call, "f{\"x\": 1}");
}

#[test]
fn tools_and_variables_reach_the_template() {
    let tools = [json!({"type": "function", "function": {"name": "f"}})];
    let variables = json!({"enable_thinking": false});
    let chat = |tools| Chat { tools, variables: variables.as_object(), ..Chat::default() };
    let source = "{{ tools is none }} {{ enable_thinking }} {% if tools %}{{ tools[0].function.name }}{% endif %}";
    assert_eq!(template(source).render(&chat(&tools)).unwrap(), "False False f");
    assert_eq!(template(source).render(&chat(&[])).unwrap(), "True False ");
    let two = Template::new("chat", Some("with {{ tools | length }}"), String::new(), String::new());
    assert_eq!(two.render(&chat(&tools)).unwrap(), "with 1");
    assert_eq!(two.render(&chat(&[])).unwrap(), "chat");
}

#[test]
fn what_a_template_raises_is_the_requests_fault() {
    let error = fails("{% if true %}{{ raise_exception('roles must alternate') }}{% endif %}", json!([]));
    assert!(matches!(&error, Error::Request(message) if message.ends_with("roles must alternate")), "{error}");
}

#[test]
fn broken_templates_say_where() {
    for source in ["a\n{% if %}", "a\n{{ 'x' | no_such_filter }}", "a\n{{ nobody.name.first }}"] {
        let error = fails(source, json!([]));
        assert!(matches!(&error, Error::Unsupported(message) if message.contains("line 2")), "{error}");
    }
}

#[test]
fn endless_and_greedy_templates_are_stopped() {
    let nested =
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
    for source in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        nested,
        &nested.replace("{{ ns.x }}", "{{ ns.x | tojson }}"),
    ] {
        // The least of some tries, as the machine does other things too.
        let tries = (0..5).map(|_| {
            let begun = Instant::now();
            let error = fails(source, json!([]));
            assert!(matches!(&error, Error::Request(_) | Error::Unsupported(_)), "{error}");
            begun.elapsed()
        });
        let took = tries.min().unwrap();
        assert!(took < Duration::from_millis(100), "{source} took {took:?}");
    }
}

#[test]
fn pythons_insides_are_out_of_reach() {
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self._TemplateReference__context }}{{ self.__init__.x.y }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('id') }}",
        "{{ range.__self__.__import__('os') }}",
    ] {
        let error = fails(source, json!([]));
        assert!(matches!(&error, Error::Unsupported(_)), "{source}: {error}");
    }
}

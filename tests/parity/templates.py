"""Renders chats with Python's Jinja as `apply_chat_template` does: templates.py TEMPLATES_FOLDER OUT

OUT becomes JSON for the tests of `src/engine/template`. The templates of other people's models go there alone; what is of
our own wording is also kept in tests/fixtures/parity/templates.json, for the tests that run without Python.
"""

import copy
import json
import sys
from datetime import datetime
from pathlib import Path

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

FIXTURE = Path(__file__).parent.parent / "fixtures" / "parity" / "templates.json"
BOS, EOS = "<s>", "</s>"

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'The weather: "now" & <soon>, in °C.',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Größe egal"},
                    "days": {"type": "integer", "default": None, "minimum": 1},
                    "exact": {"type": "boolean", "default": False},
                    "ratio": {"type": "number", "enum": [0.5, 1.0, 1e-7]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}},
]


def message(role, content, **more):
    return {"role": role, "content": content} | more


def call(name, arguments, id):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


USER = message("user", "What is 1 < 2 & 'so' \"on\"?")
SYSTEM = message("system", "  Be brief.\nAlways.  ")
CALLS = message("assistant", "", tool_calls=[call("get_weather", {"city": "Zürich", "days": 2, "exact": True, "ratio": 0.5}, "abcdefgh1")])
TWO = message("assistant", "Let me see.", tool_calls=[call("get_weather", {"city": "Zug"}, "abcdefgh1"), call("now", {}, "abcdefgh2")])
RESULT = message("tool", '{"sky": "clear"}', tool_call_id="abcdefgh1", name="get_weather")

CHATS = {
    "one": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [USER, message("assistant", " Yes. \n"), message("user", "Why?\n\n🦙 ")]},
    "system and turns": {"messages": [SYSTEM, USER, message("assistant", "Yes."), message("user", "Why?")]},
    "whole": {"messages": [USER, message("assistant", "Yes.")], "add_generation_prompt": False},
    "tools": {"messages": [SYSTEM, USER], "tools": TOOLS},
    "tools alone": {"messages": [USER], "tools": TOOLS},
    "call": {"messages": [SYSTEM, USER, CALLS, RESULT], "tools": TOOLS},
    "call and turn": {"messages": [USER, CALLS, RESULT, message("assistant", "Clear."), message("user", "Thanks!")], "tools": TOOLS},
    "two calls": {"messages": [USER, TWO, RESULT, RESULT | {"tool_call_id": "abcdefgh2", "content": "12:00", "name": "now"}], "tools": TOOLS},
    "thought": {"messages": [USER, message("assistant", "Yes.", reasoning_content="Hm.\nYes."), message("user", "Why?")]},
    "thought and call": {"messages": [USER, CALLS | {"reasoning_content": "I look."}, RESULT], "tools": TOOLS},
    "written thought": {"messages": [USER, message("assistant", "<think>\nHm.\n</think>\n\nYes."), message("user", "Why?")]},
    "no thoughts": {"messages": [USER], "variables": {"enable_thinking": False}},
    "thoughts": {"messages": [USER], "variables": {"enable_thinking": True}},
}

# What templates are made of, in our own words.
OWN = {
    "loops": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem.role if loop.previtem }} {{ m.role }}\n{% endfor %}",
    "slices": "{{ messages[0].content[2:9] }}|{{ messages[-1].content[:-1] }}|{{ messages[::-1] | map(attribute='role') | list }}|{{ 'abc'[::-1] }}",
    "tests": "{{ tools is none }} {{ tools is defined }} {{ x is defined }} {{ messages is iterable }} {{ none is iterable }} {{ 'a' is iterable }} {{ messages[0] is mapping }} {{ messages[0].content is string }} {{ 3 is number }} {{ 'role' in messages[0] }} {{ 'x' not in 'abc' }} {{ 1.0 is float }} {{ true is boolean }}",
    "strings": "{{ ' aXbX '.strip().split('X') }} {{ 'abc'.upper() }} {{ 'a-b-c'.replace('-', '+', 1) }} {{ 'xxabxx'.strip('x') }} {{ 'abab'.find('b') }} {{ 'Abc'.startswith(('x', 'A')) }} {{ ', '.join(['a', 'b']) }} {{ 'ab' 'cd' }} {{ 'é' | length }} {{ 'hello world'.title() }} {{ 'abc'.lstrip('a').rstrip('c') }}",
    "filters": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | join(',') }} {{ ({'b': 1, 'a': 2} | dictsort | first)[0] }} {{ ({'b': 1} | items | list)[0][1] }} {{ [3, 1, 2] | sort | first }} {{ ' a ' | trim | upper }} {{ none | default('d') }} {{ x | default('d') }} {{ '' | default('d', true) }} {{ [1, 2] | last }} {{ 'a\nb' | indent(2) }} {{ [1, 2, 2] | unique | list }} {{ 3.7 | int }} {{ '5' | int + 1 }} {{ 7 | string + 'x' }}",
    "numbers": "{{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ 7 / 2 }} {{ 1e3 }} {{ 1.50 }} {{ -3 | abs }} {{ 10000000000 * 10 }} {{ 0.1 + 0.2 }} {{ 1.0 }} {{ [1.0, 1e-7, 1e16, 2.5e20] }}",
    "namespaces": "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{% endif %}{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.s }}",
    "macros": "{% macro tag(name, inner='-') %}<{{ name }}>{{ inner }}</{{ name }}>{% endmacro %}{{ tag('a') }}{{ tag('b', inner=tag('c')) }}",
    "control": "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% else %}none{% endfor %}{% for m in [] %}{% else %}none{% endfor %}",
    "spaces": "a\n  {% if true %}  \nb\n  {% endif %}\n  c {%- if true %} d {% endif -%}  e\n{# note #}\nf{{ '\n' }}\n",
    "json": "{{ messages | tojson }}\n{{ tools | tojson(indent=2) }}\n{{ {'ü': '<&>\\u2028', 'n': none} | tojson }}\n{{ [1.0, 1e-7, 1e22, 123456789012, true] | tojson(separators=(',', ':')) }}\n{{ 'é🦙' | tojson(ensure_ascii=True) }}",
    "python": "{{ messages[0] }} {{ [none, true, 'it\\'s', \"q\\\"\", 1.0] }} {{ {'a': [1, {'b': 'c\\n'}]} }}",
    "dictionaries": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].get('none', 'x') }}{{ messages[0].keys() | list }}{{ dict(a=1).a }}",
    "conditions": "{{ 'a' if messages else 'b' }}{{ 'a' if [] }}{{ x or 'c' }}{{ '' or none }}{{ not x }}{{ 1 < 2 and 2 != 3 }}",
    "raise": "{% if messages[0].role == 'user' %}{{ raise_exception('No: ' + messages[0].role) }}{% endif %}x",
}


# Where we know better: this one escapes the tools as HTML, which nobody can have meant.
SKIPPED = {"meetkai-functionary-medium-v3.1"}


class Generation(Extension):
    """`{% generation %}` as a block like any other."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Raised(Exception):
    pass


def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return env


def with_objects(messages):
    """Hugging Face's convention: arguments are objects."""
    messages = copy.deepcopy(messages)
    for one in messages:
        for call in one.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


def render(template, chat):
    last = None
    for messages in with_objects(chat["messages"]), chat["messages"]:
        try:
            text = template.render(
                messages=messages,
                tools=chat.get("tools"),
                documents=None,
                add_generation_prompt=chat.get("add_generation_prompt", True),
                bos_token=BOS,
                eos_token=EOS,
                **chat.get("variables", {}),
            )
            return {"text": text}
        except Raised as error:
            return {"raises": str(error)}
        except Exception as error:
            last = {"fails": str(error)}
    return last


def rendered(sources, chats):
    for name, source in sources.items():
        template = environment().from_string(source)
        answers = {}
        for chat in chats:
            # Where the template knows of no tools, we tell of them in our own words.
            of_tools = "tools" in CHATS[chat] or any("tool_calls" in one for one in CHATS[chat]["messages"])
            if not of_tools or "tools" in source and name not in SKIPPED:
                answers[chat] = render(template, CHATS[chat])
        yield {"name": name, "source": source, "expected": answers}


def write(path, sources, names):
    templates = list(rendered(sources, names))
    chats = {name: {"add_generation_prompt": True, "tools": [], "variables": {}} | CHATS[name] for name in names}
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in templates)
    path.write_text(f'{{"chats": {json.dumps(chats, ensure_ascii=False)},\n"templates": [\n{rows}\n]}}\n')
    json.loads(path.read_text())
    print(f"{path}: {len(templates)} templates")


folder, out = Path(sys.argv[1]), Path(sys.argv[2])
others = {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}
write(out, others, list(CHATS))
write(FIXTURE, OWN, ["one", "system and turns", "tools"])

"""Structured output and tool calls, as the `openai` SDK reads them."""

import json

import openai
import pytest
from pydantic import BaseModel
from test_openai import CODER

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time of day."}}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


class Capital(BaseModel):
    country: str
    capital: str
    inhabitants: int


def test_parsed_answers(chat):
    """The SDK makes a schema of the class, and an instance of the answer."""
    answer = chat.chat.completions.parse(
        model=CODER,
        messages=[{"role": "user", "content": "Tell me of France's capital as JSON."}],
        response_format=Capital,
        temperature=0,
        max_tokens=80,
    )
    [choice] = answer.choices
    assert (choice.message.parsed.capital, choice.finish_reason) == ("Paris", "stop")


def test_json_object(chat):
    answer = chat.chat.completions.create(
        model=CODER,
        messages=[{"role": "user", "content": "A short JSON object with the key a."}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=80,
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_schemas_are_refused_by_place(chat):
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError) as error:
        chat.chat.completions.create(
            model=CODER,
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
    assert error.value.param == "response_format.json_schema.schema.properties.a"


def called(choice):
    """The one call of a choice: its name and arguments."""
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert (call.type, call.id[:5]) == ("function", "call_")
    return call.function.name, json.loads(call.function.arguments)


def test_tools_are_called(chat):
    ask = {"model": CODER, "messages": QUESTION, "tools": [WEATHER, TIME], "temperature": 0, "max_tokens": 80}
    for choice in "auto", "required", {"type": "function", "function": {"name": "get_weather"}}:
        answer = chat.chat.completions.create(tool_choice=choice, parallel_tool_calls=False, **ask)
        name, arguments = called(answer.choices[0])
        assert (name, arguments["city"]) == ("get_weather", "Paris")
        assert answer.choices[0].message.content is None
    named = {"type": "function", "function": {"name": "get_time"}}
    answer = chat.chat.completions.create(tool_choice=named, **ask)
    assert called(answer.choices[0])[0] == "get_time"
    answer = chat.chat.completions.create(tool_choice="none", **ask)
    assert answer.choices[0].message.tool_calls is None


def test_calls_are_streamed(chat):
    """The SDK's assembly of the pieces is what comes at once."""
    ask = {"model": CODER, "messages": QUESTION, "tools": [WEATHER], "temperature": 0, "max_tokens": 80}
    whole = called(chat.chat.completions.create(tool_choice="required", **ask).choices[0])
    with chat.chat.completions.stream(tool_choice="required", **ask) as stream:
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        assert called(stream.get_final_completion().choices[0]) == whole
    assert len(pieces) > 3


def test_results_go_back(chat):
    ask = {"model": CODER, "tools": [WEATHER], "temperature": 0, "max_tokens": 60}
    first = chat.chat.completions.create(messages=QUESTION, tool_choice="required", parallel_tool_calls=False, **ask)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"temperature": 17, "sky": "clear"}'}
    second = chat.chat.completions.create(messages=[*QUESTION, message, result], **ask)
    assert "17" in second.choices[0].message.content

"""`sovereign worker` alone, as the `openai` SDK sees it."""

import openai
import pytest

CODER = "qwen2.5-coder-1.5b-instruct"
GEMMA = "gemma-3-270m"
QUESTION = [
    {"role": "system", "content": "You answer with one word."},
    {"role": "user", "content": "What is the capital of France?"},
]


def test_models(base):
    assert [model.id for model in base.models.list()] == [GEMMA]
    assert base.models.retrieve(GEMMA).owned_by == "sovereign"
    with pytest.raises(openai.NotFoundError) as error:
        base.models.retrieve("gpt-9")
    assert error.value.code == "model_not_found"


def test_chat(chat):
    answer = chat.chat.completions.create(model=CODER, messages=QUESTION, temperature=0, max_completion_tokens=12)
    [choice] = answer.choices
    assert "Paris" in choice.message.content
    assert (choice.finish_reason, choice.message.role, answer.object) == ("stop", "assistant", "chat.completion")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_chat_stream(chat):
    stream = chat.chat.completions.create(
        model=CODER,
        messages=QUESTION,
        temperature=0,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (chunks[-1].choices, chunks[-2].choices[0].finish_reason) == ([], "stop")
    assert chunks[-1].usage.completion_tokens > 0


def test_chat_stream_helper(chat):
    """The SDK's own assembly of a stream must come to what it would have got at once."""
    with chat.chat.completions.stream(model=CODER, messages=QUESTION, temperature=0, max_tokens=12) as stream:
        assembled = stream.get_final_completion()
    assert "Paris" in assembled.choices[0].message.content


def test_chat_logprobs(chat):
    answer = chat.chat.completions.create(
        model=CODER, messages=QUESTION, temperature=0, max_tokens=2, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens)
    assert bytes(tokens[0].bytes).decode() == tokens[0].token


def test_leaving_a_stream(chat):
    """Whoever leaves frees the slot: afterwards there is room for as many as before."""
    for _ in range(4):
        stream = chat.chat.completions.create(
            model=CODER, messages=[{"role": "user", "content": "Count to a thousand."}], stream=True
        )
        next(iter(stream))
        stream.close()
    answer = chat.chat.completions.create(model=CODER, messages=QUESTION, max_tokens=1, timeout=60)
    assert answer.usage.completion_tokens == 1


def test_completions(base):
    answer = base.completions.create(
        model=GEMMA, prompt=["1 2 3 4", "a b c d"], temperature=0, max_tokens=4, n=2, logprobs=5, stop=["\n"]
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    first, second, third, _ = answer.choices
    assert first.text == second.text != third.text
    assert len(first.logprobs.tokens) == len(first.logprobs.token_logprobs) == len(first.logprobs.text_offset)
    assert all(len(top) == 5 for top in first.logprobs.top_logprobs)


def test_completions_stream(base):
    whole = base.completions.create(model=GEMMA, prompt="1 2 3 4", temperature=0, max_tokens=6)
    stream = base.completions.create(model=GEMMA, prompt="1 2 3 4", temperature=0, max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 99}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["1", "2", "3", "4", "5"]}, "stop"),
        ({"suffix": "x"}, "suffix"),
        ({"extra_body": {"top_k": "many"}}, "top_k"),
    ],
)
def test_wrong_fields(base, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        base.completions.create(model=GEMMA, prompt="a", **fields)
    assert (error.value.param, error.value.type) == (param, "invalid_request_error")


def test_context_length(base):
    with pytest.raises(openai.BadRequestError) as error:
        base.completions.create(model=GEMMA, prompt="word " * 600)
    assert error.value.code == "context_length_exceeded"


def test_unknown_fields_pass(base):
    answer = base.completions.create(model=GEMMA, prompt="a", max_tokens=1, extra_body={"of_the_future": {"x": 1}})
    assert answer.usage.completion_tokens == 1

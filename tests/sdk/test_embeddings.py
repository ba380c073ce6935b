"""Embeddings, as the `openai` SDK asks for them: in base64 unless told otherwise."""

import openai
import pytest

MINILM = "all-minilm-l6-v2"


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def test_similar_texts_are_near(embeddings):
    texts = ["How do I reset my password?", "I forgot my login credentials.", "The cat sleeps on the sofa."]
    answer = embeddings.embeddings.create(model=MINILM, input=texts)
    question, similar, other = [row.embedding for row in answer.data]
    assert len(question) == 384 and abs(dot(question, question) - 1) < 1e-4
    assert dot(question, similar) > 0.4 > 0.2 > dot(question, other)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 20


def test_both_encodings_and_fewer_dimensions(embeddings):
    def ask(**fields):
        return embeddings.embeddings.create(model=MINILM, input="Paris", **fields).data[0].embedding

    assert ask(encoding_format="float") == pytest.approx(ask(), abs=1e-6)
    short = ask(dimensions=64)
    assert len(short) == 64 and abs(dot(short, short) - 1) < 1e-4


def test_truncation_is_told(embeddings):
    texts = ["word " * 600, "short"]
    answer = embeddings.embeddings.with_raw_response.create(model=MINILM, input=texts)
    assert answer.headers["x-sovereign-truncated"] == "1"
    with pytest.raises(openai.BadRequestError) as error:
        embeddings.embeddings.create(model=MINILM, input=texts, extra_body={"truncate": False})
    assert error.value.code == "context_length_exceeded"


def test_each_model_is_there_for_one_thing(embeddings, base):
    with pytest.raises(openai.BadRequestError) as error:
        embeddings.chat.completions.create(model=MINILM, messages=[{"role": "user", "content": "Hi"}])
    assert "/v1/embeddings" in str(error.value)
    with pytest.raises(openai.BadRequestError) as error:
        base.embeddings.create(model="gemma-3-270m", input="Hi")
    assert error.value.code == "unsupported_model"

"""Compares the embeddings of `sovereign worker` with those of sentence-transformers, and tokens with its tokenizer's:

    minilm.py BINARY FOLDER FILE     FOLDER as sentence-transformers keeps the model, FILE made of it by bert_gguf.py
    minilm.py --write FOLDER         writes tests/fixtures/parity/minilm.json, for the tests that run without either
"""

import base64
import json
import sys
from pathlib import Path

import numpy
from cases import TEXTS, random_texts
from sentence_transformers import SentenceTransformer
from sentences import SENTENCES
from tokenizers import Tokenizer
from worker import Worker

FIXTURE = Path(__file__).parent.parent / "fixtures" / "parity" / "minilm.json"
FROZEN = 40
COSINE = 0.9999
# Texts in a thousand that may differ: Unicode has put some characters into other categories since the tokenizers
# library's tables were made.
RECLASSIFIED = 1


def reference(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return SentenceTransformer(str(folder), device="cpu"), lambda text: tokenizer.encode(text).ids


def freeze(folder):
    model, tokens = reference(folder)
    # Some of each kind.
    sentences = SENTENCES[:: len(SENTENCES) // FROZEN]
    vectors = model.encode(sentences, normalize_embeddings=True).astype("<f2")
    rows = [{"text": text, "tokens": tokens(text), "vector": base64.b64encode(vector).decode()} for text, vector in zip(sentences, vectors)]
    rows += [{"text": text, "tokens": tokens(text)} for text in SENTENCES + TEXTS + random_texts(seed=1, count=60)]
    FIXTURE.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows) + "\n]\n")
    print(f"{len(rows)} texts, {FIXTURE.stat().st_size} bytes")


def compare(binary, folder, file):
    model, tokens = reference(folder)
    worker = Worker(binary, file)
    others = 0
    texts = SENTENCES + TEXTS + random_texts(seed=2, count=4000)
    for text in texts:
        ours, theirs = worker.post("/tokenize", content=text, add_special=True)["tokens"], tokens(text)
        if ours != theirs:
            others += 1
            print(f"other tokens of {text!r}: {ours} instead of {theirs}")
    print(f"{len(texts)} texts of {sum(len(text.encode()) for text in texts)} bytes: {others} have other tokens", flush=True)
    failures = int(1000 * others > RECLASSIFIED * len(texts))
    answer = worker.post("/v1/embeddings", model="m", input=SENTENCES)
    ours = numpy.array([row["embedding"] for row in answer["data"]])
    theirs = model.encode(SENTENCES, normalize_embeddings=True)
    cosines = (ours * theirs).sum(1)
    failures += int((cosines < COSINE).sum())
    print(f"{len(SENTENCES)} sentences: cosine {cosines.min():.7f} at least, {cosines.mean():.7f} in the mean")
    worker.stop()
    print(f"{failures} failures")
    return failures


if sys.argv[1] == "--write":
    freeze(Path(sys.argv[2]))
else:
    sys.exit(1 if compare(sys.argv[1], Path(sys.argv[2]), sys.argv[3]) else 0)

"""Writes llama.cpp's tokens of its own test texts for vocabularies that it ships without: vocabularies.py FOLDER

FOLDER has `ggml-vocab-NAME.gguf`, of which the one of nomic-bert-moe, XLM-RoBERTa's, has no texts beside it.
"""

import sys
from pathlib import Path

from cases import TEXTS, random_texts
from llama_cpp import Llama

SEPARATOR = "\n__ggml_vocab_test__\n"

folder = Path(sys.argv[1])
path = folder / "ggml-vocab-nomic-bert-moe.gguf"
texts = (folder / "ggml-vocab-bert-bge.gguf.inp").read_text().split(SEPARATOR) + TEXTS + random_texts(seed=3, count=500)
texts = [text for text in texts if text.strip() and "\0" not in text]
model = Llama(str(path), vocab_only=True, verbose=False)
rows = [model.tokenize(text.encode(), add_bos=False, special=False) for text in texts]

path.with_suffix(".gguf.inp").write_text(SEPARATOR.join(texts))
path.with_suffix(".gguf.out").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
print(f"{path.name}: {len(texts)} texts")

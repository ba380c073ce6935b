"""Makes a model file of BERT's weights as sentence-transformers keeps them: bert_gguf.py FOLDER FILE

Needs nothing but Python. The folder has config.json, vocab.txt, model.safetensors and 1_Pooling/config.json.
"""

import json
import struct
import sys
from pathlib import Path

from gguf_writer import F32, write

LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}


def gguf_name(name):
    stem, _, kind = name.rpartition(".")
    if stem.startswith("encoder.layer."):
        layer, part = stem.removeprefix("encoder.layer.").split(".", 1)
        return f"blk.{layer}.{LAYER[part]}.{kind}"
    # Positions' numbers and the head that was trained to tell what follows what are of no use here.
    return f"{EMBEDDINGS[stem]}.{kind}" if stem in EMBEDDINGS else None


def tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    found = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__" or not (target := gguf_name(name)):
            continue
        assert entry["dtype"] == "F32", f"{name} is of {entry['dtype']}"
        start, end = entry["data_offsets"]
        found[target] = entry["shape"], F32, data[8 + length + start : 8 + length + end]
    return found


def spelled(token):
    """As files spell tokens: what begins a word with a space before it, what continues one as it is."""
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        return token
    return token.removeprefix("##") if token.startswith("##") else "\u2581" + token


def main():
    folder, target = map(Path, sys.argv[1:])
    config = json.loads((folder / "config.json").read_text())
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    tokens = (folder / "vocab.txt").read_text().splitlines()
    special = {token: tokens.index(f"[{token}]") for token in ("CLS", "SEP", "UNK", "PAD", "MASK")}
    metadata = {
        "general.architecture": "bert",
        "general.name": folder.name,
        "general.file_type": 0,
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.block_count": config["num_hidden_layers"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": config["layer_norm_eps"],
        "bert.attention.causal": False,
        "bert.pooling_type": 1 if pooling["pooling_mode_mean_tokens"] else 2,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.tokens": [spelled(token) for token in tokens],
        "tokenizer.ggml.token_type": [3 if number in special.values() else 1 for number in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": special["CLS"],
        "tokenizer.ggml.seperator_token_id": special["SEP"],
        "tokenizer.ggml.unknown_token_id": special["UNK"],
        "tokenizer.ggml.padding_token_id": special["PAD"],
        "tokenizer.ggml.mask_token_id": special["MASK"],
    }
    partial = target.with_suffix(".partial")
    write(partial, metadata, tensors(folder / "model.safetensors"))
    partial.rename(target)


main()

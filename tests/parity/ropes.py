"""Writes what transformers makes of what `config.json` says of rotations into tests/fixtures/safetensors/ropes.json."""

import json
from pathlib import Path

import transformers as hf
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = Path(__file__).parent.parent / "fixtures" / "safetensors" / "ropes.json"
SHAPE = dict(hidden_size=32, num_attention_heads=4, head_dim=12, max_position_embeddings=128)
SHORT, LONG = [1.0, 1.1, 1.3, 1.4, 1.7, 2.0], [1.2, 2.5, 4.0, 6.0, 9.0, 11.5]
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": SHORT, "long_factor": LONG}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
CASES = {
    "nothing but a base": {"rope_theta": 1e6},
    "default": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "linear, as it was": {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_theta": 1e4, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "yarn": {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "yarn without what was trained": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
    "yarn, all told": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": True}},
    "yarn with scales": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 0.8}},
    "longrope": {"rope_parameters": LONGROPE | {"factor": 4.0, "original_max_position_embeddings": 32}},
    "longrope as Phi has it": {"original_max_position_embeddings": 32, "rope_theta": 1e4, "rope_scaling": {key: value for key, value in LONGROPE.items() if key != "rope_theta"}},
    "longrope with a magnitude": {"rope_parameters": LONGROPE | {"attention_factor": 1.25, "original_max_position_embeddings": 32}},
    "llama 3": {"rope_parameters": LLAMA3},
}


def frequencies(fields, length):
    config = hf.LlamaConfig(**SHAPE, **json.loads(json.dumps(fields)))
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        base = config.rope_parameters["rope_theta"]
        return [base ** -(2 * i / SHAPE["head_dim"]) for i in range(SHAPE["head_dim"] // 2)], 1.0
    found, magnitude = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    return found.double().tolist(), float(magnitude)


rows = []
for name, fields in CASES.items():
    (near, magnitude), (far, _) = frequencies(fields, 16), frequencies(fields, 100)
    rows.append({"name": name, "fields": fields, "near": near, "far": far, "magnitude": magnitude})
OUT.write_text(json.dumps(rows) + "\n")

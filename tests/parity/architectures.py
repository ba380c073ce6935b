"""Tiny models of every architecture, and what `transformers` computes with them in 32-bit floats.

    architectures.py            compares with the files in tests/fixtures/architectures
    architectures.py --write    writes them

A model is a GGUF file with random weights, which halves hold exactly. Beside it a JSON file has tokens and, of decoders,
the 64 most likely tokens after some of them; of models for embeddings, what the last layer gives for each token.
"""

import json
import os
import sys
from pathlib import Path

import numpy
import torch
import transformers as hf
from gguf_writer import F16, F32, write

FIXTURES = Path(__file__).parent.parent / "fixtures" / "architectures"
VOCABULARY = 96
WIDTH = 32
TOKENS = [(7 * i * i + 3 * i + 5) % VOCABULARY for i in range(40)]
TOP = 64
# How far another machine's sums may be from the frozen ones.
TOLERANCE = 2e-4

SHAPE = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, num_attention_heads=4, max_position_embeddings=128)
DECODER = SHAPE | dict(num_hidden_layers=2, num_key_value_heads=2, intermediate_size=48, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
ENCODER = SHAPE | dict(num_hidden_layers=2, intermediate_size=64, layer_norm_eps=1e-12, type_vocab_size=2)

# What a decoder's tensors are called in GGUF, by their names in transformers.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA = LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
BERT = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
NOMIC = LAYER | {"post_attention_layernorm": "attn_output_norm", "post_mlp_layernorm": "layer_output_norm"}
ENDS = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}


def llama(**more):
    return hf.LlamaForCausalLM, hf.LlamaConfig(**DECODER | more)


def qwen2(**more):
    return hf.Qwen2ForCausalLM, hf.Qwen2Config(**DECODER | more)


def qwen3(kind=hf.Qwen3ForCausalLM, **more):
    return kind, hf.Qwen3Config(**DECODER | dict(head_dim=12) | more)


def gemma3(**more):
    shape = DECODER | dict(num_hidden_layers=6, num_key_value_heads=1, head_dim=10, sliding_window=5, query_pre_attn_scalar=10)
    local = {"rope_type": "default", "rope_theta": 50.0}
    full = {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0}
    rope = {"sliding_attention": local, "full_attention": full}
    return hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**shape | dict(rope_parameters=rope, pad_token_id=0) | more)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 2.5, 4.0, 7.5]}
LONG = {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": 1.2}

# The name of the file, the architecture in it, the names of a layer's tensors, the model, and keys besides.
CASES = {
    "llama-2": ("llama", LAYER, llama(num_key_value_heads=4), {}),
    "llama-3": ("llama", LAYER, llama(rope_parameters=LLAMA3, tie_word_embeddings=True), {}),
    "llama-linear-biases": (
        "llama",
        LAYER,
        llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}, attention_bias=True, mlp_bias=True),
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama-yarn": (
        "llama",
        LAYER,
        llama(rope_parameters=YARN | {"attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0}),
        {"rope.scaling.yarn_attn_factor": 1.3, "rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 2.0},
    ),
    "mistral": ("llama", LAYER, (hf.MistralForCausalLM, hf.MistralConfig(**DECODER | dict(head_dim=12, sliding_window=6))), {}),
    "qwen2-yarn": ("qwen2", LAYER, qwen2(rope_parameters=YARN), {}),
    "qwen3": ("qwen3", LAYER, qwen3(tie_word_embeddings=True), {}),
    "gemma3": ("gemma3", GEMMA, gemma3(), {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
    "gemma3-scale-softcap": (
        "gemma3",
        GEMMA,
        gemma3(final_logit_softcapping=15.0, query_pre_attn_scalar=40),
        {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "attention.scale": 40**-0.5, "final_logit_softcapping": 15.0},
    ),
    "qwen3-embedding": ("qwen3", LAYER, qwen3(hf.Qwen3Model), {"pooling_type": 3}),
    "bert": ("bert", BERT, (hf.BertModel, hf.BertConfig(**ENCODER)), {"pooling_type": 1}),
    "nomic-bert": (
        "nomic-bert",
        NOMIC,
        (hf.NomicBertModel, hf.NomicBertConfig(**ENCODER | dict(head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 1000.0}))),
        {"pooling_type": 1},
    ),
    # The tokens reach beyond what was trained at first, or not.
    "llama-longrope-far": ("llama", LAYER, llama(rope_parameters=LONGROPE | {"attention_factor": 1.2, "original_max_position_embeddings": 32}), LONG),
    "llama-longrope-near": ("llama", LAYER, llama(rope_parameters=LONGROPE | {"attention_factor": 1.2, "original_max_position_embeddings": 64}), LONG),
}


def randomise(model, seed):
    """Weights of a size that keeps activations near one and makes answers differ, all of which halves hold."""
    random = numpy.random.RandomState(seed)
    for name, parameter in sorted(model.named_parameters()):
        values = random.standard_normal(parameter.shape)
        if parameter.dim() == 2:
            # Of embeddings' rows, too: what is looked up is as large as what is computed.
            values *= 1.2 if "embed" in name else 1.6 / parameter.shape[1] ** 0.5
        else:
            values = values * 0.3 + (0.0 if name.endswith("bias") else 1.0)
        parameter.data = torch.from_numpy(values.astype(numpy.float16).astype(numpy.float32))


def adjacent(array, heads):
    """Rows of heads whose rotated halves GGUF interleaves for Llama."""
    rows = array.reshape(heads, 2, -1, *array.shape[1:])
    return numpy.ascontiguousarray(rows.swapaxes(1, 2)).reshape(array.shape)


def gguf_name(name, layer_names):
    stem, _, kind = name.removeprefix("model.").removeprefix("encoder.").rpartition(".")
    if stem.startswith(("layers.", "layer.")):
        _, layer, part = stem.split(".", 2)
        return f"blk.{layer}.{layer_names[part]}.{kind}"
    return f"{ENDS[stem]}.{kind}" if stem in ENDS else None


def tensors(model, architecture, layer_names):
    config, found = model.config, {}
    for name, parameter in sorted(model.named_parameters()):
        target, array = gguf_name(name, layer_names), parameter.detach().numpy()
        if target is None:
            continue
        if architecture == "llama" and ".attn_q." in target:
            array = adjacent(array, config.num_attention_heads)
        if architecture == "llama" and ".attn_k." in target:
            array = adjacent(array, config.num_key_value_heads)
        if architecture == "gemma3" and "norm" in target:
            array = array + 1
        found[target] = array
    rope = config.rope_parameters if architecture == "llama" else {}
    if rope.get("rope_type") == "llama3":
        plain = rope["rope_theta"] ** -(numpy.arange(0, config.head_dim, 2) / config.head_dim)
        found["rope_freqs.weight"] = plain / model.model.rotary_emb.inv_freq.numpy()
    if rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            found[f"rope_factors_{length}.weight"] = numpy.array(rope[f"{length}_factor"])
    return {name: stored(array) for name, array in found.items()}


def stored(array):
    """Matrices in halves, and vectors as they are, as converters have it."""
    kind, number = (F16, numpy.float16) if array.ndim == 2 else (F32, numpy.float32)
    return array.shape, kind, array.astype(number).tobytes()


def metadata(config, architecture, keys):
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
    }
    if architecture.endswith("bert"):
        found["attention.layer_norm_epsilon"] = config.layer_norm_eps
        found["attention.causal"] = False
    else:
        found["attention.head_count_kv"] = config.num_key_value_heads
        found["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    if head := getattr(config, "head_dim", None):
        found["attention.key_length"] = found["attention.value_length"] = head
    if window := getattr(config, "sliding_window", None):
        found["attention.sliding_window"] = window
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:
        found["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if rope:
        found["rope.freq_base"] = rope["rope_theta"]
    if rope.get("rope_type") == "yarn":
        found["rope.scaling.type"] = "yarn"
        found["rope.scaling.factor"] = rope["factor"]
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if rope.get("rope_type") == "longrope":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    found |= keys
    return {"general.architecture": architecture} | {f"{architecture}.{key}": item for key, item in found.items()}


def expectation(model):
    with torch.no_grad():
        output = model(torch.tensor([TOKENS]))
    if not hasattr(output, "logits"):
        return {"tokens": TOKENS, "hidden": output.last_hidden_state[0].tolist()}
    logprobs = output.logits[0].double().log_softmax(-1)
    # The first, the last, and some between.
    positions = [*range(0, len(TOKENS), 4), len(TOKENS) - 1]
    best = [logprobs[position].topk(TOP) for position in positions]
    steps = [[position, top.indices.tolist(), top.values.tolist()] for position, top in zip(positions, best)]
    return {"tokens": TOKENS, "steps": steps}


def text(expected):
    """With digits for the tolerance, and no more."""
    rounded = json.loads(json.dumps(expected), parse_float=lambda digits: round(float(digits), 5))
    return json.dumps(rounded, separators=(",", ":")) + "\n"


def difference(found, frozen):
    """The greatest between two expectations' numbers; infinite where anything else differs."""
    if isinstance(found, float) or isinstance(frozen, float):
        return abs(found - frozen)
    if isinstance(found, list) and isinstance(frozen, list) and len(found) == len(frozen):
        return max(map(difference, found, frozen), default=0)
    if isinstance(found, dict) and found.keys() == frozen.keys():
        return max(difference(found[key], frozen[key]) for key in found)
    return 0 if found == frozen else float("inf")


def main():
    writes = "--write" in sys.argv[1:]
    failures = 0
    for seed, (name, (architecture, layer_names, (kind, config), keys)) in enumerate(CASES.items()):
        config._attn_implementation = "eager"
        model = kind(config).eval()
        randomise(model, seed)
        expected = text(expectation(model))
        gguf, beside = FIXTURES / f"{name}.gguf", FIXTURES / f"{name}.json"
        target = gguf if writes else gguf.with_suffix(".new")
        write(target, metadata(config, architecture, keys), tensors(model, architecture, layer_names))
        if writes:
            beside.write_text(expected)
            print(f"{name}: {gguf.stat().st_size} + {beside.stat().st_size} bytes")
            continue
        same = target.read_bytes() == gguf.read_bytes()
        os.remove(target)
        far = difference(json.loads(expected), json.loads(beside.read_text()))
        failures += not same or far > TOLERANCE
        print(f"{name}: the file is {'the same' if same else 'ANOTHER'}, expectations differ by {far:.1e}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

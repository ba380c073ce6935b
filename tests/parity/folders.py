"""Tiny models as Hugging Face stores them, and what `transformers` computes with them in 32-bit floats, into
tests/fixtures/safetensors: one folder each, with `expected.json` beside the model's own files.

Weights in 8 and 4 bits are stored in the layouts of DeepSeek, ModelOpt and compressed-tensors, and put into the model as the
numbers that they stand for."""

import json
import shutil
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FIXTURES = Path(__file__).parent.parent / "fixtures" / "safetensors"
LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = ["the cat sat on the mat and that was that", "she sells sea shells, they're 1234 and 56", "über naïve  spaces\n\nlines"] * 20
TEXTS = ["", "the cat", " the  mat\n\nthat's 12345", "Über naïve café", "日本語 ✓ 🦀", "<|end|>the<|end|> mat", "a\tb  c ", "SHE'LL they'RE", "x" * 40, "é", " ", "  \n  "]


def shape(**more):
    base = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, rms_norm_eps=1e-5, max_position_embeddings=128, bos_token_id=1, eos_token_id=2)
    return base | more


def randomise(model, seed, dtype):
    torch.manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        values = torch.randn(parameter.shape)
        if parameter.dim() == 2:
            values *= 1.2 if "embed" in name else 1.6 / parameter.shape[1] ** 0.5
        else:
            values = values * 0.3 + (0.0 if name.endswith("bias") or "gemma" in type(model).__name__.lower() else 1.0)
        parameter.data = values.to(dtype).float()


def is_linear(name):
    return ".layers." in name and name.endswith("proj.weight")


def eight(weight, block):
    """Floats of 8 bits, and the scale of each block."""
    rows, cols = weight.shape
    high, wide = (block[0] or rows), (block[1] or cols)
    scales = torch.zeros(-(-rows // high), -(-cols // wide))
    stored = torch.zeros(rows, cols, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = weight[i * high : (i + 1) * high, j * wide : (j + 1) * wide]
            scales[i, j] = part.abs().max() / 448
            stored[i * high : (i + 1) * high, j * wide : (j + 1) * wide] = (part / scales[i, j]).to(torch.float8_e4m3fn)
    spread = scales.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :cols]
    return stored, scales, stored.float() * spread


def four(weight):
    """Floats of 4 bits two in a byte, scales of 8 bits for 16 each, the scale of the whole."""
    rows, cols = weight.shape
    whole = weight.abs().max() / (448 * 6)
    groups = weight.reshape(rows, cols // 16, 16)
    scales = (groups.abs().amax(-1) / 6 / whole).to(torch.float8_e4m3fn)
    each = scales.float().unsqueeze(-1) * whole
    index = ((groups / each).abs().unsqueeze(-1) - LEVELS).abs().argmin(-1)
    numbers = (LEVELS[index] * groups.sign() * each).reshape(rows, cols)
    codes = (index + 8 * (groups < 0)).reshape(rows, cols).to(torch.uint8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scales, whole, numbers


def stored(model, how, dtype):
    """The tensors of the files; the model gets the numbers that they stand for."""
    tensors = {}
    for name, parameter in model.named_parameters():
        stem = name.removesuffix(".weight")
        if how in ("f32", "f16", "bf16") or not is_linear(name):
            tensors[name] = parameter.data.to(dtype).contiguous()
        elif how.startswith("fp8"):
            block = {"fp8-tensor": (0, 0), "fp8-row": (1, 0), "fp8-block": (16, 16)}[how]
            tensors[name], scales, parameter.data = eight(parameter.data, block)
            if how == "fp8-tensor":
                tensors[f"{stem}.weight_scale"] = scales.reshape(())
                tensors[f"{stem}.input_scale"] = torch.tensor(1.0)
            elif how == "fp8-row":
                tensors[f"{stem}.weight_scale"] = scales.to(torch.bfloat16).float().reshape(-1, 1)
                parameter.data = tensors[name].float() * tensors[f"{stem}.weight_scale"]
            else:
                tensors[f"{stem}.weight_scale_inv"] = scales
        else:
            packed, scales, whole, parameter.data = four(parameter.data)
            tensors[f"{stem}.weight_scale"] = scales
            if how == "nvfp4-modelopt":
                tensors[name], tensors[f"{stem}.weight_scale_2"] = packed, whole
                tensors[f"{stem}.input_scale"] = torch.tensor(1.0)
            else:
                tensors[f"{stem}.weight_packed"], tensors[f"{stem}.weight_global_scale"] = packed, (1 / whole).reshape(1)
    return tensors


def byte_level():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    return tokenizer, {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}


def sentence_pieces():
    """BPE over characters, with bytes for what has no token, as Llama 2 and Gemma have it."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, limit_alphabet=40, show_progress=False)
    tokenizer.train_from_iterator([text.replace("\n", " ").replace("é", "e") for text in CORPUS], trainer)
    described = json.loads(tokenizer.to_str())
    # Bytes are no added tokens, and the end of a turn is one.
    described["added_tokens"] = [token for token in described["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer, {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "add_bos_token": True}


def gemma3():
    local, full = {"rope_type": "default", "rope_theta": 50.0}, {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0}
    more = dict(num_hidden_layers=6, num_key_value_heads=1, head_dim=10, sliding_window=5, query_pre_attn_scalar=10, pad_token_id=0)
    return hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**shape(**more, vocab_size=340, bos_token_id=2, eos_token_id=1, rope_parameters={"sliding_attention": local, "full_attention": full}))


WIDE = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1)
# The model, how it is stored, in how many files, its tokenizer.
CASES = {
    "llama-sharded": ((hf.LlamaForCausalLM, hf.LlamaConfig(**shape(vocab_size=310, rope_parameters=LLAMA3, attention_bias=True))), "bf16", 3, byte_level),
    "gemma3": (gemma3(), "bf16", 1, sentence_pieces),
    "mistral-fp8-tensor": ((hf.MistralForCausalLM, hf.MistralConfig(**shape(head_dim=12, sliding_window=6))), "fp8-tensor", 1, None),
    "llama-fp8-row": ((hf.LlamaForCausalLM, hf.LlamaConfig(**shape())), "fp8-row", 1, None),
    "qwen2-fp8-block": ((hf.Qwen2ForCausalLM, hf.Qwen2Config(**shape())), "fp8-block", 1, None),
    "qwen3-tied": ((hf.Qwen3ForCausalLM, hf.Qwen3Config(**shape(head_dim=12, tie_word_embeddings=True))), "f16", 1, None),
    "llama-nvfp4-modelopt": ((hf.LlamaForCausalLM, hf.LlamaConfig(**shape(**WIDE))), "nvfp4-modelopt", 1, None),
    "qwen3-nvfp4-compressed": ((hf.Qwen3ForCausalLM, hf.Qwen3Config(**shape(**WIDE, head_dim=16))), "nvfp4-compressed", 1, None),
}


def write(name, seed, case):
    (kind, config), how, files, make_tokenizer = case
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dtype = {"f32": torch.float32, "f16": torch.float16}.get(how, torch.bfloat16)
    model = kind(config).eval()
    randomise(model, seed, dtype)
    tensors = stored(model, how, dtype)
    names = sorted(tensors)
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        index = {"metadata": {}, "weight_map": {}}
        for part in range(files):
            file = f"model-{part + 1:05}-of-{files:05}.safetensors"
            of_part = {name: tensors[name] for name in names[part::files]}
            save_file(of_part, folder / file)
            index["weight_map"] |= {name: file for name in of_part}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    # As published, with what the model is called.
    described = json.loads(config.to_json_string(use_diff=False))
    keep = set(shape()) | {"model_type", "head_dim", "rope_parameters", "sliding_window", "layer_types", "tie_word_embeddings", "query_pre_attn_scalar", "use_sliding_window"}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in described.items() if key in keep}))
    expected = {}
    tokens = [(7 * i * i + 3 * i + 5) % config.vocab_size for i in range(24)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    expected["tokens"] = tokens
    expected["logits"] = {str(row): [round(float(x), 4) for x in logits[row]] for row in (5, 23)}
    if make_tokenizer:
        tokenizer, settings = make_tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        expected["texts"] = [[text, tokenizer.encode(text, add_special_tokens=False).ids] for text in TEXTS]
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False))


if __name__ == "__main__":
    for seed, (name, case) in enumerate(CASES.items()):
        write(name, seed, case)

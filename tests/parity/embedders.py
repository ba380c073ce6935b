"""Tiny models for embeddings as sentence-transformers stores them, and the vectors that it gives texts, into
tests/fixtures/safetensors: one folder each, with `expected.json` beside the model's own files."""

import json
import shutil
import struct

import torch
import transformers as hf
from folders import CORPUS, FIXTURES, TEXTS, byte_level, randomise, shape
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

LIMIT = 24
ENCODER = dict(vocab_size=200, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48, max_position_embeddings=40)
# What Nomic's own files call figures and tensors.
NOMIC_FIGURES = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer", "intermediate_size": "n_inner", "layer_norm_eps": "layer_norm_epsilon"}
NOMIC_TENSORS = {
    "embeddings.LayerNorm": "emb_ln",
    "layers.": "encoder.layers.",
    "self_attn.o_proj": "attn.out_proj",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
    "mlp.up_proj": "mlp.fc11",
    "mlp.gate_proj": "mlp.fc12",
    "mlp.down_proj": "mlp.fc2",
}


def word_pieces():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=190, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    return tokenizer, dict(zip(names, ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"])) | {"tokenizer_class": "BertTokenizer"}


def byte_level_with_an_end():
    """As Qwen's embedders have it: what is put behind texts is not what ends an answer."""
    tokenizer, _ = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|pad|>", special=True)])
    end = tokenizer.token_to_id("<|pad|>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <|pad|>", special_tokens=[("<|pad|>", end)])
    return tokenizer, {"eos_token": "<|end|>", "pad_token": "<|pad|>", "tokenizer_class": "PreTrainedTokenizerFast"}


# What SentencePiece's table would have, and some of what it has.
REPLACED = {"\t": " ", "\n": " ", "\u00a0": " ", "\ufb01": "fi", "\uff34": "T", "e\u0301": "\u00e9", "\u200b": "", "\u00bd": "1\u20442"}


def charsmap(replaced):
    """A double array of these, with a stretch of 256 units for the children of each node."""
    values, replacements = {}, b""
    for text, other in replaced.items():
        values[text.encode()] = len(replacements)
        replacements += other.encode() + b"\0"
    nodes = sorted({key[:length] for key in values for length in range(len(key) + 1)})
    stretches = {node: 256 * (at + 1) for at, node in enumerate(nodes)}
    units = [0] * (256 * (len(nodes) + 1))
    for node in nodes:
        at = (stretches[node[:-1]] ^ node[-1]) if node else 0
        units[at] = (at ^ stretches[node]) << 10 | (node in values) << 8 | (node[-1] if node else 0)
        if node in values:
            units[stretches[node]] = 1 << 31 | values[node]
    array = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(array)) + array + replacements


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(charsmap(REPLACED))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = ("bos_token", "eos_token", "cls_token", "sep_token", "unk_token", "pad_token")
    return tokenizer, dict(zip(names, ["<s>", "</s>", "<s>", "</s>", "<unk>", "<pad>"])) | {"tokenizer_class": "PreTrainedTokenizerFast"}


def nomic(tensors, config):
    """As Nomic's own code has them."""
    named = {}
    for name, tensor in tensors.items():
        for ours, theirs in NOMIC_TENSORS.items():
            name = name.replace(ours, theirs)
        named[name] = tensor
    for layer in range(2):
        parts = [named.pop(f"encoder.layers.{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
        named[f"encoder.layers.{layer}.attn.Wqkv.weight"] = torch.cat(parts)
    figures = {NOMIC_FIGURES.get(key, key): value for key, value in config.items()}
    fixed = {"n_positions": 160, "max_trained_positions": 40, "rotary_emb_base": 1000, "activation_function": "swiglu", "prenorm": False, "qkv_proj_bias": False, "rotary_emb_fraction": 1.0, "causal": False}
    dropped = ("max_position_embeddings", "rope_parameters", "hidden_act")
    return named, {key: value for key, value in figures.items() if key not in dropped} | fixed


# The model, how its numbers are stored, its tokenizer, how sentence-transformers pools, and what is stored otherwise.
CASES = {
    "bert": (hf.BertModel, hf.BertConfig(**ENCODER), torch.float32, word_pieces, {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, None),
    "nomic-bert": (hf.NomicBertModel, hf.NomicBertConfig(**ENCODER), torch.float16, word_pieces, {"pooling_mode": "cls", "include_prompt": True}, nomic),
    "xlm-roberta": (hf.XLMRobertaModel, hf.XLMRobertaConfig(**ENCODER | dict(type_vocab_size=1)), torch.float32, unigram, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, None),
    "qwen3-embedding": (hf.Qwen3Model, hf.Qwen3Config(**shape(head_dim=12, vocab_size=310)), torch.bfloat16, byte_level_with_an_end, {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, None),
}


def write(name, seed, case):
    kind, config, dtype, make_tokenizer, pooling, otherwise = case
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1_Pooling").mkdir(parents=True)
    model = kind(config).eval()
    randomise(model, seed, dtype)
    tensors = {name: parameter.data.to(dtype).contiguous() for name, parameter in model.named_parameters()}
    described = {key: value for key, value in json.loads(config.to_json_string(use_diff=False)).items() if key in KEPT}
    tokenizer, settings = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)

    def put(file, content):
        (folder / file).write_text(json.dumps(content, ensure_ascii=False))

    put("tokenizer_config.json", settings)
    put("1_Pooling/config.json", {"word_embedding_dimension": config.hidden_size} | pooling)
    put("modules.json", [{"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"} for at, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])])
    put("sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})
    put("config.json", described)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # In transformers' names, which it reads whatever its version.
    embedder = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    texts = [text for text in TEXTS if text] + ["\uff34he\u00a0\u200bcat  \ufb01ts caf\u0065\u0301 \u00bd", "she sells sea shells and that was that " * 3]
    rows = [[text, tokenizer.encode(text).ids, [round(float(x), 6) for x in embedder.encode(text, normalize_embeddings=True)]] for text in texts]
    if otherwise:
        tensors, described = otherwise(tensors, described)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        put("config.json", described)
    put("expected.json", {"limit": LIMIT, "rows": rows})


KEPT = set(shape()) | set(ENCODER) | {"model_type", "head_dim", "layer_norm_eps", "hidden_act", "type_vocab_size", "pad_token_id", "position_embedding_type", "rope_parameters", "use_sliding_window"}

if __name__ == "__main__":
    for seed, (name, case) in enumerate(CASES.items()):
        write(name, seed, case)
